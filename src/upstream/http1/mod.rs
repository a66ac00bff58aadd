//! An HTTP/1.1 connection to an origin, driven by the exchange that uses it.
//!
//! One task carries a request from the client's socket to the origin's and the
//! response back: nothing is handed over between tasks, and nothing but the
//! sockets wakes anybody. In the pool nobody polls the connection, so whoever
//! takes it out looks first whether the origin has closed it.
//!
//! The request stays where it is while it is sent, so that one of which not a
//! byte was written can be sent elsewhere without a copy.

#[cfg(fuzzing)]
pub(crate) mod fuzz;
mod head;
mod received;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::{HeaderMap, Request, Response, StatusCode, header};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::time::{Instant, Sleep};

pub(super) use self::head::MAX_HEAD;
use self::head::{Head, Invalid};
use self::received::Received;
use super::client::no_request;
use super::origin::Origin;
use super::stream::Stream;
use crate::body::Body;
use crate::budget::Budget;
use crate::context::Interim;
use crate::error::{Error, Kind, Resend, cause_of};
use crate::http1::{Inbox, Outgoing, Stopped};
use crate::proxy_protocol::Announced;
use crate::switch::{self, OnSwitch};

/// Interim responses (RFC 9110 §15.2) that an origin may send before its answer.
pub(super) const MAX_INTERIM: u32 = 32;

/// How long an origin has to say `100 Continue` before the body is sent without
/// that: not every origin knows of it (RFC 9110 §10.1.1).
pub(super) const CONTINUE_PATIENCE: Duration = Duration::from_secs(1);

/// A connection that carries one exchange at a time.
pub(super) struct Http1 {
    stream: Stream,
    inbox: Inbox,
    outgoing: Outgoing,
    /// Kept from one exchange to the next: a timer is cheap to move and dear to
    /// set up.
    timer: Pin<Box<Sleep>>,
}

/// How far the wait for a response is.
struct Wait<'a> {
    deadline: Duration,
    /// Takes interim responses to the client.
    interims: Option<&'a Interim>,
    /// Whether the request asks to switch protocols.
    switches: bool,
    sent: bool,
    /// Why the request could not be written to its end.
    lost: Option<io::Error>,
    interim: u32,
}

impl Http1 {
    /// Speaks HTTP/1.1 on a stream that was just connected.
    pub(super) fn new(stream: Stream, budget: Budget) -> Box<Self> {
        Box::new(Self {
            stream,
            inbox: Inbox::new(budget),
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

    /// Whether it leads to where the origin's name does not point any more.
    pub(super) fn is_astray(&self) -> bool {
        self.stream.is_astray()
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
        self.inbox.rest();
        self.outgoing.rest();
    }

    /// Sends a request and waits for the head of the response. The request is
    /// left in its slot if it failed and could be sent again. A body that the
    /// client holds back until it is told to go on is held back here too, until
    /// the origin says so.
    pub(super) async fn send(
        mut self: Box<Self>,
        origin: &Arc<Origin>,
        slot: &mut Option<Request<Body>>,
        now: Instant,
        deadline: Duration,
        interims: Option<&Interim>,
    ) -> Result<Response<Body>, Error> {
        let Some(request) = slot else {
            return Err(no_request());
        };
        self.outgoing.begin(|out| head::write(request, out));
        self.outgoing.timed();
        self.outgoing.hold(request.headers().contains_key(header::EXPECT));
        self.inbox.settle();
        self.inbox.begin();
        let patience = if self.outgoing.is_held() { CONTINUE_PATIENCE } else { deadline };
        self.timer.as_mut().reset(now + patience);
        let switches = request.headers().contains_key(header::UPGRADE);
        let (sent, lost, interim) = (false, None, 0);
        let mut wait = Wait { deadline, interims, switches, sent, lost, interim };
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
        // An origin that answers before it called for the body does not want it,
        // unless all is well.
        let refused = self.outgoing.is_held() && !head.response.status().is_success();
        self.outgoing.hold(refused);
        let upload = slot.take().filter(|_| !wait.sent && !refused).map(Request::into_body);
        let keep_alive = head.keep_alive && wait.lost.is_none() && !refused;
        let (mut parts, ()) = head.response.into_parts();
        if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            parts.extensions.insert(self.switched());
            return Ok(Response::from_parts(parts, Body::empty()));
        }
        let body = Received::body(self, head.body, keep_alive, upload, origin.clone());
        Ok(Response::from_parts(parts, body))
    }

    fn poll_answer(
        &mut self,
        request: &mut Request<Body>,
        wait: &mut Wait<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Head, Error>> {
        loop {
            let held = self.outgoing.is_held();
            let polled = self.poll_once(request, wait, cx);
            if polled.is_ready() || held == self.outgoing.is_held() {
                return polled;
            }
            // The body was called for.
        }
    }

    fn poll_once(
        &mut self,
        request: &mut Request<Body>,
        wait: &mut Wait<'_>,
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
                Poll::Ready(Err(stopped)) => return Poll::Ready(Err(not_sent(stopped))),
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
            match self.inbox.poll_fill(&mut self.stream, cx) {
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
            if self.outgoing.is_held() {
                self.go_on(wait);
                return Poll::Pending;
            }
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

    /// The stream, beginning with what came behind the head, for whoever speaks
    /// another protocol on it.
    fn switched(self: Box<Self>) -> OnSwitch {
        let ahead = io::Cursor::new(self.inbox.bytes);
        let (received, taken) = tokio::io::split(self.stream);
        let (sender, on_switch) = switch::channel();
        sender.complete(tokio::io::join(ahead.chain(received), taken));
        on_switch
    }

    /// Calls for a body that is held back.
    fn go_on(&mut self, wait: &Wait<'_>) {
        if self.outgoing.is_held() {
            self.outgoing.hold(false);
            self.timer.as_mut().reset(Instant::now() + wait.deadline);
        }
    }

    /// The head of the final response, once it is there.
    fn take_head(
        &mut self,
        request: &mut Request<Body>,
        wait: &mut Wait<'_>,
    ) -> Result<Option<Head>, Invalid> {
        loop {
            // The fields of a request that is written are done with, unless it
            // has to be sent again, which it has not once an answer has begun.
            let method = request.method().clone();
            let room = || match wait.sent {
                true => std::mem::take(request.headers_mut()),
                false => HeaderMap::new(),
            };
            let Some(head) = head::take(&mut self.inbox, &method, room)? else {
                return Ok(None);
            };
            let status = head.response.status();
            let switched = status == StatusCode::SWITCHING_PROTOCOLS;
            if !status.is_informational() || (switched && wait.switches && wait.sent) {
                return Ok(Some(head));
            }
            wait.interim += 1;
            match status {
                _ if switched => return Err(Invalid::Switched),
                _ if wait.interim > MAX_INTERIM => return Err(Invalid::Interim),
                StatusCode::CONTINUE => self.go_on(wait),
                // RFC 9110 §15.2
                _ => {
                    if let Some(interims) = wait.interims {
                        interims.put(head.response);
                    }
                }
            }
        }
    }

    /// The connection ended before there was a response.
    fn terminated(&self, wait: &Wait<'_>, error: io::Error) -> Error {
        let resend = match (self.outgoing.has_begun(), wait.interim) {
            (false, _) => Resend::Safe,
            (true, 0) => Resend::IfIdempotent,
            // The origin has begun to answer, and the request's fields are gone.
            (true, _) => Resend::Never,
        };
        Error::new(Kind::ConnectionTerminated).because(error).resend(resend)
    }
}

/// What it means for an exchange that its request was not written to its end.
fn not_sent(stopped: Stopped) -> Error {
    match stopped {
        Stopped::Connection(error) => Error::new(Kind::ConnectionTerminated).because(error),
        Stopped::Body(error) => {
            // A client that breaks off leaves an error that is not ours.
            let kind = cause_of::<Error>(&*error).map_or(Kind::RequestBodyAborted, Error::kind);
            Error::new(kind).because(error)
        }
        Stopped::Length => {
            Error::new(Kind::RequestBodyAborted).detail("the body is not as long as was announced")
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
        let stream = Stream::new(Layer::Plain(Socket::new(here)), None);
        let mut http1 = Http1::new(stream, Budget::unlimited());
        let ready = std::future::poll_fn(|cx| {
            while coop::has_budget_remaining() {
                let _done = std::pin::pin!(coop::consume_budget()).poll(cx);
            }
            Poll::Ready(http1.is_ready())
        });
        assert!(!ready.await);
    }
}
