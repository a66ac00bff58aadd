//! Weighted rendezvous hashing: every origin bids for every key, and the highest bid has
//! it.
//!
//! A bid depends on the key, the origin's name and its weight, and on nothing else: not
//! on the other origins, their order, the process or the machine. So an origin that goes
//! leaves its keys to those that bid next, each key to another, and no other key moves;
//! an origin that comes takes only what it now bids highest for; and a request that has
//! to go elsewhere goes where its key would if the first were gone.
//!
//! A pick looks at every origin, at about a nanosecond each, without a lock. A table would
//! be faster for hundreds of origins, and would have keys move that need not.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use http::Request;

use super::{Balance, key};
use crate::body::Body;
use crate::upstream::{HashBy, Origin, Rotation, Upstream};

/// Picks the same origin for requests that are alike.
#[derive(Debug)]
pub struct Hashed {
    upstream: Arc<Upstream>,
    by: HashBy,
    bidders: ArcSwap<Bidders>,
    /// Stands in for a key where a request has none.
    turn: AtomicU64,
}

/// The origins of a rotation.
#[derive(Debug)]
struct Bidders {
    generation: u64,
    origins: Vec<Arc<Origin>>,
    /// By their order, what they are known by, and their weights.
    bidders: Vec<(u64, f64)>,
    /// Whether all have one weight.
    alike: bool,
}

impl Hashed {
    /// Picks among the origins of `upstream`.
    #[must_use]
    pub fn new(upstream: Arc<Upstream>, by: HashBy) -> Self {
        let bidders = ArcSwap::from_pointee(Bidders::of(&upstream.rotation()));
        Self { upstream, by, bidders, turn: AtomicU64::new(0) }
    }
}

impl Balance for Hashed {
    fn key(&self, request: &Request<Body>) -> u64 {
        let turn = || key::mixed(self.turn.fetch_add(1, Ordering::Relaxed));
        key::of(&self.by, request).unwrap_or_else(turn)
    }

    fn pick(&self, key: u64, tried: &[Arc<Origin>]) -> Option<Arc<Origin>> {
        let mut bidders = self.bidders.load();
        let rotation = self.upstream.rotation();
        if rotation.generation != bidders.generation {
            self.bidders.store(Arc::new(Bidders::of(&rotation)));
            bidders = self.bidders.load();
        }
        let is_new = |at: usize| {
            let origin = &bidders.origins[at];
            !tried.iter().any(|tried| Arc::ptr_eq(tried, origin))
        };
        let best = if bidders.alike {
            highest(&bidders.bidders, key, is_new)
        } else {
            highest_weighted(&bidders.bidders, key, is_new)
        };
        best.map(|at| bidders.origins[at].clone())
    }

    fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }
}

impl Bidders {
    fn of(rotation: &Rotation) -> Self {
        let mut named = HashMap::new();
        let number = |origin: &Arc<Origin>| {
            // One that is listed twice bids twice.
            let before: &mut u64 = named.entry(origin.shared_name().clone()).or_default();
            *before += 1;
            key::of_name(origin.name()).wrapping_add(*before - 1)
        };
        let numbers: Vec<u64> = rotation.origins.iter().map(number).collect();
        let weights = rotation.weights.iter().map(|weight| f64::from(*weight));
        Self {
            generation: rotation.generation,
            origins: rotation.origins.clone(),
            bidders: numbers.into_iter().zip(weights).collect(),
            alike: rotation.weights.windows(2).all(|pair| pair[0] == pair[1]),
        }
    }
}

/// What an origin draws for a key; all numbers are equally likely.
fn drawn(key: u64, bidder: u64) -> u64 {
    key::mixed(key ^ bidder)
}

/// Where the weights are alike the highest number is the highest bid.
fn highest(bidders: &[(u64, f64)], key: u64, is_new: impl Fn(usize) -> bool) -> Option<usize> {
    let mut best: Option<(u64, usize)> = None;
    for (at, (bidder, _)) in bidders.iter().enumerate() {
        let drawn = drawn(key, *bidder);
        if best.is_none_or(|(highest, _)| drawn > highest) && is_new(at) {
            best = Some((drawn, at));
        }
    }
    best.map(|(_, at)| at)
}

/// A bid is the weight by the negative logarithm of a number between 0 and 1: then each
/// bidder wins as often as its weight says, whatever the others' are.
fn highest_weighted(
    bidders: &[(u64, f64)],
    key: u64,
    is_new: impl Fn(usize) -> bool,
) -> Option<usize> {
    let mut best: Option<(f64, usize)> = None;
    for (at, (bidder, weight)) in bidders.iter().enumerate() {
        let missing = short_of_one(drawn(key, *bidder));
        // A logarithm is no smaller than this, so most need none.
        let hopeless = |(highest, _): (f64, usize)| *weight <= highest * missing;
        if best.is_some_and(hopeless) || !is_new(at) {
            continue;
        }
        let bid = weight / negative_logarithm(missing);
        if best.is_none_or(|(highest, _)| bid > highest) {
            best = Some((bid, at));
        }
    }
    best.map(|(_, at)| at)
}

/// By how much a number is short of 1, if all of them lie evenly between 0 and 1 without
/// being either.
#[allow(clippy::cast_precision_loss, reason = "no more than 53 bits are left")]
fn short_of_one(drawn: u64) -> f64 {
    const ULP: f64 = 1.0 / (1_u64 << 52) as f64;
    ((!drawn >> 12) as f64 + 0.5) * ULP
}

/// `-ln(1 - missing)`, by operations that every machine has the same result of, which
/// those of the system's library need not have.
fn negative_logarithm(missing: f64) -> f64 {
    let (mut rest, mut doubled) = (missing, 0.0);
    while rest > 1.0 / 3.0 {
        rest = 2.0 * rest - 1.0;
        doubled += 1.0;
    }
    // 2 artanh(ratio), with |ratio| at most a fifth.
    let ratio = rest / (2.0 - rest);
    let square = ratio * ratio;
    let series = ODD.iter().rev().fold(0.0, |sum, odd| sum * square + 1.0 / odd);
    doubled * std::f64::consts::LN_2 + 2.0 * ratio * series
}

const ODD: [f64; 12] = [1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 15.0, 17.0, 19.0, 21.0, 23.0];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Budget;
    use crate::observe::Metrics;
    use crate::upstream::{Balancing, OriginChange, OriginSettings, UpstreamSettings, Verdict};
    use proptest::prelude::*;

    fn hashed(weights: &[(u16, u32)]) -> Hashed {
        let origin = |(port, weight): &(u16, u32)| OriginSettings {
            url: format!("http://127.0.0.1:{port}").parse().unwrap(),
            weight: *weight,
        };
        let by = HashBy::Client;
        let mut settings = UpstreamSettings::new("test", weights.iter().map(origin).collect());
        settings.balance = Balancing::Hash(by.clone());
        let upstream = Upstream::new(settings, Metrics::default(), Budget::unlimited()).unwrap();
        Hashed::new(upstream, by)
    }

    fn picks(balance: &Hashed, keys: std::ops::Range<u64>) -> Vec<u16> {
        let port = |key| balance.pick(key::mixed(key), &[]).unwrap().url().port;
        keys.map(port).collect()
    }

    fn share(picks: &[u16], port: u16) -> f64 {
        let count = picks.iter().filter(|picked| **picked == port).count();
        count as f64 / picks.len() as f64
    }

    /// Any number of origins with their ports and weights; now and then alike.
    fn origins() -> impl Strategy<Value = Vec<(u16, u32)>> {
        let any = prop::collection::btree_map(1_u16..1_000, 1_u32..=20, 2..12);
        let alike = prop::collection::btree_map(1_u16..1_000, Just(1_u32), 2..12);
        prop_oneof![any, alike].prop_map(|map| map.into_iter().collect())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_origin_has_the_share_of_keys_that_its_weight_says(origins in origins()) {
            let picks = picks(&hashed(&origins), 0..4_000);
            let sum: u32 = origins.iter().map(|(_, weight)| weight).sum();
            for (port, weight) in &origins {
                let expected = f64::from(*weight) / f64::from(sum);
                // Six times the standard deviation.
                let loose = 6.0 * (expected * (1.0 - expected) / 4_000.0).sqrt();
                prop_assert!((share(&picks, *port) - expected).abs() < loose, "{port}");
            }
        }

        #[test]
        fn where_one_goes_only_its_keys_move_and_go_where_they_would_be_tried_next(
            origins in origins(), gone in any::<prop::sample::Index>()
        ) {
            let all = hashed(&origins);
            let before = picks(&all, 0..500);
            let mut fewer = origins.clone();
            let (gone, _) = fewer.remove(gone.index(origins.len()));
            let after = picks(&hashed(&fewer), 0..500);
            for (at, (before, after)) in before.iter().zip(&after).enumerate() {
                if *before == gone {
                    let key = key::mixed(at as u64);
                    let first = all.pick(key, &[]).unwrap();
                    let next = all.pick(key, &[first]).unwrap();
                    prop_assert_eq!(next.url().port, *after);
                } else {
                    prop_assert_eq!(before, after);
                }
            }
        }

        #[test]
        fn a_weight_that_grows_only_takes_keys(
            origins in origins(), which in any::<prop::sample::Index>(), more in 1_u32..20
        ) {
            let before = picks(&hashed(&origins), 0..500);
            let mut heavier = origins.clone();
            let which = which.index(origins.len());
            heavier[which].1 += more;
            let after = picks(&hashed(&heavier), 0..500);
            for (before, after) in before.iter().zip(&after) {
                prop_assert!(before == after || *after == origins[which].0);
            }
        }

        #[test]
        fn the_order_of_the_origins_does_not_matter(origins in origins()) {
            let turned: Vec<_> = origins.iter().rev().copied().collect();
            prop_assert_eq!(picks(&hashed(&origins), 0..500), picks(&hashed(&turned), 0..500));
        }

        #[test]
        fn logarithms_are_right(drawn in any::<u64>()) {
            let missing = short_of_one(drawn);
            prop_assert!(missing > 0.0 && missing < 1.0);
            let expected = -(-missing).ln_1p();
            let error = (negative_logarithm(missing) - expected).abs() / expected;
            prop_assert!(error < 1e-14, "{missing}: {error}");
        }
    }

    #[test]
    fn the_last_numbers_have_logarithms_too() {
        for drawn in [0, 1, u64::MAX - 1, u64::MAX] {
            let missing = short_of_one(drawn);
            let error = negative_logarithm(missing) / -(-missing).ln_1p() - 1.0;
            assert!(error.abs() < 1e-14, "{drawn}: {error}");
        }
    }

    /// What has to stay so from version to version: in a fleet of which half is renewed
    /// every key has one owner.
    #[test]
    fn another_process_picks_the_same() {
        let alike = hashed(&[(1, 1), (2, 1), (3, 1), (4, 1), (5, 1)]);
        assert_eq!(
            picks(&alike, 0..20),
            [5, 1, 1, 5, 5, 4, 1, 3, 1, 3, 2, 2, 3, 5, 2, 3, 4, 4, 2, 1]
        );
        let weighted = hashed(&[(1, 1), (2, 5), (3, 2), (4, 1), (5, 3)]);
        assert_eq!(
            picks(&weighted, 0..20),
            [5, 1, 5, 5, 2, 4, 1, 3, 1, 3, 2, 2, 5, 5, 2, 3, 4, 4, 2, 5]
        );
        assert_eq!(key::of_name("cache-1.example:8081"), 0x8a4c_e47e_7e6b_7ec1);
    }

    #[test]
    fn the_keys_of_an_origin_that_is_down_or_drained_come_back_with_it() {
        let balance = hashed(&[(1, 1), (2, 1), (3, 1)]);
        let before = picks(&balance, 0..100);
        let upstream = balance.upstream().clone();
        let second = upstream.origins()[1].clone();
        let others_stay = |after: &[u16]| {
            let moved = before.iter().zip(after).filter(|(before, after)| before != after);
            assert!(moved.clone().all(|(before, after)| *before == 2 && *after != 2));
            let to = |port| moved.clone().filter(|(_, after)| **after == port).count();
            assert!(to(1) > 5 && to(3) > 5, "all went to one");
        };
        upstream.report(&second, Verdict::ProbeFailed("test".into()));
        others_stay(&picks(&balance, 0..100));
        upstream.report(&second, Verdict::ProbeOk);
        upstream.report(&second, Verdict::ProbeOk);
        assert_eq!(picks(&balance, 0..100), before);
        let drain = |drained| OriginChange { drained: Some(drained), ..OriginChange::default() };
        upstream.set_origin("127.0.0.1:2", &drain(true)).unwrap();
        others_stay(&picks(&balance, 0..100));
        upstream.set_origin("127.0.0.1:2", &drain(false)).unwrap();
        assert_eq!(picks(&balance, 0..100), before);
    }

    #[test]
    fn every_origin_is_tried_once_in_an_order_of_the_keys_own() {
        let balance = hashed(&[(1, 1), (2, 9), (3, 2)]);
        let order = |key| {
            let mut tried = Vec::new();
            while let Some(origin) = balance.pick(key, &tried) {
                tried.push(origin);
            }
            tried.iter().map(|origin| origin.url().port).collect::<Vec<_>>()
        };
        let orders: std::collections::BTreeSet<_> =
            (0..200).map(|k| order(key::mixed(k))).collect();
        assert_eq!(orders.len(), 6);
        assert!(orders.iter().all(|order| order.len() == 3));
    }

    #[test]
    fn requests_without_a_key_take_turns() {
        let balance = hashed(&[(1, 1), (2, 1)]);
        let picks: Vec<u16> = (0..200)
            .map(|_| {
                let key = balance.key(&Request::new(Body::empty()));
                balance.pick(key, &[]).unwrap().url().port
            })
            .collect();
        assert!((0.3..0.7).contains(&share(&picks, 1)));
    }

    #[test]
    fn one_that_is_listed_twice_bids_twice() {
        let picks = picks(&hashed(&[(1, 1), (1, 1), (2, 1)]), 0..1_000);
        assert!((0.6..0.73).contains(&share(&picks, 1)));
    }
}
