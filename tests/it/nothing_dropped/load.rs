//! What all clients share: who they are, what they ask next, and how it is judged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::configs::{Asked, InForce, Target};
use super::origins::Sum;
use super::tally::Tally;

/// What the load is told while it runs.
pub struct Shared {
    pub tally: Tally,
    pub in_force: InForce,
    /// Whether clients should end.
    pub stop: AtomicBool,
    /// Whether clients should ask nothing for now.
    pub paused: AtomicBool,
    /// Whether processes may tell clients to go.
    pub upgrading: AtomicBool,
}

/// One client.
pub struct Client {
    pub shared: Arc<Shared>,
    pub kind: &'static str,
    who: String,
    count: AtomicUsize,
}

/// One request.
pub struct Request {
    pub target: Target,
    pub asked: Asked,
    pub path: String,
    pub body: Bytes,
    /// How long the origin thinks about it.
    pub wait: Duration,
    /// Whether the connection should end with it.
    pub ends: bool,
}

impl Client {
    pub fn new(shared: &Arc<Shared>, kind: &'static str, number: usize) -> Arc<Self> {
        let who = format!("{}-{number}", kind.replace(' ', "-"));
        // Each begins somewhere else.
        let count = AtomicUsize::new(number * 7);
        Arc::new(Self { shared: shared.clone(), kind, who, count })
    }

    /// The next request, after a pause; `None` if the client should end.
    pub async fn next(&self, pause: Duration) -> Option<Request> {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        // Between half of it and one and a half times it.
        let share = u32::try_from((count * 7919) % 64).unwrap_or_default();
        tokio::time::sleep(pause / 2 + pause * share / 64).await;
        while self.shared.paused.load(Ordering::Relaxed) && !self.is_over() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if self.is_over() {
            return None;
        }
        Some(Request::number(&self.who, count))
    }

    pub fn is_over(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed)
    }

    pub fn who(&self) -> &str {
        &self.who
    }

    pub fn known(&self) -> usize {
        self.shared.in_force.known()
    }

    pub fn event(&self, event: &'static str) {
        self.shared.tally.event(self.kind, event);
    }

    pub fn done(&self, since: Instant) {
        self.shared.tally.done(self.kind, since);
    }

    pub fn failed(&self, request: &str, what: &str) {
        self.shared.tally.failed(self.kind, &self.who, request, what);
    }

    /// Whether an answer fits what may have been in force since.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn judge(
        &self,
        since: usize,
        request: &Request,
        status: u16,
        body: &[u8],
    ) -> Result<(), String> {
        request.target.judge(self.shared.in_force.since(since), &request.asked, status, body)
    }

    /// Tells of a request that failed, and has the client hold back a little.
    pub async fn try_once(
        &self,
        request: &Request,
        asking: impl Future<Output = Result<(), String>>,
    ) {
        if let Err(what) = asking.await {
            self.failed(&request.line(), &what);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Request {
    fn number(who: &str, count: usize) -> Self {
        use Target::{Coming, Moving, Stable, Turning, Which};
        let target = [Stable, Moving, Turning, Which, Moving, Coming, Moving][count % 7];
        let method = if count.is_multiple_of(3) && target.takes_body() { "POST" } else { "GET" };
        let body = match method {
            "POST" => {
                vec![b'a' + u8::try_from(count % 26).unwrap(); [10, 3_000, 40_000][count % 9 / 3]]
            }
            _ => Vec::new(),
        };
        let size = [0, 100, 20_000][count % 3];
        let wait = if target.takes_body() && count % 5 == 4 { 200 } else { 0 };
        let id = format!("{who}.{count}");
        let path = match target {
            Which => target.path().to_owned(),
            _ => format!("{}?id={id}&size={size}&wait={wait}", target.path()),
        };
        let asked = Asked { id, method, sum: Sum::of(&body), size };
        let wait = Duration::from_millis(wait);
        Self { target, asked, path, body: body.into(), wait, ends: false }
    }

    pub fn line(&self) -> String {
        format!("{} {} ({} bytes)", self.asked.method, self.path, self.body.len())
    }

    /// As HTTP/1.1 has it.
    pub fn http1(&self) -> Vec<u8> {
        let Asked { method, .. } = self.asked;
        let path = &self.path;
        let connection = if self.ends { "Connection: close\r\n" } else { "" };
        let head = format!("{method} {path} HTTP/1.1\r\nHost: a.test\r\n{connection}");
        let (mut bytes, length) = (head.into_bytes(), self.body.len());
        // Longer bodies come in chunks.
        match length {
            0 => bytes.extend(b"\r\n"),
            1..=10_000 => {
                bytes.extend(format!("Content-Length: {length}\r\n\r\n").into_bytes());
                bytes.extend(&self.body);
            }
            _ => {
                bytes.extend(b"Transfer-Encoding: chunked\r\n\r\n");
                for chunk in self.body.chunks(16_000) {
                    bytes.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
                    bytes.extend(chunk);
                    bytes.extend(b"\r\n");
                }
                bytes.extend(b"0\r\n\r\n");
            }
        }
        bytes
    }
}
