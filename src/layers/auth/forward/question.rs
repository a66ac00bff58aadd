//! What the service is told of a request.

use std::borrow::Cow;
use std::net::IpAddr;

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Request};

use super::settings::{ForwardAuthSettings, ToldFields};
use crate::forward::strip_hop_by_hop;
use crate::layers::auth::Asked;
use crate::layers::forwarded::is_claim;
use crate::layers::request_id::REQUEST_ID;
use crate::layers::twins::{self, are_twins, begins_like};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");
const ORIGINAL_METHOD: HeaderName = HeaderName::from_static("x-original-method");
const ORIGINAL_URI: HeaderName = HeaderName::from_static("x-original-uri");
const ORIGINAL_URL: HeaderName = HeaderName::from_static("x-original-url");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// A request as it is described to others: what the route was chosen by, and where it
/// comes from.
#[derive(Debug)]
pub(super) struct Described<'a> {
    pub(super) scheme: &'static str,
    pub(super) host: Option<HeaderValue>,
    pub(super) method: &'a Method,
    pub(super) target: &'a str,
    pub(super) client: Option<IpAddr>,
}

impl<'a> Described<'a> {
    pub(super) fn of(asked: &Asked<'a>) -> Self {
        let client = asked.client();
        let line = asked.exchange.map(|exchange| exchange.request());
        let authority = asked.uri.authority();
        let host = line
            .and_then(|line| line.host.clone())
            .or_else(|| authority.and_then(|host| HeaderValue::from_str(host.as_str()).ok()))
            .or_else(|| asked.headers.get(header::HOST).cloned());
        let is_tls = match asked.downstream {
            Some(downstream) => downstream.tls.is_some(),
            None => asked.uri.scheme_str() == Some("https"),
        };
        let mut described = Self {
            scheme: if is_tls { "https" } else { "http" },
            host,
            // A WebSocket over HTTP/2 (RFC 8441) is to be judged as any other.
            method: if *asked.method == Method::CONNECT { &Method::GET } else { asked.method },
            target: asked.uri.path_and_query().map_or("/", |target| target.as_str()),
            client,
        };
        // Whoever is believed about the client is believed about its scheme, but not about
        // the host: many a proxy passes on what the client says of that, and the route was
        // chosen by another.
        let peer = asked.downstream.and_then(|downstream| downstream.peer_address());
        if client.is_some() && client != peer {
            match asked.headers.get(FORWARDED_PROTO).map(HeaderValue::as_bytes) {
                Some(b"https") => described.scheme = "https",
                Some(b"http") => described.scheme = "http",
                _ => {}
            }
        }
        described
    }

    pub(super) fn path(&self) -> &str {
        self.target.split_once('?').map_or(self.target, |(path, _)| path)
    }

    /// With its `?`: an empty query is another than none.
    pub(super) fn query(&self) -> &str {
        &self.target[self.path().len()..]
    }

    fn url(&self) -> Option<HeaderValue> {
        let host = self.host.as_ref()?.to_str().ok()?;
        HeaderValue::try_from(format!("{}://{host}{}", self.scheme, self.target)).ok()
    }

    /// In the fields that Traefik and nginx have taught such services to read.
    fn write(&self, headers: &mut HeaderMap) {
        let text = |text: &str| HeaderValue::from_str(text).ok();
        let method = text(self.method.as_str());
        let target = text(self.target);
        let client = self.client.and_then(|client| text(&client.to_string()));
        let fields = [
            (FORWARDED_METHOD, method.clone()),
            (FORWARDED_PROTO, Some(HeaderValue::from_static(self.scheme))),
            (FORWARDED_HOST, self.host.clone()),
            (FORWARDED_URI, target.clone()),
            (FORWARDED_FOR, client.clone()),
            (REAL_IP, client),
            (ORIGINAL_METHOD, method),
            (ORIGINAL_URI, target),
            (ORIGINAL_URL, self.url()),
        ];
        for (name, value) in fields {
            if let Some(value) = value {
                headers.insert(name, value);
            }
        }
    }
}

/// The fields of a client that are for more than the next hop (RFC 9110 §7.6.1). One that
/// `Connection` names is not for the origin, and so not for the service: it is as if it were
/// not there, also to what decisions are remembered by.
pub(super) fn end_to_end(headers: &HeaderMap) -> Cow<'_, HeaderMap> {
    // These name nothing that anybody is told in any case.
    const USUAL: [&[u8]; 4] = [b"", b"close", b"keep-alive", b"upgrade"];
    let lines = headers.get_all(header::CONNECTION).iter();
    let mut tokens = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let is_usual =
        |token: &[u8]| USUAL.iter().any(|usual| token.trim_ascii().eq_ignore_ascii_case(usual));
    if tokens.all(is_usual) {
        return Cow::Borrowed(headers);
    }
    let mut left = headers.clone();
    strip_hop_by_hop(&mut left, &[]);
    Cow::Owned(left)
}

/// The request that asks the service.
pub(super) fn question(settings: &ForwardAuthSettings, asked: &Asked<'_>) -> Request<Bytes> {
    let mut request = Request::new(Bytes::new());
    *request.method_mut() = settings.method.clone();
    request.uri_mut().clone_from(&settings.url);
    let headers = request.headers_mut();
    copy(asked.headers, &settings.request_headers, headers);
    if let Some(id) = asked.exchange.and_then(|of| of.read(|record| record.request_id.clone())) {
        headers.insert(REQUEST_ID, id);
    }
    Described::of(asked).write(headers);
    if settings.send_body.is_some() {
        for name in [header::CONTENT_TYPE, header::CONTENT_ENCODING] {
            if let Some(value) = asked.headers.get(&name) {
                headers.insert(name, value.clone());
            }
        }
        *request.body_mut() = asked.body.cloned().unwrap_or_default();
    }
    request
}

fn copy(from: &HeaderMap, told: &ToldFields, to: &mut HeaderMap) {
    match told {
        ToldFields::These(names) => {
            for name in names.iter().filter(|name| !is_ours_to_say(name.as_str())) {
                for line in from.get_all(name) {
                    to.append(name, line.clone());
                }
            }
        }
        ToldFields::All => {
            *to = from.clone();
            strip_hop_by_hop(to, &[]);
            twins::remove(to, is_withheld);
        }
    }
    join_crumbs(to);
}

/// Whether a field, in lower case, says where a request comes from, and for what it is: no
/// client is believed that.
fn is_ours_to_say(name: &str) -> bool {
    is_claim(name) || begins_like(name, "x-original-") || are_twins(name, REQUEST_ID.as_str())
}

/// Whether a field, in lower case, is not among all that a service is told: what is about this
/// message, what is asked of the origin's answer, and what we say ourselves.
fn is_withheld(name: &str) -> bool {
    const WITHHELD: [&str; 10] = [
        "accept-encoding",
        "content-encoding",
        "content-length",
        "content-range",
        "content-type",
        "expect",
        "host",
        "range",
        "te",
        "trailer",
    ];
    is_ours_to_say(name)
        || begins_like(name, "if-")
        || WITHHELD.iter().any(|withheld| are_twins(name, withheld))
}

/// HTTP/1.1 has one line of cookies (RFC 9113 §8.2.3).
fn join_crumbs(headers: &mut HeaderMap) {
    let mut lines = headers.get_all(header::COOKIE).iter();
    if let (Some(first), Some(_)) = (lines.next(), lines.next()) {
        let mut joined = first.as_bytes().to_vec();
        for line in headers.get_all(header::COOKIE).iter().skip(1) {
            joined.extend_from_slice(b"; ");
            joined.extend_from_slice(line.as_bytes());
        }
        // Values joined by what may stand in one are a value.
        if let Ok(joined) = HeaderValue::from_bytes(&joined) {
            headers.insert(header::COOKIE, joined);
        }
    }
}
