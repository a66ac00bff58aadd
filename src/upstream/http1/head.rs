//! The head of a message: a request's as bytes, a response's from bytes
//! (RFC 9112 §2 to §6).

use std::mem::MaybeUninit;

use bytes::BytesMut;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::ext::ReasonPhrase;

use crate::body::Body;
use crate::http1::{self, Framing, Inbox, Incoming, announced, end_of_head, field, stays_open};

/// The most fields of a response.
const MAX_FIELDS: usize = 128;

/// The longest head of a response, in bytes.
pub(in crate::upstream) const MAX_HEAD: usize = 64 * 1024;

/// A response's head, and what it says of the rest of the connection.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) response: Response<()>,
    pub(super) body: Incoming,
    /// Whether the connection may carry another exchange after this one.
    pub(super) keep_alive: bool,
}

/// What makes a response one that cannot be relied on.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum Invalid {
    #[error("the head is longer than {MAX_HEAD} bytes")]
    HeadTooLong,
    #[error("the head is malformed: {0}")]
    Head(httparse::Error),
    #[error("the head has a field that is none")]
    Field,
    #[error(transparent)]
    Message(#[from] http1::Invalid),
    #[error("the origin switched protocols without being asked")]
    Switched,
    #[error("the origin sent too many interim responses")]
    Interim,
}

/// Writes a request's head into `out`, and says how its body is framed.
pub(super) fn write(request: &Request<Body>, out: &mut Vec<u8>) -> Framing {
    let headers = request.headers();
    let framing = framing(request);
    out.extend_from_slice(request.method().as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(
        request.uri().path_and_query().map_or("/", |path| path.as_str()).as_bytes(),
    );
    out.extend_from_slice(b" HTTP/1.1\r\n");
    for (name, value) in headers {
        // The framing is this connection's own.
        if *name != header::CONTENT_LENGTH && *name != header::TRANSFER_ENCODING {
            field(out, name.as_str(), value.as_bytes());
        }
    }
    framing.announce(out);
    out.extend_from_slice(b"\r\n");
    framing
}

/// How a request's body is sent.
fn framing(request: &Request<Body>) -> Framing {
    let body = request.body();
    if body.is_end_stream() {
        // RFC 9110 §8.6: methods that usually have a body say that it is empty.
        let says = matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH)
            || request.headers().contains_key(header::CONTENT_LENGTH);
        return if says { Framing::Length(0) } else { Framing::None };
    }
    match body.size_hint().exact() {
        Some(length) => Framing::Length(length),
        None => Framing::Chunked(announced(request.headers())),
    }
}

/// Takes the head of a response to `method` out of `inbox`; `None` while it is
/// not whole. `room` gives a map for the fields, whose memory is used again.
pub(super) fn take(
    inbox: &mut Inbox,
    method: &Method,
    room: impl FnOnce() -> HeaderMap,
) -> Result<Option<Head>, Invalid> {
    // The parser would skip empty lines, which may be what is left of the response
    // before.
    if inbox.bytes.first().is_some_and(|first| *first != b'H') {
        return Err(Invalid::Head(httparse::Error::Version));
    }
    let Some(end) = end_of_head(&inbox.bytes, &mut inbox.searched) else {
        return if inbox.bytes.len() > MAX_HEAD { Err(Invalid::HeadTooLong) } else { Ok(None) };
    };
    if end > MAX_HEAD {
        return Err(Invalid::HeadTooLong);
    }
    inbox.searched = 0;
    parse(&mut inbox.bytes, end, method, room()).map(Some)
}

fn parse(
    buffer: &mut BytesMut,
    end: usize,
    method: &Method,
    mut headers: HeaderMap,
) -> Result<Head, Invalid> {
    let head = buffer.split_to(end).freeze();
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let status = httparse::ParserConfig::default()
        .parse_response_with_uninit_headers(&mut parsed, &head, &mut fields)
        .map_err(Invalid::Head)?;
    let (httparse::Status::Complete(_), Some(code)) = (status, parsed.code) else {
        return Err(Invalid::Head(httparse::Error::Status));
    };
    let mut response = Response::new(());
    *response.status_mut() =
        StatusCode::from_u16(code).map_err(|_| Invalid::Head(httparse::Error::Status))?;
    *response.version_mut() =
        if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    let reason = parsed.reason.unwrap_or_default();
    if !reason.is_empty() && Some(reason) != response.status().canonical_reason() {
        let reason = head.slice_ref(reason.as_bytes());
        if let Ok(reason) = ReasonPhrase::try_from(reason) {
            response.extensions_mut().insert(reason);
        }
    }
    headers.clear();
    headers.reserve(parsed.headers.len());
    let (mut framed, mut connection) = (false, false);
    for field in &*parsed.headers {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Invalid::Field)?;
        let value = HeaderValue::from_maybe_shared(head.slice_ref(field.value))
            .map_err(|_| Invalid::Field)?;
        framed |= matches!(name, header::CONTENT_LENGTH | header::TRANSFER_ENCODING);
        connection |= name == header::CONNECTION;
        headers.append(name, value);
    }
    *response.headers_mut() = headers;
    let keep_alive = match connection {
        true => stays_open(response.version(), response.headers()),
        false => response.version() == Version::HTTP_11,
    };
    let body = incoming(&mut response, method, framed)?;
    let keep_alive = keep_alive && body != Incoming::UntilClose;
    Ok(Head { response, body, keep_alive })
}

/// How the body of a response to `method` is read (RFC 9112 §6.3). `framed` tells
/// whether any field says so.
fn incoming(
    response: &mut Response<()>,
    method: &Method,
    framed: bool,
) -> Result<Incoming, Invalid> {
    let said = if framed {
        one_length(response.headers_mut());
        Incoming::said(response.version(), response.headers())?
    } else {
        None
    };
    let status = response.status();
    let has_none = *method == Method::HEAD
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    Ok(if has_none { Incoming::Length(0) } else { said.unwrap_or(Incoming::UntilClose) })
}

/// Makes one of a length that a response says twice: that is no fault of the
/// client's (RFC 9110 §8.6).
fn one_length(headers: &mut HeaderMap) {
    let mut lines = headers.get_all(header::CONTENT_LENGTH).iter();
    let (Some(first), Some(second)) = (lines.next(), lines.next()) else { return };
    if first == second && lines.all(|line| line == first) {
        let first = first.clone();
        headers.insert(header::CONTENT_LENGTH, first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::Body;
    use crate::budget::Budget;

    fn head(text: &str) -> Result<Option<Head>, Invalid> {
        answer_to(&Method::GET, text)
    }

    fn answer_to(method: &Method, text: &str) -> Result<Option<Head>, Invalid> {
        let mut inbox = Inbox::new(Budget::unlimited());
        inbox.bytes.extend_from_slice(text.as_bytes());
        take(&mut inbox, method, HeaderMap::new)
    }

    #[test]
    fn a_request_is_written_with_one_framing() {
        let mut out = Vec::new();
        let request = Request::get("/x?y").header("host", "a.test").body(Body::empty()).unwrap();
        write(&request, &mut out);
        assert_eq!(out, b"GET /x?y HTTP/1.1\r\nhost: a.test\r\n\r\n");
        let written = |request: Request<Body>| {
            let mut out = Vec::new();
            write(&request, &mut out);
            String::from_utf8(out).unwrap()
        };
        let post =
            |body: Body| Request::post("/").header("content-length", "7").body(body).unwrap();
        assert_eq!(written(post(Body::empty())), "POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n");
        assert_eq!(written(post("abc".into())), "POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\n");
        let streamed = http_body_util::StreamBody::new(futures_util::stream::pending::<
            Result<http_body::Frame<bytes::Bytes>, std::convert::Infallible>,
        >());
        let chunked = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n";
        assert_eq!(written(post(Body::new(streamed))), chunked);
    }

    #[test]
    fn a_head_is_taken_once_it_is_whole_however_it_arrives() {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: b\r\n\r\nhi";
        let mut inbox = Inbox::new(Budget::unlimited());
        for (at, byte) in text.bytes().enumerate() {
            inbox.bytes.extend_from_slice(&[byte]);
            let taken = take(&mut inbox, &Method::GET, HeaderMap::new).unwrap();
            assert_eq!(taken.is_some(), at + 3 == text.len(), "{at}");
            if let Some(head) = taken {
                assert_eq!(head.body, Incoming::Length(2));
                assert_eq!(head.response.headers()["x-a"], "b");
                assert!(head.keep_alive && inbox.bytes.is_empty());
                return;
            }
        }
    }

    #[test]
    fn what_is_malformed_is_refused() {
        for text in [
            "HTTP/2.0 200 OK\r\n\r\n",
            "HTTP/1.1 2000 OK\r\n\r\n",
            "HTTP/1.1 99 OK\r\n\r\n",
            "ICY 200 OK\r\n\r\n",
            "\nHTTP/1.1 200 OK\r\n\r\n",
            "\r\nHTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX A: b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX : b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: b\r\n folded\r\n\r\n",
            "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n",
        ] {
            assert!(head(text).is_err(), "{text:?}");
        }
        let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "y".repeat(MAX_HEAD));
        assert_eq!(head(&long).unwrap_err(), Invalid::HeadTooLong);
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(MAX_FIELDS + 1));
        assert!(head(&many).is_err());
    }

    #[test]
    fn an_equal_length_said_twice_is_one() {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n";
        let head = head(text).unwrap().unwrap();
        assert_eq!(head.body, Incoming::Length(2));
        assert_eq!(head.response.headers().get_all("content-length").iter().count(), 1);
    }

    #[test]
    fn the_framing_follows_status_and_method() {
        let framing = |method: Method, status: u16, fields: &str| {
            let text = format!("HTTP/1.1 {status} X\r\n{fields}\r\n");
            answer_to(&method, &text).unwrap().unwrap().body
        };
        let length = "Content-Length: 9\r\n";
        assert_eq!(framing(Method::GET, 200, length), Incoming::Length(9));
        assert_eq!(framing(Method::HEAD, 200, length), Incoming::Length(0));
        assert_eq!(framing(Method::GET, 204, length), Incoming::Length(0));
        assert_eq!(framing(Method::GET, 304, length), Incoming::Length(0));
        assert_eq!(framing(Method::GET, 200, ""), Incoming::UntilClose);
        assert_eq!(
            framing(Method::GET, 200, "Transfer-Encoding: Chunked\r\n"),
            Incoming::chunked()
        );
    }

    #[test]
    fn a_connection_stays_open_as_its_version_and_its_fields_say() {
        let open = |line: &str, fields: &str| {
            let text = format!("{line} 200 OK\r\nContent-Length: 0\r\n{fields}\r\n");
            head(&text).unwrap().unwrap().keep_alive
        };
        assert!(open("HTTP/1.1", ""));
        assert!(!open("HTTP/1.1", "Connection: x, Close\r\n"));
        assert!(!open("HTTP/1.0", ""));
        assert!(open("HTTP/1.0", "Connection: Keep-Alive\r\n"));
        let until_close = head("HTTP/1.1 200 OK\r\n\r\n").unwrap().unwrap();
        assert!(!until_close.keep_alive);
    }

    #[test]
    fn a_reason_of_the_origins_own_is_kept() {
        let head = head("HTTP/1.1 200 Fine\r\nContent-Length: 0\r\n\r\n").unwrap().unwrap();
        let reason = head.response.extensions().get::<ReasonPhrase>().unwrap();
        assert_eq!(reason.as_bytes(), b"Fine");
    }
}
