use super::*;

use std::pin::Pin;
use std::task::Poll;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Context;
use std::time::Duration;

use http::{Request, Response};
use http_body::Body as _;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tower::Layer;

use crate::body::Body;
use crate::serve::tests::{GET, closed_after, read_until, serve_with};
use crate::serve::{Speaks, ValidateLayer, connection};

/// A stream that tells how much room its reader last offered: one at work has
/// 2 KiB and more, a parked connection less.
struct Probed(DuplexStream, Arc<AtomicUsize>);

impl AsyncRead for Probed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        self.1.store(room.remaining(), Ordering::Relaxed);
        Pin::new(&mut self.0).poll_read(cx, room)
    }
}

impl AsyncWrite for Probed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// What a connection is served with, and whether it is at work.
struct Bench {
    client: DuplexStream,
    room: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Bench {
    fn new<F, A>(answer: F, drain: drain::Watcher) -> Self
    where
        F: FnMut(Request<Body>) -> A + Clone + Send + 'static,
        A: Future<Output = Result<Response<Body>, Infallible>> + Send,
    {
        let (client, server) = tokio::io::duplex(1024);
        let room = Arc::new(AtomicUsize::new(0));
        let task = serve_with(Probed(server, room.clone()), answer, drain);
        Self { client, room, task }
    }

    /// Answers every request with its body.
    fn echo(drain: drain::Watcher) -> Self {
        let answer = |request: Request<Body>| async {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            Ok(Response::new(Body::from(body)))
        };
        Self::new(answer, drain)
    }

    async fn exchange(&mut self, request: &[u8], end: &str) -> String {
        self.client.write_all(request).await.unwrap();
        read_until(&mut self.client, end).await
    }

    fn is_parked(&self) -> bool {
        self.room.load(Ordering::Relaxed) < 2 * 1024
    }
}

const POST: &[u8] = b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\n\r\nping";

async fn a_while() {
    tokio::time::sleep(Duration::from_secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_quiet_connection_is_parked_and_wakes_for_the_next_request() {
    let mut bench = Bench::echo(drain::Watcher::never());
    for _ in 0..3 {
        bench.exchange(POST, "ping").await;
        tokio::time::sleep(Duration::from_millis(30)).await;
        assert!(!bench.is_parked());
        bench.exchange(POST, "ping").await;
        a_while().await;
        assert!(bench.is_parked());
    }
    // From the end of the last exchange, parked or not.
    assert_eq!(closed_after(bench.client).await, 74);
    bench.task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_parked_connection_gives_a_head_its_time_from_the_first_byte() {
    let mut bench = Bench::echo(drain::Watcher::never());
    bench.exchange(POST, "ping").await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    bench.client.write_all(&POST[..9]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    bench.exchange(&POST[9..], "ping").await;
    a_while().await;
    bench.client.write_all(&POST[..9]).await.unwrap();
    assert_eq!(closed_after(bench.client).await, 10);
}

#[tokio::test(start_paused = true)]
async fn what_came_of_the_next_request_before_the_pause_is_not_lost() {
    let mut bench = Bench::echo(drain::Watcher::never());
    bench.exchange(&[POST, &POST[..20]].concat(), "ping").await;
    a_while().await;
    bench.exchange(&POST[20..], "ping").await;
    bench.client.write_all(&[POST, POST].concat()).await.unwrap();
    a_while().await;
    let both = read_until(&mut bench.client, "ping").await;
    assert_eq!(both.matches("HTTP/1.1 200").count(), 2, "{both}");
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_goes_on_after_its_response_is_not_parked() {
    let (sender, mut bodies) = tokio::sync::mpsc::unbounded_channel();
    let answer = move |request: Request<Body>| {
        let sender = sender.clone();
        tokio::spawn(async move {
            let (mut body, mut read) = (request.into_body(), Vec::new());
            while !body.is_end_stream() {
                let frame = body.frame().await.unwrap().unwrap();
                read.extend(frame.into_data().unwrap());
            }
            sender.send(read).unwrap();
        });
        async { Ok(Response::new(Body::from("early"))) }
    };
    let mut bench = Bench::new(answer, drain::Watcher::never());
    let (head, tail) = POST.split_at(POST.len() - 2);
    bench.exchange(head, "early").await;
    a_while().await;
    assert!(!bench.is_parked());
    bench.client.write_all(tail).await.unwrap();
    assert_eq!(bodies.recv().await.unwrap(), b"ping");
    bench.exchange(POST, "early").await;
    a_while().await;
    assert!(bench.is_parked());
    bench.exchange(POST, "early").await;
}

#[tokio::test(start_paused = true)]
async fn the_rest_of_a_body_that_nobody_wants_is_never_a_request() {
    let answer = |_: Request<Body>| async { Ok(Response::new(Body::from("no"))) };
    let mut bench = Bench::new(answer, drain::Watcher::never());
    let (head, _) = POST.split_at(POST.len() - 4);
    bench.client.write_all(head).await.unwrap();
    read_until(&mut bench.client, "no").await;
    a_while().await;
    let _closed = bench.client.write_all(GET).await;
    let mut rest = Vec::new();
    let _reset_or_end = bench.client.read_to_end(&mut rest).await;
    assert!(rest.is_empty(), "{rest:?}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_waits_for_continue_is_told_to_and_parked_afterwards() {
    let mut bench = Bench::echo(drain::Watcher::never());
    let head = b"POST / HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\n\
                 Content-Length: 4\r\n\r\n";
    for _ in 0..2 {
        bench.exchange(head, "HTTP/1.1 100 Continue\r\n\r\n").await;
        a_while().await;
        bench.exchange(b"ping", "ping").await;
        a_while().await;
        assert!(bench.is_parked());
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_asked_in_vain_for_another_protocol_keeps_its_connection() {
    let mut bench = Bench::echo(drain::Watcher::never());
    let head = b"POST / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: other\r\n\
                 Content-Length: 4\r\n\r\nping";
    bench.exchange(head, "ping").await;
    a_while().await;
    bench.exchange(POST, "ping").await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_closes_what_is_parked_and_answers_what_has_come() {
    let trigger = drain::trigger();
    let mut parked = Bench::echo(trigger.watcher());
    let mut asking = Bench::echo(trigger.watcher());
    parked.exchange(POST, "ping").await;
    asking.exchange(POST, "ping").await;
    a_while().await;
    assert!(parked.is_parked() && asking.is_parked());
    asking.client.write_all(POST).await.unwrap();
    let watcher = trigger.watcher();
    let _still_busy = watcher.busy(drain::Work::Connection);
    tokio::spawn(trigger.drain(Duration::from_secs(60)));
    read_until(&mut asking.client, "ping").await;
    assert_eq!(closed_after(asking.client).await, 0);
    assert_eq!(closed_after(parked.client).await, 0);
    parked.task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_request_on_its_way_when_the_drain_begins_is_answered_and_the_last() {
    let trigger = drain::trigger();
    let mut bench = Bench::echo(trigger.watcher());
    bench.exchange(POST, "ping").await;
    a_while().await;
    let watcher = trigger.watcher();
    let _still_busy = watcher.busy(drain::Work::Connection);
    tokio::spawn(trigger.drain(Duration::from_secs(60)));
    tokio::time::sleep(Duration::from_millis(200)).await;
    bench.client.write_all(POST).await.unwrap();
    let response = read_until(&mut bench.client, "ping").await.to_ascii_lowercase();
    assert!(response.contains("connection: close"), "{response}");
    assert_eq!(closed_after(bench.client).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_while_parked_is_noticed_at_once() {
    let mut bench = Bench::echo(drain::Watcher::never());
    bench.exchange(POST, "ping").await;
    a_while().await;
    let before = Instant::now();
    drop(bench.client);
    bench.task.await.unwrap();
    assert_eq!(before.elapsed().as_secs(), 0);
}

#[tokio::test(start_paused = true)]
async fn requests_sent_at_once_are_answered_in_order_up_to_the_last() {
    let mut bench = Bench::echo(drain::Watcher::never());
    let post = |body: &str, field: &str| {
        let length = body.len();
        format!("POST / HTTP/1.1\r\nHost: a\r\n{field}Content-Length: {length}\r\n\r\n{body}")
    };
    let close = "Connection: keep-alive, Close\r\n";
    let all = [post("one", ""), post("two", ""), post("three", close), post("four", "")].concat();
    bench.client.write_all(all.as_bytes()).await.unwrap();
    let mut answers = String::new();
    bench.client.read_to_string(&mut answers).await.unwrap();
    let bodies = answers.split("\r\n\r\n").skip(1).map(|part| part.split("HTTP/").next());
    assert_eq!(bodies.flatten().collect::<Vec<_>>(), ["one", "two", "three"], "{answers}");
    assert_eq!(answers.matches("connection: close").count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_head_that_is_not_whole_in_time_is_answered() {
    let mut bench = Bench::echo(drain::Watcher::never());
    bench.exchange(POST, "ping").await;
    bench.client.write_all(&POST[..20]).await.unwrap();
    let before = Instant::now();
    let mut answer = String::new();
    bench.client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    assert_eq!(before.elapsed().as_secs(), 10);
    bench.task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_that_still_uploads_reads_an_early_answer() {
    let answer = |_: Request<Body>| async { Ok(Response::new(Body::from("no"))) };
    let mut bench = Bench::new(answer, drain::Watcher::never());
    let head = b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1000000\r\n\r\n";
    bench.client.write_all(head).await.unwrap();
    // More than the pipe holds: it is taken although nobody wants it.
    for _ in 0..100 {
        bench.client.write_all(&[b'x'; 1000]).await.unwrap();
    }
    let answer = read_until(&mut bench.client, "no").await;
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    // But not for ever.
    let before = Instant::now();
    bench.task.await.unwrap();
    assert_eq!(before.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_has_its_work_cancelled() {
    let (alive, gone) = tokio::sync::oneshot::channel::<()>();
    let alive = Arc::new(parking_lot::Mutex::new(Some(alive)));
    let answer = move |request: Request<Body>| {
        let held = alive.lock().take();
        // Read to its end elsewhere, as by a connection to an origin.
        tokio::spawn(request.into_body().collect());
        async move {
            let _held = held;
            std::future::pending::<()>().await;
            Ok(Response::new(Body::empty()))
        }
    };
    let mut bench = Bench::new(answer, drain::Watcher::never());
    let (head, tail) = POST.split_at(POST.len() - 2);
    bench.client.write_all(head).await.unwrap();
    a_while().await;
    bench.client.write_all(tail).await.unwrap();
    a_while().await;
    drop(bench.client);
    assert!(gone.await.is_err());
    bench.task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_body_that_fails_is_cut_without_an_end() {
    let answer = |_: Request<Body>| async {
        let frames: Vec<Result<http_body::Frame<bytes::Bytes>, crate::error::BoxError>> =
            vec![Ok(http_body::Frame::data("some".into())), Err("gone".into())];
        let body = http_body_util::StreamBody::new(futures_util::stream::iter(frames));
        Ok(Response::new(Body::new(body)))
    };
    let mut bench = Bench::new(answer, drain::Watcher::never());
    bench.client.write_all(GET).await.unwrap();
    let mut answer = String::new();
    bench.client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("transfer-encoding: chunked") && !answer.contains("0\r\n\r\n"));
    bench.task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_on_the_connection_behind_a_body_is_not_of_it() {
    let (sender, mut bodies) = tokio::sync::mpsc::unbounded_channel();
    let answer = move |request: Request<Body>| {
        let sender = sender.clone();
        async move {
            // Read elsewhere, and kept beyond its end.
            tokio::spawn(async move {
                let mut body = request.into_body();
                let mut read = Vec::new();
                while let Some(frame) = body.frame().await {
                    read.extend(frame.unwrap().into_data().unwrap());
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
                assert!(body.frame().await.is_none());
                sender.send(read).unwrap();
            });
            Ok(Response::new(Body::from("early")))
        }
    };
    let mut bench = Bench::new(answer, drain::Watcher::never());
    let (head, tail) = POST.split_at(POST.len() - 2);
    bench.exchange(head, "early").await;
    bench.exchange(&[tail, POST].concat(), "early").await;
    assert_eq!(bodies.recv().await.unwrap(), b"ping");
    assert_eq!(bodies.recv().await.unwrap(), b"ping");
}

#[tokio::test(start_paused = true)]
async fn a_switch_hands_the_stream_over_with_what_came_early() {
    let answer = |mut request: Request<Body>| async move {
        let switched = crate::switch::OnSwitch::take(request.extensions_mut()).unwrap();
        tokio::spawn(async move {
            let mut switched = switched.await.unwrap();
            let mut word = [0; 5];
            switched.read_exact(&mut word).await.unwrap();
            switched.write_all(&word).await.unwrap();
        });
        let mut response = Response::new(Body::empty());
        *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert("connection", http::HeaderValue::from_static("upgrade"));
        headers.insert("upgrade", http::HeaderValue::from_static("other"));
        Ok(response)
    };
    let mut bench = Bench::new(answer, drain::Watcher::never());
    let head =
        b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\nearly";
    let all = bench.exchange(head, "early").await;
    let expected =
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: other\r\n\r\nearly";
    assert_eq!(all, expected);
}

#[tokio::test(start_paused = true)]
async fn a_client_of_http_1_0_gets_a_body_that_ends_with_the_connection() {
    let answer = |_: Request<Body>| async {
        let frames = ["ab", "cd"].map(|part| {
            Ok::<_, Infallible>(http_body::Frame::data(bytes::Bytes::from_static(part.as_bytes())))
        });
        let body = http_body_util::StreamBody::new(futures_util::stream::iter(frames));
        Ok(Response::new(Body::new(body)))
    };
    let mut bench = Bench::new(answer, drain::Watcher::never());
    let head = b"GET / HTTP/1.0\r\nHost: a.test\r\nConnection: keep-alive\r\n\r\n";
    bench.client.write_all(head).await.unwrap();
    let mut answer = String::new();
    bench.client.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.contains("connection: close\r\n") && answer.ends_with("\r\n\r\nabcd"),
        "{answer}"
    );
}

#[tokio::test]
async fn who_sends_many_requests_at_once_leaves_others_their_turn() {
    let (mut client, server) = tokio::io::duplex(64 * 1024);
    let requests = GET.repeat(200);
    client.write_all(&requests).await.unwrap();
    let answered = Arc::new(AtomicUsize::new(0));
    let count = answered.clone();
    let answer = move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        async { Ok(Response::new(Body::empty())) }
    };
    let service = ValidateLayer.layer(tower::service_fn(answer));
    let (settings, drain) = (Arc::new(ServeSettings::default()), drain::Watcher::never());
    let downstream = Downstream::default();
    let mut served = connection(server, Speaks::Http1, downstream, settings, service, drain);
    let mut before = 0;
    while before < 200 {
        tokio::task::yield_now().await;
        assert!(futures_util::poll!(served.as_mut()).is_pending());
        let now = answered.load(Ordering::Relaxed);
        assert!(now - before < 50, "{} in one turn", now - before);
        before = now;
    }
}
