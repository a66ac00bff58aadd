//! The connection that all share, and what becomes of it.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{Cmd, Value, cmd};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::RedisSettings;
use super::connect::{Connector, Dedicated, RedisError, RedisSetupError};
use crate::observe::Connected;

/// How often Redis is asked whether it is still there.
const LOOK: Duration = Duration::from_secs(5);

/// The most that may come in between two of these looks, in bytes: answers to what is
/// asked by all are short.
const MOST_BETWEEN: u64 = 1 << 20;

/// The first pause before another attempt, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// A Redis. Cheap to clone: all clones share one connection.
///
/// There is one for as long as [`Redis::run`] is running, and Redis can be reached.
#[derive(Clone)]
pub struct Redis(Arc<Shared>);

struct Shared {
    connector: Connector,
    /// The connection, while there is one.
    now: watch::Sender<Option<MultiplexedConnection>>,
    /// Why there is none.
    trouble: Mutex<Option<String>>,
    /// Somebody had no answer.
    doubt: Notify,
    /// Why the connection that there is, is of no use.
    useless: Mutex<Option<RedisError>>,
}

/// How long to wait before another attempt: from 100 ms to 5 s, twice as long each time,
/// of which up to half is left to chance so that not all come back at once.
#[derive(Clone, Debug, Default)]
pub struct Pause {
    attempts: u32,
    random: RandomState,
}

impl Pause {
    /// For how long, now that another attempt has failed.
    pub fn after_failure(&mut self) -> Duration {
        let (least, most) = PAUSES;
        let whole = least.saturating_mul(1 << self.attempts.min(16)).min(most);
        self.attempts = self.attempts.saturating_add(1);
        let chance = u32::try_from(self.random.hash_one(self.attempts) % 1024).unwrap_or(0);
        whole / 2 + whole / 2 * chance / 1024
    }

    /// It went well: the next is the shortest again.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }
}

impl Redis {
    /// A Redis that is not connected to yet.
    ///
    /// # Errors
    ///
    /// The certificates to trust cannot be read.
    pub fn new(settings: &RedisSettings) -> Result<Self, RedisSetupError> {
        let connector = Connector::new(settings)?;
        let (now, _) = watch::channel(None);
        let (trouble, doubt, useless) = (Mutex::default(), Notify::new(), Mutex::default());
        Ok(Self(Arc::new(Shared { connector, now, trouble, doubt, useless })))
    }

    /// By which it is reached.
    #[must_use]
    pub fn settings(&self) -> &RedisSettings {
        self.0.connector.settings()
    }

    /// Whether there is a connection.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.0.now.borrow().is_some()
    }

    /// Why there is no connection.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.0.trouble.lock().clone()
    }

    /// Waits until there is a connection.
    pub async fn connected(&self) {
        let mut now = self.0.now.subscribe();
        // The sender lives as long as this.
        let _there = now.wait_for(Option::is_some).await;
    }

    /// Has a command carried out; not one that blocks.
    ///
    /// # Errors
    ///
    /// See [`RedisError`]: at once if there is no connection, else in
    /// [`RedisSettings::timeout`] at the latest.
    pub async fn ask(&self, command: &Cmd) -> Result<Value, RedisError> {
        let now = self.0.now.borrow().clone();
        let Some(mut connection) = now else { return Err(RedisError::Unreachable) };
        let timeout = self.settings().timeout;
        command.query_async(&mut connection).await.map_err(|error| {
            let error = RedisError::of(&error, timeout);
            if !error.is_an_answer() {
                // One that answers is not there for writing all the same.
                if matches!(error, RedisError::Broken(_)) {
                    *self.0.useless.lock() = Some(error.clone());
                }
                self.0.doubt.notify_one();
            }
            error
        })
    }

    /// Has a command carried out that is about one key.
    ///
    /// # Errors
    ///
    /// See [`Redis::ask`].
    pub async fn ask_about(&self, _key: &[u8], command: &Cmd) -> Result<Value, RedisError> {
        self.ask(command).await
    }

    /// Whether there is a connection to where this key is.
    #[must_use]
    pub fn reaches(&self, _key: &[u8]) -> bool {
        self.is_connected()
    }

    /// A number of the node on which this key is.
    #[must_use]
    pub fn node_of(&self, _key: &[u8]) -> usize {
        0
    }

    /// A connection of its own, of which no answer is longer than `limit` bytes.
    ///
    /// # Errors
    ///
    /// See [`RedisError`].
    pub async fn dedicated(&self, limit: u64) -> Result<Dedicated, RedisError> {
        self.0.connector.open(limit).await
    }

    /// Connects, and connects again whenever the connection is lost, for as long as it is
    /// polled. An outage is said once, and its end.
    pub async fn run(self) {
        let address = self.settings().url.address();
        let (mut pause, mut outage) = (Pause::default(), None::<Instant>);
        loop {
            let why = match self.0.connector.open(MOST_BETWEEN).await {
                Err(error) => error,
                Ok(opened) => {
                    let since = Instant::now();
                    let before = outage.take();
                    let lasted = before.map(|began| since - began);
                    tracing::info!(address, outage = ?lasted.unwrap_or_default(), "redis: connected");
                    let why = self.hold(opened).await;
                    if since.elapsed() >= LOOK {
                        pause.reset();
                    } else {
                        // It was of no use: the outage goes on.
                        outage = before;
                    }
                    why
                }
            };
            if outage.is_none() {
                tracing::warn!(address, error = %why, "redis: not connected; trying again and again");
            } else {
                tracing::debug!(address, error = %why, "redis: still not connected");
            }
            outage.get_or_insert_with(Instant::now);
            *self.0.trouble.lock() = Some(why.to_string());
            tokio::time::sleep(pause.after_failure()).await;
        }
    }

    /// Lets everybody have a connection until it is lost, and says why it was.
    async fn hold(&self, opened: Dedicated) -> RedisError {
        let (mut connection, mut driver, read) = opened.shared();
        (*self.0.trouble.lock(), *self.0.useless.lock()) = (None, None);
        self.0.now.send_replace(Some(connection.clone()));
        let timeout = self.settings().timeout;
        let why = loop {
            tokio::select! {
                _ended = &mut driver => break RedisError::Broken("it was closed".to_owned()),
                () = self.0.doubt.notified() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
            if let Some(why) = self.0.useless.lock().take() {
                break why;
            }
            read.store(0, Ordering::Relaxed);
            let asked = cmd("PING").query_async::<Value>(&mut connection).await;
            match asked.map_err(|error| RedisError::of(&error, timeout)) {
                Err(error) if !error.is_an_answer() => break error,
                _ => {}
            }
        };
        self.0.now.send_replace(None);
        why
    }
}

impl Connected for Redis {
    fn is_connected(&self) -> bool {
        Self::is_connected(self)
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (settings, connected) = (self.settings(), self.is_connected());
        f.debug_struct("Redis").field("settings", settings).field("connected", &connected).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_bound_and_are_left_to_chance() {
        let mut pause = Pause::default();
        let pauses: Vec<Duration> = (0..12).map(|_| pause.after_failure()).collect();
        for (attempt, waited) in pauses.iter().enumerate() {
            let whole = PAUSES.0.saturating_mul(1 << attempt).min(PAUSES.1);
            assert!((whole / 2..=whole).contains(waited), "{attempt}: {waited:?}");
        }
        assert_ne!(pauses[10], pauses[11]);
        pause.reset();
        assert!(pause.after_failure() <= PAUSES.0);
    }
}
