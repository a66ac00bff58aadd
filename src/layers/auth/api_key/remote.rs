//! Keys that stand in Redis, one record each: `SET prefix:digest record` adds one and `DEL`
//! revokes it.
//!
//! What Redis said is remembered for a while, so that a key in use is asked for every few
//! seconds however often it is shown. A flood of keys that there are not is held up three
//! times: each is asked for once in two seconds, once at a time, and no more than so many
//! at once.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use moka::sync::Cache;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::entry::Entry;
use super::{ApiKey, ApiKeySettings, RedisKeySettings};
use crate::layers::KeyDigest;
use crate::layers::auth::flights::Flights;
use crate::layers::auth::shares::Shares;
use crate::redis::{Redis, RedisError, Value, cmd};

/// So many keys are remembered, of those that there are and of those that there are not. An
/// entry takes about 1 KiB, and of those that there are not about 100 bytes.
const MOST_REMEMBERED: u64 = 10_000;
/// For how long a key that there is not is not looked up again.
const UNKNOWN_FOR: Duration = Duration::from_secs(2);
/// So many look-ups are under way at once: of keys that were found before, and as many of
/// others.
const MOST_AT_ONCE: usize = 256;
/// So many of those others are of one client's network at the most.
const MOST_OF_ONE: usize = 32;
/// For how long a key is not asked for again, once Redis has not answered.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest record.
const LONGEST: usize = 16 * 1024;
/// How often the log is told of what is wrong.
const REPEAT: Duration = Duration::from_secs(60);

/// What Redis says of a key.
#[derive(Clone, Debug)]
pub(super) enum Told {
    Known(Arc<Entry>),
    Unknown,
    /// Nothing, and nothing is remembered either.
    Unavailable,
}

/// Looks keys up in Redis.
#[derive(Debug)]
pub(super) struct Remote {
    redis: Redis,
    keys: RedisKeySettings,
    /// What the entries are made by.
    settings: ApiKeySettings,
    known: Memory<Known>,
    unknown: Memory<()>,
    /// Look-ups of keys of which nothing is known: a flood of them leaves the other alone.
    searches: Flights<KeyDigest, Told>,
    shares: Shares,
    /// Look-ups of keys that were found before.
    renewals: Flights<KeyDigest, Told>,
    /// When the log was last told of what is wrong.
    said: Mutex<Option<Instant>>,
}

type Memory<V> = Cache<KeyDigest, V, RandomState>;

#[derive(Clone, Debug)]
struct Known {
    entry: Arc<Entry>,
    /// It is not asked for again before.
    fresh_until: Instant,
    /// It lets in until then at the most, if Redis does not answer.
    stale_at: Instant,
}

impl Remote {
    pub(super) fn new(keys: &RedisKeySettings, settings: &ApiKeySettings, redis: &Redis) -> Self {
        let settings = told(settings);
        Self {
            redis: redis.clone(),
            known: memory(keys.stale.max(keys.cache)),
            unknown: memory(UNKNOWN_FOR),
            keys: keys.clone(),
            settings,
            searches: Flights::up_to(MOST_AT_ONCE),
            shares: Shares::up_to(MOST_OF_ONE),
            renewals: Flights::up_to(MOST_AT_ONCE),
            said: Mutex::default(),
        }
    }

    /// Whether this is what it was told.
    pub(super) fn is_told(&self, keys: &RedisKeySettings, settings: &ApiKeySettings) -> bool {
        self.keys == *keys && self.settings == told(settings)
    }

    /// What is known without asking.
    pub(super) fn remembered(&self, digest: &KeyDigest) -> Option<Told> {
        if let Some(known) = self.known.get(digest) {
            return (Instant::now() < known.fresh_until).then_some(Told::Known(known.entry));
        }
        self.unknown.get(digest).map(|()| Told::Unknown)
    }

    /// Asks Redis, at once with whoever asks for the same.
    pub(super) async fn ask(self: Arc<Self>, digest: KeyDigest, client: Option<IpAddr>) -> Told {
        let remote = self.clone();
        if self.still_known(&digest).is_some() {
            let begin = || Some(async move { remote.look_up(digest).await });
            let told = self.renewals.fetch(digest, begin).await;
            return told.unwrap_or_else(|| self.goes_on(digest));
        }
        let begin = || {
            let share = self.shares.take(client)?;
            Some(async move {
                let _share = share;
                remote.look_up(digest).await
            })
        };
        self.searches.fetch(digest, begin).await.unwrap_or(Told::Unavailable)
    }

    async fn look_up(&self, digest: KeyDigest) -> Told {
        let name = format!("{}:{}", self.keys.prefix, digest.hex());
        match self.redis.ask_about(name.as_bytes(), cmd("GET").arg(&name)).await {
            Ok(Value::Nil) => self.is_unknown(digest),
            Ok(Value::BulkString(record)) if record.len() <= LONGEST => {
                match ApiKey::from_record(digest, &record) {
                    Ok(key) => self.is_known(digest, &key),
                    Err(why) => self.is_unreadable(digest, &name, &why),
                }
            }
            Ok(_) => self.is_unreadable(digest, &name, "it is no record of a key"),
            Err(error) => self.has_no_answer(digest, &error),
        }
    }

    fn is_known(&self, digest: KeyDigest, key: &ApiKey) -> Told {
        let entry = Entry::of(key, &self.settings);
        let entry = Arc::new(match self.known.get(&digest) {
            Some(before) => entry.after(&before.entry),
            None => entry,
        });
        let now = Instant::now();
        let (fresh_until, stale_at) = (now + self.keys.cache, now + self.keys.stale);
        self.known.insert(digest, Known { entry: entry.clone(), fresh_until, stale_at });
        self.unknown.invalidate(&digest);
        Told::Known(entry)
    }

    fn is_unknown(&self, digest: KeyDigest) -> Told {
        self.known.invalidate(&digest);
        self.unknown.insert(digest, ());
        Told::Unknown
    }

    fn is_unreadable(&self, digest: KeyDigest, name: &str, why: &str) -> Told {
        self.say(|| {
            tracing::warn!(key = name, why, "a key in Redis cannot be read, and lets nobody in");
        });
        self.is_unknown(digest)
    }

    fn has_no_answer(&self, digest: KeyDigest, error: &RedisError) -> Told {
        self.say(|| tracing::warn!(%error, "keys cannot be looked up in Redis"));
        self.goes_on(digest)
    }

    /// What is known goes on for a while; of what is not, nothing can be said.
    fn goes_on(&self, digest: KeyDigest) -> Told {
        let Some(mut known) = self.still_known(&digest) else { return Told::Unavailable };
        known.fresh_until = (Instant::now() + PAUSE).min(known.stale_at);
        self.known.insert(digest, known.clone());
        Told::Known(known.entry)
    }

    fn still_known(&self, digest: &KeyDigest) -> Option<Known> {
        self.known.get(digest).filter(|known| Instant::now() < known.stale_at)
    }

    /// Says it unless something was said a moment ago.
    fn say(&self, it: impl FnOnce()) {
        let (now, mut said) = (Instant::now(), self.said.lock());
        if said.is_none_or(|at| now >= at + REPEAT) {
            *said = Some(now);
            drop(said);
            it();
        }
    }
}

/// The keys of the configuration and of a file are none of this one's affair.
fn told(settings: &ApiKeySettings) -> ApiKeySettings {
    ApiKeySettings { keys: Arc::default(), file: None, ..settings.clone() }
}

fn memory<V: Clone + Send + Sync + 'static>(ttl: Duration) -> Memory<V> {
    let memory = Cache::builder().max_capacity(MOST_REMEMBERED).time_to_live(ttl);
    memory.build_with_hasher(RandomState::default())
}

#[cfg(test)]
mod tests {
    use super::super::given::Place;
    use super::*;
    use crate::layers::auth::authenticate::Verdict;
    use crate::redis::RedisSettings;

    fn remote() -> Arc<Remote> {
        let settings = ApiKeySettings::new([]);
        // Nobody connects it: Redis is away.
        let redis =
            Redis::new(&RedisSettings::new("redis://127.0.0.1:1".parse().unwrap())).unwrap();
        Arc::new(Remote::new(&RedisKeySettings::new("keys"), &settings, &redis))
    }

    fn is_known(told: &Told) -> bool {
        matches!(told, Told::Known(entry) if matches!(entry.verdict(Place::Field), Verdict::Granted(_)))
    }

    #[tokio::test(start_paused = true)]
    async fn while_redis_is_away_what_is_known_goes_on_for_a_while_and_nothing_else_is_told() {
        let remote = remote();
        let (known, unknown) = (KeyDigest::of(b"known"), KeyDigest::of(b"unknown"));
        let _told = remote.is_known(known, &ApiKey::new("ci", known));
        assert!(remote.remembered(&unknown).is_none());
        assert!(matches!(remote.clone().ask(unknown, None).await, Told::Unavailable));
        assert!(is_known(&remote.remembered(&known).unwrap()));
        tokio::time::advance(Duration::from_secs(11)).await;
        assert!(remote.remembered(&known).is_none());
        assert!(is_known(&remote.clone().ask(known, None).await));
        // For a second it is not asked again.
        assert!(is_known(&remote.remembered(&known).unwrap()));
        tokio::time::advance(Duration::from_secs(290)).await;
        assert!(matches!(remote.clone().ask(known, None).await, Told::Unavailable));
    }

    #[tokio::test]
    async fn a_key_that_is_gone_is_forgotten_and_one_that_is_not_there_is_asked_for_once() {
        let remote = remote();
        let digest = KeyDigest::of(b"known");
        let _told = remote.is_known(digest, &ApiKey::new("ci", digest));
        let _told = remote.is_unknown(digest);
        assert!(matches!(remote.remembered(&digest), Some(Told::Unknown)));
        let _told = remote.is_known(digest, &ApiKey::new("ci", digest));
        assert!(is_known(&remote.remembered(&digest).unwrap()));
        assert!(matches!(remote.is_unreadable(digest, "keys:x", "why"), Told::Unknown));
    }

    #[tokio::test]
    async fn that_a_key_ends_soon_is_said_once_however_often_it_is_looked_up() {
        let remote = remote();
        let digest = KeyDigest::of(b"ending");
        let mut key = ApiKey::new("ci", digest);
        key.expires = Some(std::time::SystemTime::now() + Duration::from_secs(3600));
        let told = remote.is_known(digest, &key);
        let Told::Known(first) = &told else { panic!("{told:?}") };
        assert_eq!(first.told(), 0);
        assert!(is_known(&told));
        let said = first.told();
        assert_ne!(said, 0);
        let Told::Known(next) = remote.is_known(digest, &key) else { panic!() };
        assert_eq!(next.told(), said);
    }

    #[tokio::test]
    async fn what_is_remembered_goes_on_where_other_keys_change() {
        let remote = remote();
        let (keys, told) = (remote.keys.clone(), ApiKeySettings::new([]));
        let mut other = ApiKeySettings::new([ApiKey::new("a", KeyDigest::of(b"a"))]);
        other.file = Some("keys.toml".into());
        assert!(remote.is_told(&keys, &told) && remote.is_told(&keys, &other));
        assert!(!remote.is_told(&RedisKeySettings::new("others"), &told));
        other.bearer = true;
        assert!(!remote.is_told(&keys, &other), "what the origin sees would be another");
    }

    /// Has `count` look-ups under way that come to no end.
    async fn hang(flights: &Flights<KeyDigest, Told>, count: usize) {
        for number in 0..count {
            let digest = KeyDigest::of(format!("hung-{number}").as_bytes());
            let hung = flights.fetch(digest, || Some(std::future::pending()));
            assert!(tokio::time::timeout(Duration::ZERO, hung).await.is_err());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_look_ups_leaves_known_keys_alone() {
        let remote = remote();
        let (known, unknown) = (KeyDigest::of(b"known"), KeyDigest::of(b"unknown"));
        let _told = remote.is_known(known, &ApiKey::new("ci", known));
        tokio::time::advance(Duration::from_secs(11)).await;
        hang(&remote.searches, MOST_AT_ONCE).await;
        assert!(matches!(remote.clone().ask(unknown, None).await, Told::Unavailable));
        assert!(is_known(&remote.clone().ask(known, None).await));
        // Nor is one shut out when as many others that are known are asked for.
        tokio::time::advance(Duration::from_secs(11)).await;
        hang(&remote.renewals, MOST_AT_ONCE).await;
        assert!(is_known(&remote.clone().ask(known, None).await));
        assert!(is_known(&remote.remembered(&known).unwrap()));
        tokio::time::advance(Duration::from_secs(290)).await;
        assert!(matches!(remote.clone().ask(known, None).await, Told::Unavailable));
    }

    #[tokio::test]
    async fn one_client_has_a_share_of_the_look_ups() {
        let remote = remote();
        let (flooding, other): (IpAddr, IpAddr) =
            ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let shares: Vec<_> =
            (0..MOST_OF_ONE).map(|_| remote.shares.take(Some(flooding)).unwrap()).collect();
        // The log is told of a look-up that fails, as they all do here.
        for (client, is_asked) in [(flooding, false), (other, true)] {
            let told = remote.clone().ask(KeyDigest::of(b"unknown"), Some(client)).await;
            assert!(matches!(told, Told::Unavailable));
            assert_eq!(remote.said.lock().is_some(), is_asked, "{client}");
        }
        *remote.said.lock() = None;
        drop(shares);
        let _told = remote.clone().ask(KeyDigest::of(b"unknown"), Some(flooding)).await;
        assert!(remote.said.lock().is_some());
    }
}
