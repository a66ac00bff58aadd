//! The PROXY protocol: a header before everything else on a connection, in which
//! a proxy says whose connection it passes on.
//!
//! Both versions of its specification (`proxy-protocol.txt`, 2020/03/05), read and
//! written. Reading is a pure function of the bytes: however they are split, what is
//! found is the same, and nothing is taken for a header that the specification does
//! not describe.

mod v1;
mod v2;

use std::net::{IpAddr, SocketAddr};

/// The longest header that a sender of addresses and a few TLVs needs, and the
/// smallest segment that any host must take (RFC 9293 §3.7.1), in bytes.
pub const DEFAULT_MAX_LENGTH: usize = 536;

/// The longest header that version 2 can describe, in bytes.
pub const MAX_LENGTH: usize = v2::FIXED + u16::MAX as usize;

/// The shortest limit on a header that lets every address pass, in bytes: two
/// Unix addresses in version 2.
pub const MIN_MAX_LENGTH: usize = v2::FIXED + v2::UNIX;

/// Which version of the header is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// Both ends of a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Addresses {
    /// Who connected.
    pub source: SocketAddr,
    /// Where to.
    pub destination: SocketAddr,
}

/// Whose connection it is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Announced {
    /// The sender's own, such as one that looks whether the receiver is well.
    #[default]
    Local,
    /// That of somebody whose addresses are not known, or not of IP over TCP.
    Unknown,
    /// That of this client.
    Client(Addresses),
}

/// A header that was read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Header {
    /// What it says.
    pub announced: Announced,
    /// How many bytes it took.
    pub length: usize,
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Invalid {
    /// They do not begin as one.
    #[error("there is no header")]
    Missing,
    /// They begin as one, and then break its rules.
    #[error("{0}")]
    Malformed(&'static str),
    /// It is, or says that it is, longer than may be.
    #[error("the header is longer than may be")]
    Oversize,
}

impl Invalid {
    /// The reason as one word, for metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "proxy_header_missing",
            Self::Malformed(_) => "proxy_header_malformed",
            Self::Oversize => "proxy_header_oversize",
        }
    }
}

impl Addresses {
    /// Both in one family, as a header has them: an IPv4 address beside one of
    /// IPv6 is written as one of those (RFC 4291 §2.5.5.2), and one that came so
    /// is IPv4 again where both are.
    #[must_use]
    pub fn aligned(self) -> Self {
        let canonical =
            |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        let (source, destination) = (canonical(self.source), canonical(self.destination));
        if source.is_ipv4() == destination.is_ipv4() {
            return Self { source, destination };
        }
        let mapped = |address: SocketAddr| match address.ip() {
            IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
            IpAddr::V6(_) => address,
        };
        Self { source: mapped(source), destination: mapped(destination) }
    }
}

/// Reads the header at the start of `bytes`; `None` if there is more to come.
///
/// `max` is the longest that version 2 may be, in bytes; version 1 is at most 107
/// whatever that says.
///
/// # Errors
///
/// No bytes that may follow make a header of these.
pub fn parse(bytes: &[u8], max: usize) -> Result<Option<Header>, Invalid> {
    match bytes.first() {
        None => Ok(None),
        Some(b'P') => v1::parse(bytes),
        Some(b'\r') => v2::parse(bytes, max),
        Some(_) => Err(Invalid::Missing),
    }
}

/// The header that says this.
#[must_use]
pub fn write(version: Version, announced: Announced) -> Vec<u8> {
    let announced = match announced {
        Announced::Client(addresses) => Announced::Client(addresses.aligned()),
        other => other,
    };
    match version {
        Version::V1 => v1::write(announced),
        Version::V2 => v2::write(announced),
    }
}

/// Whether `bytes` are the start of `signature`, or start with it.
fn begins(bytes: &[u8], signature: &[u8]) -> bool {
    bytes.iter().zip(signature).all(|(byte, expected)| byte == expected)
}

#[cfg(test)]
mod tests;
