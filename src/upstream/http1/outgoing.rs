//! A request on its way to the origin.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::Request;
use http_body::{Body as _, Frame};
use tokio::io::AsyncWrite;
use tokio::time::Instant;

use super::framing::{Framing, write_trailers};
use super::head;
use crate::body::Body;
use crate::error::BoxError;

/// Up to this size data is copied behind the head, so that both go out in one
/// plain write: cheaper than to have the system gather them.
const SMALL: usize = 4 * 1024;

/// What is kept of the buffer for heads when a connection rests.
const KEPT: usize = 2 * 1024;

/// What is to be written, and how far that is.
#[derive(Debug)]
pub(super) struct Outgoing {
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
    /// When the body last moved; `None` where there is none.
    moved: Option<Instant>,
}

/// Why a request was not written to its end.
#[derive(Debug)]
pub(super) enum Stopped {
    /// The connection takes no more.
    Connection(io::Error),
    /// The body failed.
    Body(BoxError),
    /// The body is not as long as was announced.
    Length,
}

impl Outgoing {
    pub(super) fn new() -> Self {
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
            moved: None,
        }
    }

    /// Begins with the head of `request`.
    pub(super) fn begin(&mut self, request: &Request<Body>) {
        self.rest();
        self.framing = head::write(request, &mut self.first);
        self.over = matches!(self.framing, Framing::None | Framing::Length(0));
        self.moved = (!self.over).then(Instant::now);
        (self.begun, self.touched, self.waiting) = (false, false, false);
    }

    /// Lets go of what a large exchange needed.
    pub(super) fn rest(&mut self) {
        self.first.clear();
        self.first.shrink_to(KEPT);
        self.written = 0;
    }

    /// Whether any byte was written.
    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    /// Whether the body was asked for anything, so that it cannot be sent again.
    pub(super) fn has_touched_body(&self) -> bool {
        self.touched
    }

    /// When the wait for the response begins, as far as that is known: not while
    /// it is the client that is waited for.
    pub(super) fn waits_since(&self, now: Instant) -> Option<Instant> {
        if self.waiting { Some(now) } else { self.moved }
    }

    /// Writes as much as goes. Ready when the request is written, or cannot be.
    pub(super) fn poll<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        body: &mut Body,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Stopped>> {
        loop {
            let mut wants_body = !self.over;
            if wants_body && self.data.is_empty() && self.last.is_empty() {
                self.touched = true;
                match Pin::new(&mut *body).poll_frame(cx) {
                    Poll::Ready(frame) => {
                        self.stage(frame.transpose().map_err(Stopped::Body)?)?;
                        (self.waiting, self.moved) = (false, Some(Instant::now()));
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
            Framing::None | Framing::Length(0) => Ok(()),
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

    async fn sent(request: Request<Body>, narrow: usize) -> Result<String, Stopped> {
        let mut stream = Narrow(Vec::new(), narrow);
        let mut outgoing = Outgoing::new();
        outgoing.begin(&request);
        let mut body = request.into_body();
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
            let post = |body| Request::post("/").header("trailer", "x-sum").body(body).unwrap();
            let of_length = sent(post(Body::from(large.clone())), narrow).await.unwrap();
            let expected = format!("trailer: x-sum\r\ncontent-length: 4097\r\n\r\n{large}");
            assert_eq!(of_length, format!("POST / HTTP/1.1\r\n{expected}"));
            let trailers = HeaderMap::from_iter([(
                http::HeaderName::from_static("x-sum"),
                http::HeaderValue::from_static("1"),
            )]);
            let chunks = frames(vec![
                Frame::data("ab".into()),
                Frame::data(Bytes::new()),
                Frame::data(large.clone().into()),
                Frame::trailers(trailers),
            ]);
            let chunked = sent(post(chunks), narrow).await.unwrap();
            let body = chunked.split_once("\r\n\r\n").unwrap().1;
            assert_eq!(body, format!("2\r\nab\r\n1001\r\n{large}\r\n0\r\nx-sum: 1\r\n\r\n"));
        }
    }

    #[tokio::test]
    async fn a_body_that_fails_is_not_ended_as_if_it_were_whole() {
        let parts: Vec<Result<Frame<Bytes>, BoxError>> =
            vec![Ok(Frame::data("ab".into())), Err("gone".into())];
        let body = Body::new(StreamBody::new(futures_util::stream::iter(parts)));
        let request = Request::post("/").body(body).unwrap();
        assert!(matches!(sent(request, 100).await, Err(Stopped::Body(_))));
    }
}
