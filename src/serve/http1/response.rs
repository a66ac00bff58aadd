//! The head of a response, as bytes (RFC 9112 §4 to §6).

use std::cell::RefCell;
use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use http::header::{self, HeaderName};
use http::{HeaderMap, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::ext::ReasonPhrase;

use super::head::Facts;
use crate::body::Body;
use crate::http1::{Framing, announced, field, has_token};
use crate::serve::has_no_body;

/// Tells a client to send the body that it holds back.
pub(super) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Writes the head of `response` to a request of which `facts` are known, and
/// says how its body is framed. `close` announces the end of the connection.
pub(super) fn write(
    response: &Response<Body>,
    facts: Facts,
    close: bool,
    out: &mut Vec<u8>,
) -> Framing {
    let framing = framing(response, facts);
    status_line(response, out);
    let headers = response.headers();
    let mut dated = false;
    for (name, value) in headers {
        if is_ours(name) {
            continue;
        }
        dated |= *name == header::DATE;
        field(out, name.as_str(), value.as_bytes());
    }
    if !dated {
        date(out);
    }
    let status = response.status();
    match &framing {
        // What a body would have been like may be said without one, but not where
        // there never is any (RFC 9110 §8.6).
        Framing::None if status != StatusCode::NO_CONTENT => {
            let length = headers.get(header::CONTENT_LENGTH).map(http::HeaderValue::as_bytes);
            let size = || response.body().size_hint().exact().filter(|size| *size > 0);
            match (length, size()) {
                (Some(length), _) => field(out, "content-length", length),
                (None, Some(size)) if status != StatusCode::NOT_MODIFIED => {
                    Framing::Length(size).announce(out);
                }
                (None, _) => {}
            }
        }
        framing => framing.announce(out),
    }
    let close = close || matches!(framing, Framing::UntilClose);
    if close {
        field(out, "connection", b"close");
    } else if facts.version == Version::HTTP_10 {
        field(out, "connection", b"keep-alive");
    }
    out.extend_from_slice(b"\r\n");
    framing
}

/// Writes an interim response (RFC 9110 §15.2), or one that switches protocols.
pub(super) fn write_interim<B>(response: &Response<B>, out: &mut Vec<u8>) {
    status_line(response, out);
    let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    for (name, value) in response.headers() {
        let of_the_connection = is_ours(name) || is_hop_by_hop(name);
        if !of_the_connection || (switches && is_switch(name)) {
            field(out, name.as_str(), value.as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n");
}

fn status_line<B>(response: &Response<B>, out: &mut Vec<u8>) {
    let status = response.status();
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    match response.extensions().get::<ReasonPhrase>() {
        Some(reason) => out.extend_from_slice(reason.as_bytes()),
        None => {
            out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n");
}

fn framing(response: &Response<Body>, facts: Facts) -> Framing {
    if has_no_body(response.status(), facts.head) {
        return Framing::None;
    }
    let body = response.body();
    if body.is_end_stream() {
        return Framing::Length(0);
    }
    let said = || {
        let length = response.headers().get(header::CONTENT_LENGTH)?;
        length.to_str().ok()?.parse().ok()
    };
    match body.size_hint().exact().or_else(said) {
        Some(length) => Framing::Length(length),
        None if facts.version == Version::HTTP_10 => Framing::UntilClose,
        None if facts.trailers => Framing::Chunked(announced(response.headers())),
        None => Framing::Chunked(Vec::new()),
    }
}

/// Fields that are this connection's own.
fn is_ours(name: &HeaderName) -> bool {
    matches!(*name, header::CONNECTION | header::CONTENT_LENGTH | header::TRANSFER_ENCODING)
}

fn is_switch(name: &HeaderName) -> bool {
    matches!(*name, header::CONNECTION | header::UPGRADE)
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        *name,
        header::PROXY_AUTHENTICATE
            | header::PROXY_AUTHORIZATION
            | header::TE
            | header::TRAILER
            | header::UPGRADE
    ) || matches!(name.as_str(), "keep-alive" | "proxy-connection")
}

/// Whether a response asks for the connection to end.
pub(super) fn asks_to_close(headers: &HeaderMap) -> bool {
    has_token(headers, header::CONNECTION, "close")
}

/// Writes `Date` (RFC 9110 §6.6.1), which is the same for a whole second.
fn date(out: &mut Vec<u8>) {
    thread_local! {
        static LAST: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
    }
    let now = SystemTime::now();
    let second = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    LAST.with_borrow_mut(|(last, text)| {
        if *last != second || text.is_empty() {
            *last = second;
            text.clear();
            // Writing to a string does not fail.
            let _ = write!(text, "{}", httpdate::HttpDate::from(now));
        }
        field(out, "date", text.as_bytes());
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    const FACTS: Facts = Facts {
        keep_alive: true,
        expects: false,
        upgrade: false,
        trailers: false,
        head: false,
        endless: false,
        version: Version::HTTP_11,
    };

    /// The head without its date.
    fn written(response: &Response<Body>, facts: Facts, close: bool) -> String {
        let mut out = Vec::new();
        write(response, facts, close, &mut out);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.matches("\r\ndate: ").count(), 1, "{text}");
        text.lines().filter(|line| !line.starts_with("date: ")).collect::<Vec<_>>().join("|")
    }

    fn streamed() -> Body {
        let pending = futures_util::stream::pending::<
            Result<http_body::Frame<bytes::Bytes>, std::convert::Infallible>,
        >();
        Body::new(http_body_util::StreamBody::new(pending))
    }

    #[test]
    fn a_response_is_framed_as_its_body_is_known() {
        let full = Response::new(Body::from("abc"));
        assert_eq!(written(&full, FACTS, false), "HTTP/1.1 200 OK|content-length: 3|");
        let empty = Response::new(Body::empty());
        assert_eq!(written(&empty, FACTS, false), "HTTP/1.1 200 OK|content-length: 0|");
        let some = Response::new(streamed());
        assert_eq!(written(&some, FACTS, false), "HTTP/1.1 200 OK|transfer-encoding: chunked|");
        let old = Facts { version: Version::HTTP_10, ..FACTS };
        assert_eq!(written(&some, old, false), "HTTP/1.1 200 OK|connection: close|");
        let kept = "HTTP/1.1 200 OK|content-length: 3|connection: keep-alive|";
        assert_eq!(written(&full, old, false), kept);
        let closed = "HTTP/1.1 200 OK|content-length: 3|connection: close|";
        assert_eq!(written(&full, FACTS, true), closed);
    }

    #[test]
    fn what_has_no_body_is_not_said_to_have_one() {
        let mut none = Response::new(Body::empty());
        for (status, head, line) in [
            (204, false, "HTTP/1.1 204 No Content|"),
            (304, false, "HTTP/1.1 304 Not Modified|content-length: 9|"),
            (200, true, "HTTP/1.1 200 OK|content-length: 9|"),
            (204, true, "HTTP/1.1 204 No Content|"),
        ] {
            *none.status_mut() = StatusCode::from_u16(status).unwrap();
            none.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("9"));
            assert_eq!(written(&none, Facts { head, ..FACTS }, false), line);
        }
    }

    #[test]
    fn framing_and_connection_are_never_the_origins() {
        let mut response = Response::new(Body::from("abc"));
        for (name, value) in [
            (header::CONNECTION, "x-a"),
            (header::TRANSFER_ENCODING, "gzip"),
            (header::CONTENT_LENGTH, "7"),
        ] {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        assert_eq!(written(&response, FACTS, false), "HTTP/1.1 200 OK|content-length: 3|");
    }

    #[test]
    fn an_interim_response_leaves_out_what_concerns_a_connection() {
        let mut hints = Response::new(());
        *hints.status_mut() = StatusCode::from_u16(103).unwrap();
        for (name, value) in [
            (header::LINK, "</a.css>; rel=preload"),
            (header::CONNECTION, "upgrade"),
            (header::UPGRADE, "x"),
            (header::CONTENT_LENGTH, "5"),
        ] {
            hints.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        let mut out = Vec::new();
        write_interim(&hints, &mut out);
        let expected = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
