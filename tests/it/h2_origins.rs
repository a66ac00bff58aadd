//! Origins that speak HTTP/2: what is sent again, and what a failure means.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use http::Response;

use crate::support::client::{Raw, ask, get};
use crate::support::origin::{Connection, Origin};
use crate::support::proxy::Setup;
use crate::support::{certs, within};

/// Answers a stream with 200.
fn ok(mut respond: SendResponse<Bytes>) {
    let mut body = respond.send_response(Response::new(()), false).unwrap();
    body.send_data(Bytes::from_static(b"ok"), true).unwrap();
}

/// Serves HTTP/2 on a connection: `refuse` says of each stream, counted over
/// the connection, whether it is refused.
async fn h2(connection: Connection, refuse: impl Fn(usize) -> bool) {
    let mut server = h2::server::handshake(connection.stream).await.unwrap();
    let mut streams = 0;
    while let Some(Ok((_request, mut respond))) = server.accept().await {
        if refuse(streams) {
            respond.send_reset(h2::Reason::REFUSED_STREAM);
        } else {
            ok(respond);
        }
        streams += 1;
    }
}

fn h2c(origin: &Origin) -> String {
    origin.to_string().replace("http://", "h2c://")
}

#[tokio::test]
async fn a_refused_stream_is_sent_again_on_another_connection_even_a_post() {
    within(async {
        let origin = Origin::scripted(|connection| async move {
            let number = connection.number;
            h2(connection, move |stream| number == 0 && stream > 0).await;
        })
        .await;
        let proxy = Setup::forwarding_to(h2c(&origin)).start();
        assert_eq!(get(proxy.address, "/", "").await.status, 200);
        let post = "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(ask(proxy.address, post).await.status, 200);
        assert_eq!(origin.connections(), 2);
        assert!(proxy.log_lines(2).await[1].contains("attempts=2"));
    })
    .await;
}

#[tokio::test]
async fn a_stream_refused_on_a_new_connection_moves_to_the_next_origin() {
    within(async {
        let full = Origin::scripted(|connection| h2(connection, |_| true)).await;
        let free = Origin::scripted(|connection| h2(connection, |_| false)).await;
        let proxy = Setup::new(format!(
            "[[route]]\nname = \"all\"\nupstream = \"pair\"\n\
             [[upstream]]\nname = \"pair\"\norigins = [\"{}\", \"{}\"]\n",
            h2c(&full),
            h2c(&free)
        ))
        .start();
        for _ in 0..4 {
            assert_eq!(get(proxy.address, "/", "").await.status, 200);
        }
    })
    .await;
}

#[tokio::test]
async fn a_request_that_h2_hands_back_keeps_its_host() {
    within(async {
        // The first connection ends politely after one answer, so that the next
        // request is handed back unsent or never looked at.
        let hosts = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let seen = hosts.clone();
        let origin = Origin::scripted(move |connection| {
            let seen = seen.clone();
            async move {
                let number = connection.number;
                let mut server = h2::server::handshake(connection.stream).await.unwrap();
                while let Some(Ok((request, respond))) = server.accept().await {
                    seen.lock().push(request.uri().authority().unwrap().to_string());
                    ok(respond);
                    if number == 0 {
                        server.graceful_shutdown();
                    }
                }
            }
        })
        .await;
        let proxy = Setup::forwarding_to(h2c(&origin)).start();
        for _ in 0..5 {
            let answer = ask(proxy.address, "GET / HTTP/1.1\r\nHost: its-own.test\r\n\r\n").await;
            assert_eq!(answer.status, 200);
        }
        let hosts = hosts.lock();
        assert!(hosts.len() >= 5 && hosts.iter().all(|host| host == "its-own.test"), "{hosts:?}");
    })
    .await;
}

#[tokio::test]
async fn many_at_once_share_one_connection_and_one_retry() {
    within(async {
        let broken = Arc::new(AtomicUsize::new(0));
        let count = broken.clone();
        // The first connection answers one request and then breaks.
        let origin = Origin::scripted(move |connection| {
            let count = count.clone();
            async move {
                let number = connection.number;
                let mut server = h2::server::handshake(connection.stream).await.unwrap();
                let mut streams = 0;
                while let Some(Ok((_request, respond))) = server.accept().await {
                    streams += 1;
                    if number == 0 && streams > 1 {
                        count.fetch_add(1, Ordering::SeqCst);
                        return;
                    }
                    ok(respond);
                }
            }
        })
        .await;
        let proxy = Setup::forwarding_to(h2c(&origin)).start();
        assert_eq!(get(proxy.address, "/", "").await.status, 200);
        let all = (0..32).map(|_| get(proxy.address, "/", ""));
        for answer in futures_util::future::join_all(all).await {
            assert_eq!(answer.status, 200);
        }
        assert_eq!(broken.load(Ordering::SeqCst), 1, "the connection must have broken");
        assert_eq!(origin.connections(), 2, "one new connection carries them all");
    })
    .await;
}

#[tokio::test]
async fn an_upload_that_is_too_large_is_413_there_too() {
    within(async {
        // An origin that would wait for the end of the body.
        let waiting = Origin::scripted(|connection| async move {
            let mut server = h2::server::handshake(connection.stream).await.unwrap();
            let mut held = Vec::new();
            while let Some(Ok(exchange)) = server.accept().await {
                held.push(exchange);
            }
        })
        .await;
        let proxy = Setup::new(format!(
            "[[upstream]]\nname = \"origin\"\norigins = [\"{}\"]\n\
             [[route]]\nname = \"all\"\nupstream = \"origin\"\nmax_request_body = 4\n\
             request_body_timeout = \"100ms\"\n",
            h2c(&waiting)
        ))
        .start();
        let head = "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n";
        let answer = ask(proxy.address, format!("{head}8\r\n12345678\r\n0\r\n\r\n")).await;
        assert_eq!(answer.status, 413, "{}", answer.head);
        let mut silent = Raw::connect(proxy.address).await;
        silent.send(format!("{head}2\r\nab\r\n")).await;
        assert_eq!(silent.answer().await.status, 408);
    })
    .await;
}

#[tokio::test]
async fn an_unused_connection_is_closed_in_time() {
    within(async {
        let origin = Origin::scripted(|connection| h2(connection, |_| false)).await;
        let timeouts = "[upstream.timeouts]\npool_idle = \"100ms\"";
        let proxy = Setup::forwarding_with(h2c(&origin), timeouts).start();
        get(proxy.address, "/", "").await;
        tokio::time::sleep(Duration::from_millis(150)).await;
        get(proxy.address, "/", "").await;
        assert_eq!(origin.connections(), 2);
    })
    .await;
}

#[tokio::test]
async fn an_origin_that_must_speak_http2_and_does_not_is_502() {
    within(async {
        let dir = tempfile::TempDir::new().unwrap();
        let authority = certs::Authority::new();
        authority.write(dir.path());
        authority.sign(dir.path(), "origin", &["localhost"]);
        let config = Arc::new(certs::server(dir.path(), "origin", &["http/1.1"]));
        let origin = Origin::scripted(move |connection| {
            let acceptor = tokio_rustls::TlsAcceptor::from(config.clone());
            async move {
                let _refused = acceptor.accept(connection.stream).await;
            }
        })
        .await;
        let https = format!("https://localhost:{}", origin.address.port());
        let upstream = "protocol = \"http2\"\n[upstream.tls]\nca = \"ca.pem\"\n";
        let proxy = Setup::forwarding_with(https, upstream).start_in(dir);
        let answer = get(proxy.address, "/", "").await;
        assert_eq!(answer.status, 502);
        assert_eq!(answer.field("proxy-status"), Some("tollgate; error=tls_protocol_error"));
    })
    .await;
}

#[tokio::test]
async fn trailers_that_no_field_announces_reach_no_origin() {
    within(async {
        let (names, mut received) = tokio::sync::mpsc::unbounded_channel();
        let origin = Origin::scripted(move |connection| {
            let names = names.clone();
            async move {
                let mut server = h2::server::handshake(connection.stream).await.unwrap();
                while let Some(Ok((mut request, respond))) = server.accept().await {
                    let names = names.clone();
                    tokio::spawn(async move {
                        while request.body_mut().data().await.is_some() {}
                        let trailers = request.body_mut().trailers().await.unwrap();
                        let trailers = trailers.unwrap_or_default();
                        names.send(trailers.keys().map(ToString::to_string).collect()).unwrap();
                        ok(respond);
                    });
                }
            }
        })
        .await;
        let proxy = Setup::forwarding_to(h2c(&origin)).start();
        let head = "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n";
        let body = "3\r\nabc\r\n0\r\nX-Sum: 1\r\nX-Consumer: root\r\n\r\n";
        let request = format!("{head}Trailer: X-Sum\r\n\r\n{body}");
        assert_eq!(ask(proxy.address, request).await.status, 200);
        let names: Vec<String> = received.recv().await.unwrap();
        assert_eq!(names, ["x-sum"]);
    })
    .await;
}

#[tokio::test]
async fn an_origin_that_takes_no_more_after_its_answer_does_not_keep_the_client() {
    within(async {
        let origin = Origin::scripted(|connection| async move {
            let mut server = h2::server::handshake(connection.stream).await.unwrap();
            let mut held = Vec::new();
            while let Some(Ok((request, respond))) = server.accept().await {
                ok(respond);
                // It neither opens the window again nor resets the stream.
                held.push(request);
            }
        })
        .await;
        let timeouts = "[upstream.timeouts]\nidle_body = \"200ms\"";
        let proxy = Setup::forwarding_with(h2c(&origin), timeouts).start();
        let mut client = Raw::connect(proxy.address).await;
        let head = "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1000000\r\n\r\n";
        client.send(format!("{head}{}", "x".repeat(100_000))).await;
        assert_eq!(client.answer().await.status, 200);
        // What was not read cannot be told from another request.
        assert!(client.read_to_end().await.is_empty());
    })
    .await;
}
