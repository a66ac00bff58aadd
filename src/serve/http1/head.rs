//! The head of a request, from bytes (RFC 9112 §2 to §6).
//!
//! One reading or none: lines end in CRLF, the request line has single spaces,
//! and a head that another server could read differently is refused.

use std::mem::MaybeUninit;

use bytes::{Buf, Bytes};
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Uri, Version};

use super::fault::Fault;
use crate::body::Body;
use crate::context::HeadLimits;
use crate::http1::{Inbox, Incoming, Invalid, has_token, stays_open};
use crate::serve::validate::Refused;

/// As many fields are parsed on the stack.
const FEW_FIELDS: usize = 128;

/// So many fields more have room: those that are written on the way to the origin. A
/// map that grows is laid out anew.
const MORE_FIELDS: usize = 8;

/// What a head is held to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// The longest head, in bytes.
    pub(super) head: usize,
    pub(super) more: HeadLimits,
}

/// A request whose head is whole. One that was refused has the answer among its
/// extensions, and stands for what could be read of it.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) request: Request<Body>,
    /// What is to be read of its body.
    pub(super) incoming: Incoming,
    pub(super) facts: Facts,
}

/// What of a request matters for its response.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Facts {
    /// Whether the client may send another request afterwards.
    pub(super) keep_alive: bool,
    /// Whether the client waits for `100 Continue` before it sends the body.
    pub(super) expects: bool,
    /// Whether the client asked to switch protocols.
    pub(super) upgrade: bool,
    /// Whether the client takes trailer fields (RFC 9110 §10.1.4).
    pub(super) trailers: bool,
    /// Whether the response has no body whatever its fields say.
    pub(super) head: bool,
    /// Whether more may come of the request, of which nobody knows where it ends.
    pub(super) endless: bool,
    pub(super) version: Version,
}

/// Takes the next request out of `inbox`; `None` while its head is not whole.
pub(super) fn take(inbox: &mut Inbox, limits: Limits) -> Option<Head> {
    match end_of_head(inbox, limits.head) {
        Ok(None) => None,
        Ok(Some(end)) => {
            (inbox.searched, inbox.passed_over) = (0, false);
            let bytes = inbox.bytes.split_to(end).freeze();
            Some(parse(&bytes, limits.more).unwrap_or_else(|fault| refused(fault, &bytes)))
        }
        Err(fault) => Some(refuse(inbox, fault)),
    }
}

/// Gives up on the head that is being received.
pub(super) fn refuse(inbox: &mut Inbox, fault: Fault) -> Head {
    (inbox.searched, inbox.passed_over) = (0, false);
    let bytes = inbox.bytes.split().freeze();
    refused(fault, &bytes)
}

/// Where the head ends, once it is whole.
fn end_of_head(inbox: &mut Inbox, max: usize) -> Result<Option<usize>, Fault> {
    let Inbox { bytes, searched, passed_over, .. } = inbox;
    if !*passed_over && bytes.starts_with(b"\r\n") {
        // RFC 9112 §2.2: some clients end a body with a line of its own.
        bytes.advance(2);
        *passed_over = true;
    }
    match **bytes {
        [] | [b'\r'] => return Ok(None),
        // What cannot begin a method need not be waited for.
        [first, ..] if !is_token(first) => return Err(Fault::Malformed),
        _ => {}
    }
    for at in memchr::memchr_iter(b'\n', &bytes[*searched..]) {
        let at = *searched + at;
        match bytes[..at] {
            [.., b'\n', b'\r'] if at < max => return Ok(Some(at + 1)),
            [.., b'\r'] => {}
            _ => return Err(Fault::Malformed),
        }
    }
    *searched = bytes.len();
    if bytes.len() < max {
        return Ok(None);
    }
    Err(if bytes.contains(&b'\n') { Fault::TooLong } else { Fault::TargetTooLong })
}

/// RFC 9110 §5.6.2
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn parse(bytes: &Bytes, limits: HeadLimits) -> Result<Head, Fault> {
    let mut few = [const { MaybeUninit::uninit() }; FEW_FIELDS];
    match parse_into(bytes, limits, &mut few) {
        Err(Fault::TooManyFields) if limits.max_fields > FEW_FIELDS => {
            let mut many = vec![MaybeUninit::uninit(); limits.max_fields];
            parse_into(bytes, limits, &mut many)
        }
        parsed => parsed,
    }
}

fn parse_into<'a>(
    bytes: &'a Bytes,
    limits: HeadLimits,
    fields: &mut [MaybeUninit<httparse::Header<'a>>],
) -> Result<Head, Fault> {
    let mut parsed = httparse::Request::new(&mut []);
    let status = parsed.parse_with_uninit_headers(bytes, fields).map_err(|error| match error {
        httparse::Error::TooManyHeaders => Fault::TooManyFields,
        httparse::Error::Version if names_a_version(bytes) => Fault::Version,
        _ => Fault::Malformed,
    })?;
    let (httparse::Status::Complete(_), Some(method), Some(target)) =
        (status, parsed.method, parsed.path)
    else {
        return Err(Fault::Malformed);
    };
    if parsed.headers.len() > limits.max_fields {
        return Err(Fault::TooManyFields);
    }
    let mut request = Request::new(Body::empty());
    *request.method_mut() = Method::from_bytes(method.as_bytes()).map_err(|_| Fault::Malformed)?;
    *request.uri_mut() = uri(bytes, target)?;
    let version = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    *request.version_mut() = version;
    let seen = add_fields(request.headers_mut(), parsed.headers, bytes)?;
    let incoming = match seen.framed {
        true => Incoming::said(version, request.headers()).map_err(|invalid| match invalid {
            Invalid::Coding if version == Version::HTTP_11 && is_final(request.headers()) => {
                Fault::Coding
            }
            _ => Fault::Framing,
        })?,
        false => None,
    };
    let incoming = incoming.unwrap_or(Incoming::Length(0));
    let facts = Facts {
        keep_alive: match seen.connection {
            true => stays_open(version, request.headers()),
            false => version == Version::HTTP_11,
        },
        expects: seen.expect && expects(&mut request, !incoming.is_over())?,
        upgrade: seen.upgrade && version == Version::HTTP_11,
        trailers: seen.te && has_token(request.headers(), header::TE, "trailers"),
        head: *request.method() == Method::HEAD,
        endless: false,
        version,
    };
    Ok(Head { request, incoming, facts })
}

/// Whether the request line is a well-formed one of another version.
fn names_a_version(bytes: &[u8]) -> bool {
    let line = bytes.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    matches!(words[..], [_, _, version] if version.starts_with(b"HTTP/"))
}

/// Whether `chunked` is applied once, and last: then the body has an end, though
/// what it holds is not understood (RFC 9112 §6.1, §6.3).
fn is_final(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(header::TRANSFER_ENCODING).iter();
    let codings = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let codings: Vec<&[u8]> = codings.map(<[u8]>::trim_ascii).collect();
    let chunked = |coding: &&[u8]| coding.eq_ignore_ascii_case(b"chunked");
    codings.last().is_some_and(chunked) && codings.iter().filter(|c| chunked(c)).count() == 1
}

/// The target, of which `http::Uri` would let a fragment go without a word.
fn uri(bytes: &Bytes, target: &str) -> Result<Uri, Fault> {
    if target.len() >= usize::from(u16::MAX) {
        return Err(Fault::TargetTooLong);
    }
    if target.contains('#') {
        return Err(Fault::Target);
    }
    Uri::from_maybe_shared(bytes.slice_ref(target.as_bytes())).map_err(|_| Fault::Target)
}

/// Which fields there are that matter here.
#[derive(Default)]
struct Seen {
    framed: bool,
    connection: bool,
    expect: bool,
    upgrade: bool,
    te: bool,
}

fn add_fields(
    headers: &mut HeaderMap,
    fields: &[httparse::Header<'_>],
    bytes: &Bytes,
) -> Result<Seen, Fault> {
    let mut seen = Seen::default();
    headers.reserve(fields.len() + MORE_FIELDS);
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Fault::Malformed)?;
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(field.value))
            .map_err(|_| Fault::Malformed)?;
        match name {
            header::CONTENT_LENGTH | header::TRANSFER_ENCODING => seen.framed = true,
            header::CONNECTION => seen.connection = true,
            header::EXPECT => seen.expect = true,
            header::UPGRADE => seen.upgrade = true,
            header::TE => seen.te = true,
            _ => {}
        }
        headers.append(name, value);
    }
    Ok(seen)
}

/// Whether the client waits for `100 Continue` (RFC 9110 §10.1.1). An expectation
/// that means nothing is taken out.
fn expects(request: &mut Request<Body>, has_body: bool) -> Result<bool, Fault> {
    if request.version() == Version::HTTP_11 {
        let mut lines = request.headers().get_all(header::EXPECT).iter();
        if !lines.all(|line| line.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
            return Err(Fault::Expectation);
        }
        if has_body {
            return Ok(true);
        }
    }
    request.headers_mut().remove(header::EXPECT);
    Ok(false)
}

/// What stands for a request that is refused: what of its first line can be read.
fn refused(fault: Fault, bytes: &Bytes) -> Head {
    let mut request = Request::new(Body::empty());
    let line = bytes.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    let method = words.next().and_then(|word| Method::from_bytes(word).ok());
    let known = method.filter(|method| fault != Fault::Malformed || is_registered(method));
    // What is no method at all is logged as this.
    *request.method_mut() = known.or_else(|| Method::from_bytes(b"-").ok()).unwrap_or_default();
    let target = words.next().filter(|word| word.starts_with(b"/"));
    let target = target.and_then(|word| Uri::try_from(word).ok());
    *request.uri_mut() = target.unwrap_or_default();
    request.extensions_mut().insert(Refused(fault.answer()));
    let head = *request.method() == Method::HEAD;
    let version = Version::HTTP_11;
    let (upgrade, trailers, expects) = (false, false, false);
    // Whoever was too slow sends nothing at the moment.
    let endless = fault != Fault::Late;
    let facts = Facts { keep_alive: false, expects, upgrade, trailers, head, endless, version };
    Head { request, incoming: Incoming::Length(0), facts }
}

fn is_registered(method: &Method) -> bool {
    const COMMON: [Method; 7] = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::OPTIONS,
    ];
    COMMON.contains(method)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { head: 256, more: HeadLimits { max_target: 64, max_fields: 4 } };

    fn head(text: &str) -> Option<Head> {
        let mut inbox = Inbox::new(Default::default());
        inbox.bytes.extend_from_slice(text.as_bytes());
        take(&mut inbox, LIMITS)
    }

    fn status(text: &str) -> u16 {
        let head = head(text).expect(text);
        let refused = head.request.extensions().get::<Refused>();
        refused.map_or(200, |Refused(answer)| answer.status().as_u16())
    }

    #[test]
    fn one_empty_line_is_passed_over_however_it_arrives() {
        let two = "\r\n\r\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
        for text in [two, &two[2..], &two[4..]] {
            let mut inbox = Inbox::new(Default::default());
            let taken = text.bytes().find_map(|byte| {
                inbox.bytes.extend_from_slice(&[byte]);
                take(&mut inbox, LIMITS)
            });
            let refused = taken.unwrap().request.extensions().get::<Refused>().is_some();
            assert_eq!(refused, text == two);
        }
    }

    #[test]
    fn a_head_is_taken_once_it_is_whole_however_it_arrives() {
        let text = "\r\nPOST /x?y HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\nhi";
        let mut inbox = Inbox::new(Default::default());
        for (at, byte) in text.bytes().enumerate() {
            inbox.bytes.extend_from_slice(&[byte]);
            let Some(head) = take(&mut inbox, LIMITS) else { continue };
            assert_eq!(at + 3, text.len());
            assert_eq!(head.request.uri(), "/x?y");
            assert_eq!(head.request.headers()["host"], "a.test");
            assert_eq!(head.incoming, Incoming::Length(2));
            assert!(head.facts.keep_alive && !head.facts.expects && inbox.bytes.is_empty());
            return;
        }
        panic!("it was never whole");
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for text in [
            "GET / HTTP/1.1\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\n",
            "GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n",
            "\nGET / HTTP/1.1\r\n\r\n",
            "\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            " GET / HTTP/1.1\r\n\r\n",
            "GET  / HTTP/1.1\r\n\r\n",
            "GET /  HTTP/1.1\r\n\r\n",
            "GET\t/ HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1 \r\n\r\n",
            "GET /\r\n\r\n",
            "GET / HTTP/1.1\r\nX : a\r\n\r\n",
            "GET / HTTP/1.1\r\nX Y: a\r\n\r\n",
            "GET / HTTP/1.1\r\n: a\r\n\r\n",
            "GET / HTTP/1.1\r\nno colon\r\n\r\n",
            "GET / HTTP/1.1\r\n X: a\r\n\r\n",
            "GET / HTTP/1.1\r\nX: a\r\n b\r\n\r\n",
            "GET / HTTP/1.1\r\nX: a\0b\r\n\r\n",
            "GET /a#b HTTP/1.1\r\n\r\n",
            "GET /a\x01 HTTP/1.1\r\n\r\n",
            "G@T / HTTP/1.1\r\n\r\n",
            "\x16\x03\x01\x02",
            "POST / HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 2, 2\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: +2\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length:\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            assert_eq!(status(text), 400, "{text:?}");
        }
        for (coding, expected) in [
            ("gzip, chunked", 501),
            ("gzip", 400),
            ("chunked, gzip", 400),
            ("chunked, chunked", 400),
            ("xchunked", 400),
            ("\"chunked\"", 400),
            ("chunked,", 400),
            ("", 400),
        ] {
            let text = format!("POST / HTTP/1.1\r\nTransfer-Encoding: {coding}\r\n\r\n");
            assert_eq!(status(&text), expected, "{coding:?}");
        }
        for version in ["HTTP/1.2", "HTTP/2.0", "HTTP/0.9", "HTTP/3"] {
            assert_eq!(status(&format!("GET / {version}\r\n\r\n")), 505, "{version}");
        }
        assert_eq!(status("GET / HTTP/1.1\r\nExpect: x\r\n\r\n"), 417);
    }

    #[test]
    fn what_is_too_long_is_refused_before_it_is_whole() {
        let long = "y".repeat(256);
        assert_eq!(status(&format!("GET /{long}")), 414);
        assert_eq!(status(&format!("GET / HTTP/1.1\r\nX: {long}")), 431);
        assert_eq!(status(&format!("GET / HTTP/1.1\r\nX: {long}\r\n\r\n")), 431);
        assert_eq!(status(&format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(5))), 431);
        assert_eq!(status(&format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(4))), 200);
    }

    #[test]
    fn more_fields_than_the_stack_has_room_for_are_taken_where_they_may_be() {
        let text = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(FEW_FIELDS + 1));
        let mut inbox = Inbox::new(Default::default());
        inbox.bytes.extend_from_slice(text.as_bytes());
        let more = HeadLimits { max_target: 64, max_fields: FEW_FIELDS + 1 };
        let head = take(&mut inbox, Limits { head: 4096, more }).unwrap();
        assert_eq!(head.request.headers().get_all("x").iter().count(), FEW_FIELDS + 1);
    }

    #[test]
    fn a_request_that_is_refused_is_known_by_what_could_be_read() {
        let known = head("POST /a HTTP/1.1\r\nX : y\r\n\r\n").unwrap().request;
        assert_eq!((known.method(), known.uri().path()), (&Method::POST, "/a"));
        let unknown = head("G@T /a HTTP/1.1\r\n\r\n").unwrap().request;
        assert_eq!(unknown.method().as_str(), "-");
    }

    #[test]
    fn an_expectation_is_one_of_a_body() {
        let expects = |text: &str| {
            let head = head(text).unwrap();
            (head.facts.expects, head.request.headers().contains_key(header::EXPECT))
        };
        let expect = "Expect: 100-Continue\r\n";
        let post = |version: &str, length: &str| {
            format!("POST / HTTP/{version}\r\n{expect}Content-Length: {length}\r\n\r\n")
        };
        assert_eq!(expects(&post("1.1", "2")), (true, true));
        assert_eq!(expects(&post("1.1", "0")), (false, false));
        assert_eq!(expects(&post("1.0", "2")), (false, false));
    }
}
