//! Leases, refusals, one question at a time; and three instances together.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tollgate::layers::{Checked, DecidedBy, SharedSettings};
use tollgate::observe::SharedLimitOutcome;

use super::{Instance, patient, quota};
use crate::support::redis::Redis;
use crate::support::within;

const SECOND: Duration = Duration::from_secs(1);

/// Asks as fast as it can for this long, and says how many were admitted.
async fn hammer(instance: Arc<Instance>, key: &'static [u8], until: Instant) -> u64 {
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let instance = instance.clone();
        tasks.spawn(async move {
            let mut admitted = 0;
            while Instant::now() < until {
                admitted += u64::from(instance.admits(key).await);
                tokio::task::yield_now().await;
            }
            admitted
        });
    }
    tasks.join_all().await.into_iter().sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_instances_admit_what_one_limit_is() {
    within(async {
        let redis = Redis::start();
        for (rate, burst) in [(2_000, 1_000), (50, 100), (10_000, 5_000)] {
            let quota = quota(rate, SECOND, burst);
            redis.ask(["FLUSHALL"]);
            let mut instances = Vec::new();
            for _ in 0..3 {
                instances.push(Arc::new(Instance::start(&redis.url(), quota, &patient()).await));
            }
            let started = Instant::now();
            let until = started + Duration::from_millis(2_500);
            let each = instances.iter().map(|one| tokio::spawn(hammer(one.clone(), b"k", until)));
            let mut admitted = 0;
            for one in each.collect::<Vec<_>>() {
                admitted += one.await.unwrap();
            }
            let limit = f64::from(burst) + f64::from(rate) * started.elapsed().as_secs_f64();
            let lease = patient().lease_of(&quota).get();
            let admitted = admitted as f64;
            let asked: u64 = instances.iter().map(|one| one.counts.answers()).sum();
            println!(
                "{rate}/s, burst {burst}: admitted/limit {:.4} ({admitted} of {limit:.0}), \
                 lease {lease}, Redis was asked {asked} times",
                admitted / limit
            );
            // Whatever was admitted was taken from the one bucket.
            assert!(admitted <= limit + 1.0, "{admitted} of {limit}");
            let slack = f64::from(3 * lease);
            assert!(admitted >= limit * 0.99 - slack, "{admitted} of {limit}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_busy_key_does_not_ask_for_each_request() {
    within(async {
        let redis = Redis::start();
        let quota = quota(100_000, SECOND, 100_000);
        let instance = Instance::start(&redis.url(), quota, &patient()).await;
        for number in 0..20_000 {
            let decision = instance.limiter.check(b"k", 1).decided().await;
            assert!(decision.admitted, "{number}: {decision:?}");
        }
        let asked = instance.counts.answers();
        assert!(asked < 60, "{asked}");
        assert!(instance.counts.get(SharedLimitOutcome::Lease) > 19_900);
        // One that takes nothing ahead asks each time.
        let exact = SharedSettings { lease: std::num::NonZeroU32::new(1), ..patient() };
        let instance = Instance::start(&redis.url(), quota, &exact).await;
        for _ in 0..100 {
            assert!(instance.admits(b"k").await);
        }
        assert_eq!(instance.counts.answers(), 100);
    })
    .await;
}

#[tokio::test]
async fn what_was_refused_costs_no_question_until_it_may_pass() {
    within(async {
        let redis = Redis::start();
        let quota = quota(1, 2 * SECOND, 3);
        let (one, other) = (
            Instance::start(&redis.url(), quota, &patient()).await,
            Instance::start(&redis.url(), quota, &patient()).await,
        );
        for _ in 0..3 {
            assert!(one.admits(b"k").await);
        }
        let refused = other.limiter.check(b"k", 1).decided().await;
        assert_eq!((refused.admitted, refused.by), (false, DecidedBy::Redis));
        assert!(refused.wait > Duration::ZERO && refused.wait <= 2 * SECOND, "{refused:?}");
        assert!(refused.reset > 4 * SECOND && refused.reset <= 6 * SECOND, "{refused:?}");
        let (asked, since) = (other.counts.answers(), Instant::now());
        for _ in 0..10_000 {
            let Checked::Now(decision) = other.limiter.check(b"k", 1) else { panic!("it asks") };
            assert!(!decision.admitted && decision.wait <= refused.wait);
        }
        assert_eq!(other.counts.answers(), asked);
        // It may not pass before, and does once it may.
        let mut decision = refused;
        while !decision.admitted {
            tokio::time::sleep(decision.wait).await;
            decision = other.limiter.check(b"k", 1).decided().await;
        }
        assert!(since.elapsed() + Duration::from_millis(100) >= refused.wait);
        assert!(other.counts.answers() <= asked + 3);
        assert!(!one.admits(b"k").await);
    })
    .await;
}

#[tokio::test]
async fn for_one_key_one_question_is_under_way() {
    within(async {
        let redis = Redis::start();
        let quota = quota(1, 3_600 * SECOND, 1_000);
        let instance = Instance::start(&redis.url(), quota, &patient()).await;
        assert!(instance.admits(b"other").await);
        redis.pause();
        let asked: Vec<_> = (0..500).map(|_| instance.limiter.check(b"k", 1)).collect();
        assert!(asked.iter().all(|asked| matches!(asked, Checked::Later(_))));
        redis.resume();
        let mut admitted = 0;
        for decision in asked {
            admitted += u32::from(decision.decided().await.admitted);
        }
        assert_eq!(admitted, 500);
        // The first for itself, and one for all the others; and for the other key.
        assert!(instance.counts.answers() <= 4, "{}", instance.counts.answers());
        // More than there are: each gets one until none is left.
        redis.pause();
        let asked: Vec<_> = (0..800).map(|_| instance.limiter.check(b"k", 1)).collect();
        redis.resume();
        for decision in asked {
            admitted += u32::from(decision.decided().await.admitted);
        }
        assert!((980..=1_000).contains(&admitted), "{admitted}");
    })
    .await;
}

#[tokio::test]
async fn whoever_goes_away_holds_up_nobody() {
    within(async {
        let redis = Redis::start();
        let instance = Instance::start(&redis.url(), quota(10, SECOND, 100), &patient()).await;
        redis.pause();
        let leads = instance.limiter.check(b"k", 1);
        let waits = instance.limiter.check(b"k", 1);
        let gone = instance.limiter.check(b"k", 1);
        drop((leads, gone));
        redis.resume();
        assert!(waits.decided().await.admitted);
    })
    .await;
}

#[tokio::test]
async fn rates_below_one_a_second_and_above_a_million_hold() {
    within(async {
        let redis = Redis::start();
        let slow = Instance::start(&redis.url(), quota(1, 10 * SECOND, 1), &patient()).await;
        assert!(slow.admits(b"k").await);
        let refused = slow.limiter.check(b"k", 1).decided().await;
        assert!(!refused.admitted && refused.wait > 9 * SECOND, "{refused:?}");
        let fast = quota(5_000_000, SECOND, 5_000_000);
        let fast = Instance::start(&redis.url(), fast, &patient()).await;
        for _ in 0..5 {
            let decision = fast.limiter.check(b"k", 1_000_000).decided().await;
            assert!(decision.admitted, "{decision:?}");
        }
        let mut decision = fast.limiter.check(b"k", 5_000_000).decided().await;
        assert!(!decision.admitted && decision.wait <= SECOND, "{decision:?}");
        while !decision.admitted {
            tokio::time::sleep(decision.wait).await;
            decision = fast.limiter.check(b"k", 5_000_000).decided().await;
        }
    })
    .await;
}

#[tokio::test]
async fn costs_quotas_and_keys_are_told_apart() {
    within(async {
        let redis = Redis::start();
        let whole = quota(1, 60 * SECOND, 10);
        let instance = Instance::start(&redis.url(), whole, &patient()).await;
        let limiter = &instance.limiter;
        let admitted = async |key: &[u8], cost| limiter.check(key, cost).decided().await.admitted;
        assert!(admitted(b"k", 7).await);
        assert!(!admitted(b"k", 4).await, "only three are left");
        assert!(admitted(b"k", 3).await);
        assert!(!admitted(b"k", 1).await);
        assert!(admitted(b"l", 1).await);
        assert!(!admitted(b"m", 11).await, "more than there ever is");
        // A key with a quota of its own is counted by itself.
        let own = quota(1, 60 * SECOND, 2);
        assert!(limiter.check_by(own, b"k", 2).decided().await.admitted);
        assert!(!limiter.check_by(own, b"k", 1).decided().await.admitted);
        // What is charged afterwards is taken as far as it goes.
        assert!(admitted(b"n", 1).await);
        limiter.charge(b"n", 5);
        crate::support::eventually("it is charged for", async || {
            limiter.check(b"n", 0).decided().await.remaining == 4
        })
        .await;
        limiter.charge(b"n", 9);
        crate::support::eventually("all is charged for", async || {
            limiter.check(b"n", 0).decided().await.remaining == 0
        })
        .await;
        // Nothing of a client is told to Redis.
        let keys = redis.ask(["KEYS", "*"]);
        let keys: Vec<&str> = keys.lines().filter(|line| line.starts_with("toll")).collect();
        assert_eq!(keys.len(), 4, "{keys:?}");
        for key in keys {
            let digest = key.strip_prefix("tollgate:limit:api/test:").unwrap();
            assert!(digest.len() == 32 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()));
            let expires: i64 = redis.ask(["PTTL", key])[1..].trim().parse().unwrap();
            assert!(expires > 0 && expires <= 600_001, "{expires}");
        }
    })
    .await;
}
