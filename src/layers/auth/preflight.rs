//! What a browser asks before it lets a script ask for something elsewhere (CORS): it never
//! sends credentials with that, so whoever wants it answered lets it through without.

use http::header::{self, HeaderName};
use http::request::Parts;
use http::{HeaderMap, Method};

use crate::layers::methods::OVERRIDES;
use crate::layers::twins::{are_twins, remove};

/// Whether a request is a preflight, and nothing more than one: without a body, and not one
/// that would switch protocols.
pub(super) fn is_preflight<B: http_body::Body>(parts: &Parts, body: &B) -> bool {
    parts.method == Method::OPTIONS
        && parts.headers.contains_key(header::ORIGIN)
        && parts.headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
        && !parts.headers.contains_key(header::UPGRADE)
        && body.is_end_stream()
}

/// Takes out what an origin may take a request for more by than what may be asked for: every
/// credential, and other methods.
pub(super) fn disarm<'a>(
    headers: &mut HeaderMap,
    credentials: impl Iterator<Item = &'a HeaderName>,
) {
    const USUAL: [&str; 5] =
        ["authorization", "cookie", "proxy-authorization", "signature", "signature-input"];
    let names = credentials.map(HeaderName::as_str).chain(USUAL);
    let names: Vec<&str> = names.chain(OVERRIDES).collect();
    remove(headers, |name| names.iter().any(|one| are_twins(name, one)));
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::Request;
    use http_body_util::Full;

    use super::*;

    fn is(request: http::request::Builder, body: &'static str) -> bool {
        let body: Full<Bytes> = Full::from(body);
        let (parts, body) = request.body(body).unwrap().into_parts();
        is_preflight(&parts, &body)
    }

    #[test]
    fn what_is_more_than_a_preflight_is_none() {
        let asking = |method: &str| Request::builder().method(method).uri("/");
        let from = |method: &str| asking(method).header("origin", "https://app.test");
        let preflight = || from("OPTIONS").header("access-control-request-method", "PUT");
        assert!(is(preflight(), ""));
        assert!(!is(preflight(), "words"));
        assert!(!is(preflight().header("upgrade", "websocket"), ""));
        assert!(!is(from("OPTIONS"), ""));
        assert!(!is(asking("OPTIONS").header("access-control-request-method", "PUT"), ""));
        assert!(!is(from("GET").header("access-control-request-method", "PUT"), ""));
    }

    #[test]
    fn it_is_let_through_with_nothing_that_makes_more_of_it() {
        let mut headers = HeaderMap::new();
        let sent = [
            "authorization",
            "cookie",
            "x-api-key",
            "x_api_key",
            "x-http-method-override",
            "x_http_method",
            "origin",
            "access-control-request-method",
        ];
        for name in sent {
            headers.insert(HeaderName::from_static(name), "x".parse().unwrap());
        }
        disarm(&mut headers, [HeaderName::from_static("x-api-key")].iter());
        assert_eq!(headers.len(), 2, "{headers:?}");
        assert!(headers.contains_key("origin"));
    }
}
