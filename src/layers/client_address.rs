//! Whose request it is: the peer's, or the one that trusted proxies vouch for.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::{self, HeaderName};
use http::{HeaderMap, Request};
use ipnet::IpNet;
use tower::{Layer, Service};

use super::TrustSettings;
use super::request_id::REQUEST_ID;
use super::twins::remove_twins;
use crate::context::Exchange;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Puts [`ClientAddress`] before a service.
#[derive(Clone, Debug)]
pub struct ClientAddressLayer {
    trusted: Arc<[IpNet]>,
}

/// Writes the client's address into the exchange.
///
/// It is the peer's, unless the peer is a trusted proxy: then it is the
/// right-most address in `X-Forwarded-For`, or else in `Forwarded` (RFC 7239),
/// that is not a trusted proxy's. What stands left of that is hearsay.
#[derive(Clone, Debug)]
pub struct ClientAddress<S> {
    inner: S,
    trusted: Arc<[IpNet]>,
}

impl ClientAddressLayer {
    /// Believes these proxies.
    #[must_use]
    pub fn new(trust: &TrustSettings) -> Self {
        Self { trusted: trust.proxies.as_slice().into() }
    }
}

impl<S> Layer<S> for ClientAddressLayer {
    type Service = ClientAddress<S>;

    fn layer(&self, inner: S) -> ClientAddress<S> {
        ClientAddress { inner, trusted: self.trusted.clone() }
    }
}

impl<S, B> Service<Request<B>> for ClientAddress<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        if let Some(exchange) = request.extensions().get::<Exchange>() {
            let peer = exchange.downstream().peer_address();
            match peer {
                Some(peer) if is_trusted(&self.trusted, peer) => {
                    let client = derive(request.headers(), peer, &self.trusted);
                    exchange.update(|record| record.client = Some(client));
                }
                // A stranger does not choose the name of its request.
                _ => {
                    remove_twins(request.headers_mut(), &REQUEST_ID);
                }
            }
        }
        self.inner.call(request)
    }
}

/// Whether `address` is a trusted proxy's.
pub(super) fn is_trusted(trusted: &[IpNet], address: IpAddr) -> bool {
    trusted.iter().any(|network| network.contains(&address))
}

fn derive(headers: &HeaderMap, peer: IpAddr, trusted: &[IpNet]) -> IpAddr {
    let mut client = peer;
    let (name, read): (_, fn(&str) -> Option<IpAddr>) = if headers.contains_key(X_FORWARDED_FOR) {
        (X_FORWARDED_FOR, node)
    } else {
        (header::FORWARDED, forwarded_for)
    };
    for hop in elements_from_the_right(headers, &name).map(read) {
        // Past what cannot be read nothing can be believed.
        let Some(hop) = hop else { break };
        client = hop;
        if !is_trusted(trusted, hop) {
            break;
        }
    }
    client
}

/// The elements of a list field, all its lines together, last first.
fn elements_from_the_right<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .rev()
        .flat_map(|line| line.to_str().unwrap_or("?").rsplit(','))
        .map(str::trim)
        .filter(|element| !element.is_empty())
}

/// The address in an element of `Forwarded`: its one `for` parameter (RFC 7239
/// §4). What stands between quotes is no parameter, whatever it looks like: a
/// client's `Host` may stand there.
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let mut found = None;
    let mut rest = element;
    while !rest.is_empty() {
        let (name, value) = rest.split_once('=')?;
        let (value, after) = match value.strip_prefix('"') {
            Some(quoted) => {
                let (value, after) = quoted.split_at_checked(end_of_quoted(quoted)?)?;
                (value, after.strip_prefix('"')?)
            }
            None => value.split_at(value.find([';', '"']).unwrap_or(value.len())),
        };
        if name.trim().eq_ignore_ascii_case("for") && found.replace(node(value.trim())?).is_some() {
            return None;
        }
        rest = match after.trim_start() {
            "" => "",
            after => after.strip_prefix(';')?,
        };
    }
    found
}

/// Where a quoted string ends whose opening quote is gone (RFC 9110 §5.6.4).
fn end_of_quoted(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })
}

/// An address with or without a port, brackets and zone (RFC 4007 §11).
fn node(text: &str) -> Option<IpAddr> {
    let address = match text.strip_prefix('[') {
        Some(bracketed) => {
            let (inside, port) = bracketed.split_once(']')?;
            let has_port = port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
            if !(port.is_empty() || has_port) {
                return None;
            }
            IpAddr::V6(without_zone(inside).parse().ok()?)
        }
        None => match text.parse::<SocketAddr>() {
            Ok(address) => address.ip(),
            Err(_) => without_zone(text).parse().ok()?,
        },
    };
    Some(address.to_canonical())
}

/// A zone means something on one host only.
fn without_zone(text: &str) -> &str {
    match text.split_once('%') {
        Some((address, zone)) if address.contains(':') && !zone.is_empty() => address,
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn derived(lines: &[(HeaderName, &str)]) -> String {
        let headers = lines
            .iter()
            .map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap()))
            .collect();
        let trusted = ["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
        derive(&headers, "10.0.0.1".parse().unwrap(), &trusted).to_string()
    }

    #[test]
    fn the_client_is_the_right_most_hop_that_is_not_trusted() {
        let xff = |value| derived(&[(X_FORWARDED_FOR, value)]);
        assert_eq!(xff("192.0.2.1"), "192.0.2.1");
        assert_eq!(xff("6.6.6.6, 192.0.2.1, 10.0.0.2"), "192.0.2.1");
        assert_eq!(xff("10.0.0.3, 10.0.0.2"), "10.0.0.3");
        assert_eq!(xff("192.0.2.1:4711, 10.0.0.2:80"), "192.0.2.1");
        assert_eq!(xff("[2001:db9::1]:80"), "2001:db9::1");
        assert_eq!(xff("::ffff:192.0.2.1"), "192.0.2.1");
        assert_eq!(xff("fe80::1%eth0"), "fe80::1");
        assert_eq!(xff("[fe80::1%25eth0]:80"), "fe80::1");
    }

    #[test]
    fn every_line_counts_and_the_last_is_nearest() {
        let lines = [(X_FORWARDED_FOR, "6.6.6.6"), (X_FORWARDED_FOR, "192.0.2.1, 10.0.0.2")];
        assert_eq!(derived(&lines), "192.0.2.1");
    }

    #[test]
    fn nothing_left_of_garbage_is_believed() {
        let xff = |value| derived(&[(X_FORWARDED_FOR, value)]);
        assert_eq!(xff("6.6.6.6, unknown, 10.0.0.2"), "10.0.0.2");
        assert_eq!(xff("<script>"), "10.0.0.1");
        assert_eq!(xff(&"x,".repeat(5_000)), "10.0.0.1");
        for garbage in
            ["[::1", "[::1]x", "[::1]:x", "[1.2.3.4]", "1.2.3.4%x", "1.2.3", "1.2.3.4:99999", "::%"]
        {
            let value = format!("6.6.6.6, {garbage}");
            assert_eq!(derived(&[(X_FORWARDED_FOR, &value)]), "10.0.0.1", "{garbage}");
        }
    }

    #[test]
    fn forwarded_is_read_where_there_is_no_x_forwarded_for() {
        let forwarded = |value| derived(&[(header::FORWARDED, value)]);
        assert_eq!(forwarded("for=192.0.2.1;proto=https, for=10.0.0.2"), "192.0.2.1");
        assert_eq!(forwarded("proto=https; For=\"[2001:db9::1]:4711\""), "2001:db9::1");
        assert_eq!(forwarded("for=_hidden, for=10.0.0.2"), "10.0.0.2");
    }

    #[test]
    fn what_is_quoted_in_forwarded_is_no_parameter() {
        let forwarded = |value| derived(&[(header::FORWARDED, value)]);
        assert_eq!(forwarded("host=\"x;for=6.6.6.6\";for=192.0.2.1"), "192.0.2.1");
        assert_eq!(forwarded("host=\"x\\\";for=6.6.6.6\" ;for=192.0.2.1"), "192.0.2.1");
        for garbage in [
            "for=192.0.2.1;host=\"x,for=6.6.6.6\"",
            "for=6.6.6.6;for=192.0.2.1",
            "for=\"6.6.6.6",
            "for=6.6.6.6\"",
            "for=\"6.6.6.6\"x",
            "for",
            "=",
            "for=",
        ] {
            assert_eq!(forwarded(garbage), "10.0.0.1", "{garbage}");
        }
    }
}
