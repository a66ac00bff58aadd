//! In what requests are alike: a number that is the same in every process, on every
//! machine. Another way to it would have every key of a fleet change its owner.

use std::hash::Hasher;

use fnv::FnvHasher;
use http::{HeaderName, HeaderValue, Request, header};

use crate::context::{Downstream, Exchange, client_network};
use crate::upstream::HashBy;

const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The number of a request; `None` if it has nothing of what is looked at.
pub(super) fn of<B>(by: &HashBy, request: &Request<B>) -> Option<u64> {
    let mut hasher = FnvHasher::default();
    match by {
        HashBy::Url { ignore_query } => url(&mut hasher, request, ignore_query)?,
        HashBy::Client => match client_network(client(request)?) {
            std::net::IpAddr::V4(address) => hasher.write(&address.octets()),
            std::net::IpAddr::V6(address) => hasher.write(&address.octets()),
        },
        HashBy::Header(name) => {
            let mut lines = request.headers().get_all(name).iter().peekable();
            lines.peek()?;
            for line in lines {
                hasher.write(line.as_bytes());
                hasher.write(b"\n");
            }
        }
    }
    Some(mixed(hasher.finish()))
}

/// The number of an origin, by its name.
pub(super) fn of_name(name: &str) -> u64 {
    let mut hasher = FnvHasher::default();
    hasher.write(name.as_bytes());
    mixed(hasher.finish())
}

/// Each bit of what comes out depends on each that went in, and no two numbers become
/// one: the end of `SplitMix64`.
pub(super) fn mixed(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// What the key of a cache is made of, in the same reading; a test of the cache's holds
/// the two together.
fn url<B>(hasher: &mut FnvHasher, request: &Request<B>, ignored: &[String]) -> Option<()> {
    let (uri, headers) = (request.uri(), request.headers());
    let host = uri.authority().map(|authority| authority.as_str().as_bytes());
    let host = host.or_else(|| headers.get(header::HOST).map(HeaderValue::as_bytes))?;
    let said = headers.get(X_FORWARDED_PROTO).map(HeaderValue::as_bytes);
    let is_https = match (said, uri.scheme_str()) {
        (Some(b"https"), _) => true,
        (Some(b"http"), _) => false,
        (_, Some(scheme)) => scheme == "https",
        (_, None) => over_tls(request),
    };
    let (scheme, port) = if is_https { ("https", ":443") } else { ("http", ":80") };
    hasher.write(scheme.as_bytes());
    hasher.write(b"://");
    for byte in host.strip_suffix(port.as_bytes()).unwrap_or(host) {
        hasher.write(&[byte.to_ascii_lowercase()]);
    }
    hasher.write(if uri.path().is_empty() { b"/" } else { uri.path().as_bytes() });
    let counts = |pair: &&str| !ignored.iter().any(|ignored| is_named(pair, ignored));
    if let Some(query) = uri.query() {
        if ignored.is_empty() {
            hasher.write(b"?");
            hasher.write(query.as_bytes());
        } else {
            for (at, pair) in query.split('&').filter(counts).enumerate() {
                hasher.write(if at == 0 { b"?" } else { b"&" });
                hasher.write(pair.as_bytes());
            }
        }
    }
    Some(())
}

fn is_named(pair: &str, ignored: &str) -> bool {
    let name = pair.split('=').next().unwrap_or(pair);
    match ignored.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => name == ignored,
    }
}

fn over_tls<B>(request: &Request<B>) -> bool {
    downstream(request).is_some_and(|downstream| downstream.tls.is_some())
}

fn client<B>(request: &Request<B>) -> Option<std::net::IpAddr> {
    match request.extensions().get::<Exchange>() {
        Some(exchange) => exchange.client(),
        None => downstream(request)?.peer_address(),
    }
}

fn downstream<B>(request: &Request<B>) -> Option<&Downstream> {
    match request.extensions().get::<Exchange>() {
        Some(exchange) => Some(&**exchange.downstream()),
        None => request.extensions().get::<std::sync::Arc<Downstream>>().map(|known| &**known),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &str, fields: &[(&'static str, &str)]) -> Request<()> {
        let mut request = Request::get(uri).body(()).unwrap();
        for (name, value) in fields {
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        request
    }

    fn by_url(uri: &str, fields: &[(&'static str, &str)], ignored: &[&str]) -> Option<u64> {
        let ignore_query = ignored.iter().map(|&name| name.to_owned()).collect();
        of(&HashBy::Url { ignore_query }, &request(uri, fields))
    }

    #[test]
    fn one_url_is_one_number_however_it_comes() {
        let one = by_url("https://a.test/x?y", &[], &[]);
        assert!(one.is_some());
        assert_eq!(one, by_url("https://A.test:443/x?y", &[], &[]));
        let proxied = [("host", "a.test"), ("x-forwarded-proto", "https")];
        assert_eq!(one, by_url("/x?y", &proxied, &[]));
        assert_eq!(by_url("http://a.test", &[], &[]), by_url("/", &[("host", "a.test:80")], &[]));
        for other in ["http://a.test/x?y", "https://b.test/x?y", "https://a.test/x?Y"] {
            assert_ne!(one, by_url(other, &[], &[]));
        }
        assert_eq!(by_url("/x", &[], &[]), None);
        // Whoever computes it.
        assert_eq!(by_url("https://www.example.com/a?b=c", &[], &[]), Some(0xde3f_523e_15d7_43ff));
    }

    #[test]
    fn parameters_that_do_not_count_change_nothing() {
        let of = |uri| by_url(uri, &[("host", "a")], &["utm_*", "sid"]);
        assert_eq!(of("/?utm_source=x&id=3&sid=9"), of("/?id=3"));
        assert_ne!(of("/?id=3&side=1"), of("/?id=3"));
        let path = |uri| by_url(uri, &[("host", "a")], &["*"]);
        assert_eq!(path("/x?a=b"), path("/x"));
    }

    #[test]
    fn all_lines_of_a_field_count_and_none_is_nothing() {
        let by =
            |fields: &[_]| of(&HashBy::Header("x-user".parse().unwrap()), &request("/", fields));
        assert_eq!(by(&[]), None);
        assert_eq!(by(&[("x-user", "a")]), by(&[("x-user", "a"), ("x-other", "b")]));
        assert_ne!(by(&[("x-user", "a")]), by(&[("x-user", "a"), ("x-user", "b")]));
    }

    #[test]
    fn a_client_is_its_network() {
        let by = |peer: &str| {
            let mut request = request("/", &[]);
            let downstream = Downstream { peer: peer.parse().ok(), ..Downstream::default() };
            request.extensions_mut().insert(std::sync::Arc::new(downstream));
            of(&HashBy::Client, &request)
        };
        assert_eq!(by("192.0.2.1:1"), by("[::ffff:192.0.2.1]:2"));
        assert_ne!(by("192.0.2.1:1"), by("192.0.2.2:1"));
        assert_eq!(by("[2001:db8::1]:1"), by("[2001:db8::2]:1"));
        assert_ne!(by("[2001:db8::1]:1"), by("[2001:db8:0:1::1]:1"));
        assert_eq!(of(&HashBy::Client, &request("/", &[])), None);
    }
}
