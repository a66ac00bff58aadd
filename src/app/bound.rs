//! A proxy whose listeners are open: serving, and ending.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio_util::sync::CancellationToken;

use super::generation::Generation;
use super::keepers::Keepers;
use super::live::Live;
use super::{Common, Proxy};
use crate::accept::{self, Acceptor, BoundSocket, ListenAddress, Listener, Permits};
use crate::admin::{self, AdminState, Readiness};
use crate::budget::Budget;
use crate::config::Settings;
use crate::drain;
use crate::socket::end_of_turns;
use crate::upstream::Upstream;

/// A proxy whose listeners are bound.
#[derive(Debug)]
pub struct Bound {
    first: Generation,
    common: Common,
    live: Live,
    listeners: Vec<(Listener, Acceptor)>,
    admin: Option<TcpListener>,
    drain: drain::Trigger,
    workers: usize,
}

/// An address that cannot be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} (listener `{listener}`)")]
pub struct BindError {
    /// The listener's name.
    pub listener: String,
    /// The address.
    pub address: ListenAddress,
    /// Why, and what may help.
    #[source]
    pub cause: io::Error,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ended {
    /// Connections and tunnels still busy at the drain deadline, and cut.
    pub cut: usize,
}

impl Bound {
    pub(super) fn new(proxy: Proxy) -> Result<Self, BindError> {
        let Proxy { first, common, trigger: drain } = proxy;
        let Generation { settings, tls, .. } = &first;
        let Common { metrics, budget, .. } = &common;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let workers = settings.server.workers.unwrap_or(cores).max(1);
        let permits = Permits::new(settings.server.connections, budget.clone());
        let mut listeners = Vec::new();
        for (listener, tls) in settings.listeners.iter().zip(tls) {
            let bound = Listener::bind(listener, workers).map_err(|error| BindError {
                listener: listener.name.clone(),
                address: error.address,
                cause: error.cause,
            })?;
            let acceptor = Acceptor::new(listener, tls.clone(), permits.clone(), metrics.clone());
            listeners.push((bound, acceptor));
        }
        let admin = match &settings.admin {
            Some(admin) => Some(bind_admin(admin.address)?),
            None => None,
        };
        let live = Live::new(first.gateway.clone());
        Ok(Self { first, common, live, listeners, admin, drain, workers })
    }

    /// What it was built from.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.first.settings
    }

    /// The memory that it takes from for what it carries.
    #[must_use]
    pub fn budget(&self) -> &Budget {
        &self.common.budget
    }

    /// Where a listener is bound; empty if there is none of that name.
    #[must_use]
    pub fn bound_to(&self, listener: &str) -> &[ListenAddress] {
        let named = self.listeners.iter().find(|(bound, _)| bound.name() == listener);
        named.map_or(&[], |(bound, _)| bound.addresses())
    }

    /// The TCP addresses among those of [`Bound::bound_to`].
    #[must_use]
    pub fn addresses(&self, listener: &str) -> Vec<SocketAddr> {
        let tcp = |address: &ListenAddress| match address {
            ListenAddress::Tcp(address) => Some(*address),
            ListenAddress::Unix(_) => None,
        };
        self.bound_to(listener).iter().filter_map(tcp).collect()
    }

    /// Where the admin listener is bound.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().and_then(|admin| admin.local_addr().ok())
    }

    /// Serves until `shutdown` resolves, then drains: stops accepting, lets
    /// what is under way finish until the drain timeout, and cuts the rest.
    ///
    /// Connections are served by worker threads of its own; probes and the
    /// admin listener run on the caller's runtime.
    ///
    /// # Errors
    ///
    /// The system refused a thread or a runtime.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> io::Result<Ended> {
        let watcher = self.drain.watcher();
        let stop = CancellationToken::new();
        let threads = self.start_workers(&watcher, &stop)?;
        // Each worker has warmed connections of its own.
        let keepers = Keepers::new(self.first.upstreams.values().cloned(), false);
        keepers.start();
        let ready = Readiness::default();
        let admin = match self.admin {
            Some(listener) => {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                let state =
                    AdminState::new(self.common.metrics.clone(), ready.clone(), watcher.clone());
                let ended = stop.clone().cancelled_owned();
                Some(tokio::spawn(admin::serve(listener, state, ended)))
            }
            None => None,
        };
        ready.set(true);
        shutdown.await;
        let timeout = self.first.settings.server.drain_timeout;
        tracing::info!(busy = watcher.busy_count(), ?timeout, "draining");
        let cut = self.drain.drain(timeout).await;
        if cut > 0 {
            tracing::warn!(cut, "the drain timeout passed; connections were cut");
        }
        stop.cancel();
        if let Some(admin) = admin {
            let _ended = admin.await;
        }
        let joined = tokio::task::spawn_blocking(move || {
            threads.into_iter().filter_map(|thread| thread.join().err()).count()
        });
        if joined.await.unwrap_or(1) > 0 {
            tracing::error!("a worker thread ended in a panic");
        }
        Ok(Ended { cut })
    }

    fn start_workers(
        &mut self,
        drain: &drain::Watcher,
        stop: &CancellationToken,
    ) -> io::Result<Vec<JoinHandle<()>>> {
        let mut threads = Vec::new();
        let crew = accept::crew(self.workers, &self.common.metrics);
        for (worker, member) in crew.into_iter().enumerate() {
            let mut sockets = Vec::new();
            for (listener, acceptor) in &mut self.listeners {
                let taken = listener.take_sockets(worker);
                sockets.extend(taken.into_iter().map(|socket| (socket, acceptor.clone())));
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let work = Worker {
                sockets,
                member,
                live: self.live.clone(),
                upstreams: self.first.upstreams.values().cloned().collect(),
                drain: drain.clone(),
                stop: stop.clone(),
            };
            let name = format!("worker-{worker}");
            let thread = std::thread::Builder::new().name(name);
            threads.push(thread.spawn(move || {
                runtime.block_on(work.run());
                // What a layer may have put on a thread of its own is not waited for.
                runtime.shutdown_background();
            })?);
        }
        Ok(threads)
    }
}

/// What one worker thread serves.
struct Worker {
    sockets: Vec<(BoundSocket, Acceptor)>,
    member: accept::Member,
    live: Live,
    upstreams: Vec<Arc<Upstream>>,
    drain: drain::Watcher,
    stop: CancellationToken,
}

impl Worker {
    async fn run(self) {
        tokio::spawn(end_of_turns());
        for upstream in self.upstreams {
            tokio::spawn(upstream.warm());
        }
        let worker = accept::Worker::start(self.member, self.live, self.drain);
        for (socket, acceptor) in self.sockets {
            match socket.attach() {
                Ok(socket) => {
                    tokio::spawn(accept::run(socket, acceptor, worker.clone()));
                }
                Err(error) => tracing::error!(%error, "a listener cannot be polled"),
            }
        }
        self.stop.cancelled().await;
    }
}

fn bind_admin(address: SocketAddr) -> Result<TcpListener, BindError> {
    let bind = || {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    bind().map_err(|cause| BindError {
        listener: "admin".to_owned(),
        address: address.into(),
        cause,
    })
}
