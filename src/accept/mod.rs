//! From a listening socket to a served connection: accept, permit, introduction
//! if a proxy is to say whose it is, handshake, serve.

mod connection;
mod introduction;
mod listener;
mod permits;
mod settings;
mod sockets;
mod spread;
mod unix;
mod worker;

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

pub use listener::{AddressError, Listener};
pub use permits::{LimitReached, Permit, Permits, Share};
pub use settings::{ConnectionLimits, ListenAddress, ListenerSettings, ProxyProtocolSettings};
pub use sockets::{BoundSocket, ListenSocket};
pub use worker::{Member, Worker, crew};

use crate::observe::{ListenerConnections, Metrics};
use crate::serve::{Answers, ServeSettings};
use crate::tls::TlsAcceptor;
use connection::Door;

/// How long the loop sleeps when the system has nothing left to accept with.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// What a connection may need before its first request is whole, and holds while
/// it is parked: its task, and what was read of a head. A longer head is charged
/// beside this.
const CONNECTION: usize = 24 * 1024;

/// The same for TLS: the state of a session, and records on their way in.
const TLS_SESSION: usize = 24 * 1024;

/// What a listener does with its connections. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Acceptor {
    name: Arc<str>,
    tls: Option<TlsAcceptor>,
    proxy_protocol: Option<Arc<ProxyProtocolSettings>>,
    serve: Arc<ServeSettings>,
    permits: Permits,
    metrics: Metrics,
    connections: ListenerConnections,
}

impl Acceptor {
    /// Serves the connections of one listener; `permits` count over all.
    #[must_use]
    pub fn new(
        settings: &ListenerSettings,
        tls: Option<TlsAcceptor>,
        permits: Permits,
        metrics: Metrics,
    ) -> Self {
        let (name, serve) = (settings.name.as_str().into(), Arc::new(settings.serve.clone()));
        let connections = metrics.listener(&name);
        let proxy_protocol = settings.proxy_protocol.clone().map(Arc::new);
        Self { name, tls, proxy_protocol, serve, permits, metrics, connections }
    }

    /// The memory to be set aside for each connection, in bytes.
    fn memory(&self) -> usize {
        CONNECTION + self.tls.as_ref().map_or(0, |_| TLS_SESSION)
    }
}

/// Accepts connections until the drain begins, and has `worker` serve each in a
/// task of its own, or hand it to another. Never fails: an error is logged,
/// waited out if waiting helps, and gone past.
pub async fn run<S: Answers>(socket: ListenSocket, acceptor: Acceptor, worker: Worker<S>) {
    // Counts as busy, so that the drain waits for the last call.
    let _accepting = worker.drain.busy();
    let door = Arc::new(Door::new(&acceptor, &socket));
    let Acceptor { name, metrics, .. } = &door.acceptor;
    let mut complaints = Complaints::default();
    let mut drained = pin!(worker.drain.draining());
    loop {
        let accepted = tokio::select! {
            // In this order the drain is looked at once a batch: tokio stops a
            // task that has accepted much.
            biased;
            accepted = socket.accept() => accepted,
            () = &mut drained => break,
        };
        match accepted {
            Ok((stream, peer)) => worker.admit(stream, peer, &door),
            Err(error) => {
                metrics.accept_failed(name);
                complaints.hear(name, &error);
                if is_exhaustion(&error) {
                    tokio::time::sleep(EXHAUSTED_PAUSE).await;
                }
            }
        }
    }
    if let Err(error) = socket.last_call(|stream, peer| worker.admit(stream, peer, &door)) {
        tracing::debug!(%error, "the last call ended early");
    }
}

/// Whether `accept` failed for want of something that only time gives back,
/// and would fail again at once.
fn is_exhaustion(error: &io::Error) -> bool {
    // What one connection did is over with it.
    !matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

/// Logs the errors of a loop, at most one a second.
#[derive(Default)]
struct Complaints {
    last: Option<Instant>,
    unsaid: u64,
}

impl Complaints {
    fn hear(&mut self, listener: &str, error: &io::Error) {
        let now = Instant::now();
        if self.last.is_some_and(|last| now - last < Duration::from_secs(1)) {
            self.unsaid += 1;
            return;
        }
        let unsaid = std::mem::take(&mut self.unsaid);
        tracing::error!(listener, %error, unsaid, "cannot accept a connection");
        self.last = Some(now);
    }
}

#[cfg(test)]
mod tests;
