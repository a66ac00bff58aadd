//! What the origin is asked for: its path, and under which name.

use http::header;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderValue, Request, Uri};

use crate::error::{Error, Kind};
use crate::upstream::Origin;

/// How the target and `Host` are rewritten.
#[derive(Clone, Debug, Default)]
pub struct TargetSettings {
    /// The prefix that the route matched, and what stands in its place.
    pub replace_prefix: Option<(String, String)>,
    /// What the origin sees as `Host`.
    pub host: HostPolicy,
}

/// What the origin sees as `Host`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum HostPolicy {
    /// What the client sent.
    #[default]
    Keep,
    /// The origin's own authority.
    Origin,
    /// This.
    Set(HeaderValue),
}

/// Brings the target into origin form (RFC 9112 §3.2.1), its prefix replaced,
/// and `Host` into a field, whatever version the request came in.
pub(super) fn rewrite<B>(request: &mut Request<B>, settings: &TargetSettings) -> Result<(), Error> {
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    let host = match &settings.host {
        HostPolicy::Keep => parts.authority.as_ref().and_then(host_value),
        HostPolicy::Set(host) => Some(host.clone()),
        HostPolicy::Origin => None,
    };
    if let Some(host) = host {
        request.headers_mut().insert(header::HOST, host);
    }
    let mut path = parts.path_and_query.take().unwrap_or_else(|| PathAndQuery::from_static("/"));
    if path.as_str().starts_with('?') {
        // A URL's path may be empty; a target's may not (RFC 9112 §3.2.1).
        path = parsed(format!("/{}", path.as_str()))?;
    }
    if let Some((prefix, replacement)) = &settings.replace_prefix {
        path = replaced(&path, prefix, replacement)?;
    }
    *request.uri_mut() = Uri::from(path);
    Ok(())
}

/// Writes what depends on the origin that was picked.
pub(super) fn address<B>(request: &mut Request<B>, origin: &Origin, settings: &TargetSettings) {
    // A request without `Host` (HTTP/1.0) gets the origin's.
    let wanted =
        settings.host == HostPolicy::Origin || !request.headers().contains_key(header::HOST);
    if wanted && let Some(host) = origin.host() {
        request.headers_mut().insert(header::HOST, host.clone());
    }
}

fn host_value(authority: &Authority) -> Option<HeaderValue> {
    HeaderValue::from_str(authority.as_str()).ok()
}

fn replaced(path: &PathAndQuery, prefix: &str, replacement: &str) -> Result<PathAndQuery, Error> {
    let Some(rest) = path.path().strip_prefix(prefix.trim_end_matches('/')) else {
        return Ok(path.clone());
    };
    let mut target = String::with_capacity(replacement.len() + path.as_str().len());
    target.push_str(replacement.trim_end_matches('/'));
    if !rest.starts_with('/') {
        target.push('/');
    }
    target.push_str(rest);
    if let Some(query) = path.query() {
        target.push('?');
        target.push_str(query);
    }
    parsed(target)
}

fn parsed(target: String) -> Result<PathAndQuery, Error> {
    PathAndQuery::try_from(target).map_err(|error| {
        Error::new(Kind::Internal).detail("the rewritten path is not one").because(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(uri: &str, prefix: &str, replacement: &str) -> String {
        let mut request = Request::get(uri).body(()).unwrap();
        let settings = TargetSettings {
            replace_prefix: Some((prefix.to_owned(), replacement.to_owned())),
            ..TargetSettings::default()
        };
        rewrite(&mut request, &settings).unwrap();
        request.uri().to_string()
    }

    #[test]
    fn a_prefix_is_stripped_or_replaced_and_the_query_kept() {
        assert_eq!(rewritten("/api/users?a=b", "/api", ""), "/users?a=b");
        assert_eq!(rewritten("/api", "/api", ""), "/");
        assert_eq!(rewritten("/api/", "/api/", "/v1/"), "/v1/");
        assert_eq!(rewritten("/api/users", "/api", "/v1"), "/v1/users");
        assert_eq!(rewritten("/users", "/", "/v1"), "/v1/users");
    }

    #[test]
    fn an_absolute_target_becomes_origin_form_and_its_authority_the_host() {
        let mut request = Request::get("https://example.com/x?y").body(()).unwrap();
        rewrite(&mut request, &TargetSettings::default()).unwrap();
        assert_eq!(request.uri(), "/x?y");
        assert_eq!(request.headers()[header::HOST], "example.com");
        let mut request = Request::get("http://example.com?y=//z").body(()).unwrap();
        rewrite(&mut request, &TargetSettings::default()).unwrap();
        assert_eq!(request.uri().path_and_query().unwrap().as_str(), "/?y=//z");
    }
}
