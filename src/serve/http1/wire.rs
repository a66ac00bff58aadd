//! The connection as the two see it that may be at work on it at once: the
//! driver, which answers, and whoever reads a request's body.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};

use super::super::io::Noted;
use crate::budget::Budget;
use crate::error::{BoxError, Error, Kind};
use crate::http1::{Inbox, Incoming, Read};

/// How much is read of the next request while the response to the last one is
/// not out: enough to notice that the client left, bounded for one that floods.
const READ_AHEAD: usize = 16 * 1024;

/// How much of a body that nobody wants is read, so that the connection may be
/// used again.
const MOST_DISCARDED: usize = 64 * 1024;

/// A connection, shared with the body of the request under way. Whoever holds the
/// lock holds it for one look at the socket.
pub(super) type Shared<IO> = Arc<Mutex<Wire<IO>>>;

/// The stream of a connection, and how far the request on it was read.
#[derive(Debug)]
pub(super) struct Wire<IO> {
    /// `None` once another protocol has it.
    pub(super) io: Option<Noted<IO>>,
    pub(super) inbox: Inbox,
    /// What is left of the request's body.
    pub(super) incoming: Incoming,
    pub(super) call: Call,
    /// Whether there is somebody who may read the body.
    pub(super) wanted: bool,
    /// Whether the body cannot be read to its end.
    pub(super) broken: bool,
    /// Whom to wake when the body is read to its end, or called for.
    pub(super) driver: Option<Waker>,
}

/// Whether the client waits for `100 Continue` (RFC 9110 §10.1.1).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Call {
    /// It does not.
    Unneeded,
    /// It does, and nobody has asked for the body yet.
    Held,
    /// The body was asked for: the client is to be told.
    Due,
}

impl<IO> Wire<IO> {
    fn wake(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Wire<IO> {
    pub(super) fn new(io: Noted<IO>, budget: Budget) -> Shared<IO> {
        Arc::new(Mutex::new(Self {
            io: Some(io),
            inbox: Inbox::new(budget),
            incoming: Incoming::Length(0),
            call: Call::Unneeded,
            wanted: false,
            broken: false,
            driver: None,
        }))
    }

    /// Reads what has come; zero at the end.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Some(io) => self.inbox.poll_fill(io, cx),
            None => Poll::Ready(Ok(0)),
        }
    }

    /// Ready once the client is gone. While somebody reads the body, that is for
    /// the reader to find; the driver is woken when it is through.
    pub(super) fn poll_unread(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if self.wanted {
            self.driver = Some(cx.waker().clone());
            return Poll::Pending;
        }
        while self.inbox.bytes.len() < READ_AHEAD {
            match ready!(self.poll_fill(cx)) {
                Ok(0) => return Poll::Ready(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) => return Poll::Ready(error),
            }
        }
        Poll::Pending
    }

    /// Whether a part of the body stays unread that nobody wants. What of it has
    /// come is thrown away.
    pub(super) fn leaves_unread(&mut self, cx: &mut Context<'_>) -> bool {
        if self.wanted || self.incoming.is_over() {
            return false;
        }
        // A client that was not called to send its body may do so or not.
        if self.broken || self.call == Call::Held {
            return true;
        }
        let mut most = MOST_DISCARDED;
        loop {
            match self.incoming.read(&mut self.inbox.bytes) {
                Ok(Read::End) => return false,
                Ok(Read::Frame(frame)) => {
                    let some = frame.data_ref().map_or(0, Bytes::len);
                    let Some(left) = most.checked_sub(some) else { return true };
                    most = left;
                }
                Ok(Read::More) => match self.poll_fill(cx) {
                    Poll::Pending | Poll::Ready(Ok(0) | Err(_)) => return true,
                    Poll::Ready(Ok(_)) => {}
                },
                Err(_) => return true,
            }
        }
    }

    /// Takes leave of a client that may still be sending: were its bytes left
    /// unread, the system would reset the connection, and with it the response
    /// (RFC 9112 §9.6). Ready once the client is gone.
    pub(super) fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            self.inbox.bytes.clear();
            match ready!(self.poll_fill(cx)) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(_) => {}
            }
        }
    }
}

/// A write half that takes the lock for each write.
pub(super) struct Writer<'a, IO>(pub(super) &'a Mutex<Wire<IO>>);

impl<IO: AsyncRead + AsyncWrite + Unpin> Writer<'_, IO> {
    fn with<T>(
        &self,
        write: impl FnOnce(Pin<&mut Noted<IO>>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match &mut self.0.lock().io {
            Some(io) => write(Pin::new(io)),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Writer<'_, IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.with(|io| io.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.with(|io| io.poll_write_vectored(cx, parts))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|io| io.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|io| io.poll_shutdown(cx))
    }
}

/// A request's body, read from its connection by whoever wants it. Nothing is
/// read that nobody asks for.
pub(super) struct RequestBody<IO> {
    wire: Shared<IO>,
    /// What is left, where that is known.
    left: Option<u64>,
    over: bool,
}

impl<IO> RequestBody<IO> {
    pub(super) fn new(wire: Shared<IO>, incoming: &Incoming) -> Self {
        let left = match incoming {
            Incoming::Length(length) => Some(*length),
            Incoming::Chunked(_) | Incoming::UntilClose => None,
        };
        Self { wire, left, over: false }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> http_body::Body for RequestBody<IO> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if this.over {
            return Poll::Ready(None);
        }
        let mut wire = this.wire.lock();
        let frame = match ready!(wire.poll_frame(cx)) {
            Ok(frame) => frame,
            Err(error) => {
                this.over = true;
                (wire.broken, wire.wanted) = (true, false);
                wire.wake();
                return Poll::Ready(Some(Err(error.into())));
            }
        };
        if wire.incoming.is_over() {
            // What is on the connection from here on is another request's.
            this.over = true;
            wire.wanted = false;
            wire.wake();
        }
        let data = frame.as_ref().and_then(Frame::data_ref);
        let taken = data.map_or(0, Bytes::len) as u64;
        this.left = this.left.map(|left| left.saturating_sub(taken));
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.over
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Wire<IO> {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, Error>> {
        loop {
            match self.incoming.read(&mut self.inbox.bytes) {
                Ok(Read::Frame(frame)) => return Poll::Ready(Ok(Some(frame))),
                Ok(Read::End) => return Poll::Ready(Ok(None)),
                Ok(Read::More) => {}
                Err(invalid) => {
                    return Poll::Ready(Err(Error::new(Kind::RequestInvalid).because(invalid)));
                }
            }
            if self.call == Call::Held {
                self.call = Call::Due;
                self.wake();
            }
            match ready!(self.poll_fill(cx)) {
                Ok(0) => {
                    let detail = "the client closed the connection in the midst of a body";
                    let error = Error::new(Kind::RequestBodyAborted).detail(detail);
                    return Poll::Ready(Err(error));
                }
                // A client need not wait to be told.
                Ok(_) => self.call = Call::Unneeded,
                Err(error) => {
                    let error = Error::new(Kind::RequestBodyAborted).because(error);
                    return Poll::Ready(Err(error));
                }
            }
        }
    }
}

impl<IO> Drop for RequestBody<IO> {
    fn drop(&mut self) {
        if !self.over {
            let mut wire = self.wire.lock();
            wire.wanted = false;
            wire.wake();
        }
    }
}
