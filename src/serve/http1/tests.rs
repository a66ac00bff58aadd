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

use crate::body::Body;
use crate::serve::tests::{GET, closed_after, read_until, serve_with};

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
    let _still_busy = watcher.busy();
    tokio::spawn(trigger.drain(Duration::from_secs(60)));
    read_until(&mut asking.client, "ping").await;
    assert_eq!(closed_after(asking.client).await, 0);
    assert_eq!(closed_after(parked.client).await, 0);
    parked.task.await.unwrap();
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
