//! Every metric, with typed labels.

use std::sync::Arc;

use crate::context::Exchange;

/// The registry of every metric. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Metrics(Arc<()>);

/// Counts a connection as open until it is dropped.
#[derive(Debug)]
pub struct ConnectionGauge(());

impl Metrics {
    /// A connection was accepted on this listener.
    #[must_use]
    pub fn connection_opened(&self, listener: &str) -> ConnectionGauge {
        let _ = listener;
        ConnectionGauge(())
    }

    /// A connection was turned away, for this reason (`limit_total`, `limit_client`).
    pub fn connection_refused(&self, listener: &str, reason: &'static str) {
        let _ = (listener, reason);
    }

    /// A TLS handshake failed or took too long.
    pub fn handshake_failed(&self, listener: &str, reason: &'static str) {
        let _ = (listener, reason);
    }

    /// `accept` failed.
    pub fn accept_failed(&self, listener: &str) {
        let _ = listener;
    }

    /// An exchange is over.
    pub fn exchange_finished(&self, exchange: &Exchange) {
        let _ = exchange;
    }

    /// A new connection to an origin was made (`ok`) or not.
    pub fn origin_connected(&self, upstream: &str, origin: &str, ok: bool) {
        let _ = (upstream, origin, ok);
    }

    /// A request was sent again, for this reason (`stale_connection`, `connect_failed`).
    pub fn request_resent(&self, upstream: &str, reason: &'static str) {
        let _ = (upstream, reason);
    }

    /// An origin is in (`true`) or out of the rotation.
    pub fn origin_healthy(&self, upstream: &str, origin: &str, healthy: bool) {
        let _ = (upstream, origin, healthy);
    }

    /// A probe of an origin ended.
    pub fn probe_finished(&self, upstream: &str, origin: &str, ok: bool) {
        let _ = (upstream, origin, ok);
    }

    /// Everything in the Prometheus text format (OpenMetrics).
    #[must_use]
    pub fn render(&self) -> String {
        String::new()
    }
}
