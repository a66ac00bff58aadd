//! Refuses what no origin should see.
//!
//! The request has been parsed; this looks at what a parser does not judge:
//! whether host, target and framing mean one thing only.
//!
//! **Path policy.** Routes match, and origins are asked for, the path as it was
//! sent. So that both read it alike, a path is refused (400) if it has a dot
//! segment (`.` or `..`, plain or percent-encoded), a backslash, plain or
//! encoded, an encoded NUL, or an overlong encoding of UTF-8. Clients normalise
//! these before sending. Double slashes, `%2F` and other escapes are passed on
//! as they are: they are legal, and mean something to some origins; the router
//! refuses them where they would lead past a route.
//!
//! **What stands before this.** Over HTTP/1.1 a head that could be read in two
//! ways has been refused by then, and the body is framed anew towards the
//! origin. What a request is to be answered with that could not be read comes
//! along as [`Refused`]. An embedder's server may be more lenient: so framing and
//! host are looked at here as well.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::uri::Authority;
use http::{Method, Request, Response, StatusCode, Version};
use tower::{Layer, Service};

use crate::context::{Downstream, Exchange, HeadLimits};
use crate::layers::ShortCircuit;
use crate::respond::{Answer, Format};

/// What a request that could not be read is answered with: it is among the
/// extensions of one that stands for it, so that it is logged and counted as any.
#[derive(Clone, Debug)]
pub(super) struct Refused(pub(super) Answer);

/// Puts [`Validate`] before a service.
#[derive(Clone, Copy, Debug, Default)]
pub struct ValidateLayer;

/// Refuses requests that could mean two things.
#[derive(Clone, Debug)]
pub struct Validate<S> {
    inner: S,
}

impl<S> Layer<S> for ValidateLayer {
    type Service = Validate<S>;

    fn layer(&self, inner: S) -> Validate<S> {
        Validate { inner }
    }
}

impl<S, B, ResB> Service<Request<B>> for Validate<S>
where
    S: Service<Request<B>, Response = Response<ResB>>,
    ResB: From<Bytes>,
{
    type Response = Response<ResB>;
    type Error = S::Error;
    type Future = ShortCircuit<S::Future, ResB>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let limits = request.extensions().get::<Arc<Downstream>>().map(|d| d.limits);
        let refused = request.extensions_mut().remove::<Refused>();
        let checked = match refused {
            Some(Refused(answer)) => Err(answer),
            None => check(&mut request, limits.unwrap_or_default()),
        };
        match checked {
            Ok(()) => ShortCircuit::forwarded(self.inner.call(request)),
            Err(answer) => {
                if let Some(exchange) = request.extensions().get::<Exchange>() {
                    exchange.update(|record| record.rejection = Some(answer.code()));
                }
                ShortCircuit::rejected(answer.render(Format::preferred(request.headers())))
            }
        }
    }
}

fn refuse(status: StatusCode, code: &'static str, detail: &'static str) -> Answer {
    Answer::new(status, code, detail).proxy_error("http_request_error")
}

fn malformed(code: &'static str, detail: &'static str) -> Answer {
    refuse(StatusCode::BAD_REQUEST, code, detail).close()
}

fn check<B>(request: &mut Request<B>, limits: HeadLimits) -> Result<(), Answer> {
    let exchange = request.extensions().get::<Exchange>();
    let fields =
        exchange.map_or_else(|| request.headers().len(), |exchange| exchange.request().fields);
    if fields > limits.max_fields {
        // Over HTTP/1.1 the parser has counted already.
        let (status, code) = (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "too_many_fields");
        return Err(refuse(status, code, "The request has too many fields."));
    }
    method(request.method())?;
    target(request, limits.max_target)?;
    framing(request)?;
    host(request)
}

fn method(method: &Method) -> Result<(), Answer> {
    if matches!(*method, Method::CONNECT | Method::TRACE) {
        let allow = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
        let code = "method_refused";
        return Err(refuse(StatusCode::METHOD_NOT_ALLOWED, code, "This method is not served.")
            .header(header::ALLOW, allow));
    }
    Ok(())
}

fn target<B>(request: &Request<B>, max_target: usize) -> Result<(), Answer> {
    let uri = request.uri();
    let length = uri.path_and_query().map_or(0, |target| target.as_str().len());
    if length > max_target {
        let code = "target_too_long";
        return Err(refuse(StatusCode::URI_TOO_LONG, code, "The request target is too long."));
    }
    let path = uri.path();
    if path == "*" {
        return if *request.method() == Method::OPTIONS {
            Ok(())
        } else {
            Err(malformed("target_invalid", "Only OPTIONS may ask for `*`."))
        };
    }
    if !path.is_empty() && !path.starts_with('/') {
        return Err(malformed("target_invalid", "The request target is not a path."));
    }
    if is_ambiguous(path) {
        let detail = "The path has a dot segment, a backslash or a NUL.";
        return Err(refuse(StatusCode::BAD_REQUEST, "path_ambiguous", detail));
    }
    Ok(())
}

/// Whether a path may be read differently by different servers.
fn is_ambiguous(path: &str) -> bool {
    if !path.bytes().any(|byte| matches!(byte, b'.' | b'%' | b'\\')) {
        return false;
    }
    let lower = path.to_ascii_lowercase();
    let dots = lower.replace("%2e", ".").replace("%2f", "/");
    lower.contains('\\')
        || lower.contains("%5c")
        || lower.contains("%00")
        || is_overlong(&lower)
        || dots.split('/').any(|segment| {
            // `..;` is a dot segment to servers that know path parameters.
            matches!(segment.split(';').next(), Some("." | ".."))
        })
}

/// Whether a path in lower case has an escape that no encoder of UTF-8 makes,
/// but some decoders take for a plain character (RFC 3629 §10).
fn is_overlong(lower: &str) -> bool {
    let continued = |rest: &str, from: u8, to: u8| {
        let byte =
            rest.strip_prefix('%').and_then(|hex| u8::from_str_radix(hex.get(..2)?, 16).ok());
        byte.is_some_and(|byte| (from..=to).contains(&byte))
    };
    lower.match_indices('%').any(|(at, _)| {
        let rest = lower.get(at + 3..).unwrap_or_default();
        match lower.get(at + 1..at + 3) {
            Some("c0" | "c1") => continued(rest, 0x80, 0xbf),
            Some("e0") => continued(rest, 0x80, 0x9f),
            Some("f0") => continued(rest, 0x80, 0x8f),
            _ => false,
        }
    })
}

fn framing<B>(request: &Request<B>) -> Result<(), Answer> {
    let headers = request.headers();
    // Most requests have neither, which one walk past their names tells.
    let framed =
        |name: &HeaderName| *name == header::TRANSFER_ENCODING || *name == header::CONTENT_LENGTH;
    if !headers.keys().any(framed) {
        return Ok(());
    }
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        if request.version() != Version::HTTP_11 {
            return Err(malformed(
                "framing_invalid",
                "`Transfer-Encoding` belongs to HTTP/1.1 only.",
            ));
        }
        if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
            let detail = "The only transfer coding that is understood is `chunked`.";
            return Err(refuse(StatusCode::NOT_IMPLEMENTED, "framing_invalid", detail).close());
        }
        if headers.contains_key(header::CONTENT_LENGTH) {
            let detail = "`Content-Length` and `Transfer-Encoding` exclude each other.";
            return Err(malformed("framing_invalid", detail));
        }
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    if let Some(length) = lengths.next() {
        let digits = !length.is_empty() && length.as_bytes().iter().all(u8::is_ascii_digit);
        if lengths.next().is_some() || !digits {
            return Err(malformed("framing_invalid", "`Content-Length` is not one number."));
        }
    }
    Ok(())
}

/// RFC 9112 §3.2: one `Host`, valid, and the same as the target's authority.
fn host<B>(request: &mut Request<B>) -> Result<(), Answer> {
    let authority = request.uri().authority().cloned();
    if authority.as_ref().is_some_and(|authority| !is_host(authority.as_str())) {
        return Err(malformed("host_invalid", "The target's authority is not a host."));
    }
    let version = request.version();
    let mut lines = request.headers().get_all(header::HOST).iter();
    let host = match (lines.next(), lines.next()) {
        (Some(host), None) => host,
        (Some(_), Some(_)) => {
            return Err(malformed("host_invalid", "There is more than one `Host`."));
        }
        (None, _) if version == Version::HTTP_11 => {
            return Err(malformed("host_missing", "An HTTP/1.1 request needs a `Host`."));
        }
        (None, _) => return Ok(()),
    };
    let Some(host) = host.to_str().ok().filter(|host| is_host(host)) else {
        return Err(malformed("host_invalid", "`Host` is not a host and optional port."));
    };
    let Some(authority) = authority else { return Ok(()) };
    if host.eq_ignore_ascii_case(authority.as_str()) {
        return Ok(());
    }
    if matches!(version, Version::HTTP_2 | Version::HTTP_3) {
        // RFC 9113 §8.3.1
        return Err(malformed("host_invalid", "`Host` and `:authority` differ."));
    }
    // RFC 9112 §3.2.2: an absolute target overrules `Host`.
    if let Ok(host) = HeaderValue::from_str(authority.as_str()) {
        request.headers_mut().insert(header::HOST, host);
    }
    Ok(())
}

/// Whether `host` is a host with an optional port, and nothing else.
fn is_host(host: &str) -> bool {
    is_plain_host(host.as_bytes()) || is_unusual_host(host)
}

/// Whether `host` is a name with or without a port, as most are.
fn is_plain_host(host: &[u8]) -> bool {
    let in_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let name = host.iter().take_while(|byte| in_name(byte)).count();
    match &host[name..] {
        [] => name > 0,
        [b':', port @ ..] => name > 0 && is_port(port),
        _ => false,
    }
}

/// Whether `port` is empty or a number that a port can have.
fn is_port(port: &[u8]) -> bool {
    let mut number = 0_u32;
    port.len() <= 5
        && port.iter().all(|digit| {
            number = number * 10 + u32::from(digit.wrapping_sub(b'0'));
            digit.is_ascii_digit()
        })
        && number <= u32::from(u16::MAX)
}

fn is_unusual_host(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host();
    let port = &authority.as_str()[name.len().min(authority.as_str().len())..];
    let port_fits = match port.strip_prefix(':') {
        Some(digits) => digits.is_empty() || digits.parse::<u16>().is_ok(),
        None => port.is_empty(),
    };
    !host.contains(['@', ','])
        && !name.is_empty()
        && port_fits
        && name.bytes().all(|byte| {
            byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b':' | b'[' | b']')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &str, fields: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::get(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    fn status(uri: &str, fields: &[(&str, &str)]) -> u16 {
        match check(&mut request(uri, fields), LIMITS) {
            Ok(()) => 200,
            Err(answer) => answer.status().as_u16(),
        }
    }

    const LIMITS: HeadLimits = HeadLimits { max_target: 1024, max_fields: 3 };
    const HOST: (&str, &str) = ("host", "a.test");

    #[test]
    fn one_valid_host_is_asked_for() {
        assert_eq!(status("/", &[HOST]), 200);
        for host in ["[::1]:80", "a.test:65535", "a.test:", "127.0.0.1:80", "x_y-z.test"] {
            assert_eq!(status("/", &[("host", host)]), 200, "{host:?}");
        }
        assert_eq!(status("/", &[]), 400);
        assert_eq!(status("/", &[HOST, HOST]), 400);
        for host in [
            "", "a@b", "a/b", "a,b", "a:x", "a:99999", "a:65536", "a:123456", ":80", "a:8a", "a b",
            "a:80:80", "a\\b",
        ] {
            assert_eq!(status("/", &[("host", host)]), 400, "{host:?}");
        }
        let mut old = request("/", &[]);
        *old.version_mut() = Version::HTTP_10;
        assert!(check(&mut old, LIMITS).is_ok());
    }

    #[test]
    fn an_absolute_target_overrules_host_in_http_1_and_must_agree_in_http_2() {
        let mut absolute = request("http://b.test/", &[HOST]);
        assert!(check(&mut absolute, LIMITS).is_ok());
        assert_eq!(absolute.headers()[header::HOST], "b.test");
        let mut h2 = request("http://b.test/", &[HOST]);
        *h2.version_mut() = Version::HTTP_2;
        assert!(check(&mut h2, LIMITS).is_err());
        assert_eq!(status("http://user@b.test/", &[HOST]), 400);
    }

    #[test]
    fn framing_must_mean_one_thing() {
        assert_eq!(status("/", &[HOST, ("transfer-encoding", "chunked")]), 200);
        assert_eq!(status("/", &[HOST, ("transfer-encoding", "gzip, chunked")]), 501);
        let chunked = ("transfer-encoding", "chunked");
        assert_eq!(status("/", &[HOST, chunked, chunked]), 501);
        assert_eq!(status("/", &[HOST, chunked, ("content-length", "3")]), 400);
        for length in ["", "+3", "-1", "0x3", "3,3", "3 3", "1_0"] {
            assert_eq!(status("/", &[HOST, ("content-length", length)]), 400, "{length:?}");
        }
        let three = ("content-length", "3");
        assert_eq!(status("/", &[HOST, three, three]), 400);
    }

    #[test]
    fn a_path_that_could_be_read_two_ways_is_refused() {
        for path in [
            "/a/../b",
            "/a/%2e%2E/b",
            "/./a",
            "/a/.%2e",
            "/..;/a",
            "/a%00b",
            "/a%5cb",
            "/a%2f..%2fb",
            "/a/..%2Fb",
            "/a%c0%afb",
            "/%e0%80%af",
            "/%F0%80%80%AF",
        ] {
            assert_eq!(status(path, &[HOST]), 400, "{path}");
        }
        for path in [
            "/a//b",
            "/a%2fb",
            "/.well-known/x",
            "/a...b/..c",
            "/a?x=../y",
            "/%252e",
            "/caf%C3%A9",
            "/caf%E9",
            "/%e0%a4%85",
            "/%c0",
        ] {
            assert_eq!(status(path, &[HOST]), 200, "{path}");
        }
    }

    #[test]
    fn methods_and_targets_that_are_not_served_are_refused() {
        let with = |method: Method, uri: &str| {
            let mut request = request(uri, &[HOST]);
            *request.method_mut() = method;
            check(&mut request, LIMITS).err().map_or(200, |answer| answer.status().as_u16())
        };
        assert_eq!(with(Method::TRACE, "/"), 405);
        assert_eq!(with(Method::CONNECT, "a.test:443"), 405);
        assert_eq!(with(Method::OPTIONS, "*"), 200);
        assert_eq!(with(Method::GET, "*"), 400);
        assert_eq!(status(&format!("/{}", "x".repeat(1024)), &[HOST]), 414);
        let field = ("x", "y");
        assert_eq!(status("/", &[HOST, field, field]), 200);
        assert_eq!(status("/", &[HOST, field, field, field]), 431);
    }
}
