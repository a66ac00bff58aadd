//! How many connections may be open: in all, and from one client.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::ConnectionLimits;
use crate::context::client_network;

/// Enough that two cores rarely want the same one.
const SHARDS: usize = 32;

/// Hands out permits for connections. Cheap to clone; all clones count together.
#[derive(Clone, Debug)]
pub struct Permits(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limits: ConnectionLimits,
    open: AtomicUsize,
    clients: [Mutex<HashMap<IpAddr, usize>>; SHARDS],
    random: RandomState,
}

/// A connection that may be open, until this is dropped.
#[derive(Debug)]
pub struct Permit {
    permits: Permits,
    /// Counts for the client, if that was known.
    share: Option<IpAddr>,
}

/// One of a client's connections, until this is dropped.
#[derive(Debug)]
pub struct Share {
    permits: Permits,
    client: IpAddr,
}

/// Which limit a connection would exceed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LimitReached {
    /// That of all connections.
    Total,
    /// That of its client's.
    Client,
}

impl Permits {
    /// Counts against these limits.
    #[must_use]
    pub fn new(limits: ConnectionLimits) -> Self {
        Self(Arc::new(Inner {
            limits,
            open: AtomicUsize::new(0),
            clients: std::array::from_fn(|_| Mutex::default()),
            random: RandomState::new(),
        }))
    }

    /// A permit for one more connection; of `client`, if that is known and has an
    /// address.
    ///
    /// # Errors
    ///
    /// There are as many as may be.
    pub fn acquire(&self, client: Option<IpAddr>) -> Result<Permit, LimitReached> {
        let Inner { limits, open, .. } = &*self.0;
        if open.fetch_add(1, Ordering::Relaxed) >= limits.total {
            open.fetch_sub(1, Ordering::Relaxed);
            return Err(LimitReached::Total);
        }
        match client.map(|client| self.count(client)).transpose() {
            Ok(share) => Ok(Permit { permits: self.clone(), share }),
            Err(limit) => {
                open.fetch_sub(1, Ordering::Relaxed);
                Err(limit)
            }
        }
    }

    /// Counts a connection that has a permit for `client`, who became known only
    /// after that.
    ///
    /// # Errors
    ///
    /// The client has as many as may be.
    pub fn share(&self, client: IpAddr) -> Result<Share, LimitReached> {
        self.count(client).map(|client| Share { permits: self.clone(), client })
    }

    /// Adds one to a client's, and says what counts as that client.
    fn count(&self, client: IpAddr) -> Result<IpAddr, LimitReached> {
        let client = client_network(client);
        let mut clients = self.shard(client).lock();
        let count = clients.entry(client).or_default();
        if *count >= self.0.limits.per_client {
            return Err(LimitReached::Client);
        }
        *count += 1;
        Ok(client)
    }

    fn uncount(&self, client: IpAddr) {
        let mut clients = self.shard(client).lock();
        if let Some(count) = clients.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                clients.remove(&client);
            }
        }
    }

    /// How many are out.
    #[must_use]
    pub fn open(&self) -> usize {
        self.0.open.load(Ordering::Relaxed)
    }

    fn shard(&self, client: IpAddr) -> &Mutex<HashMap<IpAddr, usize>> {
        let hash = self.0.random.hash_one(client);
        // The remainder is below SHARDS.
        &self.0.clients[(hash % SHARDS as u64) as usize]
    }
}

impl LimitReached {
    /// The limit as one word, for metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Total => "limit_total",
            Self::Client => "limit_client",
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.permits.0.open.fetch_sub(1, Ordering::Relaxed);
        if let Some(client) = self.share {
            self.permits.uncount(client);
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.permits.uncount(self.client);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permits(total: usize, per_client: usize) -> Permits {
        Permits::new(ConnectionLimits { total, per_client })
    }

    fn ip(address: &str) -> Option<IpAddr> {
        Some(address.parse().unwrap())
    }

    #[test]
    fn a_permit_counts_until_it_is_dropped() {
        let permits = permits(2, 9);
        let first = permits.acquire(ip("192.0.2.1")).unwrap();
        let _second = permits.acquire(ip("192.0.2.2")).unwrap();
        assert_eq!(permits.acquire(ip("192.0.2.3")).unwrap_err(), LimitReached::Total);
        drop(first);
        assert!(permits.acquire(ip("192.0.2.3")).is_ok());
    }

    #[test]
    fn one_client_cannot_take_everything() {
        let permits = permits(9, 1);
        let _held = permits.acquire(ip("192.0.2.1")).unwrap();
        assert_eq!(permits.acquire(ip("192.0.2.1")).unwrap_err(), LimitReached::Client);
        assert_eq!(permits.acquire(ip("::ffff:192.0.2.1")).unwrap_err(), LimitReached::Client);
        assert!(permits.acquire(ip("192.0.2.2")).is_ok());
    }

    #[test]
    fn an_ipv6_client_is_its_64() {
        let permits = permits(9, 1);
        let _held = permits.acquire(ip("2001:db8::1")).unwrap();
        assert_eq!(permits.acquire(ip("2001:db8::ffff:2")).unwrap_err(), LimitReached::Client);
        assert!(permits.acquire(ip("2001:db8:0:1::1")).is_ok());
    }

    #[test]
    fn a_client_that_becomes_known_later_counts_from_then_on() {
        let permits = permits(2, 1);
        let (unknown, second) = (permits.acquire(None).unwrap(), permits.acquire(None).unwrap());
        let client = ip("192.0.2.1").unwrap();
        let share = permits.share(client).unwrap();
        assert_eq!(permits.share(client).unwrap_err(), LimitReached::Client);
        drop(second);
        assert_eq!(permits.acquire(Some(client)).unwrap_err(), LimitReached::Client);
        assert_eq!(permits.open(), 1);
        drop((unknown, share));
        assert_eq!(permits.open(), 0);
        assert!(permits.acquire(Some(client)).is_ok());
    }

    #[test]
    fn clients_that_are_gone_leave_nothing_behind() {
        let permits = permits(9, 9);
        drop(permits.acquire(ip("192.0.2.1")).unwrap());
        assert!(permits.0.clients.iter().all(|clients| clients.lock().is_empty()));
    }
}
