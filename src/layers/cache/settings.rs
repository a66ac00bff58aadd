//! What a route's cache is told.

use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;

/// What of a route's responses is stored, and for how long.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CacheSettings {
    /// How long a response is fresh that says nothing of it. Default `None`: a tenth of
    /// the time since its `Last-Modified`, up to a day, and nothing without one.
    pub default_ttl: Option<Duration>,
    /// The longest that a response is fresh here since it came, whatever it says. What
    /// clients are told is not changed by it. Default none.
    pub max_ttl: Option<Duration>,
    /// The longest body that is stored, in bytes. Default `None`: 8 MiB, and 1 GiB in a
    /// cache that has a disk.
    pub max_object: Option<u64>,
    /// Whether a request's `Cache-Control` is honoured: anybody can then have the
    /// origin asked. Default false. `no-store` always is.
    pub honour_request_directives: bool,
    /// Whether a response with `Set-Cookie` is stored as any other, together with that
    /// field: whoever gets it from the cache is given the same cookie. Default false:
    /// only if it says `public`, and without it.
    pub store_set_cookie: bool,
    /// How long after it went stale a response that says nothing of it is still served
    /// while it is revalidated. Default zero.
    pub stale_while_revalidate: Duration,
    /// The same where the origin fails. Default zero.
    pub stale_if_error: Duration,
    /// How long a request waits for another's answer that it may share. Default 5 s.
    pub collapse_wait: Duration,
    /// What tells requests apart beside their URL.
    pub key: CacheKeySettings,
    /// Fields that are about one answer of the origin alone, such as what it has cost:
    /// whoever had the origin asked gets them, and nobody else. Default none.
    pub unstored: Vec<HeaderName>,
}

/// A folder that responses are stored in, behind those in memory.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CacheDiskSettings {
    /// A folder of its own, which is made if it is not there. One cache has it at a time.
    pub path: PathBuf,
    /// How many bytes its files may take, at least [`CacheDiskSettings::LEAST`].
    pub size: u64,
}

impl CacheDiskSettings {
    /// The least size, 64 MiB: with less, hardly anything would stay for long.
    pub const LEAST: u64 = 64 << 20;
}

/// What tells requests apart beside their URL and what responses say by `Vary`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct CacheKeySettings {
    /// Parameters of the query that do not: names, or with a `*` at the end the
    /// beginning of names. Default none.
    pub ignore_query: Vec<String>,
    /// Fields of the request that do. Default none.
    pub headers: Vec<HeaderName>,
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self {
            default_ttl: None,
            max_ttl: None,
            max_object: None,
            honour_request_directives: false,
            store_set_cookie: false,
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: Duration::ZERO,
            collapse_wait: Duration::from_secs(5),
            key: CacheKeySettings::default(),
            unstored: Vec::new(),
        }
    }
}
