//! A socket that is handed on with the listeners', and is none of them.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::Listeners;
use crate::accept::sockets::{BoundSocket, ListenSocket};
use crate::socket::Stream;

/// As many as a listener of the standard library's.
const BACKLOG: i32 = 128;

/// A socket that one task accepts from, until another process does.
#[derive(Debug)]
pub struct Aside {
    address: SocketAddr,
    /// `None` once it was released.
    socket: Option<Arc<ListenSocket>>,
    released: CancellationToken,
}

impl Listeners {
    /// Hands `socket` on with those of the listeners, for as long as what this
    /// returns is held. The current runtime polls it.
    ///
    /// # Errors
    ///
    /// The system has nothing left to poll it with.
    pub fn beside(&self, socket: TcpListener) -> io::Result<Aside> {
        let address = socket.local_addr()?;
        let socket = Arc::new(BoundSocket::tcp(socket).attach(BACKLOG)?);
        self.0.state.lock().asides.push(Arc::downgrade(&socket));
        Ok(Aside { address, socket: Some(socket), released: self.0.released.clone() })
    }
}

impl Aside {
    /// Where it is bound.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The next connection; none any more once another process accepts.
    ///
    /// # Errors
    ///
    /// As those of `accept(2)`.
    pub async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        loop {
            let Some(socket) = &self.socket else { return std::future::pending().await };
            tokio::select! {
                biased;
                () = self.released.cancelled() => self.socket = None,
                accepted = socket.accept() => {
                    if let (Stream::Tcp(stream), Some(peer)) = accepted? {
                        return Ok((stream, peer));
                    }
                }
            }
        }
    }
}
