//! From a listening socket to a served connection: accept, permit, handshake,
//! serve.

mod connection;
mod listener;
mod permits;
mod settings;

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

use crate::context::KeepOpen;
use crate::drain;
use crate::observe::Metrics;
use crate::serve::{Answers, ServeSettings};
use crate::tls::TlsAcceptor;
use connection::{Admitted, Door};

/// How long the loop sleeps when the system has nothing left to accept with.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// What a listener does with its connections. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Acceptor {
    name: Arc<str>,
    tls: Option<TlsAcceptor>,
    serve: Arc<ServeSettings>,
    permits: Permits,
    metrics: Metrics,
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
        let serve = Arc::new(settings.serve.clone());
        Self { name: settings.name.as_str().into(), tls, serve, permits, metrics }
    }
}

/// Accepts connections until the drain begins, and serves each in a task of
/// its own on the current runtime. Never fails: an error is logged, waited out
/// if waiting helps, and gone past.
pub async fn run<S: Answers>(
    socket: TcpListener,
    acceptor: Acceptor,
    service: S,
    drain: drain::Watcher,
) {
    // Counts as busy, so that the drain waits for the last call.
    let _accepting = drain.busy();
    let door = Arc::new(Door::new(&acceptor, &socket));
    let Acceptor { name, metrics, .. } = &door.acceptor;
    let mut complaints = Complaints::default();
    let mut drained = pin!(drain.draining());
    loop {
        let accepted = tokio::select! {
            // In this order the drain is looked at once a batch: tokio stops a
            // task that has accepted much.
            biased;
            accepted = socket.accept() => accepted,
            () = &mut drained => break,
        };
        match accepted {
            Ok((tcp, peer)) => admit(tcp, peer, &door, &service, &drain),
            Err(error) => {
                metrics.accept_failed(name);
                complaints.hear(name, &error);
                if is_exhaustion(&error) {
                    tokio::time::sleep(EXHAUSTED_PAUSE).await;
                }
            }
        }
    }
    if let Err(error) = last_call(socket, |tcp, peer| admit(tcp, peer, &door, &service, &drain)) {
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

fn admit<S: Answers>(
    tcp: TcpStream,
    peer: SocketAddr,
    door: &Arc<Door>,
    service: &S,
    drain: &drain::Watcher,
) {
    let Acceptor { name, permits, metrics, .. } = &door.acceptor;
    let permit = match permits.acquire(peer.ip()) {
        Ok(permit) => permit,
        Err(limit) => {
            metrics.connection_refused(name, limit.as_str());
            tracing::debug!(%peer, limit = limit.as_str(), "a connection was turned away");
            return;
        }
    };
    let open = KeepOpen::new(Arc::new((permit, metrics.connection_opened(name))));
    let admitted = Admitted { tcp, peer, door: door.clone(), open, busy: drain.busy() };
    admitted.start(service.clone(), drain.clone());
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
mod tests {
    use super::*;

    #[test]
    fn only_errors_that_time_mends_are_slept_on() {
        // EMFILE, ENFILE, ENOMEM, ENOBUFS have no kind of their own.
        for code in [24, 23, 12, 105] {
            assert!(is_exhaustion(&io::Error::from_raw_os_error(code)), "{code}");
        }
        for code in [103, 104, 4] {
            assert!(!is_exhaustion(&io::Error::from_raw_os_error(code)), "{code}");
        }
    }
}
