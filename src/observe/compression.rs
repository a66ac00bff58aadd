//! What is counted of the compression of responses.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::registry::Unit;

use super::Metrics;
use super::metrics::{ByRoute, Label};
use crate::seat::seat;

/// What became of a response that the compression of its route saw.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CompressionOutcome {
    /// It was compressed with Zstandard.
    Zstd,
    /// It was compressed with Brotli.
    Brotli,
    /// It was compressed with gzip.
    Gzip,
    /// It came with a coding.
    Encoded,
    /// It has no content, or is a part.
    Status,
    /// It forbids it.
    NoTransform,
    /// Its type is none of those that are compressed.
    Type,
    /// It is too short.
    Short,
    /// It may hold a secret.
    Credentials,
    /// A part was asked for.
    Range,
    /// The client takes none of the codings.
    NotAccepted,
    /// It has no content, and it is not known how long that would be.
    Head,
    /// Other responses take the memory.
    NoRoom,
}

const OUTCOMES: [(CompressionOutcome, &str); 13] = [
    (CompressionOutcome::Zstd, "zstd"),
    (CompressionOutcome::Brotli, "br"),
    (CompressionOutcome::Gzip, "gzip"),
    (CompressionOutcome::Encoded, "encoded"),
    (CompressionOutcome::Status, "status"),
    (CompressionOutcome::NoTransform, "no-transform"),
    (CompressionOutcome::Type, "type"),
    (CompressionOutcome::Short, "short"),
    (CompressionOutcome::Credentials, "credentials"),
    (CompressionOutcome::Range, "range"),
    (CompressionOutcome::NotAccepted, "not-accepted"),
    (CompressionOutcome::Head, "head"),
    (CompressionOutcome::NoRoom, "no-room"),
];

/// The counts of one route, a set for each worker. Cheap to clone: all clones count
/// together.
#[derive(Clone, Debug)]
pub struct CompressionCounts(Arc<[Shard]>);

/// The counts of one worker, on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    outcomes: [AtomicU64; OUTCOMES.len()],
    taken: AtomicU64,
    given: AtomicU64,
}

impl Default for CompressionCounts {
    fn default() -> Self {
        let workers = std::thread::available_parallelism().map_or(1, usize::from).min(64);
        Self((0..workers).map(|_| Shard::default()).collect())
    }
}

impl CompressionCounts {
    fn shard(&self) -> &Shard {
        &self.0[seat() % self.0.len()]
    }

    /// One more.
    pub fn count(&self, outcome: CompressionOutcome) {
        self.shard().outcomes[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// So many bytes of content became so many.
    pub fn bytes(&self, taken: u64, given: u64) {
        self.shard().taken.fetch_add(taken, Ordering::Relaxed);
        self.shard().given.fetch_add(given, Ordering::Relaxed);
    }

    /// How many there were.
    #[must_use]
    pub fn get(&self, outcome: CompressionOutcome) -> u64 {
        self.sum(|shard| &shard.outcomes[outcome as usize])
    }

    fn sum(&self, of: impl Fn(&Shard) -> &AtomicU64) -> u64 {
        self.0.iter().map(|shard| of(shard).load(Ordering::Relaxed)).sum()
    }
}

/// The counts of all routes.
#[derive(Clone, Debug, Default)]
pub(super) struct Compressions(Arc<RwLock<BTreeMap<Arc<str>, CompressionCounts>>>);

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ByOutcome {
    route: Label,
    outcome: &'static str,
}

impl Compressions {
    /// Forgets all routes but these.
    pub(super) fn retain(&self, known: impl Fn(&str) -> bool) {
        self.0.write().retain(|name, _| known(name));
    }
}

impl Collector for Compressions {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let routes = self.0.read();
        if routes.is_empty() {
            return Ok(());
        }
        let counter = MetricType::Counter;
        let help = "Responses by what the compression did.";
        let mut responses =
            encoder.encode_descriptor("compression_responses", help, None, counter)?;
        for (route, counts) in &*routes {
            for (outcome, name) in OUTCOMES {
                let labels = ByOutcome { route: Label(route.clone()), outcome: name };
                let count = ConstCounter::new(counts.get(outcome));
                count.encode(responses.encode_family(&labels)?)?;
            }
        }
        type Of = fn(&Shard) -> &AtomicU64;
        let sums: [(_, _, Of); 2] = [
            ("compression_input", "What was compressed.", |shard| &shard.taken),
            ("compression_output", "What it became.", |shard| &shard.given),
        ];
        for (name, help, of) in sums {
            let mut bytes = encoder.encode_descriptor(name, help, Some(&Unit::Bytes), counter)?;
            for (route, counts) in &*routes {
                let labels = ByRoute { route: Label(route.clone()) };
                let sum = ConstCounter::new(counts.sum(of));
                sum.encode(bytes.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

impl Metrics {
    /// Where the compression of this route counts.
    #[must_use]
    pub fn compression(&self, route: &Arc<str>) -> CompressionCounts {
        let mut routes = self.compressions().0.write();
        routes.entry(route.clone()).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_has_its_place() {
        for (index, (outcome, _)) in OUTCOMES.iter().enumerate() {
            assert_eq!(*outcome as usize, index);
        }
    }

    #[test]
    fn what_was_done_is_told_by_route() {
        let metrics = Metrics::default();
        assert!(!metrics.render().contains("compression"));
        let counts = metrics.compression(&"site".into());
        counts.count(CompressionOutcome::Brotli);
        counts.bytes(1000, 100);
        let told = metrics.render();
        for line in [
            "tollgate_compression_responses_total{route=\"site\",outcome=\"br\"} 1\n",
            "tollgate_compression_responses_total{route=\"site\",outcome=\"type\"} 0\n",
            "tollgate_compression_input_bytes_total{route=\"site\"} 1000\n",
            "tollgate_compression_output_bytes_total{route=\"site\"} 100\n",
        ] {
            assert!(told.contains(line), "{line} in {told}");
        }
    }
}
