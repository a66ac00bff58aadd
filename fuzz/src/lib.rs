//! What the targets have in common.

#[path = "../../tests/it/support/strict.rs"]
pub mod strict;

use std::sync::Arc;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Uri, Version};
use tollgate::context::{Downstream, Exchange, RequestLine};

/// What `read` makes of bytes that come whole, one by one, and in two pieces.
pub fn however_cut<T>(bytes: &[u8], read: impl Fn(&[&[u8]]) -> T) -> [T; 3] {
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    let sum = bytes.iter().fold(0_usize, |sum, byte| sum.wrapping_mul(31) + usize::from(*byte));
    let (first, second) = bytes.split_at(sum % (bytes.len() + 1));
    [read(&[bytes]), read(&single), read(&[first, second])]
}

/// Fields from lines of `name: value`; lines that are none are left out.
pub fn headers(bytes: &[u8]) -> HeaderMap {
    let lines = bytes.split(|byte| *byte == b'\n').filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        Some((name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?))
    });
    lines.take(200).collect()
}

/// Fields as the strict reader gives them.
pub fn pairs(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    let mut pairs: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
        .collect();
    // A map gives the fields of one name together.
    pairs.sort_by(|one, other| one.0.cmp(&other.0));
    pairs
}

/// The same fields in the same order.
pub fn sorted(mut fields: Vec<(String, Vec<u8>)>) -> Vec<(String, Vec<u8>)> {
    fields.sort_by(|one, other| one.0.cmp(&other.0));
    fields
}

/// The exchange of a request that came from `peer`.
pub fn exchange(peer: &str, host: Option<HeaderValue>) -> Exchange {
    let downstream = Downstream { peer: Some(peer.parse().unwrap()), ..Downstream::default() };
    let request = RequestLine {
        method: Method::GET,
        uri: Uri::from_static("/"),
        version: Version::HTTP_11,
        host,
        user_agent: None,
        referer: None,
        accept: None,
        content_type: None,
        fields: 0,
    };
    Exchange::open(Arc::new(downstream), request, None)
}

/// What a future comes to that waits for nobody.
pub fn at_once<T>(future: impl Future<Output = T>) -> T {
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut cx) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("somebody is waited for"),
    }
}
