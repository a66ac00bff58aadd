//! How many connections each worker has.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// The connections that one worker serves. Cheap to clone; all clones count
/// together.
#[derive(Clone, Debug, Default)]
pub struct WorkerConnections(Arc<Padded>);

/// Each worker writes its own with every connection: two must not share a
/// cache line, nor a pair of them, which some processors fetch together.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Padded(AtomicUsize);

/// Counts a connection as one worker's until it is dropped.
#[derive(Debug)]
pub struct OpenOnWorker(WorkerConnections);

impl WorkerConnections {
    /// How many are open.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.0.load(Ordering::Relaxed)
    }

    /// Counts one more.
    #[must_use]
    pub fn open(&self) -> OpenOnWorker {
        self.0.0.fetch_add(1, Ordering::Relaxed);
        OpenOnWorker(self.clone())
    }
}

impl Drop for OpenOnWorker {
    fn drop(&mut self) {
        self.0.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl EncodeMetric for WorkerConnections {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        encoder.encode_gauge(&i64::try_from(self.count()).unwrap_or(i64::MAX))
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl TypedMetric for WorkerConnections {
    const TYPE: MetricType = MetricType::Gauge;
}
