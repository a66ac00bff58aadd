//! Requests for one thing that nobody has yet: the first one asks, the others wait for
//! its answer.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use http::{HeaderValue, StatusCode};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::content::Content;
use super::key::Key;
use super::store::Head;
use crate::error::Kind;

const SHARDS: usize = 64;

/// What is being asked for.
#[derive(Debug)]
pub(super) struct Flights {
    shards: Box<[Shard]>,
    hasher: RandomState,
}

type Shard = Mutex<HashMap<Key, Arc<Flight>>>;

/// One request to the origin, for as long as others may share its answer.
#[derive(Debug)]
pub(super) struct Flight {
    outcome: watch::Sender<Option<Outcome>>,
    /// What is invalidated after it began makes its answer nobody else's.
    epoch: u64,
    /// How many wait for it.
    waiting: AtomicUsize,
    abort: OnceLock<AbortHandle>,
}

/// What came of it, for those who wait.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// They may have it as well.
    Shared(Arc<Head>, Content),
    /// It is for nobody else.
    Alone,
    /// It is for nobody else because of who asked: what another gets may be for all.
    Personal,
    /// The origin answered, that it failed, and nothing that could be shared.
    Fault(Fault),
    /// The origin could not be asked.
    Failed(Kind),
}

/// An answer by which an origin fails, as far as others are told of it.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub(super) status: StatusCode,
    pub(super) retry_after: Option<HeaderValue>,
}

/// What somebody is who wants it.
pub(super) enum Joined {
    Leader(Leading, Waiting),
    Follower(Waiting),
}

/// Asks for all. When it is dropped, the flight is over.
#[derive(Debug)]
pub(super) struct Leading {
    flights: Arc<Flights>,
    key: Key,
    flight: Arc<Flight>,
}

/// Somebody who waits. When the last of them goes away before there is an answer,
/// nobody needs it any more.
#[derive(Debug)]
pub(super) struct Waiting(Arc<Flight>);

impl Flights {
    pub(super) fn new() -> Arc<Self> {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Arc::new(Self { shards, hasher: RandomState::new() })
    }

    fn shard(&self, key: &Key) -> &Shard {
        #[allow(clippy::cast_possible_truncation, reason = "it is smaller than their number")]
        let at = (self.hasher.hash_one(key.as_str()) % SHARDS as u64) as usize;
        &self.shards[at]
    }

    /// Joins the flight of this key and epoch, or begins it.
    pub(super) fn join(self: &Arc<Self>, key: &Key, epoch: u64) -> Joined {
        let mut flights = self.shard(key).lock();
        let new = || {
            Arc::new(Flight {
                outcome: watch::Sender::new(None),
                epoch,
                waiting: AtomicUsize::new(0),
                abort: OnceLock::new(),
            })
        };
        let flight = match flights.entry(key.clone()) {
            Entry::Occupied(known) if known.get().epoch == epoch => {
                return Joined::Follower(Waiting::on(known.get()));
            }
            Entry::Occupied(mut outdated) => {
                outdated.insert(new());
                outdated.get().clone()
            }
            Entry::Vacant(vacant) => vacant.insert(new()).clone(),
        };
        let waiting = Waiting::on(&flight);
        let leading = Leading { flights: self.clone(), key: key.clone(), flight };
        Joined::Leader(leading, waiting)
    }

    /// How many are under way.
    pub(super) fn count(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }
}

impl Leading {
    /// Tells those who wait. The first word counts.
    pub(super) fn publish(&self, outcome: Outcome) {
        // Whoever comes now, or comes again, begins anew.
        if !matches!(outcome, Outcome::Shared(..)) {
            self.leave();
        }
        self.flight.outcome.send_if_modified(|said| {
            let first = said.is_none();
            if first {
                *said = Some(outcome);
            }
            first
        });
    }
}

impl Leading {
    fn leave(&self) {
        let mut flights = self.flights.shard(&self.key).lock();
        if flights.get(&self.key).is_some_and(|flight| Arc::ptr_eq(flight, &self.flight)) {
            flights.remove(&self.key);
        }
    }
}

impl Drop for Leading {
    fn drop(&mut self) {
        self.leave();
        self.publish(Outcome::Alone);
    }
}

impl Waiting {
    fn on(flight: &Arc<Flight>) -> Self {
        flight.waiting.fetch_add(1, Ordering::SeqCst);
        Self(flight.clone())
    }

    /// Ends this task when nobody waits any more.
    pub(super) fn aborts(&self, task: AbortHandle) {
        let _once = self.0.abort.set(task);
    }

    /// What came of it.
    pub(super) async fn outcome(&self) -> Outcome {
        let mut outcome = self.0.outcome.subscribe();
        match outcome.wait_for(Option::is_some).await {
            Ok(said) => said.clone().unwrap_or(Outcome::Alone),
            Err(_) => Outcome::Alone,
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let last = self.0.waiting.fetch_sub(1, Ordering::SeqCst) == 1;
        if last
            && self.0.outcome.borrow().is_none()
            && let Some(task) = self.0.abort.get()
        {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::CacheKeySettings;
    use super::*;

    fn key() -> Key {
        Key::of_url("r", &"http://a.test/".parse().unwrap(), &CacheKeySettings::default()).unwrap()
    }

    fn leader(joined: Joined) -> (Leading, Waiting) {
        match joined {
            Joined::Leader(leading, waiting) => (leading, waiting),
            Joined::Follower(_) => panic!("somebody leads already"),
        }
    }

    fn follower(joined: Joined) -> Waiting {
        match joined {
            Joined::Follower(waiting) => waiting,
            Joined::Leader(..) => panic!("nobody leads"),
        }
    }

    #[tokio::test]
    async fn one_leads_and_the_others_are_told() {
        let flights = Flights::new();
        let (leading, _first) = leader(flights.join(&key(), 0));
        let second = follower(flights.join(&key(), 0));
        leading.publish(Outcome::Failed(Kind::ConnectRefused));
        assert!(matches!(second.outcome().await, Outcome::Failed(Kind::ConnectRefused)));
        drop(leading);
        assert_eq!(flights.count(), 0);
        leader(flights.join(&key(), 0));
    }

    #[tokio::test]
    async fn a_leader_that_says_nothing_leaves_them_to_themselves() {
        let flights = Flights::new();
        let (leading, _first) = leader(flights.join(&key(), 0));
        let second = follower(flights.join(&key(), 0));
        drop(leading);
        assert!(matches!(second.outcome().await, Outcome::Alone));
    }

    #[tokio::test]
    async fn nobody_joins_what_was_asked_before_an_invalidation() {
        let flights = Flights::new();
        let (old, _first) = leader(flights.join(&key(), 0));
        let (_new, _second) = leader(flights.join(&key(), 1));
        drop(old);
        follower(flights.join(&key(), 1));
    }

    #[tokio::test]
    async fn what_nobody_waits_for_any_more_is_ended() {
        let flights = Flights::new();
        let (leading, first) = leader(flights.join(&key(), 0));
        let second = follower(flights.join(&key(), 0));
        let task = tokio::spawn(async move {
            let _leading = leading;
            std::future::pending::<()>().await;
        });
        first.aborts(task.abort_handle());
        drop(first);
        tokio::task::yield_now().await;
        assert!(!task.is_finished());
        drop(second);
        assert!(task.await.unwrap_err().is_cancelled());
        assert_eq!(flights.count(), 0);
    }
}
