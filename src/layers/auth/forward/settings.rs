//! What asking another service is told.

use std::path::PathBuf;
use std::time::Duration;

use http::header::{self, HeaderName};
use http::{Method, Uri};

/// Which service decides, what it is told, and what becomes of its answer.
#[derive(Clone, Debug, PartialEq)]
pub struct ForwardAuthSettings {
    /// Where it is asked: an absolute URL, `http://` or `https://`.
    pub url: Uri,
    /// The method it is asked by. Default GET.
    pub method: Method,
    /// Fields of the client's that it is told. Default `Authorization`, `Cookie`, `Accept`
    /// and `X-Requested-With`.
    pub request_headers: ToldFields,
    /// Fields of its answer that the origin gets, if it lets the request in. Nobody else
    /// can set them. Default none.
    pub response_headers: Vec<HeaderName>,
    /// The field of its answer that says who it is. Default none: nobody is named.
    pub name_header: Option<HeaderName>,
    /// The field of its answer that says what they may do, separated by commas. Default
    /// none.
    pub scopes_header: Option<HeaderName>,
    /// Whether the client gets the cookies that it sets when it lets a request in. With a
    /// refusal it always does. Default false.
    pub set_cookies: bool,
    /// Whether a refusal is passed on as it is; else it is answered in our words.
    /// Redirects are always passed on. Default true.
    pub pass_response: bool,
    /// Sends it the body as well, if that is no longer than so many bytes; a longer one is
    /// answered 413. Default none: bodies are not sent.
    pub send_body: Option<usize>,
    /// Whether requests are let in while it cannot be asked. Default false.
    pub open_on_failure: bool,
    /// How long it may take to answer. Default 2 s.
    pub timeout: Duration,
    /// The longest body of its answers, in bytes. Default 64 KiB.
    pub max_response: u64,
    /// How many requests may wait for it at once; further ones wait for their turn, within
    /// the same timeout. Of decisions that are remembered up to four times as many are under
    /// way, also for clients that have gone. Default 256.
    pub max_in_flight: usize,
    /// Whose certificates are believed over TLS; `None`: those that the system believes.
    pub ca: Option<PathBuf>,
    /// Its decisions are remembered, unless it sees bodies: each is a decision of its own
    /// then. Default not.
    pub cache: Option<DecisionCacheSettings>,
}

/// Which fields of the client's a service is told.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ToldFields {
    /// These.
    These(Vec<HeaderName>),
    /// All but those that concern the connection, the body, what is asked of the answer
    /// (`If-*`, `Range`, `Accept-Encoding`), and where the request comes from, which is told
    /// in any case.
    All,
}

/// What decisions are remembered by, and for how long.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DecisionCacheSettings {
    /// Requests that are alike in all of this get the same decision. Whatever the service
    /// decides by has to be among it. `Authorization` and `Cookie` are in any case, as far as
    /// the service is told of them; where cookies are named, of these those alone.
    ///
    /// Of a request that has nothing of it that is one client's (a field, a cookie, or the
    /// address) nothing is remembered.
    pub key: Vec<KeyPart>,
    /// How long a request like one that was let in is let in. Default 10 s.
    pub ttl: Duration,
    /// How long a refusal is remembered. Default zero: it is not.
    pub negative_ttl: Duration,
    /// How much memory it may take, in bytes. Default 8 MiB.
    pub memory: u64,
}

/// Something of a request. Its scheme counts in any case.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum KeyPart {
    /// All lines of a field.
    Header(HeaderName),
    /// The value of a cookie.
    Cookie(String),
    /// The method.
    Method,
    /// The host that it is for.
    Host,
    /// The path, without the query.
    Path,
    /// The query.
    Query,
    /// The client's address.
    Address,
}

impl ForwardAuthSettings {
    /// Asks at `url`, all else by default.
    #[must_use]
    pub fn new(url: Uri) -> Self {
        let told = [
            header::AUTHORIZATION,
            header::COOKIE,
            header::ACCEPT,
            HeaderName::from_static("x-requested-with"),
        ];
        Self {
            url,
            method: Method::GET,
            request_headers: ToldFields::These(told.into()),
            response_headers: Vec::new(),
            name_header: None,
            scopes_header: None,
            set_cookies: false,
            pass_response: true,
            send_body: None,
            open_on_failure: false,
            timeout: Duration::from_secs(2),
            max_response: 64 * 1024,
            max_in_flight: 256,
            ca: None,
            cache: None,
        }
    }
}

impl DecisionCacheSettings {
    /// Remembers by `key`, all else by default.
    #[must_use]
    pub fn by(key: Vec<KeyPart>) -> Self {
        Self {
            key,
            ttl: Duration::from_secs(10),
            negative_ttl: Duration::ZERO,
            memory: 8 * 1024 * 1024,
        }
    }

    /// Whether the key has something that tells clients apart.
    #[must_use]
    pub fn tells_clients_apart(&self) -> bool {
        self.key.iter().any(KeyPart::tells_clients_apart)
    }
}

impl KeyPart {
    /// Whether it may be one client's and no other's. Fields by which clients say what they
    /// are, or what they would like, are many a client's.
    #[must_use]
    pub fn tells_clients_apart(&self) -> bool {
        const COMMON: [HeaderName; 5] = [
            header::HOST,
            header::ORIGIN,
            header::REFERER,
            header::USER_AGENT,
            HeaderName::from_static("x-requested-with"),
        ];
        match self {
            Self::Header(name) => {
                let begins = |start: &&str| name.as_str().starts_with(*start);
                !COMMON.contains(name) && !["accept", "content-", "sec-"].iter().any(begins)
            }
            Self::Cookie(_) | Self::Address => true,
            Self::Method | Self::Host | Self::Path | Self::Query => false,
        }
    }
}

impl std::fmt::Display for KeyPart {
    /// As it is written in a file.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Cookie(name) => write!(f, "cookie:{name}"),
            Self::Method => f.write_str("method"),
            Self::Host => f.write_str("host"),
            Self::Path => f.write_str("path"),
            Self::Query => f.write_str("query"),
            Self::Address => f.write_str("address"),
        }
    }
}
