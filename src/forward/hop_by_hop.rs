//! Fields that concern one connection only (RFC 9110 §7.6.1).

use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Version};

/// Fields that are never forwarded, whether `Connection` names them or not.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("http2-settings"),
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Whether a field is one that is looked at here.
pub(super) fn concerns(name: &HeaderName) -> bool {
    *name == header::TE || HOP_BY_HOP.contains(name)
}

/// Fields that a client may name in `Connection` without effect: were they
/// taken out, it could hide from the origin what the proxy vouches for, or
/// what the origin decides by.
fn is_protected(name: &str) -> bool {
    const PROTECTED: [&str; 12] = [
        "authorization",
        "content-encoding",
        "content-length",
        "content-range",
        "content-type",
        "cookie",
        "forwarded",
        "host",
        "range",
        "via",
        "x-real-ip",
        "x-request-id",
    ];
    let lower = name.to_ascii_lowercase();
    PROTECTED.contains(&lower.as_str()) || lower.starts_with("x-forwarded-")
}

/// Takes the hop-by-hop fields out of a message: those of the list, and those
/// that any line of `Connection` names. Fields in `vouched` stay even if named.
pub(crate) fn strip(headers: &mut HeaderMap, vouched: &[HeaderName]) {
    // Most messages have none, which one look at each name tells.
    if !headers.keys().any(|name| HOP_BY_HOP.contains(name)) {
        return;
    }
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|token| !std::str::from_utf8(token).is_ok_and(is_protected))
        .filter_map(|token| HeaderName::from_bytes(token).ok())
        .filter(|name| !vouched.contains(name))
        .collect();
    for name in named {
        headers.remove(&name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Takes `TE` out of a request; tells whether it asked for trailers, which is
/// the one thing it may ask of the next hop as well (RFC 9110 §10.1.4).
pub(super) fn take_te_trailers(headers: &mut HeaderMap) -> bool {
    if !headers.contains_key(header::TE) {
        return false;
    }
    let asked = headers.get_all(header::TE).iter().any(|line| has_token(line, "trailers"));
    headers.remove(header::TE);
    asked
}

/// Whether a list field has this token.
pub(super) fn has_token(line: &HeaderValue, token: &str) -> bool {
    line.as_bytes()
        .split(|byte| *byte == b',')
        .any(|part| part.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// The protocol an HTTP/1.1 request asks to switch to, in lower case
/// (RFC 9110 §7.8): one token of `Upgrade`, with `Connection: upgrade`.
pub(super) fn requested_upgrade(version: Version, headers: &HeaderMap) -> Option<String> {
    if version != Version::HTTP_11 {
        return None;
    }
    let mut connection = headers.get_all(header::CONNECTION).iter();
    if !connection.any(|line| has_token(line, "upgrade")) {
        return None;
    }
    let mut lines = headers.get_all(header::UPGRADE).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return None };
    let token = line.to_str().ok()?.trim();
    (!token.is_empty() && !token.contains(',')).then(|| token.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn every_token_of_every_connection_line_is_taken_out() {
        let mut fields = headers(&[
            ("connection", "x-a, keep-alive"),
            ("connection", "X-B ,, close"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("transfer-encoding", "chunked"),
            ("x-a", "1"),
            ("x-b", "2"),
            ("x-c", "3"),
        ]);
        strip(&mut fields, &[]);
        assert_eq!(fields, headers(&[("x-c", "3")]));
    }

    #[test]
    fn connection_cannot_hide_what_the_origin_decides_by() {
        let kept = [
            ("authorization", "Basic x"),
            ("cookie", "a=b"),
            ("host", "example.com"),
            ("x-forwarded-for", "192.0.2.1"),
            ("x-client", "demo"),
        ];
        let mut fields = headers(&kept);
        let line = "authorization, Cookie, HOST, X-Forwarded-For, x-client";
        fields.insert(header::CONNECTION, HeaderValue::from_static(line));
        strip(&mut fields, &[HeaderName::from_static("x-client")]);
        assert_eq!(fields, headers(&kept));
    }

    #[test]
    fn te_is_kept_for_trailers_only() {
        let mut fields = headers(&[("te", "gzip;q=0.5"), ("te", "Trailers")]);
        assert!(take_te_trailers(&mut fields));
        assert!(fields.is_empty());
        assert!(!take_te_trailers(&mut headers(&[("te", "gzip")])));
    }

    #[test]
    fn an_upgrade_needs_its_token_its_option_and_http_1_1() {
        let asked = |fields: &[_]| requested_upgrade(Version::HTTP_11, &headers(fields));
        let websocket = ("upgrade", "WebSocket");
        assert_eq!(
            asked(&[websocket, ("connection", "keep-alive, Upgrade")]).unwrap(),
            "websocket"
        );
        assert_eq!(asked(&[websocket]), None);
        assert_eq!(asked(&[("connection", "upgrade")]), None);
        assert_eq!(asked(&[("upgrade", "h2c, websocket"), ("connection", "upgrade")]), None);
        let fields = headers(&[websocket, ("connection", "upgrade")]);
        assert_eq!(requested_upgrade(Version::HTTP_10, &fields), None);
    }
}
