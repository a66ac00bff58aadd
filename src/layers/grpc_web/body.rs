//! The bodies of a gRPC-Web call, both ways. No more of them is kept than the
//! start of a group of Base64.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Frame, SizeHint};

use super::base64::{Decoder, NotBase64, encode};
use crate::body::Body;
use crate::error::{BoxError, Error, Kind};
use crate::respond::TRAILER_FRAME;

/// A request's body out of its Base64.
pub(super) struct Decoded {
    body: Body,
    decoder: Decoder,
}

/// A response's body with its trailers at the end of it.
pub(super) struct Encoded {
    body: Body,
    text: bool,
    /// Trailers that came in the head ("Trailers-Only").
    trailers: Option<HeaderMap>,
    over: bool,
}

impl Decoded {
    pub(super) fn new(body: Body) -> Self {
        Self { body, decoder: Decoder::default() }
    }
}

impl Encoded {
    pub(super) fn new(body: Body, text: bool, trailers: Option<HeaderMap>) -> Self {
        Self { body, text, trailers, over: false }
    }

    fn data(&self, data: Bytes) -> Frame<Bytes> {
        Frame::data(if self.text { encode(&data) } else { data })
    }
}

fn invalid(error: NotBase64) -> BoxError {
    Error::new(Kind::RequestInvalid).because(error).into()
}

impl http_body::Body for Decoded {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                None if !self.decoder.is_whole() => {
                    self.decoder = Decoder::default();
                    return Poll::Ready(Some(Err(invalid(NotBase64))));
                }
                end => return Poll::Ready(end),
            };
            // A call's request has no trailers.
            let Ok(text) = frame.into_data() else { continue };
            match self.decoder.decode(&text) {
                Ok(data) if data.is_empty() => {}
                decoded => return Poll::Ready(Some(decoded.map(Frame::data).map_err(invalid))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.decoder.is_whole() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // Padding may stand anywhere.
        SizeHint::default()
    }
}

impl http_body::Body for Encoded {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.over {
            return Poll::Ready(None);
        }
        match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            Some(Ok(frame)) => Poll::Ready(Some(Ok(match frame.into_data() {
                Ok(data) => self.data(data),
                Err(frame) => {
                    self.over = true;
                    let trailers = frame.into_trailers().unwrap_or_default();
                    self.data(trailer_frame(&trailers))
                }
            }))),
            Some(Err(error)) => Poll::Ready(Some(Err(error))),
            None => {
                self.over = true;
                let trailers = self.trailers.take();
                Poll::Ready(trailers.map(|trailers| Ok(self.data(trailer_frame(&trailers)))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.over || (self.trailers.is_none() && self.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// A frame of trailers: a mark, the length in four bytes, and a line for each
/// field, as HTTP/1 has them.
pub(super) fn trailer_frame(trailers: &HeaderMap) -> Bytes {
    let mut lines = BytesMut::new();
    for (name, value) in trailers {
        for part in [name.as_str().as_bytes(), b":", value.as_bytes(), b"\r\n"] {
            lines.put_slice(part);
        }
    }
    let mut frame = BytesMut::with_capacity(5 + lines.len());
    frame.put_u8(TRAILER_FRAME);
    // A section of trailers is held to far less where it is read.
    frame.put_u32(u32::try_from(lines.len()).unwrap_or(u32::MAX));
    frame.put(lines);
    frame.freeze()
}
