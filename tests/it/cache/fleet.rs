//! Purges of several instances, by way of a real Redis.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::disk::{self, ended};
use super::operating::{post, told};
use super::{cached, counting, get, metrics, ok, origin, said, send};
use crate::support::certs::Authority;
use crate::support::origin::Origin;
use crate::support::proxy::{Running, Setup};
use crate::support::redis::{How, Redis, Way};
use crate::support::{eventually, within};

const FRESH: &str = "Cache-Control: max-age=600\r\nETag: \"v\"\r\n";

/// A proxy of a fleet that goes by way of this.
fn member(origin: &Origin, redis: &str) -> Setup {
    member_with(origin, redis, "", "")
}

fn member_with(origin: &Origin, redis: &str, of_redis: &str, of_fleet: &str) -> Setup {
    cached(origin, "").and(&format!(
        "[redis]\nurl = \"{redis}\"\ntimeout = \"300ms\"\nconnect_timeout = \"2s\"\n{of_redis}\n\
         [cache.fleet]\n{of_fleet}"
    ))
}

async fn fleet(proxy: &Running) -> Value {
    told(proxy, "/api/cache").await["fleet"].take()
}

async fn connected(proxies: &[&Running]) {
    for proxy in proxies {
        eventually("it is connected", async || fleet(proxy).await["connected"] == true).await;
    }
}

async fn three(origin: &Origin, redis: &Redis) -> Vec<Running> {
    let proxies: Vec<Running> = (0..3).map(|_| member(origin, &redis.url()).start()).collect();
    connected(&proxies.iter().collect::<Vec<_>>()).await;
    proxies
}

async fn hits(proxy: &Running, path: &str) -> bool {
    said(&get(proxy, path, "").await).contains("; hit")
}

/// What is stored of a path, and whether it may be used without asking.
async fn stored(proxy: &Running, path: &str) -> Option<bool> {
    let shown = told(proxy, &format!("/api/cache?url=http://a.test{path}")).await;
    shown["routes"][0]["variants"][0]["fresh"].as_bool()
}

async fn purge(proxy: &Running, what: &Value) -> (u16, Value) {
    post(proxy, "/api/cache/purge", what).await
}

#[tokio::test]
async fn a_purge_at_one_is_carried_out_by_all() {
    within(async {
        let redis = Redis::start();
        let origin = origin(|request, count| {
            let tag = if request.starts_with("GET /b") { "b" } else { "a" };
            ok(&format!("{FRESH}Surrogate-Key: {tag}\r\n"), &format!("body {count}"))
        })
        .await;
        let proxies = three(&origin, &redis).await;
        let all = ["/a", "/a?x", "/b/1", "/b/2"];
        for (what, gone) in [
            (json!({ "url": "http://A.test:80/a?x" }), vec!["/a?x"]),
            (json!({ "prefix": "http://a.test/b/" }), vec!["/b/1", "/b/2"]),
            (json!({ "tag": "a" }), vec!["/a", "/a?x"]),
            (json!({ "all": true }), all.to_vec()),
        ] {
            for soft in [false, true] {
                for proxy in &proxies {
                    for path in all {
                        get(proxy, path, "").await;
                        assert_eq!(stored(proxy, path).await, Some(true), "{path}");
                    }
                }
                let mut what = what.clone();
                what["soft"] = soft.into();
                let (status, done) = purge(&proxies[0], &what).await;
                assert_eq!((status, &done["fleet"]), (200, &json!("sent")), "{done}");
                assert_eq!(done["purged"], gone.len(), "{done}");
                for proxy in &proxies {
                    for path in all {
                        let wanted = match (gone.contains(&path), soft) {
                            (true, true) => Some(false),
                            (true, false) => None,
                            (false, _) => Some(true),
                        };
                        eventually("it is purged", async || stored(proxy, path).await == wanted)
                            .await;
                    }
                }
            }
        }
        let figures = fleet(&proxies[1]).await;
        assert_eq!((&figures["received"], &figures["sent"]), (&json!(8), &json!(0)), "{figures}");
        let figures = fleet(&proxies[0]).await;
        // Its own came back to it, and were passed over.
        assert_eq!((&figures["received"], &figures["sent"]), (&json!(0), &json!(8)), "{figures}");
        let text = metrics(&proxies[1]).await;
        for line in [
            "tollgate_redis_connected 1",
            "tollgate_cache_fleet_purges_total{direction=\"received\"} 8",
            "tollgate_cache_fleet_purges_total{direction=\"sent\"} 0",
            "tollgate_cache_fleet_lag_seconds 0.0",
        ] {
            assert!(text.lines().any(|known| known == line), "{line}\n{text}");
        }
    })
    .await;
}

#[tokio::test]
async fn what_was_purged_while_one_was_down_is_gone_from_its_disk_and_nothing_else() {
    within(async {
        let redis = Redis::start();
        let origin = counting(FRESH).await;
        let on_disk = || {
            member(&origin, &redis.url()).and("[cache.disk]\npath = \"cache\"\nsize = \"256MiB\"")
        };
        let (here, away) = (member(&origin, &redis.url()).start(), on_disk().start());
        connected(&[&here, &away]).await;
        for path in ["/a", "/b"] {
            get(&away, path, "").await;
        }
        disk::stored(&away, 2).await;
        let kept = ended(away).await;
        assert_eq!(purge(&here, &json!({ "url": "http://a.test/a" })).await.0, 200);
        let away = on_disk().start_in(kept);
        eventually("it is caught up with", async || fleet(&away).await["received"] == 1).await;
        assert_eq!(stored(&away, "/a").await, None);
        assert_eq!(stored(&away, "/b").await, Some(true));
        assert!(hits(&away, "/b").await && !hits(&away, "/a").await);
        assert_eq!(fleet(&away).await["lost"], 0);
    })
    .await;
}

#[tokio::test]
async fn what_was_purged_while_one_was_away_is_caught_up_with() {
    within(async {
        let redis = Redis::start();
        let origin = counting(FRESH).await;
        let way = Way::to(redis.address()).await;
        let here = member(&origin, &redis.url()).start();
        let away = member(&origin, &format!("redis://{}", way.address)).start();
        connected(&[&here, &away]).await;
        for path in ["/a", "/b"] {
            get(&away, path, "").await;
        }
        way.cut();
        eventually("it is away", async || fleet(&away).await["connected"] == false).await;
        assert_eq!(purge(&here, &json!({ "url": "http://a.test/a" })).await.0, 200);
        assert!(hits(&away, "/a").await && hits(&away, "/b").await);
        assert!(fleet(&away).await["lag_seconds"].as_f64().unwrap() > 0.0);
        way.mend();
        eventually("it is caught up with", async || stored(&away, "/a").await.is_none()).await;
        assert!(hits(&away, "/b").await);
        let figures = fleet(&away).await;
        assert_eq!((&figures["received"], &figures["lost"]), (&json!(1), &json!(0)), "{figures}");
    })
    .await;
}

#[tokio::test]
async fn what_the_stream_has_not_kept_has_everything_validated() {
    within(async {
        let redis = Redis::start();
        let origin = counting(FRESH).await;
        let way = Way::to(redis.address()).await;
        let away = member(&origin, &format!("redis://{}", way.address)).start();
        connected(&[&away]).await;
        get(&away, "/", "").await;
        for round in 1..=2 {
            way.cut();
            eventually("it is away", async || fleet(&away).await["connected"] == false).await;
            if round == 1 {
                for _ in 0..3 {
                    redis.ask(["XADD", "tollgate:purges", "*", "v", "0"]);
                }
                redis.ask(["XTRIM", "tollgate:purges", "MAXLEN", "1"]);
            } else {
                redis.ask(["DEL", "tollgate:purges"]);
            }
            way.mend();
            connected(&[&away]).await;
            assert_eq!(stored(&away, "/").await, Some(false));
            assert_eq!(fleet(&away).await["lost"], round);
            assert!(!hits(&away, "/").await);
        }
        // Also where it is lost before its eyes.
        redis.ask(["DEL", "tollgate:purges"]);
        eventually("it is noticed", async || fleet(&away).await["lost"] == 3).await;
    })
    .await;
}

#[tokio::test]
async fn a_redis_that_begins_anew_empty_has_everything_validated() {
    within(async {
        let mut redis = Redis::start();
        let origin = counting(FRESH).await;
        let proxies = three(&origin, &redis).await;
        for proxy in &proxies {
            get(proxy, "/", "").await;
        }
        redis.stop();
        let (status, done) = purge(&proxies[0], &json!({ "url": "http://a.test/x" })).await;
        assert_eq!((status, &done["fleet"]), (202, &json!("queued")), "{done}");
        assert!(done["message"].as_str().unwrap().contains("NOT HEARD"), "{done}");
        assert!(metrics(&proxies[0]).await.contains("tollgate_redis_connected 0"));
        assert!(hits(&proxies[1], "/").await);
        redis.restart();
        for proxy in &proxies {
            eventually("all is validated", async || fleet(proxy).await["lost"] == 1).await;
            assert_eq!(stored(proxy, "/").await, Some(false));
        }
        eventually("it is told", async || fleet(&proxies[0]).await["waiting"] == 0).await;
        eventually("it is heard", async || fleet(&proxies[1]).await["received"] == 1).await;
    })
    .await;
}

#[tokio::test]
async fn a_redis_that_kept_its_stream_is_caught_up_with() {
    within(async {
        let mut redis = Redis::start_as(How { durable: true, ..How::default() });
        let origin = counting(FRESH).await;
        let proxies = three(&origin, &redis).await;
        purge(&proxies[0], &json!({ "tag": "first" })).await;
        for proxy in &proxies {
            for path in ["/a", "/b"] {
                get(proxy, path, "").await;
            }
        }
        redis.stop();
        assert_eq!(purge(&proxies[0], &json!({ "url": "http://a.test/a" })).await.0, 202);
        redis.restart();
        for proxy in &proxies {
            eventually("it is purged", async || stored(proxy, "/a").await.is_none()).await;
            assert!(hits(proxy, "/b").await);
            assert_eq!(fleet(proxy).await["lost"], 0);
        }
    })
    .await;
}

#[tokio::test]
async fn a_redis_that_does_not_answer_holds_nobody_up() {
    within(async {
        let redis = Redis::start();
        let origin = counting(FRESH).await;
        let proxies = three(&origin, &redis).await;
        for proxy in &proxies {
            get(proxy, "/a", "").await;
        }
        redis.pause();
        let (status, done) = purge(&proxies[0], &json!({ "url": "http://a.test/a" })).await;
        assert_eq!((status, &done["purged"]), (202, &json!(1)), "{done}");
        assert!(stored(&proxies[0], "/a").await.is_none());
        assert!(hits(&proxies[1], "/a").await);
        for proxy in &proxies {
            eventually("it is noticed", async || fleet(proxy).await["connected"] == false).await;
        }
        redis.resume();
        for proxy in &proxies {
            eventually("it is purged", async || stored(proxy, "/a").await.is_none()).await;
            assert_eq!(fleet(proxy).await["lost"], 0);
        }
    })
    .await;
}

#[tokio::test]
async fn a_wrong_password_keeps_nobody_from_serving() {
    within(async {
        let redis = Redis::start_as(How { password: Some("s3cret"), ..How::default() });
        let origin = counting(FRESH).await;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        std::fs::write(&file, "hunter2\n").unwrap();
        let line = format!("password = \"file:{}\"", file.display());
        let wrong = member_with(&origin, &redis.url(), &line, "").start();
        get(&wrong, "/", "").await;
        assert!(hits(&wrong, "/").await);
        let (status, done) = purge(&wrong, &json!({ "all": true })).await;
        assert_eq!((status, &done["fleet"], &done["purged"]), (202, &json!("queued"), &json!(1)));
        eventually("it says why", async || {
            let figures = told(&wrong, "/api/cache").await.to_string();
            assert!(!figures.contains("hunter2"), "{figures}");
            fleet(&wrong).await["connected"] == false
                && purge(&wrong, &json!({ "tag": "x" })).await.1["fleet_detail"]
                    .to_string()
                    .contains("authentication failed")
        })
        .await;
        std::fs::write(&file, "s3cret\n").unwrap();
        let right = member_with(&origin, &redis.url(), &line, "").start();
        connected(&[&right]).await;
        assert_eq!(purge(&right, &json!({ "all": true })).await.0, 200);
    })
    .await;
}

#[tokio::test]
async fn it_is_reached_over_tls() {
    within(async {
        let authority = Arc::new(Authority::new());
        let how = How {
            tls: Some(authority),
            password: Some("s3cret"),
            durable: false,
            ..How::default()
        };
        let redis = Redis::start_as(how);
        let origin = counting(FRESH).await;
        let dir = redis.dir.path();
        std::fs::write(dir.join("password"), "s3cret").unwrap();
        let lines = format!(
            "password = \"file:{}\"\nca = \"{}\"",
            dir.join("password").display(),
            dir.join("ca.pem").display()
        );
        let proxy = member_with(&origin, &redis.url(), &lines, "").start();
        connected(&[&proxy]).await;
        assert_eq!(purge(&proxy, &json!({ "all": true })).await.1["fleet"], "sent");
        // Another authority is not believed.
        Authority::new().write(dir);
        let other = member_with(&origin, &redis.url(), &lines, "").start();
        eventually("it is refused", async || {
            let done = purge(&other, &json!({ "tag": "x" })).await.1;
            done["fleet_detail"].to_string().contains("certificate")
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn what_is_not_understood_in_the_stream_is_passed_over() {
    within(async {
        let redis = Redis::start();
        let origin = counting(FRESH).await;
        let proxy = member(&origin, &redis.url()).start();
        connected(&[&proxy]).await;
        get(&proxy, "/", "").await;
        let add = |fields: &[&[u8]]| {
            let head: [&[u8]; 3] = [b"XADD", b"tollgate:purges", b"*"];
            redis.ask(head.iter().chain(fields).copied());
        };
        add(&[b"v", b"2", b"from", b"x", b"kind", b"all", b"soft", b"0"]);
        add(&[b"\xff\xfe", b"\0"]);
        add(&[b"v", b"1", b"from", b"x", b"kind", b"url", b"what", b"\r\n", b"soft", b"0"]);
        add(&[b"v", b"1", b"from", b"x", b"kind", b"tag", b"what", &[b't'; 9_000], b"soft", b"0"]);
        eventually("they are passed over", async || fleet(&proxy).await["unread"] == 4).await;
        assert!(hits(&proxy, "/").await);
        add(&[
            b"v",
            b"1",
            b"from",
            b"x",
            b"kind",
            b"url",
            b"what",
            b"http://a.test/",
            b"soft",
            b"0",
        ]);
        eventually("it is purged", async || stored(&proxy, "/").await.is_none()).await;
        // What is too long to be read might have been a purge.
        get(&proxy, "/", "").await;
        add(&[b"v", &vec![b'1'; 8 << 20]]);
        eventually("all is validated", async || fleet(&proxy).await["lost"] == 1).await;
        eventually("it is read on", async || fleet(&proxy).await["connected"] == true).await;
        assert_eq!(stored(&proxy, "/").await, Some(false));
        // Nor does it keep those out who find it as the first.
        redis.ask(["DEL", "tollgate:purges"]);
        add(&[b"v", &vec![b'1'; 8 << 20]]);
        let later = member(&origin, &redis.url()).start();
        connected(&[&later, &proxy]).await;
        drop(later);
        // Nor is it of any use if the key is something else altogether.
        redis.ask(["DEL", "tollgate:purges"]);
        redis.ask(["SET", "tollgate:purges", "x"]);
        eventually("it is said", async || {
            fleet(&proxy).await["trouble"].to_string().contains("WRONGTYPE")
        })
        .await;
        assert_eq!(purge(&proxy, &json!({ "all": true })).await.0, 202);
        redis.ask(["DEL", "tollgate:purges"]);
        eventually("it is told", async || fleet(&proxy).await["sent"] == 1).await;
    })
    .await;
}

#[tokio::test]
async fn who_comes_later_begins_where_the_stream_ends() {
    within(async {
        let redis = Redis::start();
        let origin = counting(FRESH).await;
        let first = member(&origin, &redis.url()).start();
        connected(&[&first]).await;
        for number in 0..5 {
            purge(&first, &json!({ "tag": format!("t{number}") })).await;
        }
        let later = member(&origin, &redis.url()).start();
        connected(&[&later]).await;
        get(&later, "/", "").await;
        assert!(hits(&later, "/").await);
        eventually("both are as far", async || {
            fleet(&later).await["last_id"] == fleet(&first).await["last_id"]
        })
        .await;
        assert_eq!(fleet(&later).await["received"], 0);
        purge(&first, &json!({ "all": true })).await;
        eventually("it is purged", async || stored(&later, "/").await.is_none()).await;
        assert_eq!(fleet(&later).await["received"], 1);
    })
    .await;
}

#[tokio::test]
async fn what_a_change_makes_invalid_is_told_if_it_is_to_be() {
    within(async {
        let redis = Redis::start();
        let origin = counting(FRESH).await;
        for (lines, tells) in [("", false), ("unsafe_methods = true", true)] {
            let here = member_with(&origin, &redis.url(), "", lines).start();
            let there = member_with(&origin, &redis.url(), "", lines).start();
            connected(&[&here, &there]).await;
            get(&there, "/", "").await;
            send(&here, "DELETE", "/", "").await;
            purge(&here, &json!({ "tag": "behind" })).await;
            let heard = if tells { 2 } else { 1 };
            eventually("it is heard", async || fleet(&there).await["received"] == heard).await;
            assert_eq!(hits(&there, "/").await, !tells);
        }
    })
    .await;
}

/// How long it takes until all of three have carried out what one was asked for.
/// `cargo test --test it -- --ignored --nocapture how_long_a_purge_takes`
#[tokio::test]
#[ignore = "it measures"]
async fn how_long_a_purge_takes() {
    const PURGES: usize = 200;
    let redis = Redis::start();
    let origin = counting(FRESH).await;
    let proxies = three(&origin, &redis).await;
    let mut took: Vec<Duration> = Vec::new();
    for _ in 0..PURGES {
        for proxy in &proxies {
            get(proxy, "/", "").await;
            assert_eq!(stored(proxy, "/").await, Some(true));
        }
        let began = Instant::now();
        let what = json!({ "url": "http://a.test/" });
        let asked = purge(&proxies[0], &what);
        let seen = async {
            for proxy in &proxies {
                while stored(proxy, "/").await.is_some() {}
            }
            began.elapsed()
        };
        took.push(tokio::join!(asked, seen).1);
    }
    took.sort();
    let at = |share: usize| took[(PURGES * share / 100).min(PURGES - 1)];
    println!("{PURGES} purges of three: p50 {:?}, p99 {:?}, most {:?}", at(50), at(99), at(100));
    assert!(at(99) < Duration::from_secs(1), "{:?}", at(99));
}
