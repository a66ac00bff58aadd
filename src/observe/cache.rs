//! What is counted of the cache, and how full it is.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::RwLock;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use serde::Serialize;

use super::Metrics;
use super::metrics::Label;
use crate::seat::seat;

/// What the cache did for a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CacheOutcome {
    /// A stored response was fresh.
    Hit,
    /// A stored response was used although it was stale.
    Stale,
    /// A stored response was used once the origin had said that it still holds.
    Revalidated,
    /// The response of another request was shared.
    Collapsed,
    /// The origin had to be asked.
    Miss,
    /// The request, or the response, has nothing to do with the cache.
    Pass,
}

impl CacheOutcome {
    /// Its name in the metrics and in the access log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        OUTCOMES[self as usize]
    }
}

const OUTCOMES: [&str; 6] = ["hit", "stale", "revalidated", "collapsed", "miss", "pass"];

/// How full a cache is.
pub trait CacheLevel: fmt::Debug + Send + Sync {
    /// The bytes that are stored, and in how many objects.
    fn level(&self) -> (u64, u64);

    /// How many had to make room for others.
    fn evicted(&self) -> u64 {
        0
    }

    /// How full its disk is; `None` without one.
    fn disk(&self) -> Option<CacheDiskFigures> {
        None
    }
}

/// How full the disk of a cache is, and what has been done with it since the process
/// began.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct CacheDiskFigures {
    /// Bytes that its files may take.
    pub capacity_bytes: u64,
    /// Bytes that they take.
    pub stored_bytes: u64,
    /// Responses that are there.
    pub objects: u64,
    /// Responses that were served from there.
    pub hits: u64,
    /// Responses that were written, or given a new head.
    pub written: u64,
    /// Responses that could not be written, or not be read and used again.
    pub failed: u64,
    /// Responses that were not written because the disk was behind.
    pub given_up: u64,
}

/// The counts of one route, a set for each worker. Cheap to clone: all clones count
/// together.
#[derive(Clone, Debug)]
pub struct CacheCounts(Arc<[Shard]>);

/// The counts of one worker, on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard([AtomicU64; OUTCOMES.len()]);

impl Default for CacheCounts {
    fn default() -> Self {
        let workers = std::thread::available_parallelism().map_or(1, usize::from).min(64);
        Self((0..workers).map(|_| Shard::default()).collect())
    }
}

impl CacheCounts {
    /// One more.
    pub fn count(&self, outcome: CacheOutcome) {
        let shard = &self.0[seat() % self.0.len()];
        shard.0[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How many there were.
    #[must_use]
    pub fn get(&self, outcome: CacheOutcome) -> u64 {
        self.0.iter().map(|shard| shard.0[outcome as usize].load(Ordering::Relaxed)).sum()
    }
}

/// The counts of all routes.
#[derive(Clone, Debug, Default)]
pub(super) struct Caches(Arc<All>);

#[derive(Debug, Default)]
struct All {
    routes: RwLock<BTreeMap<Arc<str>, CacheCounts>>,
    level: OnceLock<Arc<dyn CacheLevel>>,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ByOutcome {
    route: Label,
    outcome: &'static str,
}

impl Caches {
    /// Forgets all routes but these.
    pub(super) fn retain(&self, known: impl Fn(&str) -> bool) {
        self.0.routes.write().retain(|name, _| known(name));
    }
}

impl Collector for Caches {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        const ALL: [CacheOutcome; 6] = [
            CacheOutcome::Hit,
            CacheOutcome::Stale,
            CacheOutcome::Revalidated,
            CacheOutcome::Collapsed,
            CacheOutcome::Miss,
            CacheOutcome::Pass,
        ];
        let routes = self.0.routes.read();
        if routes.is_empty() {
            return Ok(());
        }
        let help = "Requests by what the cache did.";
        let counter = MetricType::Counter;
        let mut requests = encoder.encode_descriptor("cache_requests", help, None, counter)?;
        for (route, counts) in &*routes {
            for outcome in ALL {
                let name = OUTCOMES[outcome as usize];
                let labels = ByOutcome { route: Label(route.clone()), outcome: name };
                let count = ConstCounter::new(counts.get(outcome));
                count.encode(requests.encode_family(&labels)?)?;
            }
        }
        let Some(level) = self.0.level.get() else { return Ok(()) };
        let (bytes, objects) = level.level();
        for (name, help, unit, value) in [
            ("cache_stored", "Memory that stored responses take.", Some(&Unit::Bytes), bytes),
            ("cache_objects", "Responses that are stored.", None, objects),
        ] {
            let gauge = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
            ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(gauge)?;
        }
        let help = "URLs that had to make room for others.";
        let evicted = encoder.encode_descriptor("cache_evicted", help, None, counter)?;
        ConstCounter::new(level.evicted()).encode(evicted)?;
        level.disk().map_or(Ok(()), |disk| encode_disk(&mut encoder, &disk))
    }
}

fn encode_disk(
    encoder: &mut DescriptorEncoder<'_>,
    disk: &CacheDiskFigures,
) -> Result<(), fmt::Error> {
    let CacheDiskFigures {
        capacity_bytes: _,
        stored_bytes,
        objects,
        hits,
        written,
        failed,
        given_up,
    } = *disk;
    for (name, help, unit, value) in [
        ("cache_disk", "What the cache's files take.", Some(&Unit::Bytes), stored_bytes),
        ("cache_disk_objects", "Responses that are on disk.", None, objects),
    ] {
        let gauge = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(gauge)?;
    }
    for (name, help, value) in [
        ("cache_disk_hits", "Responses that were served from disk.", hits),
        ("cache_disk_written", "Responses that were written to disk.", written),
        ("cache_disk_failed", "Responses that could not be written or read.", failed),
        ("cache_disk_given_up", "Responses that the disk was too slow for.", given_up),
    ] {
        let counter = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(value).encode(counter)?;
    }
    Ok(())
}

impl Metrics {
    /// Where the cache of this route counts.
    #[must_use]
    pub fn cache(&self, route: &Arc<str>) -> CacheCounts {
        let mut routes = self.caches().0.routes.write();
        routes.entry(route.clone()).or_default().clone()
    }

    /// Tells how full this cache is. The first has it: there is one.
    pub fn watch_cache(&self, level: Arc<dyn CacheLevel>) {
        self.caches().0.level.get_or_init(|| level);
    }
}
