//! A way in for the fuzz targets.

use bytes::BytesMut;
use http::HeaderMap;

use super::{Incoming, Invalid, Read};

/// How a message's body is read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Framed {
    /// So many bytes.
    Length(u64),
    /// In chunks.
    Chunked,
    /// Until the connection ends.
    UntilClose,
}

impl From<&Incoming> for Framed {
    fn from(incoming: &Incoming) -> Self {
        match incoming {
            Incoming::Length(length) => Self::Length(*length),
            Incoming::Chunked(_) => Self::Chunked,
            Incoming::UntilClose => Self::UntilClose,
        }
    }
}

/// A chunked body that was read to its end.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ChunkedBody {
    /// What the chunks held.
    pub data: Vec<u8>,
    /// The trailer fields that may be ones.
    pub trailers: HeaderMap,
    /// What follows.
    pub rest: Vec<u8>,
}

/// Reads a chunked body that comes in `pieces`; `None` if it is not whole.
///
/// # Errors
///
/// The name of what makes it malformed.
pub fn chunked_body(pieces: &[&[u8]]) -> Result<Option<ChunkedBody>, String> {
    let wrong = |invalid: Invalid| invalid.to_string();
    let mut incoming = Incoming::chunked();
    let mut body = ChunkedBody::default();
    let mut buffer = BytesMut::new();
    for piece in pieces {
        buffer.extend_from_slice(piece);
        while let Read::Frame(frame) = incoming.read(&mut buffer).map_err(wrong)? {
            match frame.into_data() {
                Ok(data) => body.data.extend_from_slice(&data),
                Err(frame) => body.trailers = frame.into_trailers().unwrap_or_default(),
            }
        }
    }
    body.rest = buffer.to_vec();
    Ok(incoming.is_over().then_some(body))
}
