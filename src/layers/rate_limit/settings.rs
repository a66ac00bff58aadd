//! What a rate limit is told.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use http::header::HeaderName;
use ipnet::IpNet;

use super::key::LimitKey;
use super::shared::SharedSettings;
use crate::pace::Quota;

/// One rate limit.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RateLimitSettings {
    /// What it is called in metrics, logs and the fields that clients are told by. Default:
    /// what it counts by.
    pub name: Arc<str>,
    /// Requests per [`RateLimitSettings::per`], sustained.
    pub rate: NonZeroU32,
    /// The time [`RateLimitSettings::rate`] counts for. Default 1 s.
    pub per: Duration,
    /// Requests that may come at once after a pause. Default: the rate.
    pub burst: NonZeroU32,
    /// What it counts by. Default: the client's address.
    pub key: LimitKey,
    /// How much a request counts for. Default 1.
    pub cost: CostSettings,
    /// Client addresses that are not limited.
    pub exempt: Vec<IpNet>,
    /// Lets through what it would refuse, and only counts it. Default false.
    pub dry_run: bool,
    /// The most keys that are remembered, rounded up to what the tables hold; each takes
    /// [`RateLimitSettings::BYTES_PER_KEY`] at the most. Where there are more, those go that would be forgotten first.
    /// Default [`RateLimitSettings::MAX_KEYS`].
    pub max_keys: usize,
    /// Counts together with other instances. Default `None`: each counts by itself.
    pub shared: Option<SharedSettings>,
}

impl RateLimitSettings {
    /// What a key takes in memory at the most, in bytes.
    pub const BYTES_PER_KEY: usize = 39;

    /// The most keys that are remembered unless told otherwise: in 39 MB at the most.
    pub const MAX_KEYS: usize = 1_000_000;

    /// `rate` requests a second, and as many at once.
    #[must_use]
    pub fn per_second(rate: NonZeroU32) -> Self {
        Self::new(Quota::new(rate, Duration::from_secs(1)), LimitKey::default())
    }

    /// This quota for each key.
    #[must_use]
    pub fn new(quota: Quota, key: LimitKey) -> Self {
        let Quota { requests, per, burst } = quota;
        Self {
            name: key.word().into(),
            rate: requests,
            per,
            burst,
            key,
            cost: CostSettings::default(),
            exempt: Vec::new(),
            dry_run: false,
            max_keys: Self::MAX_KEYS,
            shared: None,
        }
    }

    /// Lets this many come at once after a pause.
    #[must_use]
    pub fn burst(mut self, burst: NonZeroU32) -> Self {
        self.burst = burst;
        self
    }

    /// Has this name.
    #[must_use]
    pub fn named(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = name.into();
        self
    }

    /// How often a key may ask.
    #[must_use]
    pub fn quota(&self) -> Quota {
        Quota { requests: self.rate, per: self.per, burst: self.burst }
    }

    /// Whether counts of the one mean the same to the other.
    #[must_use]
    pub fn counts_like(&self, other: &Self) -> bool {
        let of = |one: &Self| (one.quota(), one.max_keys, one.shared.clone());
        of(self) == of(other) && self.key == other.key
    }
}

/// How much a request counts for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CostSettings {
    /// Any request. Default 1.
    pub each: NonZeroU32,
    /// Requests with one of these methods; the first that fits counts.
    pub by_method: Vec<(Vec<Method>, NonZeroU32)>,
    /// A field of the origin's response that says what the request has cost. What is beyond
    /// what it was let through for is taken when the response's head comes, as far as it is
    /// there: the request itself is not refused any more.
    pub header: Option<HeaderName>,
    /// Whether the client gets to see that field. Default false.
    pub keep_header: bool,
}

impl Default for CostSettings {
    fn default() -> Self {
        Self { each: NonZeroU32::MIN, by_method: Vec::new(), header: None, keep_header: false }
    }
}

impl CostSettings {
    /// How much a request with this method counts for.
    #[must_use]
    pub fn of(&self, method: &Method) -> NonZeroU32 {
        let by_method = self.by_method.iter().find(|(methods, _)| methods.contains(method));
        by_method.map_or(self.each, |(_, cost)| *cost)
    }

    /// The most that a request counts for when it comes.
    #[must_use]
    pub fn most(&self) -> NonZeroU32 {
        let by_method = self.by_method.iter().map(|(_, cost)| *cost);
        by_method.fold(self.each, NonZeroU32::max)
    }
}
