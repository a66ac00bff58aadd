//! The PROXY protocol: what is a header stays one whatever follows, what is none
//! never becomes one, and what is written reads back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tollgate::proxy_protocol::{Announced, DEFAULT_MAX_LENGTH, Version, parse, write};

fuzz_target!(|bytes: &[u8]| {
    let whole = parse(bytes, DEFAULT_MAX_LENGTH);
    for end in 0..bytes.len().min(DEFAULT_MAX_LENGTH) {
        match parse(&bytes[..end], DEFAULT_MAX_LENGTH) {
            // It can still become anything.
            Ok(None) => {}
            told => assert_eq!(told, whole, "after {end}"),
        }
    }
    let Ok(Some(header)) = whole else { return };
    assert!((1..=bytes.len().min(DEFAULT_MAX_LENGTH)).contains(&header.length));
    assert_eq!(parse(&bytes[..header.length], DEFAULT_MAX_LENGTH), whole);
    assert_eq!(parse(&bytes[..header.length - 1], DEFAULT_MAX_LENGTH), Ok(None));
    for version in [Version::V1, Version::V2] {
        let written = write(version, header.announced);
        let again = parse(&written, DEFAULT_MAX_LENGTH).unwrap().unwrap();
        assert_eq!(again.length, written.len());
        match (version, header.announced, again.announced) {
            // A line of text has one word for both.
            (Version::V1, Announced::Local | Announced::Unknown, Announced::Unknown) => {}
            (_, Announced::Client(sent), Announced::Client(read)) => {
                assert_eq!(sent.aligned(), read.aligned());
            }
            (_, sent, read) => assert_eq!(sent, read),
        }
    }
});
