//! The head of a request: the same however it arrives, and what is taken is what
//! a strict reader has, before and after it is written for an origin.
#![no_main]

use http::Version;
use libfuzzer_sys::fuzz_target;
use tollgate::body::Body;
use tollgate::context::HeadLimits;
use tollgate::fuzz::{Framed, request_head, write_request};
use tollgate_fuzz::strict::{self, Framing};
use tollgate_fuzz::{however_cut, pairs, sorted};

const LIMITS: HeadLimits = HeadLimits { max_target: 512, max_fields: 16 };

fuzz_target!(|bytes: &[u8]| {
    let [whole, single, two] = however_cut(bytes, |pieces| request_head(pieces, 2048, LIMITS));
    for other in [&single, &two] {
        // What is wrong may be noticed earlier, and as something else.
        let refused = |head: &Option<tollgate::fuzz::RequestHead>| {
            head.as_ref().map(|head| head.refused.is_some())
        };
        assert_eq!(refused(&whole), refused(other));
    }
    let Some(head) = whole else { return };
    if head.refused.is_some() {
        assert!(!head.keep_alive && head.framed == Framed::Length(0));
        return;
    }
    for other in [single, two].into_iter().flatten() {
        assert_eq!(other.request.uri(), head.request.uri());
        assert_eq!(other.request.headers(), head.request.headers());
        assert_eq!((other.framed, other.keep_alive), (head.framed, head.keep_alive));
        assert_eq!(other.rest, head.rest);
    }
    let taken = bytes.strip_prefix(b"\r\n").unwrap_or(bytes);
    let (message, rest) = strict::request_head(taken).expect("what is taken is well-formed");
    assert_eq!(rest, head.rest);
    let request = &head.request;
    assert_eq!(message.method(), request.method().as_str().as_bytes());
    assert!(!message.first[1].contains(&b'#'));
    let version = if request.version() == Version::HTTP_10 { "HTTP/1.0" } else { "HTTP/1.1" };
    assert_eq!(message.first[2], version.as_bytes());
    assert_eq!(head.keep_alive, !message.closes());
    let framing = match strict::framing(&message).expect("there is one framing") {
        None => Framed::Length(0),
        Some(Framing::Length(length)) => Framed::Length(length),
        Some(Framing::Chunked) => Framed::Chunked,
    };
    assert_eq!(head.framed, framing);
    let mut fields = sorted(message.fields.clone());
    if !request.headers().contains_key("expect") {
        fields.retain(|(name, _)| name != "expect");
    }
    assert_eq!(pairs(request.headers()), fields);

    let mut request = head.request;
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str()).to_owned();
    *request.body_mut() = Body::from("body");
    let written = write_request(&request);
    let (again, rest) = strict::request_head(&written).expect("what is written is well-formed");
    assert!(rest.is_empty());
    assert_eq!(again.method(), message.method());
    assert_eq!(again.first[1], target.as_bytes());
    assert_eq!(strict::framing(&again), Ok(Some(Framing::Length(4))));
    let is_framing =
        |(name, _): &(String, Vec<u8>)| name == "content-length" || name == "transfer-encoding";
    let mut expected = pairs(request.headers());
    expected.retain(|field| !is_framing(field));
    let mut written_fields = sorted(again.fields);
    written_fields.retain(|field| !is_framing(field));
    assert_eq!(written_fields, expected);
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Request::new(&mut fields);
    assert!(parsed.parse(&written).is_ok_and(|status| status.is_complete()));
    assert_eq!(parsed.path, Some(&*target));
});
