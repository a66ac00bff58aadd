//! Weighted round robin, smooth: an origin's turns are spread over the cycle
//! instead of following each other.
//!
//! The cycle is worked out once for each rotation of the upstream. A pick is
//! then one addition and one look-up, without a lock.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;

use super::Balance;
use crate::upstream::{Origin, Rotation, Upstream};

/// Picks origins in turn, each as often as its weight says.
#[derive(Debug)]
pub struct RoundRobin {
    upstream: Arc<Upstream>,
    cycle: ArcSwap<Cycle>,
    next: AtomicUsize,
}

/// One round of turns over a rotation's origins.
#[derive(Debug)]
struct Cycle {
    generation: u64,
    origins: Vec<Arc<Origin>>,
    turns: Vec<u32>,
}

impl RoundRobin {
    /// Picks among the origins of `upstream`: the first is the first, unless the
    /// upstream was renewed. Then it is anyone's turn, as it would have been, so
    /// that many renewals do not make for more requests to the first.
    #[must_use]
    pub fn new(upstream: Arc<Upstream>) -> Self {
        let cycle = ArcSwap::from_pointee(Cycle::of(&upstream.rotation()));
        let anyone = || RandomState::new().hash_one(&**upstream.name()) as usize;
        let next = if upstream.is_renewed() { anyone() } else { 0 };
        Self { upstream, cycle, next: AtomicUsize::new(next) }
    }
}

impl Balance for RoundRobin {
    fn pick(&self, _key: u64, tried: &[Arc<Origin>]) -> Option<Arc<Origin>> {
        let mut cycle = self.cycle.load();
        let rotation = self.upstream.rotation();
        if rotation.generation != cycle.generation {
            self.cycle.store(Arc::new(Cycle::of(&rotation)));
            cycle = self.cycle.load();
        }
        let turns = cycle.turns.len();
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        // Every origin has its turn within one cycle, so looking once around
        // finds an untried one if there is any; from one start, because others
        // who pick at the same time would take turns out of a shared count.
        (0..turns).find_map(|step| {
            let turn = start.wrapping_add(step) % turns;
            let origin = &cycle.origins[cycle.turns[turn] as usize];
            let new = !tried.iter().any(|tried| Arc::ptr_eq(tried, origin));
            new.then(|| origin.clone())
        })
    }

    fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }
}

impl Cycle {
    fn of(rotation: &Rotation) -> Self {
        Self {
            generation: rotation.generation,
            origins: rotation.origins.clone(),
            turns: smooth(&rotation.weights),
        }
    }
}

/// A cycle in which index `i` comes `weights[i]` times (divided by what all
/// weights have in common), evenly spread: in each turn every index earns its
/// weight, the richest one goes and pays the sum of all.
fn smooth(weights: &[u32]) -> Vec<u32> {
    let common = weights.iter().copied().fold(0, gcd).max(1);
    let weights: Vec<i64> = weights.iter().map(|weight| i64::from(weight / common)).collect();
    let sum: i64 = weights.iter().sum();
    let mut purse = vec![0_i64; weights.len()];
    let mut turns = Vec::new();
    for _ in 0..sum {
        let mut richest = 0;
        for (index, weight) in weights.iter().enumerate() {
            purse[index] += weight;
            if purse[index] > purse[richest] {
                richest = index;
            }
        }
        purse[richest] -= sum;
        turns.push(u32::try_from(richest).unwrap_or(0));
    }
    turns
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Budget;
    use crate::observe::Metrics;
    use crate::upstream::{DnsSettings, OriginSettings, Resolver, UpstreamSettings, Verdict};
    use proptest::prelude::*;

    fn balance(weights: &[u32]) -> RoundRobin {
        let origins = weights
            .iter()
            .enumerate()
            .map(|(index, weight)| OriginSettings {
                url: format!("http://127.0.0.1:{}", index + 1).parse().unwrap(),
                weight: *weight,
            })
            .collect();
        let settings = UpstreamSettings::new("test", origins);
        RoundRobin::new(Upstream::new(settings, Metrics::default(), Budget::unlimited()).unwrap())
    }

    fn ports(balance: &RoundRobin, picks: usize) -> Vec<u16> {
        (0..picks).map(|_| balance.pick(0, &[]).unwrap().url().port).collect()
    }

    #[test]
    fn turns_are_spread_and_not_bunched() {
        assert_eq!(smooth(&[5, 1, 1]), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(smooth(&[200, 100]), [0, 1, 0]);
        assert_eq!(smooth(&[]), [0; 0]);
    }

    proptest! {
        #[test]
        fn every_origin_gets_its_share_of_a_cycle(weights in prop::collection::vec(1_u32..50, 1..8)) {
            let turns = smooth(&weights);
            let common = weights.iter().copied().fold(0, gcd);
            for (index, weight) in weights.iter().enumerate() {
                let got = turns.iter().filter(|turn| **turn as usize == index).count();
                prop_assert_eq!(got as u32, weight / common);
            }
        }
    }

    #[test]
    fn an_origin_that_is_down_gets_no_turn_until_it_is_back() {
        let balance = balance(&[1, 1]);
        assert_eq!(ports(&balance, 4), [1, 2, 1, 2]);
        let upstream = balance.upstream().clone();
        let first = upstream.origins()[0].clone();
        upstream.report(&first, Verdict::ProbeFailed("test".into()));
        assert_eq!(ports(&balance, 3), [2, 2, 2]);
        upstream.report(&first, Verdict::ProbeOk);
        let mut seen = ports(&balance, 2);
        seen.sort_unstable();
        assert_eq!(seen, [1, 2]);
    }

    #[test]
    fn with_every_origin_down_nobody_is_picked() {
        let balance = balance(&[1, 1]);
        let upstream = balance.upstream().clone();
        for origin in upstream.origins() {
            upstream.report(&origin, Verdict::ProbeFailed("test".into()));
        }
        assert!(balance.pick(0, &[]).is_none());
    }

    #[test]
    fn an_origin_already_tried_is_not_picked_again() {
        let balance = balance(&[9, 1]);
        let first = balance.pick(0, &[]).unwrap();
        let second = balance.pick(0, std::slice::from_ref(&first)).unwrap();
        assert!(!Arc::ptr_eq(&first, &second));
        assert!(balance.pick(0, &[first, second]).is_none());
    }

    #[test]
    fn set_aside_by_requests_alone_the_last_origin_is_still_tried() {
        let balance = balance(&[1, 1]);
        let upstream = balance.upstream().clone();
        upstream.report(&upstream.origins()[0], Verdict::Unreachable("test".into()));
        assert_eq!(ports(&balance, 2), [2, 2]);
        upstream.report(&upstream.origins()[1], Verdict::Unreachable("test".into()));
        let mut seen = ports(&balance, 2);
        seen.sort_unstable();
        assert_eq!(seen, [1, 2]);
    }

    #[test]
    fn many_renewals_do_not_make_for_more_requests_to_the_first() {
        let mut balance = balance(&[1, 1]);
        let mut first = 0_u32;
        for _ in 0..400 {
            let old = balance.upstream().clone();
            let (settings, resolver) =
                (old.settings().clone(), Resolver::new(DnsSettings::default()));
            let (metrics, budget) = (Metrics::default(), Budget::unlimited());
            let new = Upstream::renewed(&old, settings, resolver, metrics, budget).unwrap();
            new.succeed(&old);
            balance = RoundRobin::new(new);
            first += u32::from(ports(&balance, 1) == [1]);
        }
        // Ten times the standard deviation: once in 10^23 runs.
        assert!((100..=300).contains(&first), "{first}");
    }
}
