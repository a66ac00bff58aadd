//! One exchange after another on one connection.
//!
//! A single task reads the head, waits for the service, and writes the response;
//! the request's body is read by whoever wants it, straight from the connection.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response, StatusCode, Version};
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Sleep, sleep};

use super::fault::Fault;
use super::head::{self, Facts, Head, Limits};
use super::response;
use super::wire::{Call, RequestBody, Shared, Wire, Writer};
use crate::body::Body;
use crate::context::{Downstream, Interim};
use crate::http1::{Framing, Incoming, Outgoing, Stopped};
use crate::layers::Ask;
use crate::serve::pulse::{Beat, Pulse};
use crate::serve::{Answers, Served, has_no_body};
use crate::switch;

/// How much of interim responses waits for a client to take it, in bytes.
const MOST_INTERIM: usize = 16 * 1024;

/// How many requests that are here already are answered before others on the
/// thread have their turn.
const AT_ONCE: u32 = 16;

/// What of a connection outlasts its buffers.
pub(super) struct Base<IO, S> {
    pub(super) wire: Shared<IO>,
    pub(super) service: S,
    pub(super) downstream: Arc<Downstream>,
    pub(super) pulse: Pulse,
    pub(super) limits: Limits,
}

pin_project! {
    /// A connection at work: resolves when it has ended.
    pub(super) struct Connection<'a, IO, S>
    where
        S: Answers,
    {
        base: &'a mut Base<IO, S>,
        state: State,
        // The wait for the service.
        #[pin]
        answer: Option<Ask<S, Request<Body>>>,
        outgoing: Outgoing,
        // Whether no request is taken after this one; if there is none, how long
        // one is waited for.
        ending: Option<Duration>,
        // Rings when it was waited for long enough.
        waits: Option<Pin<Box<Sleep>>>,
    }
}

/// How far an exchange is.
enum State {
    /// The next head is waited for.
    Head,
    /// The service works on the answer.
    Answer(Exchange),
    /// The response is written.
    Respond(Exchange, Body),
    /// The response that ends HTTP on this connection is written.
    Switch(switch::Sender),
    /// The response is out; the request's body may not be read to its end.
    Finish(Exchange),
    /// Nothing more is answered.
    Close {
        linger: bool,
    },
    /// The client is given time to read what it was sent.
    Linger,
    Closed,
}

/// An exchange under way.
struct Exchange {
    facts: Facts,
    /// Whether the connection ends with it.
    last: bool,
    switch: Option<switch::Sender>,
    /// Whether the request's body is read from the connection bit by bit.
    uploads: bool,
    _beat: Beat,
}

impl<'a, IO, S> Connection<'a, IO, S>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Answers,
{
    pub(super) fn new(base: &'a mut Base<IO, S>) -> Self {
        let (outgoing, ending, waits) = (Outgoing::new(), None, None);
        Self { base, state: State::Head, answer: None, outgoing, ending, waits }
    }

    /// Whether it is between two messages, with nothing left to read or write.
    pub(super) fn is_quiet(&self) -> bool {
        matches!(self.state, State::Head)
            && self.outgoing.is_empty()
            && self.base.wire.lock().inbox.bytes.is_empty()
    }
}

impl<IO, S> Future for Connection<'_, IO, S>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Answers,
{
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut left = AT_ONCE;
        loop {
            let this = self.as_mut().project();
            let next = match std::mem::replace(this.state, State::Closed) {
                State::Head => self.as_mut().poll_head(cx),
                State::Answer(exchange) => self.as_mut().poll_answer(exchange, cx),
                State::Respond(exchange, body) => self.as_mut().poll_respond(exchange, body, cx),
                State::Switch(sender) => self.as_mut().poll_switch(sender, cx),
                State::Finish(exchange) => self.as_mut().poll_finish(exchange, cx),
                State::Close { linger } => self.as_mut().poll_close(linger, cx),
                State::Linger => self.as_mut().poll_linger(cx),
                State::Closed => return Poll::Ready(Ok(())),
            };
            match next {
                Next::Go(state) => {
                    let another = matches!(state, State::Head);
                    *self.as_mut().project().state = state;
                    left -= u32::from(another);
                    if left == 0 {
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                }
                Next::Wait(state) => {
                    *self.project().state = state;
                    return Poll::Pending;
                }
                Next::Broken(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

/// What a step of the connection comes to.
enum Next {
    Go(State),
    /// Nothing can be done until somebody wakes the task.
    Wait(State),
    Broken(io::Error),
}

impl<IO, S> Connection<'_, IO, S>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Answers,
{
    fn poll_head(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Next {
        let head = {
            let Base { wire, pulse, limits, .. } = &*self.base;
            let mut wire = wire.lock();
            loop {
                if let Some(head) = head::take(&mut wire.inbox, *limits) {
                    break head;
                }
                match wire.poll_fill(cx) {
                    Poll::Ready(Ok(0)) => return Next::Go(State::Close { linger: false }),
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(error)) => return Next::Broken(error),
                    // What has come already is answered.
                    Poll::Pending if self.ending.is_some() && wire.inbox.bytes.is_empty() => {
                        drop(wire);
                        return match self.as_mut().poll_no_more(cx) {
                            Poll::Ready(()) => Next::Go(State::Close { linger: false }),
                            Poll::Pending => Next::Wait(State::Head),
                        };
                    }
                    Poll::Pending => {
                        if !wire.inbox.bytes.is_empty() {
                            // It may have come during the last exchange.
                            pulse.received();
                        }
                        return Next::Wait(State::Head);
                    }
                }
            }
        };
        Next::Go(self.begin(head))
    }

    /// Waits until no more request is to be expected on a connection that ends.
    fn poll_no_more(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        match *this.ending {
            Some(patience) if !patience.is_zero() => {
                let waits = this.waits.get_or_insert_with(|| Box::pin(sleep(patience)));
                waits.as_mut().poll(cx)
            }
            _ => Poll::Ready(()),
        }
    }

    /// Hands the request to the service.
    fn begin(self: Pin<&mut Self>, head: Head) -> State {
        let mut this = self.project();
        let Head { mut request, incoming, facts } = head;
        let beat = this.base.pulse.begin();
        let uploads;
        *request.body_mut() = {
            let mut wire = this.base.wire.lock();
            wire.inbox.begin_another();
            wire.call = if facts.expects { Call::Held } else { Call::Unneeded };
            (wire.broken, wire.wanted, wire.driver) = (false, false, None);
            wire.incoming = incoming;
            let body = take_body(&this.base.wire, &mut wire);
            uploads = wire.wanted;
            // The service may drop the body at once, which takes the lock.
            body
        };
        let extensions = request.extensions_mut();
        extensions.insert(this.base.downstream.clone());
        let switch = facts.upgrade.then(|| {
            let (sender, on_switch) = switch::channel();
            extensions.insert(on_switch);
            sender
        });
        this.answer.set(Some(Ask::new(&mut this.base.service, request)));
        let last = !facts.keep_alive;
        State::Answer(Exchange { facts, last, switch, uploads, _beat: beat })
    }

    fn poll_answer(self: Pin<&mut Self>, mut exchange: Exchange, cx: &mut Context<'_>) -> Next {
        let mut this = self.project();
        if exchange.uploads {
            // A body that is read by this task need not wake it.
            this.base.wire.lock().driver = None;
        }
        let polled = match this.answer.as_mut().as_pin_mut() {
            Some(answer) => answer.poll(cx),
            None => return Next::Go(State::Close { linger: false }),
        };
        let interims = match &this.base.downstream.interim {
            Some(interim) => take_interims(interim, exchange.facts),
            None => Vec::new(),
        };
        for interim in &interims {
            if this.outgoing.waiting() > MOST_INTERIM {
                // The client takes nothing, and a hint is only a hint.
                break;
            }
            this.outgoing.put(|out| response::write_interim(interim, out));
        }
        if let Poll::Ready(answered) = polled {
            let Ok(response) = answered;
            this.answer.set(None);
            exchange.last |= this.ending.is_some();
            return Self::answered(this.base, this.outgoing, exchange, response, cx);
        }
        let mut wire = this.base.wire.lock();
        if wire.call == Call::Due {
            wire.call = Call::Unneeded;
            this.outgoing.put(|out| out.extend_from_slice(response::CONTINUE));
        }
        if let Poll::Ready(gone) = wire.poll_unread(cx) {
            return Next::Broken(gone);
        }
        drop(wire);
        if !this.outgoing.is_empty() {
            let mut writer = Writer(&this.base.wire);
            if let Poll::Ready(Err(error)) = this.outgoing.poll_waiting(&mut writer, cx) {
                return Next::Broken(error);
            }
        }
        Next::Wait(State::Answer(exchange))
    }

    /// Begins to write the response.
    fn answered(
        base: &Base<IO, S>,
        outgoing: &mut Outgoing,
        mut exchange: Exchange,
        response: Response<Body>,
        cx: &mut Context<'_>,
    ) -> Next {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let Some(sender) = exchange.switch.take() else {
                return Next::Broken(io::Error::other("the answer switches unasked"));
            };
            outgoing.begin(|out| {
                response::write_interim(&response, out);
                Framing::None
            });
            return Next::Go(State::Switch(sender));
        }
        exchange.switch = None;
        let unread = base.wire.lock().leaves_unread(cx);
        exchange.last |= unread || response::asks_to_close(response.headers());
        let (facts, last) = (exchange.facts, exchange.last);
        outgoing.begin(|out| response::write(&response, facts, last, out));
        let bodiless = has_no_body(response.status(), facts.head);
        let body = response.into_body();
        let body = if bodiless { body.emptied() } else { body };
        Next::Go(State::Respond(exchange, body))
    }

    fn poll_respond(
        self: Pin<&mut Self>,
        exchange: Exchange,
        mut body: Body,
        cx: &mut Context<'_>,
    ) -> Next {
        let this = self.project();
        if exchange.uploads {
            this.base.wire.lock().driver = None;
        }
        let mut writer = Writer(&this.base.wire);
        match this.outgoing.poll(&mut writer, &mut body, cx) {
            Poll::Ready(Ok(())) => {
                let last = exchange.last || this.outgoing.ends_with_connection();
                Next::Go(State::Finish(Exchange { last, ..exchange }))
            }
            Poll::Ready(Err(Stopped::Connection(error))) => Next::Broken(error),
            // The client must not take what it has for the whole.
            Poll::Ready(Err(Stopped::Body(error))) => Next::Broken(io::Error::other(error)),
            Poll::Ready(Err(Stopped::Length)) => {
                Next::Broken(io::Error::other("the body is not as long as was announced"))
            }
            Poll::Pending => {
                if let Poll::Ready(gone) = this.base.wire.lock().poll_unread(cx) {
                    return Next::Broken(gone);
                }
                Next::Wait(State::Respond(exchange, body))
            }
        }
    }

    fn poll_switch(self: Pin<&mut Self>, sender: switch::Sender, cx: &mut Context<'_>) -> Next {
        let this = self.project();
        match this.outgoing.poll_waiting(&mut Writer(&this.base.wire), cx) {
            Poll::Pending => Next::Wait(State::Switch(sender)),
            Poll::Ready(Err(error)) => Next::Broken(error),
            Poll::Ready(Ok(())) => {
                let mut wire = this.base.wire.lock();
                let ahead = wire.inbox.bytes.split();
                if let Some(mut io) = wire.io.take() {
                    io.give_back(&ahead);
                    sender.complete(io);
                }
                Next::Go(State::Closed)
            }
        }
    }

    /// Sees to the rest of the request.
    fn poll_finish(self: Pin<&mut Self>, exchange: Exchange, cx: &mut Context<'_>) -> Next {
        let mut wire = self.base.wire.lock();
        if wire.wanted {
            wire.driver = Some(cx.waker().clone());
            return Next::Wait(State::Finish(exchange));
        }
        // What comes behind a body that was not read is never taken for a request.
        let unread = wire.leaves_unread(cx) || exchange.facts.endless;
        Next::Go(if exchange.last || unread {
            State::Close { linger: unread || !wire.inbox.bytes.is_empty() }
        } else {
            wire.inbox.settle();
            State::Head
        })
    }

    fn poll_close(self: Pin<&mut Self>, linger: bool, cx: &mut Context<'_>) -> Next {
        let mut writer = Writer(&self.base.wire);
        match Pin::new(&mut writer).poll_shutdown(cx) {
            Poll::Pending => Next::Wait(State::Close { linger }),
            Poll::Ready(Ok(())) if linger => {
                self.base.pulse.ending();
                Next::Go(State::Linger)
            }
            // A client that is gone already need not be told.
            Poll::Ready(_) => Next::Go(State::Closed),
        }
    }

    fn poll_linger(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Next {
        match self.base.wire.lock().poll_linger(cx) {
            Poll::Ready(()) => Next::Go(State::Closed),
            Poll::Pending => Next::Wait(State::Linger),
        }
    }
}

impl<IO, S> Served for Connection<'_, IO, S>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Answers,
{
    type Failed = io::Error;

    fn end(self: Pin<&mut Self>, patience: Duration) {
        let this = self.project();
        (*this.ending, *this.waits) = (Some(patience), None);
    }

    fn late(mut self: Pin<&mut Self>) -> bool {
        if !matches!(self.state, State::Head) {
            return false;
        }
        let head = {
            let mut wire = self.base.wire.lock();
            if wire.inbox.bytes.is_empty() {
                return false;
            }
            head::refuse(&mut wire.inbox, Fault::Late)
        };
        let state = self.as_mut().begin(head);
        *self.project().state = state;
        true
    }
}

/// The body of the request whose framing `wire` knows. One that is here already
/// is taken out whole.
fn take_body<IO>(shared: &Shared<IO>, wire: &mut Wire<IO>) -> Body
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let length = match wire.incoming {
        Incoming::Length(0) => return Body::empty(),
        Incoming::Length(length) => usize::try_from(length).ok(),
        Incoming::Chunked(_) | Incoming::UntilClose => None,
    };
    if let Some(length) = length.filter(|length| *length <= wire.inbox.bytes.len()) {
        wire.incoming = Incoming::Length(0);
        wire.call = Call::Unneeded;
        return Body::from(wire.inbox.bytes.split_to(length).freeze());
    }
    if let Incoming::Length(length) = wire.incoming {
        wire.inbox.expect(length.saturating_sub(wire.inbox.bytes.len() as u64));
    }
    wire.wanted = true;
    Body::new(RequestBody::new(shared.clone(), &wire.incoming))
}

/// The interim responses that are the client's to know.
fn take_interims(interim: &Interim, facts: Facts) -> Vec<Response<()>> {
    let interims = interim.take();
    // RFC 9110 §15.2
    if facts.version == Version::HTTP_11 { interims } else { Vec::new() }
}
