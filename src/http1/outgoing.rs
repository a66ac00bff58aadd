//! A message on its way to the peer.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::{Body as _, Frame};
use tokio::io::AsyncWrite;
use tokio::time::Instant;

use super::framing::{Framing, write_trailers};
use crate::body::Body;
use crate::error::BoxError;

/// Up to this size data is copied behind the head, so that both go out in one
/// plain write: cheaper than to have the system gather them.
const SMALL: usize = 4 * 1024;

/// What is kept of the buffer for heads when a connection rests.
const KEPT: usize = 2 * 1024;

/// What is to be written, and how far that is.
#[derive(Debug)]
pub(crate) struct Outgoing {
    /// Goes first: a head, a chunk's line, small data.
    first: Vec<u8>,
    /// How much of that is written.
    written: usize,
    /// Goes then.
    data: Bytes,
    /// Goes last.
    last: &'static [u8],
    framing: Framing,
    /// Whether every frame of the body was taken.
    over: bool,
    begun: bool,
    touched: bool,
    waiting: bool,
    /// Whether the body is not to be asked for anything yet.
    held: bool,
    /// When the body last moved; `None` where there is none, or nobody asks.
    moved: Option<Instant>,
}

/// Why a message was not written to its end.
#[derive(Debug)]
pub(crate) enum Stopped {
    /// The connection takes no more.
    Connection(io::Error),
    /// The body failed.
    Body(BoxError),
    /// The body is not as long as was announced.
    Length,
}

impl Outgoing {
    pub(crate) fn new() -> Self {
        Self {
            first: Vec::new(),
            written: 0,
            data: Bytes::new(),
            last: b"",
            framing: Framing::None,
            over: true,
            begun: false,
            touched: false,
            waiting: false,
            held: false,
            moved: None,
        }
    }

    /// Begins a message with the head that `write` writes. Interim responses that
    /// are not out yet stay before it.
    pub(crate) fn begin(&mut self, write: impl FnOnce(&mut Vec<u8>) -> Framing) {
        self.framing = write(&mut self.first);
        self.over = matches!(self.framing, Framing::None | Framing::Length(0));
        (self.begun, self.touched, self.waiting, self.held) = (false, false, false, false);
        self.moved = None;
    }

    /// Notes from now on when the body moves.
    pub(crate) fn timed(&mut self) {
        self.moved = (!self.over).then(Instant::now);
    }

    /// Holds the body back until it is called for by `false`.
    pub(crate) fn hold(&mut self, held: bool) {
        self.held = held && !self.over;
    }

    /// Whether the body is held back.
    pub(crate) fn is_held(&self) -> bool {
        self.held
    }

    /// Adds bytes that go out before the next message: an interim response.
    pub(crate) fn put(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.first);
    }

    /// How many bytes of heads wait to be written.
    pub(crate) fn waiting(&self) -> usize {
        self.first.len() - self.written
    }

    /// Whether nothing waits to be written.
    pub(crate) fn is_empty(&self) -> bool {
        self.first.len() == self.written && self.data.is_empty() && self.last.is_empty()
    }

    /// Whether the message ends when the connection does.
    pub(crate) fn ends_with_connection(&self) -> bool {
        matches!(self.framing, Framing::UntilClose)
    }

    /// Lets go of what a large exchange needed.
    pub(crate) fn rest(&mut self) {
        self.first.clear();
        self.first.shrink_to(KEPT);
        self.written = 0;
    }

    /// Whether any byte was written.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun
    }

    /// Whether the body was asked for anything, so that it cannot be sent again.
    pub(crate) fn has_touched_body(&self) -> bool {
        self.touched
    }

    /// When the wait for the response begins, as far as that is known: not while
    /// it is the client that is waited for.
    pub(crate) fn waits_since(&self, now: Instant) -> Option<Instant> {
        if self.waiting { Some(now) } else { self.moved }
    }

    /// Writes what waits, and no more of the body.
    pub(crate) fn poll_waiting<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_write(stream, cx))?;
        Pin::new(stream).poll_flush(cx)
    }

    /// Writes as much as goes. Ready when the message is written, or cannot be.
    pub(crate) fn poll<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        body: &mut Body,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Stopped>> {
        loop {
            let mut wants_body = !self.over && !self.held;
            if wants_body && self.data.is_empty() && self.last.is_empty() {
                self.touched = true;
                match Pin::new(&mut *body).poll_frame(cx) {
                    Poll::Ready(frame) => {
                        self.stage(frame.transpose().map_err(Stopped::Body)?)?;
                        self.waiting = false;
                        self.moved = self.moved.map(|_| Instant::now());
                    }
                    Poll::Pending => {
                        self.waiting = true;
                        wants_body = false;
                    }
                }
            }
            ready!(self.poll_write(stream, cx)).map_err(Stopped::Connection)?;
            if self.over || !wants_body {
                ready!(Pin::new(&mut *stream).poll_flush(cx)).map_err(Stopped::Connection)?;
                return if self.over { Poll::Ready(Ok(())) } else { Poll::Pending };
            }
        }
    }

    /// Makes the next part of the body ready to be written.
    fn stage(&mut self, frame: Option<Frame<Bytes>>) -> Result<(), Stopped> {
        let frame = match frame.map(Frame::into_data) {
            Some(Ok(data)) if data.is_empty() => return Ok(()),
            Some(Ok(data)) => return self.stage_data(data),
            Some(Err(frame)) => frame.into_trailers().ok(),
            None => None,
        };
        self.over = true;
        match &self.framing {
            Framing::None | Framing::Length(0) | Framing::UntilClose => Ok(()),
            Framing::Length(_) => Err(Stopped::Length),
            Framing::Chunked(announced) => {
                self.first.extend_from_slice(b"0\r\n");
                if let Some(trailers) = frame {
                    write_trailers(&trailers, announced, &mut self.first);
                }
                self.first.extend_from_slice(b"\r\n");
                Ok(())
            }
        }
    }

    fn stage_data(&mut self, data: Bytes) -> Result<(), Stopped> {
        match &mut self.framing {
            Framing::None => return Err(Stopped::Length),
            Framing::UntilClose => {}
            Framing::Length(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or(Stopped::Length)?;
                self.over = *left == 0;
            }
            Framing::Chunked(_) => {
                use std::io::Write as _;
                // Writing to a vector does not fail.
                let _ = write!(self.first, "{:x}\r\n", data.len());
                self.last = b"\r\n";
            }
        }
        if data.len() <= SMALL {
            self.first.extend_from_slice(&data);
            self.first.extend_from_slice(std::mem::take(&mut self.last));
        } else {
            self.data = data;
        }
        Ok(())
    }

    fn poll_write<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let first = &self.first[self.written..];
            let stream = Pin::new(&mut *stream);
            let written = if self.data.is_empty() && self.last.is_empty() {
                if first.is_empty() {
                    self.first.clear();
                    self.written = 0;
                    return Poll::Ready(Ok(()));
                }
                ready!(stream.poll_write(cx, first))?
            } else {
                let parts = [first, &self.data, self.last].map(IoSlice::new);
                ready!(stream.poll_write_vectored(cx, &parts))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.begun = true;
            self.advance(written);
        }
    }

    fn advance(&mut self, written: usize) {
        let of_first = written.min(self.first.len() - self.written);
        self.written += of_first;
        let of_data = (written - of_first).min(self.data.len());
        self.data.advance(of_data);
        self.last = &self.last[written - of_first - of_data..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;
    use http_body_util::StreamBody;
    use std::convert::Infallible;

    /// A stream that takes a few bytes at a time.
    struct Narrow(Vec<u8>, usize);

    impl AsyncWrite for Narrow {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let some = bytes.len().min(self.1);
            self.0.extend_from_slice(&bytes[..some]);
            Poll::Ready(Ok(some))
        }
        fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    async fn sent(mut body: Body, framing: Framing, narrow: usize) -> Result<String, Stopped> {
        let mut stream = Narrow(Vec::new(), narrow);
        let mut outgoing = Outgoing::new();
        outgoing.begin(|out| {
            out.extend_from_slice(b"head ");
            framing
        });
        std::future::poll_fn(|cx| outgoing.poll(&mut stream, &mut body, cx)).await?;
        Ok(String::from_utf8(stream.0).unwrap())
    }

    fn frames(frames: Vec<Frame<Bytes>>) -> Body {
        Body::new(StreamBody::new(futures_util::stream::iter(
            frames.into_iter().map(Ok::<_, Infallible>),
        )))
    }

    #[tokio::test]
    async fn a_body_is_written_as_announced_however_little_goes_at_a_time() {
        let large = "x".repeat(SMALL + 1);
        for narrow in [1, 7, 100_000] {
            let framing = Framing::Length(large.len() as u64);
            let of_length = sent(Body::from(large.clone()), framing, narrow).await.unwrap();
            assert_eq!(of_length, format!("head {large}"));
            let until_close = sent("some".into(), Framing::UntilClose, narrow).await.unwrap();
            assert_eq!(until_close, "head some");
            let sum = http::HeaderName::from_static("x-sum");
            let trailers =
                HeaderMap::from_iter([(sum.clone(), http::HeaderValue::from_static("1"))]);
            let chunks = frames(vec![
                Frame::data("ab".into()),
                Frame::data(Bytes::new()),
                Frame::data(large.clone().into()),
                Frame::trailers(trailers),
            ]);
            let chunked = sent(chunks, Framing::Chunked(vec![sum]), narrow).await.unwrap();
            assert_eq!(
                chunked,
                format!("head 2\r\nab\r\n1001\r\n{large}\r\n0\r\nx-sum: 1\r\n\r\n")
            );
        }
    }

    #[tokio::test]
    async fn a_body_that_fails_is_not_ended_as_if_it_were_whole() {
        let parts: Vec<Result<Frame<Bytes>, BoxError>> =
            vec![Ok(Frame::data("ab".into())), Err("gone".into())];
        let body = Body::new(StreamBody::new(futures_util::stream::iter(parts)));
        let framing = Framing::Chunked(Vec::new());
        assert!(matches!(sent(body, framing, 100).await, Err(Stopped::Body(_))));
        let short = sent("ab".into(), Framing::Length(3), 100).await;
        assert!(matches!(short, Err(Stopped::Length)));
        let long = sent("abcd".into(), Framing::Length(3), 100).await;
        assert!(matches!(long, Err(Stopped::Length)));
    }
}
