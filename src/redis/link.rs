//! The connection to one node that all share, and what becomes of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{Cmd, Value, cmd, pipe};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::connect::{Connector, Dedicated, Peer, RedisError};
use super::pause::Pause;
use super::sentinel::Sentinels;
use super::{RedisUrl, SentinelSettings};

/// How often Redis is asked whether it is still there.
const LOOK: Duration = Duration::from_secs(5);

/// The most that an answer has, in bytes: those to what is asked by all are short.
const MOST_OF_AN_ANSWER: u64 = 1 << 20;

/// What a node is asked about who else there is, in bytes of the answer.
pub(super) const MOST_OF_A_MAP: u64 = 1 << 20;

/// The connection to one node.
pub(super) struct Link {
    connector: Arc<Connector>,
    to: To,
    /// The connection, while there is one.
    now: watch::Sender<Option<MultiplexedConnection>>,
    /// Why there is none.
    trouble: Mutex<Option<String>>,
    /// Somebody had no answer.
    doubt: Notify,
    /// Why the connection that there is, is of no use.
    useless: Mutex<Option<RedisError>>,
    /// The last one was of no use, and that this one is has not turned out yet.
    doubtful: AtomicBool,
}

/// Where it leads.
enum To {
    Url(RedisUrl),
    /// Whom the sentinels name.
    Master(Sentinels),
}

/// Why a node has not done as it was told.
pub(super) enum Told {
    Error(RedisError),
    /// Another node has the key.
    Moved(RedisUrl),
    /// Another node has the key already, and this one is asked for it next time.
    Ask(RedisUrl),
}

impl Link {
    pub(super) fn to(connector: Arc<Connector>, url: RedisUrl) -> Self {
        Self::with(connector, To::Url(url))
    }

    /// To whomever these sentinels name.
    pub(super) fn to_master(connector: Arc<Connector>, sentinels: &SentinelSettings) -> Self {
        Self::with(connector, To::Master(Sentinels::new(sentinels)))
    }

    fn with(connector: Arc<Connector>, to: To) -> Self {
        let (now, _) = watch::channel(None);
        let (trouble, doubt, useless) = (Mutex::default(), Notify::new(), Mutex::default());
        let doubtful = AtomicBool::new(false);
        Self { connector, to, now, trouble, doubt, useless, doubtful }
    }

    pub(super) fn is_connected(&self) -> bool {
        self.now.borrow().is_some()
    }

    /// Whether there is one that is of use, as far as is known.
    pub(super) fn serves(&self) -> bool {
        self.is_connected() && !self.doubtful.load(Ordering::Relaxed)
    }

    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }

    pub(super) async fn connected(&self) {
        let mut now = self.now.subscribe();
        // The sender lives as long as this.
        let _there = now.wait_for(Option::is_some).await;
    }

    pub(super) async fn ask(&self, command: &Cmd) -> Result<Value, RedisError> {
        self.tell(command, false).await.map_err(|told| match told {
            Told::Error(error) => error,
            Told::Moved(url) | Told::Ask(url) => RedisError::Refused(format!(
                "it is of a cluster, and another node has the key: {}",
                url.address()
            )),
        })
    }

    /// Has a command carried out. `asking`: although the key is only about to come here.
    pub(super) async fn tell(&self, command: &Cmd, asking: bool) -> Result<Value, Told> {
        let now = self.now.borrow().clone();
        let Some(mut connection) = now else { return Err(Told::Error(RedisError::Unreachable)) };
        let answer = if asking {
            let mut both = pipe();
            both.cmd("ASKING").ignore().add_command(command.clone());
            both.query_async::<(Value,)>(&mut connection).await.map(|(answer,)| answer)
        } else {
            command.query_async(&mut connection).await
        };
        let error = match answer {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let to = error.redirect_node().and_then(|(address, _)| self.node(address));
        match (error.code(), to) {
            (Some("MOVED"), Some(to)) => return Err(Told::Moved(to)),
            (Some("ASK"), Some(to)) => return Err(Told::Ask(to)),
            _ => {}
        }
        let has_answered = error.code().is_some();
        let error = RedisError::of(&error, self.connector.settings().timeout);
        if !error.is_an_answer() {
            // One that answers is not there for writing all the same.
            if has_answered {
                *self.useless.lock() = Some(error.clone());
            }
            self.doubt.notify_one();
        }
        Err(Told::Error(error))
    }

    /// Another node, `host:port` as this one says it; without a host it is on this one's.
    fn node(&self, address: &str) -> Option<RedisUrl> {
        let (host, port) = address.rsplit_once(':')?;
        let (own, port) = (self.url()?, port.parse().ok()?);
        let host = if host.is_empty() { own.host.clone() } else { host.to_owned() };
        Some(RedisUrl { host, port, ..own.clone() })
    }

    /// Where it leads, if that is known before it is asked.
    pub(super) fn url(&self) -> Option<&RedisUrl> {
        match &self.to {
            To::Url(url) => Some(url),
            To::Master(_) => None,
        }
    }

    /// Another connection to where this one leads.
    pub(super) async fn dedicated(&self, limit: u64) -> Result<Dedicated, RedisError> {
        self.open(limit).await.map(|(opened, _)| opened)
    }

    async fn open(&self, limit: u64) -> Result<(Dedicated, RedisUrl), RedisError> {
        match &self.to {
            To::Url(url) => {
                let opened = self.connector.open(url, Peer::Data, limit).await?;
                Ok((opened, url.clone()))
            }
            To::Master(sentinels) => {
                let url = sentinels.master(&self.connector).await?;
                let opened = self.open_master(&url, limit).await;
                if opened.is_err() {
                    sentinels.doubt();
                }
                Ok((opened?, url))
            }
        }
    }

    async fn open_master(&self, url: &RedisUrl, limit: u64) -> Result<Dedicated, RedisError> {
        let mut opened = self.connector.open(url, Peer::Data, limit).await?;
        super::sentinel::is_master(&mut opened, self.connector.settings().timeout).await?;
        Ok(opened)
    }

    /// Connects, and connects again whenever the connection is lost, for as long as it is
    /// polled. An outage is said once, and its end.
    pub(super) async fn run(self: Arc<Self>) {
        let (mut pause, mut outage) = (Pause::default(), None::<Instant>);
        let mut address = match &self.to {
            To::Url(url) => url.address(),
            To::Master(sentinels) => sentinels.name().to_owned(),
        };
        loop {
            let why = match self.open(MOST_OF_AN_ANSWER).await {
                Err(error) => error,
                Ok((opened, url)) => {
                    address = url.address();
                    let since = Instant::now();
                    let before = outage.take();
                    let why = self.hold(opened, &url, before).await;
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
            *self.trouble.lock() = Some(why.to_string());
            tokio::time::sleep(pause.after_failure()).await;
        }
    }

    /// Lets everybody have a connection until it is lost, and says why it was. If the last one
    /// was of no use (as one to a replica is) this one has to last before anybody hears of it.
    async fn hold(&self, opened: Dedicated, url: &RedisUrl, outage: Option<Instant>) -> RedisError {
        let (mut connection, mut driver) = opened.shared();
        *self.useless.lock() = None;
        self.now.send_replace(Some(connection.clone()));
        let since = Instant::now();
        let is_of_use = || {
            self.doubtful.store(false, Ordering::Relaxed);
            *self.trouble.lock() = None;
            let outage = outage.map(|began| tracing::field::debug(began.elapsed()));
            tracing::info!(address = url.address(), outage, "redis: connected");
        };
        let mut is_said = !self.doubtful.load(Ordering::Relaxed);
        if is_said {
            is_of_use();
        }
        let timeout = self.connector.settings().timeout;
        let why = loop {
            tokio::select! {
                _ended = &mut driver => break RedisError::Broken("it was closed".to_owned()),
                () = self.doubt.notified() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
            if let Some(why) = self.useless.lock().take() {
                self.doubtful.store(true, Ordering::Relaxed);
                break why;
            }
            let asked = cmd("PING").query_async::<Value>(&mut connection).await;
            match asked.map_err(|error| RedisError::of(&error, timeout)) {
                Err(error) if !error.is_an_answer() => break error,
                _ => {}
            }
            if !is_said && since.elapsed() >= LOOK {
                is_said = true;
                is_of_use();
            }
            if let To::Master(sentinels) = &self.to
                && let Ok(master) = sentinels.master(&self.connector).await
                && master != *url
            {
                let now = master.address();
                break RedisError::Broken(format!(
                    "the sentinels say that {now} is the master now"
                ));
            }
        };
        self.now.send_replace(None);
        why
    }
}
