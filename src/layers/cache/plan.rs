//! What is to be done with a request, and what a change does to what is stored.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, Uri};

use super::directives::{Control, Directives, Scope};
use super::key::Key;
use super::policy::{Asked, Why, s4_4_is_unsafe};
use super::status::Status;
use super::store::Head;
use super::{Purge, Route};
use crate::body::Body;
use crate::context::ByCredentials;
use crate::layers::are_twins;

/// Fields by which a request asks for something else than its method says.
const OVERRIDES: [&str; 3] = ["x-http-method-override", "x-http-method", "x-method-override"];

/// What is to be done with a request.
pub(super) enum Plan {
    /// The cache has nothing to do with it.
    Around(Status),
    /// It may change what its URL, and others, are about.
    Changes(Key),
    /// There may be a stored response to it.
    Look(Key),
}

impl Route {
    pub(super) fn plan<B: http_body::Body>(&self, request: &Request<B>) -> Plan {
        let bypass = |detail: Why| {
            Plan::Around(Status { detail: Some(detail), ..Status::forwarded("bypass") })
        };
        let (method, headers) = (request.method(), request.headers());
        if headers.contains_key(header::UPGRADE) || *method == Method::CONNECT {
            return bypass("upgrade");
        }
        let Some(key) = Key::of(&self.space, request, &self.settings.key) else {
            return bypass("no-host");
        };
        if s4_4_is_unsafe(method) {
            return Plan::Changes(key);
        }
        if !matches!(*method, Method::GET | Method::HEAD) {
            return Plan::Around(Status::forwarded("method"));
        }
        // What asks for more than its URL says is not answered by its URL.
        if !request.body().is_end_stream() {
            return bypass("body");
        }
        let is_override = |name: &HeaderName| {
            let name = name.as_str();
            name.starts_with('x') && OVERRIDES.iter().any(|known| are_twins(name, known))
        };
        // One walk past their names.
        let (mut overrides, mut connection) = (false, false);
        for name in headers.keys() {
            overrides |= is_override(name);
            connection |= *name == header::CONNECTION;
        }
        if overrides {
            return bypass("method-override");
        }
        if connection && names_fields(headers) {
            return bypass("connection");
        }
        Plan::Look(key)
    }

    /// What a request says of stored responses, if anybody listens.
    pub(super) fn said(&self, headers: &HeaderMap) -> Option<Directives> {
        if !self.settings.honour_request_directives {
            return None;
        }
        let mut said = Directives::of(headers);
        // RFC 9111 §5.4.
        let pragma = headers.get(header::PRAGMA).is_some_and(|value| value == "no-cache");
        if pragma && !headers.contains_key(header::CACHE_CONTROL) {
            said.no_cache = Scope::Whole;
        }
        Some(said)
    }

    /// Whose request it is.
    pub(super) fn asked<B>(&self, request: &Request<B>) -> Asked {
        let headers = request.headers();
        let own = |name: &HeaderName| headers.contains_key(name) && !self.vouched.contains(name);
        let known = ByCredentials::let_in(request.extensions());
        Asked {
            credentials: known || own(&header::AUTHORIZATION),
            cookie: own(&header::COOKIE),
            no_store: Directives::of(headers).no_store,
        }
    }

    /// Takes out of a request what it has of whoever sent it: what is stored is
    /// validated by it for all. What the origin says is for all it may have said because
    /// of it, and says it again.
    pub(super) fn make_nobodys(&self, request: &mut HeaderMap, stale: &Head) {
        for name in [
            header::RANGE,
            header::IF_RANGE,
            header::IF_MATCH,
            header::IF_UNMODIFIED_SINCE,
            header::CACHE_CONTROL,
            header::PRAGMA,
        ] {
            request.remove(name);
        }
        if Control::of(&stale.headers).is_for_all() {
            return;
        }
        for name in [header::AUTHORIZATION, header::COOKIE] {
            if !self.vouched.contains(&name) {
                request.remove(name);
            }
        }
    }

    /// RFC 9111 §4.4: what is stored of a URL that was changed, and of those that the
    /// answer names on the same host, holds no longer.
    pub(super) fn changed(&self, key: &Key, response: &Response<Body>) {
        let status = response.status();
        if !(status.is_success() || status.is_redirection()) {
            return;
        }
        let Ok(changed) = key.url().parse::<Uri>() else { return };
        let named = [header::LOCATION, header::CONTENT_LOCATION].into_iter().filter_map(|name| {
            let text = response.headers().get(name)?.to_str().ok()?;
            beside(&changed, text)
        });
        for url in named.chain([changed.clone()]) {
            let what = Purge::Url(url);
            self.cache.purge(&what, false);
            if let Some(fleet) = self.cache.fleet() {
                fleet.changed(what);
            }
        }
    }
}

/// Whether a request is for the origin to judge (RFC 9111 §4.3.2): what it says of a
/// condition that fails is not about what is asked for.
pub(super) fn asks_on_conditions(headers: &HeaderMap) -> bool {
    headers.contains_key(header::IF_MATCH) || headers.contains_key(header::IF_UNMODIFIED_SINCE)
}

/// Whether `Connection` takes fields out on the way to the origin: it then sees another
/// request than the one that is looked at here.
fn names_fields(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(header::CONNECTION).iter().map(HeaderValue::as_bytes);
    let mut options = lines.flat_map(|line| line.split(|byte| *byte == b','));
    options.any(|option| {
        let option = option.trim_ascii();
        let harmless = [&b""[..], b"close", b"keep-alive", b"te"];
        !harmless.iter().any(|known| option.eq_ignore_ascii_case(known))
    })
}

/// What a reference means that a response to `base` has, if it is of the same origin
/// (RFC 9110 §4.3.1).
fn beside(base: &Uri, reference: &str) -> Option<Uri> {
    let reference = reference.split('#').next().unwrap_or_default();
    let (scheme, authority) = (base.scheme_str()?, base.authority()?);
    let url: Uri = if reference.starts_with("//") {
        format!("{scheme}:{reference}").parse().ok()?
    } else if reference.contains("://") {
        reference.parse().ok()?
    } else if reference.starts_with('/') {
        format!("{scheme}://{authority}{reference}").parse().ok()?
    } else {
        let (folder, _) = base.path().rsplit_once('/')?;
        format!("{scheme}://{authority}{folder}/{reference}").parse().ok()?
    };
    let same_host = url.authority()?.as_str().eq_ignore_ascii_case(authority.as_str());
    (same_host && url.scheme() == base.scheme()).then_some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc9111_s4_4_only_urls_of_the_same_origin_are_invalidated() {
        let base: Uri = "http://a.test/x/y".parse().unwrap();
        let of = |reference| beside(&base, reference).map(|url| url.to_string());
        assert_eq!(of("/z?q#f"), Some("http://a.test/z?q".into()));
        assert_eq!(of("z"), Some("http://a.test/x/z".into()));
        assert_eq!(of("http://A.test/z"), Some("http://A.test/z".into()));
        assert_eq!(of("http://b.test/z"), None);
        assert_eq!(of("//b.test/z"), None);
        assert_eq!(of("https://a.test/z"), None);
        assert_eq!(of("http://a.test:81/z"), None);
    }

    #[test]
    fn a_connection_that_names_fields_is_seen() {
        let names = |value: &str| {
            names_fields(&HeaderMap::from_iter([(header::CONNECTION, value.parse().unwrap())]))
        };
        assert!(!names("keep-alive") && !names("TE, Close"));
        assert!(names("close, Accept-Encoding") && names("cookie"));
    }
}
