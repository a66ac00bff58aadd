//! What a listener is told.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::context::Prefixes;
use crate::proxy_protocol::DEFAULT_MAX_LENGTH;
use crate::serve::ServeSettings;
use crate::tls::TlsSettings;

/// One listener: where it binds and how it treats its connections.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerSettings {
    /// Its name, unique; in logs and metrics.
    pub name: String,
    /// Where it binds; port 0 lets the system choose.
    pub addresses: Vec<ListenAddress>,
    /// Who may connect to its Unix sockets: the mode of their files. Default 0660.
    pub unix_mode: u32,
    /// Connections the kernel may hold before they are accepted. Default 1024.
    pub backlog: u32,
    /// TLS; `None` serves plain HTTP.
    pub tls: Option<TlsSettings>,
    /// Proxies that say whose connections they pass on; `None` believes nobody.
    pub proxy_protocol: Option<ProxyProtocolSettings>,
    /// Protocol limits and timeouts of its connections.
    pub serve: ServeSettings,
}

/// Where a listener binds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ListenAddress {
    /// An address and a port of TCP.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

/// Whose PROXY protocol headers are read, and how.
///
/// Every connection from one of these begins with a header, of version 1 or 2, or
/// is closed: the specification forbids to guess. To everybody else a header is
/// bytes that are no HTTP.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ProxyProtocolSettings {
    /// The networks that the proxies are in.
    pub from: Vec<IpNet>,
    /// Whether whoever connects over a Unix socket is such a proxy. Default false.
    pub from_unix: bool,
    /// From the accepted connection until the header is whole. Default 5 s.
    pub timeout: Duration,
    /// The longest header of version 2, in bytes. Default 536.
    pub max_header: usize,
}

impl ListenerSettings {
    /// The owner and the group may connect.
    pub(super) const UNIX_MODE: u32 = 0o660;

    /// A plain listener with every default.
    #[must_use]
    pub fn new(name: impl Into<String>, address: impl Into<ListenAddress>) -> Self {
        Self {
            name: name.into(),
            addresses: vec![address.into()],
            unix_mode: Self::UNIX_MODE,
            backlog: 1024,
            tls: None,
            proxy_protocol: None,
            serve: ServeSettings::default(),
        }
    }
}

impl From<SocketAddr> for ListenAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl ProxyProtocolSettings {
    /// Reads the headers of proxies in these networks, with every default.
    #[must_use]
    pub fn new(from: Vec<IpNet>) -> Self {
        let timeout = Duration::from_secs(5);
        Self { from, from_unix: false, timeout, max_header: DEFAULT_MAX_LENGTH }
    }

    /// Whether a connection from this address begins with a header; `None` is one
    /// over a Unix socket.
    #[must_use]
    pub fn expects(&self, peer: Option<SocketAddr>) -> bool {
        match peer.map(|peer| peer.ip().to_canonical()) {
            Some(peer) => self.from.iter().any(|network| network.contains(&peer)),
            None => self.from_unix,
        }
    }
}

/// How many connections may be open, over all listeners.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ConnectionLimits {
    /// In all. Default 50,000.
    pub total: usize,
    /// From one client. Default 1,000.
    pub per_client: usize,
    /// How much of an address makes one client. Default 32 and 64 bits.
    pub client: Prefixes,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self { total: 50_000, per_client: 1_000, client: Prefixes::default() }
    }
}
