//! One direction of a tunnel.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::frames::{Between, Frames, GOING_AWAY};

/// How much is read at once, and may wait to be written.
const ROOM: usize = 16 * 1024;

/// How long a drain waits for the end of a message that comes in fragments.
const WHOLE_MESSAGE: Duration = Duration::from_secs(2);

/// Passes on what comes, as it comes, and the end of it. Nothing is read while
/// something waits to be written, and nothing is kept while nothing does.
#[derive(Debug)]
pub(super) struct Relay {
    rest: Bytes,
    flushed: bool,
    end: End,
    leave: Option<Leave>,
    /// How many bytes were taken by the receiver.
    pub(super) bytes: u64,
    /// Since when the receiver has taken nothing of what waits for it.
    pub(super) blocked: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    NotYet,
    /// The sender has come to its end, which the receiver is to be told.
    Came,
    Passed,
}

/// How a WebSocket's server takes leave when the proxy is going away.
#[derive(Debug)]
struct Leave {
    frames: Frames,
    /// Until when a message may come to its end first.
    patience: Option<Pin<Box<Sleep>>>,
    between: Option<Between>,
    taken: bool,
}

impl Relay {
    pub(super) fn new() -> Self {
        Self {
            rest: Bytes::new(),
            flushed: true,
            end: End::NotYet,
            leave: None,
            bytes: 0,
            blocked: None,
        }
    }

    /// The direction in which a WebSocket's server sends.
    pub(super) fn of_frames() -> Self {
        let frames = Frames::new();
        let leave = Leave { frames, patience: None, between: None, taken: false };
        Self { leave: Some(leave), ..Self::new() }
    }

    /// Sends a Close frame as soon as one may be put in, and nothing after it.
    /// Does nothing where frames are not followed.
    pub(super) fn take_leave(&mut self) {
        if let Some(leave) = &mut self.leave
            && leave.between.is_none()
        {
            leave.between = Some(Between::Messages);
            leave.patience = Some(Box::pin(tokio::time::sleep(WHOLE_MESSAGE)));
        }
    }

    /// Whether the end of what comes was passed on.
    pub(super) fn has_ended(&self) -> bool {
        self.end == End::Passed
    }

    /// Moves what can be moved; ready when the end was passed on.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_write(cx, to))?;
            match self.end {
                End::NotYet => {}
                End::Came => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                    self.end = End::Passed;
                    return Poll::Ready(Ok(()));
                }
                End::Passed => return Poll::Ready(Ok(())),
            }
            if self.leave.as_mut().is_some_and(|leave| leave.poll(cx)) {
                self.rest = Bytes::from_static(&GOING_AWAY);
                continue;
            }
            let mut room = [MaybeUninit::uninit(); ROOM];
            let mut room = ReadBuf::uninit(&mut room);
            match Pin::new(&mut *from).poll_read(cx, &mut room) {
                Poll::Ready(read) => read?,
                Poll::Pending => {
                    self.poll_flush(cx, to)?;
                    return Poll::Pending;
                }
            }
            match room.filled() {
                [] => self.end = End::Came,
                bytes => self.pass(cx, bytes, to)?,
            }
        }
    }

    /// Writes what has come, and keeps what is not taken at once.
    fn pass(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        to: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<()> {
        let (mut bytes, last): (_, &[u8]) = match &mut self.leave {
            None => (bytes, &[]),
            Some(leave) => leave.follow(bytes),
        };
        while !bytes.is_empty() {
            match self.poll_some(cx, bytes, to)? {
                Poll::Ready(taken) => bytes = &bytes[taken..],
                Poll::Pending => break,
            }
        }
        if !(bytes.is_empty() && last.is_empty()) {
            self.rest = [bytes, last].concat().into();
        }
        Ok(())
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        let mut rest = std::mem::take(&mut self.rest);
        while !rest.is_empty() {
            match self.poll_some(cx, &rest, to)? {
                Poll::Ready(taken) => rest.advance(taken),
                Poll::Pending => {
                    self.rest = rest;
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_some(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        to: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<Poll<usize>> {
        match Pin::new(to).poll_write(cx, bytes)? {
            Poll::Ready(0) => Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(taken) => {
                self.bytes += taken as u64;
                self.blocked = None;
                self.flushed = false;
                Ok(Poll::Ready(taken))
            }
            Poll::Pending => {
                self.blocked.get_or_insert_with(Instant::now);
                Ok(Poll::Pending)
            }
        }
    }

    fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<()> {
        if self.flushed {
            return Ok(());
        }
        if Pin::new(to).poll_flush(cx)?.is_ready() {
            (self.flushed, self.blocked) = (true, None);
        } else {
            self.blocked.get_or_insert_with(Instant::now);
        }
        Ok(())
    }
}

impl Leave {
    /// Whether it is to be taken now.
    fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(between) = self.between.filter(|_| !self.taken && !self.frames.is_over()) else {
            return false;
        };
        let waited = self.patience.as_mut().is_none_or(|wait| wait.as_mut().poll(cx).is_ready());
        let between = if waited { Between::Frames } else { between };
        self.between = Some(between);
        self.taken = self.frames.is_between(between == Between::Messages);
        self.taken
    }

    /// What is to be passed on of what has come, and what is put after it.
    fn follow<'b>(&mut self, bytes: &'b [u8]) -> (&'b [u8], &'static [u8]) {
        if self.taken {
            return (&[], &[]);
        }
        let done = self.frames.follow(bytes, self.between);
        match self.between {
            Some(between) if self.frames.is_between(between == Between::Messages) => {
                self.taken = true;
                (&bytes[..done], &GOING_AWAY)
            }
            _ => (bytes, &[]),
        }
    }
}
