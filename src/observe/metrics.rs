//! Every metric, with typed labels. No label is ever a value that a client
//! chose, so their number is bounded by the configuration.

use std::fmt;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::cache::Caches;
use super::certificates::Certificates;
use super::compression::Compressions;
use super::fetches::Fetches;
use super::fleet::Shared;
use super::memory::Memory;
use super::origins::Origins;
use super::rate_limits::RateLimits;
use super::reloads::Reloads;
use super::routes::RouteCounts;
use super::shared_limits::SharedLimits;
use super::tasks::Tasks;
use super::workers::WorkerConnections;
use crate::budget::Budget;
use crate::context::{Facts, Route};

/// The registry of every metric. Cheap to clone.
#[derive(Clone, Default)]
pub struct Metrics(pub(super) Arc<Families>);

/// Counts the connections of one listener.
#[derive(Clone, Debug)]
pub struct ListenerConnections {
    accepted: Counter,
    open: Gauge,
}

impl ListenerConnections {
    /// A connection was accepted.
    #[must_use]
    pub fn opened(&self) -> ConnectionGauge {
        self.accepted.inc();
        self.open.inc();
        ConnectionGauge(self.open.clone())
    }
}

/// Counts a connection as open until it is dropped.
#[derive(Debug)]
pub struct ConnectionGauge(Gauge);

/// A label that all exchanges of one kind share.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Label(pub(super) Arc<str>);

impl EncodeLabelValue for Label {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(&self.0)
    }
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub(super) struct ByRouteAndStatus {
    pub(super) route: Label,
    pub(super) status: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub(super) struct ByRoute {
    pub(super) route: Label,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub(super) struct ByRouteAndReason {
    pub(super) route: Label,
    pub(super) reason: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct UpstreamReason {
    upstream: Label,
    reason: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Listener {
    listener: Label,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Worker {
    worker: usize,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ListenerReason {
    listener: Label,
    reason: &'static str,
}

pub(super) struct Families {
    registry: Registry,
    routes: RouteCounts,
    memory: Memory,
    caches: Caches,
    shared: Shared,
    compressions: Compressions,
    shared_limits: SharedLimits,
    fetches: Fetches,
    tasks: Tasks,
    certificates: Certificates,
    reloads: Reloads,
    rate_limits: RateLimits,
    upstream_errors: Family<UpstreamReason, Counter>,
    resends: Family<UpstreamReason, Counter>,
    open: Family<Listener, Gauge>,
    accepted: Family<Listener, Counter>,
    workers: Family<Worker, WorkerConnections>,
    refused: Family<ListenerReason, Counter>,
    handshake_failures: Family<ListenerReason, Counter>,
    accept_errors: Family<Listener, Counter>,
    pub(super) origins: Origins,
    log_dropped: Counter,
}

impl Default for Families {
    fn default() -> Self {
        let mut families = Self {
            registry: Registry::with_prefix("tollgate"),
            routes: RouteCounts::default(),
            memory: Memory::default(),
            caches: Caches::default(),
            shared: Shared::default(),
            compressions: Compressions::default(),
            shared_limits: SharedLimits::default(),
            fetches: Fetches::default(),
            tasks: Tasks::default(),
            certificates: Certificates::default(),
            reloads: Reloads::default(),
            rate_limits: RateLimits::default(),
            upstream_errors: Family::default(),
            resends: Family::default(),
            open: Family::default(),
            accepted: Family::default(),
            workers: Family::default(),
            refused: Family::default(),
            handshake_failures: Family::default(),
            accept_errors: Family::default(),
            origins: Origins::default(),
            log_dropped: Counter::default(),
        };
        families.register();
        families
    }
}

impl Families {
    /// Gives each family its name and help. The registry adds `_total` to
    /// counters and the unit to what has one.
    fn register(&mut self) {
        let registry = &mut self.registry;
        let info = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "What is running", info);
        let started: Gauge<f64, AtomicU64> = Gauge::default();
        #[allow(clippy::cast_precision_loss, reason = "a millisecond is precise enough")]
        started.set(jiff::Timestamp::now().as_millisecond() as f64 / 1_000.0);
        registry.register_with_unit("start_time", "When it started", Unit::Seconds, started);

        registry.register_collector(Box::new(self.routes.clone()));
        registry.register_collector(Box::new(self.memory.clone()));
        registry.register_collector(Box::new(self.caches.clone()));
        registry.register_collector(Box::new(self.shared.clone()));
        registry.register_collector(Box::new(self.compressions.clone()));
        registry.register_collector(Box::new(self.shared_limits.clone()));
        registry.register_collector(Box::new(self.fetches.clone()));
        registry.register_collector(Box::new(self.tasks.clone()));
        registry.register_collector(Box::new(self.certificates.clone()));
        self.reloads.register(registry);
        self.rate_limits.register(registry);
        let help = "Requests that failed on the way to an origin, by reason";
        registry.register("upstream_errors", help, self.upstream_errors.clone());
        registry.register("resends", "Requests sent again, by reason", self.resends.clone());
        registry.register("connections_open", "Connections from clients", self.open.clone());
        registry.register("connections_accepted", "Connections accepted", self.accepted.clone());
        let help = "Connections from clients on each of several worker threads";
        registry.register("worker_connections", help, self.workers.clone());
        let help = "Connections turned away, by reason";
        registry.register("connections_refused", help, self.refused.clone());
        let help = "TLS handshakes that failed, by reason";
        registry.register("tls_handshake_failures", help, self.handshake_failures.clone());
        registry.register("accept_errors", "Failures of accept()", self.accept_errors.clone());
        self.origins.register(registry);
        let help = "Access-log lines dropped because nobody took them";
        registry.register("access_log_dropped", help, self.log_dropped.clone());
    }
}

impl Metrics {
    pub(super) fn of_shared_limits(&self) -> &SharedLimits {
        &self.0.shared_limits
    }

    pub(super) fn of_fetches(&self) -> &Fetches {
        &self.0.fetches
    }

    pub(super) fn certificates(&self) -> &Certificates {
        &self.0.certificates
    }

    pub(super) fn caches(&self) -> &Caches {
        &self.0.caches
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.0.shared
    }

    pub(super) fn compressions(&self) -> &Compressions {
        &self.0.compressions
    }

    pub(super) fn tasks(&self) -> &Tasks {
        &self.0.tasks
    }

    pub(super) fn reloads(&self) -> &Reloads {
        &self.0.reloads
    }

    pub(super) fn rate_limits(&self) -> &RateLimits {
        &self.0.rate_limits
    }

    /// Tells of this memory budget. The first has it: there is one.
    pub fn watch_memory(&self, budget: &Budget) {
        self.0.memory.0.get_or_init(|| budget.clone());
    }

    /// The connections of this listener.
    #[must_use]
    pub fn listener(&self, listener: &Arc<str>) -> ListenerConnections {
        let labels = Listener { listener: Label(listener.clone()) };
        ListenerConnections {
            accepted: self.0.accepted.get_or_create(&labels).clone(),
            open: self.0.open.get_or_create(&labels).clone(),
        }
    }

    /// The connections of one worker among several.
    #[must_use]
    pub fn worker_connections(&self, worker: usize) -> WorkerConnections {
        self.0.workers.get_or_create(&Worker { worker }).clone()
    }

    /// A connection was turned away, for this reason.
    pub fn connection_refused(&self, listener: &Arc<str>, reason: &'static str) {
        let labels = ListenerReason { listener: Label(listener.clone()), reason };
        self.0.refused.get_or_create(&labels).inc();
    }

    /// A TLS handshake failed or took too long.
    pub fn handshake_failed(&self, listener: &Arc<str>, reason: &'static str) {
        let labels = ListenerReason { listener: Label(listener.clone()), reason };
        self.0.handshake_failures.get_or_create(&labels).inc();
    }

    /// `accept` failed.
    pub fn accept_failed(&self, listener: &Arc<str>) {
        let labels = Listener { listener: Label(listener.clone()) };
        self.0.accept_errors.get_or_create(&labels).inc();
    }

    /// The route of this name, with where its exchanges are counted.
    #[must_use]
    pub fn route(&self, name: &Arc<str>) -> Arc<Route> {
        self.0.routes.route(name)
    }

    /// There are no routes but those that are `known`: what was counted of others is
    /// not told any more.
    pub fn routes_are(&self, known: impl Fn(&str) -> bool) {
        self.0.routes.retain(&known);
        self.0.caches.retain(&known);
        self.0.compressions.retain(&known);
        self.0.shared_limits.retain(&known);
    }

    /// An exchange is over.
    pub fn exchange_finished(&self, facts: &Facts) {
        let families = &*self.0;
        facts.read(|record| {
            families.routes.count(facts, record);
            if let (Some(upstream), Some(kind)) = (&record.upstream, record.error_kind) {
                let labels =
                    UpstreamReason { upstream: Label(upstream.clone()), reason: kind.as_str() };
                families.upstream_errors.get_or_create(&labels).inc();
            }
        });
    }

    /// A line of the access log had to be dropped.
    pub fn access_log_dropped(&self) {
        self.0.log_dropped.inc();
    }

    /// A request was sent again, for this reason.
    pub fn request_resent(&self, upstream: &Arc<str>, reason: &'static str) {
        let labels = UpstreamReason { upstream: Label(upstream.clone()), reason };
        self.0.resends.get_or_create(&labels).inc();
    }

    /// Everything in the OpenMetrics text format, which Prometheus reads.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = text::encode(&mut text, &self.0.registry);
        text
    }
}

impl Drop for ConnectionGauge {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Use;
    use crate::error::Kind;
    use crate::observe::line::tests::exchange;

    fn has(metrics: &Metrics, line: &str) {
        let text = metrics.render();
        assert!(text.lines().any(|l| l == line), "no line `{line}` in\n{text}");
    }

    #[test]
    fn a_finished_exchange_is_counted_under_its_route() {
        let metrics = Metrics::default();
        let exchange = exchange("/x");
        exchange.update(|record| {
            record.response_bytes = 7;
            record.upstream = Some("api".into());
            record.rejection = Some("connect_refused");
            record.error_kind = Some(Kind::ConnectRefused);
        });
        metrics.exchange_finished(&exchange);
        has(&metrics, "tollgate_requests_total{route=\"demo\",status=\"2xx\"} 1");
        has(&metrics, "tollgate_response_body_bytes_total{route=\"demo\"} 7");
        has(&metrics, "tollgate_rejections_total{route=\"demo\",reason=\"connect_refused\"} 1");
        has(
            &metrics,
            "tollgate_upstream_errors_total{upstream=\"api\",reason=\"connect_refused\"} 1",
        );
        has(&metrics, "tollgate_request_duration_seconds_count{route=\"demo\"} 1");
    }

    #[test]
    fn a_connection_is_open_until_its_gauge_is_dropped() {
        let metrics = Metrics::default();
        let gauge = metrics.listener(&"public".into()).opened();
        has(&metrics, "tollgate_connections_open{listener=\"public\"} 1");
        drop(gauge);
        has(&metrics, "tollgate_connections_open{listener=\"public\"} 0");
        has(&metrics, "tollgate_connections_accepted_total{listener=\"public\"} 1");
    }

    #[test]
    fn each_worker_has_a_count_of_its_own() {
        let metrics = Metrics::default();
        let first = metrics.worker_connections(0);
        let _second = metrics.worker_connections(1).open();
        drop(first.open());
        has(&metrics, "tollgate_worker_connections{worker=\"0\"} 0");
        has(&metrics, "tollgate_worker_connections{worker=\"1\"} 1");
    }

    #[test]
    fn the_memory_budget_is_told_if_there_is_one() {
        let metrics = Metrics::default();
        metrics.watch_memory(&Budget::unlimited());
        assert!(!metrics.render().contains("tollgate_memory"));
        let (metrics, budget) = (Metrics::default(), Budget::new(1 << 20));
        metrics.watch_memory(&budget);
        let _charge = budget.charge(700, Use::Exchange).unwrap();
        assert!(budget.charge(1 << 20, Use::Exchange).is_none());
        has(&metrics, "tollgate_memory_budget_bytes 1048576");
        has(&metrics, "tollgate_memory_charged_bytes 700");
        has(&metrics, "tollgate_memory_refusals_total{for=\"exchange\"} 1");
        has(&metrics, "tollgate_memory_refusals_total{for=\"connection\"} 0");
    }

    #[test]
    fn origins_and_their_health_are_told() {
        let metrics = Metrics::default();
        metrics.origin_healthy(&"api".into(), &"127.0.0.1:1".into(), false);
        has(&metrics, "tollgate_origin_healthy{upstream=\"api\",origin=\"127.0.0.1:1\"} 0");
        assert!(metrics.render().ends_with("# EOF\n"));
    }
}
