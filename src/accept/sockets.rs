//! Sockets to accept from, over TCP and Unix sockets alike.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::is_exhaustion;
use super::unix::SocketFile;
use crate::socket::Stream;

/// A socket that listens, and that nobody accepts from yet.
#[derive(Debug)]
pub struct BoundSocket(Unpolled);

#[derive(Debug)]
enum Unpolled {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener, Arc<SocketFile>),
}

/// A socket that the current runtime polls.
#[derive(Debug)]
pub struct ListenSocket(Inner);

#[derive(Debug)]
enum Inner {
    Tcp(TcpListener),
    Unix(UnixListener, Arc<SocketFile>),
}

impl BoundSocket {
    pub(super) fn tcp(socket: std::net::TcpListener) -> Self {
        Self(Unpolled::Tcp(socket))
    }

    pub(super) fn unix(socket: std::os::unix::net::UnixListener, file: Arc<SocketFile>) -> Self {
        Self(Unpolled::Unix(socket, file))
    }

    /// Has the current runtime poll it.
    ///
    /// # Errors
    ///
    /// The system has nothing left to poll it with.
    pub fn attach(self) -> io::Result<ListenSocket> {
        Ok(ListenSocket(match self.0 {
            Unpolled::Tcp(tcp) => Inner::Tcp(TcpListener::from_std(tcp)?),
            Unpolled::Unix(unix, file) => Inner::Unix(UnixListener::from_std(unix)?, file),
        }))
    }

    /// The address it is bound to, if it has one.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.0 {
            Unpolled::Tcp(tcp) => tcp.local_addr().ok(),
            Unpolled::Unix(..) => None,
        }
    }
}

impl ListenSocket {
    pub(super) fn local_addr(&self) -> Option<SocketAddr> {
        match &self.0 {
            Inner::Tcp(tcp) => tcp.local_addr().ok(),
            Inner::Unix(..) => None,
        }
    }

    /// The next connection, and the address at its other end if that has one.
    pub(super) async fn accept(&self) -> io::Result<(Stream, Option<SocketAddr>)> {
        match &self.0 {
            Inner::Tcp(tcp) => tcp.accept().await.map(|(stream, peer)| (stream.into(), Some(peer))),
            Inner::Unix(unix, _) => unix.accept().await.map(|(stream, _)| (stream.into(), None)),
        }
    }

    /// Accepts what has come already: it would be reset with the socket.
    pub(super) fn last_call(self, admit: impl Fn(Stream, Option<SocketAddr>)) -> io::Result<()> {
        // Past tokio, which stops a task that has accepted much.
        match self.0 {
            Inner::Tcp(tcp) => {
                let tcp = tcp.into_std()?;
                until_none(|| {
                    let (stream, peer) = tcp.accept()?;
                    stream.set_nonblocking(true)?;
                    admit(TcpStream::from_std(stream)?.into(), Some(peer));
                    Ok(())
                })
            }
            Inner::Unix(unix, file) => {
                file.remove();
                let unix = unix.into_std()?;
                until_none(|| {
                    let (stream, _) = unix.accept()?;
                    stream.set_nonblocking(true)?;
                    admit(UnixStream::from_std(stream)?.into(), None);
                    Ok(())
                })
            }
        }
    }
}

/// Accepts until there is nothing left, or nothing to accept it with.
fn until_none(mut accept: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    loop {
        match accept() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if is_exhaustion(&error) => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
}
