//! Whole proxies that share a limit.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::reload::reload;
use crate::support::client::{Raw, ask, get};
use crate::support::proxy::{Running, Setup};
use crate::support::redis::Redis;
use crate::support::{eventually, within};

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// One that answers by itself, within a limit that it shares.
fn sharing(redis: &Redis, limit: &str, shared: &str) -> Running {
    setup(redis, limit, shared).start()
}

fn setup(redis: &Redis, limit: &str, shared: &str) -> Setup {
    Setup::new(format!(
        "[redis]\nurl = \"{}\"\n[[route]]\nname = \"all\"\nrespond = {{ body = \"ok\" }}\n\
         [[route.rate_limit]]\n{limit}\n[route.rate_limit.shared]\n{shared}\n",
        redis.url()
    ))
}

async fn metrics(proxy: &Running) -> String {
    ask(proxy.admin, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").await.text()
}

/// How many requests were decided so.
async fn decided(proxy: &Running, outcome: &str) -> u64 {
    let line = format!("tollgate_rate_limit_shared_total{{route=\"all\",outcome=\"{outcome}\"}} ");
    let metrics = metrics(proxy).await;
    let count = metrics.lines().find_map(|known| known.strip_prefix(&line));
    count.unwrap_or_else(|| panic!("{metrics}")).parse().unwrap()
}

async fn connected(proxy: &Running) {
    let line = "tollgate_redis_connected 1";
    eventually("it is connected", async || metrics(proxy).await.contains(line)).await;
}

/// Asks over and over until told to stop, and says how many of how many were let through.
async fn hammer(address: SocketAddr, stop: Arc<AtomicBool>) -> (u64, u64) {
    let mut client = Raw::connect(address).await;
    let (mut admitted, mut asked) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        client.send(REQUEST).await;
        match client.answer().await.status {
            200 => admitted += 1,
            429 => {}
            status => panic!("{status}"),
        }
        asked += 1;
    }
    (admitted, asked)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_proxies_let_through_what_one_limit_is() {
    within(async {
        let redis = Redis::start();
        let (rate, burst, lease) = (200.0, 200.0, 4.0);
        let limit = "rate = 200\nburst = 200";
        let proxies: Vec<Running> =
            (0..3).map(|_| sharing(&redis, limit, "deadline = \"5s\"")).collect();
        for proxy in &proxies {
            connected(proxy).await;
        }
        let (started, stop) = (Instant::now(), Arc::new(AtomicBool::new(false)));
        let clients = proxies.iter().flat_map(|proxy| [proxy.address; 2]);
        let clients: Vec<_> =
            clients.map(|address| tokio::spawn(hammer(address, stop.clone()))).collect();
        tokio::time::sleep(Duration::from_secs(4)).await;
        stop.store(true, Ordering::Relaxed);
        let (mut admitted, mut asked) = (0.0, 0);
        for client in clients {
            let (let_through, all) = client.await.unwrap();
            admitted += let_through as f64;
            asked += all;
        }
        let limit = burst + rate * started.elapsed().as_secs_f64();
        println!(
            "three proxies: admitted/limit {:.4} ({admitted} of {limit:.0}), asked {asked}",
            admitted / limit
        );
        assert!(admitted <= limit + 1.0, "{admitted} of {limit}");
        assert!(admitted >= limit * 0.99 - 3.0 * lease, "{admitted} of {limit}");
        for proxy in &proxies {
            assert!(decided(proxy, "redis").await > 0);
            assert_eq!(decided(proxy, "local").await, 0);
        }
    })
    .await;
}

#[tokio::test]
async fn nobody_is_shut_out_or_kept_waiting_while_redis_is_paused_or_gone() {
    within(async {
        let mut redis = Redis::start();
        let shared = "on_failure = \"open\"\ndeadline = \"20ms\"\nlease = 1";
        let proxy = sharing(&redis, "rate = 1000000", shared);
        connected(&proxy).await;
        let mut client = Raw::connect(proxy.address).await;
        let mut longest = Duration::ZERO;
        let mut passes = async |count: u32| {
            for _ in 0..count {
                let asked = Instant::now();
                client.send(REQUEST).await;
                assert_eq!(client.answer().await.status, 200);
                longest = longest.max(asked.elapsed());
            }
        };
        passes(200).await;
        assert_eq!(decided(&proxy, "open").await, 0);
        redis.pause();
        passes(200).await;
        assert!(decided(&proxy, "open").await > 100);
        redis.resume();
        redis.stop();
        passes(200).await;
        redis.restart();
        passes(200).await;
        let counted = decided(&proxy, "redis").await;
        eventually("it counts by way of Redis again", async || {
            passes(10).await;
            decided(&proxy, "redis").await > counted
        })
        .await;
        assert!(longest < Duration::from_secs(2), "{longest:?}");
        let errors = metrics(&proxy).await;
        assert!(errors.contains("tollgate_rate_limit_shared_errors_total"), "{errors}");
        assert!(errors.contains("tollgate_rate_limit_shared_answer_seconds_count"), "{errors}");
    })
    .await;
}

#[tokio::test]
async fn closed_it_says_that_it_cannot_serve_and_not_that_the_client_asks_too_often() {
    within(async {
        let mut redis = Redis::start();
        let proxy =
            sharing(&redis, "rate = 2\nper = \"1h\"", "on_failure = \"closed\"\ndeadline = \"2s\"");
        connected(&proxy).await;
        for expected in [200, 200, 429] {
            let answer = get(proxy.address, "/", "").await;
            assert_eq!(answer.status, expected, "{}", answer.text());
            if expected == 429 {
                let wait: u64 = answer.field("retry-after").unwrap().parse().unwrap();
                assert!((1..=1_800).contains(&wait), "{wait}");
            }
        }
        redis.stop();
        eventually("it is noticed", async || metrics(&proxy).await.contains("redis_connected 0"))
            .await;
        // A refusal that is remembered stands: that it was refused is known.
        assert_eq!(get(proxy.address, "/", "").await.status, 429);
        let other = get(proxy.address, "/", "").await;
        assert!(other.field("retry-after").is_some());
        redis.restart();
    })
    .await;
}

#[tokio::test]
async fn who_has_no_connection_yet_is_told_so_if_it_is_closed() {
    within(async {
        let mut redis = Redis::start();
        redis.stop();
        let proxy = sharing(&redis, "rate = 2\nper = \"1h\"", "on_failure = \"closed\"");
        let answer = get(proxy.address, "/", "").await;
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert_eq!(answer.field("retry-after"), Some("1"));
        let line = &proxy.log_lines(1).await[0];
        assert!(
            line.contains("rate_limit_unavailable") && line.contains("limit=address"),
            "{line}"
        );
        // That is not one too many.
        let metrics = metrics(&proxy).await;
        let none = "tollgate_rate_limited_total{route=\"all\",limit=\"address\"} 0";
        assert!(metrics.contains(none), "{metrics}");
    })
    .await;
}

#[tokio::test]
async fn a_reload_that_brings_redis_along_says_what_it_takes() {
    within(async {
        let redis = Redis::start();
        let alone = "[[route]]\nname = \"all\"\nrespond = { body = \"ok\" }\n";
        let proxy = Setup::new(alone.to_owned()).start();
        let refused = reload(&proxy, &setup(&redis, "rate = 2", "")).await.unwrap_err();
        assert!(refused.to_string().contains("a restart or an upgrade"), "{refused}");
    })
    .await;
}
