//! HTTP/2 with several streams at once, that goes when it is told to.
//!
//! A GOAWAY names the last stream that the server may have looked at (RFC 9113
//! §6.8). Those past it were not looked at and are sent again; those up to it are
//! owed an answer. h2 tells the two apart: only the former fail with the GOAWAY.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::time::Instant;

use super::load::{Client, Request};
use super::wire::{Door, PATIENCE};

/// The one connection that a client's streams share.
pub struct Shared {
    door: Door,
    current: tokio::sync::Mutex<Option<(usize, SendRequest<Bytes>)>>,
}

/// What became of a request.
enum Outcome {
    Answered(u16, Vec<u8>),
    /// The server has not looked at it: it went before.
    Unseen(&'static str),
    Failed(String),
}

impl Shared {
    pub fn new(door: Door) -> Arc<Self> {
        Arc::new(Self { door, current: tokio::sync::Mutex::default() })
    }

    /// The connection, or another one than the one with this number.
    async fn connection(
        &self,
        client: &Client,
        not: Option<usize>,
    ) -> Result<(usize, SendRequest<Bytes>), String> {
        let mut current = self.current.lock().await;
        let number = match &*current {
            Some((number, sender)) if Some(*number) != not => {
                return Ok((*number, sender.clone()));
            }
            Some((number, _)) => number + 1,
            None => 0,
        };
        let wire = self.door.open().await?.boxed();
        let shaken = h2::client::handshake(wire).await;
        let (sender, connection) = shaken.map_err(|error| format!("the preface: {error}"))?;
        tokio::spawn(async move {
            let _told_by_its_streams = connection.await;
        });
        if number > 0 {
            client.event("connected again");
        }
        *current = Some((number, sender.clone()));
        Ok((number, sender))
    }
}

/// Sends one request after the other on a connection that others use, too.
pub async fn streams(client: Arc<Client>, shared: Arc<Shared>, pause: Duration) {
    while let Some(request) = client.next(pause).await {
        client.try_once(&request, ask(&client, &shared, &request)).await;
    }
}

async fn ask(client: &Client, shared: &Shared, request: &Request) -> Result<(), String> {
    let mut not = None;
    // A server that goes away again and again takes no requests.
    for _ in 0..5 {
        let (number, sender) = shared.connection(client, not).await?;
        let (since, begun) = (client.known(), Instant::now());
        let outcome = tokio::time::timeout(PATIENCE, exchange(sender, request)).await;
        match outcome.unwrap_or_else(|_| Outcome::Failed("no answer for a long time".to_owned())) {
            Outcome::Answered(status, body) => {
                client.judge(since, request, status, &body)?;
                client.done(begun + request.wait);
                return Ok(());
            }
            Outcome::Unseen(why) => {
                client.event(why);
                not = Some(number);
            }
            Outcome::Failed(what) => {
                // The next one had better take another connection.
                let _whatever = shared.connection(client, Some(number)).await;
                return Err(format!("{what}; connection {number}"));
            }
        }
    }
    Err("told to go away five times".to_owned())
}

/// Whether the server has said that it did not look at this stream.
fn unseen(error: &h2::Error) -> bool {
    error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR)
}

async fn exchange(sender: SendRequest<Bytes>, request: &Request) -> Outcome {
    let mut sender = match sender.ready().await {
        Ok(sender) => sender,
        Err(error) if unseen(&error) => return Outcome::Unseen("told to go between requests"),
        Err(error) => return Outcome::Failed(format!("the connection is gone: {error}")),
    };
    let head = http::Request::builder()
        .method(request.asked.method)
        .uri(format!("https://a.test{}", request.path))
        .body(())
        .unwrap();
    let (answer, mut body) = match sender.send_request(head, request.body.is_empty()) {
        Ok(sent) => sent,
        Err(error) if unseen(&error) => return Outcome::Unseen("told to go between requests"),
        Err(error) => return Outcome::Failed(format!("cannot be sent: {error}")),
    };
    drop(sender);
    if !request.body.is_empty() {
        // What became of it, the answer tells.
        let _taken = body.send_data(request.body.clone(), true);
    }
    let stream = answer.stream_id().as_u32();
    let answer = match answer.await {
        Ok(answer) => answer,
        Err(error) if unseen(&error) => return Outcome::Unseen("left behind, sent again"),
        Err(error) => return Outcome::Failed(format!("stream {stream}: {error:?}")),
    };
    let (status, mut incoming) = (answer.status().as_u16(), answer.into_body());
    let mut received = Vec::new();
    while let Some(part) = incoming.data().await {
        match part {
            Ok(part) => {
                let _closed = incoming.flow_control().release_capacity(part.len());
                received.extend_from_slice(&part);
            }
            Err(error) => {
                let count = received.len();
                let what = format!("stream {stream}, after {count} bytes: {error:?}");
                return Outcome::Failed(what);
            }
        }
    }
    Outcome::Answered(status, received)
}
