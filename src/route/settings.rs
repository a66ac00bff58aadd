//! What a route matches, and what becomes of what it matched.

use std::fmt;
use std::str::FromStr;

use http::{StatusCode, Uri};

/// The requests a route takes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Match {
    /// Host names, exact or `*.example.com` (one label or more). Empty: any.
    pub hosts: Vec<HostPattern>,
    /// The path.
    pub path: PathPattern,
}

/// A host name, or every name below one. In lower case.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum HostPattern {
    /// This name only.
    Exact(String),
    /// Every name that ends in this one, which begins with a dot.
    Suffix(String),
}

/// A path, or every path below one.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum PathPattern {
    /// This path only.
    Exact(String),
    /// This path and all below it: `/api` takes `/api` and `/api/x`, not `/apix`.
    Prefix(String),
}

impl FromStr for HostPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let host = text.trim_end_matches('.').to_ascii_lowercase();
        let (suffix, name) = match host.strip_prefix("*.") {
            Some(name) => (true, name),
            None => (false, host.as_str()),
        };
        let fits = |label: &str| {
            !label.is_empty()
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        let is_v6 = host.starts_with('[') && host.ends_with(']');
        if !(is_v6 || name.split('.').all(fits)) {
            return Err(format!(
                "`{text}` is not a host name; write `example.com` or `*.example.com`, \
                 without scheme, port or path"
            ));
        }
        Ok(if suffix { Self::Suffix(format!(".{name}")) } else { Self::Exact(host) })
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => f.write_str(host),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
        }
    }
}

impl Default for PathPattern {
    fn default() -> Self {
        Self::Prefix("/".to_owned())
    }
}

/// What becomes of a request that passed its route's layers.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Forward to this upstream.
    Forward(ForwardAction),
    /// Answer with a redirect.
    Redirect(Redirect),
    /// Answer with this.
    Respond(FixedResponse),
}

/// Forwarding to an upstream.
#[derive(Clone, Debug, PartialEq)]
pub struct ForwardAction {
    /// The upstream's name.
    pub upstream: String,
    /// Put in the place of the matched prefix; `Some("")` strips it.
    pub rewrite_prefix: Option<String>,
    /// What the origin sees as `Host`.
    pub host: OriginHost,
    /// Protocols that `Upgrade`, or `:protocol` of an extended CONNECT (RFC 8441),
    /// may ask for, in lower case. Default `websocket`.
    pub upgrades: Vec<String>,
}

/// What the origin sees as `Host`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum OriginHost {
    /// What the client sent.
    #[default]
    Keep,
    /// The origin's own authority.
    Origin,
    /// This.
    Set(String),
}

/// A redirect.
#[derive(Clone, Debug, PartialEq)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308. Default 308.
    pub status: StatusCode,
    /// Where to.
    pub to: RedirectTo,
}

/// Where a redirect leads.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RedirectTo {
    /// A fixed place.
    Fixed(Uri),
    /// The same host, path and query over `https`, on this port.
    Https {
        /// 443 is left out of the URL.
        port: u16,
    },
    /// This scheme and authority with the request's own path and query.
    SamePath(Uri),
}

/// An answer that never changes.
#[derive(Clone, Debug, PartialEq)]
pub struct FixedResponse {
    /// Default 200.
    pub status: StatusCode,
    /// `Content-Type`. Default `text/plain; charset=utf-8`.
    pub content_type: String,
    /// The content.
    pub body: String,
}

impl ForwardAction {
    /// Forwards to `upstream` with every default.
    #[must_use]
    pub fn new(upstream: impl Into<String>) -> Self {
        Self {
            upstream: upstream.into(),
            rewrite_prefix: None,
            host: OriginHost::default(),
            upgrades: vec!["websocket".to_owned()],
        }
    }
}
