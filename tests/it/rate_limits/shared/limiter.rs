//! Leases, refusals, one question at a time; and three instances together.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tollgate::layers::{Checked, DecidedBy, SharedSettings};
use tollgate::observe::SharedLimitOutcome;

use super::{Instance, patient, quota};
use crate::support::redis::Redis;
use crate::support::{eventually, within};

const SECOND: Duration = Duration::from_secs(1);

/// What became of those who asked in a tenth of a second: how many were admitted, and how
/// many were not.
type Tenth = (u64, u64);

/// So long is asked, in tenths of a second.
const TENTHS: usize = 25;

/// Asks as fast as it can.
async fn hammer(instance: Arc<Instance>, key: &'static [u8], started: Instant) -> Vec<Tenth> {
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let instance = instance.clone();
        tasks.spawn(async move {
            let mut tenths = vec![(0, 0); TENTHS];
            loop {
                let admitted = instance.admits(key).await;
                let tenth = (started.elapsed().as_millis() / 100) as usize;
                // What is admitted at the end is admitted as well.
                let (yes, no) = &mut tenths[tenth.min(TENTHS - 1)];
                *(if admitted { yes } else { no }) += 1;
                if tenth >= TENTHS {
                    return tenths;
                }
                tokio::task::yield_now().await;
            }
        });
    }
    sum(&tasks.join_all().await)
}

fn sum(all: &[Vec<Tenth>]) -> Vec<Tenth> {
    let one = |at: usize| {
        all.iter().map(|tenths| tenths[at]).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    };
    (0..TENTHS).map(one).collect()
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
            let each = instances.iter().map(|one| tokio::spawn(hammer(one.clone(), b"k", started)));
            let mut all = Vec::new();
            for one in futures_util::future::join_all(each).await {
                all.push(one.unwrap());
            }
            let limit = f64::from(burst) + f64::from(rate) * started.elapsed().as_secs_f64();
            let lease = patient().lease_of(&quota).get();
            let tenths = sum(&all);
            let admitted = tenths.iter().map(|(yes, _)| *yes).sum::<u64>() as f64;
            let asked: u64 = instances.iter().map(|one| one.counts.answers()).sum();
            println!(
                "{rate}/s, burst {burst}: admitted/limit {:.4} ({admitted} of {limit:.0}), \
                 lease {lease}, Redis was asked {asked} times",
                admitted / limit
            );
            // Whatever was admitted was taken from the one bucket.
            assert!(admitted <= limit + 1.0, "{admitted} of {limit}");
            // From the first refusal on all that comes back is admitted, as long as there is
            // somebody to admit: on a machine that has too much else to do there may not be.
            let first = tenths.iter().position(|(_, no)| *no > 0).unwrap_or(TENTHS);
            let later = tenths.get(first + 1..).unwrap_or_default();
            if later.len() < 5 || later.iter().any(|(_, no)| *no == 0) {
                println!("too little was asked for: {tenths:?}");
                continue;
            }
            let admitted = later.iter().map(|(yes, _)| *yes).sum::<u64>() as f64;
            let came = f64::from(rate) * 0.1 * (later.len() - 1) as f64;
            let slack = f64::from(3 * lease);
            assert!(admitted >= came * 0.99 - slack, "{admitted} of {came}: {tenths:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_left_here_and_what_is_left_there_are_put_together() {
    within(async {
        let redis = Redis::start();
        let lease = std::num::NonZeroU32::new(4);
        let settings = SharedSettings { lease, lease_time: 60 * SECOND, ..patient() };
        let instance = Instance::start(&redis.url(), quota(1, 3_600 * SECOND, 10), &settings).await;
        let admits = async |cost| instance.limiter.check(b"k", cost).decided().await.admitted;
        // One, two and four are taken for these, of which three are left, and three there.
        for _ in 0..4 {
            assert!(admits(1).await);
        }
        assert!(!admits(7).await);
        assert!(admits(5).await);
        assert!(!admits(2).await);
        assert!(admits(1).await);
        assert!(!admits(1).await);
    })
    .await;
}

#[tokio::test]
async fn a_key_of_another_kind_has_other_buckets() {
    within(async {
        let redis = Redis::start();
        let one = Instance::start(&redis.url(), quota(1, 3_600 * SECOND, 1), &patient()).await;
        let admits = async |limiter: &tollgate::layers::SharedLimiter| {
            limiter.check(b"k", 1).decided().await.admitted
        };
        let by_a = one.limiter.of_keys("header:a/32/64", 1_000);
        assert!(admits(&by_a).await);
        assert!(!admits(&one.limiter.of_keys("header:a/32/64", 9)).await);
        assert!(admits(&one.limiter.of_keys("header:b/32/64", 1_000)).await);
        assert!(admits(&one.limiter.of_keys("header:a/32/56", 1_000)).await);
    })
    .await;
}

#[tokio::test]
async fn more_keys_than_are_remembered_are_counted_without_redis_as_well() {
    within(async {
        let mut redis = Redis::start();
        let hour = quota(1, 3_600 * SECOND, 1);
        let instance = Instance::start(&redis.url(), hour, &patient()).await;
        redis.stop();
        eventually("it is gone", async || !instance.client.is_connected()).await;
        let limiter = instance.limiter.of_keys("route", 100);
        for key in 0..5_000_u32 {
            let (key, by) = (key.to_be_bytes(), DecidedBy::Local);
            let first = limiter.check(&key, 1).decided().await;
            let second = limiter.check(&key, 1).decided().await;
            assert_eq!((first.admitted, first.by), (true, by));
            assert_eq!((second.admitted, second.by), (false, by));
        }
        assert!(limiter.keys() < 500, "{}", limiter.keys());
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
        eventually("it is charged for", async || {
            limiter.check(b"n", 0).decided().await.remaining == 4
        })
        .await;
        limiter.charge(b"n", 9);
        eventually("all is charged for", async || {
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
