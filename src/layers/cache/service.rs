//! The layer: what is looked up, what is passed by, who asks the origin and who waits.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower::Service;

use super::Route;
use super::answer::Client;
use super::key::Key;
use super::plan::Plan;
use super::policy::Use;
use super::status::Status;
use super::store::{Had, Resource};
use super::wait::Fetching;
use crate::body::Body;
use crate::error::Error;
use crate::layers::Ask;

/// Answers from what is stored, and stores what is answered. See
/// [`CacheLayer`](super::CacheLayer).
#[derive(Clone, Debug)]
pub struct Cached<S> {
    inner: S,
    route: Arc<Route>,
}

impl<S> Cached<S> {
    pub(super) fn new(inner: S, route: Arc<Route>) -> Self {
        Self { inner, route }
    }
}

type Waited = Pin<Box<dyn Future<Output = Result<Response<Body>, Error>> + Send>>;

pin_project! {
    /// The response of [`Cached`] on its way.
    pub struct CacheFuture<S>
    where
        S: Service<Request<Body>>,
    {
        #[pin]
        state: State<Ask<S, Request<Body>>>,
    }
}

pin_project! {
    #[project = Projected]
    enum State<F> {
        Ready { response: Option<Response<Body>> },
        // Passed by. Boxed: routes without a cache have room for this future as well.
        Around { around: Pin<Box<Around<F>>> },
        // Others may be waited for.
        Waits { future: Waited },
    }
}

pin_project! {
    struct Around<F> {
        #[pin]
        future: F,
        route: Arc<Route>,
        status: Status,
        changes: Option<Key>,
    }
}

impl<S> Service<Request<Body>> for Cached<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Error> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Error;
    type Future = CacheFuture<S>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> CacheFuture<S> {
        match self.route.plan(&request) {
            Plan::Around(status) => self.around(request, status, None),
            Plan::Changes(key) => self.around(request, Status::forwarded("method"), Some(key)),
            Plan::Look(key) => self.look(request, key),
        }
    }
}

impl<S> Cached<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Error> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    fn around(
        &mut self,
        request: Request<Body>,
        status: Status,
        changes: Option<Key>,
    ) -> CacheFuture<S> {
        let future = Ask::new(&mut self.inner, request);
        let route = self.route.clone();
        let around = Box::pin(Around { future, route, status, changes });
        CacheFuture { state: State::Around { around } }
    }

    fn ready(response: Response<Body>) -> CacheFuture<S> {
        CacheFuture { state: State::Ready { response: Some(response) } }
    }

    fn look(&mut self, request: Request<Body>, key: Key) -> CacheFuture<S> {
        let route = self.route.clone();
        let (client, said) = (Client::of(&request), route.said(request.headers()));
        let resource = route.cache.memory().get(&key);
        let now = Instant::now();
        let found = resource.as_ref().and_then(|resource| resource.select(request.headers()));
        let reuse = found.map(|stored| stored.head.freshness.s4_reuse(said.as_ref(), now));
        let why = match (found, reuse) {
            (Some(stored), Some(Use::Fresh | Use::Stale)) => {
                return Self::ready(route.hit(&client, stored));
            }
            (Some(stored), Some(Use::StaleWhileRevalidating)) => {
                route.revalidate(self.inner.clone(), &request, &key, stored.into());
                return Self::ready(route.hit(&client, stored));
            }
            (Some(stored), _) if stored.head.freshness.is_fresh(now) => "request",
            (Some(_), _) => "stale",
            (None, _) if resource.as_ref().is_some_and(|known| !known.variants.is_empty()) => {
                "vary-miss"
            }
            (None, _) => "uri-miss",
        };
        let only_if_cached = said.as_ref().is_some_and(|said| said.only_if_cached);
        let on_disk = found.is_none() && route.tier().is_some_and(|tier| tier.may_have(&key));
        if only_if_cached && !on_disk {
            return Self::ready(route.nothing_cached(&request));
        }
        // A part, or a head, is not asked for as a whole: nothing is stored of it.
        let not_whole = client.is_not_whole();
        if not_whole.is_some() && !on_disk {
            let status = Status { detail: not_whole, ..Status::forwarded(why) };
            return self.around(request, status, None);
        }
        let stale = found.map(Had::from);
        let passes = resource.as_deref().and_then(|known: &Resource| known.passes(now));
        let by_itself = not_whole.is_some() || only_if_cached || passes.is_some();
        let fetching = Fetching { route, key, client, stale, why, said, on_disk };
        let service = self.inner.clone();
        let future: Waited = if by_itself {
            Box::pin(fetching.alone(service, request))
        } else {
            Box::pin(fetching.with_others(service, request))
        };
        CacheFuture { state: State::Waits { future } }
    }
}

impl<S> Future for CacheFuture<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Error>,
{
    type Output = Result<Response<Body>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            Projected::Ready { response } => match response.take() {
                Some(response) => Poll::Ready(Ok(response)),
                None => Poll::Pending,
            },
            Projected::Waits { future } => future.as_mut().poll(cx),
            Projected::Around { around } => {
                let mut around = around.as_mut().project();
                let mut response = ready!(around.future.as_mut().poll(cx))?;
                let (route, status, changes) = (around.route, around.status, around.changes);
                if let Some(key) = changes {
                    route.changed(key, &response);
                }
                route.passed_by(&mut response, *status);
                Poll::Ready(Ok(response))
            }
        }
    }
}

impl<S> std::fmt::Debug for CacheFuture<S>
where
    S: Service<Request<Body>>,
{
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CacheFuture")
    }
}
