//! What is fetched to know who asks: keys of issuers, what login providers say of themselves.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use super::metrics::{Label, Metrics};

/// Counts what is fetched from one place. Cheap to clone: all clones count together, and
/// with the last one it is not told any more.
#[derive(Clone, Debug, Default)]
pub struct FetchCounts(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    ok: AtomicU64,
    failed: AtomicU64,
    /// Seconds of the epoch; zero before the first time.
    last: AtomicI64,
}

impl FetchCounts {
    /// It was fetched.
    pub fn fetched(&self) {
        self.0.ok.fetch_add(1, Ordering::Relaxed);
        self.0.last.store(jiff::Timestamp::now().as_second(), Ordering::Relaxed);
    }

    /// It could not be fetched.
    pub fn failed(&self) {
        self.0.failed.fetch_add(1, Ordering::Relaxed);
    }
}

/// By what is fetched. Cheap to clone: all clones tell the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Fetches(Arc<Mutex<BTreeMap<Arc<str>, Weak<Counts>>>>);

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ByPlace {
    from: Label,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ByResult {
    from: Label,
    result: &'static str,
}

impl Metrics {
    /// What is counted of fetching this, by a name for it. Whoever fetches the same counts
    /// together.
    #[must_use]
    pub fn fetches(&self, from: &str) -> FetchCounts {
        let mut all = self.of_fetches().0.lock();
        all.retain(|_, counts| counts.strong_count() > 0);
        if let Some(counts) = all.get(from).and_then(Weak::upgrade) {
            return FetchCounts(counts);
        }
        let counts = FetchCounts::default();
        all.insert(from.into(), Arc::downgrade(&counts.0));
        counts
    }
}

impl Collector for Fetches {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let all = self.0.lock();
        let alive = |(from, counts): (&Arc<str>, &Weak<Counts>)| {
            Some((Label(from.clone()), counts.upgrade()?))
        };
        let alive: Vec<(Label, Arc<Counts>)> = all.iter().filter_map(alive).collect();
        if alive.is_empty() {
            return Ok(());
        }
        let help = "Keys and descriptions fetched to know who asks, by result.";
        let counter = MetricType::Counter;
        let mut fetches = encoder.encode_descriptor("auth_fetches", help, None, counter)?;
        for (from, counts) in &alive {
            for (result, count) in [("ok", &counts.ok), ("failed", &counts.failed)] {
                let labels = ByResult { from: from.clone(), result };
                let count = ConstCounter::new(count.load(Ordering::Relaxed));
                count.encode(fetches.encode_family(&labels)?)?;
            }
        }
        let help = "When such was fetched last, in seconds of the epoch.";
        let (unit, gauge) = (Some(&Unit::Seconds), MetricType::Gauge);
        let mut last = encoder.encode_descriptor("auth_last_fetch_timestamp", help, unit, gauge)?;
        for (from, counts) in alive {
            let seconds = counts.last.load(Ordering::Relaxed);
            if seconds > 0 {
                ConstGauge::new(seconds).encode(last.encode_family(&ByPlace { from })?)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_fetched_is_told_while_anybody_fetches_it() {
        let metrics = Metrics::default();
        let (first, second) =
            (metrics.fetches("https://id.test/keys"), metrics.fetches("https://id.test/keys"));
        assert!(!metrics.render().contains("tollgate_auth_last_fetch_timestamp_seconds{"));
        first.fetched();
        second.failed();
        drop(first);
        let told = metrics.render();
        for line in [
            "tollgate_auth_fetches_total{from=\"https://id.test/keys\",result=\"ok\"} 1\n",
            "tollgate_auth_fetches_total{from=\"https://id.test/keys\",result=\"failed\"} 1\n",
            "tollgate_auth_last_fetch_timestamp_seconds{from=\"https://id.test/keys\"} ",
        ] {
            assert!(told.contains(line), "{told}");
        }
        drop(second);
        assert!(!metrics.render().contains("id.test"));
    }
}
