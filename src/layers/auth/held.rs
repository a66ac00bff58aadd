//! A body that schemes may have to see before they know whether anybody is to have it.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};

use crate::error::{BoxError, Kind};

/// What has to be seen is there within this time: it is short.
const WITHIN: Duration = Duration::from_secs(30);

/// A request's body.
pub(super) enum Held<B> {
    /// There is nothing to read.
    Empty(B),
    /// Not a byte of it was read.
    Unread(B),
    /// All of it was.
    Seen(Bytes),
}

static NOTHING: Bytes = Bytes::new();

impl<B: http_body::Body> Held<B> {
    pub(super) fn new(body: B) -> Self {
        if body.is_end_stream() { Self::Empty(body) } else { Self::Unread(body) }
    }

    /// All of it, as far as it can be known.
    pub(super) fn bytes(&self) -> Option<&Bytes> {
        match self {
            Self::Empty(_) => Some(&NOTHING),
            Self::Unread(_) => None,
            Self::Seen(bytes) => Some(bytes),
        }
    }

    /// What goes on to the origin.
    pub(super) fn into_body(self) -> B
    where
        B: From<Bytes>,
    {
        match self {
            Self::Empty(body) | Self::Unread(body) => body,
            Self::Seen(bytes) => B::from(bytes),
        }
    }

    /// The whole body, if it is no longer than that, and is there in time.
    pub(super) async fn seen_up_to(self, limit: usize) -> Result<Self, Kind>
    where
        B: http_body::Body<Data = Bytes> + Send,
        B::Error: Into<BoxError>,
    {
        let body = match self {
            Self::Unread(body) => body,
            Self::Seen(bytes) if bytes.len() > limit => return Err(Kind::RequestBodyTooLarge),
            seen @ (Self::Empty(_) | Self::Seen(_)) => return Ok(seen),
        };
        if body.size_hint().lower() > limit as u64 {
            return Err(Kind::RequestBodyTooLarge);
        }
        match tokio::time::timeout(WITHIN, Limited::new(body, limit).collect()).await {
            Ok(Ok(collected)) => Ok(Self::Seen(collected.to_bytes())),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Kind::RequestBodyTooLarge),
            Ok(Err(_)) => Err(Kind::RequestBodyAborted),
            Err(_) => Err(Kind::RequestBodyTimeout),
        }
    }
}
