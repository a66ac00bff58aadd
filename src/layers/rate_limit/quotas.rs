//! Limiters for identities that have a quota of their own: one for each quota.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::local::Limiter;
use crate::pace::Quota;

/// More different quotas than anybody gives to clients.
const MOST: usize = 256;

/// A limiter for each quota that was asked for, up to [`MOST`] of them.
#[derive(Debug)]
pub(super) struct Quotas {
    limiters: ArcSwap<HashMap<Quota, Arc<Limiter>>>,
    max_keys: usize,
}

impl Quotas {
    /// None yet; each for `max_keys` keys at the most.
    pub(super) fn new(max_keys: usize) -> Self {
        Self { limiters: ArcSwap::default(), max_keys }
    }

    /// The limiter for this quota.
    pub(super) fn of(&self, quota: Quota) -> Arc<Limiter> {
        if let Some(known) = self.limiters.load().get(&quota) {
            return known.clone();
        }
        let new = Arc::new(Limiter::new(quota, self.max_keys));
        self.limiters.rcu(|limiters| {
            let mut limiters = HashMap::clone(limiters);
            if limiters.len() >= MOST {
                // The one with which the fewest are forgotten.
                let fewest = limiters.iter().min_by_key(|(_, limiter)| limiter.keys());
                if let Some(fewest) = fewest.map(|(quota, _)| *quota) {
                    limiters.remove(&fewest);
                }
            }
            limiters.entry(quota).or_insert_with(|| new.clone());
            limiters
        });
        self.limiters.load().get(&quota).map_or(new, Arc::clone)
    }

    /// How many keys are remembered.
    pub(super) fn keys(&self) -> usize {
        self.limiters.load().values().map(|limiter| limiter.keys()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;
    use std::time::Duration;

    fn quota(requests: u32) -> Quota {
        Quota::new(NonZeroU32::new(requests).unwrap(), Duration::from_secs(3_600))
    }

    #[test]
    fn each_quota_has_one_limiter() {
        let quotas = Quotas::new(100);
        assert!(Arc::ptr_eq(&quotas.of(quota(1)), &quotas.of(quota(1))));
        assert!(quotas.of(quota(1)).check(7, NonZeroU32::MIN).admitted);
        assert!(!quotas.of(quota(1)).check(7, NonZeroU32::MIN).admitted);
        assert!(quotas.of(quota(2)).check(7, NonZeroU32::MIN).admitted);
        assert_eq!(quotas.keys(), 2);
    }

    #[test]
    fn their_number_is_bounded_and_those_that_count_most_are_kept() {
        let quotas = Quotas::new(100);
        for key in 0..10 {
            quotas.of(quota(1)).check(key, NonZeroU32::MIN);
        }
        for requests in 2..1_000 {
            let _ = quotas.of(quota(requests));
        }
        assert!(quotas.limiters.load().len() <= MOST);
        assert_eq!(quotas.of(quota(1)).keys(), 10);
    }
}
