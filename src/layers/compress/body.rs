//! Content on its way through an encoder.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame};

use super::encoder::Encoder;
use super::head::DIGESTS;
use super::room::Place;
use crate::body::Body;
use crate::error::BoxError;
use crate::observe::CompressionCounts;

/// How much is compressed before others have their turn, in bytes.
const PIECE: usize = 32 * 1024;

/// A body in another coding. What has come goes on as soon as nothing more comes at once.
pub(super) struct Compressing {
    source: Body,
    encoding: Option<Encoding>,
    /// What has come and is not compressed yet.
    input: Bytes,
    /// What is compressed and not given out yet.
    output: Bytes,
    trailers: Option<HeaderMap>,
    tally: Tally,
}

/// What there is until the content is over.
struct Encoding {
    encoder: Encoder,
    /// Something was written of which not all has come out.
    holds: bool,
    #[allow(dead_code, reason = "held for its drop")]
    place: Place,
}

/// Counted at the end, however that comes.
struct Tally {
    counts: CompressionCounts,
    taken: u64,
    given: u64,
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.counts.bytes(self.taken, self.given);
    }
}

impl Compressing {
    pub(super) fn new(
        source: Body,
        encoder: Encoder,
        place: Place,
        counts: CompressionCounts,
    ) -> Self {
        Self {
            source,
            encoding: Some(Encoding { encoder, holds: false, place }),
            input: Bytes::new(),
            output: Bytes::new(),
            trailers: None,
            tally: Tally { counts, taken: 0, given: 0 },
        }
    }

    /// Compresses at most so many bytes of what has come; how many those were.
    fn compress(&mut self, most: usize) -> Result<usize, BoxError> {
        let Some(encoding) = &mut self.encoding else { return Ok(0) };
        let piece = self.input.split_to(self.input.len().min(most));
        encoding.encoder.write(&piece)?;
        encoding.holds = true;
        self.output = encoding.encoder.take();
        self.tally.taken += piece.len() as u64;
        Ok(piece.len())
    }

    /// Has what was written come out.
    fn flush(&mut self) -> Result<(), BoxError> {
        if let Some(encoding) = &mut self.encoding
            && std::mem::take(&mut encoding.holds)
        {
            encoding.encoder.flush()?;
            self.output = encoding.encoder.take();
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), BoxError> {
        if let Some(mut encoding) = self.encoding.take() {
            encoding.encoder.finish()?;
            self.output = encoding.encoder.take();
        }
        Ok(())
    }

    /// The next piece of what has come out.
    fn give(&mut self) -> Option<Frame<Bytes>> {
        if self.output.is_empty() {
            return None;
        }
        let piece = self.output.split_to(self.output.len().min(PIECE));
        self.tally.given += piece.len() as u64;
        Some(Frame::data(piece))
    }

    /// One step; whether there is another. `work` is how much may still be compressed.
    fn step(&mut self, cx: &mut Context<'_>, work: &mut usize) -> Result<bool, BoxError> {
        if !self.input.is_empty() {
            if *work == 0 {
                cx.waker().wake_by_ref();
                return Ok(false);
            }
            *work -= self.compress(*work)?;
            return Ok(true);
        }
        match Pin::new(&mut self.source).poll_frame(cx) {
            Poll::Pending => {
                self.flush()?;
                Ok(!self.output.is_empty())
            }
            Poll::Ready(Some(Ok(frame))) => {
                match frame.into_data() {
                    Ok(data) => self.input = data,
                    Err(frame) => {
                        self.trailers = frame.into_trailers().ok();
                        self.finish()?;
                    }
                }
                Ok(true)
            }
            Poll::Ready(Some(Err(error))) => Err(error),
            Poll::Ready(None) => {
                self.finish()?;
                Ok(true)
            }
        }
    }
}

impl http_body::Body for Compressing {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let mut work = PIECE;
        loop {
            if let Some(frame) = this.give() {
                return Poll::Ready(Some(Ok(frame)));
            }
            if this.encoding.is_none() {
                let trailers = this.trailers.take().map(|mut trailers| {
                    for name in DIGESTS {
                        trailers.remove(name);
                    }
                    Ok(Frame::trailers(trailers))
                });
                return Poll::Ready(trailers);
            }
            match this.step(cx, &mut work) {
                Ok(true) => {}
                Ok(false) => return Poll::Pending,
                Err(error) => {
                    this.encoding = None;
                    this.input = Bytes::new();
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.encoding.is_none() && self.output.is_empty() && self.trailers.is_none()
    }
}

#[cfg(test)]
#[cfg(feature = "compression")]
mod tests;
