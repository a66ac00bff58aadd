//! Where a request came to, and what browsers keep for there.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::header::{self, HeaderValue};
use http::uri::Authority;
use http::{Method, Response, StatusCode, Uri};

use super::OidcSettings;
use super::session::kind;
use crate::layers::auth::cookies;
use crate::layers::{Asked, Verdict};
use crate::respond::{Answer, Format};

/// The longest value of a cookie, in bytes: with its name and attributes a browser keeps
/// 4096 (RFC 6265 §6.1).
const LONGEST: usize = 3800;

const CHALLENGE: HeaderValue = HeaderValue::from_static("Tollgate realm=\"tollgate\"");

/// Scheme and host of a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Site {
    /// Such as `https://app.example.com`.
    pub(super) base: String,
    is_secure: bool,
}

/// The names of our cookies. Those of another [`kind`] are others.
#[derive(Debug)]
pub(super) struct Names {
    safe: String,
    plain: String,
}

impl Site {
    /// Where a request came to: as it is configured, or by the connection and the host that
    /// was found to be one. What stands in `X-Forwarded-*` is not looked at.
    pub(super) fn of(settings: &OidcSettings, asked: &Asked<'_>) -> Option<Self> {
        if let Some(url) = &settings.public_url {
            let base = url.to_string().trim_end_matches('/').to_owned();
            return Some(Self { base, is_secure: url.scheme_str() == Some("https") });
        }
        let host = match asked.headers.get(header::HOST) {
            Some(host) => Authority::try_from(host.as_bytes()).ok()?,
            None => asked.uri.authority()?.clone(),
        };
        if host.as_str().contains('@') || host.host().is_empty() {
            return None;
        }
        let is_secure = asked.downstream.is_some_and(|downstream| downstream.tls.is_some());
        let scheme = if is_secure { "https" } else { "http" };
        Some(Self { base: format!("{scheme}://{host}"), is_secure })
    }

    /// A cookie for this site only, that no script sees (RFC 6265bis §4.1.3.2); `None` if a
    /// browser would not keep it.
    pub(super) fn cookie(&self, name: &str, value: &str, age: Duration) -> Option<HeaderValue> {
        if value.len() > LONGEST {
            return None;
        }
        let secure = if self.is_secure { "; Secure" } else { "" };
        let age = age.as_secs();
        let cookie =
            format!("{name}={value}; Path=/; Max-Age={age}; HttpOnly; SameSite=Lax{secure}");
        HeaderValue::try_from(cookie).ok()
    }

    /// Has a cookie forgotten.
    pub(super) fn forget(&self, name: &str) -> Option<HeaderValue> {
        self.cookie(name, "", Duration::ZERO)
    }
}

impl Names {
    pub(super) fn new(settings: &OidcSettings) -> Self {
        let kind = kind(settings);
        let tag = &kind[..8];
        // The prefix binds a cookie to this host: no other can set it (RFC 6265bis
        // §4.1.3.2). Browsers take it over TLS only.
        Self { safe: format!("__Host-tollgate-{tag}"), plain: format!("tollgate-{tag}") }
    }

    /// That of a session.
    pub(super) fn session(&self, site: &Site) -> &str {
        if site.is_secure { &self.safe } else { &self.plain }
    }

    /// That of a login.
    pub(super) fn login(&self, site: &Site, tag: &str) -> String {
        format!("{}.{tag}", self.session(site))
    }

    /// Whether this is one of them.
    pub(super) fn are(&self, name: &[u8]) -> bool {
        [&self.safe, &self.plain].into_iter().any(|ours| {
            name.strip_prefix(ours.as_bytes()).is_some_and(|rest| matches!(rest, [] | [b'.', ..]))
        })
    }

    /// Those of the logins that a browser has begun, with their values.
    pub(super) fn logins<'a>(
        &self,
        site: &Site,
        headers: &'a HeaderMap,
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        let prefix = format!("{}.", self.session(site));
        cookies::pairs(headers).filter_map(move |(name, value)| {
            let name = std::str::from_utf8(name).ok().filter(|name| name.starts_with(&prefix))?;
            Some((name, std::str::from_utf8(value).ok()?))
        })
    }

    /// Those that a request has: the origin is not shown them.
    pub(super) fn of(&self, headers: &HeaderMap) -> Vec<Box<str>> {
        cookies::pairs(headers)
            .map(|(name, _)| name)
            .filter(|name| self.are(name))
            .filter_map(|name| std::str::from_utf8(name).ok().map(Into::into))
            .collect()
    }
}

/// Whether a person waits for a page in the window of a browser: whatever else asks is told
/// that it may not, and is not sent to log in.
pub(super) fn is_navigation(asked: &Asked<'_>) -> bool {
    let text = |name: &str| asked.headers.get(name).and_then(|value| value.to_str().ok());
    let takes_html = asked.headers.get_all(header::ACCEPT).iter().any(|line| {
        let line = line.as_bytes().to_ascii_lowercase();
        line.windows(9).any(|part| part == b"text/html")
    });
    matches!(*asked.method, Method::GET | Method::HEAD)
        && takes_html
        && text("sec-fetch-mode").is_none_or(|mode| mode == "navigate")
        && !asked.headers.contains_key(header::UPGRADE)
        && text("x-requested-with").is_none()
}

/// Path and query of what is asked for.
pub(super) fn target(uri: &Uri) -> &str {
    uri.path_and_query().map_or("/", |target| target.as_str())
}

/// Sends a browser elsewhere, with cookies.
pub(super) fn send_to(location: &str, cookies: Vec<HeaderValue>, reason: &'static str) -> Verdict {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::FOUND;
    let headers = response.headers_mut();
    match HeaderValue::try_from(location) {
        Ok(location) => headers.insert(header::LOCATION, location),
        // A provider's URL is a `Uri`, and ours are made of what stood in fields.
        Err(_) => return Verdict::Unavailable("oidc_location"),
    };
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Where somebody goes next is not to be told by which code they came.
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    for cookie in cookies {
        headers.append(header::SET_COOKIE, cookie);
    }
    Verdict::Answered(Box::new(response), reason)
}

/// A login is over, and its cookie forgotten: whoever comes again begins another.
pub(super) fn over(
    status: StatusCode,
    reason: &'static str,
    forget: Option<HeaderValue>,
    format: Format,
) -> Verdict {
    Verdict::Answered(told_over(status, forget, format), reason)
}

/// What that is answered.
pub(super) fn told_over(
    status: StatusCode,
    forget: Option<HeaderValue>,
    format: Format,
) -> Box<Response<Bytes>> {
    let detail = "The login has failed. Open the page that you wanted once more to try again.";
    let mut answer = match status {
        StatusCode::FORBIDDEN => Answer::new(status, "forbidden", "This is not allowed."),
        StatusCode::SERVICE_UNAVAILABLE => Answer::new(status, "auth_unavailable", detail),
        // It has to say how to get in (RFC 9110 §15.5.2), which is not said in a field here.
        _ => {
            Answer::new(status, "unauthorized", detail).header(header::WWW_AUTHENTICATE, CHALLENGE)
        }
    };
    if let Some(forget) = forget {
        answer = answer.header(header::SET_COOKIE, forget);
    }
    Box::new(answer.render(format))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::{HeaderMap, Version};

    use super::*;
    use crate::context::{Downstream, TlsFacts};

    fn settings() -> OidcSettings {
        OidcSettings::new("https://id.test", "tollgate", Vec::new())
    }

    fn site(
        settings: &OidcSettings,
        uri: &Uri,
        host: Option<&str>,
        over_tls: bool,
    ) -> Option<Site> {
        let mut headers = HeaderMap::new();
        if let Some(host) = host {
            headers.insert(header::HOST, host.parse().unwrap());
        }
        headers.insert("x-forwarded-host", "evil.test".parse().unwrap());
        headers.insert("x-forwarded-proto", "https".parse().unwrap());
        let tls = over_tls.then(TlsFacts::default);
        let downstream = Arc::new(Downstream { tls, ..Downstream::default() });
        let asked = Asked {
            method: &Method::GET,
            uri,
            version: Version::HTTP_11,
            headers: &headers,
            exchange: None,
            downstream: Some(&downstream),
            body: None,
        };
        Site::of(settings, &asked)
    }

    #[test]
    fn a_site_is_that_of_the_connection_and_the_host_or_the_configured_one() {
        let (path, absolute) = (Uri::from_static("/"), Uri::from_static("http://b.test:81/"));
        let base = |host, over_tls| site(&settings(), &path, host, over_tls).map(|site| site.base);
        assert_eq!(base(Some("a.test"), true).as_deref(), Some("https://a.test"));
        assert_eq!(base(Some("a.test:8443"), true).as_deref(), Some("https://a.test:8443"));
        assert_eq!(base(Some("a.test"), false).as_deref(), Some("http://a.test"));
        for host in [None, Some("a@b.test"), Some("a.test/path"), Some("a b"), Some("")] {
            assert_eq!(base(host, true), None, "{host:?}");
        }
        let by_target = site(&settings(), &absolute, None, false).unwrap();
        assert_eq!(by_target.base, "http://b.test:81");
        let mut public = settings();
        public.public_url = Some("https://app.test".parse().unwrap());
        let site = site(&public, &path, Some("a.test"), false).unwrap();
        assert_eq!(site, Site { base: "https://app.test".into(), is_secure: true });
    }

    #[test]
    fn cookies_are_bound_to_the_site_as_far_as_it_can_be() {
        let names = Names::new(&settings());
        let site = |is_secure| Site { base: String::new(), is_secure };
        let cookie = |is_secure| {
            let site = site(is_secure);
            let cookie = site.cookie(names.session(&site), "x", Duration::from_secs(9)).unwrap();
            cookie.to_str().unwrap().to_owned()
        };
        let (safe, plain) = (cookie(true), cookie(false));
        assert!(safe.starts_with("__Host-tollgate-"), "{safe}");
        assert!(safe.ends_with("=x; Path=/; Max-Age=9; HttpOnly; SameSite=Lax; Secure"), "{safe}");
        assert!(plain.starts_with("tollgate-") && plain.ends_with("SameSite=Lax"), "{plain}");
        let too_long = "x".repeat(LONGEST + 1);
        assert!(site(true).cookie("a", &too_long, Duration::ZERO).is_none());
        let session = names.session(&site(true)).to_owned();
        let mut other = settings();
        other.client_id = "another".to_owned();
        for (name, ours) in [
            (session.clone(), true),
            (names.login(&site(true), "abcd"), true),
            (names.session(&site(false)).to_owned(), true),
            (format!("{session}x"), false),
            (Names::new(&other).session(&site(true)).to_owned(), false),
            ("theme".to_owned(), false),
        ] {
            assert_eq!(names.are(name.as_bytes()), ours, "{name}");
        }
    }
}
