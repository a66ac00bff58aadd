//! What is told of tasks that have not ended.

use std::fmt;
use std::sync::{Arc, OnceLock};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

use super::Metrics;

/// Counts the tasks of each runtime when it is asked.
type Count = Box<dyn Fn() -> Vec<(&'static str, usize)> + Send + Sync>;

/// Tells how many there are, once it is known who counts them.
#[derive(Clone, Default)]
pub(super) struct Tasks(Arc<OnceLock<Count>>);

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Of {
    runtime: &'static str,
}

impl Metrics {
    /// Has `count` say how many tasks each runtime has. The first is asked: a process
    /// has one set of runtimes.
    pub fn watch_tasks(
        &self,
        count: impl Fn() -> Vec<(&'static str, usize)> + Send + Sync + 'static,
    ) {
        self.tasks().0.get_or_init(|| Box::new(count));
    }
}

impl Collector for Tasks {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(count) = self.0.get() else { return Ok(()) };
        let help = "Tasks that have not ended: connections, and what goes on beside them.";
        let mut family = encoder.encode_descriptor("tasks", help, None, MetricType::Gauge)?;
        for (runtime, tasks) in count() {
            let gauge = ConstGauge::new(i64::try_from(tasks).unwrap_or(i64::MAX));
            gauge.encode(family.encode_family(&Of { runtime })?)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tasks")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_are_counted_by_whoever_knows_them() {
        let metrics = Metrics::default();
        assert!(!metrics.render().contains("tollgate_tasks"));
        metrics.watch_tasks(|| vec![("main", 3), ("workers", 7)]);
        let text = metrics.render();
        assert!(text.contains("tollgate_tasks{runtime=\"main\"} 3\n"), "{text}");
        assert!(text.contains("tollgate_tasks{runtime=\"workers\"} 7\n"), "{text}");
    }
}
