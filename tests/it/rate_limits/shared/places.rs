//! A cluster, a master that sentinels name, TLS and passwords.

use std::sync::Arc;
use std::time::Duration;

use tollgate::layers::{DecidedBy, OnFailure, SharedSettings};
use tollgate::redis::{RedisAt, RedisPassword, RedisSettings, SentinelSettings};

use super::{Instance, patient, quota};
use crate::support::certs::Authority;
use crate::support::redis::{How, Redis, free_port};
use crate::support::redis_many::{Cluster, Watched, sentinel};
use crate::support::{eventually, within};

const SECOND: Duration = Duration::from_secs(1);

fn cluster(cluster: &Cluster) -> RedisSettings {
    let urls = cluster.urls().iter().map(|url| url.parse().unwrap()).collect();
    RedisSettings::at(RedisAt::Cluster(urls))
}

fn watched(watched: &Watched) -> RedisSettings {
    let urls = vec![watched.sentinel.url().parse().unwrap()];
    let password = Some(RedisPassword::new("watching".into()));
    let (master, database, username) = ("mymaster".to_owned(), 0, None);
    let sentinel = SentinelSettings { urls, master, database, username, password };
    let mut settings = RedisSettings::at(RedisAt::Sentinel(sentinel));
    settings.password = Some(RedisPassword::new("s3cret".into()));
    settings
}

/// The keys of this Redis.
fn keys(redis: &Redis) -> Vec<String> {
    let answer = redis.ask(["KEYS", "*"]);
    answer.lines().filter(|line| line.starts_with("toll")).map(str::to_owned).collect()
}

async fn decides(instance: &Instance, key: &[u8]) -> DecidedBy {
    instance.limiter.check(key, 1).decided().await.by
}

#[tokio::test]
async fn a_cluster_counts_as_one() {
    within(Box::pin(async {
        let mut nodes = Cluster::start(Some("s3cret"));
        let mut settings = cluster(&nodes);
        settings.password = Some(RedisPassword::new("s3cret".into()));
        let few = quota(1, 600 * SECOND, 3);
        let local = SharedSettings { on_failure: OnFailure::Open, ..patient() };
        let one = Instance::start_with(settings.clone(), few, &local).await;
        let other = Instance::start_with(settings, few, &local).await;
        for number in 0..40_u32 {
            let key = number.to_be_bytes();
            assert!(one.admits(&key).await && other.admits(&key).await && one.admits(&key).await);
            assert!(!one.admits(&key).await && !other.admits(&key).await, "{number}");
        }
        let each: Vec<usize> = nodes.nodes.iter().map(|node| keys(node).len()).collect();
        assert_eq!(each.iter().sum::<usize>(), 40);
        assert!(each.iter().all(|count| *count > 3), "{each:?}");
        // One node goes: what it has is not counted, and all else is.
        assert_eq!(decides(&other, b"fresh").await, DecidedBy::Redis);
        let gone = 2;
        nodes.nodes[gone].stop();
        eventually("it is noticed", async || !one.client.is_connected()).await;
        let (mut open, mut counted) = (0, 0);
        for number in 1_000..1_060_u32 {
            match decides(&one, &number.to_be_bytes()).await {
                DecidedBy::Redis => counted += 1,
                DecidedBy::FailedOpen => open += 1,
                by => panic!("{by:?}"),
            }
        }
        assert!(open > 5 && counted > 20, "{open} {counted}");
        nodes.nodes[gone].restart();
        eventually("it is whole again", async || one.client.is_connected()).await;
        eventually("it counts again", async || {
            let mut all = true;
            for number in 2_000..2_010_u32 {
                all &= decides(&one, &number.to_be_bytes()).await != DecidedBy::FailedOpen;
            }
            all
        })
        .await;
    }))
    .await;
}

#[tokio::test]
async fn a_node_that_is_cut_off_from_its_cluster_is_not_believed_for_ever() {
    within(async {
        // It knows of itself alone, and does not do anything: a slot is nobody's.
        let stale = Redis::start_as(How {
            arguments: ["--cluster-enabled", "yes", "--cluster-port", &free_port().to_string()]
                .map(str::to_owned)
                .into(),
            ..How::default()
        });
        stale.ask(["CLUSTER", "ADDSLOTSRANGE", "0", "16382"]);
        let nodes = Cluster::start(None);
        let mut settings = cluster(&nodes);
        let RedisAt::Cluster(urls) = &mut settings.at else { panic!("no cluster") };
        urls.insert(0, stale.url().parse().unwrap());
        let instance = Instance::start_with(settings, quota(1, 600 * SECOND, 3), &patient()).await;
        let mut number = 0_u32;
        eventually("it counts at the others", async || {
            number += 1;
            decides(&instance, &number.to_be_bytes()).await == DecidedBy::Redis
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn a_key_that_moves_within_a_cluster_is_found() {
    within(async {
        let nodes = Cluster::start(None);
        let few = quota(1, 600 * SECOND, 3);
        let one = Instance::start_with(cluster(&nodes), few, &patient()).await;
        for number in 0..20_u32 {
            assert!(one.admits(&number.to_be_bytes()).await);
        }
        // A slot moves: first it is asked for, and then it has moved.
        let name = keys(&nodes.nodes[0]).remove(0);
        let slot = nodes.slot(&name);
        let (from, to) = (nodes.id(0), nodes.id(1));
        let tells = |node: usize, how: &str, id: &str| {
            let answer = nodes.nodes[node].ask(["CLUSTER", "SETSLOT", &slot, how, id]);
            assert!(answer.starts_with("+OK"), "{answer}");
        };
        tells(1, "IMPORTING", &from);
        tells(0, "MIGRATING", &to);
        nodes.nodes[0].ask(["DEL", &name]);
        let by_name = async |instance: &Instance| {
            let mut taken = 0;
            let mut command = tollgate::redis::cmd("INCR");
            command.arg(&name);
            if instance.client.ask_about(name.as_bytes(), &command).await.is_ok() {
                taken += 1;
            }
            taken
        };
        assert_eq!(by_name(&one).await, 1, "asked for where it is coming to");
        for node in [1, 0, 2] {
            tells(node, "NODE", &to);
        }
        assert_eq!(by_name(&one).await, 1, "asked for where it has gone to");
        assert!(nodes.nodes[1].ask(["GET", &name]).contains("\r\n2\r\n"));
    })
    .await;
}

#[tokio::test]
async fn a_failover_of_sentinels_is_followed() {
    within(async {
        let mut all = Watched::start(Some("s3cret"));
        let open = SharedSettings {
            on_failure: OnFailure::Open,
            deadline: Duration::from_millis(50),
            ..SharedSettings::default()
        };
        let few = quota(1, 600 * SECOND, 3);
        let instance = Instance::start_with(watched(&all), few, &open).await;
        eventually("it counts", async || decides(&instance, b"first").await == DecidedBy::Redis)
            .await;
        assert_eq!(keys(&all.master).len(), 1);
        let (before, after) = (all.master.port, all.replica.port);
        assert_eq!(all.named(), before);
        all.master.stop();
        eventually("the sentinel names another", async || {
            assert!(instance.admits(b"second").await, "nobody is shut out meanwhile");
            all.named() == after
        })
        .await;
        let mut number = 0_u32;
        eventually("it counts at the other", async || {
            number += 1;
            decides(&instance, &number.to_be_bytes()).await == DecidedBy::Redis
        })
        .await;
        assert!(!keys(&all.replica).is_empty());
        // The one that was comes again as a replica, and is not gone back to.
        all.master.restart();
        assert!(instance.admits(b"third").await);
        assert_eq!(all.named(), after);
    })
    .await;
}

#[tokio::test]
async fn a_sentinel_that_names_one_who_is_gone_is_not_believed_for_ever() {
    within(async {
        let all = Watched::start(Some("s3cret"));
        let stale = sentinel(free_port(), Some("s3cret"));
        let mut settings = watched(&all);
        let RedisAt::Sentinel(sentinels) = &mut settings.at else { panic!("no sentinels") };
        sentinels.urls.insert(0, stale.url().parse().unwrap());
        let few = quota(1, 600 * SECOND, 3);
        let instance = Instance::start_with(settings, few, &patient()).await;
        assert_eq!(decides(&instance, b"k").await, DecidedBy::Redis);
    })
    .await;
}

#[tokio::test]
async fn a_master_that_only_serves_as_replica_any_more_is_left() {
    within(async {
        let all = Watched::start(Some("s3cret"));
        let few = quota(1, 600 * SECOND, 3);
        let open = SharedSettings { on_failure: OnFailure::Open, ..patient() };
        let instance = Instance::start_with(watched(&all), few, &open).await;
        assert!(instance.admits(b"k").await);
        eventually("the sentinel has another be the master", async || {
            all.sentinel.ask(["SENTINEL", "FAILOVER", "mymaster"]).starts_with("+OK")
        })
        .await;
        eventually("the sentinel names another", async || all.named() == all.replica.port).await;
        let mut number = 0_u32;
        eventually("it counts at the other", async || {
            number += 1;
            let by = decides(&instance, &number.to_be_bytes()).await;
            by == DecidedBy::Redis && keys(&all.replica).len() > 1
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn over_tls_with_a_user_and_password_that_change() {
    within(async {
        let dir = tempfile::tempdir().unwrap();
        let authority = Arc::new(Authority::new());
        authority.write(dir.path());
        let how = How {
            tls: Some(authority),
            arguments: "--user limits on >first ~tollgate:* -@all \
                        +evalsha +eval +time +get +set +ping"
                .split_whitespace()
                .map(str::to_owned)
                .collect(),
            ..How::default()
        };
        let mut redis = Redis::start_as(how);
        let mut settings = RedisSettings::new(redis.url().parse().unwrap());
        settings.ca = Some(dir.path().join("ca.pem"));
        settings.username = Some("limits".into());
        settings.password = Some(RedisPassword::new("first".into()));
        let few = quota(1, 600 * SECOND, 3);
        let open = SharedSettings { on_failure: OnFailure::Open, ..patient() };
        let instance = Instance::start_with(settings.clone(), few, &open).await;
        assert_eq!(decides(&instance, b"k").await, DecidedBy::Redis);
        // By an address that the certificate is not for, but with the name that it is for.
        let mut named = settings.clone();
        named.at = RedisAt::Url(format!("rediss://127.0.0.1:{}", redis.port).parse().unwrap());
        let wrong = tollgate::redis::Redis::new(&named).unwrap();
        assert!(wrong.dedicated_to(b"", 1 << 10).await.is_err());
        named.server_name = Some("localhost".into());
        let right = tollgate::redis::Redis::new(&named).unwrap();
        assert!(right.dedicated_to(b"", 1 << 10).await.is_ok());
        // The password changes: connections stay, and the next is made with the new one.
        settings.password = Some(RedisPassword::new("second".into()));
        redis.stop();
        redis.how.arguments[3] = ">second".to_owned();
        redis.restart();
        eventually("it is noticed", async || {
            instance
                .client
                .trouble()
                .is_some_and(|trouble| trouble.contains("authentication failed"))
        })
        .await;
        assert_eq!(decides(&instance, b"l").await, DecidedBy::FailedOpen);
        instance.client.log_in_as(&settings);
        // Each look is one of these requests as well.
        let mut number = 0_u32;
        eventually("it counts again", async || {
            number += 1;
            decides(&instance, &number.to_be_bytes()).await == DecidedBy::Redis
        })
        .await;
    })
    .await;
}
