//! What client certificates are told by.

use http::HeaderName;

use super::pattern::{NamePattern, SubjectNamePattern};

/// Who is let in by the certificate that the connection was made with.
///
/// Empty lists let in everybody whom the listener's authorities vouch for. Of `subjects`,
/// `names` and `fingerprints` one entry has to match, whichever; of `issuers` one besides.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct MtlsSettings {
    /// Subjects.
    pub subjects: Vec<NamePattern>,
    /// Alternative names of subjects.
    pub names: Vec<SubjectNamePattern>,
    /// Certificates, by the SHA-256 of their DER.
    pub fingerprints: Vec<[u8; 32]>,
    /// Who vouches for the certificates, of the listener's authorities; whoever has issued
    /// them by their leave goes under their names. Where several authorities vouch for
    /// clients, each can issue any subject: this says who speaks for whom.
    pub issuers: Vec<NamePattern>,
    /// What becomes the name of whoever is let in.
    pub name: MtlsName,
    /// What they may do, in words of the operator's.
    pub scopes: Vec<String>,
    /// The field that tells the origin the name. Default `None`: none does.
    pub identity_header: Option<HeaderName>,
    /// Whether `Client-Cert` tells the origin the certificate (RFC 9440 §2.2). Default
    /// false.
    pub forward_certificate: bool,
    /// Whether `Client-Cert-Chain` tells it the certificates that came with it (RFC 9440
    /// §2.3). Default false.
    pub forward_chain: bool,
}

/// What of a certificate becomes the name of whoever has shown it. Where it has none of
/// that, the subject does, and where that is empty, the fingerprint.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum MtlsName {
    /// The subject's common name.
    #[default]
    CommonName,
    /// The alternative name that matched [`MtlsSettings::names`], or else the first.
    SubjectName,
    /// The whole subject.
    Subject,
    /// `sha256:` and the fingerprint.
    Fingerprint,
}
