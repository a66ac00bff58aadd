//! One address that a name has, or had.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::settings::AddressFamily;

/// How long an address is tried before the next one is, too (RFC 8305 §5).
pub(in crate::upstream) const HEAD_START: Duration = Duration::from_millis(250);

/// For how long an address that did not accept is tried after the others.
const LAST_FOR: Duration = Duration::from_secs(10);

/// An address of a name. Every connection made to it holds it, and so learns
/// that the name has moved away.
#[derive(Debug)]
pub(in crate::upstream) struct Address {
    ip: IpAddr,
    gone: AtomicBool,
    /// Until when it is tried last.
    last_until: Mutex<Option<Instant>>,
}

impl Address {
    pub(super) fn new(ip: IpAddr) -> Arc<Self> {
        Arc::new(Self { ip, gone: AtomicBool::new(false), last_until: Mutex::new(None) })
    }

    pub(in crate::upstream) fn ip(&self) -> IpAddr {
        self.ip
    }

    /// The name does not have it any more: connections to it are not reused.
    pub(super) fn leave(&self) {
        self.gone.store(true, Ordering::Release);
    }

    /// Whether the name does not have it any more.
    pub(in crate::upstream) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Connects by `dial`, and remembers if that failed or was given up after
    /// its head start.
    pub(in crate::upstream) async fn tried<T, E>(
        &self,
        dial: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let mut trial = Trial { address: self, since: Instant::now(), ended: false };
        let result = dial.await;
        trial.ended = true;
        self.mark(result.is_err());
        result
    }

    fn mark(&self, failed: bool) {
        *self.last_until.lock() = failed.then(|| Instant::now() + LAST_FOR);
    }

    fn comes_last(&self, now: Instant) -> bool {
        self.last_until.lock().is_some_and(|until| until > now)
    }
}

/// An attempt to connect.
struct Trial<'a> {
    address: &'a Address,
    since: Instant,
    ended: bool,
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        if !self.ended && self.since.elapsed() >= HEAD_START {
            self.address.mark(true);
        }
    }
}

/// The order in which a new connection tries the addresses: each has its turn
/// to be the first, the families alternate (RFC 8305 §4), and those that did not
/// accept a moment ago come last.
pub(super) fn in_turn(
    addresses: &[Arc<Address>],
    turn: usize,
    family: AddressFamily,
    now: Instant,
) -> Vec<Arc<Address>> {
    let (mut these, mut those): (Vec<_>, Vec<_>) = addresses
        .iter()
        .cloned()
        .partition(|address| address.ip.is_ipv6() == family.prefers_ipv6());
    for side in [&mut these, &mut those] {
        let length = side.len().max(1);
        side.rotate_left(turn % length);
    }
    let (mut these, mut those) = (these.into_iter(), those.into_iter());
    let mut order = Vec::with_capacity(addresses.len());
    while these.len() + those.len() > 0 {
        order.extend(these.next());
        order.extend(those.next());
    }
    order.sort_by_key(|address| address.comes_last(now));
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(ips: &[&str]) -> Vec<Arc<Address>> {
        ips.iter().map(|ip| Address::new(ip.parse().unwrap())).collect()
    }

    fn order(addresses: &[Arc<Address>], turn: usize, family: AddressFamily) -> Vec<String> {
        let order = in_turn(addresses, turn, family, Instant::now());
        order.iter().map(|address| address.ip.to_string()).collect()
    }

    #[tokio::test]
    async fn each_address_has_its_turn_and_the_families_alternate() {
        let all = addresses(&["192.0.2.1", "192.0.2.2", "2001:db8::1"]);
        let (v6, v4) = (AddressFamily::Ipv6First, AddressFamily::Ipv4First);
        assert_eq!(order(&all, 0, v6), ["2001:db8::1", "192.0.2.1", "192.0.2.2"]);
        assert_eq!(order(&all, 1, v6), ["2001:db8::1", "192.0.2.2", "192.0.2.1"]);
        assert_eq!(order(&all, 0, v4), ["192.0.2.1", "2001:db8::1", "192.0.2.2"]);
        assert_eq!(order(&all, 3, v4), ["192.0.2.2", "2001:db8::1", "192.0.2.1"]);
        assert!(order(&[], 7, v4).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_failed_or_hung_comes_last_for_a_while() {
        let all = addresses(&["192.0.2.1", "192.0.2.2"]);
        let v4 = AddressFamily::Ipv4;
        let failed: Result<(), ()> = all[0].tried(async { Err(()) }).await;
        assert!(failed.is_err());
        assert_eq!(order(&all, 0, v4), ["192.0.2.2", "192.0.2.1"]);
        tokio::time::sleep(LAST_FOR).await;
        assert_eq!(order(&all, 0, v4), ["192.0.2.1", "192.0.2.2"]);

        let hung = all[0].tried(std::future::pending::<Result<(), ()>>());
        assert!(tokio::time::timeout(HEAD_START, hung).await.is_err());
        assert_eq!(order(&all, 0, v4), ["192.0.2.2", "192.0.2.1"]);
        let reached: Result<(), ()> = all[0].tried(async { Ok(()) }).await;
        assert!(reached.is_ok());
        assert_eq!(order(&all, 0, v4), ["192.0.2.1", "192.0.2.2"]);

        // One that was merely overtaken at once is none the worse for it.
        let overtaken = all[0].tried(std::future::pending::<Result<(), ()>>());
        assert!(tokio::time::timeout(HEAD_START / 2, overtaken).await.is_err());
        assert_eq!(order(&all, 0, v4), ["192.0.2.1", "192.0.2.2"]);
    }
}
