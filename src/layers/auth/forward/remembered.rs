//! Decisions that hold for more than one request.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use foldhash::fast::RandomState;
use http::HeaderMap;
use http::header::{self, HeaderName, HeaderValue};
use moka::sync::Cache;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::decision::Decision;
use super::question::Described;
use super::settings::{DecisionCacheSettings, KeyPart, ToldFields};
use crate::layers::auth::cookies::pairs;
use crate::layers::twins::are_twins;

/// What requests are told apart by: a digest under a key of this process, so that nobody
/// can choose requests that are taken for others, and no credentials are kept.
pub(super) type Key = [u8; 32];

/// What was decided, for as long as it holds, and what is being asked.
#[derive(Debug)]
pub(super) struct Remembered {
    settings: DecisionCacheSettings,
    /// Credentials that the service is told and may decide by, whether or not the settings
    /// name them.
    credentials: Vec<KeyPart>,
    secret: hmac::Key,
    decisions: Cache<Key, Held>,
    asked: Mutex<HashMap<Key, Answering, RandomState>>,
    /// So many are asked about at once, or wait for that.
    most_asked: usize,
}

#[derive(Clone, Debug)]
struct Held {
    decision: Arc<Decision>,
    until: Instant,
}

/// An answer that is waited for; `None` until it is there.
type Answering = watch::Receiver<Option<Shared>>;

/// The answer of one who has asked to all who wait for it.
#[derive(Clone, Debug)]
pub(super) enum Shared {
    /// It is theirs as well.
    All(Arc<Decision>),
    /// It was for the one who asked: each has to ask for itself.
    Own,
}

/// Whether somebody asks already.
pub(super) enum Turn {
    /// Nobody does: it is this one's turn to ask.
    Asks(Asking),
    /// Somebody does; this is where the answer comes.
    Waits(Answering),
    /// Too much is being asked already.
    TooMany,
}

/// The turn to ask, for all who wait. Whoever drops it without an answer has them ask
/// for themselves.
#[derive(Debug)]
pub(super) struct Asking {
    key: Key,
    answer: watch::Sender<Option<Shared>>,
    remembered: Arc<Remembered>,
}

impl Remembered {
    /// Remembers as these settings say what a service decides that is told of these fields,
    /// and asks about up to `most_asked` at once; `None` if the system has no random numbers.
    pub(super) fn new(
        settings: &DecisionCacheSettings,
        told: &ToldFields,
        most_asked: usize,
    ) -> Option<Self> {
        let random = aws_lc_rs::rand::SystemRandom::new();
        let weigh = |_: &Key, held: &Held| u32::try_from(held.decision.size()).unwrap_or(u32::MAX);
        Some(Self {
            secret: hmac::Key::generate(hmac::HMAC_SHA256, &random).ok()?,
            decisions: Cache::builder()
                .max_capacity(settings.memory)
                .weigher(weigh)
                .time_to_live(settings.ttl.max(settings.negative_ttl))
                .build(),
            asked: Mutex::default(),
            most_asked,
            credentials: credentials(settings, told),
            settings: settings.clone(),
        })
    }

    /// What this request has in common with those that are alike. It is by what the service
    /// is told of it, and by nothing else, that a decision is remembered.
    ///
    /// `None` if nothing of it tells whose it is: the service may have let it in by its
    /// address, say, and whoever sends as little would be let in from anywhere.
    pub(super) fn key(&self, described: &Described<'_>, headers: &HeaderMap) -> Option<Key> {
        if !self.settings.key.iter().any(|part| tells_whose(part, described, headers)) {
            return None;
        }
        let mut context = hmac::Context::with_key(&self.secret);
        let mut add = |bytes: &[u8]| {
            context.update(&(bytes.len() as u64).to_le_bytes());
            context.update(bytes);
        };
        add(described.scheme.as_bytes());
        for part in self.settings.key.iter().chain(&self.credentials) {
            match part {
                KeyPart::Header(name) => {
                    let lines: Vec<(&HeaderName, &HeaderValue)> = lines(headers, name).collect();
                    add(&lines.len().to_le_bytes());
                    for (other, line) in lines {
                        add(other.as_str().as_bytes());
                        add(line.as_bytes());
                    }
                }
                KeyPart::Cookie(name) => {
                    let values: Vec<&[u8]> = cookies(headers, name.as_bytes()).collect();
                    add(&values.len().to_le_bytes());
                    values.into_iter().for_each(&mut add);
                }
                KeyPart::Method => add(described.method.as_str().as_bytes()),
                KeyPart::Host => add(described.host.as_ref().map_or(b"", HeaderValue::as_bytes)),
                KeyPart::Path => add(described.path().as_bytes()),
                KeyPart::Query => add(described.query().as_bytes()),
                KeyPart::Address => {
                    let client = described.client.map(|client| client.to_string());
                    add(client.unwrap_or_default().as_bytes());
                }
            }
        }
        let mut key = [0; 32];
        key.copy_from_slice(context.sign().as_ref());
        Some(key)
    }

    /// What was decided of requests like this, if it still holds.
    pub(super) fn get(&self, key: &Key) -> Option<Arc<Decision>> {
        let held = self.decisions.get(key)?;
        (Instant::now() < held.until).then_some(held.decision)
    }

    /// Whose turn it is to ask.
    pub(super) fn turn(self: &Arc<Self>, key: Key) -> Turn {
        let mut asked = self.asked.lock();
        let has_room = asked.len() < self.most_asked;
        match asked.entry(key) {
            Entry::Occupied(asked) => Turn::Waits(asked.get().clone()),
            Entry::Vacant(_) if !has_room => Turn::TooMany,
            Entry::Vacant(vacant) => {
                let (answer, waiting) = watch::channel(None);
                vacant.insert(waiting);
                Turn::Asks(Asking { key, answer, remembered: self.clone() })
            }
        }
    }

    fn longest(&self, decision: &Decision) -> Duration {
        match decision {
            Decision::Granted(_) => self.settings.ttl,
            Decision::Refused(..) => self.settings.negative_ttl,
            Decision::Failed(_) => Duration::ZERO,
        }
    }
}

impl Asking {
    /// Tells all who wait, and remembers it, as far as `headers` allow that.
    pub(super) fn answer(self, decision: Decision, headers: &HeaderMap) -> Arc<Decision> {
        let longest = self.remembered.longest(&decision);
        let decision = Arc::new(decision);
        let shared = match decision.holds_for(headers, longest) {
            Some(time) => {
                let held = Held { decision: decision.clone(), until: Instant::now() + time };
                self.remembered.decisions.insert(self.key, held);
                Shared::All(decision.clone())
            }
            // That there is no answer is so for all: they would wait in vain one by one.
            None if matches!(*decision, Decision::Failed(_)) => Shared::All(decision.clone()),
            None => Shared::Own,
        };
        self.answer.send_replace(Some(shared));
        decision
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.remembered.asked.lock().remove(&self.key);
    }
}

/// What the service is told of `Authorization` and `Cookie` and the key does not say. Whoever
/// names cookies has said which of them count.
fn credentials(settings: &DecisionCacheSettings, told: &ToldFields) -> Vec<KeyPart> {
    let is_told = |name: &HeaderName| match told {
        ToldFields::These(names) => names.contains(name),
        ToldFields::All => true,
    };
    let names_cookies = settings.key.iter().any(|part| matches!(part, KeyPart::Cookie(_)));
    [header::AUTHORIZATION, header::COOKIE]
        .into_iter()
        .filter(|name| is_told(name) && !(names_cookies && *name == header::COOKIE))
        .map(KeyPart::Header)
        .filter(|part| !settings.key.contains(part))
        .collect()
}

/// Whether a request has this, and it tells whose the request is.
fn tells_whose(part: &KeyPart, described: &Described<'_>, headers: &HeaderMap) -> bool {
    part.tells_clients_apart()
        && match part {
            KeyPart::Header(name) => lines(headers, name).any(|(_, line)| !line.is_empty()),
            KeyPart::Cookie(name) => cookies(headers, name.as_bytes()).any(|of| !of.is_empty()),
            KeyPart::Address => described.client.is_some(),
            KeyPart::Method | KeyPart::Host | KeyPart::Path | KeyPart::Query => false,
        }
}

/// The lines of a field, and of what the service may read as it.
fn lines<'h>(
    headers: &'h HeaderMap,
    name: &'h HeaderName,
) -> impl Iterator<Item = (&'h HeaderName, &'h HeaderValue)> {
    headers.iter().filter(|(other, _)| are_twins(other.as_str(), name.as_str()))
}

/// The values of a cookie, which is to be there once.
fn cookies<'h>(headers: &'h HeaderMap, name: &'h [u8]) -> impl Iterator<Item = &'h [u8]> {
    // The service may read one as this with spaces around its parts.
    let pairs = pairs(headers).filter(move |(its, _)| its.trim_ascii_end() == name);
    pairs.map(|(_, value)| value.trim_ascii())
}
