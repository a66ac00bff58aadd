//! Connections to the proxy, and whether they are still open.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::support::client::Io;

/// How long anything may take. Nothing is measured against it: it is there so that
/// what hangs is told.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A listener of the proxy, and how to speak to it.
#[derive(Clone)]
pub struct Door {
    pub address: SocketAddr,
    pub tls: Option<Arc<ClientConfig>>,
}

/// An open connection.
pub enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Door {
    pub fn plain(port: u16) -> Self {
        Self { address: ([127, 0, 0, 1], port).into(), tls: None }
    }

    pub fn tls(port: u16, config: ClientConfig) -> Self {
        Self { tls: Some(Arc::new(config)), ..Self::plain(port) }
    }

    /// Connects, and shakes hands.
    ///
    /// # Errors
    ///
    /// What happened, in words: none of it may.
    pub async fn open(&self) -> Result<Wire, String> {
        match tokio::time::timeout(PATIENCE, self.try_open()).await {
            Ok(opened) => opened,
            Err(_) => Err("connecting: nothing for a long time".to_owned()),
        }
    }

    async fn try_open(&self) -> Result<Wire, String> {
        let stream = TcpStream::connect(self.address).await;
        let stream = stream.map_err(|error| format!("connecting: {error}"))?;
        stream.set_nodelay(true).map_err(|error| format!("connecting: {error}"))?;
        let Some(tls) = &self.tls else { return Ok(Wire::Plain(stream)) };
        let name = ServerName::try_from("a.test").unwrap();
        let shaken = tokio_rustls::TlsConnector::from(tls.clone()).connect(name, stream).await;
        match shaken {
            Ok(stream) => Ok(Wire::Tls(Box::new(stream))),
            Err(error) => Err(format!("shaking hands: {error}")),
        }
    }
}

impl Wire {
    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }

    /// The local port, by which the proxy's log knows the connection.
    pub fn port(&self) -> u16 {
        self.tcp().local_addr().map_or(0, |address| address.port())
    }

    /// Whether the handshake went on from an earlier one.
    pub fn is_resumed(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(stream) => {
                stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed)
            }
        }
    }

    /// Whether the other side has ended it, as far as this machine knows at this
    /// very moment: the socket itself is asked, not what the reactor has heard.
    /// What came meanwhile (TLS sends tickets) is put into `buffer`.
    pub async fn is_over(&mut self, buffer: &mut Vec<u8>) -> bool {
        loop {
            let mut byte = [std::mem::MaybeUninit::uninit()];
            match SockRef::from(self.tcp()).peek(&mut byte) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Ok(0) | Err(_) => return true,
                Ok(_) => {}
            }
            let mut chunk = [0; 4096];
            tokio::select! {
                biased;
                read = self.read(&mut chunk) => match read {
                    Ok(0) | Err(_) => return true,
                    Ok(count) => buffer.extend_from_slice(&chunk[..count]),
                },
                () = tokio::task::yield_now() => {}
            }
        }
    }

    pub async fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(into).await,
            Self::Tls(stream) => stream.read(into).await,
        }
    }

    /// Writes everything, and says how much was taken if that fails.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), (usize, io::Error)> {
        let mut taken = 0;
        while taken < bytes.len() {
            let wrote = match self {
                Self::Plain(stream) => stream.write(&bytes[taken..]).await,
                Self::Tls(stream) => stream.write(&bytes[taken..]).await,
            };
            match wrote {
                Ok(0) => return Err((taken, io::ErrorKind::WriteZero.into())),
                Ok(count) => taken += count,
                Err(error) => return Err((taken, error)),
            }
        }
        let flushed = match self {
            Self::Plain(stream) => stream.flush().await,
            Self::Tls(stream) => stream.flush().await,
        };
        flushed.map_err(|error| (taken, error))
    }

    pub fn boxed(self) -> Box<dyn Io> {
        match self {
            Self::Plain(stream) => Box::new(stream),
            Self::Tls(stream) => stream,
        }
    }
}
