//! What TLS on a listener is told.

use std::path::PathBuf;
use std::time::Duration;

/// TLS on one listener.
#[derive(Clone, Debug, PartialEq)]
pub struct TlsSettings {
    /// Certificates to choose from by server name; the first is the default
    /// for clients that name no server, or one that nobody here answers to.
    pub certificates: Vec<CertificateSettings>,
    /// The lowest version accepted. Default TLS 1.2.
    pub min_version: TlsVersion,
    /// Time from the accepted connection to the finished handshake. Default 10 s.
    pub handshake_timeout: Duration,
    /// How long before a certificate expires its owner is warned, once a day; but
    /// not before two thirds of its life are over. Zero: never. Default 14 days.
    pub expiry_warning: Duration,
}

/// One certificate chain with its key, both in PEM.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CertificateSettings {
    /// The chain, leaf first.
    pub certificate: PathBuf,
    /// The private key: PKCS #8, PKCS #1 or SEC 1.
    pub key: PathBuf,
    /// Server names it answers to, exact or `*.example.com`. Empty: the names
    /// in the certificate itself.
    pub names: Vec<String>,
}

/// A version of TLS that Tollgate speaks.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub enum TlsVersion {
    /// RFC 5246.
    #[default]
    Tls12,
    /// RFC 8446.
    Tls13,
}

impl TlsSettings {
    /// TLS with these certificates and every default.
    #[must_use]
    pub fn new(certificates: Vec<CertificateSettings>) -> Self {
        Self {
            certificates,
            min_version: TlsVersion::default(),
            handshake_timeout: Duration::from_secs(10),
            expiry_warning: Duration::from_secs(14 * 24 * 60 * 60),
        }
    }
}
