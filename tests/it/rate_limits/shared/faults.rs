//! Redis away, paused, cut off, or with something else to say.

use std::time::Duration;

use tokio::time::Instant;
use tollgate::layers::{Checked, DecidedBy, OnFailure, SharedSettings};
use tollgate::observe::{SharedLimitError, SharedLimitOutcome};
use tollgate::pace::Quota;
use tollgate::redis::RedisSettings;

use super::{Instance, patient, quota};
use crate::support::redis::{Redis, Way};
use crate::support::{eventually, within};

const SECOND: Duration = Duration::from_secs(1);

/// One that is never reached by what is asked here.
fn plenty() -> Quota {
    quota(1_000_000, SECOND, 1_000_000)
}

fn on_failure(on_failure: OnFailure) -> SharedSettings {
    SharedSettings { deadline: Duration::from_millis(50), on_failure, ..SharedSettings::default() }
}

/// Until it is counted by way of Redis again.
async fn is_counted(instance: &Instance) {
    eventually("it is counted by way of Redis", async || {
        let decision = instance.limiter.check(b"probe", 1).decided().await;
        matches!(decision.by, DecidedBy::Redis | DecidedBy::Lease)
    })
    .await;
}

/// Every request passes, for this long, and none waits for long.
async fn passes(instance: &Instance, time: Duration) -> Duration {
    let (until, mut longest) = (Instant::now() + time, Duration::ZERO);
    let mut number = 0_u32;
    while Instant::now() < until {
        number += 1;
        let asked = Instant::now();
        let key = format!("client {}", number % 50);
        let decision = instance.limiter.check(key.as_bytes(), 1).decided().await;
        assert!(decision.admitted, "{decision:?}");
        longest = longest.max(asked.elapsed());
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    assert!(longest < SECOND, "{longest:?}");
    longest
}

#[tokio::test]
async fn nobody_is_shut_out_while_redis_is_killed_and_comes_again() {
    within(async {
        let mut redis = Redis::start();
        let instance = Instance::start(&redis.url(), plenty(), &on_failure(OnFailure::Open)).await;
        passes(&instance, Duration::from_millis(300)).await;
        redis.stop();
        passes(&instance, Duration::from_millis(500)).await;
        let Checked::Now(decision) = instance.limiter.check(b"k", 1) else { panic!("it waits") };
        assert_eq!(decision.by, DecidedBy::FailedOpen);
        assert!(instance.counts.get(SharedLimitOutcome::Open) > 0);
        assert!(instance.counts.failures(SharedLimitError::Unreachable) > 0);
        redis.restart();
        passes(&instance, Duration::from_millis(500)).await;
        // The script is gone with the process, and told again.
        is_counted(&instance).await;
        passes(&instance, Duration::from_millis(200)).await;
    })
    .await;
}

#[tokio::test]
async fn nobody_waits_long_while_redis_is_paused() {
    within(async {
        let redis = Redis::start();
        let instance = Instance::start(&redis.url(), plenty(), &on_failure(OnFailure::Open)).await;
        passes(&instance, Duration::from_millis(200)).await;
        redis.pause();
        // Three wait for as long as anybody does; then it is known.
        let mut waited = 0;
        for number in 0..1_000_u32 {
            match instance.limiter.check(&number.to_be_bytes(), 1) {
                Checked::Now(decision) => assert!(decision.admitted),
                Checked::Later(decision) => {
                    waited += 1;
                    assert!(decision.await.admitted);
                }
            }
        }
        assert!((1..=4).contains(&waited), "{waited}");
        assert!(instance.counts.failures(SharedLimitError::Late) >= 3);
        passes(&instance, 2 * SECOND).await;
        redis.resume();
        is_counted(&instance).await;
        // And by Redis' own pause, where connections go on being accepted.
        redis.ask(["CLIENT", "PAUSE", "700"]);
        passes(&instance, Duration::from_millis(500)).await;
        is_counted(&instance).await;
    })
    .await;
}

#[tokio::test]
async fn a_network_that_is_cut_shuts_nobody_out() {
    within(async {
        let redis = Redis::start();
        let way = Way::to(redis.address()).await;
        let url = format!("redis://{}", way.address);
        let instance = Instance::start(&url, plenty(), &on_failure(OnFailure::Open)).await;
        passes(&instance, Duration::from_millis(200)).await;
        way.cut();
        passes(&instance, Duration::from_millis(500)).await;
        assert!(!instance.client.is_connected());
        way.mend();
        is_counted(&instance).await;
        // It swallows what is sent, and ends no connection.
        way.hold(true);
        passes(&instance, 3 * SECOND).await;
        way.hold(false);
        is_counted(&instance).await;
    })
    .await;
}

#[tokio::test]
async fn without_redis_it_is_as_configured() {
    within(async {
        let mut redis = Redis::start();
        let few = quota(1, 600 * SECOND, 6);
        let start = async |settings| Instance::start(&redis.url(), few, &settings).await;
        let closed = start(on_failure(OnFailure::Closed)).await;
        let alone = start(on_failure(OnFailure::Local)).await;
        let share = SharedSettings {
            instances: std::num::NonZeroU32::new(3).unwrap(),
            ..on_failure(OnFailure::Local)
        };
        let share = start(share).await;
        for _ in 0..6 {
            assert!(alone.limiter.check(b"used up", 1).decided().await.admitted);
        }
        redis.stop();
        eventually("it is gone", async || {
            [&closed, &alone, &share].iter().all(|one| !one.client.is_connected())
        })
        .await;
        let decision = closed.limiter.check(b"k", 1).decided().await;
        assert_eq!((decision.admitted, decision.by), (false, DecidedBy::FailedClosed));
        assert_eq!(decision.wait, SECOND);
        let admitted = async |instance: &Instance, key: &[u8]| {
            let mut admitted = 0;
            for _ in 0..20 {
                let decision = instance.limiter.check(key, 1).decided().await;
                assert!(matches!(decision.by, DecidedBy::Local | DecidedBy::Remembered));
                admitted += u32::from(decision.admitted);
            }
            admitted
        };
        assert_eq!(admitted(&alone, b"k").await, 6);
        assert_eq!(admitted(&share, b"k").await, 2);
        // Who had used everything up does not get it again.
        assert_eq!(admitted(&alone, b"used up").await, 0);
    })
    .await;
}

/// Until Redis has been asked so often by nobody.
async fn is_asked_by_itself(instance: &Instance) {
    let before = instance.counts.answers();
    eventually("it is asked by itself", async || instance.counts.answers() >= before + 3).await;
}

#[tokio::test]
async fn nobody_has_to_be_turned_away_for_an_outage_to_end() {
    within(async {
        let mut redis = Redis::start();
        let settings = SharedSettings { on_failure: OnFailure::Closed, ..patient() };
        let instance = Instance::start(&redis.url(), plenty(), &settings).await;
        let by = async || instance.limiter.check(b"k", 1).decided().await.by;
        assert_eq!(by().await, DecidedBy::Redis);
        redis.stop();
        eventually("it is gone", async || !instance.client.is_connected()).await;
        assert_eq!(by().await, DecidedBy::FailedClosed);
        redis.restart();
        is_asked_by_itself(&instance).await;
        assert_ne!(by().await, DecidedBy::FailedClosed);
        // What is refused to one limit alone, as a whole or for what it is to write.
        for (wrong, right) in [
            (&["ACL", "SETUSER", "default", "-eval", "-evalsha"][..], "+eval +evalsha"),
            (&["CONFIG", "SET", "maxmemory", "1"], ""),
        ] {
            redis.ask(wrong);
            eventually("it is refused", async || by().await == DecidedBy::FailedClosed).await;
            if right.is_empty() {
                redis.ask(["CONFIG", "SET", "maxmemory", "0"]);
            } else {
                redis.ask(["ACL", "SETUSER", "default"].into_iter().chain(right.split(' ')));
            }
            is_asked_by_itself(&instance).await;
            assert_ne!(by().await, DecidedBy::FailedClosed, "{wrong:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_redis_that_refuses_is_as_good_as_none() {
    within(async {
        let redis = Redis::start();
        let instance = Instance::start(&redis.url(), plenty(), &on_failure(OnFailure::Open)).await;
        is_counted(&instance).await;
        // Scripts are forgotten: it is told again, and nobody notices.
        redis.ask(["SCRIPT", "FLUSH"]);
        let decision = instance.limiter.check(b"after the flush", 1).decided().await;
        assert_eq!(decision.by, DecidedBy::Redis);
        // Nobody may ask for anything.
        redis.ask(["ACL", "SETUSER", "default", "-evalsha", "-eval"]);
        passes(&instance, Duration::from_millis(300)).await;
        assert!(instance.counts.failures(SharedLimitError::Refused) > 0);
        redis.ask(["ACL", "SETUSER", "default", "+evalsha", "+eval"]);
        is_counted(&instance).await;
        // No memory for what it is to keep.
        redis.ask(["CONFIG", "SET", "maxmemory", "1"]);
        passes(&instance, Duration::from_millis(300)).await;
        redis.ask(["CONFIG", "SET", "maxmemory", "0"]);
        is_counted(&instance).await;
    })
    .await;
}

#[tokio::test]
async fn one_that_only_serves_as_replica_is_not_taken_for_a_connection() {
    within(async {
        let redis = Redis::start();
        let instance = Instance::start(&redis.url(), plenty(), &on_failure(OnFailure::Open)).await;
        is_counted(&instance).await;
        assert!(instance.client.is_connected());
        redis.ask(["REPLICAOF", "127.0.0.1", "1"]);
        eventually("it is of no use", async || {
            let _asked = instance.limiter.check(b"k", 1).decided().await;
            !instance.client.is_connected()
        })
        .await;
        // It is connected to again and again.
        for _ in 0..100 {
            assert!(!instance.client.is_connected());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        redis.ask(["REPLICAOF", "NO", "ONE"]);
        is_counted(&instance).await;
        let since = Instant::now();
        while !instance.client.is_connected() {
            assert!(since.elapsed() < 10 * SECOND, "it is never said to be connected");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn what_redis_forgets_is_not_remembered_here() {
    within(async {
        let mut redis = Redis::start();
        let few = quota(10, SECOND, 10);
        let instance = Instance::start(&redis.url(), few, &patient()).await;
        while instance.admits(b"k").await {}
        redis.stop();
        redis.restart();
        is_counted(&instance).await;
        // Within the time that was told it passes again.
        eventually("it passes", async || instance.admits(b"k").await).await;
    })
    .await;
}

#[tokio::test]
async fn before_there_was_a_redis_it_is_as_configured() {
    within(async {
        let mut redis = Redis::start();
        redis.stop();
        let settings = RedisSettings::new(redis.url().parse().unwrap());
        let client = tollgate::redis::Redis::new(&settings).unwrap();
        let limits = tollgate::layers::SharedLimits::new(client);
        let counts = tollgate::observe::SharedLimitCounts::default();
        let limiter = tollgate::layers::SharedLimiter::new(
            &limits,
            "r",
            plenty(),
            &on_failure(OnFailure::Open),
            counts,
        );
        assert!(matches!(limiter.check(b"k", 1), Checked::Now(decision) if decision.admitted));
    })
    .await;
}

#[tokio::test]
async fn however_much_is_asked_in_a_moment_the_connection_stays() {
    within(async {
        let redis = Redis::start();
        redis.ask(["SET", "k", &"x".repeat(1_000)]);
        let instance = Instance::start(&redis.url(), plenty(), &patient()).await;
        let client = instance.client.clone();
        let id = async || client.ask_about(b"k", tollgate::redis::cmd("CLIENT").arg("ID")).await;
        let before = id().await.unwrap();
        let mut get = tollgate::redis::cmd("GET");
        get.arg("k");
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..60 {
            let (client, get) = (client.clone(), get.clone());
            tasks.spawn(async move {
                for _ in 0..1_000 {
                    client.ask_about(b"k", &get).await.unwrap();
                }
            });
        }
        tasks.join_all().await;
        assert_eq!(id().await.unwrap(), before);
        // One that is too long is another matter.
        redis.ask(["SET", "long", &"x".repeat(2 << 20)]);
        let mut get = tollgate::redis::cmd("GET");
        get.arg("long");
        client.ask_about(b"long", &get).await.unwrap_err();
    })
    .await;
}

#[tokio::test]
async fn one_who_has_no_patience_does_not_decide_for_another() {
    within(async {
        let redis = Redis::start();
        let way = Way::to(redis.address()).await;
        let url = format!("redis://{}", way.address);
        let settings = SharedSettings { on_failure: OnFailure::Open, ..patient() };
        let mut redis = RedisSettings::new(url.parse().unwrap());
        redis.timeout = 20 * SECOND;
        let instance = Instance::start_with(redis, plenty(), &settings).await;
        let hasty = SharedSettings { deadline: Duration::from_millis(1), ..settings };
        let hasty = tollgate::layers::SharedLimiter::new(
            &instance.limits,
            "api/hasty",
            plenty(),
            &hasty,
            instance.counts.clone(),
        );
        way.hold(true);
        let mut number = 0_u32;
        eventually("it waits no more", async || {
            number += 1;
            let checked = hasty.check(&number.to_be_bytes(), 1);
            let waits_no_more = matches!(checked, Checked::Now(_));
            assert_eq!(checked.decided().await.by, DecidedBy::FailedOpen);
            waits_no_more
        })
        .await;
        let Checked::Later(patient) = instance.limiter.check(b"k", 1) else {
            panic!("it is decided")
        };
        way.hold(false);
        assert_eq!(patient.await.by, DecidedBy::Redis);
    })
    .await;
}

#[tokio::test]
async fn keys_that_no_node_has_do_not_stand_for_those_of_another() {
    within(async {
        let url = "redis://127.0.0.1:1".parse().unwrap();
        let settings = RedisSettings::at(tollgate::redis::RedisAt::Cluster(vec![url]));
        let client = tollgate::redis::Redis::new(&settings).unwrap();
        assert_eq!(client.node_of(b"k"), None);
        let limits = tollgate::layers::SharedLimits::new(client);
        let counts = tollgate::observe::SharedLimitCounts::default();
        let open = on_failure(OnFailure::Open);
        let limiter =
            tollgate::layers::SharedLimiter::new(&limits, "r", plenty(), &open, counts.clone());
        limiter.charge(b"k", 1);
        assert_eq!(counts.failures(SharedLimitError::Unreachable), 0, "nobody is asked");
        let Checked::Now(decision) = limiter.check(b"k", 1) else { panic!("it waits") };
        assert_eq!(decision.by, DecidedBy::FailedOpen);
        assert_eq!(counts.failures(SharedLimitError::Unreachable), 1);
    })
    .await;
}
