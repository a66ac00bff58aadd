//! How requests share HTTP/2 connections to an origin, and what becomes of those
//! that a connection on its way out leaves behind.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use h2::server::SendResponse;
use http::{Request, Response};
use tokio::sync::watch;

use crate::support::client::{Answer, Raw, ask, get};
use crate::support::frames::{self, GOAWAY, Peer, RST_STREAM, frame};
use crate::support::origin::Origin;
use crate::support::proxy::Setup;
use crate::support::{eventually, within};

fn h2c(origin: &Origin) -> String {
    origin.to_string().replace("http://", "h2c://")
}

fn ok(mut respond: SendResponse<Bytes>) {
    let Ok(mut body) = respond.send_response(Response::new(()), false) else { return };
    let _gone = body.send_data(Bytes::from_static(b"ok"), true);
}

fn post(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: a.test\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// An origin that allows `streams` at once and answers when it is let.
struct Slow {
    origin: Origin,
    waiting: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    go: watch::Sender<bool>,
}

async fn slow(streams: u32) -> Slow {
    let (waiting, open) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (go, went) = watch::channel(false);
    let counts = (waiting.clone(), open.clone());
    let origin = Origin::scripted(move |connection| {
        let ((waiting, open), went) = (counts.clone(), went.clone());
        async move {
            open.fetch_add(1, Ordering::SeqCst);
            let mut server = h2::server::Builder::new()
                .max_concurrent_streams(streams)
                .handshake(connection.stream)
                .await
                .unwrap();
            while let Some(Ok((_request, respond))) = server.accept().await {
                waiting.fetch_add(1, Ordering::SeqCst);
                let mut went = went.clone();
                tokio::spawn(async move {
                    let _let = went.wait_for(|go| *go).await;
                    ok(respond);
                });
            }
            open.fetch_sub(1, Ordering::SeqCst);
        }
    })
    .await;
    Slow { origin, waiting, open, go }
}

impl Slow {
    async fn holds(&self, count: usize) {
        let waiting = async || self.waiting.load(Ordering::SeqCst) == count;
        eventually(&format!("{count} requests are there at once"), waiting).await;
    }
}

fn gets(address: std::net::SocketAddr, count: usize) -> Vec<tokio::task::JoinHandle<Answer>> {
    (0..count).map(|_| tokio::spawn(async move { get(address, "/", "").await })).collect()
}

async fn statuses(tasks: Vec<tokio::task::JoinHandle<Answer>>) -> Vec<u16> {
    join_all(tasks).await.into_iter().map(|answer| answer.unwrap().status).collect()
}

#[tokio::test]
async fn what_the_origin_allows_on_a_connection_is_kept_to_and_nobody_waits_for_it() {
    within(async {
        let slow = slow(2).await;
        let proxy = Setup::forwarding_to(h2c(&slow.origin)).start();
        let tasks = gets(proxy.address, 10);
        slow.holds(10).await;
        assert_eq!(slow.origin.connections(), 5);
        slow.go.send_replace(true);
        assert_eq!(statuses(tasks).await, [200; 10]);
        // What is known now of the origin holds for the next ones, too.
        slow.go.send_replace(false);
        let tasks = gets(proxy.address, 12);
        slow.holds(22).await;
        assert_eq!(slow.origin.connections(), 6);
        slow.go.send_replace(true);
        assert_eq!(statuses(tasks).await, [200; 12]);
    })
    .await;
}

#[tokio::test]
async fn no_more_streams_than_the_configuration_allows() {
    within(async {
        let slow = slow(1000).await;
        let more = "[upstream.h2]\nmax_concurrent_streams = 3\n\
                    [upstream.timeouts]\npool_idle = \"200ms\"";
        let proxy = Setup::forwarding_with(h2c(&slow.origin), more).start();
        let tasks = gets(proxy.address, 9);
        slow.holds(9).await;
        assert_eq!(slow.origin.connections(), 3);
        slow.go.send_replace(true);
        assert_eq!(statuses(tasks).await, [200; 9]);
        // One request at a time keeps one connection; the others are closed.
        eventually("the surplus is closed", async || {
            assert_eq!(get(proxy.address, "/", "").await.status, 200);
            slow.open.load(Ordering::SeqCst) == 1
        })
        .await;
        assert_eq!(slow.origin.connections(), 3);
        eventually("the last is, too", async || slow.open.load(Ordering::SeqCst) == 0).await;
    })
    .await;
}

#[tokio::test]
async fn past_all_streams_of_all_connections_the_answer_is_503() {
    within(async {
        let slow = slow(2).await;
        let proxy = Setup::forwarding_with(h2c(&slow.origin), "max_connections = 2").start();
        let tasks = gets(proxy.address, 4);
        slow.holds(4).await;
        let refused = get(proxy.address, "/", "").await;
        assert_eq!(refused.status, 503);
        let reason = Some("tollgate; error=connection_limit_reached");
        assert_eq!(refused.field("proxy-status"), reason);
        slow.go.send_replace(true);
        assert_eq!(statuses(tasks).await, [200; 4]);
        assert_eq!(get(proxy.address, "/", "").await.status, 200);
        assert_eq!(slow.origin.connections(), 2);
    })
    .await;
}

#[tokio::test]
async fn a_worker_without_a_connection_uses_that_of_another_if_no_more_may_be_made() {
    within(async {
        let slow = slow(100).await;
        slow.go.send_replace(true);
        let proxy = Setup::forwarding_with(h2c(&slow.origin), "max_connections = 1")
            .server("workers = 4")
            .start();
        for _ in 0..16 {
            assert_eq!(get(proxy.address, "/", "").await.status, 200);
        }
        assert_eq!(slow.origin.connections(), 1);
    })
    .await;
}

/// Answers every request with its body, and warns before it goes away.
async fn warning(stream: tokio::net::TcpStream) {
    let mut server = h2::server::handshake(stream).await.unwrap();
    let mut streams = 0;
    while let Some(Ok((request, mut respond))) = server.accept().await {
        let echo = |request: Request<h2::RecvStream>| async move {
            let mut body = request.into_body();
            let mut whole = Vec::new();
            while let Some(Ok(data)) = body.data().await {
                let _released = body.flow_control().release_capacity(data.len());
                whole.extend_from_slice(&data);
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
            let Ok(mut answer) = respond.send_response(Response::new(()), false) else { return };
            let _gone = answer.send_data(whole.into(), true);
        };
        tokio::spawn(echo(request));
        streams += 1;
        if streams == 7 {
            server.graceful_shutdown();
        }
    }
}

/// The same without a warning: what comes past the seventh request is ignored.
async fn abrupt(stream: tokio::net::TcpStream) {
    let mut peer = Peer::accept(stream).await.unwrap();
    let mut bodies: HashMap<u32, Vec<u8>> = HashMap::new();
    while let Some(got) = peer.next().await {
        if got.kind == frames::HEADERS && got.stream == 13 {
            peer.send(frame(GOAWAY, 0, 0, [0, 0, 0, 13, 0, 0, 0, 0])).await;
        }
        if got.kind == frames::DATA {
            bodies.entry(got.stream).or_default().extend(&got.payload);
        }
        if got.ends_stream() && got.stream <= 13 {
            let body = bodies.remove(&got.stream).unwrap_or_default();
            peer.send(frames::head(0, got.stream, &[(":status", "200")])).await;
            peer.send(frame(frames::DATA, frames::END_STREAM, got.stream, body)).await;
        }
    }
}

#[tokio::test]
async fn connections_that_end_politely_under_load_cost_no_request() {
    within(async {
        let origin = Origin::scripted(|connection| async move {
            match connection.number % 2 {
                0 => warning(connection.stream).await,
                _ => abrupt(connection.stream).await,
            }
        })
        .await;
        let proxy = Setup::forwarding_to(h2c(&origin)).start();
        let address = proxy.address;
        let clients = (0..16).map(|client| {
            tokio::spawn(async move {
                let mut raw = Raw::connect(address).await;
                for turn in 0..25 {
                    let body = format!("{client}-{turn}");
                    raw.send(post("/", &body)).await;
                    let answer = raw.answer().await;
                    assert_eq!((answer.status, answer.text()), (200, body), "{}", answer.head);
                }
            })
        });
        for client in join_all(clients).await {
            client.unwrap();
        }
        assert!(origin.connections() > 30, "{} connections", origin.connections());
    })
    .await;
}

#[tokio::test]
async fn what_lies_past_the_last_stream_of_a_goaway_is_sent_again() {
    within(async {
        let origin = Origin::scripted(|connection| async move {
            let number = connection.number;
            let mut peer = Peer::accept(connection.stream).await.unwrap();
            if number > 0 {
                while let Some(stream) = peer.request().await {
                    peer.ok(stream).await;
                }
                return;
            }
            // Three are under way; only the first is carried out.
            for stream in [1, 3, 5] {
                assert_eq!(peer.request().await, Some(stream));
            }
            peer.send(frame(GOAWAY, 0, 0, [0, 0, 0, 1, 0, 0, 0, 0])).await;
            peer.ok(1).await;
            while peer.next().await.is_some() {}
        })
        .await;
        let proxy = Setup::forwarding_to(h2c(&origin)).start();
        let asked = (0..3).map(|number| ask(proxy.address, post("/", &number.to_string())));
        for answer in join_all(asked).await {
            assert_eq!((answer.status, answer.text()), (200, "ok".to_owned()));
        }
        assert_eq!(origin.connections(), 2);
    })
    .await;
}

#[tokio::test]
async fn a_refused_request_is_sent_again_with_its_body_unless_that_is_long() {
    within(async {
        let bodies = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let seen = bodies.clone();
        let origin = Origin::scripted(move |connection| {
            let seen = seen.clone();
            async move {
                let number = connection.number;
                let mut peer = Peer::accept(connection.stream).await.unwrap();
                let mut body: Vec<u8> = Vec::new();
                let mut streams = 0;
                // Enough room for all that is sent here.
                peer.send(frame(frames::WINDOW_UPDATE, 0, 0, [0, 0x10, 0, 0])).await;
                peer.send(frame(frames::SETTINGS, 0, 0, [0, 4, 0, 0x10, 0, 0])).await;
                while let Some(got) = peer.next().await {
                    if got.kind == frames::DATA {
                        body.extend(&got.payload);
                    }
                    if got.ends_stream() {
                        seen.lock().push((number, std::mem::take(&mut body).len()));
                        streams += 1;
                        if streams == 2 && number % 2 == 0 {
                            let refused = 7_u32.to_be_bytes();
                            peer.send(frame(RST_STREAM, 0, got.stream, refused)).await;
                        } else {
                            peer.ok(got.stream).await;
                        }
                    }
                }
            }
        })
        .await;
        let proxy = Setup::forwarding_to(h2c(&origin)).start();
        assert_eq!(get(proxy.address, "/", "").await.status, 200);
        let short = "x".repeat(60_000);
        assert_eq!(ask(proxy.address, post("/", &short)).await.status, 200);
        assert_eq!(*bodies.lock(), [(0, 0), (0, 60_000), (1, 60_000)]);

        let origin = Origin::scripted(|connection| async move {
            let mut peer = Peer::accept(connection.stream).await.unwrap();
            peer.send(frame(frames::WINDOW_UPDATE, 0, 0, [0, 0x10, 0, 0])).await;
            peer.send(frame(frames::SETTINGS, 0, 0, [0, 4, 0, 0x10, 0, 0])).await;
            let first = peer.request().await.unwrap();
            peer.ok(first).await;
            let second = peer.request().await.unwrap();
            peer.send(frame(RST_STREAM, 0, second, 7_u32.to_be_bytes())).await;
            while peer.next().await.is_some() {}
        })
        .await;
        let proxy = Setup::forwarding_to(h2c(&origin)).start();
        assert_eq!(get(proxy.address, "/", "").await.status, 200);
        let long = "x".repeat(200_000);
        assert_eq!(ask(proxy.address, post("/", &long)).await.status, 502);
        assert_eq!(origin.connections(), 1);
    })
    .await;
}

#[tokio::test]
async fn an_origin_that_leaves_a_ping_without_an_answer_is_given_up() {
    within(async {
        let origin = Origin::scripted(|connection| async move {
            let mut peer = Peer::accept(connection.stream).await.unwrap();
            // The first ping comes with the request, and is answered.
            peer.request().await;
            tokio::time::timeout(Duration::from_millis(50), peer.next()).await.unwrap_err();
            peer.answers_pings = false;
            while peer.next().await.is_some() {}
        })
        .await;
        let more = "[upstream.h2]\nping_interval = \"100ms\"\nping_timeout = \"200ms\"";
        let proxy = Setup::forwarding_with(h2c(&origin), more).start();
        let answer = ask(proxy.address, post("/", "x")).await;
        assert_eq!(answer.status, 502);
        let reason = Some("tollgate; error=connection_terminated");
        assert_eq!(answer.field("proxy-status"), reason);
    })
    .await;
}

#[tokio::test]
async fn the_windows_are_those_of_the_configuration_and_pushes_are_not_wanted() {
    within(async {
        let (sender, mut said) = tokio::sync::mpsc::unbounded_channel();
        let origin = Origin::scripted(move |connection| {
            let sender = sender.clone();
            async move {
                let mut peer = Peer::accept(connection.stream).await.unwrap();
                let update = peer.next().await.unwrap();
                let _told = sender.send((peer.settings.clone(), update));
                let stream = peer.request().await.unwrap();
                peer.ok(stream).await;
                while peer.next().await.is_some() {}
            }
        })
        .await;
        let more = "[upstream.h2]\nstream_window = 100000\nconnection_window = 300000";
        let proxy = Setup::forwarding_with(h2c(&origin), more).start();
        assert_eq!(get(proxy.address, "/", "").await.status, 200);
        let (settings, update) = said.recv().await.unwrap();
        assert!(settings.contains(&(4, 100_000)), "{settings:?}");
        assert!(settings.contains(&(2, 0)), "{settings:?}");
        assert_eq!((update.kind, update.stream), (frames::WINDOW_UPDATE, 0));
        assert_eq!(update.payload, (300_000_u32 - 65_535).to_be_bytes());
    })
    .await;
}

#[tokio::test]
async fn a_body_that_is_held_back_is_sent_when_the_origin_calls_for_it() {
    within(async {
        let origin = Origin::scripted(|connection| async move {
            let mut peer = Peer::accept(connection.stream).await.unwrap();
            while let Some(got) = peer.next().await {
                if got.kind == frames::HEADERS && got.stream == 1 {
                    let refused = [(":status", "417"), ("content-length", "0")];
                    peer.send(frames::head(frames::END_STREAM, 1, &refused)).await;
                } else if got.kind == frames::HEADERS {
                    // No body comes before it is called for.
                    let early = tokio::time::timeout(Duration::from_millis(100), peer.next());
                    assert!(early.await.is_err());
                    let hint = [(":status", "103"), ("link", "</x>")];
                    peer.send(frames::head(0, got.stream, &hint)).await;
                    peer.send(frames::head(0, got.stream, &[(":status", "100")])).await;
                } else if got.kind == frames::DATA {
                    assert_eq!(got.payload, b"body");
                    peer.ok(got.stream).await;
                }
            }
        })
        .await;
        let proxy = Setup::forwarding_to(h2c(&origin)).start();
        let head = "POST / HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\n\
                    Content-Length: 4\r\n\r\n";
        assert_eq!(ask(proxy.address, head).await.status, 417);
        let mut client = Raw::connect(proxy.address).await;
        client.send(head).await;
        let hint = client.read_until("\r\n\r\n").await;
        assert!(hint.starts_with("HTTP/1.1 103 ") && hint.contains("</x>"), "{hint}");
        assert!(client.read_until("\r\n\r\n").await.starts_with("HTTP/1.1 100 "));
        client.send("body").await;
        assert_eq!(client.answer().await.status, 200);
        assert_eq!(origin.connections(), 1);
    })
    .await;
}

#[tokio::test]
async fn an_upload_that_a_client_breaks_off_never_looks_whole() {
    within(async {
        let (sender, mut ends) = tokio::sync::mpsc::unbounded_channel();
        let origin = Origin::scripted(move |connection| {
            let sender = sender.clone();
            async move {
                let mut peer = Peer::accept(connection.stream).await.unwrap();
                while let Some(got) = peer.next().await {
                    if got.kind == RST_STREAM || got.ends_stream() {
                        let _told = sender.send(got.kind);
                    }
                }
            }
        })
        .await;
        let proxy = Setup::forwarding_to(h2c(&origin)).start();
        let mut client = Raw::connect(proxy.address).await;
        client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 10\r\n\r\nabc").await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        drop(client);
        assert_eq!(ends.recv().await, Some(RST_STREAM));
    })
    .await;
}
