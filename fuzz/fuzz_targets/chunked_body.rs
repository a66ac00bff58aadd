//! A chunked body: the same however it arrives, and what is taken is what a strict
//! reader has, to the byte.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tollgate::fuzz::chunked_body;
use tollgate_fuzz::{however_cut, pairs, sorted, strict};

fuzz_target!(|bytes: &[u8]| {
    let [whole, single, two] = however_cut(bytes, chunked_body);
    assert_eq!(whole, single);
    assert_eq!(whole, two);
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let message = [head, bytes].concat();
    let expected = strict::request(&message);
    let Ok(Some(body)) = whole else {
        // What is not malformed can still be too long.
        if bytes.len() < 1_000 && bytes.iter().filter(|byte| **byte == b'\n').count() < 60 {
            assert!(expected.is_err(), "{expected:?}");
        }
        return;
    };
    let (message, rest) = expected.expect("what is taken is well-formed");
    assert_eq!(message.body, body.data);
    assert_eq!(rest, body.rest);
    let trailers = sorted(message.trailers);
    for field in pairs(&body.trailers) {
        assert!(trailers.contains(&field), "{field:?}");
        let frames = ["content-length", "transfer-encoding", "host", "trailer", "connection"];
        assert!(!frames.contains(&&*field.0), "{field:?}");
    }
});
