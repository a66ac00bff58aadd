//! Whether a request of HTTP/2 is one that HTTP/1.1 could have said (RFC 9113
//! §8.2.1, §8.3.1). h2 has refused most that is not: control characters, names in
//! capitals, fields of the connection, pseudo-header fields that lack, repeat or
//! come late, and bodies of another length than announced.

use http::header::{self, HeaderName, HeaderValue};
use http::uri::{PathAndQuery, Scheme};
use http::{Method, Request};

/// What is wrong with a request, as a code and a sentence.
pub(in crate::serve) fn check<B>(request: &Request<B>) -> Result<(), (&'static str, &'static str)> {
    let uri = request.uri();
    if *request.method() != Method::CONNECT {
        if !uri.path_and_query().is_some_and(is_target) {
            return Err(("target_invalid", "The request target is not a path."));
        }
    }
    if uri.scheme().is_some_and(|scheme| ![Scheme::HTTP, Scheme::HTTPS].contains(scheme)) {
        return Err(("target_invalid", "The scheme is neither `http` nor `https`."));
    }
    if uri.authority().is_none() && !request.headers().contains_key(header::HOST) {
        return Err(("host_missing", "The request needs an `:authority` or a `Host`."));
    }
    if request.headers().iter().any(|(name, value)| !is_name(name) || !is_trimmed(value)) {
        return Err((
            "field_invalid",
            "A field's name is none, or its value begins or ends in space.",
        ));
    }
    Ok(())
}

/// Whether this is a path, or `*`: `?query` alone is one to the parser, and what
/// was not there at all is written `/`, though it is not the same.
fn is_target(target: &PathAndQuery) -> bool {
    match target.as_str() {
        "/" => *target == PathAndQuery::from_static("/"),
        other => other.starts_with('/') || other == "*",
    }
}

/// Whether this is a token (RFC 9110 §5.6.2): the `http` crate takes a quote.
fn is_name(name: &HeaderName) -> bool {
    memchr::memchr(b'"', name.as_str().as_bytes()).is_none()
}

fn is_trimmed(value: &HeaderValue) -> bool {
    let space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let value = value.as_bytes();
    !value.first().is_some_and(space) && !value.last().is_some_and(space)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Uri;
    use http::uri::Parts;

    fn code(uri: &str, name: &str, value: &str) -> Option<&'static str> {
        // As h2 makes it.
        let name = HeaderName::from_lowercase(name.as_bytes()).unwrap();
        let request = Request::get(uri).header(name, value).body(()).unwrap();
        check(&request).err().map(|(code, _)| code)
    }

    #[test]
    fn what_http_1_could_not_have_said_is_refused() {
        assert_eq!(code("http://a.test/", "x", "a b"), None);
        assert_eq!(code("http://a.test/", "x", ""), None);
        assert_eq!(code("/", "host", "a.test"), None);
        assert_eq!(code("*", "host", "a.test"), None);
        for value in [" a", "a ", "\ta", "a\t", " "] {
            assert_eq!(code("http://a.test/", "x", value), Some("field_invalid"), "{value:?}");
        }
        assert_eq!(code("http://a.test/", "x\"", "a"), Some("field_invalid"));
        assert_eq!(code("ftp://a.test/", "x", "a"), Some("target_invalid"));
        assert_eq!(code("/", "x", "a"), Some("host_missing"));
        let mut request = Request::new(());
        *request.uri_mut() = PathAndQuery::from_static("?a").into();
        request.headers_mut().insert(header::HOST, HeaderValue::from_static("a.test"));
        assert_eq!(check(&request).unwrap_err().0, "target_invalid");
        *request.uri_mut() = Uri::from_parts(Parts::default()).unwrap();
        assert_eq!(check(&request).unwrap_err().0, "target_invalid");
    }
}
