//! The forwarded fields: of a stranger's nothing is left, and what is written is
//! well-formed and ends with the peer, whatever stood there.
#![no_main]

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http::{HeaderMap, HeaderValue, Request};
use libfuzzer_sys::fuzz_target;
use tollgate::context::Exchange;
use tollgate::layers::{ForwardedLayer, TrustSettings};
use tollgate_fuzz::{exchange, headers};
use tower::{Layer, Service, service_fn};

fuzz_target!(|bytes: &[u8]| {
    let fields = headers(bytes);
    let host = fields.get("host").cloned();
    let stranger = written(fields.clone(), host.clone(), "192.0.2.1:1");
    for (name, value) in [
        ("x-forwarded-for", "192.0.2.1"),
        ("x-real-ip", "192.0.2.1"),
        ("x-forwarded-proto", "http"),
    ] {
        let all: Vec<_> = stranger.get_all(name).iter().collect();
        assert_eq!(all, [value], "{name}");
    }
    assert_eq!(stranger.get("x-forwarded-host"), host.as_ref());
    assert!(!stranger.contains_key("x-forwarded-port"));
    let all: Vec<_> = stranger.get_all("forwarded").iter().collect();
    let [forwarded] = all[..] else { panic!("{all:?}") };
    element(forwarded.as_bytes());
    for name in stranger.keys() {
        let plain = name.as_str().replace('_', "-");
        let twin = plain != name.as_str();
        let is_ours =
            plain.starts_with("x-forwarded-") || plain == "x-real-ip" || plain == "forwarded";
        assert!(!(twin && is_ours), "{name}");
    }

    let before = fields.get_all("x-forwarded-for").iter().count();
    let continued = written(fields.clone(), host, "10.0.0.1:1");
    let all: Vec<_> = continued.get_all("x-forwarded-for").iter().collect();
    let [line] = all[..] else { panic!("{all:?}") };
    let expected: &[u8] = if before == 0 { b"10.0.0.1" } else { b", 10.0.0.1" };
    assert!(line.as_bytes().ends_with(expected));
    for (name, value) in &fields {
        let name = name.as_str();
        if !name.contains("forwarded") && name != "x-real-ip" {
            assert!(continued.get_all(name).iter().any(|kept| kept == value), "{name}");
        }
    }
});

/// RFC 7239 §4, as much of it as is written.
fn element(element: &[u8]) {
    let text = std::str::from_utf8(element).unwrap();
    let mut pairs = text.split(';');
    assert_eq!(pairs.next(), Some("for=192.0.2.1"), "{text}");
    assert_eq!(pairs.next(), Some("proto=http"), "{text}");
    let rest = text.strip_prefix("for=192.0.2.1;proto=http").unwrap();
    if let Some(host) = rest.strip_prefix(";host=\"") {
        let host = host.strip_suffix('"').unwrap();
        assert!(host.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"\\".contains(&byte)));
    } else {
        assert_eq!(rest, "");
    }
}

fn written(fields: HeaderMap, host: Option<HeaderValue>, peer: &str) -> HeaderMap {
    let trust =
        TrustSettings { proxies: vec!["10.0.0.0/8".parse().unwrap()], ..TrustSettings::default() };
    let mut request = Request::new(());
    *request.headers_mut() = fields;
    request.extensions_mut().insert::<Exchange>(exchange(peer, host));
    let seen = Arc::new(Mutex::new(HeaderMap::new()));
    let kept = seen.clone();
    let inner = service_fn(move |request: Request<()>| {
        *kept.lock().unwrap() = request.headers().clone();
        std::future::ready(Ok::<_, Infallible>(()))
    });
    let _called = ForwardedLayer::new(&trust).layer(inner).call(request);
    std::mem::take(&mut *seen.lock().unwrap())
}
