//! Where the request came from, in words that the origin may believe:
//! `X-Forwarded-*`, `X-Real-IP` and `Forwarded` (RFC 7239).

use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Request};
use tower::{Layer, Service};

use super::TrustSettings;
use super::client_address::Trusted;
use super::twins::{self, are_twins, begins_like};
use crate::context::{Downstream, Exchange};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// Puts [`Forwarded`] before a service.
#[derive(Clone, Debug)]
pub struct ForwardedLayer {
    trusted: Trusted,
    spared: Arc<[HeaderName]>,
}

/// Writes the forwarded fields anew; those of a trusted proxy are continued,
/// a stranger's replaced.
#[derive(Clone, Debug)]
pub struct Forwarded<S> {
    inner: S,
    trusted: Trusted,
    spared: Arc<[HeaderName]>,
}

impl ForwardedLayer {
    /// Continues what these proxies say.
    #[must_use]
    pub fn new(trust: &TrustSettings) -> Self {
        Self { trusted: Trusted::new(trust), spared: Arc::default() }
    }

    /// Leaves these fields alone, whatever they are called: an earlier phase has written them,
    /// and no client could.
    #[must_use]
    pub fn sparing(self, fields: impl IntoIterator<Item = HeaderName>) -> Self {
        Self { spared: fields.into_iter().collect(), ..self }
    }
}

impl<S> Layer<S> for ForwardedLayer {
    type Service = Forwarded<S>;

    fn layer(&self, inner: S) -> Forwarded<S> {
        Forwarded { inner, trusted: self.trusted.clone(), spared: self.spared.clone() }
    }
}

impl<S, B> Service<Request<B>> for Forwarded<S>
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
        let exchange = request.extensions().get::<Exchange>().cloned();
        write(request.headers_mut(), exchange.as_ref(), &self.trusted, &self.spared);
        self.inner.call(request)
    }
}

fn write(
    headers: &mut HeaderMap,
    exchange: Option<&Exchange>,
    trusted: &Trusted,
    spared: &[HeaderName],
) {
    let downstream = exchange.map(|exchange| &**exchange.downstream());
    let peer = downstream.and_then(Downstream::peer_address);
    let is_trusted = downstream.is_some_and(|downstream| trusted.is_peer(downstream));
    // A trusted proxy writes these fields as they are spelt; nobody means a twin.
    twins::remove(headers, |name| {
        let kept = is_trusted && is_spelt_plainly(name);
        is_claim(name) && !kept && !spared.iter().any(|spared| spared == name)
    });
    let (Some(exchange), Some(downstream)) = (exchange, downstream) else { return };
    headers.reserve(WRITTEN);
    let proto = if downstream.tls.is_some() { "https" } else { "http" };
    let host = exchange.request().host.as_ref();
    let client = exchange.client();
    if let (Some(peer), Some(text)) = (peer, downstream.peer_text()) {
        let add = if is_trusted { append_to_list } else { insert };
        add(headers, X_FORWARDED_FOR, text.clone());
        if let Some(element) = element(peer, text, proto, host) {
            add(headers, header::FORWARDED, element);
        }
        if client == Some(peer) {
            headers.insert(X_REAL_IP, text.clone());
        }
    }
    if let Some(client) = client.filter(|client| Some(*client) != peer)
        && let Ok(client) = HeaderValue::try_from(client.to_string())
    {
        headers.insert(X_REAL_IP, client);
    }
    // What the first proxy saw is what the client did; a trusted one said so.
    if !is_trusted || !headers.contains_key(X_FORWARDED_PROTO) {
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(proto));
    }
    if let Some(host) = host
        && (!is_trusted || !headers.contains_key(X_FORWARDED_HOST))
    {
        headers.insert(X_FORWARDED_HOST, host.clone());
    }
}

/// How many fields are written.
const WRITTEN: usize = 5;

/// What a stranger does not say, and `X-Forwarded-` whatever: where the request
/// comes from, and under which URL it came. Some origins route by the latter.
const CLAIMS: [&str; 12] = [
    "forwarded",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-original-forwarded-for",
    "x-original-host",
    "x-original-uri",
    "x-original-url",
    "x-rewrite-url",
    "true-client-ip",
    "cf-connecting-ip",
    "fastly-client-ip",
];

/// Whether an origin may read a name, in lower case, as one of [`CLAIMS`].
pub(crate) fn is_claim(name: &str) -> bool {
    // Most names differ from all of them at the first character.
    matches!(name.as_bytes(), [b'x' | b'f' | b't' | b'c', ..])
        && (begins_like(name, "x-forwarded-") || CLAIMS.iter().any(|claim| are_twins(name, claim)))
}

fn is_spelt_plainly(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// One element of `Forwarded`. An IPv6 address is bracketed and quoted, and
/// so is a host with a port (RFC 7239 §6).
fn element(
    peer: IpAddr,
    text: &HeaderValue,
    proto: &str,
    host: Option<&HeaderValue>,
) -> Option<HeaderValue> {
    let host = host.map(HeaderValue::as_bytes).filter(|host| {
        host.iter().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\'))
    });
    let mut element = Vec::with_capacity(96);
    let mut add = |bytes: &[u8]| element.extend_from_slice(bytes);
    let (before, after): (&[u8], &[u8]) =
        if peer.is_ipv6() { (b"for=\"[", b"]\"") } else { (b"for=", b"") };
    add(before);
    add(text.as_bytes());
    add(after);
    add(b";proto=");
    add(proto.as_bytes());
    if let Some(host) = host {
        add(b";host=\"");
        add(host);
        add(b"\"");
    }
    HeaderValue::from_maybe_shared(Bytes::from(element)).ok()
}

fn insert(headers: &mut HeaderMap, name: HeaderName, element: HeaderValue) {
    headers.insert(name, element);
}

/// Adds an element to a list field, on its one line.
fn append_to_list(headers: &mut HeaderMap, name: HeaderName, element: HeaderValue) {
    let element = match headers.contains_key(&name) {
        false => element,
        true => {
            let lines = headers.get_all(&name).iter().chain([&element]);
            let lines: Vec<&[u8]> = lines.map(HeaderValue::as_bytes).collect();
            // Values joined by what may stand in one are a value.
            HeaderValue::try_from(lines.join(&b", "[..])).unwrap_or(element)
        }
    };
    headers.insert(name, element);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::{RequestLine, TlsFacts};
    use http::{Method, Uri, Version};
    use std::sync::Arc;

    fn exchange(peer: &str) -> Exchange {
        let downstream = Downstream {
            peer: Some(peer.parse().unwrap()),
            tls: Some(TlsFacts::default()),
            ..Downstream::default()
        };
        let request = RequestLine {
            method: Method::GET,
            uri: Uri::from_static("/"),
            version: Version::HTTP_11,
            host: Some(HeaderValue::from_static("example.com")),
            user_agent: None,
            referer: None,
            accept: None,
            content_type: None,
            fields: 0,
        };
        Exchange::open(Arc::new(downstream), request, None)
    }

    fn written(peer: &str, fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        let trust = TrustSettings { proxies: vec!["10.0.0.0/8".parse().unwrap()], unix: false };
        write(&mut headers, Some(&exchange(peer)), &Trusted::new(&trust), &[]);
        headers
    }

    #[test]
    fn what_a_stranger_says_is_replaced() {
        let headers = written(
            "192.0.2.1:4711",
            &[
                ("x-forwarded-for", "6.6.6.6"),
                ("x-forwarded-proto", "gopher"),
                ("x-forwarded-host", "evil.test"),
                ("x-forwarded-port", "1"),
                ("x-real-ip", "6.6.6.6"),
                ("forwarded", "for=6.6.6.6"),
                ("x_forwarded_for", "6.6.6.6"),
                ("x-forwarded_proto", "gopher"),
                ("x.real.ip", "6.6.6.6"),
                ("x-forwarded-user", "root"),
                ("x-original-url", "/admin"),
                ("x_rewrite_url", "/admin"),
                ("true-client-ip", "6.6.6.6"),
            ],
        );
        assert_eq!(headers[X_FORWARDED_FOR], "192.0.2.1");
        assert_eq!(headers[X_FORWARDED_PROTO], "https");
        assert_eq!(headers[X_FORWARDED_HOST], "example.com");
        assert_eq!(headers[X_REAL_IP], "192.0.2.1");
        let expected = "for=192.0.2.1;proto=https;host=\"example.com\"";
        assert_eq!(headers[header::FORWARDED], expected);
        assert_eq!(headers.len(), 5, "{headers:?}");
    }

    #[test]
    fn what_a_trusted_proxy_says_is_continued() {
        let fields = [("x-forwarded-for", "192.0.2.1"), ("x-forwarded-proto", "http")];
        let headers = written("10.0.0.1:4711", &fields);
        assert_eq!(headers[X_FORWARDED_FOR], "192.0.2.1, 10.0.0.1");
        assert_eq!(headers[X_FORWARDED_PROTO], "http");
        let fields = [("x_forwarded_for", "192.0.2.1"), ("x-forwarded-prefix", "/a")];
        let headers = written("10.0.0.1:4711", &fields);
        assert_eq!(headers[X_FORWARDED_FOR], "10.0.0.1");
        assert_eq!(headers["x-forwarded-prefix"], "/a");
        assert!(!headers.contains_key("x_forwarded_for"));
    }

    #[test]
    fn an_ipv6_peer_is_bare_in_one_field_and_bracketed_in_the_other() {
        let headers = written("[2001:db8::1]:4711", &[]);
        assert_eq!(headers[X_FORWARDED_FOR], "2001:db8::1");
        let forwarded = headers[header::FORWARDED].to_str().unwrap();
        assert!(forwarded.starts_with("for=\"[2001:db8::1]\";"), "{forwarded}");
    }
}
