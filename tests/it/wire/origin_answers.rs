//! Answers of a hostile or failing origin, as far as `origin_wire` has no test for
//! them: what a client is told, and what it cannot be made to believe.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::support::client::{Raw, get};
use crate::support::origin::Origin;
use crate::support::proxy::{Running, Setup};
use crate::support::{eventually, within};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Answers `/N` with the Nth of these and hangs up; anything else with [`OK`].
async fn hanging_up(responses: Vec<String>) -> Origin {
    let responses = Arc::new(responses);
    Origin::scripted(move |mut connection| {
        let responses = responses.clone();
        async move {
            while let Some(request) = connection.request().await {
                let path = request.split([' ', '/']).nth(2).unwrap_or_default();
                let Ok(number) = path.parse::<usize>() else {
                    connection.write(OK).await;
                    continue;
                };
                connection.write(&responses[number]).await;
                return;
            }
        }
    })
    .await
}

/// A GET over HTTP/2: the status and the whole body, if it ended as it should.
async fn get_h2(proxy: &Running, path: &str) -> (u16, Option<String>) {
    let tcp = tokio::net::TcpStream::connect(proxy.address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tcp))
            .await
            .unwrap();
    tokio::spawn(connection);
    let request = http::Request::get(format!("http://a.test{path}"));
    let request = request.body(Empty::<bytes::Bytes>::new()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.ok();
    (status, body.map(|body| String::from_utf8(body.to_bytes().into()).unwrap()))
}

#[tokio::test]
async fn a_body_that_is_cut_never_looks_whole_whatever_the_client_speaks() {
    within(async {
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let bodies = [
            "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n".to_owned(),
            "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n012345678".to_owned(),
            chunked.to_owned(),
            format!("{chunked}3"),
            format!("{chunked}3\r\nabc"),
            format!("{chunked}3\r\nabc\r\n"),
            format!("{chunked}3\r\nabc\r\n0"),
            format!("{chunked}3\r\nabc\r\n0\r\n"),
            format!("{chunked}3\r\nabc\r\n0\r\nX: y\r\n"),
            format!("{chunked}3\r\nabc\r\nz\r\n"),
        ];
        let origin = hanging_up(bodies.to_vec()).await;
        let proxy = Setup::forwarding_to(&origin).start();
        for (number, body) in bodies.iter().enumerate() {
            let (status, whole) = get_h2(&proxy, &format!("/{number}")).await;
            assert_eq!((status, whole), (200, None), "{body:?} over HTTP/2");
            let mut client = Raw::connect(proxy.address).await;
            client.send(format!("GET /{number} HTTP/1.1\r\nHost: a.test\r\n\r\n")).await;
            let head = client.read_until("\r\n\r\n").await;
            assert!(head.starts_with("HTTP/1.1 200 "), "{body:?}: {head}");
            let rest = String::from_utf8(client.read_to_end().await).unwrap();
            let is_sized = head.to_ascii_lowercase().contains("content-length: 10");
            let looks_whole = if is_sized {
                rest.len() >= 10
            } else {
                format!("\r\n{rest}").contains("\r\n0\r\n")
            };
            assert!(!looks_whole, "{body:?}: {rest:?}");
            let after = get(proxy.address, "/ok", "").await;
            assert_eq!((after.status, after.text()), (200, "ok".to_owned()));
        }
        assert_eq!(get_h2(&proxy, "/ok").await, (200, Some("ok".to_owned())));
    })
    .await;
}

#[tokio::test]
async fn a_malformed_head_is_502_over_http_2_too() {
    within(async {
        let heads = [
            "",
            "\r\n\r\n",
            "hello\r\n\r\n",
            "HTTP/2.0 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
            "HTTP/1.1 103 Early Hints\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\n",
        ];
        let origin = hanging_up(heads.map(ToOwned::to_owned).to_vec()).await;
        let proxy = Setup::forwarding_to(&origin).start();
        for (number, head) in heads.iter().enumerate() {
            let (status, body) = get_h2(&proxy, &format!("/{number}")).await;
            assert_eq!(status, 502, "{head:?}: {body:?}");
            assert_eq!(get_h2(&proxy, "/ok").await, (200, Some("ok".to_owned())), "{head:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_head_without_end_is_cut_off_and_not_kept() {
    within(async {
        let taken = Arc::new(AtomicUsize::new(0));
        let counter = taken.clone();
        let origin = Origin::scripted(move |mut connection| {
            let taken = counter.clone();
            async move {
                use tokio::io::AsyncWriteExt;
                let Some(request) = connection.request().await else { return };
                let flood = match request.split(' ').nth(1) {
                    Some("/fields") => "X: y\r\n".repeat(10_000),
                    Some("/value") => "x".repeat(60_000),
                    Some("/reason") => "z".repeat(60_000),
                    _ => return connection.write(OK).await,
                };
                let start = match request.contains("/reason") {
                    true => "HTTP/1.1 200 ",
                    false => "HTTP/1.1 200 OK\r\nX: ",
                };
                connection.write(start).await;
                taken.store(0, Ordering::SeqCst);
                // 60 MB, as far as they are taken.
                for _ in 0..1_000 {
                    if connection.stream.write_all(flood.as_bytes()).await.is_err() {
                        return;
                    }
                    taken.fetch_add(flood.len(), Ordering::SeqCst);
                }
            }
        })
        .await;
        let proxy = Setup::forwarding_to(&origin).start();
        for path in ["/fields", "/value", "/reason"] {
            assert_eq!(get(proxy.address, path, "").await.status, 502, "{path}");
            assert_eq!(get(proxy.address, "/ok", "").await.text(), "ok", "{path}");
            let taken = taken.load(Ordering::SeqCst);
            assert!(taken < 20_000_000, "{path}: {taken} bytes were taken");
        }
    })
    .await;
}

#[tokio::test]
async fn an_answer_to_nobody_is_never_given_to_the_first() {
    within(async {
        let evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
        let interim = "HTTP/1.1 100 Continue\r\n\r\n";
        // Said on a connection that was made ahead, before any request came.
        for unasked in [evil, interim, "x", "\r\n", "HTTP/1.1 408 Request Timeout\r\n\r\n"] {
            let said = Arc::new(AtomicUsize::new(0));
            let counter = said.clone();
            let origin = Origin::scripted(move |mut connection| {
                let said = counter.clone();
                async move {
                    if connection.number == 0 {
                        connection.write(unasked).await;
                    }
                    said.fetch_add(1, Ordering::SeqCst);
                    while connection.request().await.is_some() {
                        connection.write(OK).await;
                    }
                }
            })
            .await;
            let proxy = Setup::forwarding_with(&origin, "warm = 1").start();
            eventually("the origin spoke", async || said.load(Ordering::SeqCst) == 1).await;
            for _ in 0..3 {
                let answer = get(proxy.address, "/", "").await;
                assert_eq!((answer.status, answer.text()), (200, "ok".to_owned()), "{unasked:?}");
            }
            assert_eq!(origin.connections(), 2, "{unasked:?}");
        }
    })
    .await;
}
