//! Bounds how many exchanges of one client, or of whatever else one counts by, are under
//! way at once.

mod slots;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use tower::{Layer, Service};

use super::rate_limit::{Asker, LimitKey};
use super::{Holding, ShortCircuit};
use crate::body::Body;
use crate::context::Guard;
use crate::respond::{Answer, Format};
use slots::Slots;

/// How many exchanges may be under way at once.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConcurrencySettings {
    /// So many of each key.
    pub max: NonZeroU32,
    /// What is counted by. Default: the client's address.
    pub key: LimitKey,
}

/// Puts [`Concurrency`] before a service; all that come from one layer count together.
///
/// ```
/// use std::num::NonZeroU32;
///
/// use http::{Request, Response};
/// use tollgate::body::Body;
/// use tollgate::layers::{ConcurrencyLayer, ConcurrencySettings, LimitKey};
/// use tower::{ServiceBuilder, service_fn};
///
/// let ten = NonZeroU32::new(10).unwrap();
/// let settings = ConcurrencySettings { max: ten, key: LimitKey::default() };
/// let service = ServiceBuilder::new()
///     .layer(ConcurrencyLayer::new(&settings))
///     .service(service_fn(|_: Request<Body>| async {
///         Ok::<_, std::convert::Infallible>(Response::new(Body::from("ok")))
///     }));
/// ```
#[derive(Clone, Debug)]
pub struct ConcurrencyLayer {
    settings: ConcurrencySettings,
    slots: Arc<Slots>,
}

/// Answers 429 when a key has as many exchanges under way as it may; where all requests
/// count together it is 503, for then it is not the client that asks for too much.
///
/// An exchange is under way until the last byte of its response is sent, or its tunnel has
/// ended. A request that there is nothing to count by, because its address is unknown, is
/// let through.
#[derive(Clone, Debug)]
pub struct Concurrency<S> {
    inner: S,
    limit: ConcurrencyLayer,
}

impl ConcurrencyLayer {
    /// Bounds as told.
    #[must_use]
    pub fn new(settings: &ConcurrencySettings) -> Self {
        Self { settings: settings.clone(), slots: Arc::new(Slots::new()) }
    }

    /// A layer that takes the place of this one, with other settings: what is under way
    /// counts on, unless the key is another.
    #[must_use]
    pub fn renewed(&self, settings: &ConcurrencySettings) -> Self {
        if settings.key == self.settings.key {
            Self { settings: settings.clone(), slots: self.slots.clone() }
        } else {
            Self::new(settings)
        }
    }

    /// How many keys have exchanges under way at the moment.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.slots.keys()
    }

    fn answer(&self) -> Answer {
        let answer = if self.settings.key.is_route() {
            let detail = "The service is carrying as much of this as it can.";
            Answer::new(StatusCode::SERVICE_UNAVAILABLE, "concurrency", detail)
                .proxy_error("connection_limit_reached")
        } else {
            let detail = "Too many requests at once; wait for some of them to end.";
            Answer::new(StatusCode::TOO_MANY_REQUESTS, "concurrency", detail)
        };
        answer.retry_after(Duration::from_secs(1))
    }
}

impl<S> Layer<S> for ConcurrencyLayer {
    type Service = Concurrency<S>;

    fn layer(&self, inner: S) -> Concurrency<S> {
        Concurrency { inner, limit: self.clone() }
    }
}

impl<S, B> Service<Request<B>> for Concurrency<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = ShortCircuit<Holding<S::Future, Guard>, Body>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let ConcurrencyLayer { settings: ConcurrencySettings { max, key }, slots } = &self.limit;
        let asker = Asker::of(&request);
        let slot = match key.number(&asker, slots.random()) {
            None => None,
            Some(number) => match slots.take(number, *max) {
                Some(slot) => Some(Box::new(slot) as Guard),
                None => {
                    let answer = self.limit.answer();
                    if let Some(exchange) = asker.exchange() {
                        exchange.update(|record| record.rejection = Some(answer.code()));
                    }
                    let format = Format::preferred(request.headers());
                    return ShortCircuit::rejected(answer.render(format));
                }
            },
        };
        // An exchange lasts to the end of the body, or of the tunnel; without one the body
        // keeps the slot.
        let slot = match (asker.exchange(), slot) {
            (Some(exchange), Some(slot)) => exchange.keep(slot).err(),
            (_, slot) => slot,
        };
        ShortCircuit::forwarded(Holding::new(self.inner.call(request), slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::{Downstream, Exchange, RequestLine};
    use crate::layers::LimitKeyPart;
    use std::convert::Infallible;
    use tower::ServiceExt;

    fn layer(max: u32, key: LimitKey) -> ConcurrencyLayer {
        ConcurrencyLayer::new(&ConcurrencySettings { max: NonZeroU32::new(max).unwrap(), key })
    }

    async fn ask(layer: &ConcurrencyLayer, peer: &str) -> Response<Body> {
        let service = layer.layer(tower::service_fn(|_: Request<()>| async {
            Ok::<_, Infallible>(Response::new(Body::from("x")))
        }));
        let mut request = Request::new(());
        let peer = peer.parse().ok();
        request.extensions_mut().insert(Arc::new(Downstream { peer, ..Downstream::default() }));
        service.oneshot(request).await.unwrap()
    }

    #[tokio::test]
    async fn a_client_has_so_many_under_way_until_their_bodies_are_gone() {
        let layer = layer(2, LimitKey::default());
        let first = ask(&layer, "192.0.2.1:1").await;
        let second = ask(&layer, "192.0.2.1:2").await;
        let third = ask(&layer, "192.0.2.1:3").await;
        assert_eq!(third.status(), 429);
        assert_eq!(third.headers()["retry-after"], "1");
        assert_eq!(ask(&layer, "192.0.2.2:1").await.status(), 200);
        drop((first, second));
        assert_eq!(ask(&layer, "192.0.2.1:4").await.status(), 200);
        assert_eq!(layer.keys(), 0);
    }

    #[tokio::test]
    async fn a_route_that_is_full_is_unavailable() {
        let layer = layer(1, LimitKeyPart::Route.into());
        let _first = ask(&layer, "192.0.2.1:1").await;
        assert_eq!(ask(&layer, "192.0.2.2:1").await.status(), 503);
        assert_eq!(ask(&layer, "").await.status(), 503);
    }

    #[tokio::test]
    async fn who_has_no_address_is_let_through() {
        let layer = layer(1, LimitKey::default());
        let _first = ask(&layer, "").await;
        assert_eq!(ask(&layer, "").await.status(), 200);
    }

    #[tokio::test]
    async fn an_exchange_keeps_its_slot_to_its_end() {
        let layer = layer(1, LimitKey::default());
        let service = layer.layer(tower::service_fn(|_: Request<()>| async {
            Ok::<_, Infallible>(Response::new(Body::empty()))
        }));
        let peer = Some("192.0.2.1:1".parse().unwrap());
        let downstream = Arc::new(Downstream { peer, ..Downstream::default() });
        let line = RequestLine {
            method: http::Method::GET,
            uri: "/".parse().unwrap(),
            version: http::Version::HTTP_11,
            host: None,
            user_agent: None,
            referer: None,
            accept: None,
            content_type: None,
            fields: 0,
        };
        let exchange = Exchange::open(downstream, line, None);
        let mut request = Request::new(());
        request.extensions_mut().insert(exchange.clone());
        drop(service.oneshot(request).await.unwrap());
        assert_eq!(ask(&layer, "192.0.2.1:2").await.status(), 429);
        drop(exchange);
        assert_eq!(ask(&layer, "192.0.2.1:3").await.status(), 200);
    }

    #[tokio::test]
    async fn a_successor_counts_on_unless_the_key_is_another() {
        let layer = layer(1, LimitKey::default());
        let _first = ask(&layer, "192.0.2.1:1").await;
        let two = NonZeroU32::new(2).unwrap();
        let wider = ConcurrencySettings { max: two, key: LimitKey::default() };
        let wider = layer.renewed(&wider);
        let _second = ask(&wider, "192.0.2.1:2").await;
        assert_eq!(ask(&wider, "192.0.2.1:3").await.status(), 429);
        let other = ConcurrencySettings { max: two, key: LimitKeyPart::Route.into() };
        assert_eq!(layer.renewed(&other).keys(), 0);
    }
}
