//! A client's connection, or stream, on its way to another protocol.
//!
//! A server that can switch (RFC 9110 §7.8, RFC 8441) puts an [`OnSwitch`] into
//! the request. Whoever answers that the protocol is switched awaits it, and
//! gets the bytes of the client once that answer is sent.

use std::any::Any;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::Extensions;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

/// A stream of either direction's bytes, as a connection is.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// A future of the stream that is left when the response has been sent. It fails
/// if the response did not switch, or the connection ended before it was sent.
///
/// Clones share the one stream: the first that is polled after it came has it.
#[derive(Clone)]
pub struct OnSwitch {
    way: Arc<Mutex<Way>>,
    /// What lives until the stream is dropped.
    held: Option<Arc<dyn Any + Send + Sync>>,
    told: Option<Told>,
}

/// Told of each part that is written to a client, how long it is.
type Told = Arc<dyn Fn(usize) + Send + Sync>;

enum Way {
    Own(oneshot::Receiver<Box<dyn Io>>),
    Hyper(OnUpgrade),
}

/// The server's end of an [`OnSwitch`], which fails if this is dropped.
pub struct Sender(oneshot::Sender<Box<dyn Io>>);

/// The client's bytes after the switch.
pub struct Switched {
    io: Box<dyn Io>,
    held: Option<Arc<dyn Any + Send + Sync>>,
    told: Option<Told>,
}

/// A switch to come, for a server that takes care of it by itself.
#[must_use]
pub fn channel() -> (Sender, OnSwitch) {
    let (sender, receiver) = oneshot::channel();
    (Sender(sender), OnSwitch::new(Way::Own(receiver)))
}

impl Sender {
    /// Hands the stream over, beginning with whatever came after the request. It
    /// is dropped if nobody waits for it.
    pub fn complete(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let _nobody_waits = self.0.send(Box::new(stream));
    }
}

impl OnSwitch {
    fn new(way: Way) -> Self {
        Self { way: Arc::new(Mutex::new(way)), held: None, told: None }
    }

    /// What the server that took the request put there, Tollgate's own or hyper's;
    /// nothing if it cannot switch.
    pub fn take(extensions: &mut Extensions) -> Option<Self> {
        extensions.remove::<Self>().or_else(|| extensions.remove::<OnUpgrade>().map(Self::from))
    }

    /// Keeps `guard` for as long as there is the stream, or may be.
    #[must_use]
    pub fn holding(mut self, guard: impl Any + Send + Sync) -> Self {
        self.held = Some(Arc::new((self.held.take(), guard)));
        self
    }

    /// Tells `told` of each part that is written to the client, how long it is.
    #[must_use]
    pub fn telling(mut self, told: impl Fn(usize) + Send + Sync + 'static) -> Self {
        self.told = Some(Arc::new(told));
        self
    }
}

impl From<OnUpgrade> for OnSwitch {
    fn from(on_upgrade: OnUpgrade) -> Self {
        Self::new(Way::Hyper(on_upgrade))
    }
}

impl Future for OnSwitch {
    type Output = io::Result<Switched>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let switched = match &mut *self.way.lock() {
            Way::Own(receiver) => ready!(Pin::new(receiver).poll(cx)).map_err(|_dropped| {
                let ended = "the connection ended before it switched";
                io::Error::new(io::ErrorKind::ConnectionAborted, ended)
            }),
            Way::Hyper(on_upgrade) => match ready!(Pin::new(on_upgrade).poll(cx)) {
                Ok(upgraded) => Ok(Box::new(TokioIo::new(upgraded)) as Box<dyn Io>),
                Err(error) => Err(io::Error::other(error)),
            },
        };
        let (held, told) = (self.held.take(), self.told.take());
        Poll::Ready(switched.map(|io| Switched { io, held, told }))
    }
}

impl AsyncRead for Switched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, room)
    }
}

impl AsyncWrite for Switched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, bytes))?;
        if let Some(told) = &self.told {
            told(written);
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl fmt::Debug for OnSwitch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnSwitch")
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sender")
    }
}

impl fmt::Debug for Switched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Switched").field("held", &self.held.is_some()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn what_the_server_hands_over_comes_with_what_is_held() {
        let (sender, on_switch) = channel();
        let guard = Arc::new(());
        let mut extensions = Extensions::new();
        let told = Arc::new(AtomicUsize::new(0));
        let count = told.clone();
        let on_switch = on_switch.telling(move |bytes| {
            count.fetch_add(bytes, Ordering::SeqCst);
        });
        extensions.insert(on_switch.holding(guard.clone()));
        let on_switch = OnSwitch::take(&mut extensions).unwrap();
        assert!(OnSwitch::take(&mut extensions).is_none());
        let (mut here, there) = tokio::io::duplex(64);
        sender.complete(there);
        let mut switched = on_switch.await.unwrap();
        switched.write_all(b"hello").await.unwrap();
        assert_eq!(told.load(Ordering::SeqCst), 5);
        here.write_all(b"ping").await.unwrap();
        let mut word = [0; 4];
        switched.read_exact(&mut word).await.unwrap();
        assert_eq!(&word, b"ping");
        assert_eq!(Arc::strong_count(&guard), 2);
        drop(switched);
        assert_eq!(Arc::strong_count(&guard), 1);
    }

    #[tokio::test]
    async fn a_server_that_lets_go_ends_the_wait() {
        let (sender, on_switch) = channel();
        drop(sender);
        let error = on_switch.await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    }
}
