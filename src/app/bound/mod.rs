//! A proxy whose listeners are open: serving, and ending.

mod admin;
mod end;
mod workers;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

pub use end::{Ended, Ending};

use super::Proxy;
use super::compose::Gateway;
use super::embed::Keepers;
pub use crate::accept::BindError;
use crate::accept::{Inherited, ListenAddress, Listeners, Permits, Shared};
use crate::admin::Readiness;
use crate::budget::Budget;
use crate::config::Settings;
use crate::drain;
use crate::observe::Metrics;
use crate::upstream::Upstream;

/// A proxy whose listeners are bound.
#[derive(Debug)]
pub struct Bound {
    settings: Settings,
    gateway: Gateway,
    upstreams: Vec<Arc<Upstream>>,
    listeners: Listeners,
    admin: Option<TcpListener>,
    metrics: Metrics,
    budget: Budget,
    drain: drain::Trigger,
    workers: usize,
}

impl Bound {
    pub(super) fn new(proxy: Proxy, mut inherited: Inherited) -> Result<Self, BindError> {
        let Proxy { settings, gateway, upstreams, tls, metrics, budget, drain } = proxy;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let workers = settings.server.workers.unwrap_or(cores).max(1);
        let permits = Permits::new(settings.server.connections, budget.clone());
        let (watcher, counts) = (drain.watcher(), metrics.clone());
        let shared = Shared { workers, permits, metrics: counts, drain: watcher };
        let listeners = Listeners::bind(&settings.listeners, tls, shared, &mut inherited)?;
        let admin = match &settings.admin {
            Some(admin) => Some(admin::bind(admin.address, &mut inherited)?),
            None => None,
        };
        inherited.close();
        Ok(Self { settings, gateway, upstreams, listeners, admin, metrics, budget, drain, workers })
    }

    /// What it was built from.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The memory that it takes from for what it carries.
    #[must_use]
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Its listeners, which can be changed while it runs.
    #[must_use]
    pub fn listeners(&self) -> &Listeners {
        &self.listeners
    }

    /// Where a listener is bound; empty if there is none of that name.
    #[must_use]
    pub fn bound_to(&self, listener: &str) -> Vec<ListenAddress> {
        self.listeners.bound_to(listener).unwrap_or_default()
    }

    /// The TCP addresses among those of [`Bound::bound_to`].
    #[must_use]
    pub fn addresses(&self, listener: &str) -> Vec<SocketAddr> {
        self.listeners.addresses(listener)
    }

    /// Where the admin listener is bound.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().and_then(|admin| admin.local_addr().ok())
    }

    /// Serves until `shutdown` resolves, then ends as its settings say: see
    /// [`Ending`].
    ///
    /// Connections are served by worker threads of its own; probes and the
    /// admin listener run on the caller's runtime.
    ///
    /// # Errors
    ///
    /// The system refused a thread or a runtime.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> io::Result<Ended> {
        let ending = Ending::after_lame_duck(&self.settings.server);
        let shutdown = async {
            shutdown.await;
            ending
        };
        self.run_when(async { true }, shutdown).await
    }

    /// The same, but nobody accepts a connection before `go` has resolved, and
    /// nobody does at all if it says no. All else is under way by then. `shutdown`
    /// is polled once connections are accepted, and says how to end.
    ///
    /// # Errors
    ///
    /// The system refused a thread, a runtime, or to poll a socket.
    pub async fn run_when(
        self,
        go: impl Future<Output = bool>,
        shutdown: impl Future<Output = Ending>,
    ) -> io::Result<Ended> {
        let stop = CancellationToken::new();
        // Also if this future is dropped.
        let _stopped = stop.clone().drop_guard();
        let (workers, threads) =
            workers::start(self.workers, &self.metrics, &self.gateway, &self.upstreams, &stop)?;
        self.listeners.enlist(workers)?;
        // Each worker has warmed connections of its own.
        let keepers = Keepers::new(self.upstreams, false);
        keepers.start();
        if !go.await {
            self.listeners.close();
            stop.cancel();
            workers::join(threads).await;
            return Ok(Ended::default());
        }
        let ready = Readiness::default();
        let admin = match self.admin {
            Some(socket) => {
                let socket = self.listeners.beside(socket)?;
                let watcher = self.drain.watcher();
                Some(admin::start(socket, self.metrics, ready.clone(), watcher, stop.clone()))
            }
            None => None,
        };
        self.listeners.open();
        ready.set(true);
        let ending = shutdown.await;
        ready.end();
        let ended = ending.carry_out(&self.listeners, self.drain).await;
        stop.cancel();
        self.listeners.close();
        if let Some(admin) = admin {
            let _ended = admin.await;
        }
        workers::join(threads).await;
        Ok(ended)
    }
}
