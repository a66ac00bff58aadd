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
    /// Whether clients have to show certificates, too. Default `None`: they are not
    /// asked for any.
    pub client_auth: Option<ClientAuthSettings>,
}

/// Certificates of clients on one listener.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClientAuthSettings {
    /// The certificate authorities that may vouch for clients, in PEM. Nobody else is
    /// trusted, whoever the system trusts.
    pub ca: PathBuf,
    /// What becomes of a client without a certificate.
    pub mode: ClientAuthMode,
    /// Lists of revoked certificates (RFC 5280 §5), in PEM; whole ones, from the issuers
    /// of the certificates themselves. Empty: nothing is looked up.
    pub revoked: Vec<PathBuf>,
    /// What becomes of a client of whose certificate, or of one above it, no list says
    /// whether it is revoked, or only one whose successor is due. Without lists this has
    /// no meaning.
    pub unknown_revocation: UnknownRevocation,
}

/// Whether a client has to show a certificate.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum ClientAuthMode {
    /// Without one there is no connection.
    #[default]
    Require,
    /// It may do without; but one that it shows has to be good. Who needs one is for
    /// the routes to say.
    Request,
}

/// What becomes of a certificate of which nobody says whether it is revoked.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum UnknownRevocation {
    /// It is not taken.
    #[default]
    Refuse,
    /// It is taken.
    Accept,
}

impl ClientAuthSettings {
    /// Clients have to show certificates that these authorities vouch for.
    #[must_use]
    pub fn new(ca: impl Into<PathBuf>) -> Self {
        Self {
            ca: ca.into(),
            mode: ClientAuthMode::default(),
            revoked: Vec::new(),
            unknown_revocation: UnknownRevocation::default(),
        }
    }

    /// The files that it names.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        std::iter::once(&self.ca).chain(&self.revoked)
    }
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
            client_auth: None,
        }
    }

    /// Every file that it names.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let pairs = self.certificates.iter().flat_map(|one| [&one.certificate, &one.key]);
        pairs.chain(self.client_auth.iter().flat_map(ClientAuthSettings::files))
    }
}
