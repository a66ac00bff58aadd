//! What a request target may look like (RFC 9112 §3.2, RFC 3986).
//!
//! **Path policy.** Routes match, and origins are asked for, the path as it was
//! sent. So that both read it alike, a target is refused (400) if
//! - it has anything but visible ASCII, or a fragment,
//! - its path has a `%` that begins no escape, or the escape of a control
//!   character,
//! - its path has a dot segment (`.` or `..`, plain or escaped, with or without
//!   path parameters), a backslash, plain or escaped, or an overlong encoding of
//!   UTF-8.
//!
//! Clients normalise or escape all of these before they send. Double slashes,
//! `%2F` and other escapes are passed on as they are: they are legal, and mean
//! something to some origins; the router refuses them where they would lead past
//! a route.

use http::{Method, Request, StatusCode, Version};

use super::validate::{malformed, refuse};
use crate::context::Downstream;
use crate::respond::Answer;

/// Refuses a target that is too long, of another form than its method has, or
/// that could be read in two ways.
pub(super) fn check<B>(
    request: &Request<B>,
    downstream: Option<&Downstream>,
    max_target: usize,
) -> Result<(), Answer> {
    let uri = request.uri();
    let target = uri.path_and_query().map_or("", |target| target.as_str());
    if target.len() > max_target {
        let code = "target_too_long";
        return Err(refuse(StatusCode::URI_TOO_LONG, code, "The request target is too long."));
    }
    if uri.authority().is_some() {
        absolute(request, downstream)?;
    }
    let path = uri.path();
    if path == "*" {
        return if *request.method() == Method::OPTIONS && target == "*" {
            Ok(())
        } else {
            Err(malformed("target_invalid", "Only OPTIONS may ask for `*`."))
        };
    }
    if !path.is_empty() && !path.starts_with('/') {
        return Err(malformed("target_invalid", "The request target is not a path."));
    }
    if !is_visible(target.as_bytes()) {
        let detail = "The request target has a character that must be escaped.";
        return Err(malformed("target_invalid", detail));
    }
    if is_ambiguous(path) {
        let detail = "The path has a dot segment, a backslash, or an escape that is none.";
        return Err(refuse(StatusCode::BAD_REQUEST, "path_ambiguous", detail));
    }
    Ok(())
}

/// A target that says more than path and query: only a URL does.
fn absolute<B>(request: &Request<B>, downstream: Option<&Downstream>) -> Result<(), Answer> {
    // With a scheme there always is an authority.
    let Some(scheme) = request.uri().scheme_str() else {
        return Err(malformed("target_invalid", "Only CONNECT may ask for an authority."));
    };
    if !matches!(scheme, "http" | "https") {
        return Err(malformed("target_invalid", "The target's scheme is not served."));
    }
    // RFC 9110 §7.4: what is asked for by `https` comes over TLS. Over HTTP/2 every
    // request names a scheme, and a proxy in front that terminated TLS the first.
    let plain = downstream.is_some_and(|d| d.tls.is_none() && !d.listener.is_empty());
    if scheme == "https" && plain && request.version() < Version::HTTP_2 {
        let detail = "This connection is not secured, as the target's scheme asks.";
        return Err(refuse(StatusCode::MISDIRECTED_REQUEST, "misdirected", detail));
    }
    Ok(())
}

/// All of it is looked at, since that is quicker than to stop early.
fn is_visible(target: &[u8]) -> bool {
    target.iter().fold(true, |visible, byte| visible & byte.is_ascii_graphic() & (*byte != b'#'))
}

/// Whether a path may be read differently by different servers.
fn is_ambiguous(path: &str) -> bool {
    if !path.bytes().any(|byte| matches!(byte, b'.' | b'%' | b'\\')) {
        return false;
    }
    let lower = path.to_ascii_lowercase();
    let dots = lower.replace("%2e", ".").replace("%2f", "/").replace("%3b", ";");
    lower.contains('\\')
        || lower.match_indices('%').any(|(at, _)| is_bad_escape(&lower.as_bytes()[at..]))
        || dots.split('/').any(|segment| {
            // `..;` is a dot segment to servers that know path parameters.
            matches!(segment.split(';').next(), Some("." | ".."))
        })
}

/// Whether what begins with a `%` is no escape, or one that no client has a use
/// for: of a control character, of a backslash, or the first of an encoding that
/// no encoder of UTF-8 makes, but some decoders take for a plain character
/// (RFC 3629 §10).
fn is_bad_escape(text: &[u8]) -> bool {
    let Some(byte) = escape(text) else { return true };
    let rest = &text[3..];
    let continued = |from: u8, to: u8| escape(rest).is_some_and(|byte| (from..=to).contains(&byte));
    match byte {
        0x00..=0x1f | 0x7f | b'\\' => true,
        // Careless decoders take the low bits of whatever comes next.
        0xc0 | 0xc1 => matches!(rest, [b'%' | b'.' | b'/', ..]),
        0xe0 => continued(0x80, 0x9f),
        0xf0 => continued(0x80, 0x8f),
        0xf8 => continued(0x80, 0x87),
        0xfc => continued(0x80, 0x83),
        _ => false,
    }
}

/// The byte that an escape stands for.
fn escape(text: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    match text {
        [b'%', high, low, ..] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::TlsFacts;

    fn status_of(request: &Request<()>, downstream: Option<&Downstream>) -> u16 {
        check(request, downstream, 64).err().map_or(200, |answer| answer.status().as_u16())
    }

    fn status(uri: &str) -> u16 {
        status_of(&Request::get(uri).body(()).unwrap(), None)
    }

    #[test]
    fn a_path_that_could_be_read_two_ways_is_refused() {
        for path in [
            "/a/../b",
            "/a/%2e%2E/b",
            "/./a",
            "/a/.%2e",
            "/..;/a",
            "/..%3B/a",
            "/a%00b",
            "/a%0d%0ab",
            "/a%7f",
            "/a%5cb",
            "/a%5Cb",
            "/a%2f..%2fb",
            "/a/..%2Fb",
            "/a%c0%afb",
            "/a%c0%2fb",
            "/a%c0.%c0./b",
            "/%e0%80%af",
            "/%F0%80%80%AF",
            "/%f8%80%80%80%af",
            "/%fc%80%80%80%80%af",
            "/%zz",
            "/%",
            "/a%2",
            "/%u002e%u002e/",
            "/%+1",
        ] {
            assert_eq!(status(path), 400, "{path}");
        }
        for path in [
            "/a//b",
            "/a%2fb",
            "/.well-known/x",
            "/a...b/..c",
            "/a?x=../y&z=100%",
            "/%252e",
            "/caf%C3%A9",
            "/caf%E9",
            "/%e0%a4%85",
            "/%c0",
            "/%F8re",
        ] {
            assert_eq!(status(path), 200, "{path}");
        }
    }

    #[test]
    fn a_target_is_visible_ascii_and_not_too_long() {
        assert_eq!(status("/\u{e9}"), 400);
        assert_eq!(status("/?\u{e9}"), 400);
        assert_eq!(status(&format!("/{}", "x".repeat(63))), 200);
        assert_eq!(status(&format!("/{}", "x".repeat(64))), 414);
    }

    #[test]
    fn a_form_belongs_to_its_method() {
        assert_eq!(status("*"), 400);
        assert_eq!(status("a.test"), 400, "authority-form");
        assert_eq!(status("a.test:443"), 400, "authority-form");
        assert_eq!(status("http://a.test"), 200);
        assert_eq!(status("ftp://a.test/"), 400);
        let star = Request::options("*").body(()).unwrap();
        assert_eq!(status_of(&star, None), 200);
        let star = Request::options("*?x").body(());
        assert!(star.map_or(400, |star| status_of(&star, None)) == 400);
    }

    #[test]
    fn https_is_asked_for_over_tls() {
        let request = Request::get("https://a.test/").body(()).unwrap();
        let plain = Downstream { listener: "public".into(), ..Downstream::default() };
        assert_eq!(status_of(&request, Some(&plain)), 421);
        let secure = Downstream { tls: Some(TlsFacts::default()), ..plain.clone() };
        assert_eq!(status_of(&request, Some(&secure)), 200);
        let embedded = Downstream::default();
        assert_eq!(status_of(&request, Some(&embedded)), 200);
        let mut h2 = Request::get("https://a.test/").body(()).unwrap();
        *h2.version_mut() = Version::HTTP_2;
        assert_eq!(status_of(&h2, Some(&plain)), 200);
    }
}
