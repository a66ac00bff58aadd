//! What an origin is sent, byte by byte.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Request};
use tokio::sync::Semaphore;

use crate::support::client::{Raw, ask, get};
use crate::support::origin::Origin;
use crate::support::proxy::{Running, Setup};
use crate::support::within;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

type Client = h2::client::SendRequest<Bytes>;

/// A connection of HTTP/2 that is driven.
async fn http2(proxy: &Running) -> Client {
    let tcp = tokio::net::TcpStream::connect(proxy.address).await.unwrap();
    let (client, connection) = h2::client::handshake(tcp).await.unwrap();
    tokio::spawn(connection);
    client
}

/// A request as the origin saw it, without the fields that say nothing of its
/// framing.
fn framing(request: &str) -> String {
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let framing = ["content-length:", "transfer-encoding:", "trailer:", "te:", "connection:"];
    let frames = |line: &&str| framing.iter().any(|name| line.starts_with(name));
    let line = head.lines().next().unwrap();
    let fields: Vec<&str> = head.lines().filter(frames).collect();
    [&[line], &fields[..], &["", body]].concat().join("\r\n")
}

#[tokio::test]
async fn each_way_to_frame_a_request_arrives_as_one() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = Setup::forwarding_to(&origin).start();
        let mut client = Raw::connect(proxy.address).await;
        let chunked = "3;x=y\r\nabc\r\n04\r\ndefg\r\n0\r\n";
        let cases = [
            ("GET", "", "", "", ""),
            ("GET", "Content-Length: 0\r\n", "", "content-length: 0\r\n", ""),
            ("GET", "Content-Length: 3\r\n", "abc", "content-length: 3\r\n", "abc"),
            ("POST", "", "", "content-length: 0\r\n", ""),
            ("POST", "Content-Length: 003\r\n", "abc", "content-length: 3\r\n", "abc"),
            ("DELETE", "", "", "", ""),
            (
                "PUT",
                "Transfer-Encoding: chunked\r\nTrailer: X-Sum, Content-Length\r\n",
                "1\r\na\r\n0\r\nX-Sum: 1\r\nContent-Length: 9\r\nX-Other: 2\r\n\r\n",
                "trailer: X-Sum, Content-Length\r\ntransfer-encoding: chunked\r\n",
                "1\r\na\r\n0\r\nx-sum: 1\r\n\r\n",
            ),
            (
                "OPTIONS",
                "Transfer-Encoding: CHUNKED\r\n",
                &format!("{chunked}X-Sum: 1\r\n\r\n"),
                "transfer-encoding: chunked\r\n",
                "",
            ),
        ];
        for (case, (method, fields, body, frames, expected)) in cases.iter().enumerate() {
            let start = format!("{method} /{case} HTTP/1.1\r\n");
            client.send(format!("{start}Host: a.test\r\n{fields}\r\n{body}")).await;
            assert_eq!(client.answer().await.status, 200, "{start}");
            let seen = framing(&origin.requests()[case]);
            match expected.is_empty() && !body.is_empty() {
                // How the chunks are cut is not promised.
                true => assert!(
                    seen.starts_with(&format!("{start}{frames}\r\n"))
                        && seen.ends_with("defg\r\n0\r\n\r\n"),
                    "{seen:?}"
                ),
                false => assert_eq!(seen, format!("{start}{frames}\r\n{expected}")),
            }
        }
        // Nothing but these came, and all on one connection.
        assert_eq!(String::from_utf8(origin.bytes()).unwrap(), origin.requests().concat());
        assert_eq!(origin.connections(), 1);
    })
    .await;
}

#[tokio::test]
async fn each_way_to_frame_a_request_over_http_2_arrives_as_one() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = Setup::forwarding_to(&origin).start();
        let mut client = http2(&proxy).await;
        let trailers = HeaderMap::from_iter([
            (http::HeaderName::from_static("x-sum"), http::HeaderValue::from_static("1")),
            (http::HeaderName::from_static("x-other"), http::HeaderValue::from_static("2")),
        ]);
        type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str, bool, &'a str);
        let cases: [Case<'_>; 6] = [
            ("GET", &[], "", false, "\r\n"),
            ("POST", &[], "", false, "content-length: 0\r\n\r\n"),
            ("POST", &[("content-length", "0")], "", false, "content-length: 0\r\n\r\n"),
            ("POST", &[("content-length", "3")], "abc", false, "content-length: 3\r\n\r\nabc"),
            ("GET", &[], "abc", false, "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
            (
                "POST",
                &[("trailer", "x-sum")],
                "abc",
                true,
                "trailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n\
                 3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n",
            ),
        ];
        for (case, (method, fields, body, trails, expected)) in cases.iter().enumerate() {
            let mut request =
                Request::builder().method(*method).uri(format!("http://a.test/{case}"));
            for (name, value) in *fields {
                request = request.header(*name, *value);
            }
            let request = request.body(()).unwrap();
            let (response, mut stream) = client.send_request(request, body.is_empty()).unwrap();
            if !body.is_empty() {
                stream.send_data(Bytes::from_static(body.as_bytes()), !trails).unwrap();
            }
            if *trails {
                stream.send_trailers(trailers.clone()).unwrap();
            }
            assert_eq!(response.await.unwrap().status(), 200, "{case}");
            let seen = framing(&origin.requests()[case]);
            assert_eq!(seen, format!("{method} /{case} HTTP/1.1\r\n{expected}"));
        }
        assert_eq!(String::from_utf8(origin.bytes()).unwrap(), origin.requests().concat());
        assert_eq!(origin.connections(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_request_that_can_be_read_in_two_ways_reaches_no_origin() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = Setup::forwarding_to(&origin).start();
        for fields in [
            "Content-Length: 3\r\nContent-Length: 4",
            "Content-Length: 3, 4",
            "Content-Length: +3",
            "Content-Length: 0x3",
            "Content-Length: 3 3",
            "Content-Length: -3",
            "Content-Length : 3",
            "Content-Length\t: 3",
            "Content-Length: 18446744073709551619",
            "Transfer-Encoding: xchunked",
            "Transfer-Encoding: chunked, identity",
            "Transfer-Encoding: \x0bchunked",
            "Transfer-Encoding : chunked",
            "X: y\r\n Transfer-Encoding: chunked",
            "X: a\rTransfer-Encoding: chunked",
            "X: a\0b",
            "Content-Length: 30\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 30",
            "Content-Length: 3\r\nContent-Length: 3",
            "X: a\nTransfer-Encoding: chunked",
        ] {
            let body = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n";
            let post = format!("POST / HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n\r\n{body}");
            let mut client = Raw::connect(proxy.address).await;
            client.try_send(post).await;
            let answers = String::from_utf8(client.read_to_end().await).unwrap();
            assert!(answers.starts_with("HTTP/1.1 400 "), "{fields:?}: {answers:?}");
            assert_eq!(answers.matches("HTTP/1.1 ").count(), 1, "{fields:?}: {answers:?}");
        }
        assert!(origin.bytes().is_empty(), "{:?}", String::from_utf8_lossy(&origin.bytes()));
    })
    .await;
}

#[tokio::test]
async fn a_body_that_is_not_whole_is_not_ended_as_if_it_were() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = Setup::forwarding_to(&origin).start();
        let bodies = [
            "Content-Length: 10\r\n\r\nabc",
            "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
            "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
            "Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
            "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n\r\n\r\n",
            "Transfer-Encoding: chunked\r\n\r\n3\nabc\n0\n\n",
            "Transfer-Encoding: chunked\r\n\r\nx\r\n\r\n",
        ];
        for (case, body) in bodies.iter().enumerate() {
            let mut client = Raw::connect(proxy.address).await;
            client.send(format!("POST / HTTP/1.1\r\nHost: a.test\r\n{body}")).await;
            drop(client);
            // The exchange is over, and nothing of it is.
            proxy.log_lines(2 * case + 1).await;
            assert_eq!(get(proxy.address, "/ok", "").await.status, 200, "{body:?}");
            proxy.log_lines(2 * case + 2).await;
            assert_eq!(origin.requests().len(), case + 1, "{body:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn over_http_2_too_a_body_is_as_long_as_it_says_or_none() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = Setup::forwarding_to(&origin).start();
        for (case, (length, body, resets)) in
            [("5", "abc", false), ("2", "abc", false), ("5", "abc", true)].into_iter().enumerate()
        {
            let mut client = http2(&proxy).await;
            let request = Request::post("http://a.test/").header("content-length", length);
            let (response, mut stream) =
                client.send_request(request.body(()).unwrap(), false).unwrap();
            stream.send_data(Bytes::from_static(body.as_bytes()), !resets).unwrap();
            if resets {
                stream.send_reset(h2::Reason::CANCEL);
            }
            let status = response.await.map(|response| response.status().as_u16());
            assert!(status.as_ref().map_or(true, |status| *status == 400), "{case}: {status:?}");
            proxy.log_lines(2 * case + 1).await;
            assert_eq!(get(proxy.address, "/ok", "").await.status, 200);
            proxy.log_lines(2 * case + 2).await;
            assert_eq!(origin.requests().len(), case + 1, "{case}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_that_waits_to_be_asked_for_its_body_is_asked_once() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = Setup::forwarding_to(&origin).start();
        let mut client = Raw::connect(proxy.address).await;
        let expect = "Expect: 100-continue\r\nContent-Length: 3\r\n";
        client.send(format!("POST / HTTP/1.1\r\nHost: a.test\r\n{expect}\r\n")).await;
        assert_eq!(client.answer().await.status, 100);
        client.send("abc").await;
        assert_eq!(client.answer().await.text(), "ok");
        assert!(origin.request().ends_with("content-length: 3\r\n\r\nabc"));
    })
    .await;
}

#[tokio::test]
async fn an_answer_before_the_end_of_an_upload_leaves_the_connection_in_order() {
    within(async {
        const LENGTH: usize = 3_000_000;
        const TOO_LARGE: &str = "HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig";
        let origin = Origin::scripted(|mut connection| async move {
            while let Some(head) = connection.head().await {
                let mut left = if head.starts_with("POST") { LENGTH } else { 0 };
                connection.write(if left > 0 { TOO_LARGE } else { OK }).await;
                while left > 0 {
                    let some = connection.some().await.len();
                    assert!(some > 0 && some <= left, "{some} of {left}");
                    left -= some;
                }
            }
        })
        .await;
        let proxy = Setup::forwarding_to(&origin).start();
        let mut client = Raw::connect(proxy.address).await;
        client
            .send(format!("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {LENGTH}\r\n\r\n"))
            .await;
        client.send(vec![b'x'; LENGTH / 2]).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.text()), (413, "big".to_owned()));
        // While the rest is on its way, others go another.
        assert_eq!(get(proxy.address, "/", "").await.text(), "ok");
        assert_eq!(origin.connections(), 2);
        client.try_send(vec![b'x'; LENGTH - LENGTH / 2]).await;
        client.try_send("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").await;
        let rest = String::from_utf8(client.read_to_end().await).unwrap();
        assert!(rest.is_empty() || rest.ends_with("\r\n\r\nok"), "{rest:?}");
        for _ in 0..3 {
            assert_eq!(get(proxy.address, "/", "").await.text(), "ok");
        }
        let lines = proxy.log_lines(5).await;
        assert_eq!(lines.iter().filter(|line| line.contains(" 413 ")).count(), 1, "{lines:?}");
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_ends_the_connection_reaches_a_client_that_still_uploads() {
    within(async {
        let refused = "HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\
                       Connection: close\r\n\r\nbig";
        let origin = Origin::scripted(move |mut connection| async move {
            connection.head().await;
            connection.write(refused).await;
            while !connection.some().await.is_empty() {}
        })
        .await;
        let proxy = Setup::forwarding_to(&origin).start();
        for framing in ["Content-Length: 3000000", "Transfer-Encoding: chunked"] {
            let mut client = Raw::connect(proxy.address).await;
            let head = format!("POST / HTTP/1.1\r\nHost: a.test\r\n{framing}\r\n\r\n");
            client.send(head + "fffff\r\n" + &"x".repeat(10_000)).await;
            let answer = client.answer().await;
            assert_eq!((answer.status, answer.text()), (413, "big".to_owned()));
        }
        assert_eq!(origin.connections(), 2);
    })
    .await;
}

#[tokio::test]
async fn a_pooled_connection_that_was_closed_is_not_used_even_for_a_post() {
    within(async {
        let closed = Arc::new(Semaphore::new(0));
        let signal = closed.clone();
        let origin = Origin::scripted(move |mut connection| {
            let signal = signal.clone();
            async move {
                connection.request().await;
                connection.write(OK).await;
                drop(connection);
                signal.add_permits(1);
            }
        })
        .await;
        let proxy = Setup::forwarding_to(&origin).start();
        for (case, method) in ["GET", "POST", "GET", "POST", "POST"].into_iter().enumerate() {
            let length = if method == "POST" { "Content-Length: 1\r\n\r\nx" } else { "\r\n" };
            let request = format!("{method} / HTTP/1.1\r\nHost: a.test\r\n{length}");
            assert_eq!(ask(proxy.address, request).await.status, 200);
            closed.acquire().await.unwrap().forget();
            assert_eq!((origin.connections(), origin.requests().len()), (case + 1, case + 1));
        }
    })
    .await;
}
