//! An HTTP/1.1 connection to an origin, driven by the exchange that uses it.
//!
//! hyper hands out a sender and a connection, which wants to be polled for
//! anything to happen. In a task of its own it would be woken for every step of
//! every exchange, and wake the exchange in turn. Here the exchange polls it: one
//! task carries a request from the client's socket to the origin's and the
//! response back. In the pool nobody polls it, so whoever takes it out looks
//! first whether the origin has closed it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::{Request, Response};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::Sleep;

use super::origin::Origin;
use super::stream::Stream;
use super::upload::Upload;
use crate::body::Body;
use crate::error::{BoxError, Error};

type Connection = http1::Connection<TokioIo<Stream>, Body>;

/// How often a connection that wakes itself is polled before others have a turn.
const ROUNDS: usize = 8;

/// A connection that carries one exchange at a time.
pub(super) struct Http1 {
    sender: http1::SendRequest<Body>,
    /// `None` once it has ended.
    connection: Option<Connection>,
    link: Arc<Link>,
    waker: Waker,
    /// Kept from one exchange to the next: a timer is cheap to move and dear to
    /// set up.
    timer: Pin<Box<Sleep>>,
}

impl Http1 {
    /// Speaks HTTP/1.1 on a stream that was just connected.
    pub(super) async fn handshake(stream: Stream) -> hyper::Result<Box<Self>> {
        let io = TokioIo::new(stream);
        let (sender, connection) =
            http1::Builder::new().max_buf_size(64 * 1024).handshake(io).await?;
        let link = Arc::new(Link::default());
        let waker = Waker::from(link.clone());
        let timer = Box::pin(tokio::time::sleep(Duration::ZERO));
        Ok(Box::new(Self { sender, connection: Some(connection), link, waker, timer }))
    }

    /// Whether it can carry a request: the origin has not closed it, and what it
    /// carried before is done with.
    pub(super) fn is_ready(&mut self) -> bool {
        let Self { connection, link, waker, .. } = self;
        let _pending = link.polled(waker, &mut Context::from_waker(Waker::noop()), |cx| {
            drive(connection, cx);
            Poll::<()>::Pending
        });
        self.connection.is_some() && self.sender.is_ready()
    }

    /// Makes it fit for the runtime of another thread.
    pub(super) fn settle_here(&mut self) {
        self.timer = Box::pin(tokio::time::sleep(Duration::ZERO));
    }

    /// Sends a request and waits for the head of the response.
    pub(super) async fn send(
        mut self: Box<Self>,
        origin: &Arc<Origin>,
        slot: &mut Option<Request<Body>>,
        upload: &Upload,
        deadline: Duration,
    ) -> Result<Response<Body>, Error> {
        let Self { sender, connection, link, waker, timer } = &mut *self;
        let mut sending = std::pin::pin!(sender.try_send_request(slot.take().unwrap_or_default()));
        let sending = std::future::poll_fn(|cx| {
            link.polled(waker, cx, |cx| {
                drive(connection, cx);
                // Looked at after the connection: what that has brought is there.
                sending.as_mut().poll(cx)
            })
        });
        let response = upload.or_timeout(deadline, timer.as_mut(), sending, slot).await?;
        Ok(response.map(|incoming| self.receive(incoming, origin.clone(), upload.is_some())))
    }

    /// Sends a request that asks to switch protocols. The connection is driven by
    /// a task of its own, and not used again.
    pub(super) async fn switch(
        self,
        slot: &mut Option<Request<Body>>,
        upload: &Upload,
        deadline: Duration,
    ) -> Result<Response<Incoming>, Error> {
        let Self { mut sender, connection, mut timer, .. } = self;
        if let Some(connection) = connection {
            tokio::spawn(connection.with_upgrades());
        }
        let sending = sender.try_send_request(slot.take().unwrap_or_default());
        upload.or_timeout(deadline, timer.as_mut(), sending, slot).await
    }

    fn receive(self: Box<Self>, incoming: Incoming, origin: Arc<Origin>, uploads: bool) -> Body {
        let mut received = Received { incoming, http1: Some(self), origin, uploads, failed: None };
        if received.incoming.is_end_stream() {
            received.release();
            return Body::empty();
        }
        Body::new(received)
    }
}

/// Polls a connection as far as it goes, and drops it at its end.
fn drive(connection: &mut Option<Connection>, cx: &mut Context<'_>) {
    let Some(open) = connection else { return };
    if let Poll::Ready(ended) = Pin::new(open).poll(cx) {
        if let Err(error) = ended {
            tracing::trace!(%error, "a connection to an origin ended");
        }
        *connection = None;
    }
}

/// A response's body; reading it drives the connection that it comes on, which
/// goes back to the pool at its end.
struct Received {
    incoming: Incoming,
    http1: Option<Box<Http1>>,
    origin: Arc<Origin>,
    /// Whether a part of the request may still be on its way.
    uploads: bool,
    failed: Option<hyper::Error>,
}

impl Received {
    /// The response is whole: the connection is free for the next exchange.
    fn release(&mut self) {
        let Some(mut http1) = self.http1.take() else { return };
        http1.link.parent.take();
        if http1.connection.is_none() {
            return;
        }
        if !self.uploads || http1.is_ready() {
            self.origin.pool().put(http1);
            return;
        }
        // The origin answered before it had the whole request.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let origin = self.origin.clone();
        runtime.spawn(async move {
            let patience = origin.timeouts().idle_body;
            let sent = std::future::poll_fn(|cx| {
                let Http1 { connection, link, waker, sender, .. } = &mut *http1;
                link.polled(waker, cx, |cx| {
                    drive(connection, cx);
                    sender.poll_ready(cx)
                })
            });
            if let Ok(Ok(())) = tokio::time::timeout(patience, sent).await {
                origin.pool().put(http1);
            }
        });
    }
}

impl http_body::Body for Received {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if let Some(error) = this.failed.take() {
            return Poll::Ready(Some(Err(error.into())));
        }
        let Some(http1) = &mut this.http1 else { return Poll::Ready(None) };
        let Http1 { connection, link, waker, .. } = &mut **http1;
        let incoming = &mut this.incoming;
        let polled = link.polled(waker, cx, |cx| {
            if let Poll::Ready(frame) = Pin::new(&mut *incoming).poll_frame(cx) {
                return Poll::Ready(frame);
            }
            drive(connection, cx);
            Pin::new(&mut *incoming).poll_frame(cx)
        });
        match polled {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(frame))) => {
                if this.incoming.is_end_stream() {
                    this.release();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                this.release();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                this.http1 = None;
                this.failed = Some(error);
                // What came before has not been written yet; it goes out first.
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.failed.is_none() && (self.http1.is_none() || self.incoming.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// The waker of a connection. What wakes it while it is polled, which is mostly
/// itself, has it polled once more; what wakes it otherwise wakes the task of the
/// exchange.
#[derive(Default)]
struct Link {
    parent: AtomicWaker,
    state: AtomicU8,
}

const AT_REST: u8 = 0;
const POLLED: u8 = 1;
const WOKEN: u8 = 2;

impl Link {
    /// Polls `step` with this waker until it is ready or has not been woken.
    fn polled<T>(
        &self,
        waker: &Waker,
        cx: &mut Context<'_>,
        mut step: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        self.parent.register(cx.waker());
        for _ in 0..ROUNDS {
            self.state.store(POLLED, Ordering::Release);
            let polled = step(&mut Context::from_waker(waker));
            let woken = self.state.swap(AT_REST, Ordering::AcqRel) == WOKEN;
            if polled.is_ready() || !woken {
                return polled;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Wake for Link {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let noted = self.state.compare_exchange(POLLED, WOKEN, Ordering::AcqRel, Ordering::Acquire);
        if noted == Err(AT_REST) {
            self.parent.wake();
        }
    }
}
