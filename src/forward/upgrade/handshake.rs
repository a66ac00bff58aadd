//! The opening handshake of a WebSocket (RFC 6455 §4).

use aws_lc_rs::digest;
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request};
use http_body::Body as _;

use crate::body::Body;

/// The one version there is.
pub(super) const VERSION: &str = "13";

/// What a server appends to the key to show that it knows the protocol (§1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Bytes of a key.
const KEY: usize = 16;

/// A `Sec-WebSocket-Key` of our own.
pub(super) struct Key(String);

impl Key {
    pub(super) fn random() -> Result<Self, Unspecified> {
        let mut key = [0; KEY];
        SystemRandom::new().fill(&mut key)?;
        Ok(Self(STANDARD.encode(key)))
    }

    pub(super) fn value(&self) -> HeaderValue {
        // Base64 has no character that a field may not have.
        HeaderValue::from_str(&self.0).unwrap_or_else(|_| HeaderValue::from_static(""))
    }

    /// Whether the origin has seen this key and knows what to do with it (§4.1).
    pub(super) fn is_accepted_by(&self, headers: &HeaderMap) -> bool {
        let accept = single(headers, &header::SEC_WEBSOCKET_ACCEPT);
        accept.is_some_and(|accept| accept.trim_ascii() == self.accept().as_bytes())
    }

    fn accept(&self) -> String {
        let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
        context.update(self.0.as_bytes());
        context.update(GUID);
        STANDARD.encode(context.finish())
    }
}

/// Whether a request that asks for a WebSocket by `Upgrade` is the one that
/// §4.1 describes.
pub(super) fn is_one(request: &Request<Body>) -> bool {
    let headers = request.headers();
    let key = single(headers, &header::SEC_WEBSOCKET_KEY);
    *request.method() == Method::GET
        && request.body().is_end_stream()
        && key.is_some_and(is_key)
        && single(headers, &header::SEC_WEBSOCKET_VERSION).is_some_and(is_13)
}

/// Whether an extended CONNECT names no other version than 13: it may leave it
/// out, for there is no handshake in it (RFC 8441 §5).
pub(super) fn may_be_13(headers: &HeaderMap) -> bool {
    !headers.contains_key(header::SEC_WEBSOCKET_VERSION)
        || single(headers, &header::SEC_WEBSOCKET_VERSION).is_some_and(is_13)
}

/// The value of a field that stands there once.
fn single<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h [u8]> {
    let mut lines = headers.get_all(name).iter();
    let (line, None) = (lines.next()?, lines.next()) else { return None };
    Some(line.as_bytes())
}

fn is_13(version: &[u8]) -> bool {
    version.trim_ascii() == VERSION.as_bytes()
}

fn is_key(key: &[u8]) -> bool {
    STANDARD.decode(key.trim_ascii()).is_ok_and(|key| key.len() == KEY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_is_that_of_the_standards_own_example() {
        let key = Key("dGhlIHNhbXBsZSBub25jZQ==".to_owned());
        assert!(is_key(key.value().as_bytes()));
        let mut headers = HeaderMap::new();
        assert!(!key.is_accepted_by(&headers));
        let accept = HeaderValue::from_static("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept.clone());
        assert!(key.is_accepted_by(&headers));
        headers.append(header::SEC_WEBSOCKET_ACCEPT, accept);
        assert!(!key.is_accepted_by(&headers));
    }

    #[test]
    fn keys_differ_and_are_keys() {
        let (one, other) = (Key::random().unwrap(), Key::random().unwrap());
        assert_ne!(one.0, other.0);
        assert!(is_key(one.0.as_bytes()));
        for wrong in ["", "x", "dGhlIHNhbXBsZSBub25jZQ", "dGhlIHNhbXBsZQ=="] {
            assert!(!is_key(wrong.as_bytes()), "{wrong}");
        }
    }
}
