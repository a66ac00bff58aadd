//! The fields of message signatures, and `Content-Digest`: whatever a stranger writes
//! there, a signature base is ASCII and has its parameters on one line, the last.
#![no_main]

use http::Uri;
use libfuzzer_sys::fuzz_target;
use tollgate::fuzz::signatures;
use tollgate_fuzz::headers;

fuzz_target!(|bytes: &[u8]| {
    let (target, fields) = bytes.split_at(bytes.iter().position(|b| *b == b'\n').unwrap_or(0));
    let target = Uri::try_from(target).unwrap_or_else(|_| Uri::from_static("/a?b=c&d"));
    let read = signatures(&headers(fields), &target, b"body");
    assert!(read <= 8);
});
