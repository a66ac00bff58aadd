//! HTTP/1.1, after RFC 9112, with an exact notion of what a close means.
//!
//! A server may close a connection that is idle (§9.5), and a client that finds it
//! closed before it has written anything opens another one: nothing is lost. Once a
//! byte of a request was taken by a connection that had not been announced to close
//! (`Connection: close`), only the answer will do. That is stricter than §9.3.1,
//! which lets idempotent requests be sent again: a proxy that needs it has dropped
//! something.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::load::{Client, Request};
use super::wire::{Door, PATIENCE, Wire};
use crate::support::client::fields;

/// A connection between requests.
struct Link {
    wire: Wire,
    buffer: Vec<u8>,
    /// Requests it has carried.
    used: usize,
    /// Whether the last answer said that it ends.
    ends: bool,
}

struct Answer {
    status: u16,
    body: Vec<u8>,
}

/// Why there is no answer.
enum Broken {
    /// It was closed while idle, or at least before it took a byte.
    Unused(String),
    /// Something of the request was taken.
    Used(String),
}

impl Link {
    async fn open(door: &Door) -> Result<Self, String> {
        Ok(Self { wire: door.open().await?, buffer: Vec::new(), used: 0, ends: false })
    }

    async fn is_over(&mut self) -> bool {
        self.wire.is_over(&mut self.buffer).await
    }

    async fn more(&mut self) -> Result<(), String> {
        let mut chunk = vec![0; 16 * 1024];
        match self.wire.read(&mut chunk).await {
            Ok(0) => Err("the connection ended".to_owned()),
            Ok(count) => {
                self.buffer.extend_from_slice(&chunk[..count]);
                Ok(())
            }
            Err(error) => Err(format!("the connection broke: {error}")),
        }
    }

    async fn take_until(&mut self, end: &[u8]) -> Result<Vec<u8>, String> {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|part| part == end) {
                return Ok(self.buffer.drain(..at + end.len()).collect());
            }
            self.more().await?;
        }
    }

    async fn take(&mut self, count: usize) -> Result<Vec<u8>, String> {
        while self.buffer.len() < count {
            self.more().await?;
        }
        Ok(self.buffer.drain(..count).collect())
    }

    async fn exchange(&mut self, request: &[u8]) -> Result<Answer, Broken> {
        if !self.buffer.is_empty() {
            let what = String::from_utf8_lossy(&self.buffer).into_owned();
            return Err(Broken::Used(format!("something was sent unasked: {what:?}")));
        }
        let port = self.wire.port();
        let place = |what: &str, used| format!("{what}; request {} on port {port}", used + 1);
        self.wire.write(request).await.map_err(|(taken, error)| {
            let what = place(&format!("after {taken} bytes sent: {error}"), self.used);
            if taken == 0 { Broken::Unused(what) } else { Broken::Used(what) }
        })?;
        let used = self.used;
        let answer = match tokio::time::timeout(PATIENCE, self.answer()).await {
            Ok(answer) => answer.map_err(|what| {
                let had = String::from_utf8_lossy(&self.buffer).chars().take(300).collect();
                let had: String = had;
                Broken::Used(place(&format!("{what} in the answer, after {had:?}"), used))
            })?,
            Err(_) => return Err(Broken::Used(place("no answer for a long time", used))),
        };
        self.used += 1;
        Ok(answer)
    }

    async fn answer(&mut self) -> Result<Answer, String> {
        let head = self.take_until(b"\r\n\r\n").await?;
        let head = String::from_utf8_lossy(&head).into_owned();
        let status = head.get(9..12).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| format!("no status in {head:?}"))?;
        let tokens = fields(&head, "connection");
        self.ends = tokens.iter().any(|value| value.eq_ignore_ascii_case("close"));
        let mut body = Vec::new();
        if let Some(length) = fields(&head, "content-length").first() {
            let length = length.parse().map_err(|_| format!("no length in {head:?}"))?;
            body = self.take(length).await?;
        } else {
            loop {
                let size = self.take_until(b"\r\n").await?;
                let size = String::from_utf8_lossy(&size).trim().to_owned();
                let size =
                    usize::from_str_radix(&size, 16).map_err(|_| format!("size {size:?}"))?;
                body.extend(self.take(size).await?);
                self.take(2).await?;
                if size == 0 {
                    break;
                }
            }
        }
        Ok(Answer { status, body })
    }
}

/// Sends one request after the other, on one connection as long as that lasts.
pub async fn keeps_alive(client: Arc<Client>, door: Door, pause: Duration) {
    let mut link = None;
    while let Some(request) = client.next(pause).await {
        client.try_once(&request, ask(&client, &door, &mut link, &request)).await;
    }
}

/// Opens a connection for each request.
pub async fn opens_each_time(client: Arc<Client>, door: Door, pause: Duration) {
    while let Some(request) = client.next(pause).await {
        let request = Request { ends: true, ..request };
        client.try_once(&request, ask(&client, &door, &mut None, &request)).await;
    }
}

/// Sends a request on a connection that is open, or on another one.
async fn ask(
    client: &Client,
    door: &Door,
    kept: &mut Option<Link>,
    request: &Request,
) -> Result<(), String> {
    if let Some(mut link) = kept.take() {
        if link.is_over().await {
            client.event("closed while idle");
        } else {
            match ask_on(client, &mut link, request).await {
                Err(Broken::Unused(_)) => client.event("closed while idle"),
                Err(Broken::Used(what)) => return Err(what),
                Ok(()) => {
                    keep(client, kept, link);
                    return Ok(());
                }
            }
        }
    }
    let mut link = Link::open(door).await?;
    if link.wire.is_resumed() {
        client.event("resumed");
    }
    match ask_on(client, &mut link, request).await {
        Err(Broken::Unused(what) | Broken::Used(what)) => Err(what),
        Ok(()) => {
            keep(client, kept, link);
            Ok(())
        }
    }
}

async fn ask_on(client: &Client, link: &mut Link, request: &Request) -> Result<(), Broken> {
    let (since, begun) = (client.known(), Instant::now());
    let answer = link.exchange(&request.http1()).await?;
    client.judge(since, request, answer.status, &answer.body).map_err(Broken::Used)?;
    client.done(begun + request.wait);
    Ok(())
}

fn keep(client: &Client, kept: &mut Option<Link>, link: Link) {
    if link.ends {
        client.event("announced");
    } else {
        *kept = Some(link);
    }
}
