//! The policy for paths: one that is let pass has no dot segment, backslash or
//! control character to whoever decodes it once, and all its readings are plain.
#![no_main]

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::{Request, Response, Uri};
use libfuzzer_sys::fuzz_target;
use tollgate::fuzz::readings;
use tollgate::serve::ValidateLayer;
use tower::{Layer, Service, service_fn};

fuzz_target!(|bytes: &[u8]| {
    let Ok(uri) = Uri::try_from(bytes) else { return };
    let mut request = Request::new(());
    *request.uri_mut() = uri.clone();
    request.headers_mut().insert("host", http::HeaderValue::from_static("a.test"));
    let passed = AtomicBool::new(false);
    let inner = service_fn(|_: Request<()>| {
        passed.store(true, Ordering::Relaxed);
        std::future::ready(Ok::<_, Infallible>(Response::new(Bytes::new())))
    });
    let _called = ValidateLayer.layer(inner).call(request);
    if !passed.load(Ordering::Relaxed) {
        return;
    }
    let path = uri.path();
    assert!(path.starts_with('/') || path.is_empty(), "{path}");
    assert!(uri.path_and_query().is_none_or(|target| target.as_str().len() <= 8 * 1024));
    let decoded = decoded(path.as_bytes());
    assert!(!decoded.iter().any(|byte| *byte == b'\\' || byte.is_ascii_control()), "{path}");
    for segment in decoded.split(|byte| *byte == b'/') {
        let name = segment.split(|byte| *byte == b';').next().unwrap_or_default();
        assert!(!matches!(name, b"." | b".."), "{path}");
    }
    let overlong = |pair: &[u8]| match *pair {
        [0xc0 | 0xc1, second] => (0x80..=0xbf).contains(&second),
        [0xe0, second] => (0x80..=0x9f).contains(&second),
        [0xf0, second] => (0x80..=0x8f).contains(&second),
        _ => false,
    };
    assert!(!decoded.windows(2).any(overlong), "{path}");
    let mut last = None;
    for free in readings(path) {
        assert!(free.starts_with('/') && !free.contains("//") && !free.contains(';'), "{free}");
        assert!(!free.split('/').any(|segment| matches!(segment, "." | "..")), "{free}");
        last = Some(free);
    }
    match last {
        Some(last) => assert_ne!(last, path),
        None => assert!(!path.contains("//") && !path.contains(';'), "{path}"),
    }
});

/// Every escape taken for its byte, once.
fn decoded(path: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((first, after)) = rest.split_first() {
        let hex = |byte: u8| char::from(byte).to_digit(16);
        let escape = match *rest {
            [b'%', high, low, ..] => hex(high).zip(hex(low)),
            _ => None,
        };
        match escape {
            Some((high, low)) => {
                decoded.push(u8::try_from(high * 16 + low).unwrap());
                rest = &rest[3..];
            }
            None => {
                decoded.push(*first);
                rest = after;
            }
        }
    }
    decoded
}
