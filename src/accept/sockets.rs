//! Sockets to accept from, over TCP and Unix sockets alike.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::sync::{Arc, Weak};

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::is_exhaustion;
use super::unix::SocketFile;
use crate::socket::Stream;

/// A socket that is bound, and that nobody accepts from yet.
#[derive(Debug)]
pub(super) struct BoundSocket {
    kind: Unpolled,
    /// Whether it is another's double: what comes to that comes to this.
    double: bool,
}

#[derive(Debug)]
enum Unpolled {
    Tcp(std::net::TcpListener),
    Unix(StdUnixListener, Arc<SocketFile>),
}

/// A socket that a runtime polls.
#[derive(Debug)]
pub(super) struct ListenSocket {
    kind: Polled,
    double: bool,
    /// Dropped last, when it is closed.
    open: Arc<()>,
}

#[derive(Debug)]
enum Polled {
    Tcp(TcpListener),
    Unix(UnixListener, Arc<SocketFile>),
}

impl BoundSocket {
    pub(super) fn tcp(socket: std::net::TcpListener) -> Self {
        Self { kind: Unpolled::Tcp(socket), double: false }
    }

    pub(super) fn unix(socket: StdUnixListener, file: Arc<SocketFile>) -> Self {
        Self { kind: Unpolled::Unix(socket, file), double: false }
    }

    /// Another one that accepts what comes to this.
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        let kind = match &self.kind {
            Unpolled::Tcp(tcp) => Unpolled::Tcp(tcp.try_clone()?),
            Unpolled::Unix(unix, file) => Unpolled::Unix(unix.try_clone()?, file.clone()),
        };
        Ok(Self { kind, double: true })
    }

    /// Whether connections can wait in it already.
    pub(super) fn listens(&self) -> bool {
        SockRef::from(&self.as_fd()).is_listener().unwrap_or(false)
    }

    /// Has the current runtime poll it. From now on it listens at the latest: what
    /// does not has ended, to a runtime.
    ///
    /// # Errors
    ///
    /// The system has nothing left to poll it with.
    pub(super) fn attach(self, backlog: i32) -> io::Result<ListenSocket> {
        if !self.listens() {
            SockRef::from(&self.as_fd()).listen(backlog)?;
        }
        let kind = match self.kind {
            Unpolled::Tcp(tcp) => Polled::Tcp(TcpListener::from_std(tcp)?),
            Unpolled::Unix(unix, file) => Polled::Unix(UnixListener::from_std(unix)?, file),
        };
        Ok(ListenSocket { kind, double: self.double, open: Arc::default() })
    }

    /// For a process that is to accept what comes to it; `None` for a double.
    pub(super) fn handle(&self) -> Option<io::Result<OwnedFd>> {
        (!self.double).then(|| self.as_fd().try_clone_to_owned())
    }
}

impl AsFd for BoundSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.kind {
            Unpolled::Tcp(tcp) => tcp.as_fd(),
            Unpolled::Unix(unix, _) => unix.as_fd(),
        }
    }
}

impl ListenSocket {
    pub(super) fn local_addr(&self) -> Option<SocketAddr> {
        match &self.kind {
            Polled::Tcp(tcp) => tcp.local_addr().ok(),
            Polled::Unix(..) => None,
        }
    }

    /// See [`BoundSocket::handle`].
    pub(super) fn handle(&self) -> Option<io::Result<OwnedFd>> {
        (!self.double).then(|| self.as_fd().try_clone_to_owned())
    }

    /// Upgrades until it is closed.
    pub(super) fn until_closed(&self) -> Weak<()> {
        Arc::downgrade(&self.open)
    }

    /// How many connections the system may hold from now on.
    pub(super) fn set_backlog(&self, backlog: i32) -> io::Result<()> {
        SockRef::from(&self.as_fd()).listen(backlog)
    }

    /// The next connection, and the address at its other end if that has one.
    pub(super) async fn accept(&self) -> io::Result<(Stream, Option<SocketAddr>)> {
        match &self.kind {
            Polled::Tcp(tcp) => {
                tcp.accept().await.map(|(stream, peer)| (stream.into(), Some(peer)))
            }
            Polled::Unix(unix, _) => unix.accept().await.map(|(stream, _)| (stream.into(), None)),
        }
    }

    /// Accepts what has come already: it would be reset with the socket.
    pub(super) fn last_call(&self, admit: impl Fn(Stream, Option<SocketAddr>)) -> io::Result<()> {
        // Past tokio, which stops a task that has accepted much.
        let fd = self.as_fd();
        let accept = || {
            let (stream, peer) = SockRef::from(&fd).accept()?;
            stream.set_nonblocking(true)?;
            io::Result::Ok((stream, peer))
        };
        match &self.kind {
            Polled::Tcp(_) => until_none(|| {
                let (stream, peer) = accept()?;
                admit(TcpStream::from_std(stream.into())?.into(), peer.as_socket());
                Ok(())
            }),
            Polled::Unix(_, file) => {
                file.remove();
                until_none(|| {
                    let (stream, _) = accept()?;
                    admit(UnixStream::from_std(stream.into())?.into(), None);
                    Ok(())
                })
            }
        }
    }
}

impl AsFd for ListenSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.kind {
            Polled::Tcp(tcp) => tcp.as_fd(),
            Polled::Unix(unix, _) => unix.as_fd(),
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
