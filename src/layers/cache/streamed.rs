//! A body that is read from disk while it is sent.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::Stream;
use http_body::{Frame, SizeHint};

use super::disk::OnDisk;
use crate::error::{BoxError, Error, Kind};

type Pieces = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// So many bytes, or an error: whoever is sent less does not take it for the end.
pub(super) struct Streamed {
    /// None after an error: what has ended must not be asked again.
    pieces: Option<Pieces>,
    left: u64,
}

impl Streamed {
    pub(super) fn of(body: &OnDisk, range: Range<u64>) -> Self {
        let left = range.end.saturating_sub(range.start);
        Self { pieces: Some(Box::pin(body.read(range))), left }
    }
}

impl http_body::Body for Streamed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let Some(pieces) = &mut self.pieces else { return Poll::Ready(None) };
        let why: BoxError = match ready!(pieces.as_mut().poll_next(cx)) {
            Some(Ok(piece)) => match self.left.checked_sub(piece.len() as u64) {
                Some(left) => {
                    self.left = left;
                    return Poll::Ready(Some(Ok(Frame::data(piece))));
                }
                None => "it is longer than it was".into(),
            },
            Some(Err(error)) => error.into(),
            None => "it is shorter than it was".into(),
        };
        self.pieces = None;
        let error = Error::new(Kind::Internal).detail("what is stored cannot be read");
        Poll::Ready(Some(Err(error.because(why).into())))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_util::stream;
    use http_body::Body as _;

    use super::*;

    #[tokio::test]
    async fn after_an_error_it_has_ended() {
        let pieces = stream::once(async { Err(io::Error::other("gone")) });
        let mut body = Streamed { pieces: Some(Box::pin(pieces)), left: 5 };
        let mut next = async || poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
        assert!(next().await.is_some_and(|frame| frame.is_err()));
        assert!(next().await.is_none());
        assert!(next().await.is_none());
    }
}
