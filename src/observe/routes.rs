//! What is counted for every exchange of a route.
//!
//! Each worker counts for itself, in memory that no other core writes to; the
//! sums are taken when somebody asks for them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, RwLock};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::registry::Unit;

use super::metrics::{ByRoute, ByRouteAndReason, ByRouteAndStatus, Label};
use crate::context::{Facts, Record, Route};
use crate::seat::seat;

/// Upper bounds of the duration buckets, in seconds: 0.5 ms to a minute. One
/// bucket more takes whatever is longer.
const DURATIONS: [f64; 15] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0];
const BUCKETS: usize = DURATIONS.len() + 1;

/// Statuses by their first digit; the first is for exchanges without one.
const CLASSES: [&str; 6] = ["aborted", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// The name under which exchanges are counted that no route took.
const NO_ROUTE: &str = "none";

/// The counts of all routes. Cheap to clone: all clones count together.
#[derive(Clone, Debug, Default)]
pub(super) struct RouteCounts(Arc<RwLock<BTreeMap<Arc<str>, Arc<Series>>>>);

/// The counts of one route.
#[derive(Debug)]
pub(super) struct Series {
    name: Arc<str>,
    /// One for each worker; none before the first exchange.
    shards: OnceLock<Box<[Shard]>>,
}

/// What one worker counted, on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    by_class: [AtomicU64; CLASSES.len()],
    request_bytes: AtomicU64,
    response_bytes: AtomicU64,
    by_duration: [AtomicU64; BUCKETS],
    nanoseconds: AtomicU64,
    /// By the reason. Nobody but the worker, and whoever asks, wants the lock.
    rejections: Mutex<BTreeMap<&'static str, u64>>,
}

impl RouteCounts {
    /// The route of this name, for exchanges to point at.
    pub(super) fn route(&self, name: &Arc<str>) -> Arc<Route> {
        Arc::new(Route { name: name.clone(), series: self.series(name) })
    }

    /// Forgets all routes but these. An exchange of one that is gone is counted where
    /// nobody looks any more.
    pub(super) fn retain(&self, known: impl Fn(&str) -> bool) {
        self.0.write().retain(|name, _| &**name == NO_ROUTE || known(name));
    }

    /// Counts an exchange that is over.
    pub(super) fn count(&self, facts: &Facts, record: &Record) {
        let route = record.route.as_deref();
        match route.and_then(|route| route.series.downcast_ref::<Series>()) {
            Some(series) => series.count(facts, record),
            None => self.series(route.map_or(NO_ROUTE, |route| &route.name)).count(facts, record),
        }
    }

    fn series(&self, name: &str) -> Arc<Series> {
        let found = self.0.read().get(name).cloned();
        found.unwrap_or_else(|| {
            let name: Arc<str> = name.into();
            let new = || Arc::new(Series { name: name.clone(), shards: OnceLock::new() });
            self.0.write().entry(name.clone()).or_insert_with(new).clone()
        })
    }
}

/// A shard for each worker.
fn shards() -> Box<[Shard]> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(64);
    (0..workers).map(|_| Shard::default()).collect()
}

impl Series {
    fn count(&self, facts: &Facts, record: &Record) {
        let elapsed = facts.elapsed();
        let seconds = elapsed.as_secs_f64();
        let class = record.status.map_or(0, |status| usize::from(status.as_u16() / 100));
        let bucket = DURATIONS.iter().position(|bound| seconds <= *bound);
        let shards = self.shards.get_or_init(shards);
        let shard = &shards[seat() % shards.len()];
        let add = |counter: &AtomicU64, count: u64| {
            counter.fetch_add(count, Ordering::Relaxed);
        };
        add(&shard.by_class[class.min(CLASSES.len() - 1)], 1);
        add(&shard.by_duration[bucket.unwrap_or(BUCKETS - 1)], 1);
        add(&shard.nanoseconds, u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX));
        if record.request_bytes > 0 {
            add(&shard.request_bytes, record.request_bytes);
        }
        add(&shard.response_bytes, record.response_bytes);
        if let Some(reason) = record.rejection {
            *shard.rejections.lock().entry(reason).or_default() += 1;
        }
    }

    /// How many requests Tollgate answered itself, by the reason.
    fn rejections(&self) -> BTreeMap<&'static str, u64> {
        let mut sums = BTreeMap::new();
        for shard in self.shards.get().into_iter().flatten() {
            for (reason, count) in &*shard.rejections.lock() {
                *sums.entry(*reason).or_default() += count;
            }
        }
        sums
    }

    fn sum(&self, counter: impl Fn(&Shard) -> &AtomicU64) -> u64 {
        let shards = self.shards.get().into_iter().flatten();
        shards.map(|shard| counter(shard).load(Ordering::Relaxed)).sum()
    }
}

/// Which bytes of a shard are meant.
type Bytes = fn(&Shard) -> &AtomicU64;

impl Collector for RouteCounts {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let all = self.0.read();
        let touched: Vec<_> = all.values().filter(|series| series.shards.get().is_some()).collect();
        let counter = MetricType::Counter;
        let mut requests =
            encoder.encode_descriptor("requests", "Requests by status class.", None, counter)?;
        for series in &touched {
            for (class, status) in CLASSES.into_iter().enumerate() {
                let count = series.sum(|shard| &shard.by_class[class]);
                if count > 0 {
                    let labels = ByRouteAndStatus { route: Label(series.name.clone()), status };
                    ConstCounter::new(count).encode(requests.encode_family(&labels)?)?;
                }
            }
        }
        let help = "Requests that Tollgate answered itself, by reason.";
        let mut rejections = encoder.encode_descriptor("rejections", help, None, counter)?;
        for series in &touched {
            for (reason, count) in series.rejections() {
                let labels = ByRouteAndReason { route: Label(series.name.clone()), reason };
                ConstCounter::new(count).encode(rejections.encode_family(&labels)?)?;
            }
        }
        let help = "From the request's head to the response's end.";
        let (unit, histogram) = (Some(&Unit::Seconds), MetricType::Histogram);
        let mut durations = encoder.encode_descriptor("request_duration", help, unit, histogram)?;
        for series in &touched {
            let labels = ByRoute { route: Label(series.name.clone()) };
            let bounds = DURATIONS.into_iter().chain([f64::INFINITY]).enumerate();
            let buckets: Vec<(f64, u64)> = bounds
                .map(|(at, bound)| (bound, series.sum(|shard| &shard.by_duration[at])))
                .collect();
            let count = buckets.iter().map(|(_, count)| count).sum();
            #[allow(clippy::cast_precision_loss, reason = "a sum of seconds is no exact figure")]
            let seconds = series.sum(|shard| &shard.nanoseconds) as f64 / 1e9;
            let mut family = durations.encode_family(&labels)?;
            family.encode_histogram::<NoLabelSet>(seconds, count, &buckets, None)?;
        }
        let received: Bytes = |shard| &shard.request_bytes;
        let sent: Bytes = |shard| &shard.response_bytes;
        for (name, help, bytes) in [
            ("request_body", "Request body bytes received.", received),
            ("response_body", "Response body bytes sent.", sent),
        ] {
            let mut encoder = encoder.encode_descriptor(name, help, Some(&Unit::Bytes), counter)?;
            for series in &touched {
                let labels = ByRoute { route: Label(series.name.clone()) };
                ConstCounter::new(series.sum(bytes)).encode(encoder.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Metrics;
    use crate::observe::line::tests::exchange;
    use std::fmt::Write as _;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn the_counts_are_told_as_openmetrics_has_it() {
        let metrics = Metrics::default();
        let exchange = exchange("/x");
        exchange.update(|record| record.response_bytes = 7);
        metrics.exchange_finished(&exchange);
        exchange.update(|record| record.rejection = Some("rate_limited"));
        tokio::time::advance(Duration::from_millis(70_500)).await;
        metrics.exchange_finished(&exchange);
        let mut expected = String::from(
            "# HELP tollgate_requests Requests by status class.\n\
             # TYPE tollgate_requests counter\n\
             tollgate_requests_total{route=\"demo\",status=\"2xx\"} 2\n\
             # HELP tollgate_rejections Requests that Tollgate answered itself, by reason.\n\
             # TYPE tollgate_rejections counter\n\
             tollgate_rejections_total{route=\"demo\",reason=\"rate_limited\"} 1\n\
             # HELP tollgate_request_duration_seconds \
             From the request's head to the response's end.\n\
             # TYPE tollgate_request_duration_seconds histogram\n\
             # UNIT tollgate_request_duration_seconds seconds\n\
             tollgate_request_duration_seconds_sum{route=\"demo\"} 70.5\n\
             tollgate_request_duration_seconds_count{route=\"demo\"} 2\n",
        );
        for bound in DURATIONS {
            let name = "tollgate_request_duration_seconds_bucket";
            writeln!(expected, "{name}{{le=\"{bound:?}\",route=\"demo\"}} 1").unwrap();
        }
        expected.push_str(
            "tollgate_request_duration_seconds_bucket{le=\"+Inf\",route=\"demo\"} 2\n\
             # HELP tollgate_request_body_bytes Request body bytes received.\n\
             # TYPE tollgate_request_body_bytes counter\n\
             # UNIT tollgate_request_body_bytes bytes\n\
             tollgate_request_body_bytes_total{route=\"demo\"} 0\n\
             # HELP tollgate_response_body_bytes Response body bytes sent.\n\
             # TYPE tollgate_response_body_bytes counter\n\
             # UNIT tollgate_response_body_bytes bytes\n\
             tollgate_response_body_bytes_total{route=\"demo\"} 14\n",
        );
        let text = metrics.render();
        assert!(text.contains(&expected), "{text}");
        metrics.routes_are(|_| false);
        assert!(!metrics.render().contains("demo"), "{}", metrics.render());
    }
}
