//! From a listening socket to a served connection: accept, permit, introduction
//! if a proxy is to say whose it is, handshake, serve.

mod bind;
mod connection;
mod inherited;
mod introduction;
mod listeners;
mod permits;
mod rounds;
mod settings;
mod sockets;
mod spread;
mod unix;
mod worker;

use std::io;
use std::sync::Arc;

pub use bind::BindError;
pub use inherited::{Giver, Inherited};
pub use listeners::{Aside, Change, Listeners, Shared};
pub use permits::{LimitReached, Permit, Permits, Share};
pub use settings::{ConnectionLimits, ListenAddress, ListenerSettings, ProxyProtocolSettings};
pub use worker::{Member, Worker, crew};

use crate::observe::{ListenerConnections, Metrics};
use crate::serve::ServeSettings;
use crate::tls::TlsAcceptor;

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

#[cfg(test)]
mod tests;
