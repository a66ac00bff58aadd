//! How many requests of one client are under way at once.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::{K1, behind, from, metrics};
use crate::support::client::{Raw, get};
use crate::support::h2::{self, H2};
use crate::support::origin::Origin;
use crate::support::proxy::Running;
use crate::support::websocket::{HANDSHAKE, echo};
use crate::support::{eventually, within};

/// An origin that begins each response, and ends it when there is a permit.
async fn slow() -> (Origin, Arc<Semaphore>) {
    let permits = Arc::new(Semaphore::new(0));
    let given = permits.clone();
    let origin = Origin::scripted(move |mut connection| {
        let permits = given.clone();
        async move {
            while connection.request().await.is_some() {
                connection.write("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab").await;
                permits.acquire().await.unwrap().forget();
                connection.write("cd").await;
            }
        }
    })
    .await;
    (origin, permits)
}

/// Begins a request of this client, and reads the head of its response.
async fn begin(proxy: &Running, client: &str) -> (Raw, u16) {
    let mut raw = Raw::connect(proxy.address).await;
    raw.send(format!("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {client}\r\n\r\n")).await;
    let head = raw.read_until("\r\n\r\n").await;
    (raw, head[9..12].parse().unwrap())
}

#[tokio::test]
async fn a_client_has_so_many_under_way_and_others_are_not_held_up() {
    within(async {
        let (origin, permits) = slow().await;
        let proxy = behind(&origin, "[route.concurrency]\nmax = 2\n").start();
        let mut under_way = Vec::new();
        for client in ["192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2"] {
            let (raw, status) = begin(&proxy, client).await;
            assert_eq!(status, 200, "{client}");
            under_way.push(raw);
        }
        let answer = get(proxy.address, "/", "X-Forwarded-For: 192.0.2.1\r\n").await;
        assert_eq!((answer.status, answer.field("retry-after")), (429, Some("1")));
        assert!(answer.text().contains("\"code\":\"concurrency\""), "{}", answer.text());
        // The end of one makes room for another.
        permits.add_permits(3);
        for raw in &mut under_way {
            assert!(raw.read_to_end_or("cd").await);
        }
        eventually("there is room again", async || begin(&proxy, "192.0.2.1").await.1 == 200).await;
        let metrics = metrics(&proxy).await;
        let line = "tollgate_rejections_total{route=\"all\",reason=\"concurrency\"}";
        assert!(metrics.contains(line), "{metrics}");
    })
    .await;
}

#[tokio::test]
async fn who_goes_away_leaves_no_slot_behind() {
    within(async {
        let (origin, _permits) = slow().await;
        let proxy = behind(&origin, "[route.concurrency]\nmax = 1\n").start();
        for round in 0..20 {
            let mut waiting = None;
            eventually("there is room", async || {
                let (raw, status) = begin(&proxy, "192.0.2.1").await;
                waiting = Some(raw);
                status == 200
            })
            .await;
            assert_eq!(begin(&proxy, "192.0.2.1").await.1, 429, "{round}");
            // In the midst of the body.
            drop(waiting);
        }
    })
    .await;
}

#[tokio::test]
async fn who_goes_away_holds_no_slot_while_others_wait_for_what_it_began() {
    within(async {
        let permits = Arc::new(Semaphore::new(0));
        let given = permits.clone();
        let origin = Origin::scripted(move |mut connection| {
            let permits = given.clone();
            async move {
                while let Some(request) = connection.request().await {
                    if !request.starts_with("GET /other ") {
                        permits.acquire().await.unwrap().forget();
                    }
                    let head = "HTTP/1.1 200 OK\r\nCache-Control: max-age=99";
                    connection.write(format!("{head}\r\nContent-Length: 2\r\n\r\nok")).await;
                }
            }
        })
        .await;
        let tables = "[route.concurrency]\nmax = 1\n[route.cache]\n";
        let proxy = behind(&origin, tables).start();
        let ask = async |client: &str, path: &str| {
            let mut raw = Raw::connect(proxy.address).await;
            let field = format!("X-Forwarded-For: {client}");
            raw.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n")).await;
            raw
        };
        let first = ask("192.0.2.1", "/slow").await;
        eventually("the origin is asked", async || origin.requests().len() == 1).await;
        let mut second = ask("192.0.2.2", "/slow").await;
        eventually("the second waits as well", async || {
            ask("192.0.2.2", "/other").await.answer().await.status == 429
        })
        .await;
        drop(first);
        // All that the second waits for is still on its way.
        eventually("the first has its slot back", async || {
            ask("192.0.2.1", "/other").await.answer().await.status == 200
        })
        .await;
        let is_the_first = |line: &String| line.contains("192.0.2.1 \"GET /slow ");
        eventually("its exchange is over", async || {
            proxy.log_lines(1).await.iter().any(is_the_first)
        })
        .await;
        permits.add_permits(1);
        assert_eq!(second.answer().await.text(), "ok");
        drop(second);
        let lines = proxy.log_lines(1).await;
        let line = lines.iter().find(|line| is_the_first(line)).unwrap();
        assert!(line.contains("\" - in=") && line.contains("aborted=true"), "{line}");
        assert_eq!(lines.iter().filter(|line| is_the_first(line)).count(), 1, "{lines:#?}");
        assert_eq!(origin.requests().iter().filter(|one| one.contains("/slow")).count(), 1);
    })
    .await;
}

#[tokio::test]
async fn streams_of_one_connection_count_each() {
    within(async {
        let (origin, permits) = slow().await;
        let proxy = behind(&origin, "[route.concurrency]\nmax = 2\n").start();
        let mut client = H2::connect(proxy.address).await;
        for stream in [1, 3] {
            client.send(h2::get(stream, "/")).await;
            assert_eq!(client.status(stream).await, 200);
        }
        client.send(h2::get(5, "/")).await;
        assert_eq!(client.status(5).await, 429);
        // One that is taken back makes room as well.
        client.send(h2::reset(1)).await;
        let mut stream = 5;
        eventually("there is room again", async || {
            stream += 2;
            client.send(h2::get(stream, "/")).await;
            client.status(stream).await == 200
        })
        .await;
        permits.add_permits(9);
    })
    .await;
}

#[tokio::test]
async fn a_tunnel_holds_its_slot_to_its_end() {
    within(async {
        let (origin, _events) = echo().await;
        let proxy = behind(&origin, "[route.concurrency]\nmax = 1\n").start();
        let open = async || {
            let mut raw = Raw::connect(proxy.address).await;
            raw.send(format!("GET /ws HTTP/1.1\r\nHost: a\r\n{HANDSHAKE}\r\n")).await;
            let head = raw.read_until("\r\n\r\n").await;
            (raw, head[9..12].parse::<u16>().unwrap())
        };
        let (first, status) = open().await;
        assert_eq!(status, 101);
        assert_eq!(open().await.1, 429);
        drop(first);
        eventually("there is room again", async || open().await.1 == 101).await;
    })
    .await;
}

#[tokio::test]
async fn a_route_that_is_full_is_503() {
    within(async {
        let (origin, _permits) = slow().await;
        let proxy = behind(&origin, "[route.concurrency]\nmax = 1\nkey = \"route\"\n").start();
        let (_first, status) = begin(&proxy, "192.0.2.1").await;
        assert_eq!(status, 200);
        let answer = get(proxy.address, "/", "X-Forwarded-For: 192.0.2.2\r\n").await;
        assert_eq!((answer.status, answer.field("retry-after")), (503, Some("1")));
        assert!(answer.field("proxy-status").is_some(), "{}", answer.head);
    })
    .await;
}

#[tokio::test]
async fn an_identity_is_counted_wherever_it_comes_from() {
    within(async {
        let (origin, _permits) = slow().await;
        let route = format!(
            "concurrency = {{ max = 1, key = \"identity\" }}\n[route.api_key]\n\
             keys = [{{ name = \"alice\", key = \"{K1}\" }}]\n"
        );
        let proxy = behind(&origin, &route).start();
        let mut first = Raw::connect(proxy.address).await;
        first.send("GET / HTTP/1.1\r\nHost: a\r\nX-API-Key: k1\r\n\r\n").await;
        assert!(first.read_until("\r\n\r\n").await.contains(" 200 "));
        assert_eq!(from(&proxy, "192.0.2.7", "X-API-Key: k1\r\n").await, 429);
        // Who is not let in takes no slot.
        assert_eq!(from(&proxy, "192.0.2.7", "X-API-Key: k2\r\n").await, 401);
    })
    .await;
}
