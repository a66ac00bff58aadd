//! How fast a response is sent.

use std::time::Duration;

use tokio::time::Instant;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};

use super::behind;
use crate::support::client::{Answer, get};
use crate::support::origin::Origin;
use crate::support::websocket::h2_to;
use crate::support::within;

/// An origin that answers with as many bytes as the path says, whole or in chunks.
async fn origin() -> Origin {
    Origin::scripted(|mut connection| async move {
        while let Some(request) = connection.request().await {
            let path = request.split(' ').nth(1).unwrap_or("/0").to_owned();
            let count: usize = path.rsplit('/').next().unwrap_or("0").parse().unwrap_or(0);
            let body: Vec<u8> = (0..count).map(|at| b'a' + (at % 26) as u8).collect();
            let head = "HTTP/1.1 200 OK\r\nTrailer: X-End\r\n";
            if path.starts_with("/chunked") {
                connection.write(format!("{head}Transfer-Encoding: chunked\r\n\r\n")).await;
                connection.write(format!("{count:x}\r\n")).await;
                connection.write(&body).await;
                connection.write("\r\n0\r\nX-End: yes\r\n\r\n").await;
            } else {
                connection.write(format!("{head}Content-Length: {count}\r\n\r\n")).await;
                connection.write(&body).await;
            }
        }
    })
    .await
}

/// A hundred thousand bytes a second, and as many at once.
const LIMIT: &str = "[route.bandwidth]\nresponse = \"100KB/s\"\nburst = \"100KB\"\n";

fn is_whole(body: &[u8], count: usize) -> bool {
    body.len() == count && body.iter().enumerate().all(|(at, byte)| *byte == b'a' + (at % 26) as u8)
}

async fn timed<T>(ask: impl Future<Output = T>) -> (T, Duration) {
    let begin = Instant::now();
    (ask.await, begin.elapsed())
}

#[tokio::test]
async fn a_long_response_comes_whole_and_no_faster_than_it_may() {
    within(async {
        let origin = origin().await;
        let proxy = behind(&origin, LIMIT).start();
        let (answer, took): (Answer, _) = timed(get(proxy.address, "/200000", "")).await;
        assert!(is_whole(&answer.body, 200_000), "{}", answer.body.len());
        assert_eq!(answer.field("content-length"), Some("200000"));
        assert!(took >= Duration::from_millis(990), "{took:?}");
        // What is no longer than the burst is not held back: not by as much as it would be.
        let (answer, took) = timed(get(proxy.address, "/100000", "")).await;
        assert!(is_whole(&answer.body, 100_000));
        assert!(took < Duration::from_millis(900), "{took:?}");
    })
    .await;
}

#[tokio::test]
async fn each_response_has_its_own() {
    within(async {
        let origin = origin().await;
        let proxy = behind(&origin, LIMIT).start();
        let ask = || get(proxy.address, "/200000", "");
        let (answers, took) = timed(async { tokio::join!(ask(), ask(), ask(), ask()) }).await;
        for answer in [answers.0, answers.1, answers.2, answers.3] {
            assert!(is_whole(&answer.body, 200_000));
        }
        // One after another it would be four.
        assert!(took >= Duration::from_millis(990), "{took:?}");
        assert!(took < Duration::from_millis(3_500), "{took:?}");
    })
    .await;
}

#[tokio::test]
async fn chunks_are_held_back_and_trailers_come_behind_them() {
    within(async {
        let origin = origin().await;
        let proxy = behind(&origin, LIMIT).start();
        let (answer, took) = timed(get(proxy.address, "/chunked/150000", "TE: trailers\r\n")).await;
        assert!(is_whole(&answer.body, 150_000), "{}", answer.body.len());
        assert!(took >= Duration::from_millis(490), "{took:?}");
        assert!(answer.trailers.to_lowercase().contains("x-end: yes"), "{}", answer.trailers);
    })
    .await;
}

#[tokio::test]
async fn streams_of_http2_are_held_back_and_do_not_hold_up_each_other() {
    within(async {
        let origin = origin().await;
        let proxy = behind(&origin, LIMIT).start();
        let client = h2_to(proxy.address).await;
        let ask = |count: usize| {
            let mut client = client.clone();
            timed(async move {
                let uri = format!("http://a.test/{count}");
                let request = http::Request::get(uri).body(Empty::<Bytes>::new()).unwrap();
                let response = client.send_request(request).await.unwrap();
                let body = response.into_body().collect().await.unwrap().to_bytes();
                assert!(is_whole(&body, count), "{}", body.len());
            })
        };
        let ((_, long), (_, other), (_, short)) =
            tokio::join!(ask(200_000), ask(200_000), ask(50_000));
        assert!(long.min(other) >= Duration::from_millis(990), "{long:?} {other:?}");
        assert!(short < long, "{short:?} {long:?}");
    })
    .await;
}

#[tokio::test]
async fn an_empty_response_and_a_head_are_as_they_were() {
    within(async {
        let origin = origin().await;
        let proxy = behind(&origin, LIMIT).start();
        assert_eq!(get(proxy.address, "/0", "").await.status, 200);
        let mut client = crate::support::client::Raw::connect(proxy.address).await;
        client.send("HEAD /300000 HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let answer = client.answer_to("HEAD").await;
        assert_eq!(answer.field("content-length"), Some("300000"));
    })
    .await;
}
