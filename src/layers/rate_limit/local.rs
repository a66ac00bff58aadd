//! The limiter of one process: governor's GCRA over a bounded table of keys.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::{InsufficientCapacity, RateLimiter};

use super::cells::Cells;
use super::decision::Decision;
use crate::pace::Quota;

/// Counts by key.
#[derive(Debug)]
pub(in crate::layers) struct Limiter<C: Clock = DefaultClock> {
    limiter: RateLimiter<u64, Cells<C>, C, StateInformationMiddleware>,
    quota: Quota,
}

impl Limiter {
    /// Counts as this quota says, for `max_keys` keys at the most.
    pub(in crate::layers) fn new(quota: Quota, max_keys: usize) -> Self {
        Self::with_clock(quota, max_keys, DefaultClock::default())
    }
}

impl<C: Clock + Clone> Limiter<C> {
    pub(super) fn with_clock(quota: Quota, max_keys: usize, clock: C) -> Self {
        let cells = Cells::new(max_keys, clock.clone());
        Self { limiter: RateLimiter::new(governor_quota(quota), cells, clock), quota }
    }

    /// Lets a request of `key` through that counts for `cost`, or says how long it should
    /// wait. No cost is above the burst.
    pub(in crate::layers) fn check(&self, key: u64, cost: NonZeroU32) -> Decision {
        let cost = cost.min(self.quota.burst);
        let each = self.quota.each();
        match self.limiter.check_key_n(&key, cost) {
            Ok(Ok(state)) => {
                let remaining = state.remaining_burst_capacity();
                let reset = each * self.quota.burst.get().saturating_sub(remaining);
                let wait = Duration::ZERO;
                Decision { admitted: true, remaining, wait, reset, counted: true }
            }
            Ok(Err(not_until)) => {
                let wait = not_until.wait_time_from(self.limiter.clock().now());
                let remaining = cost.get().saturating_sub(lacking(wait, each));
                let reset = each * self.quota.burst.get().saturating_sub(remaining);
                Decision { admitted: false, remaining, wait, reset, counted: true }
            }
            // The cost is not above the burst.
            Err(InsufficientCapacity(_)) => Decision::PASS,
        }
    }

    /// How many keys are remembered.
    pub(in crate::layers) fn keys(&self) -> usize {
        self.limiter.len()
    }
}

/// Takes what a request has cost beyond what it was let through for, as far as that is
/// there. `check` asks for so much of it.
pub(super) fn drain(cost: u32, quota: Quota, check: impl Fn(NonZeroU32) -> Decision) {
    let mut left = NonZeroU32::new(cost);
    // What is missing is known after the first time; others may have been faster.
    for _ in 0..3 {
        let Some(cost) = left.map(|cost| cost.min(quota.burst)) else { return };
        left = match check(cost) {
            Decision { admitted: false, remaining, .. } => NonZeroU32::new(remaining),
            _ => None,
        };
    }
}

/// How many are lacking where they come after this long.
fn lacking(wait: Duration, each: Duration) -> u32 {
    let lacking = wait.as_nanos().div_ceil(each.as_nanos().max(1));
    u32::try_from(lacking).unwrap_or(u32::MAX)
}

/// One cell back every `per / requests`, whole fractions kept, `burst` at most.
fn governor_quota(quota: Quota) -> governor::Quota {
    // The period is at least a nanosecond, the only thing that is refused.
    governor::Quota::with_period(quota.each())
        .unwrap_or_else(|| governor::Quota::per_second(quota.requests))
        .allow_burst(quota.burst)
}

#[cfg(test)]
mod tests {
    use super::*;
    use governor::clock::FakeRelativeClock;
    use std::num::NonZeroU32;

    const ONE: NonZeroU32 = NonZeroU32::MIN;

    fn limiter(rate: u32, per: u64, burst: u32) -> (Limiter<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        let quota = Quota::new(number(rate), Duration::from_secs(per)).burst(number(burst));
        (Limiter::with_clock(quota, 100_000, clock.clone()), clock)
    }

    fn number(number: u32) -> NonZeroU32 {
        NonZeroU32::new(number).unwrap()
    }

    #[test]
    fn defect_3_a_rate_below_one_a_second_refills_and_keeps_fractions() {
        let (limiter, clock) = limiter(1, 10, 1);
        assert!(limiter.check(1, ONE).admitted);
        for _ in 0..3 {
            clock.advance(Duration::from_secs(3));
            assert!(!limiter.check(1, ONE).admitted);
        }
        clock.advance(Duration::from_secs(1));
        assert!(limiter.check(1, ONE).admitted);
    }

    #[test]
    fn a_burst_is_let_through_and_then_the_rate_holds() {
        let (limiter, clock) = limiter(10, 1, 20);
        let admitted = |tries: u32| (0..tries).filter(|_| limiter.check(1, ONE).admitted).count();
        assert_eq!(admitted(30), 20);
        let wait = limiter.check(1, ONE).wait;
        assert!(wait > Duration::ZERO && wait <= Duration::from_millis(100), "{wait:?}");
        clock.advance(Duration::from_secs(1));
        assert_eq!(admitted(30), 10);
    }

    #[test]
    fn what_is_left_and_when_it_is_whole_again_is_told() {
        let (limiter, clock) = limiter(10, 1, 20);
        let told = |decision: Decision| (decision.remaining, decision.reset.as_millis());
        assert_eq!(told(limiter.check(1, ONE)), (19, 100));
        assert_eq!(told(limiter.check(1, number(19))), (0, 2_000));
        clock.advance(Duration::from_millis(500));
        let refused = limiter.check(1, number(7));
        assert!(!refused.admitted);
        assert_eq!(refused.wait.as_millis(), 200);
        assert_eq!(told(refused), (5, 1_500));
    }

    #[test]
    fn a_cost_counts_as_so_many_requests_and_never_as_more_than_the_burst() {
        let (limiter, clock) = limiter(10, 1, 10);
        assert!(limiter.check(1, number(7)).admitted);
        assert!(!limiter.check(1, number(4)).admitted);
        assert!(limiter.check(1, number(3)).admitted);
        clock.advance(Duration::from_secs(1));
        assert!(limiter.check(1, number(u32::MAX)).admitted);
        assert!(!limiter.check(1, ONE).admitted);
    }

    #[test]
    fn what_is_charged_later_takes_what_is_there_and_makes_no_debt() {
        let (limiter, clock) = limiter(10, 1, 10);
        let drained = |cost| drain(cost, limiter.quota, |cost| limiter.check(1, cost));
        drained(4);
        assert_eq!(limiter.check(1, ONE).remaining, 5);
        drained(1_000_000);
        assert!(!limiter.check(1, ONE).admitted);
        clock.advance(Duration::from_millis(100));
        assert!(limiter.check(1, ONE).admitted);
        drained(0);
    }

    #[test]
    fn a_flood_of_keys_is_forgotten_as_it_goes() {
        let (limiter, clock) = limiter(10, 1, 1);
        for key in 0..100_000 {
            assert!(limiter.check(key, ONE).admitted);
            clock.advance(Duration::from_millis(1));
        }
        assert!(limiter.keys() < 5_000, "{}", limiter.keys());
    }

    #[test]
    fn numbers_of_any_size_neither_panic_nor_wrap() {
        let most = NonZeroU32::MAX;
        for per in [Duration::from_nanos(1), Duration::from_secs(1), Duration::MAX] {
            for (requests, burst) in [(ONE, ONE), (ONE, most), (most, ONE), (most, most)] {
                let clock = FakeRelativeClock::default();
                let quota = Quota { requests, per, burst };
                let limiter = Limiter::with_clock(quota, 1, clock.clone());
                clock.advance(Duration::from_secs(100 * 365 * 24 * 60 * 60));
                assert!(limiter.check(1, most).admitted, "{quota:?}");
                let refused = limiter.check(1, most);
                assert!(!refused.admitted && refused.wait > Duration::ZERO, "{quota:?}");
            }
        }
    }
}
