//! Who has failed too often is not listened to for a while.
//!
//! Wrong credentials are counted by address; once there are too many, requests from there
//! are answered 429 before anything is verified. While nobody is shut out, and that is
//! nearly always, a request costs the look at one flag.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use tokio::time::Instant;

use crate::context::client_network;
use crate::layers::rate_limit::{Limiter, network_number};
use crate::pace::Quota;

/// So many addresses are shut out at once at the most, and about as many are counted: whoever
/// has more of them is held back by the work that verifying is.
const MOST: usize = 100_000;

/// How often what is over is taken out.
const SWEEP: Duration = Duration::from_secs(1);

/// Counts failures by address. Cheap to clone; all clones count together.
#[derive(Clone, Debug)]
pub struct FailureCount(Arc<Failures>);

#[derive(Debug)]
struct Failures {
    quota: Quota,
    limiter: Limiter,
    shut_out: RwLock<ShutOut>,
    /// Whether anybody may be shut out.
    anybody: AtomicBool,
}

#[derive(Debug)]
struct ShutOut {
    until: HashMap<IpAddr, Instant>,
    /// When the last of them is listened to again.
    latest: Instant,
    swept: Instant,
}

impl FailureCount {
    /// Lets each address fail so often.
    #[must_use]
    pub fn new(quota: Quota) -> Self {
        let (limiter, now) = (Limiter::new(quota, MOST), Instant::now());
        let shut_out = RwLock::new(ShutOut { until: HashMap::new(), latest: now, swept: now });
        let anybody = AtomicBool::new(false);
        Self(Arc::new(Failures { quota, limiter, shut_out, anybody }))
    }

    /// For how long nobody listens to `client`.
    pub(super) fn shut_out_for(&self, client: IpAddr) -> Option<Duration> {
        if !self.0.anybody.load(Ordering::Relaxed) {
            return None;
        }
        let (shut_out, now) = (self.0.shut_out.read(), Instant::now());
        if shut_out.latest <= now {
            self.0.anybody.store(false, Ordering::Relaxed);
        }
        let left = shut_out.until.get(&client_network(client))?.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    /// Somebody at `client` had wrong credentials. With the last that it may have nobody
    /// listens any more, until it may have another.
    pub(super) fn note(&self, client: IpAddr) {
        let Failures { quota, limiter, shut_out, anybody } = &*self.0;
        let client = client_network(client);
        let counted = limiter.check(network_number(client), NonZeroU32::MIN);
        let wait = match counted.admitted {
            true if counted.remaining > 0 => None,
            true => Some(quota.each()),
            false => Some(counted.wait),
        };
        let now = Instant::now();
        let mut shut_out = shut_out.write();
        if now - shut_out.swept >= SWEEP {
            shut_out.swept = now;
            shut_out.until.retain(|_, until| *until > now);
        }
        let Some(wait) = wait else { return };
        let before = shut_out.until.get(&client).copied().filter(|until| *until > now);
        if before.is_none() && shut_out.until.len() >= MOST {
            return;
        }
        // Those that were under way together wait one behind the other, but for no longer than
        // the whole number takes to come again.
        let longest = now + quota.each().saturating_mul(quota.burst.get());
        let until = before.map_or(now + wait, |before| before + quota.each()).min(longest);
        shut_out.until.insert(client, until);
        shut_out.latest = shut_out.latest.max(until);
        anybody.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn whoever_fails_too_often_is_shut_out_and_nobody_else() {
        let quota = Quota::new(NonZeroU32::new(3).unwrap(), Duration::from_secs(60));
        let failures = FailureCount::new(quota);
        let (bad, mapped, good): (IpAddr, IpAddr, IpAddr) = (
            "192.0.2.1".parse().unwrap(),
            "::ffff:192.0.2.1".parse().unwrap(),
            "192.0.2.2".parse().unwrap(),
        );
        for _ in 0..2 {
            failures.note(bad);
            assert_eq!(failures.shut_out_for(bad), None);
        }
        failures.note(bad);
        let wait = failures.shut_out_for(bad).unwrap();
        assert!(wait > Duration::from_secs(10) && wait <= Duration::from_secs(20), "{wait:?}");
        assert!(failures.shut_out_for(mapped).is_some());
        for waits in [40, 60, 60] {
            failures.note(bad);
            let wait = failures.shut_out_for(bad).unwrap().as_secs();
            assert!((waits - 10..=waits).contains(&wait), "{wait}");
        }
        assert_eq!(failures.shut_out_for(good), None);
    }

    #[test]
    fn of_more_addresses_than_anybody_has_not_all_are_counted() {
        let quota = Quota::new(NonZeroU32::new(3).unwrap(), Duration::from_secs(3_600));
        let failures = FailureCount::new(quota);
        let most = u32::try_from(4 * MOST).unwrap();
        for address in 0..most {
            failures.note(Ipv4Addr::from_bits(address).into());
        }
        let keys = failures.0.limiter.keys();
        assert!((MOST / 2..=2 * MOST).contains(&keys), "{keys}");
        // The newest is counted with the others that are left.
        let last = Ipv4Addr::from_bits(most - 1).into();
        failures.note(last);
        failures.note(last);
        assert!(failures.shut_out_for(last).is_some());
    }

    #[test]
    fn it_is_over_when_the_time_is() {
        let quota = Quota::new(NonZeroU32::MIN, Duration::from_millis(20));
        let failures = FailureCount::new(quota);
        let client = "192.0.2.1".parse().unwrap();
        failures.note(client);
        assert!(failures.shut_out_for(client).is_some());
        std::thread::sleep(Duration::from_millis(30));
        assert_eq!(failures.shut_out_for(client), None);
    }
}
