//! TLS towards origins: who is trusted, and how that is checked.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256};

use super::{OriginScheme, Protocol, UpstreamSettings};
use crate::roots::RootsError;

/// The TLS settings that all connections to an upstream share; `None` where
/// no origin speaks TLS.
#[derive(Clone, Debug)]
pub(super) struct ClientTls {
    pub(super) configs: Option<Configs>,
}

/// How a handshake with an origin goes.
#[derive(Clone, Debug)]
pub(super) struct Configs {
    /// Offers what the upstream is to be spoken to in.
    pub(super) any: Arc<ClientConfig>,
    /// Offers HTTP/1.1 only, for requests that ask to switch protocols.
    pub(super) http1: Arc<ClientConfig>,
    /// Whom both believe.
    pub(super) trust: Trust,
}

/// Whose certificates are believed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Trust {
    /// Anybody's.
    Any,
    /// Those of a set of roots, by the digest of that.
    Roots([u8; 32]),
}

/// The certificates to trust cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ClientTlsError {
    /// The `ca` bundle cannot be used.
    #[error("upstream `{upstream}`: cannot trust the certificates in {}: {reason}", path.display())]
    Ca {
        /// The upstream.
        upstream: String,
        /// The bundle.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The system has no trusted certificates.
    #[error(
        "upstream `{upstream}`: no trusted certificates were found on this system; \
         install `ca-certificates` or name a bundle with `tls.ca`"
    )]
    NoSystemRoots {
        /// The upstream.
        upstream: String,
    },
    /// The library refused the settings.
    #[error("upstream `{upstream}`: {source}")]
    Rustls {
        /// The upstream.
        upstream: String,
        /// Why.
        source: rustls::Error,
    },
}

impl ClientTls {
    pub(super) fn new(settings: &UpstreamSettings) -> Result<Self, ClientTlsError> {
        if settings.origins.iter().all(|origin| origin.url.scheme != OriginScheme::Https) {
            return Ok(Self { configs: None });
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|source| ClientTlsError::Rustls { upstream: settings.name.clone(), source })?;
        let mut trust = Trust::Any;
        let mut config = if settings.tls.verify {
            let roots = roots(settings)?;
            trust = Trust::of(&roots);
            builder.with_root_certificates(roots).with_no_client_auth()
        } else {
            tracing::warn!(
                upstream = settings.name,
                "`tls.verify = false`: anyone on the way can pose as an origin of this upstream"
            );
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AcceptAny(provider)))
                .with_no_client_auth()
        };
        config.alpn_protocols = match settings.protocol {
            Protocol::Auto => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            Protocol::Http1 => vec![b"http/1.1".to_vec()],
            Protocol::Http2 => vec![b"h2".to_vec()],
        };
        let mut http1 = config.clone();
        http1.alpn_protocols = vec![b"http/1.1".to_vec()];
        let (any, http1) = (Arc::new(config), Arc::new(http1));
        Ok(Self { configs: Some(Configs { any, http1, trust }) })
    }
}

impl Trust {
    fn of(roots: &RootCertStore) -> Self {
        // A system lists its roots in any order.
        let mut each: Vec<[u8; 32]> = roots.roots.iter().map(digest).collect();
        each.sort_unstable();
        Self::Roots(Sha256::digest(each.concat()).into())
    }
}

fn digest(root: &TrustAnchor<'_>) -> [u8; 32] {
    let constraints = root.name_constraints.as_deref().unwrap_or_default();
    let mut sha = Sha256::new();
    for part in [&*root.subject, &*root.subject_public_key_info, constraints] {
        sha.update(part.len().to_be_bytes());
        sha.update(part);
    }
    sha.finalize().into()
}

fn roots(settings: &UpstreamSettings) -> Result<RootCertStore, ClientTlsError> {
    let upstream = settings.name.clone();
    crate::roots::trusted(settings.tls.ca.as_deref()).map_err(|error| match error {
        RootsError::Bundle { path, reason } => ClientTlsError::Ca { upstream, path, reason },
        RootsError::NoneOnSystem => ClientTlsError::NoSystemRoots { upstream },
    })
}

/// Believes any certificate, for `tls.verify = false`. Signatures are still
/// checked, so that the connection is at least with whoever holds the key.
#[derive(Debug)]
struct AcceptAny(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
