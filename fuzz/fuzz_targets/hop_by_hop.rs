//! Fields of one hop: none is left, none that somebody relies on is lost, and what
//! is asked of `TE` and `Upgrade` is one token.
#![no_main]

use http::header::HeaderName;
use http::{HeaderValue, Version};
use libfuzzer_sys::fuzz_target;
use tollgate::fuzz::{requested_upgrade, strip, take_te_trailers};
use tollgate_fuzz::headers;

const HOP_BY_HOP: [&str; 7] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "transfer-encoding",
    "upgrade",
];

/// What `Connection` cannot take out.
const RELIED_ON: [&str; 5] = ["authorization", "cookie", "host", "x-forwarded-for", "x-vouched"];

fuzz_target!(|bytes: &[u8]| {
    let before = headers(bytes);
    let named: Vec<String> = before
        .get_all("connection")
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .map(|token| String::from_utf8_lossy(token).trim().to_ascii_lowercase())
        .collect();
    let upgrade = requested_upgrade(Version::HTTP_11, &before);
    if let Some(token) = &upgrade {
        assert!(named.iter().any(|name| name == "upgrade"));
        assert!(!token.is_empty() && !token.contains(',') && !token.contains(char::is_uppercase));
        HeaderValue::from_str(token).expect("it is sent to the origin");
        assert_eq!(before.get_all("upgrade").iter().count(), 1);
    }
    assert_eq!(requested_upgrade(Version::HTTP_10, &before), None);

    let mut after = before.clone();
    let trailers = take_te_trailers(&mut after);
    let asked = before.get_all("te").iter().any(|line| {
        let mut tokens = line.as_bytes().split(|byte| *byte == b',');
        tokens.any(|token| token.trim_ascii().eq_ignore_ascii_case(b"trailers"))
    });
    assert_eq!(trailers, asked);
    strip(&mut after, &[HeaderName::from_static("x-vouched")]);
    for name in HOP_BY_HOP.into_iter().chain(["te"]) {
        assert!(!after.contains_key(name), "{name}");
    }
    for name in before.keys().map(HeaderName::as_str) {
        let kept: Vec<_> = after.get_all(name).iter().collect();
        let sent: Vec<_> = before.get_all(name).iter().collect();
        let is_named = named.iter().any(|one| one == name);
        if HOP_BY_HOP.contains(&name) || name == "te" {
            continue;
        }
        if RELIED_ON.contains(&name) || !is_named {
            assert_eq!(kept, sent, "{name}");
        } else {
            assert!(kept.is_empty() || kept == sent, "{name}");
        }
    }
    assert!(after.keys().all(|name| before.contains_key(name)));
    let mut again = after.clone();
    strip(&mut again, &[]);
    assert_eq!(again, after);
});
