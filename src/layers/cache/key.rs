//! What a stored response is found by: its route and URL, and the fields of the request
//! that select among its variants (RFC 9111 §2 and §4.1).

use std::borrow::{Borrow, Cow};
use std::fmt::Write as _;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Uri};
use sha2::{Digest, Sha256};

use super::CacheKeySettings;
use crate::context::{Downstream, Exchange};

/// What a proxy in front says of the request, which the origin may build its answer
/// from: they tell requests apart although no `Vary` names them.
const SAID_BY_PROXIES: [HeaderName; 4] = [
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-prefix"),
];

/// A route with a URL.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Key(Box<str>);

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Key {
    /// Of a request as it will be forwarded; `None` if it names no host.
    pub(super) fn of<B>(
        route: &str,
        request: &Request<B>,
        settings: &CacheKeySettings,
    ) -> Option<Self> {
        let (uri, headers) = (request.uri(), request.headers());
        let host = uri.authority().map(http::uri::Authority::as_str);
        let host = host.or_else(|| headers.get(header::HOST)?.to_str().ok())?;
        let said = headers.get(&SAID_BY_PROXIES[1]).map(HeaderValue::as_bytes);
        let scheme = match (uri.scheme_str(), said) {
            (_, Some(b"https")) => "https",
            (_, Some(b"http")) => "http",
            (Some(scheme), _) => scheme,
            (None, _) if over_tls(request) => "https",
            (None, _) => "http",
        };
        Some(Self::join(route, scheme, host, uri, settings))
    }

    /// Of a URL that somebody names; `None` if it is none.
    pub(super) fn of_url(route: &str, url: &Uri, settings: &CacheKeySettings) -> Option<Self> {
        let (scheme, host) = (url.scheme_str()?, url.authority()?.as_str());
        Some(Self::join(route, scheme, host, url, settings))
    }

    /// The path and the query stand as they are sent: what differs by a percent sign may
    /// be something else to an origin.
    fn join(route: &str, scheme: &str, host: &str, uri: &Uri, key: &CacheKeySettings) -> Self {
        let port = if scheme == "https" { ":443" } else { ":80" };
        let host = host.strip_suffix(port).unwrap_or(host);
        let path = if uri.path().is_empty() { "/" } else { uri.path() };
        let query = uri.query();
        let begins = [route, "\n", scheme, "://", host];
        // As long as it gets, so that it is not moved at the end.
        let length = begins.iter().map(|part| part.len()).sum::<usize>() + path.len();
        let mut text = String::with_capacity(length + query.map_or(0, |query| 1 + query.len()));
        begins.iter().for_each(|part| text.push_str(part));
        let at = text.len() - host.len();
        text[at..].make_ascii_lowercase();
        text.push_str(path);
        if let Some(query) = query {
            if key.ignore_query.is_empty() {
                text.push('?');
                text.push_str(query);
            } else {
                let kept = query.split('&').filter(|pair| !ignores(key, pair));
                for (at, pair) in kept.enumerate() {
                    text.push(if at == 0 { '?' } else { '&' });
                    text.push_str(pair);
                }
            }
        }
        Self(text.into())
    }

    /// Of the variant of it that a request selects by these fields.
    pub(super) fn variant(&self, selecting: &Selecting, request: &HeaderMap) -> Self {
        let mut text = String::from(&*self.0);
        for (name, _) in &selecting.0 {
            let value = normalised(request, name);
            let value = value.as_deref().map(String::from_utf8_lossy);
            let _infallible = write!(text, "\n{name}={value:?}");
        }
        Self(text.into())
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn route(&self) -> &str {
        // The number behind its name is nobody else's concern.
        self.0.split(['\n', '\t']).next().unwrap_or_default()
    }

    pub(super) fn url(&self) -> &str {
        self.0.split_once('\n').map_or("", |(_, url)| url)
    }
}

fn over_tls<B>(request: &Request<B>) -> bool {
    let extensions = request.extensions();
    match extensions.get::<Exchange>() {
        Some(exchange) => exchange.downstream().tls.is_some(),
        None => {
            let downstream = extensions.get::<std::sync::Arc<Downstream>>();
            downstream.is_some_and(|downstream| downstream.tls.is_some())
        }
    }
}

fn ignores(settings: &CacheKeySettings, pair: &str) -> bool {
    let name = pair.split('=').next().unwrap_or(pair);
    settings.ignore_query.iter().any(|ignored| match ignored.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => name == ignored,
    })
}

/// The fields of a request that its response was selected by, with their values.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Selecting(Vec<(HeaderName, Option<Box<[u8]>>)>);

impl Selecting {
    /// By what `response` says in `Vary`, and what is always looked at.
    pub(super) fn of(
        request: &HeaderMap,
        response: &HeaderMap,
        settings: &CacheKeySettings,
    ) -> Self {
        let mut names: Vec<HeaderName> = SAID_BY_PROXIES.to_vec();
        names.extend(settings.headers.iter().cloned());
        for line in response.get_all(header::VARY) {
            let said = line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
            names.extend(said.filter_map(|name| HeaderName::from_bytes(name).ok()));
        }
        names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        names.dedup();
        let value = |name: &HeaderName| normalised(request, name).map(Into::into);
        Self(names.into_iter().map(|name| (name.clone(), value(&name))).collect())
    }

    /// RFC 9111 §4.1: whether another request selects the same.
    pub(super) fn matches(&self, request: &HeaderMap) -> bool {
        // One walk past the request's fields: most of those that are asked about it has
        // not.
        let mut met = 0;
        for name in request.keys() {
            match self.0.iter().find(|(known, _)| known == name) {
                None => {}
                Some((_, Some(value))) if normalised(request, name).as_deref() == Some(value) => {
                    met += 1;
                }
                Some(_) => return false,
            }
        }
        met == self.0.iter().filter(|(_, value)| value.is_some()).count()
    }

    /// The fields, each with its value if it had one.
    pub(super) fn parts(&self) -> impl Iterator<Item = (&HeaderName, Option<&[u8]>)> {
        self.0.iter().map(|(name, value)| (name, value.as_deref()))
    }

    pub(super) fn from_parts(parts: Vec<(HeaderName, Option<Box<[u8]>>)>) -> Self {
        Self(parts)
    }

    /// Tells it from others, in whatever process.
    pub(super) fn digest(&self) -> u64 {
        let mut digest = Sha256::new();
        for (name, value) in &self.0 {
            for text in [Some(name.as_str().as_bytes()), value.as_deref()] {
                let length = text.map_or(u64::MAX, |text| text.len() as u64);
                digest.update(length.to_le_bytes());
                digest.update(text.unwrap_or_default());
            }
        }
        let [a, b, c, d, e, f, g, h, ..] = <[u8; 32]>::from(digest.finalize());
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }

    /// How much memory it takes.
    pub(super) fn weight(&self) -> usize {
        self.0
            .iter()
            .map(|(_, value)| 48 + value.as_ref().map_or(0, |value| 16 + value.len()))
            .sum()
    }

    /// The fields that have a value.
    pub(super) fn shown(&self) -> impl Iterator<Item = (&HeaderName, Cow<'_, str>)> {
        let shown = |(name, value)| Some((name, String::from_utf8_lossy(Option::as_deref(value)?)));
        self.0.iter().map(|(name, value)| (name, value)).filter_map(shown)
    }
}

/// A field's value, such that what means the same is the same.
fn normalised<'r>(request: &'r HeaderMap, name: &HeaderName) -> Option<Cow<'r, [u8]>> {
    let all = request.get_all(name);
    let mut lines = all.iter().map(HeaderValue::as_bytes);
    let first = lines.next()?;
    if *name == header::ACCEPT_ENCODING {
        return Some(Cow::Owned(codings(all.iter().map(HeaderValue::as_bytes))));
    }
    if *name == header::ACCEPT_LANGUAGE {
        let all = request.get_all(name).iter().map(HeaderValue::as_bytes);
        return Some(Cow::Owned(languages(all)));
    }
    match lines.next() {
        None if !first.contains(&b',') => Some(Cow::Borrowed(first.trim_ascii())),
        _ => {
            // Several lines are one list, and blanks around its commas mean nothing.
            let lines = all.iter().map(HeaderValue::as_bytes);
            let members: Vec<&[u8]> = lines.flat_map(super::directives::members).collect();
            Some(Cow::Owned(members.join(&b","[..])))
        }
    }
}

/// `Accept-Encoding` (RFC 9110 §12.5.3): what is accepted, in the order of preference;
/// how much more something is preferred does not matter, nor the order of equals.
fn codings<'v>(lines: impl Iterator<Item = &'v [u8]>) -> Vec<u8> {
    let mut accepted: Vec<(u16, Vec<u8>)> = Vec::new();
    for member in lines.flat_map(super::directives::members) {
        let mut parts = member.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let mut coding = parts.next().unwrap_or_default().to_ascii_lowercase();
        if coding == b"x-gzip" {
            coding = b"gzip".to_vec();
        }
        let quality = parts.find_map(quality);
        accepted.retain(|(_, other)| *other != coding);
        accepted.push((quality.unwrap_or(1000), coding));
    }
    // What is not accepted need not be said, unless all else is.
    let any = accepted.iter().any(|(_, coding)| coding == b"*");
    accepted.retain(|(quality, coding)| *quality > 0 || any || coding == b"identity");
    accepted.sort_by(|(qa, a), (qb, b)| qb.cmp(qa).then_with(|| a.cmp(b)));
    let mut text = Vec::new();
    let mut before = None;
    for (quality, coding) in accepted {
        match before {
            None => {}
            Some(before) if before == quality => text.push(b','),
            Some(_) => text.push(b'>'),
        }
        if quality == 0 {
            text.push(b'!');
        }
        text.extend(coding);
        before = Some(quality);
    }
    text
}

/// `Accept-Language` (RFC 9110 §12.5.4): languages whatever their case, by their weights;
/// of equals the order stays, for some take it to mean something.
fn languages<'v>(lines: impl Iterator<Item = &'v [u8]>) -> Vec<u8> {
    let members = lines.flat_map(super::directives::members).map(|member| {
        let mut parts = member.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let language = parts.next().unwrap_or_default().to_ascii_lowercase();
        let quality = parts.find_map(quality);
        (quality.unwrap_or(1000), language)
    });
    let mut accepted: Vec<_> = members.collect();
    accepted.sort_by_key(|(quality, _)| std::cmp::Reverse(*quality));
    let each = accepted
        .iter()
        .map(|(quality, language)| [language, &b";"[..], quality.to_string().as_bytes()].concat());
    each.collect::<Vec<_>>().join(&b","[..])
}

/// The weight that a parameter is, whatever the case of its name.
fn quality(parameter: &[u8]) -> Option<u16> {
    let weight = parameter.strip_prefix(b"q=").or_else(|| parameter.strip_prefix(b"Q="));
    weight.map(thousandths)
}

/// A weight, in thousandths.
fn thousandths(text: &[u8]) -> u16 {
    let text = std::str::from_utf8(text).unwrap_or_default();
    let weight: f32 = text.parse().unwrap_or(1.0);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 1000")]
    let thousandths = (weight.clamp(0.0, 1.0) * 1000.0) as u16;
    thousandths
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(uri: &str, fields: &[(&'static str, &str)], ignore: &[&str]) -> Option<String> {
        let mut request = Request::get(uri).body(()).unwrap();
        for (name, value) in fields {
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        let ignore_query = ignore.iter().map(|&name| name.to_owned()).collect();
        let settings = CacheKeySettings { ignore_query, headers: Vec::new() };
        Key::of("r", &request, &settings).map(|key| key.url().to_owned())
    }

    #[test]
    fn rfc9110_s4_2_3_urls_that_are_equal_have_one_key() {
        let expected = Some("http://a.test/x?b".to_owned());
        assert_eq!(key("/x?b", &[("host", "A.Test")], &[]), expected);
        assert_eq!(key("/x?b", &[("host", "a.test:80")], &[]), expected);
        assert_eq!(key("http://a.test/x?b", &[], &[]), expected);
        assert_eq!(key("http://a.test", &[], &[]), Some("http://a.test/".to_owned()));
        assert_eq!(key("/x", &[], &[]), None);
    }

    #[test]
    fn what_may_be_something_else_to_an_origin_has_another_key() {
        let of = |uri| key(uri, &[("host", "a.test")], &[]);
        assert_ne!(of("/a%2fb"), of("/a/b"));
        assert_ne!(of("/a%41"), of("/aA"));
        assert_ne!(of("/a"), of("/a?"));
        assert_ne!(of("/a?x=1&y=2"), of("/a?y=2&x=1"));
        let tls = [("host", "a.test"), ("x-forwarded-proto", "https")];
        assert_eq!(key("/", &tls, &[]), Some("https://a.test/".to_owned()));
    }

    #[test]
    fn parameters_can_be_left_out() {
        let of = |uri| key(uri, &[("host", "a")], &["utm_*", "sid"]);
        assert_eq!(of("/?utm_source=x&id=3&sid=9&side=1"), Some("http://a/?id=3&side=1".into()));
        assert_eq!(of("/?sid"), Some("http://a/".into()));
    }

    #[test]
    fn routes_do_not_share() {
        let request = Request::get("http://a.test/").body(()).unwrap();
        let of = |route| Key::of(route, &request, &CacheKeySettings::default()).unwrap();
        assert_ne!(of("a"), of("b"));
        assert_eq!((of("a").route(), of("a").url()), ("a", "http://a.test/"));
    }

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn s4_1_a_response_is_selected_by_every_field_that_vary_names() {
        let response = headers(&[("vary", "Accept-Language, X-A")]);
        let first = headers(&[("accept-language", "de, en"), ("x-b", "1")]);
        let selecting = Selecting::of(&first, &response, &CacheKeySettings::default());
        assert!(selecting.matches(&headers(&[("accept-language", "de,en")])));
        assert!(
            selecting.matches(&headers(&[("accept-language", "de"), ("accept-language", "en")]))
        );
        assert!(!selecting.matches(&headers(&[("accept-language", "en, de")])));
        assert!(!selecting.matches(&HeaderMap::new()));
        assert!(!selecting.matches(&headers(&[("accept-language", "de,en"), ("x-a", "")])));
    }

    #[test]
    fn what_proxies_say_always_tells_apart() {
        let (of, none) = (Selecting::of, HeaderMap::new());
        let selecting = of(&none, &none, &CacheKeySettings::default());
        assert!(selecting.matches(&headers(&[("x-anything", "1")])));
        assert!(!selecting.matches(&headers(&[("x-forwarded-host", "evil.test")])));
        let settings =
            CacheKeySettings { headers: vec!["x-tenant".parse().unwrap()], ..Default::default() };
        assert!(!of(&none, &none, &settings).matches(&headers(&[("x-tenant", "a")])));
    }

    #[test]
    fn rfc9110_s12_5_4_accept_language_is_compared_by_weight_whatever_its_case() {
        let of = |value: &str| languages([value.as_bytes()].into_iter());
        assert_eq!(of("en-GB, de"), of("EN-gb , De"));
        assert_eq!(of("fr;q=0.5, de;q=1.0"), of("de, fr; Q=0.50"));
        assert_ne!(of("en, de"), of("de, en"), "their order may mean something");
        assert_ne!(of("en;q=0.1, de"), of("en;q=0.2, de"));
    }

    #[test]
    fn rfc9110_s12_5_3_accept_encoding_is_one_value_for_one_meaning() {
        let of = |value: &str| String::from_utf8(codings([value.as_bytes()].into_iter())).unwrap();
        assert_eq!(of("gzip, deflate, br"), "br,deflate,gzip");
        assert_eq!(of("br;q=1.0, gzip;q=0.8"), "br>gzip");
        assert_eq!(of("gzip;q=0.5, BR"), "br>gzip");
        assert_eq!(of("x-gzip, br;q=0"), "gzip");
        assert_eq!(of("gzip, br;Q=0"), "gzip");
        assert_eq!(of("*, br;q=0"), "*>!br");
        assert_eq!(of("identity;q=0, gzip"), "gzip>!identity");
    }

    proptest::proptest! {
        /// So that machines which share a cache find the one that has something.
        #[test]
        fn a_balancer_that_hashes_urls_tells_apart_what_a_cache_tells_apart(
            one in url(), other in url(), ignores in proptest::bool::ANY
        ) {
            use crate::balance::Balance as _;
            use crate::upstream::{HashBy, OriginSettings, Upstream, UpstreamSettings};
            let ignore: &[&str] = if ignores { &["a"] } else { &[] };
            let ignore_query = ignore.iter().map(|&name| name.to_owned()).collect();
            let origin = OriginSettings::new("http://127.0.0.1".parse().unwrap());
            let upstream = Upstream::new(
                UpstreamSettings::new("u", vec![origin]),
                crate::observe::Metrics::default(),
                crate::budget::Budget::unlimited(),
            );
            let by = HashBy::Url { ignore_query };
            let balance = crate::balance::Hashed::new(upstream.unwrap(), by);
            let hash = |(uri, host, proto): &(String, String, String)| {
                let request = Request::get(uri).header("host", host);
                let request = request.header("x-forwarded-proto", proto);
                balance.key(&request.body(crate::body::Body::empty()).unwrap())
            };
            let key = |(uri, host, proto): &(String, String, String)| {
                key(uri, &[("host", host), ("x-forwarded-proto", proto)], ignore)
            };
            proptest::prop_assert_eq!(key(&one) == key(&other), hash(&one) == hash(&other));
        }
    }

    /// A target, a host and what a proxy says of the scheme: few, so that some are alike.
    fn url() -> impl proptest::strategy::Strategy<Value = (String, String, String)> {
        let host = "[aA](:80|:443)?";
        (
            proptest::prop_oneof![
                "/[ab]{0,1}(\\?[ab]{0,1}(=1)?(&b)?)?",
                "https?://[aA](:80|:443)?(/[ab]{0,1})?(\\?[ab]{0,1})?",
            ],
            host,
            "(https|http|other)",
        )
    }
}
