//! Origins that say who they are and what they were sent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Query, State};
use axum::http::Method;
use axum::response::Response;
use axum::routing::{any, get, post};
use futures_util::StreamExt;
use serde::Deserialize;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// One origin, until it is dropped.
pub struct Origin {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

#[derive(Clone)]
struct About {
    name: &'static str,
    /// Whether what lasts should come to its end.
    over: watch::Receiver<bool>,
}

/// What a request asks for.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Wish {
    id: String,
    /// Bytes to send back.
    size: usize,
    /// Milliseconds to think first.
    wait: u64,
    /// Lines that a download has at most; without it, it ends when all is over.
    lines: Option<u64>,
}

impl Origin {
    pub async fn named(name: &'static str, over: watch::Receiver<bool>) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new()
            .route("/healthz", get(|| async { "fine\n" }))
            .route("/{area}/echo", any(echo))
            .route("/{area}/download", get(download))
            .route("/{area}/upload", post(upload))
            .route("/{area}/ws", any(websocket))
            .with_state(About { name, over });
        let task = tokio::spawn(async move {
            let _ended = axum::serve(listener, router).await;
        });
        Self { address, task }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What is the same for two bodies only if they are (FNV-1a).
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct Sum {
    pub length: u64,
    hash: u64,
}

impl Sum {
    pub fn new() -> Self {
        Self { length: 0, hash: 0xcbf2_9ce4_8422_2325 }
    }

    pub fn of(bytes: &[u8]) -> Self {
        let mut sum = Self::new();
        sum.add(bytes);
        sum
    }

    pub fn add(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        for byte in bytes {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

impl std::fmt::Display for Sum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{:016x}", self.length, self.hash)
    }
}

/// A line of something long, by its number.
pub fn line(number: u64) -> String {
    format!("{number:0>999}\n")
}

/// The line after the last one.
pub fn last_line(number: u64) -> String {
    format!("end {number}\n")
}

/// The first line of an answer: `origin id method received`.
fn first_line(about: &About, wish: &Wish, method: &Method, received: Sum) -> String {
    format!("{} {} {method} {received}\n", about.name, wish.id)
}

async fn echo(
    State(about): State<About>,
    Query(wish): Query<Wish>,
    method: Method,
    body: Bytes,
) -> String {
    tokio::time::sleep(Duration::from_millis(wish.wait)).await;
    let mut answer = first_line(&about, &wish, &method, Sum::of(&body));
    answer.extend(std::iter::repeat_n('x', wish.size));
    answer
}

async fn upload(State(about): State<About>, Query(wish): Query<Wish>, body: Body) -> String {
    let mut sum = Sum::new();
    let mut pieces = body.into_data_stream();
    while let Some(piece) = pieces.next().await {
        match piece {
            Ok(piece) => sum.add(&piece),
            Err(error) => return format!("{} cut: {error}\n", about.name),
        }
    }
    first_line(&about, &wish, &Method::POST, sum)
}

async fn download(State(about): State<About>, Query(wish): Query<Wish>) -> Response {
    let state = (Arc::new(about), 0, false);
    let pieces = futures_util::stream::unfold(state, move |(about, number, ended)| async move {
        if ended {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        let ends = wish.lines.map_or_else(|| *about.over.borrow(), |lines| number >= lines);
        let piece = if ends { last_line(number) } else { line(number) };
        Some((Ok::<_, std::io::Error>(piece), (about, number + 1, ends)))
    });
    Response::new(Body::from_stream(pieces))
}

async fn websocket(State(about): State<About>, upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(move |socket| echo_messages(about, socket))
}

async fn echo_messages(about: About, mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        if let Message::Text(text) = message {
            let answer = format!("{} {text}", about.name);
            if socket.send(Message::text(answer)).await.is_err() {
                return;
            }
        }
    }
}
