//! How often one client address may ask.

mod local;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use tower::{Layer, Service};

use crate::context::{Downstream, Exchange};
use crate::layers::{RateLimitSettings, ShortCircuit};
use crate::observe::DryRunCount;
use crate::respond::{Answer, Format};
use local::Limiter;
pub(super) use local::governor_quota;

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
///
/// On a dry run what would be refused is let through, and counted.
#[derive(Clone, Debug)]
pub struct RateLimit<S> {
    inner: S,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    settings: RateLimitSettings,
    /// Outlives this layer where another takes its place with the same rate.
    limiter: Arc<Limiter>,
    dry_run: AtomicBool,
    would_refuse: DryRunCount,
    warned: AtomicBool,
}

impl RateLimitLayer {
    /// Limits as told.
    #[must_use]
    pub fn new(settings: &RateLimitSettings) -> Self {
        let limiter = Arc::new(Limiter::new(settings));
        Self::with(settings, limiter, settings.dry_run, DryRunCount::default())
    }

    /// Counts here what a dry run would refuse.
    #[must_use]
    pub fn counting(self, would_refuse: DryRunCount) -> Self {
        let Shared { settings, limiter, .. } = &*self.shared;
        Self::with(settings, limiter.clone(), self.is_dry_run(), would_refuse)
    }

    /// A layer that takes the place of this one, with other settings. Clients are
    /// remembered unless the rate is another. Whether it is on a dry run stays as it was
    /// set, unless the settings say something else than they did. This one is not
    /// changed by it.
    #[must_use]
    pub fn renewed(&self, settings: &RateLimitSettings) -> Self {
        let Shared { settings: old, limiter, would_refuse, .. } = &*self.shared;
        let quota = |of: &RateLimitSettings| (of.rate, of.per, of.burst);
        let limiter = if quota(old) == quota(settings) {
            limiter.clone()
        } else {
            Arc::new(Limiter::new(settings))
        };
        let said = old.dry_run != settings.dry_run;
        let dry_run = if said { settings.dry_run } else { self.is_dry_run() };
        Self::with(settings, limiter, dry_run, would_refuse.clone())
    }

    fn with(
        settings: &RateLimitSettings,
        limiter: Arc<Limiter>,
        dry_run: bool,
        would_refuse: DryRunCount,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                settings: settings.clone(),
                limiter,
                dry_run: AtomicBool::new(dry_run),
                would_refuse,
                warned: AtomicBool::new(false),
            }),
        }
    }

    /// From now on lets through what it would refuse (`true`), or refuses it.
    pub fn set_dry_run(&self, dry_run: bool) {
        self.shared.dry_run.store(dry_run, Ordering::Relaxed);
    }

    /// Whether it lets through what it would refuse.
    #[must_use]
    pub fn is_dry_run(&self) -> bool {
        self.shared.dry_run.load(Ordering::Relaxed)
    }

    /// What it was told.
    #[must_use]
    pub fn settings(&self) -> &RateLimitSettings {
        &self.shared.settings
    }

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
        if self.settings.exempt.iter().any(|network| network.contains(&client)) {
            return Ok(());
        }
        match self.limiter.check(client) {
            Err(_) if self.dry_run.load(Ordering::Relaxed) => {
                self.would_refuse.count();
                let route = self.would_refuse.route();
                tracing::debug!(route, %client, "the rate limit would refuse this request");
                Ok(())
            }
            outcome => outcome,
        }
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
            dry_run: false,
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

    #[tokio::test]
    async fn a_dry_run_counts_what_it_would_refuse_and_can_be_ended() {
        let metrics = crate::observe::Metrics::default();
        let count = metrics.rate_limit_dry_run(&"api".into());
        let settings = RateLimitSettings { dry_run: true, ..limited(1) };
        let layer = RateLimitLayer::new(&settings).counting(count);
        for _ in 0..3 {
            assert_eq!(ask(&layer, Some("192.0.2.1:1")).await.status(), 200);
        }
        let text = metrics.render();
        assert!(text.contains("tollgate_rate_limit_dry_run_total{route=\"api\"} 2\n"), "{text}");
        layer.set_dry_run(false);
        assert_eq!(ask(&layer, Some("192.0.2.1:1")).await.status(), 429);
        layer.set_dry_run(true);
        assert_eq!(ask(&layer, Some("192.0.2.1:1")).await.status(), 200);
    }

    #[tokio::test]
    async fn a_successor_remembers_the_clients_unless_the_rate_is_another() {
        let layer = RateLimitLayer::new(&limited(1));
        ask(&layer, Some("192.0.2.1:1")).await;
        let exempts = RateLimitSettings { exempt: Vec::new(), ..limited(1) };
        assert_eq!(ask(&layer.renewed(&exempts), Some("192.0.2.1:1")).await.status(), 429);
        assert_eq!(ask(&layer.renewed(&limited(2)), Some("192.0.2.1:1")).await.status(), 200);
        assert_eq!(ask(&layer, Some("192.0.2.1:1")).await.status(), 429);
    }

    #[test]
    fn a_successor_keeps_the_dry_run_unless_the_settings_say_something_else_than_before() {
        let dry = |dry_run| RateLimitSettings { dry_run, ..limited(1) };
        let layer = RateLimitLayer::new(&dry(false));
        layer.set_dry_run(true);
        let kept = layer.renewed(&dry(false));
        assert!(kept.is_dry_run());
        assert!(layer.renewed(&dry(true)).is_dry_run());
        let told = kept.renewed(&dry(true));
        told.set_dry_run(false);
        assert!(!told.renewed(&dry(true)).is_dry_run());
        assert!(!told.renewed(&dry(false)).is_dry_run());
        assert!(kept.is_dry_run(), "a successor does not change what it succeeds");
    }
}
