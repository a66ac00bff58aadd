//! An origin that reads as strictly as can be, and keeps what it read.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::origin::Origin;
use super::strict::{self, Fault, Message};

/// What an origin was sent.
pub enum Received {
    Request(Message),
    /// Bytes that are no request, or not a whole one.
    Bytes(Fault, Vec<u8>),
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(message) => write!(f, "{message:?}"),
            Self::Bytes(fault, bytes) => write!(f, "{fault:?}: {}", bytes.escape_ascii()),
        }
    }
}

/// What to answer a request with, and whether another may follow.
type Answer = dyn Fn(&Message) -> (Vec<Vec<u8>>, bool) + Send + Sync;

/// Keeps what it receives until it is taken out.
pub struct Recorder {
    pub origin: Origin,
    received: Arc<Mutex<Vec<Received>>>,
}

impl Recorder {
    /// Answers each request with the pieces that `answer` makes.
    pub async fn answering<F>(answer: F) -> Self
    where
        F: Fn(&Message) -> (Vec<Vec<u8>>, bool) + Send + Sync + 'static,
    {
        let received = Arc::new(Mutex::new(Vec::new()));
        let (kept, answer) = (received.clone(), Arc::new(answer));
        let origin = Origin::scripted(move |connection| {
            let (kept, answer) = (kept.clone(), answer.clone());
            async move { serve(connection.stream, &kept, &*answer).await }
        })
        .await;
        Self { origin, received }
    }

    pub fn take(&self) -> Vec<Received> {
        std::mem::take(&mut *self.received.lock())
    }
}

async fn serve(mut stream: TcpStream, kept: &Mutex<Vec<Received>>, answer: &Answer) {
    stream.set_nodelay(true).unwrap();
    let mut buffer = Vec::new();
    let mut called = false;
    loop {
        match strict::request(&buffer) {
            Ok((Message { wrong: Some(wrong), .. }, _)) => {
                return kept.lock().push(Received::Bytes(Fault::Invalid(wrong), buffer));
            }
            Ok((message, rest)) => {
                buffer = rest.to_vec();
                called = false;
                let (pieces, goes_on) = answer(&message);
                kept.lock().push(Received::Request(message));
                for piece in pieces {
                    let _gone = stream.write_all(&piece).await;
                    tokio::task::yield_now().await;
                }
                if !goes_on {
                    return;
                }
            }
            Err(Fault::Cut) => {
                if !called && waits_for_a_call(&buffer) {
                    called = true;
                    let _gone = stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await;
                }
                if !matches!(stream.read_buf(&mut buffer).await, Ok(count) if count > 0) {
                    if !buffer.is_empty() {
                        kept.lock().push(Received::Bytes(Fault::Cut, buffer));
                    }
                    return;
                }
            }
            Err(fault) => return kept.lock().push(Received::Bytes(fault, buffer)),
        }
    }
}

/// Whether a head is whole and its body is held back (RFC 9110 §10.1.1).
fn waits_for_a_call(buffer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(buffer).to_ascii_lowercase();
    let head = text.split_once("\r\n\r\n").map(|(head, _)| head);
    head.is_some_and(|head| head.contains("\r\nexpect: 100-continue"))
}
