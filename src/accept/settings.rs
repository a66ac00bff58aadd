//! What a listener is told.

use std::net::SocketAddr;

use crate::serve::ServeSettings;
use crate::tls::TlsSettings;

/// One listener: where it binds and how it treats its connections.
#[derive(Clone, Debug)]
pub struct ListenerSettings {
    /// Its name, unique; in logs and metrics.
    pub name: String,
    /// The addresses it binds; port 0 lets the system choose.
    pub addresses: Vec<SocketAddr>,
    /// Connections the kernel may hold before they are accepted. Default 1024.
    pub backlog: u32,
    /// TLS; `None` serves plain HTTP.
    pub tls: Option<TlsSettings>,
    /// Protocol limits and timeouts of its connections.
    pub serve: ServeSettings,
}

impl ListenerSettings {
    /// A plain listener with every default.
    #[must_use]
    pub fn new(name: impl Into<String>, address: SocketAddr) -> Self {
        Self {
            name: name.into(),
            addresses: vec![address],
            backlog: 1024,
            tls: None,
            serve: ServeSettings::default(),
        }
    }
}

/// How many connections may be open, over all listeners.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ConnectionLimits {
    /// In all. Default 50,000.
    pub total: usize,
    /// From one client address (an IPv6 client is its /64). Default 1,000.
    pub per_client: usize,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self { total: 50_000, per_client: 1_000 }
    }
}
