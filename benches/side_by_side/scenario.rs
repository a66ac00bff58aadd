//! What is measured.

use crate::peers::{CACHES, EMBEDDED, Features, Field, PROXIES, Scale, Setup};

/// One thing to measure.
pub(crate) struct Scenario {
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    /// What the cost is counted in.
    pub(crate) unit: &'static str,
    pub(crate) target: Target,
    pub(crate) in_smoke: bool,
    /// Who takes part.
    pub(crate) field: &'static Field,
    pub(crate) features: Features,
    pub(crate) kind: Kind,
}

/// What is aimed at.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    /// The cost, as a multiple of the better of the rivals.
    Ratio(f64),
    /// The cost itself.
    Cost(f64),
    /// That every round ends with all answered, whatever it costs.
    Answered,
}

#[derive(Clone, Copy)]
pub(crate) enum Kind {
    /// HTTP/1.1 by wrk.
    Http1 { tls: bool, connections: usize, body: Transfer },
    /// HTTP/2 over TLS by h2load: streams at once on one connection.
    Http2 { streams: usize },
    /// A connection and a handshake for every request.
    Handshakes { resumed: bool },
    /// Latency at half of what all can do; which percentile counts.
    FixedRate { percentile: usize },
    /// Memory of connections that do nothing.
    Idle { tls: bool, connections: usize },
    /// CPU per request of two workers, as a multiple of one worker's.
    TwoWorkers,
    /// CPU per request with thousands of routes and origins, as a multiple of
    /// that with one of each.
    Thousands,
    /// CPU per request of two workers that also hold connections that do nothing.
    Active { idle: usize, active: usize },
    /// How unevenly long-lived HTTP/2 connections load two workers, each with so
    /// many requests a second that no worker is at its limit.
    Skew { connections: usize, rate: usize },
}

#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) enum Transfer {
    /// 1 KiB down.
    Small,
    /// The same, on a connection of its own.
    SmallAndClose,
    /// 1 MiB down.
    Download,
    /// 1 MiB up.
    Upload,
    /// 1 KiB down, of which the origin is asked once.
    Hit,
    /// 100 KiB down, of which the origin is asked once.
    LargeHit,
}

const fn http1(
    id: &'static str,
    title: &'static str,
    target: f64,
    tls: bool,
    body: Transfer,
) -> Scenario {
    let connections = if body.is_large() { 8 } else { 64 };
    of(id, title, Target::Ratio(target), Kind::Http1 { tls, connections, body })
}

const fn hit(id: &'static str, title: &'static str, tls: bool, body: Transfer) -> Scenario {
    let plain = http1(id, title, 1.00, tls, body);
    Scenario { field: &CACHES, features: Features::Cached, ..plain }
}

const fn of(id: &'static str, title: &'static str, target: Target, kind: Kind) -> Scenario {
    let unit = match kind {
        Kind::Http1 { body, .. } if body.is_large() => "CPU s/GB",
        Kind::Http1 { .. } | Kind::Http2 { .. } | Kind::Active { .. } => "CPU µs/request",
        Kind::Handshakes { .. } => "CPU µs/connection",
        Kind::FixedRate { .. } => "µs",
        Kind::Idle { .. } => "KiB/connection",
        Kind::TwoWorkers => "× one worker",
        Kind::Thousands => "× one route",
        Kind::Skew { .. } => "× the mean",
    };
    let (field, features) = (&PROXIES, Features::Bare);
    Scenario { id, title, unit, target, in_smoke: false, field, features, kind }
}

/// Everything that can be measured.
pub(crate) static SCENARIOS: &[Scenario] = &[
    Scenario { in_smoke: true, ..http1("bare", "h1 → h1, 1 KiB", 0.95, false, Transfer::Small) },
    Scenario {
        in_smoke: true,
        features: Features::Full,
        ..http1("full", "h1 → h1, 1 KiB, all features", 0.95, false, Transfer::Small)
    },
    http1("tls", "TLS 1.3 h1 → h1, 1 KiB", 1.00, true, Transfer::Small),
    Scenario {
        in_smoke: true,
        ..of(
            "h2",
            "h2 (TLS, 100 streams) → h1, 1 KiB",
            Target::Ratio(0.95),
            Kind::Http2 { streams: 100 },
        )
    },
    http1("close", "connection per request, 1 KiB", 1.00, false, Transfer::SmallAndClose),
    of(
        "handshake",
        "TLS 1.3 full handshake + request",
        Target::Ratio(1.00),
        Kind::Handshakes { resumed: false },
    ),
    of(
        "resumed",
        "TLS 1.3 resumed handshake + request",
        Target::Ratio(1.00),
        Kind::Handshakes { resumed: true },
    ),
    http1("download", "1 MiB download", 1.10, false, Transfer::Download),
    http1("download-tls", "1 MiB download, TLS", 1.10, true, Transfer::Download),
    http1("upload", "1 MiB upload", 1.10, false, Transfer::Upload),
    http1("upload-tls", "1 MiB upload, TLS", 1.10, true, Transfer::Upload),
    of("p99", "p99 at half load", Target::Ratio(1.00), Kind::FixedRate { percentile: 1 }),
    of("p999", "p99.9 at half load", Target::Ratio(1.00), Kind::FixedRate { percentile: 2 }),
    of(
        "idle",
        "idle connection, 1,000 open",
        Target::Cost(8.0),
        Kind::Idle { tls: false, connections: 1_000 },
    ),
    of(
        "idle-10k",
        "idle connection, 10,000 open",
        Target::Cost(8.0),
        Kind::Idle { tls: false, connections: 10_000 },
    ),
    of(
        "idle-tls",
        "idle TLS connection, 1,000 open",
        Target::Cost(24.0),
        Kind::Idle { tls: true, connections: 1_000 },
    ),
    of("workers", "CPU per request of two workers", Target::Cost(1.08), Kind::TwoWorkers),
    of("routes-10k", "10,000 routes, 1,000 origins", Target::Cost(1.10), Kind::Thousands),
    of(
        "active",
        "2,000 active connections beside 10,000 idle, two workers",
        Target::Answered,
        Kind::Active { idle: 10_000, active: 2_000 },
    ),
    of(
        "skew",
        "busier of two workers, 16 long h2 connections",
        Target::Cost(1.15),
        Kind::Skew { connections: 16, rate: 400 },
    ),
    Scenario {
        field: &EMBEDDED,
        ..http1("embedded", "inside axum, h1 → h1, 1 KiB", 1.00, false, Transfer::Small)
    },
    Scenario { in_smoke: true, ..hit("hit", "cache hit, h1, 1 KiB", false, Transfer::Hit) },
    hit("hit-100k", "cache hit, h1, 100 KiB", false, Transfer::LargeHit),
    hit("hit-tls", "cache hit, TLS 1.3 h1, 1 KiB", true, Transfer::Hit),
    Scenario {
        field: &CACHES,
        features: Features::Cached,
        ..of("hit-workers", "cache hit, of two workers", Target::Cost(1.08), Kind::TwoWorkers)
    },
    hit("hit-100k-tls", "cache hit, TLS 1.3 h1, 100 KiB", true, Transfer::LargeHit),
];

impl Scenario {
    /// Whether a proxy can do it at all.
    pub(crate) fn is_for(&self, name: &str) -> bool {
        // Pingora has no routes: they are what its users write.
        !(matches!(self.kind, Kind::Thousands) && name == "pingora")
    }

    /// The proxies that run through all rounds.
    pub(crate) fn setups(&self) -> Vec<Setup> {
        let one = Setup::new(self.features);
        match self.kind {
            // Memory is not given back: every round needs a process of its own.
            Kind::Idle { .. } | Kind::Active { .. } => Vec::new(),
            Kind::TwoWorkers => vec![one, Setup { workers: 2, ..one }],
            Kind::Thousands => vec![one, Setup { scale: Scale::Thousands, ..one }],
            Kind::Skew { .. } => vec![Setup { workers: 2, ..one }],
            _ => vec![one],
        }
    }

    /// How many origins the world has.
    pub(crate) fn scale(&self) -> Scale {
        if matches!(self.kind, Kind::Thousands) { Scale::Thousands } else { Scale::One }
    }

    /// The program that makes the load, and its package.
    pub(crate) fn tool(&self) -> Option<(&'static str, &'static str)> {
        match self.kind {
            Kind::Http2 { .. } | Kind::Skew { .. } => Some(("h2load", "nghttp2-client")),
            Kind::Handshakes { .. } | Kind::Idle { .. } => None,
            _ => Some(("wrk", "wrk")),
        }
    }

    /// How many files one process has open at once, with some to spare.
    pub(crate) fn open_files(&self) -> usize {
        match self.kind {
            Kind::Idle { connections, .. } => connections + 500,
            // Each active connection may have one to an origin.
            Kind::Active { idle, active } => idle + 2 * active + 500,
            Kind::Thousands => 2_500,
            _ => 500,
        }
    }
}

impl Transfer {
    pub(crate) const fn is_large(self) -> bool {
        matches!(self, Self::Download | Self::Upload)
    }

    /// What is asked for.
    pub(crate) const fn path(self) -> &'static str {
        match self {
            Self::Small | Self::SmallAndClose | Self::Upload => "/1k",
            Self::Download => "/1m",
            Self::Hit => "/stored/1k",
            Self::LargeHit => "/stored/100k",
        }
    }
}
