//! Starting and ending.

use std::time::Duration;

use crate::support::client::{Raw, get};
use crate::support::origin::Origin;
use crate::support::proxy::{Running, Setup};
use crate::support::{eventually, within};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Answers after a while.
async fn slow(wait: u64) -> Origin {
    Origin::scripted(move |mut connection| async move {
        while connection.request().await.is_some() {
            tokio::time::sleep(Duration::from_millis(wait)).await;
            connection.write(OK).await;
        }
    })
    .await
}

#[tokio::test]
async fn a_drain_finishes_what_is_under_way_and_takes_nothing_new() {
    within(async {
        let origin = slow(300).await;
        let mut proxy = Setup::forwarding_to(&origin).start();
        let mut client = Raw::connect(proxy.address).await;
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        eventually("the origin has it", async || !origin.requests().is_empty()).await;
        proxy.begin_stop();
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.field("connection")), (200, Some("close")));
        assert_eq!(proxy.ended().await.cut, 0);
        assert!(tokio::net::TcpStream::connect(proxy.address).await.is_err());
    })
    .await;
}

#[tokio::test]
async fn idle_connections_do_not_hold_the_drain_up() {
    within(async {
        let origin = Origin::answering(OK).await;
        let mut proxy = Setup::forwarding_to(&origin).server("drain_timeout = \"15s\"").start();
        let mut idle = Raw::connect(proxy.address).await;
        idle.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        idle.answer().await;
        let _silent = Raw::connect(proxy.address).await;
        let before = std::time::SystemTime::now();
        proxy.begin_stop();
        assert_eq!(proxy.ended().await.cut, 0);
        assert!(before.elapsed().unwrap() < Duration::from_secs(10));
    })
    .await;
}

#[tokio::test]
async fn past_the_deadline_what_is_left_is_cut_and_counted() {
    within(async {
        let origin = slow(60_000).await;
        let mut proxy = Setup::forwarding_to(&origin).server("drain_timeout = \"200ms\"").start();
        let mut client = Raw::connect(proxy.address).await;
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        eventually("the origin has it", async || !origin.requests().is_empty()).await;
        proxy.begin_stop();
        assert_eq!(proxy.ended().await.cut, 1);
        assert!(client.read_to_end().await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn http_2_clients_are_told_to_go_away() {
    within(async {
        let origin = slow(300).await;
        let mut proxy = Setup::forwarding_to(&origin).start();
        let tcp = tokio::net::TcpStream::connect(proxy.address).await.unwrap();
        let (mut client, connection) = h2::client::handshake(tcp).await.unwrap();
        let driver = tokio::spawn(connection);
        let request = http::Request::get("http://a.test/").body(()).unwrap();
        let (response, _) = client.send_request(request, true).unwrap();
        eventually("the origin has it", async || !origin.requests().is_empty()).await;
        proxy.begin_stop();
        assert_eq!(response.await.unwrap().status(), 200);
        assert_eq!(proxy.ended().await.cut, 0);
        driver.await.unwrap().unwrap();
        let late = http::Request::get("http://a.test/").body(()).unwrap();
        assert!(
            client.ready().await.and_then(|mut c| c.send_request(late, true).map(drop)).is_err()
        );
    })
    .await;
}

#[tokio::test]
async fn readiness_goes_before_the_listeners_do() {
    within(async {
        let origin = slow(500).await;
        let mut proxy = Setup::forwarding_to(&origin).start();
        let ready = "/readyz";
        let local = "Connection: close\r\n";
        let ask = |address| async move {
            let request = format!("GET {ready} HTTP/1.1\r\nHost: localhost\r\n{local}\r\n");
            crate::support::client::ask(address, request).await
        };
        assert_eq!(ask(proxy.admin).await.status, 200);
        let mut client = Raw::connect(proxy.address).await;
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        eventually("the origin has it", async || !origin.requests().is_empty()).await;
        proxy.begin_stop();
        eventually("it is not ready", async || ask(proxy.admin).await.status == 503).await;
        assert_eq!(client.answer().await.status, 200);
        proxy.ended().await;
    })
    .await;
}

#[tokio::test]
async fn several_workers_share_the_load_and_the_pool() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = Setup::forwarding_to(&origin).server("workers = 3").start();
        for _ in 0..30 {
            assert_eq!(get(proxy.address, "/", "").await.status, 200);
        }
        // A worker without an idle connection takes one of its neighbours'.
        assert!(origin.connections() <= 3, "{}", origin.connections());
        assert_eq!(proxy.stop().await.cut, 0);
    })
    .await;
}

/// How many connections each of these workers has.
async fn on_workers<const N: usize>(proxy: &Running) -> [u64; N] {
    let metrics = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let metrics = crate::support::client::ask(proxy.admin, metrics).await.text();
    std::array::from_fn(|worker| {
        let line = format!("tollgate_worker_connections{{worker=\"{worker}\"}} ");
        let count = metrics.lines().find_map(|text| text.strip_prefix(&line));
        count.unwrap_or_else(|| panic!("no {line}in\n{metrics}")).parse().unwrap()
    })
}

#[tokio::test]
async fn connections_that_last_are_spread_evenly_over_the_workers() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = Setup::forwarding_to(&origin).server("workers = 4").start();
        let mut clients = Vec::new();
        for _ in 0..24 {
            let mut client = Raw::connect(proxy.address).await;
            client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
            assert_eq!(client.answer().await.status, 200);
            clients.push(client);
        }
        assert_eq!(on_workers(&proxy).await, [6; 4]);
        for client in &mut clients {
            client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
            assert_eq!(client.answer().await.status, 200);
        }
        drop(clients);
        eventually("they are over", async || on_workers(&proxy).await == [0; 4]).await;
        assert_eq!(proxy.stop().await.cut, 0);
    })
    .await;
}

#[test]
fn an_address_that_is_taken_is_said_with_its_listener() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let toml = format!(
        "[admin]\nenabled = false\n[[listener]]\nname = \"public\"\naddress = \"{address}\"\n\
         [[route]]\nname = \"all\"\nrespond = {{}}\n"
    );
    let settings = tollgate::config::parse("test.toml".as_ref(), &toml).unwrap();
    let error = tollgate::Proxy::build(settings).unwrap().bind().unwrap_err();
    assert_eq!((error.listener.as_str(), &error.address), ("public", &address.into()));
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    assert!(error.cause.to_string().contains("another process"), "{}", error.cause);
}

#[tokio::test]
async fn what_was_sent_before_the_drain_is_answered() {
    for workers in [1, 3] {
        within(async {
            let origin = slow(50).await;
            let workers = format!("workers = {workers}");
            let mut proxy = Setup::forwarding_to(&origin).server(&workers).start();
            let mut clients = Vec::new();
            for _ in 0..300 {
                let mut client = Raw::connect(proxy.address).await;
                client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
                clients.push(client);
            }
            proxy.begin_stop();
            for mut client in clients {
                assert_eq!(client.answer().await.status, 200);
            }
            assert_eq!(proxy.ended().await.cut, 0);
        })
        .await;
    }
}
