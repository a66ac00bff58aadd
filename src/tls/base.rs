//! What all certificates of a listener have in common.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ProducesTickets, ResolvesServerCert};
use rustls::{ConfigBuilder, ServerConfig, WantsVerifier};

use super::TlsVersion;

/// Versions and protocols, from which the ways are made in which hands are shaken.
pub(super) struct Base {
    builder: ConfigBuilder<ServerConfig, WantsVerifier>,
    alpn: Vec<Vec<u8>>,
}

impl Base {
    pub(super) fn new(least: TlsVersion, http1: bool, http2: bool) -> Result<Self, rustls::Error> {
        let versions: &[&rustls::SupportedProtocolVersion] = match least {
            TlsVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
            TlsVersion::Tls13 => &[&rustls::version::TLS13],
        };
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder =
            ServerConfig::builder_with_provider(provider).with_protocol_versions(versions)?;
        let mut alpn = Vec::new();
        if http2 {
            alpn.push(b"h2".to_vec());
        }
        if http1 {
            alpn.push(b"http/1.1".to_vec());
            // Asked for by clients that were told to speak nothing newer.
            alpn.push(b"http/1.0".to_vec());
        }
        Ok(Self { builder, alpn })
    }

    pub(super) fn provider(&self) -> &Arc<CryptoProvider> {
        self.builder.crypto_provider()
    }

    pub(super) fn agrees_with(&self, other: &Self) -> bool {
        self.alpn == other.alpn
    }

    pub(super) fn config(
        &self,
        clients: Arc<dyn ClientCertVerifier>,
        certificate: Arc<dyn ResolvesServerCert>,
        tickets: Arc<dyn ProducesTickets>,
    ) -> ServerConfig {
        let builder = self.builder.clone().with_client_cert_verifier(clients);
        let mut config = builder.with_cert_resolver(certificate);
        config.ticketer = tickets;
        // Sessions are resumed by tickets alone: what a configuration stores of its own
        // would not survive it.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        // A ticket costs half of what resuming with it saves, so no spare one.
        config.send_tls13_tickets = 1;
        config.alpn_protocols.clone_from(&self.alpn);
        config
    }
}
