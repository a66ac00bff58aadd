//! A way in for the fuzz targets.

use http::{HeaderMap, Method, Uri};

use super::{Message, Scheme, digest, read};

/// Reads the signatures of a request's fields, and makes the base of each; tells how
/// many could be read.
#[must_use]
pub fn signatures(headers: &HeaderMap, target: &Uri, body: &[u8]) -> usize {
    let _is_of = digest::is_of(headers, body);
    let message = Message {
        method: &Method::GET,
        scheme: Scheme::Https,
        authority: "a.test",
        target,
        is_absolute: false,
        headers,
    };
    let received = read(headers).unwrap_or_default();
    for one in &received {
        if let Ok(base) = one.base(&message) {
            assert!(base.is_ascii(), "{base}");
            let lines = base.lines().filter(|line| line.starts_with("\"@signature-params\": "));
            assert_eq!(lines.count(), 1, "{base}");
        }
    }
    received.len()
}
