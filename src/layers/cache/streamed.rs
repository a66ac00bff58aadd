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
    pieces: Pieces,
    left: u64,
}

impl Streamed {
    pub(super) fn of(body: &OnDisk, range: Range<u64>) -> Self {
        let left = range.end.saturating_sub(range.start);
        Self { pieces: Box::pin(body.read(range)), left }
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
        let failed = |why: BoxError| {
            let error = Error::new(Kind::Internal).detail("what is stored cannot be read");
            Poll::Ready(Some(Err(error.because(why).into())))
        };
        match ready!(self.pieces.as_mut().poll_next(cx)) {
            Some(Ok(piece)) => match self.left.checked_sub(piece.len() as u64) {
                Some(left) => {
                    self.left = left;
                    Poll::Ready(Some(Ok(Frame::data(piece))))
                }
                None => failed("it is longer than it was".into()),
            },
            Some(Err(error)) => failed(error.into()),
            None => failed("it is shorter than it was".into()),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
