//! A connection to an origin: plain or TLS.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::client::TlsStream;

use super::dns::Address;
use crate::budget::Charge;
use crate::context::Permit;
use crate::proxy_protocol::Announced;
use crate::socket::Socket;

/// A byte stream to an origin, which counts as one of its connections for as long
/// as it is open, whatever is spoken on it.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) layer: Layer,
    #[allow(dead_code, reason = "held for its drop")]
    pub(super) permit: Option<Permit>,
    /// Which of a name's addresses it leads to, if a name it was.
    pub(super) address: Option<Arc<Address>>,
    /// Whose connection the origin was told it is, if it was: boxed, as that is
    /// rare.
    pub(super) announced: Option<Box<Announced>>,
    #[allow(dead_code, reason = "held for its drop")]
    pub(super) charge: Charge,
}

impl Stream {
    pub(super) fn new(layer: Layer, address: Option<Arc<Address>>) -> Self {
        Self { layer, permit: None, address, announced: None, charge: Charge::default() }
    }

    /// Whether it leads to where the origin's name does not point any more.
    pub(super) fn is_astray(&self) -> bool {
        self.address.as_ref().is_some_and(|address| address.is_gone())
    }
}

/// What lies between the bytes and the wire.
#[derive(Debug)]
pub(super) enum Layer {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.get_mut().layer {
            Layer::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Layer::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().layer {
            Layer::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Layer::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().layer {
            Layer::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Layer::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.layer {
            Layer::Plain(stream) => stream.is_write_vectored(),
            Layer::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().layer {
            Layer::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Layer::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().layer {
            Layer::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Layer::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
