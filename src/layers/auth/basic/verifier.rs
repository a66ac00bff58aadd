//! Verifies passwords where nobody waits for the thread, and remembers what came of it.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use aws_lc_rs::{hmac, rand};
use foldhash::fast::RandomState;
use moka::sync::Cache;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::PasswordHash;
use crate::layers::auth::flights::Flights;
use crate::layers::auth::shares::{Share, Shares};

/// So many passwords are verified at once in the whole process at the most: as many as there
/// are cores, and no more, for each takes up to 64 MiB.
const MOST_AT_ONCE: usize = 8;
/// So many wait for that, for each that is being verified. More are turned away: who waits
/// longer has gone.
const MOST_WAITING: usize = 32;
/// So many of those that wait or are verified are of one client's network at the most: who
/// shows many at once is guessing, and the others have to come in meanwhile.
const MOST_OF_ONE: usize = 8;
/// So many are remembered, of those that were right and of those that were wrong. An entry
/// takes about 150 bytes.
const MOST_REMEMBERED: u64 = 10_000;
/// For how long a wrong password is known to be wrong.
const WRONG_FOR: Duration = Duration::from_secs(10);

/// Name, password and stored hash, by a key that this process has made.
type Mark = [u8; 32];

/// Verifies passwords.
#[derive(Debug)]
pub(super) struct Verifier {
    key: hmac::Key,
    /// For how long what was right is remembered.
    ttl: Duration,
    /// What was right; `None`: nothing is remembered.
    right: Option<Cache<Mark, (), RandomState>>,
    /// What was wrong. Apart, so that a flood of it leaves the other alone.
    wrong: Option<Cache<Mark, (), RandomState>>,
    flights: Flights<Mark, Option<bool>>,
    turns: Arc<Turns>,
    /// How many passwords were hashed.
    hashed: Arc<AtomicU64>,
}

/// Turns at the processor.
#[derive(Debug)]
struct Turns {
    free: Arc<Semaphore>,
    waiting: AtomicUsize,
    most_waiting: usize,
    shares: Shares,
}

/// What can be said of a password without hashing it.
#[derive(Debug)]
pub(super) enum Remembered {
    Right,
    Wrong,
    Not(Mark),
}

impl Turns {
    fn new(at_once: usize) -> Arc<Self> {
        let most_waiting = at_once * MOST_WAITING;
        let (free, waiting) = (Arc::new(Semaphore::new(at_once)), AtomicUsize::new(0));
        Arc::new(Self { free, waiting, most_waiting, shares: Shares::up_to(MOST_OF_ONE) })
    }

    /// Those of the process: there is one processor, however many routes.
    fn of_process() -> Arc<Self> {
        static TURNS: std::sync::OnceLock<Arc<Turns>> = std::sync::OnceLock::new();
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        TURNS.get_or_init(|| Self::new(cores().min(MOST_AT_ONCE))).clone()
    }

    /// Whether the password is that of the hash; `None`: that cannot be told now.
    async fn verify(
        &self,
        hash: PasswordHash,
        password: Zeroizing<Vec<u8>>,
        hashed: Arc<AtomicU64>,
        share: Share,
    ) -> Option<bool> {
        let one_more = |waiting: usize| (waiting < self.most_waiting).then_some(waiting + 1);
        self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        let turn = self.free.clone().acquire_owned().await;
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        let turn = turn.ok()?;
        let verify = move || {
            // Kept to the end of the work, also where nobody waits for it any more.
            let _held = (turn, share);
            hashed.fetch_add(1, Ordering::Relaxed);
            hash.verify(&password)
        };
        tokio::task::spawn_blocking(verify).await.ok()?
    }
}

impl Verifier {
    /// Remembers what was right for as long as this; nothing is remembered if that is no time.
    pub(super) fn remembering(ttl: Duration) -> Self {
        Self::with(ttl, Turns::of_process())
    }

    fn with(ttl: Duration, turns: Arc<Turns>) -> Self {
        let mut random = [0; 32];
        // Without randomness two processes have the same key, and each still its own memory.
        let _none = rand::fill(&mut random);
        let memory = |ttl: Duration| {
            let cache = Cache::builder().max_capacity(MOST_REMEMBERED).time_to_live(ttl);
            (!ttl.is_zero()).then(|| cache.build_with_hasher(RandomState::default()))
        };
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, &random),
            ttl,
            right: memory(ttl),
            wrong: memory(ttl.min(WRONG_FOR)),
            flights: Flights::up_to(turns.most_waiting + MOST_AT_ONCE),
            turns,
            hashed: Arc::default(),
        }
    }

    pub(super) fn remembers_for(&self, ttl: Duration) -> bool {
        self.ttl == ttl
    }

    /// What is known of this name and this password for this hash.
    pub(super) fn remembered(
        &self,
        name: &str,
        password: &[u8],
        hash: &PasswordHash,
    ) -> Remembered {
        let (salt, output) = hash.mark();
        let mut signed = hmac::Context::with_key(&self.key);
        for part in [name.as_bytes(), password, salt, output] {
            signed.update(&part.len().to_le_bytes());
            signed.update(part);
        }
        let mut mark = [0; 32];
        mark.copy_from_slice(signed.sign().as_ref());
        let has = |memory: &Option<Cache<_, _, _>>| {
            memory.as_ref().is_some_and(|memory| memory.get(&mark).is_some())
        };
        match (has(&self.right), has(&self.wrong)) {
            (true, _) => Remembered::Right,
            (false, true) => Remembered::Wrong,
            (false, false) => Remembered::Not(mark),
        }
    }

    /// Hashes a password to see whether it is right; `None` if there is too much to do, for
    /// all or for this client. The same for whoever asks for the same meanwhile.
    pub(super) async fn verify(
        &self,
        mark: Mark,
        password: Zeroizing<Vec<u8>>,
        hash: PasswordHash,
        client: Option<IpAddr>,
    ) -> Option<bool> {
        let (turns, hashed) = (self.turns.clone(), self.hashed.clone());
        let (right, wrong) = (self.right.clone(), self.wrong.clone());
        let begin = || {
            let share = turns.shares.take(client)?;
            Some(async move {
                let told = turns.verify(hash, password, hashed, share).await;
                let memory = match told {
                    Some(true) => right,
                    Some(false) => wrong,
                    None => None,
                };
                if let Some(memory) = memory {
                    memory.insert(mark, ());
                }
                told
            })
        };
        self.flights.fetch(mark, begin).await.flatten()
    }

    /// How many passwords were hashed so far.
    #[cfg(test)]
    pub(super) fn hashed(&self) -> u64 {
        self.hashed.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash() -> PasswordHash {
        // "U*U" by crypt_blowfish's own tests.
        "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW".parse().unwrap()
    }

    async fn ask(verifier: &Verifier, name: &str, password: &[u8]) -> Option<bool> {
        ask_from(verifier, name, password, None).await
    }

    async fn ask_from(
        verifier: &Verifier,
        name: &str,
        password: &[u8],
        client: Option<IpAddr>,
    ) -> Option<bool> {
        match verifier.remembered(name, password, &hash()) {
            Remembered::Right => Some(true),
            Remembered::Wrong => Some(false),
            Remembered::Not(mark) => {
                verifier.verify(mark, Zeroizing::new(password.to_vec()), hash(), client).await
            }
        }
    }

    #[tokio::test]
    async fn what_was_hashed_once_is_remembered_and_each_name_for_itself() {
        let verifier = Verifier::remembering(Duration::from_secs(60));
        for (name, password, right, hashed) in [
            ("alice", "U*U", true, 1),
            ("alice", "U*U", true, 1),
            ("alice", "u*u", false, 2),
            ("alice", "u*u", false, 2),
            ("bob", "U*U", true, 3),
            ("aliceU", "*U", false, 4),
        ] {
            assert_eq!(ask(&verifier, name, password.as_bytes()).await, Some(right), "{name}");
            assert_eq!(verifier.hashed(), hashed, "{name} {password}");
        }
        let other: PasswordHash =
            PasswordHash::of("U*U", super::super::PasswordScheme::Bcrypt).unwrap();
        assert!(matches!(verifier.remembered("alice", b"U*U", &other), Remembered::Not(_)));
    }

    #[tokio::test]
    async fn nothing_is_remembered_where_that_is_not_wanted_and_many_share_one_turn() {
        let verifier = Verifier::remembering(Duration::ZERO);
        for hashed in 1..=2 {
            assert_eq!(ask(&verifier, "alice", b"U*U").await, Some(true));
            assert_eq!(verifier.hashed(), hashed);
        }
        let asked = (0..20).map(|_| ask(&verifier, "alice", b"U*U"));
        let told = futures_util::future::join_all(asked).await;
        assert!(told.iter().all(|told| *told == Some(true)));
        assert_eq!(verifier.hashed(), 3);
    }

    #[tokio::test]
    async fn whoever_would_wait_too_long_is_turned_away() {
        let turns = Turns::new(1);
        let verifier = Verifier::with(Duration::ZERO, turns.clone());
        let held = turns.free.clone().acquire_owned().await.unwrap();
        let passwords: Vec<String> = (0..MOST_WAITING + 8).map(|n| format!("wrong-{n}")).collect();
        let asked = passwords.iter().map(|password| ask(&verifier, "alice", password.as_bytes()));
        let release = async {
            // All have come by the time that one has been turned away.
            while turns.waiting.load(Ordering::Relaxed) < MOST_WAITING {
                tokio::task::yield_now().await;
            }
            drop(held);
        };
        let (told, ()) = tokio::join!(futures_util::future::join_all(asked), release);
        let turned_away = told.iter().filter(|told| told.is_none()).count();
        assert_eq!(turned_away, 8, "{told:?}");
        assert_eq!(turns.waiting.load(Ordering::Relaxed), 0);
        assert_eq!(verifier.hashed(), MOST_WAITING as u64);
    }

    #[tokio::test]
    async fn one_client_takes_a_few_turns_and_leaves_the_others_to_others() {
        let turns = Turns::new(1);
        let verifier = Verifier::with(Duration::ZERO, turns.clone());
        let held = turns.free.clone().acquire_owned().await.unwrap();
        let guesser: Option<IpAddr> = Some("2001:db8::1".parse().unwrap());
        let guesses: Vec<String> = (0..MOST_WAITING * 2).map(|n| format!("wrong-{n}")).collect();
        let guessing =
            guesses.iter().map(|guess| ask_from(&verifier, "alice", guess.as_bytes(), guesser));
        // Who asks for what is under way already takes no turn for it.
        let same = ask_from(&verifier, "alice", guesses[0].as_bytes(), guesser);
        let other = ask_from(&verifier, "alice", b"U*U", Some("2001:db8:0:1::1".parse().unwrap()));
        let unknown = ask(&verifier, "bob", b"U*U");
        let release = async {
            while turns.waiting.load(Ordering::Relaxed) < MOST_OF_ONE + 2 {
                tokio::task::yield_now().await;
            }
            drop(held);
        };
        let guessing = futures_util::future::join_all(guessing);
        let (guessed, same, other, unknown, ()) =
            tokio::join!(guessing, same, other, unknown, release);
        let verified = guessed.iter().filter(|told| **told == Some(false)).count();
        assert_eq!(verified, MOST_OF_ONE, "{guessed:?}");
        assert_eq!((same, other, unknown), (Some(false), Some(true), Some(true)));
        assert_eq!(ask_from(&verifier, "alice", b"wrong", guesser).await, Some(false));
    }
}
