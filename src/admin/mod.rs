//! The admin listener.
use crate::drain;
use crate::observe::Metrics;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
/// Readiness.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<AtomicBool>);
impl Readiness {
    /// Sets.
    pub fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Relaxed);
    }
}
/// State.
#[derive(Clone, Debug)]
pub struct AdminState {
    metrics: Metrics,
    ready: Readiness,
}
impl AdminState {
    /// New.
    #[must_use]
    pub fn new(metrics: Metrics, ready: Readiness) -> Self {
        Self { metrics, ready }
    }
}
/// Serves.
pub async fn serve(
    listener: tokio::net::TcpListener,
    state: AdminState,
    drain: drain::Watcher,
    ended: impl Future<Output = ()>,
) {
    let _ = (listener, state, drain);
    ended.await;
}
