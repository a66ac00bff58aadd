//! What an upstream is told.

use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, Method, StatusCode, Uri};

use super::url::{OriginScheme, OriginUrl};
use crate::proxy_protocol::Version;
use crate::signature::SignSettings;

/// A named group of origins that serve the same thing.
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamSettings {
    /// Its name, unique.
    pub name: String,
    /// Its origins; at least one.
    pub origins: Vec<OriginSettings>,
    /// Which of them is asked next. Default round robin.
    pub balance: Balancing,
    /// How origins are spoken to.
    pub protocol: Protocol,
    /// HTTP/2 towards origins that speak it.
    pub h2: UpstreamH2,
    /// Tells origins by the PROXY protocol whose connection each one is. They are
    /// spoken to in HTTP/1.1 then, and no two clients share a connection; with it
    /// there is no [`UpstreamSettings::warm`]. Default none.
    pub proxy_protocol: Option<Version>,
    /// TLS towards `https` origins.
    pub tls: UpstreamTls,
    /// How requests are signed (RFC 9421), each as its origin sees it. Default not at all.
    pub sign: Option<SignSettings>,
    /// How long each phase may take.
    pub timeouts: UpstreamTimeouts,
    /// Idle connections kept for one origin, per worker. Default 64.
    pub max_idle: usize,
    /// The most connections to one origin, those of all workers together; a
    /// request that would need one more is offered to the next origin, or else
    /// answered 503. Probes are not counted. Default none.
    pub max_connections: Option<usize>,
    /// Connections that each worker makes to each origin when it starts, before
    /// requests ask for them. Default 0.
    pub warm: usize,
    /// How many origins one request may be offered to in all, the first
    /// included. Default 3.
    pub max_attempts: u32,
    /// Whether each address of an origin's name is an origin of its own, with
    /// its own turns, health and connections. Default false: connections to the
    /// one origin are spread over its addresses.
    pub each_address: bool,
    /// Active probing; `None` leaves it to what requests meet.
    pub health: Option<HealthCheck>,
    /// What a failing request means for its origin.
    pub passive: PassiveHealth,
}

/// One server in an upstream.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OriginSettings {
    /// `http`, `https` or `h2c`, a host, and a port if it is not the scheme's own.
    pub url: OriginUrl,
    /// Its share of the requests, relative to the others'. 1 to 1,000; default 1.
    /// The targets of a service have those of their records instead.
    pub weight: u32,
}

/// Which origin is asked next.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Balancing {
    /// Each in its turn, as often as its weight says.
    #[default]
    RoundRobin,
    /// Requests that are alike in this go to the same origin for as long as that is fit,
    /// whichever process sends them.
    Hash(HashBy),
}

/// In what requests are alike. Those that have nothing of it take turns.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum HashBy {
    /// The scheme, host, path and query, such as a cache behind tells requests apart by.
    Url {
        /// Parameters of the query that do not count, by name; `utm_*` are all that begin
        /// so. Default none.
        ignore_query: Vec<String>,
    },
    /// The client's address; of an IPv6 address its /64.
    Client,
    /// The value of this field.
    Header(HeaderName),
}

/// Which version of HTTP an `https` origin is spoken to in.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Protocol {
    /// HTTP/2 if the origin agrees by ALPN, else HTTP/1.1.
    #[default]
    Auto,
    /// HTTP/1.1 only.
    Http1,
    /// HTTP/2 only.
    Http2,
}

/// HTTP/2 towards origins.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct UpstreamH2 {
    /// The most streams at once on one connection, even if the origin allows
    /// more; past it another connection is made. Default 100.
    pub max_concurrent_streams: usize,
    /// The flow-control window of a stream, in bytes. Default 256 KiB.
    pub stream_window: u32,
    /// The flow-control window of a connection, in bytes; much larger, so that
    /// one slow client does not stall the others. Default 4 MiB.
    pub connection_window: u32,
    /// How often an origin is asked whether it is there while it has requests to
    /// answer. Default 5 min 5 s: gRPC servers close connections that are pinged
    /// more often than every 5 minutes.
    pub ping_interval: Duration,
    /// How long its answer may take; then the connection is closed. Default 10 s.
    pub ping_timeout: Duration,
}

/// TLS towards origins.
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamTls {
    /// Whether an origin's certificate must verify. Default true.
    pub verify: bool,
    /// Trust this PEM bundle instead of the system's roots.
    pub ca: Option<PathBuf>,
    /// The name to ask for and to verify; default the origin's host.
    pub server_name: Option<String>,
}

/// How long each phase towards an origin may take.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct UpstreamTimeouts {
    /// Name resolution, TCP and TLS together. Default 5 s.
    pub connect: Duration,
    /// From the request sent until the response's head is whole. Default 60 s.
    pub response_head: Duration,
    /// The longest silence within a body, either way. Default 60 s.
    pub idle_body: Duration,
    /// The longest silence in a tunnel, such as a WebSocket. Default 5 min.
    pub idle_tunnel: Duration,
    /// How long an idle connection is kept. Default 15 s; keep it below what
    /// the origin keeps.
    pub pool_idle: Duration,
}

/// Active probing of each origin.
#[derive(Clone, Debug, PartialEq)]
pub struct HealthCheck {
    /// What is tried.
    pub probe: Probe,
    /// Time between probes of one origin; each is moved by up to 10 % at
    /// random. Default 5 s.
    pub interval: Duration,
    /// Time a probe may take. Default 2 s.
    pub timeout: Duration,
    /// Successes in a row that bring an origin back. Default 2.
    pub rise: u32,
    /// Failures in a row that take an origin out. Default 3.
    pub fall: u32,
}

/// What a health check tries.
#[derive(Clone, Debug, PartialEq)]
pub enum Probe {
    /// A TCP connection (and a TLS handshake where the origin is `https`).
    Tcp,
    /// A request.
    Http {
        /// Its method. Default GET.
        method: Method,
        /// Its path and query. Default `/`.
        path: Uri,
        /// Its `Host`; default the origin's.
        host: Option<String>,
        /// The statuses that count as healthy. Default 200 to 399.
        expect: Vec<StatusRange>,
    },
}

/// Statuses from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct StatusRange {
    /// The lowest.
    pub first: u16,
    /// The highest.
    pub last: u16,
}

/// What requests that fail to connect mean for their origin.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PassiveHealth {
    /// Failures in a row that set an origin aside. Default 1.
    pub max_failures: u32,
    /// For how long, if no probe clears it earlier. Default 10 s.
    pub set_aside: Duration,
}

impl UpstreamSettings {
    /// An upstream of these origins with every default.
    #[must_use]
    pub fn new(name: impl Into<String>, origins: Vec<OriginSettings>) -> Self {
        Self {
            name: name.into(),
            origins,
            balance: Balancing::default(),
            protocol: Protocol::default(),
            h2: UpstreamH2::default(),
            proxy_protocol: None,
            tls: UpstreamTls::default(),
            sign: None,
            timeouts: UpstreamTimeouts::default(),
            max_idle: 64,
            max_connections: None,
            warm: 0,
            max_attempts: 3,
            each_address: false,
            health: None,
            passive: PassiveHealth::default(),
        }
    }
}

impl UpstreamSettings {
    /// What in these settings does not go together, a sentence each.
    #[must_use]
    pub fn contradictions(&self) -> Vec<String> {
        let mut found = Vec::new();
        if self.proxy_protocol.is_none() {
            return found;
        }
        let only_http2 = |origin: &&OriginSettings| match origin.url.scheme {
            OriginScheme::H2c => true,
            OriginScheme::Https => self.protocol == Protocol::Http2,
            OriginScheme::Http => false,
        };
        if let Some(origin) = self.origins.iter().find(only_http2) {
            found.push(format!(
                "`proxy_protocol` names one client for a connection, which HTTP/2 shares between \
                 all: `{}` cannot have it",
                origin.url
            ));
        }
        if self.warm > 0 {
            found.push("`proxy_protocol` and `warm`: no client is known ahead".to_owned());
        }
        found
    }
}

impl OriginSettings {
    /// An origin of weight 1.
    #[must_use]
    pub fn new(url: OriginUrl) -> Self {
        Self { url, weight: 1 }
    }
}

impl Default for UpstreamH2 {
    fn default() -> Self {
        Self {
            max_concurrent_streams: 100,
            stream_window: 256 * 1024,
            connection_window: 4 * 1024 * 1024,
            ping_interval: Duration::from_secs(5 * 60 + 5),
            ping_timeout: Duration::from_secs(10),
        }
    }
}

impl Default for UpstreamTls {
    fn default() -> Self {
        Self { verify: true, ca: None, server_name: None }
    }
}

impl Default for UpstreamTimeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            response_head: Duration::from_secs(60),
            idle_body: Duration::from_secs(60),
            idle_tunnel: Duration::from_secs(5 * 60),
            pool_idle: Duration::from_secs(15),
        }
    }
}

impl Default for PassiveHealth {
    fn default() -> Self {
        Self { max_failures: 1, set_aside: Duration::from_secs(10) }
    }
}

impl HealthCheck {
    /// This probe with every default.
    #[must_use]
    pub fn new(probe: Probe) -> Self {
        Self {
            probe,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            rise: 2,
            fall: 3,
        }
    }
}

impl Probe {
    /// A GET of `path` that any status from 200 to 399 satisfies.
    #[must_use]
    pub fn get(path: Uri) -> Self {
        Self::Http {
            method: Method::GET,
            path,
            host: None,
            expect: vec![StatusRange { first: 200, last: 399 }],
        }
    }
}

impl StatusRange {
    /// Whether `status` lies within.
    #[must_use]
    pub fn contains(self, status: StatusCode) -> bool {
        (self.first..=self.last).contains(&status.as_u16())
    }
}
