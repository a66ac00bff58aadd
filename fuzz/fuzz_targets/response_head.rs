//! The head of a response: the same however it arrives, and what is taken is what
//! a strict reader has, before and after it is written for a client.
#![no_main]

use http::{Method, Version};
use libfuzzer_sys::fuzz_target;
use tollgate::body::Body;
use tollgate::fuzz::{Framed, response_head, write_response};
use tollgate_fuzz::strict::{self, Framing};
use tollgate_fuzz::{however_cut, pairs, sorted};

fuzz_target!(|bytes: &[u8]| {
    for method in [Method::GET, Method::HEAD] {
        check(bytes, &method);
    }
});

fn check(bytes: &[u8], method: &Method) {
    let [whole, single, two] = however_cut(bytes, |pieces| response_head(pieces, method));
    for other in [&single, &two] {
        match (&whole, other) {
            (Ok(Some(one)), Ok(Some(other))) => {
                assert_eq!(one.response.status(), other.response.status());
                assert_eq!(one.response.headers(), other.response.headers());
                assert_eq!((one.framed, one.keep_alive), (other.framed, other.keep_alive));
                assert_eq!(one.rest, other.rest);
            }
            (one, other) => {
                assert_eq!(one.as_ref().map(Option::is_some), other.as_ref().map(Option::is_some));
            }
        }
    }
    let Ok(Some(head)) = whole else { return };
    let (message, rest) = strict::response_head(bytes).expect("what is taken is well-formed");
    assert_eq!(rest, head.rest);
    let status = head.response.status();
    assert_eq!(message.status(), status.as_u16());
    assert_eq!(sorted(message.fields.clone()), pairs(head.response.headers()));
    let framing = strict::framing(&message).expect("there is one framing");
    let none = *method == Method::HEAD
        || status.is_informational()
        || matches!(status.as_u16(), 204 | 304);
    let framed = match framing {
        _ if none => Framed::Length(0),
        None => Framed::UntilClose,
        Some(Framing::Length(length)) => Framed::Length(length),
        Some(Framing::Chunked) => Framed::Chunked,
    };
    assert_eq!(head.framed, framed);
    assert_eq!(head.keep_alive, !message.closes() && framed != Framed::UntilClose);
    if status.is_informational() {
        return;
    }
    for version in [Version::HTTP_11, Version::HTTP_10] {
        for body in [Body::empty(), Body::from("body")] {
            let response = head_of(&head.response).body(body).unwrap();
            let written = write_response(&response, method, version);
            let (again, rest) =
                strict::response_head(&written).expect("what is written is well-formed");
            assert!(rest.is_empty() && !written.windows(2).any(|pair| pair == b"\n\n"));
            assert_eq!(again.status(), status.as_u16());
            assert_eq!(again.values("date").len(), message.values("date").len().max(1));
            strict::framing(&again).expect("there is one framing");
            assert!(again.values("transfer-encoding").is_empty());
            let mut fields = [httparse::EMPTY_HEADER; 192];
            let mut parsed = httparse::Response::new(&mut fields);
            assert!(parsed.parse(&written).is_ok_and(|status| status.is_complete()));
        }
    }
}

fn head_of(response: &http::Response<()>) -> http::response::Builder {
    let mut builder = http::Response::builder().status(response.status());
    *builder.headers_mut().unwrap() = response.headers().clone();
    *builder.extensions_mut().unwrap() = response.extensions().clone();
    builder
}
