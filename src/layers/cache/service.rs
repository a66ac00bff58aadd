//! The layer: what is looked up, what is passed by, who asks the origin and who waits.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::{Method, Request, Response};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower::Service;

use super::Route;
use super::answer::Client;
use super::fetch::{Fetch, Heading, copy_of};
use super::flight::Joined;
use super::key::Key;
use super::plan::{Plan, asks_on_conditions};
use super::policy::Use;
use super::status::Status;
use super::store::{Resource, Stored};
use super::wait::Fetching;
use crate::body::Body;
use crate::context::Exchange;
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
        after: After,
        exchange: Option<Exchange>,
    }
}

/// What is done to what is stored once a request that was passed by is answered.
enum After {
    Nothing,
    /// It may have changed what it names.
    Changed(Key),
    /// It tells of what is stored.
    Heading(Heading),
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
            Plan::Around(status) => self.around(request, status, After::Nothing),
            Plan::Changes(key) => {
                self.around(request, Status::forwarded("method"), After::Changed(key))
            }
            Plan::Look(key) => self.look(request, key),
        }
    }
}

impl<S> Cached<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Error> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    fn around(&mut self, request: Request<Body>, status: Status, after: After) -> CacheFuture<S> {
        let exchange = request.extensions().get::<Exchange>().cloned();
        forwards(exchange.as_ref(), status.forwarded);
        let future = Ask::new(&mut self.inner, request);
        let route = self.route.clone();
        let around = Box::pin(Around { future, route, status, after, exchange });
        CacheFuture { state: State::Around { around } }
    }

    fn ready(response: Response<Body>) -> CacheFuture<S> {
        CacheFuture { state: State::Ready { response: Some(response) } }
    }

    fn look(&mut self, request: Request<Body>, key: Key) -> CacheFuture<S> {
        let route = self.route.clone();
        let (client, said) = (Client::of(&request), route.said(request.headers()));
        let resource = route.cache.memory().get(&key);
        let exchange = request.extensions().get::<Exchange>();
        let now = Instant::now();
        let found = resource.as_ref().and_then(|resource| resource.select(request.headers()));
        let reuse = found.map(|stored| stored.head.freshness.s4_reuse(said.as_ref(), now));
        let why = match (found, reuse) {
            (Some(stored), Some(Use::Fresh | Use::Stale)) => {
                return Self::ready(route.hit(&client, stored, exchange));
            }
            (Some(stored), Some(Use::StaleWhileRevalidating)) => {
                self.revalidate(&request, &key, stored);
                return Self::ready(route.hit(&client, stored, exchange));
            }
            (Some(stored), _) if stored.head.freshness.is_fresh(now) => "request",
            (Some(_), _) => "stale",
            (None, _) if resource.as_ref().is_some_and(|known| !known.variants.is_empty()) => {
                "vary-miss"
            }
            (None, _) => "uri-miss",
        };
        if said.as_ref().is_some_and(|said| said.only_if_cached) {
            return Self::ready(route.nothing_cached(&request));
        }
        let stale = found.cloned();
        // It is not asked for as a whole: nothing is stored of it.
        let detail = if client.is_head() {
            Some("head")
        } else if client.is_ranged() {
            Some("range")
        } else {
            asks_on_conditions(request.headers()).then_some("condition")
        };
        if detail.is_some() {
            let after = match stale {
                Some(stale) if client.is_head() => {
                    let (asked, epoch) = (route.asked(&request), route.cache.memory().epoch(&key));
                    After::Heading(Heading { key, asked, stale, epoch, began: now })
                }
                _ => After::Nothing,
            };
            return self.around(request, Status { detail, ..Status::forwarded(why) }, after);
        }
        let exchange = exchange.cloned();
        forwards(exchange.as_ref(), Some(why));
        let passes = resource.as_deref().and_then(|known: &Resource| known.passes(now));
        let fetching = Fetching { route, key, client, stale, why, said, exchange };
        let service = self.inner.clone();
        let future: Waited = match passes {
            Some(_) => Box::pin(fetching.alone(service, request)),
            None => Box::pin(fetching.with_others(service, request)),
        };
        CacheFuture { state: State::Waits { future } }
    }

    /// Has a response validated that is used meanwhile, unless somebody does already.
    fn revalidate(&self, request: &Request<Body>, key: &Key, stale: &Stored) {
        let cache = &self.route.cache;
        let epoch = cache.memory().epoch(key);
        let Joined::Leader(lead, waiting) = cache.shared().flights.join(key, epoch) else { return };
        let mut request = copy_of(request);
        *request.method_mut() = Method::GET;
        self.route.make_nobodys(request.headers_mut(), stale);
        let asked = self.route.asked(&request);
        // It is nobody's exchange: it ends when it ends.
        request.extensions_mut().remove::<Exchange>();
        let fetch = Fetch {
            route: self.route.clone(),
            key: key.clone(),
            asked,
            stale: Some(stale.clone()),
            why: "stale",
            as_is: false,
            lead: Some(lead),
        };
        let service = self.inner.clone();
        tokio::spawn(async move {
            let _waiting = waiting;
            if let Err(error) = fetch.run(service, request).await {
                tracing::debug!(error = error.chain(), "a stored response was not revalidated");
            }
        });
    }
}

/// Says that the origin is asked, in case it cannot be.
fn forwards(exchange: Option<&Exchange>, why: Option<&'static str>) {
    if let Some(exchange) = exchange {
        exchange.update(|record| record.cache_forwarded = why);
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
                let answered = ready!(around.future.as_mut().poll(cx));
                let (route, status) = (around.route, around.status);
                route.tell(around.exchange.as_ref(), status.outcome());
                let mut response = answered?;
                match around.after {
                    After::Nothing => {}
                    After::Changed(key) => route.changed(key, &response),
                    After::Heading(heading) => heading.answered(route, &response),
                }
                if !response.status().is_informational() {
                    let answered = Some(response.status().as_u16());
                    Status { answered, ..*status }.write(response.headers_mut());
                }
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
