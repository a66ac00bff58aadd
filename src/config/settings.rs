//! Everything a proxy is told, ready to build: no TOML, nothing left to check
//! but that the names fit together.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::Places;
use crate::accept::{ConnectionLimits, ListenerSettings};
use crate::budget::{Budget, memory_limit};
use crate::layers::{
    ApiKeySettings, AuthSettings, AuthenticatorSettings, BandwidthSettings, CacheDiskSettings,
    CacheFleetSettings, CacheSettings, CompressionSettings, ConcurrencySettings, GrpcSettings,
    HeaderChanges, HeaderRewriteSettings, KeyDigest, MethodSettings, RateLimitSettings,
    TrustSettings,
};
use crate::observe::AccessLogSettings;
use crate::pace::MinRate;
use crate::redis::RedisSettings;
use crate::route::{Action, Match};
use crate::tls::TlsSettings;
use crate::upstream::{DnsSettings, UpstreamSettings};

/// Everything a proxy is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Where clients connect; not used by an embedded proxy.
    pub listeners: Vec<ListenerSettings>,
    /// Groups of origins.
    pub upstreams: Vec<UpstreamSettings>,
    /// The ways of telling who asks that routes ask for by name.
    pub authenticators: Vec<AuthenticatorSettings>,
    /// Routes; the most specific match wins, wherever it stands.
    pub routes: Vec<RouteSettings>,
    /// Limits that hold for the whole proxy.
    pub server: ServerSettings,
    /// How the names of origins are resolved.
    pub dns: DnsSettings,
    /// What may be stored of responses, all routes together.
    pub cache: CacheStoreSettings,
    /// The Redis, or Valkey, that several instances share; `None`: there is none.
    pub redis: Option<RedisSettings>,
    /// Who is believed about where requests come from.
    pub trust: TrustSettings,
    /// The access log.
    pub access_log: AccessLogSettings,
    /// The operational log of the binary.
    pub log: LogSettings,
    /// The admin listener; `None` binds none.
    pub admin: Option<AdminSettings>,
    /// The file that all this was read from, and those of its secrets.
    pub sources: Vec<PathBuf>,
    /// Where in the file its parts stand.
    pub places: Places,
    /// What in the file can be used and is hardly meant, or not safe: a line each, with its
    /// place.
    pub warnings: Vec<String>,
}

/// Limits that hold for the whole proxy.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerSettings {
    /// Worker threads; `None` is one per core.
    pub workers: Option<usize>,
    /// How many connections may be open.
    pub connections: ConnectionLimits,
    /// Exchanges under way at once; more are answered 503. Default 100,000.
    pub max_in_flight: usize,
    /// How much memory may be used for what is under way. Default 3/4 of what the
    /// system lets the process have.
    pub memory_budget: MemoryBudget,
    /// How long a stopping proxy serves as before while it says that it is not
    /// ready, so that load balancers take notice. Default zero.
    pub lame_duck: Duration,
    /// How long a stopping proxy waits for what is under way. Default 30 s.
    pub drain_timeout: Duration,
    /// Whether a change of the files is taken in by itself. Default true.
    pub reload_on_change: bool,
}

/// How much memory may be used for what is under way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MemoryBudget {
    /// As much as this many hundredths of what the process's control group, or the
    /// machine, has. Without bounds where the system does not say.
    Share(u8),
    /// This many bytes.
    Bytes(usize),
    /// Without bounds; nothing is counted.
    Unlimited,
}

impl MemoryBudget {
    /// The budget, which begins to count.
    pub(crate) fn budget(self) -> Budget {
        match self {
            Self::Unlimited => Budget::unlimited(),
            Self::Bytes(bytes) => Budget::new(bytes),
            Self::Share(hundredths) => memory_limit().map_or_else(Budget::unlimited, |limit| {
                let share = limit / 100 * u64::from(hundredths);
                Budget::new(usize::try_from(share).unwrap_or(usize::MAX))
            }),
        }
    }
}

impl Default for MemoryBudget {
    fn default() -> Self {
        Self::Share(75)
    }
}

/// What may be stored of responses, all routes together.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CacheStoreSettings {
    /// Bytes of memory; half as many more for what is on its way. Default 256 MiB.
    pub memory: u64,
    /// A folder behind it. Default `None`: what is stored ends with the process.
    pub disk: Option<CacheDiskSettings>,
    /// Purges that go by way of [`Settings::redis`] to the caches of other instances, and
    /// come from them; `None`: each instance is purged by itself.
    pub fleet: Option<CacheFleetSettings>,
}

impl Default for CacheStoreSettings {
    fn default() -> Self {
        Self { memory: 256 << 20, disk: None, fleet: None }
    }
}

/// The operational log.
#[derive(Clone, Debug, PartialEq)]
pub struct LogSettings {
    /// A level (`error`, `warn`, `info`, `debug`, `trace`) or a filter such as
    /// `info,tollgate::upstream=debug`. Default `info`.
    pub level: String,
    /// One JSON object a line instead of text. Default false.
    pub json: bool,
}

/// The admin listener.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AdminSettings {
    /// Default `127.0.0.1:6190`.
    pub address: SocketAddr,
    /// The digest of the token that whoever asks must show; `None`: nobody has to, and
    /// nothing can be changed unless the listener is on loopback.
    pub token: Option<KeyDigest>,
}

/// One route: what it takes, what is asked of a request, what becomes of it.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteSettings {
    /// Its name, unique; in logs and metrics.
    pub name: String,
    /// The names of the listeners whose requests it takes. Empty: of all of them.
    pub listeners: Vec<String>,
    /// The requests it takes.
    pub matches: Match,
    /// What becomes of them.
    pub action: Action,
    /// The methods it takes; `None`: all but CONNECT and TRACE.
    pub methods: Option<MethodSettings>,
    /// How often one may ask: all of these hold, each under a name of its own. Those that
    /// count by identity are asked once it is known, all others before.
    pub rate_limits: Vec<RateLimitSettings>,
    /// Whether clients are told of the limits also where they are let through, by the fields
    /// `RateLimit` and `RateLimit-Policy`. Default false.
    pub rate_limit_headers: bool,
    /// How many requests may be under way at once; `None`: as many as come.
    pub concurrency: Option<ConcurrencySettings>,
    /// How fast a response is sent; `None`: as fast as it can be.
    pub bandwidth: Option<BandwidthSettings>,
    /// The keys that may ask, where that is all there is to it; `None`: it does not go by
    /// keys of its own.
    pub api_key: Option<ApiKeySettings>,
    /// Who may ask, by [`Settings::authenticators`]; `None`: everyone, unless there are
    /// keys.
    pub auth: Option<AuthSettings>,
    /// What of its responses is stored; `None`: nothing.
    pub cache: Option<CacheSettings>,
    /// How its responses are compressed; `None`: not at all.
    pub compression: Option<CompressionSettings>,
    /// gRPC calls.
    pub grpc: GrpcSettings,
    /// Changes to fields. [`HeaderRewriteSettings::response`] starts from
    /// [`HeaderChanges::response_defaults`] unless the route says otherwise.
    pub headers: HeaderRewriteSettings,
    /// The longest request body, in bytes. Default 100 MiB; `None`: no limit.
    pub max_request_body: Option<u64>,
    /// The longest silence within a request body. Default 60 s.
    pub request_body_timeout: Duration,
    /// The slowest that a request body may come while nothing but the client holds
    /// it up. Default [`MinRate::DEFAULT`].
    pub min_request_rate: Option<MinRate>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listeners: Vec::new(),
            upstreams: Vec::new(),
            authenticators: Vec::new(),
            routes: Vec::new(),
            server: ServerSettings::default(),
            dns: DnsSettings::default(),
            cache: CacheStoreSettings::default(),
            redis: None,
            trust: TrustSettings::default(),
            access_log: AccessLogSettings::default(),
            log: LogSettings::default(),
            admin: Some(AdminSettings::default()),
            sources: Vec::new(),
            places: Places::default(),
            warnings: Vec::new(),
        }
    }
}

impl Settings {
    /// Says in the log what was warned of.
    pub(crate) fn log_warnings(&self) {
        for warning in &self.warnings {
            tracing::warn!("{warning}");
        }
    }

    /// Every file that a proxy of these settings is made from: the configuration,
    /// secrets, certificates with their keys, and whom clients and origins are trusted by.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let listeners = self.listeners.iter().filter_map(|listener| listener.tls.as_ref());
        let certificates = listeners.flat_map(TlsSettings::files);
        let trusted = self.upstreams.iter().filter_map(|upstream| upstream.tls.ca.as_ref());
        let trusted = trusted.chain(self.redis.as_ref().and_then(|redis| redis.ca.as_ref()));
        let schemes = self.authenticators.iter().filter_map(|one| one.scheme.ca());
        let mut files: Vec<_> =
            self.sources.iter().chain(certificates).chain(trusted).cloned().collect();
        files.extend(schemes.map(ToOwned::to_owned));
        files.sort();
        files.dedup();
        files
    }
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            workers: None,
            connections: ConnectionLimits::default(),
            max_in_flight: 100_000,
            memory_budget: MemoryBudget::default(),
            lame_duck: Duration::ZERO,
            drain_timeout: Duration::from_secs(30),
            reload_on_change: true,
        }
    }
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { level: "info".to_owned(), json: false }
    }
}

impl Default for AdminSettings {
    fn default() -> Self {
        Self { address: SocketAddr::from(([127, 0, 0, 1], 6190)), token: None }
    }
}

impl RouteSettings {
    /// A route with every default.
    #[must_use]
    pub fn new(name: impl Into<String>, matches: Match, action: Action) -> Self {
        Self {
            name: name.into(),
            listeners: Vec::new(),
            matches,
            action,
            methods: None,
            rate_limits: Vec::new(),
            rate_limit_headers: false,
            concurrency: None,
            bandwidth: None,
            api_key: None,
            auth: None,
            cache: None,
            compression: None,
            grpc: GrpcSettings::default(),
            headers: HeaderRewriteSettings {
                request: HeaderChanges::default(),
                response: HeaderChanges::response_defaults(),
            },
            max_request_body: Some(100 * 1024 * 1024),
            request_body_timeout: Duration::from_secs(60),
            min_request_rate: Some(MinRate::DEFAULT),
        }
    }
}
