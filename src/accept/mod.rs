//! From a listening socket to a served connection: accept, permit, handshake,
//! serve.

mod connection;
mod listener;
mod permits;
mod settings;
mod spread;
mod worker;

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

pub use listener::{AddressError, Listener};
pub use permits::{LimitReached, Permit, Permits};
pub use settings::{ConnectionLimits, ListenerSettings};
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
        Self { name, tls, serve, permits, metrics, connections }
    }

    /// The memory to be set aside for each connection, in bytes.
    fn memory(&self) -> usize {
        CONNECTION + self.tls.as_ref().map_or(0, |_| TLS_SESSION)
    }
}

/// Accepts connections until the drain begins, and has `worker` serve each in a
/// task of its own, or hand it to another. Never fails: an error is logged,
/// waited out if waiting helps, and gone past.
pub async fn run<S: Answers>(socket: TcpListener, acceptor: Acceptor, worker: Worker<S>) {
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
            Ok((tcp, peer)) => worker.admit(tcp, peer, &door),
            Err(error) => {
                metrics.accept_failed(name);
                complaints.hear(name, &error);
                if is_exhaustion(&error) {
                    tokio::time::sleep(EXHAUSTED_PAUSE).await;
                }
            }
        }
    }
    if let Err(error) = last_call(socket, |tcp, peer| worker.admit(tcp, peer, &door)) {
        tracing::debug!(%error, "the last call ended early");
    }
}

/// Accepts what has come already: it would be reset with the socket.
fn last_call(socket: TcpListener, admit: impl Fn(TcpStream, SocketAddr)) -> io::Result<()> {
    // Past tokio, which stops a task that has accepted much.
    let socket = socket.into_std()?;
    loop {
        match socket.accept() {
            Ok((tcp, peer)) => {
                tcp.set_nonblocking(true)?;
                admit(TcpStream::from_std(tcp)?, peer);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if is_exhaustion(&error) => return Err(error),
            Err(_) => {}
        }
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
