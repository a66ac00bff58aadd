//! A connection that may be open, on its way to being served.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use super::Acceptor;
use super::introduction::introduced;
use crate::context::{Buffers, Derived, Downstream, KeepOpen};
use crate::drain::{self, Busy};
use crate::proxy_protocol::Announced;
use crate::serve::{self, Answers, Speaks};
use crate::socket::{Socket, Stream, Unpolled};
use crate::tls::Alpn;

/// What every connection of one socket shares. A worker has its own, so that
/// the cores do not count one reference.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) acceptor: Acceptor,
    /// The address as it stands in the settings.
    asked: Arc<str>,
    /// Where its connections arrive, as far as that is one address.
    local: Option<SocketAddr>,
    /// What ends the connections of its address.
    pub(super) drain: drain::Watcher,
}

impl Door {
    pub(super) fn new(
        acceptor: &Acceptor,
        asked: &str,
        local: Option<SocketAddr>,
        drain: drain::Watcher,
    ) -> Self {
        let local = local.filter(|local| !local.ip().is_unspecified());
        let Acceptor { name, tls, proxy_protocol, serve, permits, metrics, connections } = acceptor;
        let acceptor = Acceptor {
            name: (&**name).into(),
            tls: tls.clone(),
            proxy_protocol: proxy_protocol.clone(),
            serve: Arc::new((**serve).clone()),
            permits: permits.clone(),
            metrics: metrics.clone(),
            connections: connections.clone(),
        };
        Self { acceptor, asked: asked.into(), local, drain }
    }

    /// Another one at the same place.
    pub(super) fn with(&self, acceptor: &Acceptor) -> Self {
        Self::new(acceptor, &self.asked, self.local, self.drain.clone())
    }

    /// Notes that the system did not let a connection be polled.
    pub(super) fn lost(&self, error: &io::Error) {
        let Acceptor { name, metrics, .. } = &self.acceptor;
        metrics.accept_failed(name);
        tracing::error!(listener = &**name, %error, "a connection cannot be polled");
    }
}

/// A connection that has its permit. The drain waits for it from here on.
#[derive(Debug)]
pub(super) struct Admitted<T = Stream> {
    pub(super) stream: T,
    /// `None` over a Unix socket.
    pub(super) peer: Option<SocketAddr>,
    /// Whether its first bytes are to say whose it is.
    pub(super) introduced: bool,
    pub(super) door: Arc<Door>,
    pub(super) open: KeepOpen,
    pub(super) busy: Busy,
}

/// One that no runtime polls, on its way to another worker's.
pub(super) type Handed = Admitted<Unpolled>;

impl Handed {
    /// Has the current runtime poll it.
    pub(super) fn attach(self) -> io::Result<Admitted> {
        self.turned(Unpolled::attach)
    }
}

impl<T> Admitted<T> {
    fn turned<U>(self, turn: impl FnOnce(T) -> io::Result<U>) -> io::Result<Admitted<U>> {
        let Self { stream, peer, introduced, door, open, busy } = self;
        Ok(Admitted { stream: turn(stream)?, peer, introduced, door, open, busy })
    }
}

impl Admitted {
    /// Has the current runtime no longer poll it.
    pub(super) fn detach(self) -> io::Result<Handed> {
        self.turned(Stream::detach)
    }

    /// Serves it in a task of its own on the current runtime.
    pub(super) fn start<S: Answers>(self, service: S) {
        let Self { stream, peer, introduced, door, open, busy } = self;
        let drain = door.drain.clone();
        let downstream = Downstream {
            peer,
            local: door.local.or_else(|| stream.local_addr()),
            over_unix: matches!(stream, Stream::Unix(_)),
            proxy: None,
            listener: door.acceptor.name.clone(),
            address: door.asked.clone(),
            tls: None,
            limits: door.acceptor.serve.head,
            open: Some(open),
            interim: None,
            buffers: Buffers::default(),
            budget: door.acceptor.permits.budget().clone(),
            derived: Derived::default(),
        };
        if introduced {
            tokio::spawn(introduce(busy, stream, door, downstream, service, drain));
        } else {
            begin(busy, Socket::new(stream), door, downstream, service, drain);
        }
    }
}

/// Serves a connection of whose client all is known, in a task of its own.
fn begin<S: Answers>(
    busy: Busy,
    socket: Socket,
    door: Arc<Door>,
    downstream: Downstream,
    service: S,
    drain: drain::Watcher,
) {
    // Two tasks: a plain connection has no room for a handshake.
    if door.acceptor.tls.is_some() {
        tokio::spawn(secure(busy, socket, door, downstream, service, drain));
    } else {
        let settings = door.acceptor.serve.clone();
        let served =
            serve::connection(socket, Speaks::Either, downstream, settings, service, drain);
        tokio::spawn(Held { future: served, busy });
    }
}

/// Has the proxy at the other end say whose connection it is, and begins with that.
async fn introduce<S: Answers>(
    busy: Busy,
    mut stream: Stream,
    door: Arc<Door>,
    mut downstream: Downstream,
    service: S,
    drain: drain::Watcher,
) {
    let Acceptor { name, proxy_protocol: Some(settings), permits, metrics, .. } = &door.acceptor
    else {
        return;
    };
    let read = tokio::select! {
        read = introduced(&mut stream, settings) => read,
        () = drain.cut() => return,
    };
    let (announced, first) = match read {
        Ok(read) => read,
        Err(error) => {
            if let Some(reason) = error.reason() {
                metrics.connection_refused(name, reason);
            }
            tracing::debug!(proxy = ?downstream.peer, %error, "PROXY protocol");
            return;
        }
    };
    // Otherwise the proxy speaks for itself, or for nobody it can name.
    if let Announced::Client(addresses) = announced {
        downstream.proxy = downstream.peer.replace(addresses.source);
        downstream.local = Some(addresses.destination);
    }
    if let Some(client) = downstream.peer_address() {
        match permits.share(client) {
            Ok(share) => {
                let open = (downstream.open.take(), share);
                downstream.open = Some(KeepOpen::new(Arc::new(open)));
            }
            Err(limit) => {
                metrics.connection_refused(name, limit.as_str());
                tracing::debug!(%client, limit = limit.as_str(), "a connection was turned away");
                return;
            }
        }
    }
    begin(busy, Socket::after(first, stream), door, downstream, service, drain);
}

pin_project! {
    /// A future that counts as busy. An `async` block would keep two copies of it.
    struct Held<F> {
        #[pin]
        future: F,
        busy: Busy,
    }
}

impl<F: Future> Future for Held<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.project().future.poll(cx)
    }
}

/// Shakes hands, and serves what the client is to speak.
async fn secure<S: Answers>(
    _busy: Busy,
    socket: Socket,
    door: Arc<Door>,
    mut downstream: Downstream,
    service: S,
    drain: drain::Watcher,
) {
    let Acceptor { name, tls: Some(tls), serve, metrics, .. } = &door.acceptor else { return };
    let shaken = tokio::select! {
        // Boxed, so that the task has no room for it while the connection lasts.
        shaken = Box::pin(tls.accept(socket)) => shaken,
        () = drain.cut() => return,
    };
    match shaken {
        Ok((stream, facts, alpn)) => {
            downstream.tls = Some(facts);
            let speaks = match alpn {
                Alpn::Http2 => Speaks::Http2,
                Alpn::Http1 => Speaks::Http1,
                Alpn::None if serve.http1 => Speaks::Http1,
                // RFC 9113 §3.2: without ALPN it is not HTTP/2.
                Alpn::None => {
                    metrics.handshake_failed(name, "alpn");
                    return;
                }
            };
            let settings = serve.clone();
            serve::connection(stream, speaks, downstream, settings, service, drain).await;
        }
        Err(error) => {
            metrics.handshake_failed(name, error.reason());
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            tracing::debug!(peer = ?downstream.peer, %error, cause, "TLS");
        }
    }
}
