//! Names that some origins read as the same.
//!
//! Whatever hands fields to a program as variables (CGI, WSGI, Rack, PHP) writes
//! `X_Client`, `X.Client` and `X~Client` like `X-Client`. Whoever may not send the
//! one may not send the others either.

use http::HeaderMap;
use http::header::{self, HeaderName, HeaderValue};

/// A character of a field's name as the freest reader has it.
fn plain(byte: u8) -> u8 {
    if byte.is_ascii_alphanumeric() { byte } else { b'-' }
}

/// Whether an origin may read both names, in lower case, as one.
pub(crate) fn are_twins(one: &str, other: &str) -> bool {
    one.len() == other.len() && begins_like(one, other)
}

/// Whether an origin may read a name, in lower case, as one that begins so.
pub(crate) fn begins_like(name: &str, start: &str) -> bool {
    let (name, start) = (name.as_bytes(), start.as_bytes());
    name.len() >= start.len() && name.iter().zip(start).all(|(a, b)| plain(*a) == plain(*b))
}

/// Takes a field out, with its twins, and with any of them that is announced for
/// the trailer section (RFC 9110 §6.6.2): what is not announced is not forwarded.
pub(super) fn remove_twins(headers: &mut HeaderMap, field: &HeaderName) {
    remove(headers, |name| are_twins(name, field.as_str()));
}

/// Takes the fields out whose name, in lower case, is one of those.
pub(super) fn remove(headers: &mut HeaderMap, is_one: impl Fn(&str) -> bool) {
    // Most requests have none, which one walk past their names tells.
    let (mut any, mut trailer) = (false, false);
    for name in headers.keys() {
        any |= is_one(name.as_str());
        trailer |= *name == header::TRAILER;
    }
    if any {
        let found: Vec<HeaderName> =
            headers.keys().filter(|name| is_one(name.as_str())).cloned().collect();
        for name in found {
            headers.remove(name);
        }
    }
    if trailer {
        let lines = headers.get_all(header::TRAILER).iter().map(HeaderValue::as_bytes);
        let names: Vec<HeaderName> = lines
            .flat_map(|line| line.split(|byte| *byte == b','))
            .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
            .collect();
        if names.iter().any(|name| is_one(name.as_str())) {
            headers.remove(header::TRAILER);
            for name in names.into_iter().filter(|name| !is_one(name.as_str())) {
                headers.append(header::TRAILER, HeaderValue::from(name));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_goes_with_its_twins_and_nothing_else_does() {
        let mut headers = HeaderMap::new();
        for name in ["x-client", "x_client", "x.client", "x~client", "x-client-id", "xclient"] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static("root"));
        }
        remove_twins(&mut headers, &HeaderName::from_static("x-client"));
        assert_eq!(headers.len(), 2, "{headers:?}");
        assert!(headers.contains_key("x-client-id") && headers.contains_key("xclient"));
    }

    #[test]
    fn nor_may_it_be_announced_for_the_trailers() {
        let mut headers = HeaderMap::new();
        headers.append(header::TRAILER, HeaderValue::from_static("X-Sum, X_Client"));
        headers.append(header::TRAILER, HeaderValue::from_static("x-client"));
        remove_twins(&mut headers, &HeaderName::from_static("x-client"));
        let left: Vec<_> = headers.get_all(header::TRAILER).iter().collect();
        assert_eq!(left, ["x-sum"]);
    }
}
