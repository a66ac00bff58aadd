//! What is told of Redis, and of a fleet that shares it.

use std::fmt;
use std::sync::{Arc, OnceLock};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use super::Metrics;

/// Whether something is connected to what several instances share.
pub trait Connected: fmt::Debug + Send + Sync {
    /// Whether it is now.
    fn is_connected(&self) -> bool;
}

/// Purges that go to the other instances of a fleet, and come from them.
pub trait FleetCounts: fmt::Debug + Send + Sync {
    /// How it stands.
    fn level(&self) -> FleetLevel;
}

/// How a fleet stands, as one instance sees it.
#[derive(Clone, Copy, Debug, Default)]
pub struct FleetLevel {
    /// Purges that were told to the others.
    pub sent: u64,
    /// Purges of others that were carried out.
    pub received: u64,
    /// What was not understood.
    pub unread: u64,
    /// How often purges were lost.
    pub lost: u64,
    /// Purges that are still to be told.
    pub waiting: usize,
    /// For how many seconds purges of others may have gone unheard.
    pub lag: f64,
}

/// Tells of them, once it is known that there are some.
#[derive(Clone, Debug, Default)]
pub(super) struct Shared(Arc<Parts>);

#[derive(Debug, Default)]
struct Parts {
    redis: OnceLock<Arc<dyn Connected>>,
    fleet: OnceLock<Arc<dyn FleetCounts>>,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Direction {
    direction: &'static str,
}

impl Metrics {
    /// Tells whether this Redis is connected. The first has it: there is one.
    pub fn watch_redis(&self, redis: Arc<dyn Connected>) {
        self.shared().0.redis.get_or_init(|| redis);
    }

    /// Tells of this fleet. The first has it: there is one.
    pub fn watch_fleet(&self, fleet: Arc<dyn FleetCounts>) {
        self.shared().0.fleet.get_or_init(|| fleet);
    }
}

impl Collector for Shared {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        if let Some(redis) = self.0.redis.get() {
            let help = "Whether there is a connection to Redis.";
            let gauge =
                encoder.encode_descriptor("redis_connected", help, None, MetricType::Gauge)?;
            ConstGauge::new(i64::from(redis.is_connected())).encode(gauge)?;
        }
        let Some(fleet) = self.0.fleet.get() else { return Ok(()) };
        let FleetLevel { sent, received, unread, lost, waiting, lag } = fleet.level();
        let help = "Purges told to other instances, and heard of them.";
        let counter = MetricType::Counter;
        let mut purges = encoder.encode_descriptor("cache_fleet_purges", help, None, counter)?;
        for (direction, count) in [("sent", sent), ("received", received)] {
            let labels = Direction { direction };
            ConstCounter::new(count).encode(purges.encode_family(&labels)?)?;
        }
        for (name, help, count) in [
            ("cache_fleet_unread", "Entries of the stream that were not understood.", unread),
            ("cache_fleet_lost", "Times that purges were lost, and all had to be validated.", lost),
        ] {
            let counter = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(count).encode(counter)?;
        }
        let help = "Purges that are still to be told to other instances.";
        let gauge =
            encoder.encode_descriptor("cache_fleet_waiting", help, None, MetricType::Gauge)?;
        ConstGauge::new(i64::try_from(waiting).unwrap_or(i64::MAX)).encode(gauge)?;
        let help = "For how long purges of other instances may have gone unheard.";
        let (unit, gauge) = (Some(&Unit::Seconds), MetricType::Gauge);
        let gauge = encoder.encode_descriptor("cache_fleet_lag", help, unit, gauge)?;
        ConstGauge::new(lag).encode(gauge)
    }
}
