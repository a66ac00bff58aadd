//! The certificate by which a client has shown who it is.

use std::fmt;
use std::net::IpAddr;

/// A client's certificate, which its listener's authorities vouch for. Read once for
/// each connection; what it holds was chosen by whoever issued it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClientCertificate {
    /// The subject's name (RFC 4514), the most specific part first, such as
    /// `CN=web,OU=ops,O=Example`. Empty where only alternative names say who it is.
    pub subject: Box<str>,
    /// The last common name of the subject, which is its most specific; `None` where
    /// there is none, or where it has characters that no name should have.
    pub common_name: Option<Box<str>>,
    /// The issuer's name (RFC 4514), as the certificate has it: an authority may have others
    /// issue under any name.
    pub issuer: Box<str>,
    /// The name (RFC 4514) of the authority that vouches for it: the one of the listener's by
    /// whose key it was verified, whatever certificates stand between.
    pub authority: Box<str>,
    /// The serial number in hexadecimal, without leading zeros.
    pub serial: Box<str>,
    /// The subject's alternative names (RFC 5280 §4.2.1.6), in their order. Those of
    /// other kinds are left out, and so is what has characters that no name should have.
    pub names: Box<[SubjectName]>,
    /// SHA-256 of its DER in hexadecimal.
    pub sha256: Box<str>,
    /// Until when it is valid, in seconds of the epoch.
    pub not_after: i64,
    /// Its DER, and those of the certificates that came with it, in their order.
    pub chain: Box<[Box<[u8]>]>,
}

/// An alternative name of a certificate's subject. It reads as its kind and itself, such
/// as `dns:a.example`.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum SubjectName {
    /// The name of a host, in lower case; it may be a wildcard.
    Dns(Box<str>),
    /// An address for mail, as it was written.
    Email(Box<str>),
    /// A URI, as it was written: a SPIFFE ID, for instance.
    Uri(Box<str>),
    /// An IP address.
    Ip(IpAddr),
}

impl SubjectName {
    /// Its kind in one word.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Dns(_) => "dns",
            Self::Email(_) => "email",
            Self::Uri(_) => "uri",
            Self::Ip(_) => "ip",
        }
    }

    /// The name without its kind.
    #[must_use]
    pub fn value(&self) -> String {
        match self {
            Self::Dns(text) | Self::Email(text) | Self::Uri(text) => text.to_string(),
            Self::Ip(address) => address.to_string(),
        }
    }
}

impl fmt::Display for SubjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.kind())?;
        match self {
            Self::Dns(text) | Self::Email(text) | Self::Uri(text) => f.write_str(text),
            Self::Ip(address) => address.fmt(f),
        }
    }
}
