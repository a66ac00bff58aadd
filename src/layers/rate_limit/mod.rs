//! How often one client address may ask.

mod local;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use ipnet::IpNet;
use tower::{Layer, Service};

use crate::context::{Downstream, Exchange};
use crate::layers::{RateLimitSettings, ShortCircuit};
use crate::respond::{Answer, Format};
use local::Limiter;

/// Puts [`RateLimit`] before a service; all that come from one layer count
/// together.
#[derive(Clone, Debug)]
pub struct RateLimitLayer {
    shared: Arc<Shared>,
}

/// Answers 429 with `Retry-After` when a client address asks too often.
///
/// The address is that of the exchange, so a client behind a trusted proxy is
/// counted for itself; an IPv6 client is its /64. A request whose address is
/// unknown is let through: there is nothing to count it by, and one bucket for
/// all such clients would let any of them shut out the others.
#[derive(Clone, Debug)]
pub struct RateLimit<S> {
    inner: S,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    limiter: Limiter,
    exempt: Vec<IpNet>,
    warned: AtomicBool,
}

impl RateLimitLayer {
    /// Limits as told.
    #[must_use]
    pub fn new(settings: &RateLimitSettings) -> Self {
        Self {
            shared: Arc::new(Shared {
                limiter: Limiter::new(settings),
                exempt: settings.exempt.clone(),
                warned: AtomicBool::new(false),
            }),
        }
    }
}

impl RateLimitLayer {
    /// How many clients are remembered at the moment.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.shared.limiter.clients()
    }
}

impl<S> Layer<S> for RateLimitLayer {
    type Service = RateLimit<S>;

    fn layer(&self, inner: S) -> RateLimit<S> {
        RateLimit { inner, shared: self.shared.clone() }
    }
}

impl<S, B, ResB> Service<Request<B>> for RateLimit<S>
where
    S: Service<Request<B>, Response = Response<ResB>>,
    ResB: From<Bytes>,
{
    type Response = Response<ResB>;
    type Error = S::Error;
    type Future = ShortCircuit<S::Future, ResB>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let exchange = request.extensions().get::<Exchange>();
        match self.shared.check(address(&request, exchange)) {
            Ok(()) => ShortCircuit::forwarded(self.inner.call(request)),
            Err(wait) => {
                if let Some(exchange) = exchange {
                    exchange.update(|record| record.rejection = Some("rate_limited"));
                }
                let detail = "Too many requests; slow down.";
                let answer = Answer::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", detail)
                    .retry_after(wait);
                ShortCircuit::rejected(answer.render(Format::preferred(request.headers())))
            }
        }
    }
}

impl Shared {
    fn check(&self, client: Option<IpAddr>) -> Result<(), Duration> {
        let Some(client) = client else {
            if !self.warned.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    "a request without a client address is not rate-limited; an embedded proxy \
                     needs `into_make_service_with_connect_info::<SocketAddr>()`, a Unix socket \
                     a proxy that says whose requests it passes on"
                );
            }
            return Ok(());
        };
        if self.exempt.iter().any(|network| network.contains(&client)) {
            return Ok(());
        }
        self.limiter.check(client)
    }
}

fn address<B>(request: &Request<B>, exchange: Option<&Exchange>) -> Option<IpAddr> {
    match exchange {
        Some(exchange) => exchange.client(),
        None => request.extensions().get::<Arc<Downstream>>()?.peer_address(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::Body;
    use std::convert::Infallible;
    use std::num::NonZeroU32;
    use tower::ServiceExt;

    fn limited(burst: u32) -> RateLimitSettings {
        RateLimitSettings {
            rate: NonZeroU32::MIN,
            per: Duration::from_secs(60),
            burst: NonZeroU32::new(burst).unwrap(),
            exempt: vec!["198.51.100.0/24".parse().unwrap()],
        }
    }

    async fn ask(layer: &RateLimitLayer, peer: Option<&str>) -> Response<Body> {
        let service = layer.layer(tower::service_fn(|_: Request<()>| async {
            Ok::<_, Infallible>(Response::new(Body::empty()))
        }));
        let mut request = Request::new(());
        let peer = peer.map(|peer| peer.parse().unwrap());
        request.extensions_mut().insert(Arc::new(Downstream { peer, ..Downstream::default() }));
        service.oneshot(request).await.unwrap()
    }

    #[tokio::test]
    async fn defect_1_the_port_is_no_part_of_the_key() {
        let layer = RateLimitLayer::new(&limited(1));
        assert_eq!(ask(&layer, Some("192.0.2.1:1000")).await.status(), 200);
        assert_eq!(ask(&layer, Some("192.0.2.1:2000")).await.status(), 429);
        assert_eq!(ask(&layer, Some("192.0.2.2:1000")).await.status(), 200);
    }

    #[tokio::test]
    async fn defect_5_a_429_says_when_to_come_again() {
        let layer = RateLimitLayer::new(&limited(1));
        ask(&layer, Some("192.0.2.1:1")).await;
        let response = ask(&layer, Some("192.0.2.1:1")).await;
        let wait: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((59..=60).contains(&wait), "{wait}");
    }

    #[tokio::test]
    async fn defect_7_clients_without_an_address_share_no_bucket() {
        let layer = RateLimitLayer::new(&limited(1));
        for _ in 0..5 {
            assert_eq!(ask(&layer, None).await.status(), 200);
        }
    }

    #[tokio::test]
    async fn exempt_networks_are_not_counted() {
        let layer = RateLimitLayer::new(&limited(1));
        for _ in 0..5 {
            assert_eq!(ask(&layer, Some("198.51.100.7:1")).await.status(), 200);
        }
    }
}
