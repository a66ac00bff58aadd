//! A connection over TCP or a Unix socket, whole and in its two directions.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream, tcp, unix};

/// A connection as the system gives it.
#[derive(Debug)]
pub enum Stream {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
}

/// One that no runtime polls.
#[derive(Debug)]
pub enum Unpolled {
    /// Over TCP.
    Tcp(std::net::TcpStream),
    /// Over a Unix socket.
    Unix(std::os::unix::net::UnixStream),
}

impl Stream {
    /// The address at this end, if it has one.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(tcp) => tcp.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    /// Has the current runtime no longer poll it.
    ///
    /// # Errors
    ///
    /// The runtime does not give it back.
    pub fn detach(self) -> io::Result<Unpolled> {
        Ok(match self {
            Self::Tcp(tcp) => Unpolled::Tcp(tcp.into_std()?),
            Self::Unix(unix) => Unpolled::Unix(unix.into_std()?),
        })
    }

    pub(super) fn split(self) -> (Incoming, Outgoing) {
        match self {
            Self::Tcp(tcp) => {
                let (read, write) = tcp.into_split();
                (Incoming::Tcp(read), Outgoing::Tcp(write))
            }
            Self::Unix(unix) => {
                let (read, write) = unix.into_split();
                (Incoming::Unix(read), Outgoing::Unix(write))
            }
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Unix(unix) => Pin::new(unix).poll_read(cx, buf),
        }
    }
}

impl Unpolled {
    /// Has the current runtime poll it. It must not block.
    ///
    /// # Errors
    ///
    /// The system has nothing left to poll it with.
    pub fn attach(self) -> io::Result<Stream> {
        Ok(match self {
            Self::Tcp(tcp) => Stream::Tcp(TcpStream::from_std(tcp)?),
            Self::Unix(unix) => Stream::Unix(UnixStream::from_std(unix)?),
        })
    }
}

impl From<TcpStream> for Stream {
    fn from(tcp: TcpStream) -> Self {
        Self::Tcp(tcp)
    }
}

impl From<UnixStream> for Stream {
    fn from(unix: UnixStream) -> Self {
        Self::Unix(unix)
    }
}

/// What comes in.
#[derive(Debug)]
pub(super) enum Incoming {
    Tcp(tcp::OwnedReadHalf),
    Unix(unix::OwnedReadHalf),
    /// Bytes that were read too early, before what is still to be read. A variant
    /// of its own, so that others do not look for them.
    Again(Box<(Bytes, Self)>),
}

impl Incoming {
    /// The same, and these bytes first.
    pub(super) fn after(self, bytes: Bytes) -> Self {
        if bytes.is_empty() { self } else { Self::Again(Box::new((bytes, self))) }
    }

    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Unix(unix) => Pin::new(unix).poll_read(cx, buf),
            Self::Again(again) => {
                let (bytes, then) = &mut **again;
                if !bytes.has_remaining() {
                    return then.poll_read(cx, buf);
                }
                let some = bytes.len().min(buf.remaining());
                buf.put_slice(&bytes.split_to(some));
                if bytes.is_empty() {
                    *bytes = Bytes::new();
                }
                Poll::Ready(Ok(()))
            }
        }
    }
}

/// What goes out.
#[derive(Debug)]
pub(super) enum Outgoing {
    Tcp(tcp::OwnedWriteHalf),
    Unix(unix::OwnedWriteHalf),
}

impl Outgoing {
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Self::Unix(unix) => Pin::new(unix).poll_write(cx, bytes),
        }
    }

    pub(super) fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(tcp) => Pin::new(tcp).poll_write_vectored(cx, parts),
            Self::Unix(unix) => Pin::new(unix).poll_write_vectored(cx, parts),
        }
    }

    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Unix(unix) => Pin::new(unix).poll_shutdown(cx),
        }
    }

    /// Drops it without ending this direction: closing the socket does that.
    pub(super) fn forget(self) {
        match self {
            Self::Tcp(tcp) => tcp.forget(),
            Self::Unix(unix) => unix.forget(),
        }
    }
}
