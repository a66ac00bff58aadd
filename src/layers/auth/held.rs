//! A body that schemes may have to see before they know whether anybody is to have it.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};

use crate::budget::{Budget, Charge, Use};
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

/// Bytes that are spoken for in the memory budget for as long as anybody has them.
struct Charged {
    bytes: Bytes,
    _charge: Charge,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

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

    /// Has `headers` announce no trailer fields (RFC 9110 §6.6.2) where they are lost: of a
    /// body that was seen the bytes go on, and nothing else.
    pub(super) fn announce(&self, headers: &mut HeaderMap) {
        if matches!(self, Self::Seen(_)) {
            headers.remove(header::TRAILER);
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

    /// The whole body, if it is no longer than that, is there in time, and there is memory
    /// for it.
    pub(super) async fn seen_up_to(self, limit: usize, budget: &Budget) -> Result<Self, Kind>
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
        let announced = body.size_hint().upper().and_then(|upper| usize::try_from(upper).ok());
        let most = announced.map_or(limit, |announced| announced.min(limit));
        let charge = budget.charge(most, Use::Exchange).ok_or(Kind::Overloaded)?;
        match tokio::time::timeout(WITHIN, Limited::new(body, limit).collect()).await {
            Ok(Ok(collected)) => {
                let charged = Charged { bytes: collected.to_bytes(), _charge: charge };
                Ok(Self::Seen(Bytes::from_owner(charged)))
            }
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Kind::RequestBodyTooLarge),
            Ok(Err(_)) => Err(Kind::RequestBodyAborted),
            Err(_) => Err(Kind::RequestBodyTimeout),
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;

    fn body(length: usize) -> Held<Full<Bytes>> {
        Held::new(Full::from(vec![b'x'; length]))
    }

    #[tokio::test]
    async fn what_is_held_is_charged_until_it_is_let_go() {
        let budget = Budget::new(64 * 1024);
        let seen = body(8000).seen_up_to(1 << 20, &budget).await;
        let bytes = seen.ok().and_then(|held| held.bytes().cloned()).unwrap();
        assert_eq!(bytes.len(), 8000);
        assert!(budget.charged() >= 8000, "{}", budget.charged());
        let part = bytes.slice(..10);
        drop(bytes);
        assert!(budget.charged() >= 8000, "{}", budget.charged());
        drop(part);
        assert_eq!(budget.charged(), 0);
    }

    #[tokio::test]
    async fn what_there_is_no_memory_for_is_not_read() {
        let budget = Budget::new(4096);
        let kind = body(8000).seen_up_to(1 << 20, &budget).await.err();
        assert_eq!(kind, Some(Kind::Overloaded));
        assert!(budget.refused(Use::Exchange) > 0);
        let too_long = body(8000).seen_up_to(100, &budget).await.err();
        assert_eq!(too_long, Some(Kind::RequestBodyTooLarge));
    }
}
