//! The writes of one turn, done together.
//!
//! A worker takes what the sockets have brought, and for each of them parses,
//! decides and writes. Done one after the other, every small write pulls the
//! system's whole network stack through the caches, and wakes a receiver that
//! goes to sleep again before the next. So small writes wait to the end of the
//! turn, until all tasks that were ready have run, and go out in a row. Nothing
//! waits for more than that: a worker with one request to serve sends at once.
//!
//! Only a thread that runs [`end_of_turns`] does so; on all others, such as those
//! of an application that embeds the proxy, a write is a write.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::stream::{Incoming, Outgoing, Stream};

/// The longest write that waits.
const SMALL: usize = 4 * 1024;

/// The most that waits of one connection.
const MOST: usize = 16 * 1024;

/// How many buffers are kept for the next turn.
const SPARE: usize = 64;

/// A connection whose small writes wait to the end of the turn.
#[derive(Debug)]
pub struct Socket {
    read: Incoming,
    out: Arc<Mutex<Out>>,
}

/// The way out of a connection.
#[derive(Debug)]
struct Out {
    /// `None` only once it is dropped.
    half: Option<Outgoing>,
    bytes: Vec<u8>,
    /// How many of them are written.
    written: usize,
    /// Whether the end of the turn will write them.
    queued: bool,
    /// Who waits for them to be written: a socket wakes only the one that asked
    /// it last, and both the connection and the end of the turn may.
    waiter: Option<Waker>,
    /// Whether the connection itself is gone.
    abandoned: bool,
    /// Wakes the task that writes what a socket did not take, if there is one.
    finisher: Option<Waker>,
    failed: Option<io::Error>,
}

/// What waits for the end of this thread's turn.
#[derive(Default)]
struct Turn {
    waiting: Vec<Arc<Mutex<Out>>>,
    spare: Vec<Vec<u8>>,
    waker: Option<Waker>,
}

thread_local! {
    static TURN: RefCell<Option<Turn>> = const { RefCell::new(None) };
}

/// Ends the turns of this thread: to be run as a task of a current-thread
/// runtime, for as long as that runs. Never resolves.
#[must_use]
pub fn end_of_turns() -> EndOfTurns {
    EndOfTurns { ready: Vec::new() }
}

/// See [`end_of_turns`].
#[derive(Debug)]
pub struct EndOfTurns {
    ready: Vec<Arc<Mutex<Out>>>,
}

impl EndOfTurns {
    fn write(&mut self, cx: &mut Context<'_>) {
        let mut spare = Vec::new();
        for shared in self.ready.drain(..) {
            let mut out = shared.lock();
            out.queued = false;
            match out.poll_out(cx) {
                Poll::Ready(written) => {
                    let mut bytes = out.settle(written);
                    // What could not be written is nobody else's.
                    bytes.clear();
                    spare.push(bytes);
                }
                Poll::Pending if out.abandoned => {}
                Poll::Pending => out.finish_later(&shared),
            }
        }
        TURN.with_borrow_mut(|turn| {
            let Some(turn) = turn else { return };
            let room = SPARE.saturating_sub(turn.spare.len());
            turn.spare.extend(spare.into_iter().take(room));
        });
    }
}

/// Writes what a socket did not take at the end of a turn. A task of its own, so
/// that clients that take nothing cost the turns of others nothing.
struct Finish(Arc<Mutex<Out>>);

impl Future for Finish {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut out = self.0.lock();
        match out.poll_out(cx) {
            Poll::Pending if !out.abandoned => {
                out.finisher = Some(cx.waker().clone());
                return Poll::Pending;
            }
            Poll::Pending => {}
            Poll::Ready(written) => drop(out.settle(written)),
        }
        out.finisher = None;
        Poll::Ready(())
    }
}

impl Future for EndOfTurns {
    type Output = std::convert::Infallible;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        TURN.with_borrow_mut(|turn| {
            let turn = turn.get_or_insert_default();
            std::mem::swap(&mut turn.waiting, &mut this.ready);
            match &mut turn.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                None => turn.waker = Some(cx.waker().clone()),
            }
        });
        // A task that has done much is told that no socket takes anything, and
        // what was left by a connection that is gone would be given up.
        let all = tokio::task::unconstrained(std::future::poll_fn(|cx| {
            this.write(cx);
            Poll::Pending
        }));
        std::pin::pin!(all).poll(cx)
    }
}

impl Drop for EndOfTurns {
    fn drop(&mut self) {
        // From now on a write of this thread is a write.
        if let Some(turn) = TURN.take() {
            self.ready.extend(turn.waiting);
        }
        self.write(&mut Context::from_waker(Waker::noop()));
    }
}

impl Socket {
    /// Takes a connection over.
    #[must_use]
    pub fn new(stream: impl Into<Stream>) -> Self {
        Self::after(Bytes::new(), stream)
    }

    /// Takes a connection over from which `read` were read already: they are read
    /// once more, before all others.
    #[must_use]
    pub fn after(read: Bytes, stream: impl Into<Stream>) -> Self {
        let (incoming, half) = stream.into().split();
        let out = Out {
            half: Some(half),
            bytes: Vec::new(),
            written: 0,
            queued: false,
            waiter: None,
            abandoned: false,
            finisher: None,
            failed: None,
        };
        Self { read: incoming.after(read), out: Arc::new(Mutex::new(out)) }
    }

    /// Puts these parts among the writes of this turn; `None` if they are too
    /// long for that, or there are no turns here.
    fn defer(&self, out: &mut Out, parts: &[IoSlice<'_>]) -> Option<usize> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        if length > SMALL || out.bytes.len() + length > MOST {
            return None;
        }
        if !out.queued {
            if !out.bytes.is_empty() {
                return None;
            }
            TURN.with_borrow_mut(|turn| {
                let turn = turn.as_mut()?;
                out.bytes = turn.spare.pop().unwrap_or_default();
                if turn.waiting.is_empty()
                    && let Some(waker) = &turn.waker
                {
                    waker.wake_by_ref();
                }
                turn.waiting.push(self.out.clone());
                Some(())
            })?;
            out.queued = true;
        }
        for part in parts {
            out.bytes.extend_from_slice(part);
        }
        Some(length)
    }
}

impl Out {
    /// Writes what waits.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { half, bytes, written, .. } = self;
        let Some(half) = half else { return Poll::Ready(Ok(())) };
        while *written < bytes.len() {
            match ready!(half.poll_write(cx, &bytes[*written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                some => *written += some,
            }
        }
        bytes.clear();
        *written = 0;
        Poll::Ready(Ok(()))
    }

    /// The same, for the connection: it is woken also if the end of the turn was
    /// faster.
    fn poll_out_of(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = self.poll_out(cx);
        self.waiter = polled.is_pending().then(|| cx.waker().clone());
        polled
    }

    /// Takes in that everything is written, or never will be. Gives the buffer
    /// away.
    fn settle(&mut self, written: io::Result<()>) -> Vec<u8> {
        if let Some(waiter) = self.waiter.take() {
            waiter.wake();
        }
        if let Err(error) = written {
            self.failed = Some(error);
        }
        self.written = 0;
        std::mem::take(&mut self.bytes)
    }

    /// Has a task write what is left.
    fn finish_later(&mut self, shared: &Arc<Mutex<Self>>) {
        match (&self.finisher, tokio::runtime::Handle::try_current()) {
            (Some(finisher), _) => finisher.wake_by_ref(),
            (None, Ok(runtime)) => {
                self.finisher = Some(Waker::noop().clone());
                runtime.spawn(Finish(shared.clone()));
            }
            // The end of the thread.
            (None, Err(_)) => {}
        }
    }

    fn half(&mut self) -> io::Result<&mut Outgoing> {
        self.half.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        if let Some(half) = self.half.take() {
            // Closing the socket ends both halves in one step.
            half.forget();
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let mut out = self.out.lock();
        out.abandoned = true;
        if let Some(finisher) = &out.finisher {
            // It tries once more, and then gives up.
            finisher.wake_by_ref();
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.read.poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut out = self.out.lock();
        if let Some(error) = out.failed.take() {
            return Poll::Ready(Err(error));
        }
        if let Some(length) = self.defer(&mut out, bufs) {
            return Poll::Ready(Ok(length));
        }
        ready!(out.poll_out_of(cx))?;
        match bufs {
            [buf] => out.half()?.poll_write(cx, buf),
            _ => out.half()?.poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Ready also if the end of the turn is still to come.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut out = self.out.lock();
        match out.failed.take() {
            Some(error) => Poll::Ready(Err(error)),
            None if out.queued => Poll::Ready(Ok(())),
            None => out.poll_out_of(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut out = self.out.lock();
        ready!(out.poll_out_of(cx))?;
        out.half()?.poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
