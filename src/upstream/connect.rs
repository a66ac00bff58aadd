//! Dialling an origin: resolve, connect, handshake, all under one deadline.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::stream::Stream;
use super::tls::{ClientTls, Configs};
use super::{OriginScheme, OriginUrl, UpstreamSettings};
use crate::error::{Error, Kind, Resend, cause_of};

/// Dials one origin.
pub(super) struct Connector {
    url: OriginUrl,
    tls: Option<(Configs, String)>,
    timeout: Duration,
}

/// A fresh connection, and what it is to speak.
#[derive(Debug)]
pub(super) struct Dialled {
    pub(super) stream: Stream,
    pub(super) http2: bool,
}

impl Connector {
    pub(super) fn new(url: OriginUrl, tls: &ClientTls, settings: &UpstreamSettings) -> Self {
        let name = settings.tls.server_name.clone().unwrap_or_else(|| url.host.clone());
        let tls = match url.scheme {
            OriginScheme::Https => tls.configs.clone().map(|configs| (configs, name)),
            OriginScheme::Http | OriginScheme::H2c => None,
        };
        Self { url, tls, timeout: settings.timeouts.connect }
    }

    /// Connects. Nothing of any request has been sent when this fails.
    ///
    /// `http1` asks for a connection that can switch protocols, which one of
    /// HTTP/2 cannot.
    pub(super) async fn dial(&self, http1: bool) -> Result<Dialled, Error> {
        match tokio::time::timeout(self.timeout, self.connect(http1)).await {
            Ok(dialled) => dialled,
            Err(_) => Err(Error::new(Kind::ConnectTimeout)
                .detail(format!("{} did not accept within {:?}", self.url, self.timeout))),
        }
        .map_err(|error| error.resend(Resend::Safe))
    }

    async fn connect(&self, http1: bool) -> Result<Dialled, Error> {
        let tcp = self.connect_tcp().await?;
        // Small writes are the rule for a proxy, and each is complete in itself.
        let _best_effort = tcp.set_nodelay(true);
        let Some((configs, name)) = &self.tls else {
            let http2 = self.url.scheme == OriginScheme::H2c;
            return Ok(Dialled { stream: Stream::Plain(tcp), http2 });
        };
        let name = ServerName::try_from(name.clone()).map_err(|error| {
            Error::new(Kind::TlsProtocol)
                .detail(format!("`{name}` cannot be a server name"))
                .because(error)
        })?;
        let config = if http1 { &configs.http1 } else { &configs.any };
        let stream = TlsConnector::from(config.clone())
            .connect(name, tcp)
            .await
            .map_err(|error| self.handshake_error(error))?;
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok(Dialled { stream: Stream::Tls(Box::new(stream)), http2 })
    }

    async fn connect_tcp(&self) -> Result<TcpStream, Error> {
        let OriginUrl { host, port, .. } = &self.url;
        if let Ok(address) = host.parse::<IpAddr>() {
            let address = SocketAddr::new(address, *port);
            return TcpStream::connect(address).await.map_err(|error| refused(address, error));
        }
        let addresses = tokio::net::lookup_host((host.as_str(), *port)).await.map_err(|error| {
            Error::new(Kind::DnsFailed).detail(format!("`{host}` did not resolve")).because(error)
        })?;
        let mut last = None;
        for address in addresses {
            match TcpStream::connect(address).await {
                Ok(tcp) => return Ok(tcp),
                Err(error) => last = Some(refused(address, error)),
            }
        }
        Err(last.unwrap_or_else(|| {
            Error::new(Kind::DnsFailed).detail(format!("`{host}` has no address"))
        }))
    }

    fn handshake_error(&self, error: io::Error) -> Error {
        let kind = match cause_of::<rustls::Error>(&error) {
            Some(rustls::Error::InvalidCertificate(_)) => Kind::TlsCertificate,
            _ => Kind::TlsProtocol,
        };
        Error::new(kind).detail(format!("TLS with {}", self.url)).because(error)
    }
}

fn refused(address: SocketAddr, error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::TimedOut => Kind::ConnectTimeout,
        _ => Kind::ConnectRefused,
    };
    Error::new(kind).detail(address.to_string()).because(error)
}
