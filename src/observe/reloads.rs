//! What is told of configurations that come and go.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use serde::Serialize;

use super::Metrics;

/// What a reload was for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReloadTrigger {
    /// SIGHUP.
    Signal,
    /// The file changed.
    File,
    /// The admin API.
    Api,
    /// Back to the configuration before, asked for or because nobody confirmed.
    Rollback,
}

/// What came of a reload.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReloadResult {
    /// The new configuration is in force.
    Ok,
    /// The old one is.
    Failed,
    /// They are the same.
    Unchanged,
}

impl ReloadTrigger {
    /// As one word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Signal => "signal",
            Self::File => "file",
            Self::Api => "api",
            Self::Rollback => "rollback",
        }
    }
}

impl ReloadResult {
    /// As one word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Unchanged => "unchanged",
        }
    }
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct TriggerResult {
    trigger: &'static str,
    result: &'static str,
}

/// The metrics of configurations.
#[derive(Debug)]
pub(super) struct Reloads {
    generation: Gauge,
    reloads: Family<TriggerResult, Counter>,
    successful: Gauge,
    at: Gauge<f64, AtomicU64>,
    confirm_pending: Gauge,
}

impl Default for Reloads {
    /// A proxy that has just started has loaded its first configuration.
    fn default() -> Self {
        let reloads = Self {
            generation: Gauge::default(),
            reloads: Family::default(),
            successful: Gauge::default(),
            at: Gauge::default(),
            confirm_pending: Gauge::default(),
        };
        reloads.generation.set(1);
        reloads.successful.set(1);
        reloads.now();
        reloads
    }
}

impl Reloads {
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "How many configurations have been in force, with the present one";
        registry.register("config_generation", help, self.generation.clone());
        let help = "Reloads of the configuration, by what they were for and what came of them";
        registry.register("config_reloads", help, self.reloads.clone());
        let help = "Whether the configuration could be used when it was last read";
        registry.register("config_last_reload_successful", help, self.successful.clone());
        let help = "When the configuration was last read";
        let (name, unit) = ("config_last_reload_timestamp", Unit::Seconds);
        registry.register_with_unit(name, help, unit, self.at.clone());
        let help = "Whether the configuration is rolled back unless somebody confirms it";
        registry.register("config_confirm_pending", help, self.confirm_pending.clone());
    }

    #[allow(clippy::cast_precision_loss, reason = "a millisecond is precise enough")]
    fn now(&self) {
        self.at.set(jiff::Timestamp::now().as_millisecond() as f64 / 1_000.0);
    }
}

impl Metrics {
    /// A reload is over, and this generation in force.
    pub fn config_reloaded(&self, trigger: ReloadTrigger, result: ReloadResult, generation: u64) {
        let reloads = self.reloads();
        let labels = TriggerResult { trigger: trigger.as_str(), result: result.as_str() };
        reloads.reloads.get_or_create(&labels).inc();
        reloads.successful.set(i64::from(result != ReloadResult::Failed));
        reloads.now();
        self.config_generation(generation);
    }

    /// This generation is in force; a successor goes on counting.
    pub fn config_generation(&self, generation: u64) {
        self.reloads().generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
    }

    /// Whether the configuration is rolled back unless it is confirmed.
    pub fn config_confirm_pending(&self, pending: bool) {
        self.reloads().confirm_pending.set(i64::from(pending));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(metrics: &Metrics, name: &str) -> String {
        let text = metrics.render();
        let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
        let line = line.unwrap_or_else(|| panic!("no `{name}` in\n{text}"));
        line.rsplit(' ').next().unwrap().to_owned()
    }

    #[test]
    fn the_first_configuration_is_one_that_was_loaded() {
        let metrics = Metrics::default();
        assert_eq!(value(&metrics, "tollgate_config_generation"), "1");
        assert_eq!(value(&metrics, "tollgate_config_last_reload_successful"), "1");
        assert_eq!(value(&metrics, "tollgate_config_confirm_pending"), "0");
        let at: f64 =
            value(&metrics, "tollgate_config_last_reload_timestamp_seconds").parse().unwrap();
        assert!(at > 1.7e9, "{at}");
    }

    #[test]
    fn a_failure_is_told_until_a_reload_is_in_force_again() {
        let metrics = Metrics::default();
        metrics.config_reloaded(ReloadTrigger::File, ReloadResult::Failed, 1);
        assert_eq!(value(&metrics, "tollgate_config_last_reload_successful"), "0");
        assert_eq!(value(&metrics, "tollgate_config_generation"), "1");
        metrics.config_reloaded(ReloadTrigger::Signal, ReloadResult::Ok, 2);
        assert_eq!(value(&metrics, "tollgate_config_last_reload_successful"), "1");
        assert_eq!(value(&metrics, "tollgate_config_generation"), "2");
        for labels in ["trigger=\"file\",result=\"failed\"", "trigger=\"signal\",result=\"ok\""] {
            let name = format!("tollgate_config_reloads_total{{{labels}}}");
            assert_eq!(value(&metrics, &name), "1");
        }
        metrics.config_confirm_pending(true);
        assert_eq!(value(&metrics, "tollgate_config_confirm_pending"), "1");
    }
}
