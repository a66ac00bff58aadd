//! What rate limits have refused, and what they would have refused.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;
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
    /// The limits that there are: a family does not tell.
    told: Arc<Mutex<HashSet<ByLimit>>>,
}

impl RateLimits {
    /// Tells no more of limits but those that are `known`, by route and limit. What others
    /// still count is counted where nobody looks.
    fn retain(&self, known: impl Fn(&str, &str) -> bool) {
        self.told.lock().retain(|labels| {
            let kept = known(&labels.route.0, &labels.limit.0);
            if !kept {
                self.refused.remove(labels);
                self.would_refuse.remove(labels);
            }
            kept
        });
    }

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
        let mut told = self.rate_limits().told.lock();
        told.insert(labels.clone());
        let counter = |family: &Family<ByLimit, Counter>| family.get_or_create(&labels).clone();
        RateLimitCounts {
            route: route.clone(),
            refused: counter(&self.rate_limits().refused),
            would_refuse: counter(&self.rate_limits().would_refuse),
        }
    }

    /// There are no rate limits but those that are `known`, by route and limit: what was
    /// counted of others is not told any more.
    pub fn rate_limits_are(&self, known: impl Fn(&str, &str) -> bool) {
        self.rate_limits().retain(known);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_are_gone_are_not_told_and_begin_anew_when_they_come_back() {
        let metrics = Metrics::default();
        let limit = |route: &str, limit: &str| metrics.rate_limit(&route.into(), &limit.into());
        let (kept, gone) = (limit("a", "x"), limit("a", "y"));
        kept.refused();
        gone.refused();
        gone.would_refuse();
        metrics.rate_limits_are(|route, limit| (route, limit) == ("a", "x"));
        let told = metrics.render();
        let kept = "tollgate_rate_limited_total{route=\"a\",limit=\"x\"} 1\n";
        assert!(told.contains(kept) && !told.contains("limit=\"y\""), "{told}");
        let _ = limit("a", "y");
        let anew = "tollgate_rate_limited_total{route=\"a\",limit=\"y\"} 0\n";
        assert!(metrics.render().contains(anew));
    }
}
