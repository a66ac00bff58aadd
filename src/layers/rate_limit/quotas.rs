//! How identities stand with quotas that they have of their own.

use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::state::keyed::ShrinkableKeyedStateStore;

use super::cells::Cells;
use super::decision::Decision;
use crate::pace::Quota;

/// One table for all of them, however many quotas there are: what is kept is only when a
/// bucket is full again, and who asks brings the quota along.
#[derive(Debug)]
pub(super) struct Quotas<C: Clock = DefaultClock> {
    cells: Cells<C>,
    random: RandomState,
}

impl Quotas {
    /// For `max_keys` keys at the most.
    pub(super) fn new(max_keys: usize) -> Self {
        Self::with_clock(max_keys, DefaultClock::default())
    }
}

impl<C: Clock> Quotas<C> {
    fn with_clock(max_keys: usize, clock: C) -> Self {
        Self { cells: Cells::new(max_keys, clock), random: RandomState::new() }
    }

    /// Lets a request of `key` through that counts for `cost`, as far as the quota goes, or
    /// says how long it should wait. No cost is above the burst. A key with another quota is
    /// another key.
    pub(super) fn check(&self, quota: Quota, key: u64, cost: NonZeroU32) -> Decision {
        let key = self.random.hash_one((key, quota));
        let now = self.cells.now();
        let each = nanoseconds(quota.each());
        let whole = nanoseconds(quota.refill());
        let taken = each.saturating_mul(cost.min(quota.burst).get().into());
        let decision = |admitted: bool, missing: u64, wait: u64| {
            let remaining = whole.saturating_sub(missing) / each.max(1);
            Decision {
                admitted,
                remaining: u32::try_from(remaining).unwrap_or(u32::MAX),
                wait: Duration::from_nanos(wait),
                reset: Duration::from_nanos(missing),
                counted: true,
            }
        };
        let outcome = self.cells.measure_and_replace(&key, |full_at| {
            // Of two threads the other may have looked at the clock later.
            let missing = full_at.map_or(0, |full_at| full_at.as_u64().saturating_sub(now));
            let would_miss = missing.saturating_add(taken);
            match would_miss.checked_sub(whole) {
                None | Some(0) => {
                    let full_at = Nanos::new(now.saturating_add(would_miss));
                    Ok((decision(true, would_miss, 0), full_at))
                }
                Some(wait) => Err(decision(false, missing, wait)),
            }
        });
        outcome.unwrap_or_else(|refused| refused)
    }

    /// How many keys are remembered.
    pub(super) fn keys(&self) -> usize {
        self.cells.len()
    }
}

/// No quota is of more than ten years.
fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::local::Limiter;
    use super::*;
    use governor::clock::FakeRelativeClock;

    const ONE: NonZeroU32 = NonZeroU32::MIN;

    fn number(number: u32) -> NonZeroU32 {
        NonZeroU32::new(number).unwrap()
    }

    fn hourly(requests: u32) -> Quota {
        Quota::new(number(requests), Duration::from_secs(3_600))
    }

    #[test]
    fn a_key_with_another_quota_is_another() {
        let quotas = Quotas::new(100);
        assert!(quotas.check(hourly(1), 7, ONE).admitted);
        assert!(!quotas.check(hourly(1), 7, ONE).admitted);
        assert!(quotas.check(hourly(2), 7, ONE).admitted);
        assert!(quotas.check(hourly(1), 8, ONE).admitted);
        assert_eq!(quotas.keys(), 3);
    }

    #[test]
    fn who_has_used_a_quota_up_is_not_forgotten_for_all_the_others_that_there_are() {
        let quotas = Quotas::new(10_000);
        for requests in 1..=2_000 {
            assert!(quotas.check(hourly(requests), 1, number(requests)).admitted, "{requests}");
        }
        for requests in 1..=2_000 {
            assert!(!quotas.check(hourly(requests), 1, ONE).admitted, "{requests}");
        }
        assert_eq!(quotas.keys(), 2_000);
    }

    #[test]
    fn it_decides_as_a_limiter_for_this_quota_would() {
        for (requests, per, burst) in
            [(1, 10, 1), (10, 1, 20), (3, 7, 5), (1_000, 1, 10), (u32::MAX, 1, u32::MAX)]
        {
            let quota = Quota::new(number(requests), Duration::from_secs(per)).burst(number(burst));
            let clock = FakeRelativeClock::default();
            let quotas = Quotas::with_clock(100, clock.clone());
            let limiter = Limiter::with_clock(quota, 100, clock.clone());
            for step in 0..500_u64 {
                // Neither evenly, nor such that two of them are the same moment.
                clock.advance(Duration::from_millis(step * 7_919 % 331));
                let cost = number((step * 104_729 % 9 + 1) as u32);
                let (one, other) = (quotas.check(quota, 1, cost), limiter.check(1, cost));
                let told = |decision: Decision| (decision.admitted, decision.wait);
                assert_eq!(told(one), told(other), "{quota:?} {step}");
                assert!(one.remaining.abs_diff(other.remaining) <= 1, "{one:?} {other:?}");
            }
        }
    }

    #[test]
    fn numbers_of_any_size_neither_panic_nor_wrap() {
        let most = NonZeroU32::MAX;
        for per in [Duration::from_nanos(1), Duration::from_secs(1), Duration::MAX] {
            for (requests, burst) in [(ONE, ONE), (ONE, most), (most, ONE), (most, most)] {
                let clock = FakeRelativeClock::default();
                let (quota, quotas) =
                    (Quota { requests, per, burst }, Quotas::with_clock(1, clock.clone()));
                clock.advance(Duration::from_secs(100 * 365 * 24 * 60 * 60));
                assert!(quotas.check(quota, 1, most).admitted, "{quota:?}");
                let refused = quotas.check(quota, 1, most);
                assert!(!refused.admitted && refused.wait > Duration::ZERO, "{quota:?}");
            }
        }
    }
}
