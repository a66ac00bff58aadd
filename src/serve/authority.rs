//! Which host a request is for: one, valid, and one that its connection is for.

use std::net::Ipv6Addr;

use http::header::{self, HeaderValue};
use http::uri::Authority;
use http::{Request, StatusCode, Version};

use super::validate::{malformed, refuse};
use crate::context::Downstream;
use crate::respond::Answer;

/// RFC 9112 §3.2: one `Host`, valid, and the same as the target's authority.
/// Returns what `Host` must become: an absolute target overrules it (§3.2.2).
pub(super) fn check<B>(
    request: &Request<B>,
    downstream: Option<&Downstream>,
) -> Result<Option<HeaderValue>, Answer> {
    let authority = request.uri().authority().map(Authority::as_str);
    if authority.is_some_and(|authority| !is_host(authority)) {
        return Err(malformed("host_invalid", "The target's authority is not a host."));
    }
    let version = request.version();
    let mut lines = request.headers().get_all(header::HOST).iter();
    let host = match (lines.next(), lines.next()) {
        (Some(host), None) => Some(host),
        (Some(_), Some(_)) => {
            return Err(malformed("host_invalid", "There is more than one `Host`."));
        }
        (None, _) if version == Version::HTTP_11 => {
            return Err(malformed("host_missing", "An HTTP/1.1 request needs a `Host`."));
        }
        (None, _) => None,
    };
    let host = match host.map(HeaderValue::to_str) {
        None => None,
        Some(Ok(host)) if is_host(host) => Some(host),
        Some(_) => {
            return Err(malformed("host_invalid", "`Host` is not a host and optional port."));
        }
    };
    if let Some(host) = authority.or(host) {
        fits_connection(host, downstream)?;
    }
    match (host, authority) {
        (Some(host), Some(authority)) if !host.eq_ignore_ascii_case(authority) => {
            if matches!(version, Version::HTTP_2 | Version::HTTP_3) {
                // RFC 9113 §8.3.1
                return Err(malformed("host_invalid", "`Host` and `:authority` differ."));
            }
            Ok(HeaderValue::from_str(authority).ok())
        }
        _ => Ok(None),
    }
}

/// RFC 9110 §7.4: a host that has a certificate of its own is asked for over a
/// connection that was shown it. What is agreed for one certificate's hosts need
/// not hold for another's.
fn fits_connection(host: &str, downstream: Option<&Downstream>) -> Result<(), Answer> {
    let Some(tls) = downstream.and_then(|downstream| downstream.tls.as_ref()) else {
        return Ok(());
    };
    // Without a server name the client took whatever it was shown.
    let (Some(hosts), Some(server_name)) = (&tls.hosts, &tls.server_name) else { return Ok(()) };
    let name = match host.rsplit_once(':') {
        Some((name, _)) if !host.ends_with(']') => name,
        _ => host,
    };
    if name.eq_ignore_ascii_case(server_name) || hosts.are_alike(server_name, name) {
        return Ok(());
    }
    let detail = "This connection is not for that host; open one of its own.";
    Err(refuse(StatusCode::MISDIRECTED_REQUEST, "misdirected", detail))
}

/// Whether `host` is a host with an optional port, and nothing else.
fn is_host(host: &str) -> bool {
    is_plain_host(host.as_bytes()) || is_ipv6_literal(host)
}

/// Whether `host` is a name with or without a port, as most are. No label but
/// the root's, at the end, is empty.
fn is_plain_host(host: &[u8]) -> bool {
    let mut before = b'.';
    let in_name = |byte: &&u8| match **byte {
        b'.' if before == b'.' => false,
        byte => {
            before = byte;
            byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_')
        }
    };
    let name = host.iter().take_while(in_name).count();
    match &host[name..] {
        [] => name > 0,
        [b':', port @ ..] => name > 0 && is_port(port),
        _ => false,
    }
}

/// Whether `port` is empty or a number that a port can have.
fn is_port(port: &[u8]) -> bool {
    let mut number = 0_u32;
    port.len() <= 5
        && port.iter().all(|digit| {
            number = number * 10 + u32::from(digit.wrapping_sub(b'0'));
            digit.is_ascii_digit()
        })
        && number <= u32::from(u16::MAX)
}

/// Whether `host` is an IPv6 address in brackets, without a zone, with or without
/// a port.
fn is_ipv6_literal(host: &str) -> bool {
    let bracketed = host.strip_prefix('[').and_then(|host| host.split_once(']'));
    bracketed.is_some_and(|(address, port)| {
        address.parse::<Ipv6Addr>().is_ok()
            && (port.is_empty()
                || port.strip_prefix(':').is_some_and(|port| is_port(port.as_bytes())))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::{Hosts, TlsFacts};
    use std::sync::Arc;

    fn request(uri: &str, hosts: &[&str]) -> Request<()> {
        let mut request = Request::get(uri);
        for host in hosts {
            request = request.header(header::HOST, *host);
        }
        request.body(()).unwrap()
    }

    fn status(uri: &str, hosts: &[&str]) -> u16 {
        let checked = check(&request(uri, hosts), None);
        checked.err().map_or(200, |answer| answer.status().as_u16())
    }

    #[test]
    fn one_valid_host_is_asked_for() {
        for host in [
            "a.test",
            "a.test.",
            "A.TEST:80",
            "[::1]:80",
            "[::1]",
            "[::ffff:192.0.2.1]:",
            "a.test:65535",
            "a.test:",
            "127.0.0.1:80",
            "x_y-z.test",
        ] {
            assert_eq!(status("/", &[host]), 200, "{host:?}");
        }
        assert_eq!(status("/", &[]), 400);
        assert_eq!(status("/", &["a.test", "a.test"]), 400);
        for host in [
            "",
            "a@b",
            "a/b",
            "a,b",
            "a:x",
            "a:99999",
            "a:65536",
            "a:123456",
            ":80",
            "a:8a",
            "a b",
            "a:80:80",
            "a\\b",
            ".",
            ".a",
            "a..b",
            "a..",
            "[::1",
            "::1",
            "[zz]",
            "[fe80::1%25eth0]",
            "[::1]x",
            "[::1]:x",
            "a?b",
            "a#b",
            "a%2eb",
            "http://a",
            "*",
        ] {
            assert_eq!(status("/", &[host]), 400, "{host:?}");
        }
        let mut old = request("/", &[]);
        *old.version_mut() = Version::HTTP_10;
        assert!(check(&old, None).is_ok());
    }

    #[test]
    fn an_absolute_target_overrules_host_in_http_1_and_must_agree_in_http_2() {
        let absolute = request("http://b.test/", &["a.test"]);
        assert_eq!(check(&absolute, None).unwrap().unwrap(), "b.test");
        let same = request("http://A.test/", &["a.test"]);
        assert!(check(&same, None).unwrap().is_none());
        let mut h2 = request("http://b.test/", &["a.test"]);
        *h2.version_mut() = Version::HTTP_2;
        assert!(check(&h2, None).is_err());
        assert_eq!(status("http://user@b.test/", &["a.test"]), 400);
    }

    /// `a.test` and `c.test` share a certificate.
    #[derive(Debug)]
    struct Shared;

    impl Hosts for Shared {
        fn are_alike(&self, server_name: &str, host: &str) -> bool {
            let shared = ["a.test", "c.test"];
            shared.contains(&server_name) == shared.contains(&&*host.to_ascii_lowercase())
        }
    }

    #[test]
    fn a_host_with_another_certificate_is_421() {
        let tls = TlsFacts {
            server_name: Some("a.test".into()),
            hosts: Some(Arc::new(Shared)),
            ..TlsFacts::default()
        };
        let mut downstream = Downstream { tls: Some(tls), ..Downstream::default() };
        let over = |downstream: &Downstream, uri, host| {
            let checked = check(&request(uri, &[host]), Some(downstream));
            checked.err().map_or(200, |answer| answer.status().as_u16())
        };
        for host in ["a.test", "A.test:8443", "c.test", "C.TEST:1"] {
            assert_eq!(over(&downstream, "/", host), 200, "{host}");
        }
        for host in ["b.test", "b.test:443", "[::1]:443", "[::1]"] {
            assert_eq!(over(&downstream, "/", host), 421, "{host}");
        }
        assert_eq!(over(&downstream, "https://b.test/", "a.test"), 421, "the target is for b");
        assert_eq!(over(&downstream, "https://a.test/", "b.test"), 200, "the target is for a");
        downstream.tls.as_mut().unwrap().server_name = None;
        assert_eq!(over(&downstream, "/", "b.test"), 200);
    }
}
