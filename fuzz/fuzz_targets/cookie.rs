//! Crumbs of a cookie: they become one line, in their order, and none is lost.
#![no_main]

use http::{HeaderMap, HeaderValue, header};
use libfuzzer_sys::fuzz_target;
use tollgate::fuzz::join_cookies;

fuzz_target!(|bytes: &[u8]| {
    let crumbs: Vec<HeaderValue> = bytes
        .split(|byte| *byte == b'\n')
        .take(100)
        .filter_map(|crumb| HeaderValue::from_bytes(crumb).ok())
        .collect();
    let mut headers: HeaderMap =
        crumbs.iter().map(|crumb| (header::COOKIE, crumb.clone())).collect();
    join_cookies(&mut headers);
    let lines: Vec<_> = headers.get_all(header::COOKIE).iter().collect();
    assert_eq!(lines.len(), crumbs.len().min(1));
    if let [line] = lines[..] {
        let crumbs: Vec<&[u8]> = crumbs.iter().map(HeaderValue::as_bytes).collect();
        assert_eq!(line.as_bytes(), crumbs.join(&b"; "[..]));
    }
});
