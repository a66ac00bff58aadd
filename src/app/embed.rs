//! The proxy as a tower service inside another application.

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use axum::extract::ConnectInfo;
use bytes::Bytes;
use http::{Request, Response};
use pin_project_lite::pin_project;
use tokio_util::task::AbortOnDropHandle;
use tower::Service;

use super::compose::Gateway;
use crate::body::Body;
use crate::context::Downstream;
use crate::error::BoxError;
use crate::upstream::Upstream;

/// The whole request path as one [`tower::Service`].
///
/// It works as axum's `fallback_service` and `nest_service`, under any tower
/// layer, on the host's runtime. It never fails: what goes wrong is answered.
/// The client's address is taken from axum's [`ConnectInfo`], so serve the
/// application with `into_make_service_with_connect_info::<SocketAddr>()`;
/// without it a rate limit by address has nothing to go by.
///
/// Cheap to clone. Health checks and the resolution of names start with the first
/// request at the latest, on the runtime that it is served by, and end when the
/// last clone is dropped.
#[derive(Clone)]
pub struct ProxyService {
    gateway: Gateway,
    keepers: Arc<Keepers>,
}

/// The background work of a proxy's upstreams, for as long as it is held.
#[derive(Debug)]
pub(super) struct Keepers {
    upstreams: Vec<Arc<Upstream>>,
    /// Whether connections are made ahead.
    warm: bool,
    tasks: OnceLock<Vec<AbortOnDropHandle<()>>>,
}

impl Keepers {
    pub(super) fn new(upstreams: Vec<Arc<Upstream>>, warm: bool) -> Self {
        Self { upstreams, warm, tasks: OnceLock::new() }
    }

    /// Starts the work, if it has not started and there is a runtime to run it.
    pub(super) fn start(&self) {
        if self.tasks.get().is_some() {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        self.tasks.get_or_init(|| {
            let keep = |upstream: &Arc<Upstream>| {
                if self.warm {
                    runtime.spawn(upstream.clone().warm());
                }
                AbortOnDropHandle::new(runtime.spawn(upstream.clone().keep()))
            };
            self.upstreams.iter().map(keep).collect()
        });
    }
}

impl ProxyService {
    pub(super) fn new(gateway: Gateway, upstreams: Vec<Arc<Upstream>>) -> Self {
        let keepers = Arc::new(Keepers::new(upstreams, true));
        keepers.start();
        Self { gateway, keepers }
    }
}

impl<B> Service<Request<B>> for ProxyService
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = ProxyFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request<Body>>::poll_ready(&mut self.gateway, cx)
    }

    fn call(&mut self, request: Request<B>) -> ProxyFuture {
        self.keepers.start();
        let mut request = request.map(Body::new);
        let extensions = request.extensions_mut();
        if extensions.get::<Arc<Downstream>>().is_none() {
            let peer = extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| *peer);
            extensions.insert(Arc::new(Downstream { peer, ..Downstream::default() }));
        }
        ProxyFuture { inner: self.gateway.call(request), keepers: self.keepers.clone() }
    }
}

pin_project! {
    /// The response of a [`ProxyService`] on its way.
    pub struct ProxyFuture {
        #[pin]
        inner: <Gateway as Service<Request<Body>>>::Future,
        // A request of a service that is gone may still wait for a name.
        keepers: Arc<Keepers>,
    }
}

impl Future for ProxyFuture {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().inner.poll(cx)
    }
}

impl fmt::Debug for ProxyService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyService").field("keepers", &self.keepers).finish_non_exhaustive()
    }
}

impl fmt::Debug for ProxyFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProxyFuture")
    }
}
