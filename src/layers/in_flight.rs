//! Bounds the exchanges under way, and the memory they may come to need, both to
//! the end of their bodies.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use tower::{Layer, Service};

use super::{Holding, ShortCircuit};
use crate::body::Body;
use crate::budget::{Budget, Use};
use crate::context::{Buffers, Exchange, Permit};
use crate::error::{Error, Kind};
use crate::respond::{Answer, Format};

/// Puts [`InFlight`] before a service; all that come from one layer count
/// together.
#[derive(Clone, Debug)]
pub struct InFlightLayer {
    count: Arc<AtomicUsize>,
    max: usize,
    budget: Budget,
}

/// Answers 503 when too many exchanges are under way, or there is no memory for
/// one more.
#[derive(Clone, Debug)]
pub struct InFlight<S> {
    inner: S,
    limits: InFlightLayer,
}

/// What every exchange needs: both heads, what the layers keep of it, and what is
/// read ahead where its connection has no buffers of its own for that.
const EXCHANGE: usize = 32 * 1024;

impl InFlightLayer {
    /// Lets `max` exchanges through at once.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { count: Arc::default(), max, budget: Budget::unlimited() }
    }

    /// The same count, up to another number.
    #[must_use]
    pub fn up_to(&self, max: usize) -> Self {
        Self { max, ..self.clone() }
    }

    /// Takes the memory for exchanges from `budget`.
    #[must_use]
    pub fn within(self, budget: Budget) -> Self {
        Self { budget, ..self }
    }

    /// A permit for one more exchange, or why there is none.
    fn admit<B: http_body::Body>(
        &self,
        request: &Request<B>,
        exchange: Option<&Exchange>,
    ) -> Result<Permit, Answer> {
        let overloaded = || Answer::for_error(&Error::new(Kind::Overloaded));
        let permit = Permit::acquire(&self.count, self.max).ok_or_else(overloaded)?;
        let Buffers { request: body, response } =
            exchange.map_or_else(Buffers::default, |exchange| exchange.downstream().buffers);
        let body = if request.body().is_end_stream() { 0 } else { body };
        let charge = self.budget.charge(EXCHANGE + body + response, Use::Exchange);
        charge.map(|charge| permit.charged(charge)).ok_or_else(no_memory)
    }
}

impl<S> Layer<S> for InFlightLayer {
    type Service = InFlight<S>;

    fn layer(&self, inner: S) -> InFlight<S> {
        InFlight { inner, limits: self.clone() }
    }
}

impl<S, B> Service<Request<B>> for InFlight<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    B: http_body::Body,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = ShortCircuit<Holding<S::Future, Permit>, Body>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let exchange = request.extensions().get::<Exchange>();
        let permit = match self.limits.admit(&request, exchange) {
            Ok(permit) => permit,
            Err(answer) => {
                if let Some(exchange) = exchange {
                    exchange.update(|record| record.rejection = Some(answer.code()));
                }
                return ShortCircuit::rejected(answer.render(Format::preferred(request.headers())));
            }
        };
        // An exchange lasts to the end of the body, or of the tunnel; without one
        // the body keeps the permit.
        let permit = match exchange {
            Some(exchange) => exchange.hold(permit).err(),
            None => Some(permit),
        };
        ShortCircuit::forwarded(Holding::new(self.inner.call(request), permit))
    }
}

fn no_memory() -> Answer {
    let detail = "The service has no memory left for this request.";
    Answer::new(StatusCode::SERVICE_UNAVAILABLE, "memory", detail)
        .proxy_error("connection_limit_reached")
        .retry_after(Duration::from_secs(5))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use tower::ServiceExt;

    #[tokio::test]
    async fn an_exchange_counts_until_its_body_is_gone() {
        let service = InFlightLayer::new(1).layer(tower::service_fn(|_: Request<Body>| async {
            Ok::<_, Infallible>(Response::new(Body::from("x")))
        }));
        let ask = || service.clone().oneshot(Request::new(Body::empty()));
        let first = ask().await.unwrap();
        assert_eq!(first.status(), 200);
        let second = ask().await.unwrap();
        assert_eq!(second.status(), 503);
        assert!(second.headers().contains_key("retry-after"));
        drop((first, second));
        assert_eq!(ask().await.unwrap().status(), 200);
    }

    #[tokio::test]
    async fn an_exchange_is_charged_until_its_body_is_gone() {
        let budget = Budget::new(2 * EXCHANGE);
        let service = InFlightLayer::new(9).within(budget.clone()).layer(tower::service_fn(
            |_: Request<Body>| async { Ok::<_, Infallible>(Response::new(Body::from("x"))) },
        ));
        let ask = || service.clone().oneshot(Request::new(Body::empty()));
        let first = ask().await.unwrap();
        assert_eq!((first.status().as_u16(), budget.charged()), (200, EXCHANGE));
        let second = ask().await.unwrap();
        assert_eq!(second.status(), 503);
        assert!(second.headers().contains_key("retry-after"));
        assert_eq!(service.limits.count.load(std::sync::atomic::Ordering::Relaxed), 1);
        drop((first, second));
        assert_eq!(budget.charged(), 0);
        assert_eq!(ask().await.unwrap().status(), 200);
    }
}
