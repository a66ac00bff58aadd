//! TLS from clients: server name, handshake, all before a deadline.

mod certificates;
mod settings;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::server::TlsStream;

pub use settings::{CertificateSettings, TlsSettings, TlsVersion};

use crate::context::{Hosts, TlsFacts};
use crate::error::cause_of;
use certificates::Certificates;

/// Terminates TLS on a listener's connections. Cheap to clone.
#[derive(Clone)]
pub struct TlsAcceptor {
    config: Arc<ServerConfig>,
    /// `None` where there is one certificate for all.
    hosts: Option<Arc<dyn Hosts>>,
    timeout: Duration,
}

/// The protocol a handshake agreed on (RFC 7301).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Alpn {
    /// `http/1.1`.
    Http1,
    /// `h2`.
    Http2,
    /// The client named none.
    None,
}

/// TLS settings that cannot be used: every problem found.
#[derive(Debug)]
pub struct TlsError {
    problems: Vec<String>,
}

/// A handshake that did not end in a connection.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// It took too long.
    #[error("the handshake was not finished within {0:?}")]
    Timeout(Duration),
    /// It failed.
    #[error("the handshake failed")]
    Failed(#[source] io::Error),
}

impl TlsAcceptor {
    /// Reads certificates and keys and offers the protocols in ALPN.
    ///
    /// # Errors
    ///
    /// Every certificate or key that cannot be used.
    pub fn new(settings: &TlsSettings, http1: bool, http2: bool) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let certificates = Arc::new(Certificates::read(&settings.certificates, &provider)?);
        let hosts =
            (settings.certificates.len() > 1).then(|| certificates.clone() as Arc<dyn Hosts>);
        let versions: &[&rustls::SupportedProtocolVersion] = match settings.min_version {
            TlsVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
            TlsVersion::Tls13 => &[&rustls::version::TLS13],
        };
        let wrong = |error: rustls::Error| TlsError { problems: vec![error.to_string()] };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(wrong)?
            .with_no_client_auth()
            .with_cert_resolver(certificates);
        config.ticketer = aws_lc_rs::Ticketer::new().map_err(wrong)?;
        // A ticket costs half of what resuming with it saves, so no spare one.
        config.send_tls13_tickets = 1;
        if http2 {
            config.alpn_protocols.push(b"h2".to_vec());
        }
        if http1 {
            config.alpn_protocols.push(b"http/1.1".to_vec());
            // Asked for by clients that were told to speak nothing newer.
            config.alpn_protocols.push(b"http/1.0".to_vec());
        }
        Ok(Self { config: Arc::new(config), hosts, timeout: settings.handshake_timeout })
    }

    /// Shakes hands on a connection that was just made. The stream is boxed: it is
    /// large, and is moved often.
    ///
    /// # Errors
    ///
    /// The handshake failed, or took too long.
    pub async fn accept<IO: AsyncRead + AsyncWrite + Unpin>(
        &self,
        tcp: IO,
    ) -> Result<(Box<TlsStream<IO>>, TlsFacts, Alpn), HandshakeError> {
        let acceptor = tokio_rustls::TlsAcceptor::from(self.config.clone());
        let stream = tokio::time::timeout(self.timeout, acceptor.accept(tcp))
            .await
            .map_err(|_| HandshakeError::Timeout(self.timeout))?
            .map_err(HandshakeError::Failed)?;
        let connection = stream.get_ref().1;
        let alpn = match connection.alpn_protocol() {
            Some(b"h2") => Alpn::Http2,
            Some(_) => Alpn::Http1,
            None => Alpn::None,
        };
        let version = connection.protocol_version().and_then(|version| version.as_str());
        let cipher = connection.negotiated_cipher_suite().and_then(|s| s.suite().as_str());
        let facts = TlsFacts {
            server_name: connection.server_name().map(|name| name.to_ascii_lowercase().into()),
            version: version.unwrap_or("unknown"),
            cipher: cipher.unwrap_or("unknown"),
            hosts: self.hosts.clone(),
        };
        Ok((Box::new(stream), facts, alpn))
    }
}

impl HandshakeError {
    /// The reason as one word, for metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        let Self::Failed(error) = self else { return "timeout" };
        match cause_of::<rustls::Error>(error) {
            Some(rustls::Error::NoApplicationProtocol) => "alpn",
            Some(rustls::Error::AlertReceived(_)) => "alert",
            Some(_) => "protocol",
            None => "disconnected",
        }
    }
}

impl TlsError {
    /// Every problem found, a sentence each.
    #[must_use]
    pub fn problems(&self) -> &[String] {
        &self.problems
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problems.join("; "))
    }
}

impl std::error::Error for TlsError {}

impl fmt::Debug for TlsAcceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsAcceptor").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
