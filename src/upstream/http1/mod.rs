//! An HTTP/1.1 connection to an origin, driven by the exchange that uses it.
//!
//! One task carries a request from the client's socket to the origin's and the
//! response back: nothing is handed over between tasks, and nothing but the
//! sockets wakes anybody. In the pool nobody polls the connection, so whoever
//! takes it out looks first whether the origin has closed it.
//!
//! The request stays where it is while it is sent, so that one of which not a
//! byte was written can be sent elsewhere without a copy.

mod framing;
mod head;
mod outgoing;
mod received;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::BytesMut;
use http::{HeaderMap, Request, Response};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, Sleep};
use tokio_util::io::poll_read_buf;

use self::head::{Head, Invalid};
use self::outgoing::{Outgoing, Stopped};
use self::received::Received;
use super::client::no_request;
use super::origin::Origin;
use super::stream::Stream;
use crate::body::Body;
use crate::error::{Error, Kind, Resend, cause_of};
use crate::proxy_protocol::Announced;

/// How much is read at once, to begin with and at the most.
const READ: usize = 8 * 1024;
const MOST_READ: usize = 128 * 1024;

/// With less room than this the buffer is made larger before it is read into.
const LEAST_ROOM: usize = 2 * 1024;

/// Interim responses (RFC 9110 §15.2) that an origin may send before its answer.
const MAX_INTERIM: u32 = 32;

/// A connection that carries one exchange at a time.
pub(super) struct Http1 {
    stream: Stream,
    /// What was received and not yet looked at.
    read: BytesMut,
    /// How much to read at once.
    reads: usize,
    /// How far the end of a head was looked for.
    searched: usize,
    outgoing: Outgoing,
    /// Kept from one exchange to the next: a timer is cheap to move and dear to
    /// set up.
    timer: Pin<Box<Sleep>>,
}

/// How far the wait for a response is.
struct Wait {
    deadline: Duration,
    sent: bool,
    /// Why the request could not be written to its end.
    lost: Option<io::Error>,
    interim: u32,
}

impl Http1 {
    /// Speaks HTTP/1.1 on a stream that was just connected.
    pub(super) fn new(stream: Stream) -> Box<Self> {
        Box::new(Self {
            stream,
            read: BytesMut::new(),
            reads: READ,
            searched: 0,
            outgoing: Outgoing::new(),
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
        })
    }

    /// Whether it can carry a request: the origin has neither closed it nor sent
    /// anything that nobody asked for.
    pub(super) fn is_ready(&mut self) -> bool {
        let mut byte = [0];
        // A task that has done much is told that nothing has come, whatever has.
        let look = tokio::task::unconstrained(std::future::poll_fn(|cx| {
            Pin::new(&mut self.stream).poll_read(cx, &mut ReadBuf::new(&mut byte))
        }));
        let mut cx = Context::from_waker(Waker::noop());
        std::pin::pin!(look).poll(&mut cx).is_pending()
    }

    /// Whose connection the origin was told it is, if it was.
    pub(super) fn announced(&self) -> Option<Announced> {
        self.stream.announced.as_deref().copied()
    }

    /// Makes it fit for the runtime of another thread.
    pub(super) fn settle_here(&mut self) {
        self.timer = Box::pin(tokio::time::sleep(Duration::ZERO));
    }

    /// Gives buffers back while it is not needed.
    pub(super) fn rest(&mut self) {
        self.read = BytesMut::new();
        self.outgoing.rest();
    }

    /// The stream, for whoever speaks another protocol on it.
    pub(super) fn into_stream(self) -> Stream {
        self.stream
    }

    /// Sends a request and waits for the head of the response. The request is
    /// left in its slot if it failed and could be sent again.
    pub(super) async fn send(
        mut self: Box<Self>,
        origin: &Arc<Origin>,
        slot: &mut Option<Request<Body>>,
        now: Instant,
        deadline: Duration,
    ) -> Result<Response<Body>, Error> {
        let Some(request) = slot else {
            return Err(no_request());
        };
        self.outgoing.begin(request);
        // What the last response took says nothing of this one.
        self.reads = READ;
        self.timer.as_mut().reset(now + deadline);
        let mut wait = Wait { deadline, sent: false, lost: None, interim: 0 };
        let answered = std::future::poll_fn(|cx| self.poll_answer(request, &mut wait, cx)).await;
        let head = match answered {
            Ok(head) => head,
            Err(error) => {
                if self.outgoing.has_touched_body() {
                    *slot = None;
                }
                return Err(error);
            }
        };
        let upload = slot.take().filter(|_| !wait.sent).map(Request::into_body);
        let keep_alive = head.keep_alive && wait.lost.is_none();
        let (parts, ()) = head.response.into_parts();
        let body = Received::body(self, head.body, keep_alive, upload, origin.clone());
        Ok(Response::from_parts(parts, body))
    }

    fn poll_answer(
        &mut self,
        request: &mut Request<Body>,
        wait: &mut Wait,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Head, Error>> {
        if !wait.sent {
            match self.outgoing.poll(&mut self.stream, request.body_mut(), cx) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => wait.sent = true,
                Poll::Ready(Err(Stopped::Connection(error))) => {
                    // It may have answered before it closed the connection.
                    (wait.sent, wait.lost) = (true, Some(error));
                }
                Poll::Ready(Err(stopped)) => return Poll::Ready(Err(stopped.into_error())),
            }
        }
        loop {
            match self.take_head(request, wait) {
                Ok(Some(head)) => return Poll::Ready(Ok(head)),
                Ok(None) => {}
                Err(invalid) => {
                    return Poll::Ready(Err(Error::new(Kind::ResponseInvalid).because(invalid)));
                }
            }
            match self.poll_fill(cx) {
                Poll::Ready(Ok(0)) => {
                    let ended = wait.lost.take().unwrap_or_else(|| {
                        io::Error::new(io::ErrorKind::UnexpectedEof, "it was closed")
                    });
                    return Poll::Ready(Err(self.terminated(wait, ended)));
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => {
                    let error = wait.lost.take().unwrap_or(error);
                    return Poll::Ready(Err(self.terminated(wait, error)));
                }
                Poll::Pending => break,
            }
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            // Counted from the end of the request, and not while the client is
            // waited for: how slow that may be is for its own timeout to say.
            let since = self.outgoing.waits_since(Instant::now());
            let due = since.map(|since| since + wait.deadline);
            match due.filter(|due| *due > self.timer.deadline()) {
                Some(later) => self.timer.as_mut().reset(later),
                None => {
                    let detail = format!("no response head within {:?}", wait.deadline);
                    let error = Error::new(Kind::ResponseTimeout).detail(detail);
                    return Poll::Ready(Err(error));
                }
            }
        }
        Poll::Pending
    }

    /// The head of the final response, once it is there.
    fn take_head(
        &mut self,
        request: &mut Request<Body>,
        wait: &mut Wait,
    ) -> Result<Option<Head>, Invalid> {
        loop {
            // The fields of a request that is written are done with, unless it
            // has to be sent again, which it has not once an answer has begun.
            let method = request.method().clone();
            let room = || match wait.sent {
                true => std::mem::take(request.headers_mut()),
                false => HeaderMap::new(),
            };
            let (read, searched) = (&mut self.read, &mut self.searched);
            let Some(head) = head::take(read, searched, &method, room)? else {
                return Ok(None);
            };
            let status = head.response.status();
            if status == http::StatusCode::SWITCHING_PROTOCOLS {
                return Err(Invalid::Switched);
            }
            if !status.is_informational() {
                return Ok(Some(head));
            }
            wait.interim += 1;
            if wait.interim > MAX_INTERIM {
                return Err(Invalid::Interim);
            }
        }
    }

    /// Reads what has come; zero at the end.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.read.capacity() - self.read.len() < LEAST_ROOM {
            self.read.reserve(self.reads);
        }
        let room = self.read.capacity() - self.read.len();
        let read = poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.read);
        if let Poll::Ready(Ok(read)) = &read
            && *read == room
            && room >= self.reads
        {
            // There is more where that came from.
            self.reads = (self.reads * 2).min(MOST_READ);
        }
        read
    }

    /// The connection ended before there was a response.
    fn terminated(&self, wait: &Wait, error: io::Error) -> Error {
        let resend = match (self.outgoing.has_begun(), wait.interim) {
            (false, _) => Resend::Safe,
            (true, 0) => Resend::IfIdempotent,
            // The origin has begun to answer, and the request's fields are gone.
            (true, _) => Resend::Never,
        };
        Error::new(Kind::ConnectionTerminated).because(error).resend(resend)
    }
}

impl Stopped {
    /// What it means for the exchange.
    fn into_error(self) -> Error {
        match self {
            Self::Connection(error) => Error::new(Kind::ConnectionTerminated).because(error),
            Self::Body(error) => {
                // A client that breaks off leaves an error that is not ours.
                let kind = cause_of::<Error>(&*error).map_or(Kind::RequestBodyAborted, Error::kind);
                Error::new(kind).because(error)
            }
            Self::Length => Error::new(Kind::RequestBodyAborted)
                .detail("the body is not as long as was announced"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::Socket;
    use crate::upstream::stream::Layer;
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::coop;

    #[tokio::test]
    async fn a_closed_connection_is_seen_as_such_by_a_task_that_has_done_much() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        drop(listener.accept().await.unwrap());
        here.readable().await.unwrap();
        let mut http1 = Http1::new(Layer::Plain(Socket::new(here)).into());
        let ready = std::future::poll_fn(|cx| {
            while coop::has_budget_remaining() {
                let _done = std::pin::pin!(coop::consume_budget()).poll(cx);
            }
            Poll::Ready(http1.is_ready())
        });
        assert!(!ready.await);
    }
}
