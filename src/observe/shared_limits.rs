//! What is counted of rate limits that several instances share.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::registry::Unit;

use super::Metrics;
use super::metrics::{ByRoute, Label};
use crate::seat::seat;

/// By what it was decided about a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SharedLimitOutcome {
    /// Redis was asked.
    Redis,
    /// By what had been taken ahead.
    Lease,
    /// By what Redis had said before.
    Remembered,
    /// Let through without Redis.
    Open,
    /// Turned away without Redis.
    Closed,
    /// Counted here without Redis.
    Local,
}

/// Why Redis was of no help.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SharedLimitError {
    /// There is no connection to it.
    Unreachable,
    /// It did not answer before the deadline of the limit.
    Late,
    /// It did not answer at all.
    TimedOut,
    /// It refused, or answered with something else.
    Refused,
    /// The connection was lost.
    Broken,
}

const OUTCOMES: [(SharedLimitOutcome, &str); 6] = [
    (SharedLimitOutcome::Redis, "redis"),
    (SharedLimitOutcome::Lease, "lease"),
    (SharedLimitOutcome::Remembered, "remembered"),
    (SharedLimitOutcome::Open, "open"),
    (SharedLimitOutcome::Closed, "closed"),
    (SharedLimitOutcome::Local, "local"),
];

const ERRORS: [(SharedLimitError, &str); 5] = [
    (SharedLimitError::Unreachable, "unreachable"),
    (SharedLimitError::Late, "late"),
    (SharedLimitError::TimedOut, "timed-out"),
    (SharedLimitError::Refused, "refused"),
    (SharedLimitError::Broken, "broken"),
];

/// The upper bounds of the buckets of the times that Redis takes, in seconds.
const TIMES: [f64; 9] = [0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.1, 1.0];

/// One more for what took longer.
const BUCKETS: usize = TIMES.len() + 1;

/// The counts of one route, a set for each worker. Cheap to clone: all clones count
/// together.
#[derive(Clone, Debug)]
pub struct SharedLimitCounts(Arc<[Shard]>);

/// The counts of one worker, on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    outcomes: [AtomicU64; OUTCOMES.len()],
    errors: [AtomicU64; ERRORS.len()],
    times: [AtomicU64; BUCKETS],
    nanoseconds: AtomicU64,
}

impl Default for SharedLimitCounts {
    fn default() -> Self {
        let workers = std::thread::available_parallelism().map_or(1, usize::from).min(64);
        Self((0..workers).map(|_| Shard::default()).collect())
    }
}

impl SharedLimitCounts {
    fn shard(&self) -> &Shard {
        &self.0[seat() % self.0.len()]
    }

    /// One more request.
    pub fn count(&self, outcome: SharedLimitOutcome) {
        self.shard().outcomes[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Redis was of no help once more.
    pub fn failed(&self, error: SharedLimitError) {
        self.shard().errors[error as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Redis took this long for an answer.
    pub fn answered(&self, after: Duration) {
        let (shard, seconds) = (self.shard(), after.as_secs_f64());
        let bucket = TIMES.iter().position(|bound| seconds <= *bound).unwrap_or(BUCKETS - 1);
        shard.times[bucket].fetch_add(1, Ordering::Relaxed);
        let nanoseconds = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
        shard.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// How many there were.
    #[must_use]
    pub fn get(&self, outcome: SharedLimitOutcome) -> u64 {
        self.sum(|shard| &shard.outcomes[outcome as usize])
    }

    /// How often Redis has answered.
    #[must_use]
    pub fn answers(&self) -> u64 {
        (0..BUCKETS).map(|bucket| self.sum(|shard| &shard.times[bucket])).sum()
    }

    /// How often Redis was of no help for this reason.
    #[must_use]
    pub fn failures(&self, error: SharedLimitError) -> u64 {
        self.sum(|shard| &shard.errors[error as usize])
    }

    fn sum(&self, of: impl Fn(&Shard) -> &AtomicU64) -> u64 {
        self.0.iter().map(|shard| of(shard).load(Ordering::Relaxed)).sum()
    }
}

/// The counts of all routes.
#[derive(Clone, Debug, Default)]
pub(super) struct SharedLimits(Arc<RwLock<BTreeMap<Arc<str>, SharedLimitCounts>>>);

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ByOutcome {
    route: Label,
    outcome: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ByReason {
    route: Label,
    reason: &'static str,
}

impl SharedLimits {
    /// Forgets all routes but these.
    pub(super) fn retain(&self, known: impl Fn(&str) -> bool) {
        self.0.write().retain(|name, _| known(name));
    }
}

impl Collector for SharedLimits {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let routes = self.0.read();
        if routes.is_empty() {
            return Ok(());
        }
        let counter = MetricType::Counter;
        let help = "Requests that met a shared rate limit, by what decided.";
        let mut requests = encoder.encode_descriptor("rate_limit_shared", help, None, counter)?;
        for (route, counts) in &*routes {
            for (outcome, name) in OUTCOMES {
                let labels = ByOutcome { route: Label(route.clone()), outcome: name };
                let count = ConstCounter::new(counts.get(outcome));
                count.encode(requests.encode_family(&labels)?)?;
            }
        }
        let help = "Times that Redis was of no help to a shared rate limit, by reason.";
        let mut errors =
            encoder.encode_descriptor("rate_limit_shared_errors", help, None, counter)?;
        for (route, counts) in &*routes {
            for (error, reason) in ERRORS {
                let labels = ByReason { route: Label(route.clone()), reason };
                let count = ConstCounter::new(counts.failures(error));
                count.encode(errors.encode_family(&labels)?)?;
            }
        }
        let help = "How long Redis took to answer a shared rate limit.";
        let (unit, histogram) = (Some(&Unit::Seconds), MetricType::Histogram);
        let mut times =
            encoder.encode_descriptor("rate_limit_shared_answer", help, unit, histogram)?;
        for (route, counts) in &*routes {
            let labels = ByRoute { route: Label(route.clone()) };
            let bounds = TIMES.into_iter().chain([f64::INFINITY]).enumerate();
            let buckets: Vec<(f64, u64)> =
                bounds.map(|(at, bound)| (bound, counts.sum(|shard| &shard.times[at]))).collect();
            let count = buckets.iter().map(|(_, count)| count).sum();
            #[allow(clippy::cast_precision_loss, reason = "a sum of seconds is no exact figure")]
            let seconds = counts.sum(|shard| &shard.nanoseconds) as f64 / 1e9;
            let mut family = times.encode_family(&labels)?;
            family.encode_histogram::<NoLabelSet>(seconds, count, &buckets, None)?;
        }
        Ok(())
    }
}

impl Metrics {
    /// Where the shared rate limits of this route count.
    #[must_use]
    pub fn shared_limits(&self, route: &Arc<str>) -> SharedLimitCounts {
        let mut routes = self.of_shared_limits().0.write();
        routes.entry(route.clone()).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_in_the_order_of_their_numbers() {
        for (index, (outcome, _)) in OUTCOMES.iter().enumerate() {
            assert_eq!(*outcome as usize, index);
        }
        for (index, (error, _)) in ERRORS.iter().enumerate() {
            assert_eq!(*error as usize, index);
        }
    }

    #[test]
    fn what_decided_is_told_by_route() {
        let metrics = Metrics::default();
        assert!(!metrics.render().contains("rate_limit_shared"));
        let counts = metrics.shared_limits(&"api".into());
        counts.count(SharedLimitOutcome::Lease);
        counts.failed(SharedLimitError::Late);
        counts.answered(Duration::from_micros(400));
        let told = metrics.render();
        for line in [
            "tollgate_rate_limit_shared_total{route=\"api\",outcome=\"lease\"} 1",
            "tollgate_rate_limit_shared_errors_total{route=\"api\",reason=\"late\"} 1",
            "tollgate_rate_limit_shared_answer_seconds_count{route=\"api\"} 1",
            "tollgate_rate_limit_shared_answer_seconds_bucket{le=\"0.0005\",route=\"api\"} 1",
        ] {
            assert!(told.contains(line), "{line} in {told}");
        }
        metrics.routes_are(|_| false);
        assert!(!metrics.render().contains("rate_limit_shared"));
    }
}
