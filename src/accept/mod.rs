//! From a listening socket to a served connection: accept, permit, handshake,
//! serve.

mod listener;
mod permits;
mod settings;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

pub use listener::{AddressError, Listener};
pub use permits::{LimitReached, Permit, Permits};
pub use settings::{ConnectionLimits, ListenerSettings};

use crate::context::{Derived, Downstream, KeepOpen};
use crate::drain;
use crate::observe::Metrics;
use crate::serve::{self, Answers, ServeSettings, Speaks};
use crate::socket::Tcp;
use crate::tls::{Alpn, TlsAcceptor};

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
    let mut complaints = Complaints::default();
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            () = drain.draining() => break,
        };
        match accepted {
            Ok((tcp, peer)) => admit(tcp, peer, &acceptor, &service, &drain),
            Err(error) => {
                acceptor.metrics.accept_failed(&acceptor.name);
                complaints.hear(&acceptor.name, &error);
                if is_exhaustion(&error) {
                    tokio::time::sleep(EXHAUSTED_PAUSE).await;
                }
            }
        }
    }
    if let Err(error) = last_call(socket, |tcp, peer| admit(tcp, peer, &acceptor, &service, &drain))
    {
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
    acceptor: &Acceptor,
    service: &S,
    drain: &drain::Watcher,
) {
    let permit = match acceptor.permits.acquire(peer.ip()) {
        Ok(permit) => permit,
        Err(limit) => {
            acceptor.metrics.connection_refused(&acceptor.name, limit.as_str());
            tracing::debug!(%peer, limit = limit.as_str(), "a connection was turned away");
            return;
        }
    };
    let (acceptor, service, drain) = (acceptor.clone(), service.clone(), drain.clone());
    let busy = drain.busy();
    tokio::spawn(async move {
        let _busy = busy;
        let open =
            KeepOpen::new(Arc::new((permit, acceptor.metrics.connection_opened(&acceptor.name))));
        acceptor.serve(tcp, peer, open, service, drain).await;
    });
}

impl Acceptor {
    async fn serve<S: Answers>(
        self,
        tcp: TcpStream,
        peer: SocketAddr,
        open: KeepOpen,
        service: S,
        drain: drain::Watcher,
    ) {
        let mut downstream = Downstream {
            peer: Some(peer),
            local: tcp.local_addr().ok(),
            listener: self.name.clone(),
            tls: None,
            limits: self.serve.head,
            open: Some(open),
            derived: Derived::default(),
        };
        let settings = self.serve.clone();
        let tcp = Tcp::new(tcp);
        let Some(tls) = &self.tls else {
            let downstream = Arc::new(downstream);
            return serve::connection(tcp, Speaks::Either, downstream, settings, service, drain)
                .await;
        };
        let shaken = tokio::select! {
            shaken = Box::pin(tls.accept(tcp)) => shaken,
            () = drain.cut() => return,
        };
        match shaken {
            Ok((stream, facts, alpn)) => {
                downstream.tls = Some(facts);
                let speaks = match alpn {
                    Alpn::Http2 => Speaks::Http2,
                    Alpn::Http1 => Speaks::Http1,
                    Alpn::None if settings.http1 => Speaks::Http1,
                    // RFC 9113 §3.2: without ALPN it is not HTTP/2.
                    Alpn::None => {
                        self.metrics.handshake_failed(&self.name, "alpn");
                        return;
                    }
                };
                let downstream = Arc::new(downstream);
                serve::connection(stream, speaks, downstream, settings, service, drain).await;
            }
            Err(error) => {
                self.metrics.handshake_failed(&self.name, error.reason());
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::debug!(%peer, %error, cause, "TLS");
            }
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
