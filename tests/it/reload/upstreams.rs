//! Origins come and go while they are asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::TempDir;

use super::{BY_HAND, api, ask, reload};
use crate::support::certs::{Authority, server};
use crate::support::client::{Raw, get};
use crate::support::origin::Origin;
use crate::support::proxy::{Running, Setup};
use crate::support::{eventually, within};

/// One route to these origins, with more lines in the upstream's table.
fn to_all(origins: &[&Origin], more: &str) -> Setup {
    let urls: Vec<_> = origins.iter().map(|origin| format!("\"{origin}\"")).collect();
    Setup::new(format!(
        "[[route]]\nname = \"all\"\nupstream = \"group\"\n\
         [[upstream]]\nname = \"group\"\norigins = [{}]\n{more}\n",
        urls.join(", ")
    ))
    .server(BY_HAND)
}

#[tokio::test]
async fn under_load_they_come_and_go_and_those_that_stay_keep_their_connections() {
    const CLIENTS: usize = 4;
    within(async {
        let (a, b) = (Origin::named("a").await, Origin::named("b").await);
        let c = Origin::named("c").await;
        let proxy = to_all(&[&a, &b], "").start();
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..CLIENTS {
            let (mut client, stop) = (Raw::connect(proxy.address).await, stop.clone());
            clients.spawn(async move {
                let mut asked = 0;
                while !stop.load(Ordering::SeqCst) {
                    let answer = ask(&mut client, "/").await;
                    assert_eq!((answer.status, answer.field("connection")), (200, None));
                    asked += 1;
                }
                asked
            });
        }
        for round in 0_u64..15 {
            let origins: &[&Origin] = match round % 3 {
                0 => &[&a, &c],
                1 => &[&b, &a, &c],
                _ => &[&a],
            };
            let more = format!("max_attempts = {}", round % 2 + 2);
            assert_eq!(reload(&proxy, &to_all(origins, &more)).await, Ok(round + 2));
            // Nothing is sent to an origin any more as soon as it is gone.
            let (b_asked, c_asked) = (b.requests().len(), c.requests().len());
            if round % 3 == 2 {
                eventually("others are asked", async || {
                    let before = a.requests().len();
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                    a.requests().len() > before
                })
                .await;
                // What was under way then may still have come.
                assert!(b.requests().len() <= b_asked + CLIENTS);
                assert!(c.requests().len() <= c_asked + CLIENTS);
            }
        }
        stop.store(true, Ordering::SeqCst);
        let mut asked = 0;
        while let Some(one) = clients.join_next().await {
            asked += one.unwrap();
        }
        let requests = a.requests().len() + b.requests().len() + c.requests().len();
        assert_eq!(requests, asked, "each was sent once");
        assert!(a.connections() <= CLIENTS, "{} connections were made", a.connections());
        assert!(b.connections() > 0 && c.connections() > 0);
    })
    .await;
}

/// What the API tells of an origin.
async fn told_of(proxy: &Running, origin: &Origin) -> serde_json::Value {
    let (_, told) = api(proxy.admin, "GET", "/api/upstreams", "").await;
    let origins = told["upstreams"][0]["origins"].as_array().unwrap().clone();
    let is_it =
        |one: &serde_json::Value| one["url"].as_str().unwrap().starts_with(&origin.to_string());
    origins.into_iter().find(is_it).unwrap_or_default()
}

#[tokio::test]
async fn what_was_condemned_is_not_asked_after_a_reload() {
    within(async {
        let sick = Origin::scripted(|mut connection| async move {
            while let Some(request) = connection.request().await {
                let probe = request.starts_with("GET /health ");
                let status = if probe { "500 No" } else { "200 OK" };
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 4\r\n\r\nsick");
                connection.write(answer).await;
            }
        })
        .await;
        let (well, more) = (Origin::named("well").await, Origin::named("more").await);
        let probes = |rest: &str| {
            format!(
                "{rest}\n[upstream.health]\npath = \"/health\"\ninterval = \"20ms\"\nfall = 2\n\
                 timeout = \"2s\""
            )
        };
        let proxy = to_all(&[&sick, &well], &probes("")).start();
        eventually("the probes condemn it", async || {
            told_of(&proxy, &sick).await["condemned"] == true
        })
        .await;
        let asked = || {
            let probe = |request: &&String| !request.starts_with("GET /health ");
            sick.requests().iter().filter(probe).count()
        };
        let before = asked();
        for setup in [
            to_all(&[&well, &sick], &probes("max_attempts = 2")),
            to_all(&[&sick, &more, &well], &probes("")),
            to_all(&[&sick, &well], &probes("max_idle = 7")).and("[log]\nlevel = \"warn\""),
            // Its connections are made anew: another TLS, for all that is known.
            to_all(&[&sick, &well], &probes("[upstream.timeouts]\nconnect = \"7s\"")),
            // And another way to look whether it is well.
            to_all(&[&sick, &well], &probes("").replace("20ms", "25ms")),
        ] {
            assert!(reload(&proxy, &setup).await.is_ok());
            for _ in 0..10 {
                assert_ne!(get(proxy.address, "/", "").await.text(), "sick");
            }
            assert_eq!(told_of(&proxy, &sick).await["condemned"], true);
        }
        assert_eq!(asked(), before);
        // Alone it is not asked either: that is what being condemned means.
        assert!(reload(&proxy, &to_all(&[&sick], &probes(""))).await.is_ok());
        assert_eq!(get(proxy.address, "/", "").await.status, 503);
    })
    .await;
}

#[tokio::test]
async fn another_trust_under_the_same_name_makes_connections_anew() {
    within(async {
        let (trusted, stranger) = (Authority::new(), Authority::new());
        let dir = TempDir::new().unwrap();
        trusted.sign(dir.path(), "origin", &["origin.test"]);
        trusted.write(dir.path());
        let config = Arc::new(server(dir.path(), "origin", &["http/1.1"]));
        let origin = Origin::scripted(move |connection| {
            let acceptor = tokio_rustls::TlsAcceptor::from(config.clone());
            async move {
                let Ok(stream) = acceptor.accept(connection.stream).await else { return };
                let mut client = Raw::over(stream);
                while client.read_to_end_or("\r\n\r\n").await {
                    client.read_until("\r\n\r\n").await;
                    client.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                }
            }
        })
        .await;
        let url = format!("https://{}", origin.address);
        let tls = "[upstream.tls]\nca = \"ca.pem\"\nserver_name = \"origin.test\"";
        let setup = || Setup::forwarding_with(&url, tls).server(BY_HAND);
        let proxy = setup().start_in(dir);
        for _ in 0..2 {
            assert_eq!(get(proxy.address, "/", "").await.status, 200);
        }
        assert_eq!(origin.connections(), 1);
        assert_eq!(reload(&proxy, &setup()).await, Ok(1));
        stranger.write(proxy.dir.path());
        // Only looked at, it has no effect.
        let (_, told) = api(proxy.admin, "POST", "/api/reload?plan", "").await;
        assert!(told["text"].as_str().unwrap().contains("tls.ca"), "{told:#}");
        assert_eq!(get(proxy.address, "/", "").await.status, 200);
        assert_eq!(origin.connections(), 1);
        assert_eq!(reload(&proxy, &setup()).await, Ok(2));
        assert_eq!(get(proxy.address, "/", "").await.status, 502);
        trusted.write(proxy.dir.path());
        assert_eq!(reload(&proxy, &setup()).await, Ok(3));
        let before = origin.connections();
        for _ in 0..2 {
            assert_eq!(get(proxy.address, "/", "").await.status, 200);
        }
        assert_eq!(origin.connections(), before + 1);
        std::fs::write(proxy.dir.path().join("ca.pem"), "no certificate").unwrap();
        let refused = reload(&proxy, &setup()).await.unwrap_err();
        assert!(refused.to_string().contains("ca.pem"), "{refused}");
        assert_eq!(get(proxy.address, "/", "").await.status, 200);
        assert_eq!(origin.connections(), before + 1);
    })
    .await;
}
