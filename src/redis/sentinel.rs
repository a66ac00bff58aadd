//! Sentinels, which are asked who the master is.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ::redis::{Value, cmd};

use super::connect::{Connector, Dedicated, Peer, RedisError};
use super::{RedisUrl, SentinelSettings};

/// The most that a sentinel answers, in bytes.
const MOST: u64 = 64 << 10;

pub(super) struct Sentinels {
    settings: SentinelSettings,
    /// The one that knew last.
    knows: AtomicUsize,
}

impl Sentinels {
    pub(super) fn new(settings: &SentinelSettings) -> Self {
        Self { settings: settings.clone(), knows: AtomicUsize::new(0) }
    }

    /// What the master is called among them.
    pub(super) fn name(&self) -> &str {
        &self.settings.master
    }

    /// Whom was named is of no use: another is asked first next time, for the one that named
    /// it may be cut off from the others and not know.
    pub(super) fn doubt(&self) {
        self.knows.fetch_add(1, Ordering::Relaxed);
    }

    /// Where the master is: by the word of the first sentinel that knows.
    pub(super) async fn master(&self, connector: &Connector) -> Result<RedisUrl, RedisError> {
        let urls = &self.settings.urls;
        let first = self.knows.load(Ordering::Relaxed);
        let mut why = RedisError::Unreachable;
        for number in (0..urls.len()).map(|at| first.wrapping_add(at) % urls.len()) {
            match self.ask(connector, &urls[number]).await {
                Ok(master) => {
                    self.knows.store(number, Ordering::Relaxed);
                    return Ok(master);
                }
                Err(error) => {
                    let sentinel = urls[number].address();
                    tracing::debug!(sentinel, %error, "redis: a sentinel names no master");
                    why = error;
                }
            }
        }
        Err(RedisError::Broken(format!("no sentinel names the master `{}`: {why}", self.name())))
    }

    async fn ask(&self, connector: &Connector, url: &RedisUrl) -> Result<RedisUrl, RedisError> {
        // Sentinels have no databases.
        let to = RedisUrl { database: 0, ..url.clone() };
        let mut sentinel = connector.open(&to, Peer::Sentinel, MOST).await?;
        let mut command = cmd("SENTINEL");
        command.arg("GET-MASTER-ADDR-BY-NAME").arg(self.name());
        let named = sentinel.ask(&command, connector.settings().timeout).await?;
        if named == Value::Nil {
            return Err(RedisError::Refused("it knows no master of this name".to_owned()));
        }
        let understood = match &named {
            Value::Array(parts) => match parts.as_slice() {
                [Value::BulkString(host), Value::BulkString(port)] => {
                    std::str::from_utf8(host).ok().zip(number(port))
                }
                _ => None,
            },
            _ => None,
        };
        let Some((host, port)) = understood else {
            return Err(RedisError::Broken("it names no master that is understood".to_owned()));
        };
        let database = self.settings.database;
        Ok(RedisUrl { tls: url.tls, host: host.to_owned(), port, database })
    }
}

/// Whether it is the master, as it sees itself: one that was may not know yet, and one that
/// is to be may not be it yet.
pub(super) async fn is_master(
    connection: &mut Dedicated,
    timeout: Duration,
) -> Result<(), RedisError> {
    match connection.ask(&cmd("ROLE"), timeout).await? {
        Value::Array(parts) if parts.first() == Some(&Value::BulkString(b"master".to_vec())) => {
            Ok(())
        }
        _ => Err(RedisError::Broken("it is no master".to_owned())),
    }
}

pub(super) fn number<N: std::str::FromStr>(text: &[u8]) -> Option<N> {
    std::str::from_utf8(text).ok()?.parse().ok()
}
