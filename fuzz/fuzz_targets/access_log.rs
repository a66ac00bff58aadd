//! A line of the access log: one line whatever it is about, which no terminal
//! obeys, and in JSON exactly what was sent.
#![no_main]

use std::sync::Arc;

use http::{HeaderValue, Method, StatusCode, Uri, Version};
use libfuzzer_sys::fuzz_target;
use tollgate::context::{Downstream, Exchange, Identity, RequestLine, Route};
use tollgate::fuzz::{log_line_json, log_line_text};

fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.split(|byte| *byte == b'\n');
    let mut part = || parts.next().unwrap_or_default();
    let method = Method::from_bytes(part()).unwrap_or_default();
    let uri = Uri::try_from(part()).unwrap_or_default();
    let mut value = || HeaderValue::from_bytes(part()).ok();
    let (host, user_agent, referer, id) = (value(), value(), value(), value());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (route, identity, origin) = (text(part()), text(part()), text(part()));
    // Line ends, too, may stand in an error.
    let error = text(&bytes[bytes.len() / 2..]);
    let downstream = Downstream {
        peer: Some("[2001:db8::1]:4711".parse().unwrap()),
        listener: "public".into(),
        ..Downstream::default()
    };
    let request = RequestLine {
        method: method.clone(),
        uri,
        version: Version::HTTP_11,
        host: host.clone(),
        user_agent: user_agent.clone(),
        referer: referer.clone(),
        accept: None,
        content_type: None,
        fields: 0,
    };
    let exchange = Exchange::open(Arc::new(downstream), request, None);
    exchange.update(|record| {
        record.status = StatusCode::from_u16(200).ok();
        record.request_id = id;
        record.route = Some(Route::named(route.clone()));
        record.identity = Some(Identity::new(identity.as_str(), "api_key").into());
        record.origin = Some(origin.as_str().into());
        record.error = Some(error.clone());
    });
    for line in [log_line_text(&exchange), log_line_json(&exchange)] {
        let line = String::from_utf8(line).expect("a line is text");
        let line = line.strip_suffix('\n').expect("a line ends");
        assert!(!line.contains(char::is_control), "{line:?}");
    }
    let json = log_line_json(&exchange);
    let json: serde_json::Value = serde_json::from_slice(&json).expect("it is JSON");
    assert_eq!(json["method"], method.as_str());
    assert_eq!(json["error"], *error);
    assert_eq!(json["route"], *route);
    // Credentials in a URL are not logged.
    let is_url = |value: &HeaderValue| value.as_bytes().iter().any(|byte| b"?;@".contains(byte));
    let (host, referer) = (host.filter(|v| !is_url(v)), referer.filter(|v| !is_url(v)));
    for (name, value) in [("host", host), ("user_agent", user_agent), ("referer", referer)] {
        let Some(value) = value.map(|value| text(value.as_bytes())) else { continue };
        assert_eq!(json.get(name).and_then(|value| value.as_str()), Some(&*value));
    }
});
