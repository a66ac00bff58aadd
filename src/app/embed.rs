//! The proxy as a tower service inside another application.

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::extract::ConnectInfo;
use bytes::Bytes;
use http::{Request, Response};
use parking_lot::Mutex;
use pin_project_lite::pin_project;
use tower::Service;

use super::compose::Gateway;
use super::generation::Generation;
use super::keepers::Keepers;
use super::live::Live;
use super::{BuildError, Common};
use crate::body::Body;
use crate::config::Settings;
use crate::context::Downstream;
use crate::error::BoxError;

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
    live: Live,
    inner: Arc<Inner>,
}

/// What all clones share.
#[derive(Debug)]
struct Inner {
    keepers: Keepers,
    common: Common,
    /// Held while one configuration takes the place of another.
    in_force: Mutex<Generation>,
}

impl ProxyService {
    pub(super) fn new(first: Generation, common: Common) -> Self {
        let live = Live::new(first.gateway.clone());
        let keepers = Keepers::new(first.upstreams.values().cloned(), true).beside(common.beside());
        keepers.start();
        let inner = Inner { keepers, common, in_force: Mutex::new(first) };
        Self { live, inner: Arc::new(inner) }
    }

    /// Has every request from now on treated as `settings` say. Pools, health and
    /// counts of whatever stays the same go on; what is under way ends as it began.
    /// Listeners and what concerns the whole process (`workers`, the memory budget)
    /// are not looked at. Reads certificates and, if there is one, opens the access
    /// log: not for a thread that serves requests.
    ///
    /// # Errors
    ///
    /// Every problem found; then everything stays as it was.
    pub fn reload(&self, settings: Settings) -> Result<(), BuildError> {
        let mut in_force = self.inner.in_force.lock();
        let new = Generation::build(settings, &self.inner.common, Some(&*in_force))?;
        self.inner.common.log_in_as(&new.settings);
        self.live.swap(new.gateway.clone());
        new.succeed(&in_force, &self.inner.keepers, &self.inner.common.metrics);
        *in_force = new;
        Ok(())
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
        Service::<Request<Body>>::poll_ready(&mut self.live, cx)
    }

    fn call(&mut self, request: Request<B>) -> ProxyFuture {
        self.inner.keepers.start();
        let mut request = request.map(Body::new);
        let extensions = request.extensions_mut();
        if extensions.get::<Arc<Downstream>>().is_none() {
            let peer = extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| *peer);
            extensions.insert(Arc::new(Downstream { peer, ..Downstream::default() }));
        }
        ProxyFuture { inner: self.live.call(request), kept: self.inner.clone() }
    }
}

pin_project! {
    /// The response of a [`ProxyService`] on its way.
    pub struct ProxyFuture {
        #[pin]
        inner: <Gateway as Service<Request<Body>>>::Future,
        // A request of a service that is gone may still wait for a name.
        kept: Arc<Inner>,
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
        f.debug_struct("ProxyService").field("live", &self.live).finish_non_exhaustive()
    }
}

impl fmt::Debug for ProxyFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProxyFuture")
    }
}
