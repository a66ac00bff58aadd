//! Dialling an origin: connect, handshake, all under one deadline.
//!
//! Where a name has several addresses they are tried one after another, each
//! with a short head start over the next (RFC 8305 §5), so that one that
//! answers nothing does not use up the time of all.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::dns::{Address, HEAD_START, Name, Service};
use super::stream::{Layer, Stream};
use super::tls::{ClientTls, Configs};
use super::{OriginScheme, OriginUrl, Protocol, UpstreamSettings, unix};
use crate::error::{Error, Kind, Resend, cause_of};
use crate::proxy_protocol::{self, Announced};
use crate::socket::Socket;

/// Where an origin's address comes from.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// It stands in the settings.
    Literal(IpAddr),
    /// It is a socket of this machine's.
    Unix(PathBuf),
    /// It is one of those that a name has.
    Address(Arc<Address>),
    /// Whichever of those that a name has.
    Name(Arc<Name>),
    /// Nobody knows yet which origins the service has.
    Service(Arc<Service>),
}

/// Dials one origin.
pub(super) struct Connector {
    url: OriginUrl,
    place: Place,
    tls: Option<(Configs, String)>,
    /// Whether an origin that does not agree to HTTP/2 is not to be used.
    only_http2: bool,
    /// Whether and how the origin is told whose connection it is.
    proxy_protocol: Option<proxy_protocol::Version>,
    timeout: Duration,
}

/// A fresh connection, and what it is to speak.
#[derive(Debug)]
pub(super) struct Dialled {
    pub(super) stream: Stream,
    pub(super) http2: bool,
}

impl Connector {
    /// Dials `url` at `place`; `host` is who the origin has to be.
    pub(super) fn new(
        url: OriginUrl,
        host: &str,
        place: Place,
        tls: &ClientTls,
        settings: &UpstreamSettings,
    ) -> Self {
        let name = settings.tls.server_name.clone().unwrap_or_else(|| host.to_owned());
        let tls = match url.scheme {
            OriginScheme::Https => tls.configs.clone().map(|configs| (configs, name)),
            OriginScheme::Http | OriginScheme::H2c => None,
        };
        let only_http2 = settings.protocol == Protocol::Http2;
        let (proxy_protocol, timeout) = (settings.proxy_protocol, settings.timeouts.connect);
        Self { url, place, tls, only_http2, proxy_protocol, timeout }
    }

    /// Where it dials.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// The end of the time that connecting may take if it begins now.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }

    /// That no connection was there at the deadline.
    pub(super) fn too_late(&self) -> Error {
        let unknown = match &self.place {
            Place::Name(name) => name.is_unknown(),
            Place::Service(service) => service.is_unknown(),
            Place::Literal(_) | Place::Unix(_) | Place::Address(_) => false,
        };
        if unknown {
            let detail = format!("{} was not resolved within {:?}", self.url, self.timeout);
            return Error::new(Kind::DnsTimeout).detail(detail).resend(Resend::Safe);
        }
        let detail = format!("{} did not accept within {:?}", self.url, self.timeout);
        Error::new(Kind::ConnectTimeout).detail(detail).resend(Resend::Safe)
    }

    /// Connects. Nothing of any request has been sent when this fails.
    ///
    /// `http1` asks for a connection that can switch protocols, which one of
    /// HTTP/2 cannot. `announced` is whose connection it will be, where the origin
    /// is told.
    pub(super) async fn dial(
        &self,
        http1: bool,
        announced: Announced,
        deadline: Instant,
    ) -> Result<Dialled, Error> {
        match tokio::time::timeout_at(deadline, self.connect(http1, announced)).await {
            Ok(dialled) => dialled.map_err(|error| error.resend(Resend::Safe)),
            Err(_) => Err(self.too_late()),
        }
    }

    async fn connect(&self, http1: bool, announced: Announced) -> Result<Dialled, Error> {
        let (socket, address) = self.connect_socket().await?;
        let Some(version) = self.proxy_protocol else {
            return self.secure(http1, socket, address).await;
        };
        let socket = announce(socket, version, announced).await.map_err(|error| {
            Error::new(Kind::ConnectionTerminated)
                .detail(format!("{} took no PROXY protocol header", self.url))
                .because(error)
        })?;
        let mut dialled = self.secure(http1, socket, address).await?;
        dialled.stream.announced = Some(Box::new(announced));
        Ok(dialled)
    }

    async fn connect_socket(&self) -> Result<(Socket, Option<Arc<Address>>), Error> {
        let port = self.url.port;
        let (tcp, address) = match &self.place {
            Place::Unix(path) => return Ok((Socket::new(unix::connect(path).await?), None)),
            Place::Literal(ip) => (connect_to(SocketAddr::new(*ip, port)).await?, None),
            Place::Address(address) => connect_to_address(address.clone(), port).await?,
            Place::Name(name) => connect_to_name(name, port).await?,
            Place::Service(service) => {
                let (name, port) = service.first_target().await?;
                connect_to_name(&name, port).await?
            }
        };
        let _best_effort = crate::socket::tune(&tcp);
        Ok((Socket::new(tcp), address))
    }

    /// Shakes hands, where the origin speaks TLS.
    async fn secure(
        &self,
        http1: bool,
        socket: Socket,
        address: Option<Arc<Address>>,
    ) -> Result<Dialled, Error> {
        let Some((configs, name)) = &self.tls else {
            let http2 = self.url.scheme == OriginScheme::H2c;
            return Ok(Dialled { stream: Stream::new(Layer::Plain(socket), address), http2 });
        };
        let name = ServerName::try_from(name.clone()).map_err(|error| {
            Error::new(Kind::TlsProtocol)
                .detail(format!("`{name}` cannot be a server name"))
                .because(error)
        })?;
        let config = if http1 { &configs.http1 } else { &configs.any };
        let stream = TlsConnector::from(config.clone())
            .connect(name, socket)
            .await
            .map_err(|error| self.handshake_error(error))?;
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        if self.only_http2 && !http1 && !http2 {
            return Err(Error::new(Kind::TlsProtocol)
                .detail(format!("{} does not agree to HTTP/2", self.url)));
        }
        Ok(Dialled { stream: Stream::new(Layer::Tls(Box::new(stream)), address), http2 })
    }

    fn handshake_error(&self, error: io::Error) -> Error {
        let kind = match cause_of::<rustls::Error>(&error) {
            Some(rustls::Error::InvalidCertificate(_)) => Kind::TlsCertificate,
            _ => Kind::TlsProtocol,
        };
        Error::new(kind).detail(format!("TLS with {}", self.url)).because(error)
    }
}

/// Says whose connection it is, before everything else.
async fn announce(
    mut socket: Socket,
    version: proxy_protocol::Version,
    announced: Announced,
) -> io::Result<Socket> {
    socket.write_all(&proxy_protocol::write(version, announced)).await?;
    Ok(socket)
}

async fn connect_to(address: SocketAddr) -> Result<TcpStream, Error> {
    TcpStream::connect(address)
        .await
        .map_err(|error| Error::new(kind_of(&error)).detail(address.to_string()).because(error))
}

async fn connect_to_address(
    address: Arc<Address>,
    port: u16,
) -> Result<(TcpStream, Option<Arc<Address>>), Error> {
    let tcp = address.tried(connect_to(SocketAddr::new(address.ip(), port))).await?;
    Ok((tcp, Some(address)))
}

async fn connect_to_name(
    name: &Name,
    port: u16,
) -> Result<(TcpStream, Option<Arc<Address>>), Error> {
    let dial = |address| connect_to_address(address, port);
    let none = || Err(Error::new(Kind::DnsFailed).detail("the name has no address"));
    first_of(name.addresses().await?, dial).await.unwrap_or_else(none)
}

/// What `dial` makes of the first address that it succeeds with, or of the last
/// that failed; `None` without an address.
async fn first_of<A, T, F>(addresses: Vec<A>, dial: impl Fn(A) -> F) -> Option<Result<T, Error>>
where
    F: Future<Output = Result<T, Error>>,
{
    let mut waiting = addresses.into_iter();
    let mut dialling: FuturesUnordered<F> = waiting.next().map(&dial).into_iter().collect();
    loop {
        let ended = if waiting.len() == 0 {
            dialling.next().await
        } else {
            match tokio::time::timeout(HEAD_START, dialling.next()).await {
                Ok(ended) => ended,
                Err(_) => {
                    dialling.extend(waiting.next().map(&dial));
                    continue;
                }
            }
        };
        match ended? {
            Ok(connected) => return Some(Ok(connected)),
            Err(error) => {
                dialling.extend(waiting.next().map(&dial));
                if dialling.is_empty() {
                    return Some(Err(error));
                }
            }
        }
    }
}

/// Whether the origin, or the way to it, is at fault, or this machine, which is
/// out of file descriptors, ports or memory.
pub(super) fn kind_of(error: &io::Error) -> Kind {
    match error.kind() {
        io::ErrorKind::TimedOut => Kind::ConnectTimeout,
        io::ErrorKind::ConnectionRefused
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::NetworkDown
        | io::ErrorKind::PermissionDenied
        | io::ErrorKind::InvalidInput => Kind::ConnectRefused,
        _ => Kind::Overloaded,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fate of a dial is in its port: 1 answers nothing, 2 refuses, others
    /// accept after a second.
    async fn dial(address: SocketAddr) -> Result<SocketAddr, Error> {
        match address.port() {
            1 => std::future::pending().await,
            2 => Err(Error::new(Kind::ConnectRefused).detail(address.to_string())),
            _ => {
                tokio::time::sleep(Duration::from_secs(1)).await;
                Ok(address)
            }
        }
    }

    async fn first(ports: &[u16]) -> (Option<Result<u16, String>>, u128) {
        let addresses = ports.iter().map(|port| SocketAddr::from(([192, 0, 2, 1], *port)));
        let before = Instant::now();
        let first = first_of(addresses.collect(), dial).await;
        let first = first.map(|dialled| match dialled {
            Ok(address) => Ok(address.port()),
            Err(error) => Err(error.to_string()),
        });
        (first, before.elapsed().as_millis())
    }

    #[tokio::test(start_paused = true)]
    async fn a_black_hole_costs_a_head_start_and_a_refusal_nothing() {
        assert_eq!(first(&[80]).await, (Some(Ok(80)), 1_000));
        assert_eq!(first(&[1, 80]).await, (Some(Ok(80)), 1_250));
        assert_eq!(first(&[1, 1, 2, 80]).await, (Some(Ok(80)), 1_500));
        assert_eq!(first(&[2, 2, 80]).await, (Some(Ok(80)), 1_000));
        assert_eq!(first(&[80, 81, 82]).await, (Some(Ok(80)), 1_000));
        let refused = "connect_refused: 192.0.2.1:2".to_owned();
        assert_eq!(first(&[2, 2]).await, (Some(Err(refused)), 0));
        assert_eq!(first(&[]).await, (None, 0));
    }

    #[test]
    fn what_this_machine_lacks_is_not_the_origins_fault() {
        // EMFILE, ENFILE, ENOBUFS, EADDRNOTAVAIL
        for code in [24, 23, 105, 99] {
            assert_eq!(kind_of(&io::Error::from_raw_os_error(code)), Kind::Overloaded, "{code}");
        }
        // ECONNREFUSED, EHOSTUNREACH, ENETUNREACH
        for code in [111, 113, 101] {
            let kind = kind_of(&io::Error::from_raw_os_error(code));
            assert_eq!(kind, Kind::ConnectRefused, "{code}");
        }
    }
}
