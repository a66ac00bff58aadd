//! What is told of the memory budget.

use std::fmt;
use std::sync::{Arc, OnceLock};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use crate::budget::{Budget, Use};

/// Tells of one budget, once it is known which. Nothing is told of one without
/// bounds, which counts nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory(pub(super) Arc<OnceLock<Budget>>);

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct For {
    r#for: &'static str,
}

impl Collector for Memory {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(budget) = self.0.get() else { return Ok(()) };
        let Some(max) = budget.max() else { return Ok(()) };
        let (gauge, unit) = (MetricType::Gauge, Some(&Unit::Bytes));
        for (name, help, bytes) in [
            ("memory_budget", "What may be set aside for connections and exchanges.", max),
            ("memory_charged", "What is set aside for them.", budget.charged()),
        ] {
            let encoder = encoder.encode_descriptor(name, help, unit, gauge)?;
            ConstGauge::new(i64::try_from(bytes).unwrap_or(i64::MAX)).encode(encoder)?;
        }
        let help = "What there was no memory for; a refused buffer only makes for smaller steps.";
        let mut refused =
            encoder.encode_descriptor("memory_refusals", help, None, MetricType::Counter)?;
        for of in Use::ALL {
            let labels = For { r#for: of.as_str() };
            ConstCounter::new(budget.refused(of)).encode(refused.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
