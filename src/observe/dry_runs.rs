//! What rate limits would have refused.

use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::Metrics;
use super::metrics::{ByRoute, Label};

/// Counts what one route's rate limit would have refused. Cheap to clone; all
/// clones count together.
#[derive(Clone, Debug, Default)]
pub struct DryRunCount {
    route: Arc<str>,
    counter: Counter,
}

impl DryRunCount {
    /// One more.
    pub fn count(&self) {
        self.counter.inc();
    }

    /// How many there were.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.counter.get()
    }

    /// Whose limit it is; empty if nobody said so.
    #[must_use]
    pub fn route(&self) -> &str {
        &self.route
    }
}

/// The count of every route.
#[derive(Clone, Debug, Default)]
pub(super) struct DryRuns(Family<ByRoute, Counter>);

impl DryRuns {
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Requests that a rate limit on its dry run would have refused";
        registry.register("rate_limit_dry_run", help, self.0.clone());
    }
}

impl Metrics {
    /// What the rate limit of this route would have refused.
    #[must_use]
    pub fn rate_limit_dry_run(&self, route: &Arc<str>) -> DryRunCount {
        let labels = ByRoute { route: Label(route.clone()) };
        let counter = self.dry_runs().0.get_or_create(&labels).clone();
        DryRunCount { route: route.clone(), counter }
    }
}
