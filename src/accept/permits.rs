//! How many connections may be open: in all, and from one client.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::ConnectionLimits;
use crate::budget::{Budget, Charge, Use};
use crate::context::Prefixes;

/// Enough that two cores rarely want the same one.
const SHARDS: usize = 32;

/// Hands out permits for connections. Cheap to clone; all clones count together.
#[derive(Clone, Debug)]
pub struct Permits(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    total: AtomicUsize,
    per_client: AtomicUsize,
    /// The lengths of the prefixes that make a client, in a byte each.
    client: AtomicU16,
    budget: Budget,
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
    #[allow(dead_code, reason = "held for its drop")]
    charge: Charge,
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
    /// The memory budget.
    Memory,
}

impl Permits {
    /// Counts against these limits, and takes what connections need of `budget`.
    #[must_use]
    pub fn new(limits: ConnectionLimits, budget: Budget) -> Self {
        Self(Arc::new(Inner {
            total: AtomicUsize::new(limits.total),
            per_client: AtomicUsize::new(limits.per_client),
            client: AtomicU16::new(packed(limits.client)),
            budget,
            open: AtomicUsize::new(0),
            clients: std::array::from_fn(|_| Mutex::default()),
            random: RandomState::new(),
        }))
    }

    /// Changes the limits. What is out stays out, also where that is too much, and counts
    /// for whom it was counted.
    pub fn set_limits(&self, limits: ConnectionLimits) {
        self.0.total.store(limits.total, Ordering::Relaxed);
        self.0.per_client.store(limits.per_client, Ordering::Relaxed);
        self.0.client.store(packed(limits.client), Ordering::Relaxed);
    }

    /// A permit for one more connection, which needs `memory` bytes; of `client`,
    /// if that is known and has an address.
    ///
    /// # Errors
    ///
    /// There are as many as may be.
    pub fn acquire(&self, client: Option<IpAddr>, memory: usize) -> Result<Permit, LimitReached> {
        let Inner { total, budget, open, .. } = &*self.0;
        if open.fetch_add(1, Ordering::Relaxed) >= total.load(Ordering::Relaxed) {
            open.fetch_sub(1, Ordering::Relaxed);
            return Err(LimitReached::Total);
        }
        let taken = client.map(|client| self.count(client)).transpose().and_then(|share| {
            match budget.charge(memory, Use::Connection) {
                Some(charge) => Ok(Permit { permits: self.clone(), share, charge }),
                None => {
                    share.into_iter().for_each(|client| self.uncount(client));
                    Err(LimitReached::Memory)
                }
            }
        });
        if taken.is_err() {
            open.fetch_sub(1, Ordering::Relaxed);
        }
        taken
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
        let [ipv4, ipv6] = self.0.client.load(Ordering::Relaxed).to_be_bytes();
        let client = Prefixes { ipv4, ipv6 }.network(client);
        let most = self.0.per_client.load(Ordering::Relaxed);
        let mut clients = self.shard(client).lock();
        let count = clients.entry(client).or_default();
        if *count >= most {
            // With a limit of none there was no entry before.
            if *count == 0 {
                clients.remove(&client);
            }
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

    /// Where the memory for connections comes from.
    #[must_use]
    pub fn budget(&self) -> &Budget {
        &self.0.budget
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

fn packed(Prefixes { ipv4, ipv6 }: Prefixes) -> u16 {
    u16::from_be_bytes([ipv4, ipv6])
}

impl LimitReached {
    /// The limit as one word, for metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Total => "limit_total",
            Self::Client => "limit_client",
            Self::Memory => "memory",
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
        let limits = ConnectionLimits { total, per_client, ..ConnectionLimits::default() };
        Permits::new(limits, Budget::unlimited())
    }

    fn ip(address: &str) -> Option<IpAddr> {
        Some(address.parse().unwrap())
    }

    #[test]
    fn a_permit_counts_until_it_is_dropped() {
        let permits = permits(2, 9);
        let first = permits.acquire(ip("192.0.2.1"), 0).unwrap();
        let _second = permits.acquire(ip("192.0.2.2"), 0).unwrap();
        assert_eq!(permits.acquire(ip("192.0.2.3"), 0).unwrap_err(), LimitReached::Total);
        drop(first);
        assert!(permits.acquire(ip("192.0.2.3"), 0).is_ok());
    }

    #[test]
    fn one_client_cannot_take_everything() {
        let permits = permits(9, 1);
        let _held = permits.acquire(ip("192.0.2.1"), 0).unwrap();
        assert_eq!(permits.acquire(ip("192.0.2.1"), 0).unwrap_err(), LimitReached::Client);
        assert_eq!(permits.acquire(ip("::ffff:192.0.2.1"), 0).unwrap_err(), LimitReached::Client);
        assert!(permits.acquire(ip("192.0.2.2"), 0).is_ok());
    }

    #[test]
    fn an_ipv6_client_is_its_64() {
        let permits = permits(9, 1);
        let _held = permits.acquire(ip("2001:db8::1"), 0).unwrap();
        assert_eq!(permits.acquire(ip("2001:db8::ffff:2"), 0).unwrap_err(), LimitReached::Client);
        assert!(permits.acquire(ip("2001:db8:0:1::1"), 0).is_ok());
    }

    #[test]
    fn a_client_is_a_network_of_any_length() {
        let client = Prefixes { ipv4: 24, ipv6: 48 };
        let limits = ConnectionLimits { total: 9, per_client: 1, client };
        let permits = Permits::new(limits, Budget::unlimited());
        let held = [
            permits.acquire(ip("192.0.2.1"), 0).unwrap(),
            permits.acquire(ip("2001:db8::1"), 0).unwrap(),
        ];
        let is_refused =
            |address| permits.acquire(ip(address), 0).err() == Some(LimitReached::Client);
        assert!(is_refused("192.0.2.200") && is_refused("::ffff:192.0.2.200"));
        assert!(is_refused("2001:db8:0:ffff::1"));
        assert!(!is_refused("192.0.3.1") && !is_refused("2001:db8:1::1"));
        // What was counted for one network is given back to it.
        permits.set_limits(ConnectionLimits { client: Prefixes::default(), ..limits });
        assert!(!is_refused("192.0.2.200"));
        drop(held);
        assert!(permits.0.clients.iter().all(|clients| clients.lock().is_empty()));
    }

    #[test]
    fn a_connection_without_memory_is_refused_and_leaves_no_trace() {
        let limits = ConnectionLimits { total: 9, per_client: 9, ..ConnectionLimits::default() };
        let permits = Permits::new(limits, Budget::new(1_000));
        let first = permits.acquire(ip("192.0.2.1"), 600).unwrap();
        assert_eq!(permits.acquire(ip("192.0.2.2"), 600).unwrap_err(), LimitReached::Memory);
        assert_eq!(permits.open(), 1);
        drop(first);
        assert!(permits.acquire(ip("192.0.2.2"), 600).is_ok());
        assert!(permits.0.clients.iter().all(|clients| clients.lock().is_empty()));
    }

    #[test]
    fn a_client_that_becomes_known_later_counts_from_then_on() {
        let permits = permits(2, 1);
        let (unknown, second) =
            (permits.acquire(None, 0).unwrap(), permits.acquire(None, 0).unwrap());
        let client = ip("192.0.2.1").unwrap();
        let share = permits.share(client).unwrap();
        assert_eq!(permits.share(client).unwrap_err(), LimitReached::Client);
        drop(second);
        assert_eq!(permits.acquire(Some(client), 0).unwrap_err(), LimitReached::Client);
        assert_eq!(permits.open(), 1);
        drop((unknown, share));
        assert_eq!(permits.open(), 0);
        assert!(permits.acquire(Some(client), 0).is_ok());
    }

    #[test]
    fn limits_may_change_while_permits_are_out() {
        let permits = permits(1, 1);
        let set = |total, per_client| {
            let limits = ConnectionLimits { total, per_client, ..ConnectionLimits::default() };
            permits.set_limits(limits);
        };
        let first = permits.acquire(ip("192.0.2.1"), 0).unwrap();
        set(3, 2);
        let _second = permits.acquire(ip("192.0.2.1"), 0).unwrap();
        assert_eq!(permits.acquire(ip("192.0.2.1"), 0).unwrap_err(), LimitReached::Client);
        let _third = permits.acquire(ip("192.0.2.2"), 0).unwrap();
        set(1, 1);
        drop(first);
        assert_eq!(permits.acquire(ip("192.0.2.3"), 0).unwrap_err(), LimitReached::Total);
        set(3, 1);
        assert_eq!(permits.acquire(ip("192.0.2.1"), 0).unwrap_err(), LimitReached::Client);
        assert!(permits.acquire(ip("192.0.2.3"), 0).is_ok());
    }

    #[test]
    fn clients_that_are_gone_leave_nothing_behind() {
        let permits = permits(9, 9);
        drop(permits.acquire(ip("192.0.2.1"), 0).unwrap());
        assert!(permits.0.clients.iter().all(|clients| clients.lock().is_empty()));
    }
}
