//! Redis as everybody has it, wherever it is.

use std::fmt;
use std::sync::Arc;

use ::redis::{Cmd, Value};

use super::cluster::Cluster;
use super::connect::{Connector, Dedicated, RedisError, RedisSetupError};
use super::link::Link;
use super::{RedisAt, RedisSettings};
use crate::observe::Connected;

/// A Redis. Cheap to clone: all clones share one connection, or one to each master of a
/// cluster.
///
/// There is one for as long as [`Redis::run`] is running, and Redis can be reached.
#[derive(Clone)]
pub struct Redis(Arc<Shared>);

struct Shared {
    connector: Arc<Connector>,
    way: Way,
}

enum Way {
    One(Arc<Link>),
    Cluster(Cluster),
}

impl Redis {
    /// A Redis that is not connected to yet.
    ///
    /// # Errors
    ///
    /// The certificates to trust cannot be read, or are for names that there are none of.
    pub fn new(settings: &RedisSettings) -> Result<Self, RedisSetupError> {
        let connector = Arc::new(Connector::new(settings)?);
        let way = match &settings.at {
            RedisAt::Url(url) => Way::One(Arc::new(Link::to(connector.clone(), url.clone()))),
            RedisAt::Sentinel(sentinels) => {
                Way::One(Arc::new(Link::to_master(connector.clone(), sentinels)))
            }
            RedisAt::Cluster(urls) => Way::Cluster(Cluster::new(connector.clone(), urls)),
        };
        Ok(Self(Arc::new(Shared { connector, way })))
    }

    /// By which it is reached, but for whom it is asked as.
    #[must_use]
    pub fn settings(&self) -> &RedisSettings {
        self.0.connector.settings()
    }

    /// From the next connection on Redis is asked as whom these settings say, and shown
    /// their passwords. Nothing else of them is taken. Connections that there are stay, as
    /// Redis has it as well.
    pub fn log_in_as(&self, settings: &RedisSettings) {
        self.0.connector.log_in_as(settings);
    }

    /// Whether there is a connection that is of use, as far as is known; to every master, if it
    /// is a cluster. One to a replica is of none.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        match &self.0.way {
            Way::One(link) => link.serves(),
            Way::Cluster(cluster) => cluster.serves(),
        }
    }

    /// Whether there is a connection to where this key is.
    #[must_use]
    pub fn reaches(&self, key: &[u8]) -> bool {
        match &self.0.way {
            Way::One(link) => link.is_connected(),
            Way::Cluster(cluster) => cluster.reaches(key),
        }
    }

    /// The number of the node on which this key is, among all of a cluster. Which has which
    /// may change at any time. `None`: none has it, as far as is known.
    #[must_use]
    pub fn node_of(&self, key: &[u8]) -> Option<usize> {
        match &self.0.way {
            Way::One(_) => Some(0),
            Way::Cluster(cluster) => cluster.node_of(key),
        }
    }

    /// Why there is no connection.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        match &self.0.way {
            Way::One(link) => link.trouble(),
            Way::Cluster(cluster) => cluster.trouble(),
        }
    }

    /// Waits until there is a connection.
    pub async fn connected(&self) {
        match &self.0.way {
            Way::One(link) => link.connected().await,
            Way::Cluster(cluster) => cluster.connected().await,
        }
    }

    /// Has a command carried out that is about one key; not one that blocks.
    ///
    /// # Errors
    ///
    /// See [`RedisError`]: at once if there is no connection, else in
    /// [`RedisSettings::timeout`] at the latest, or twice as long where a cluster has moved
    /// the key.
    pub async fn ask_about(&self, key: &[u8], command: &Cmd) -> Result<Value, RedisError> {
        match &self.0.way {
            Way::One(link) => link.ask(command).await,
            Way::Cluster(cluster) => cluster.ask(key, command).await,
        }
    }

    /// A connection of its own to where this key is, of which no answer is longer than
    /// `limit` bytes.
    ///
    /// # Errors
    ///
    /// See [`RedisError`].
    pub async fn dedicated_to(&self, key: &[u8], limit: u64) -> Result<Dedicated, RedisError> {
        match &self.0.way {
            Way::One(link) => link.dedicated(limit).await,
            Way::Cluster(cluster) => cluster.dedicated(key, limit).await,
        }
    }

    /// Connects, and connects again whenever a connection is lost, for as long as it is
    /// polled. An outage is said once, and its end.
    pub async fn run(self) {
        match &self.0.way {
            Way::One(link) => link.clone().run().await,
            Way::Cluster(cluster) => cluster.run().await,
        }
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
