//! What rate limits have refused, and what they would have refused.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::Metrics;
use super::metrics::Label;

/// Counts what one limit of a route refuses. Cheap to clone; all clones count together.
#[derive(Clone, Debug, Default)]
pub struct RateLimitCounts {
    route: Arc<str>,
    refused: Counter,
    would_refuse: Counter,
}

impl RateLimitCounts {
    /// A request was refused.
    pub fn refused(&self) {
        self.refused.inc();
    }

    /// A request would have been refused, but for the dry run.
    pub fn would_refuse(&self) {
        self.would_refuse.inc();
    }

    /// Whose limit it is; empty if nobody said so.
    #[must_use]
    pub fn route(&self) -> &str {
        &self.route
    }
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ByLimit {
    route: Label,
    limit: Label,
}

/// The counts of every limit.
#[derive(Clone, Debug, Default)]
pub(super) struct RateLimits {
    refused: Family<ByLimit, Counter>,
    would_refuse: Family<ByLimit, Counter>,
}

impl RateLimits {
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Requests that a rate limit has refused";
        registry.register("rate_limited", help, self.refused.clone());
        let help = "Requests that a rate limit on its dry run would have refused";
        registry.register("rate_limit_dry_run", help, self.would_refuse.clone());
    }
}

impl Metrics {
    /// What this limit of this route counts.
    #[must_use]
    pub fn rate_limit(&self, route: &Arc<str>, limit: &Arc<str>) -> RateLimitCounts {
        let labels = ByLimit { route: Label(route.clone()), limit: Label(limit.clone()) };
        let counter = |family: &Family<ByLimit, Counter>| family.get_or_create(&labels).clone();
        RateLimitCounts {
            route: route.clone(),
            refused: counter(&self.rate_limits().refused),
            would_refuse: counter(&self.rate_limits().would_refuse),
        }
    }
}
