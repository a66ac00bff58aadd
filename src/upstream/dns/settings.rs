//! How names are resolved.

use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;

/// How the names of origins are resolved. `/etc/hosts` comes first, as ever.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DnsSettings {
    /// The name servers to ask, in which case names are whole as they stand.
    /// Default none: those of `/etc/resolv.conf`, with its search domains.
    pub servers: Vec<SocketAddr>,
    /// How long a name server may take to answer. Default 2 s.
    pub timeout: Duration,
    /// How often a question is put, in all, before it counts as unanswered.
    /// At least 1, default 2.
    pub attempts: u32,
    /// An answer is kept for at least this long, whatever its TTL. Default 1 s.
    pub min_ttl: Duration,
    /// An answer is kept for no longer than this. Default 5 min.
    pub max_ttl: Duration,
    /// The longest pause before a name that did not resolve is asked for again;
    /// the first pauses are shorter. Default 5 s.
    pub negative_ttl: Duration,
    /// Which addresses are asked for, and which are tried first.
    pub family: AddressFamily,
    /// Networks that a name may point into although they belong to this machine,
    /// its link or its cloud. Default none.
    pub allow: Vec<IpNet>,
}

/// Which addresses of a name are used.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum AddressFamily {
    /// Both; IPv6 gets the head start (RFC 8305 §4).
    #[default]
    Ipv6First,
    /// Both; IPv4 gets the head start.
    Ipv4First,
    /// IPv6 only.
    Ipv6,
    /// IPv4 only.
    Ipv4,
}

impl AddressFamily {
    /// Whether IPv6 addresses are asked for.
    pub(super) const fn has_ipv6(self) -> bool {
        !matches!(self, Self::Ipv4)
    }

    /// Whether IPv4 addresses are asked for.
    pub(super) const fn has_ipv4(self) -> bool {
        !matches!(self, Self::Ipv6)
    }

    /// Whether IPv6 addresses come first.
    pub(super) const fn prefers_ipv6(self) -> bool {
        matches!(self, Self::Ipv6First | Self::Ipv6)
    }
}

impl Default for DnsSettings {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            timeout: Duration::from_secs(2),
            attempts: 2,
            min_ttl: Duration::from_secs(1),
            max_ttl: Duration::from_secs(5 * 60),
            negative_ttl: Duration::from_secs(5),
            family: AddressFamily::default(),
            allow: Vec::new(),
        }
    }
}
