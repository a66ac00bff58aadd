//! `Host` and the target's authority: what is let pass is a host and perhaps a
//! port, and the two say the same.
#![no_main]

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, Uri};
use libfuzzer_sys::fuzz_target;
use tollgate::route::host_of;
use tollgate::serve::ValidateLayer;
use tower::{Layer, Service, service_fn};

fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.splitn(2, |byte| *byte == b'\n');
    let host = HeaderValue::from_bytes(parts.next().unwrap_or_default());
    let Ok(host) = host else { return };
    let uri = parts.next().map_or(Ok(Uri::from_static("/")), |authority| {
        Uri::try_from([b"http://", authority, b"/"].concat())
    });
    let Ok(uri) = uri else { return };
    let Some(fields) = validated(uri.clone(), host.clone()) else { return };
    assert_eq!(fields.get_all("host").iter().count(), 1);
    let text = fields["host"].to_str().unwrap();
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').unwrap();
            (
                address,
                port.strip_prefix(':').unwrap_or_else(|| {
                    assert_eq!(port, "");
                    ""
                }),
            )
        }
        None => text.split_once(':').unwrap_or((text, "")),
    };
    let in_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
    assert!(!name.is_empty() && name.bytes().all(in_name), "{text}");
    assert!(!name.contains(':') || text.starts_with('['), "{text}");
    assert!(port.is_empty() || port.parse::<u16>().is_ok(), "{text}");
    if let Some(authority) = uri.authority() {
        assert!(text.eq_ignore_ascii_case(authority.as_str()), "{text} {authority}");
    }
    let mut request = Request::new(());
    *request.headers_mut() = fields.clone();
    *request.uri_mut() = uri;
    let without_port = host_of(&request).unwrap();
    assert_eq!(without_port.trim_matches(['[', ']']).to_lowercase(), name.to_lowercase(), "{text}");
});

fn validated(uri: Uri, host: HeaderValue) -> Option<HeaderMap> {
    let mut request = Request::new(());
    *request.uri_mut() = uri;
    request.headers_mut().insert("host", host);
    let passed = Arc::new(Mutex::new(None));
    let kept = passed.clone();
    let inner = service_fn(move |request: Request<()>| {
        *kept.lock().unwrap() = Some(request.headers().clone());
        std::future::ready(Ok::<_, Infallible>(Response::new(Bytes::new())))
    });
    let _called = ValidateLayer.layer(inner).call(request);
    passed.lock().unwrap().take()
}
