//! Bounds the exchanges under way, counted to the end of their bodies.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use super::ShortCircuit;
use crate::body::{Body, Hold};
use crate::context::{Exchange, Permit};
use crate::error::{Error, Kind};
use crate::respond::{Answer, Format};

/// Puts [`InFlight`] before a service; all that come from one layer count
/// together.
#[derive(Clone, Debug)]
pub struct InFlightLayer {
    count: Arc<AtomicUsize>,
    max: usize,
}

/// Answers 503 when too many exchanges are under way.
#[derive(Clone, Debug)]
pub struct InFlight<S> {
    inner: S,
    count: Arc<AtomicUsize>,
    max: usize,
}

impl InFlightLayer {
    /// Lets `max` exchanges through at once.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { count: Arc::default(), max }
    }
}

impl<S> Layer<S> for InFlightLayer {
    type Service = InFlight<S>;

    fn layer(&self, inner: S) -> InFlight<S> {
        InFlight { inner, count: self.count.clone(), max: self.max }
    }
}

impl<S, B> Service<Request<B>> for InFlight<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = ShortCircuit<Holding<S::Future>, Body>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let exchange = request.extensions().get::<Exchange>();
        let Some(permit) = Permit::acquire(&self.count, self.max) else {
            let answer = Answer::for_error(&Error::new(Kind::Overloaded));
            if let Some(exchange) = exchange {
                exchange.update(|record| record.rejection = Some(answer.code()));
            }
            return ShortCircuit::rejected(answer.render(Format::preferred(request.headers())));
        };
        // An exchange lasts to the end of the body, or of the tunnel; without one
        // the body keeps the permit.
        let permit = match exchange {
            Some(exchange) => exchange.hold(permit).err(),
            None => Some(permit),
        };
        ShortCircuit::forwarded(Holding { inner: self.inner.call(request), permit })
    }
}

pin_project! {
    /// The response of an exchange that was let through, on its way.
    #[derive(Debug)]
    pub struct Holding<F> {
        #[pin]
        inner: F,
        permit: Option<Permit>,
    }
}

impl<F, E> Future for Holding<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx))?;
        Poll::Ready(Ok(match this.permit.take() {
            Some(permit) => response.map(|body| body.with_guard(Hold(permit))),
            None => response,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use tower::ServiceExt;

    #[tokio::test]
    async fn an_exchange_counts_until_its_body_is_gone() {
        let service = InFlightLayer::new(1).layer(tower::service_fn(|_: Request<()>| async {
            Ok::<_, Infallible>(Response::new(Body::from("x")))
        }));
        let ask = || service.clone().oneshot(Request::new(()));
        let first = ask().await.unwrap();
        assert_eq!(first.status(), 200);
        let second = ask().await.unwrap();
        assert_eq!(second.status(), 503);
        assert!(second.headers().contains_key("retry-after"));
        drop((first, second));
        assert_eq!(ask().await.unwrap().status(), 200);
    }
}
