//! The URL of an origin.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use http::Uri;

/// Where an origin is and how it is spoken to; parses from `http://host:port`, or
/// from `srv+http://_service._tcp.domain`, and for a Unix socket from `unix:/path`,
/// `https+unix:/path` or `h2c+unix:/path`.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct OriginUrl {
    /// The scheme.
    pub scheme: OriginScheme,
    /// A name or an address; an IPv6 address without its brackets.
    pub host: String,
    /// The port; of no meaning for a service.
    pub port: u16,
    /// Whether the host is a service (RFC 2782), whose SRV records say which hosts
    /// and ports are the origins.
    pub service: bool,
    /// The path of the Unix socket that is connected to; the host is only a name
    /// then, `localhost`, and the port the scheme's own. Default none.
    pub unix: Option<PathBuf>,
}

/// An origin's scheme.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum OriginScheme {
    /// Plain HTTP/1.1.
    Http,
    /// HTTP over TLS; HTTP/2 where ALPN agrees on it.
    Https,
    /// Plain HTTP/2 by prior knowledge (RFC 9113 §3.3).
    H2c,
}

impl OriginScheme {
    /// The port of a URL that names none.
    #[must_use]
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Http | Self::H2c => 80,
            Self::Https => 443,
        }
    }
}

impl OriginUrl {
    /// Whom a certificate has to be for: the host, or the domain that a service
    /// is of, for its records could name anybody (RFC 6125 §1.7.2).
    #[must_use]
    pub fn domain(&self) -> &str {
        let whole = self.host.strip_suffix('.').unwrap_or(&self.host);
        let labels = whole.split('.').take_while(|label| self.service && label.starts_with('_'));
        let skipped: usize = labels.map(|label| label.len() + 1).sum();
        whole.get(skipped..).unwrap_or(whole)
    }

    /// `host:port`, an IPv6 address in brackets; without the port where it is
    /// the scheme's own, as `Host` has it. Of a service, the domain.
    #[must_use]
    pub fn authority(&self) -> String {
        let host = self.domain();
        let bracketed = host.contains(':');
        let (open, close) = if bracketed { ("[", "]") } else { ("", "") };
        if self.port == self.scheme.default_port() {
            format!("{open}{host}{close}")
        } else {
            format!("{open}{host}{close}:{}", self.port)
        }
    }
}

impl fmt::Display for OriginUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.unix {
            let scheme = match self.scheme {
                OriginScheme::Http => "unix",
                OriginScheme::Https => "https+unix",
                OriginScheme::H2c => "h2c+unix",
            };
            return write!(f, "{scheme}:{}", path.display());
        }
        let scheme = match self.scheme {
            OriginScheme::Http => "http",
            OriginScheme::Https => "https",
            OriginScheme::H2c => "h2c",
        };
        if self.service {
            return write!(f, "srv+{scheme}://{}", self.host);
        }
        write!(f, "{scheme}://{}", self.authority())
    }
}

impl FromStr for OriginUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((scheme, path)) = unix(text) {
            return if path.is_empty() || path.starts_with("//") {
                Err(format!(
                    "a path is expected: {}/run/app.sock",
                    &text[..text.len() - path.len()]
                ))
            } else {
                let unix = Some(PathBuf::from(path));
                Ok(Self {
                    scheme,
                    host: "localhost".to_owned(),
                    port: scheme.default_port(),
                    service: false,
                    unix,
                })
            };
        }
        if text.starts_with("http+unix:") || text.starts_with("http://unix:") {
            return Err("a Unix socket is written unix:/run/app.sock".to_owned());
        }
        let (service, text) = match text.strip_prefix("srv+") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let uri: Uri = text.parse().map_err(|error| format!("{error}"))?;
        let scheme = match uri.scheme_str() {
            Some("http") => OriginScheme::Http,
            Some("https") => OriginScheme::Https,
            Some("h2c") => OriginScheme::H2c,
            Some(other) => return Err(format!("the scheme `{other}` is not http, https or h2c")),
            None => return Err("a scheme is missing: http://, https:// or h2c://".to_owned()),
        };
        if !matches!(
            uri.path_and_query().map(http::uri::PathAndQuery::as_str),
            None | Some("/" | "")
        ) {
            return Err("an origin has no path; a route's `rewrite_prefix` adds one".to_owned());
        }
        let authority = uri.authority().ok_or("a host is missing")?;
        if authority.as_str().contains('@') {
            return Err("an origin's URL carries no user name or password".to_owned());
        }
        let port = authority.as_str().strip_prefix(authority.host()).unwrap_or_default();
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err("a host is missing".to_owned());
        }
        if service && !port.is_empty() {
            return Err("the records of a service say its ports".to_owned());
        }
        if service && !is_service(host) {
            return Err("a service is written `_http._tcp.example.com`".to_owned());
        }
        // Not by `Authority::port`: it has none where the number is too large.
        let port = match port {
            "" => Some(scheme.default_port()),
            _ => authority.port_u16().filter(|port| *port > 0),
        };
        let port = port.ok_or("the port is not a number from 1 to 65535")?;
        Ok(Self { scheme, host: host.to_ascii_lowercase(), port, service, unix: None })
    }
}

/// `_service._protocol.domain` (RFC 2782).
fn is_service(host: &str) -> bool {
    let mut labels = host.trim_end_matches('.').split('.');
    let mut marked = || labels.next().is_some_and(|l| l.len() > 1 && l.starts_with('_'));
    marked() && marked() && labels.next().is_some_and(|l| !l.is_empty() && !l.starts_with('_'))
}

/// The scheme and the path of a Unix socket.
fn unix(text: &str) -> Option<(OriginScheme, &str)> {
    let schemes = [
        ("unix:", OriginScheme::Http),
        ("https+unix:", OriginScheme::Https),
        ("h2c+unix:", OriginScheme::H2c),
    ];
    schemes.iter().find_map(|(prefix, scheme)| Some((*scheme, text.strip_prefix(prefix)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_url_reads_back_as_it_was_written() {
        for url in ["http://127.0.0.1:6201", "https://example.com", "h2c://[::1]:50051"] {
            assert_eq!(url.parse::<OriginUrl>().unwrap().to_string(), url);
        }
        let service: OriginUrl = "srv+https://_Http._tcp.App.example.com.".parse().unwrap();
        assert_eq!(service.to_string(), "srv+https://_http._tcp.app.example.com.");
        assert_eq!(service.authority(), "app.example.com");
        let whole: OriginUrl = "http://app.example.com.:8080".parse().unwrap();
        assert_eq!((whole.host.as_str(), whole.domain()), ("app.example.com.", "app.example.com"));
        assert_eq!(whole.authority(), "app.example.com:8080");
        for url in ["unix:/run/app.sock", "https+unix:run/a b.sock", "h2c+unix:/x"] {
            let parsed = url.parse::<OriginUrl>().unwrap();
            assert_eq!(parsed.to_string(), url);
            assert_eq!(parsed.authority(), "localhost");
        }
        let explicit: OriginUrl = "http://example.com:80/".parse().unwrap();
        assert_eq!(explicit.authority(), "example.com");
    }

    #[test]
    fn what_is_wrong_with_an_origin_url_is_said() {
        let error = |url: &str| url.parse::<OriginUrl>().unwrap_err();
        assert!(error("127.0.0.1:6201").contains("scheme"));
        assert!(error("ftp://host").contains("ftp"));
        assert!(error("http://host/path").contains("path"));
        assert!(error("http://user@host").contains("user name"));
        assert!(error("http://host:0").contains("port"));
        assert!(error("http://host:65536").contains("port"));
        assert!(error("http://[::1]:99999").contains("port"));
        assert!(error("http://host:").contains("port"));
        assert!(error("srv+http://_http._tcp.host:80").contains("port"));
        assert!(error("srv+http://_http._tcp.host:99999").contains("port"));
        assert!(error("srv+http://app.example.com").contains("_tcp"));
        assert!(error("srv+http://_http._tcp").contains("_tcp"));
        assert!(error("srv+ftp://_ftp._tcp.host").contains("ftp"));
        assert!(error("unix:").contains("unix:/run/app.sock"));
        assert!(error("unix://run/app.sock").contains("unix:/run/app.sock"));
        assert!(error("http+unix:/run/app.sock").contains("unix:/run/app.sock"));
        assert!(error("http://unix:/run/app.sock").contains("unix:/run/app.sock"));
    }
}
