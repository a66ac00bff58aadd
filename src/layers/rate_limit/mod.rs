//! How often one may ask: a client, an identity, whoever sends a field, or all together.
//!
//! A layer has one limit or several. A request passes if all of them let it; those that
//! stand before the one that refuses it have counted it nevertheless.

mod asker;
mod cells;
mod decision;
mod fields;
mod future;
mod key;
mod limit;
mod local;
mod progress;
mod quotas;
mod settings;
mod shared;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::HeaderName;
use http::{Request, Response};
use tower::{Layer, Service};

use super::methods::remove_overrides;
pub(super) use asker::Asker;
pub use future::RateLimitFuture;
pub(super) use key::number as network_number;
pub use key::{LimitKey, LimitKeyPart};
pub use limit::Limit;
pub(super) use local::Limiter;
use progress::{Progress, Step};
pub use settings::{CostSettings, RateLimitSettings};
#[cfg(feature = "redis")]
pub use shared::{Checked, DecidedBy, Deciding, Decision, SharedLimiter, SharedLimits};
pub use shared::{OnFailure, SharedSettings};

/// Puts [`RateLimit`] before a service; all that come from one layer count
/// together.
///
/// ```
/// use std::num::NonZeroU32;
/// use std::time::Duration;
///
/// use http::{Request, Response};
/// use tollgate::body::Body;
/// use tollgate::layers::{Limit, LimitKeyPart, RateLimitLayer, RateLimitSettings};
/// use tollgate::pace::Quota;
/// use tower::{ServiceBuilder, service_fn};
///
/// # let number = |number| NonZeroU32::new(number).unwrap();
/// let of_an_address = RateLimitSettings::per_second(number(10)).burst(number(20));
/// let in_an_hour = Quota::new(number(100_000), Duration::from_secs(3_600));
/// let of_all = RateLimitSettings::new(in_an_hour, LimitKeyPart::Route.into());
/// let limits = RateLimitLayer::of([Limit::new(&of_an_address), Limit::new(&of_all)]);
///
/// let service = ServiceBuilder::new()
///     .layer(limits.telling(true))
///     .service(service_fn(|_: Request<Body>| async {
///         Ok::<_, std::convert::Infallible>(Response::new(Body::from("ok")))
///     }));
/// ```
#[derive(Clone, Debug)]
pub struct RateLimitLayer {
    limits: Arc<[Limit]>,
    /// Whether clients are told also where they are let through.
    tells: bool,
    /// Fields of origins that go no further.
    hidden: Arc<[HeaderName]>,
    /// Whether some methods cost more than others.
    by_method: bool,
}

/// Answers 429 with `Retry-After`, `RateLimit` and `RateLimit-Policy` when a limit is
/// reached.
///
/// The client's address is that of the exchange, so a client behind a trusted proxy is
/// counted for itself; an IPv6 client is its /64 unless told otherwise. Where there is
/// nothing to count a request by, because its address is unknown, it is let through: one
/// bucket for all such clients would let any of them shut out the others.
///
/// On a dry run what would be refused is let through, and counted.
///
/// Where some methods cost more than others, fields by which an origin may take another
/// method than the request's own are taken out of requests.
#[derive(Clone, Debug)]
pub struct RateLimit<S> {
    inner: S,
    limits: RateLimitLayer,
}

impl RateLimitLayer {
    /// One limit, as told.
    #[must_use]
    pub fn new(settings: &RateLimitSettings) -> Self {
        Self::of([Limit::new(settings)])
    }

    /// These limits, which are asked in their order.
    #[must_use]
    pub fn of(limits: impl IntoIterator<Item = Limit>) -> Self {
        let limits: Arc<[Limit]> = limits.into_iter().collect();
        let costs = limits.iter().filter_map(Limit::cost_header);
        let hidden = costs.filter(|(_, keep)| !keep).map(|(name, _)| name.clone()).collect();
        let by_method = limits.iter().any(|limit| !limit.settings().cost.by_method.is_empty());
        Self { limits, tells: false, hidden, by_method }
    }

    /// Takes out of responses what they cost also for `inner`, a layer that stands behind it:
    /// which leaves it in, for these limits to see it too.
    pub(crate) fn around(self, inner: Self) -> (Self, Self) {
        let hidden = self.hidden.iter().chain(&*inner.hidden).cloned().collect();
        (Self { hidden, ..self }, Self { hidden: Arc::default(), ..inner })
    }

    /// Whether clients are told of the limits also where they are let through, by the fields
    /// `RateLimit` and `RateLimit-Policy`. Default false: it is two fields more for each
    /// limit in every response.
    #[must_use]
    pub fn telling(self, tells: bool) -> Self {
        Self { tells, ..self }
    }

    /// Its limits.
    #[must_use]
    pub fn limits(&self) -> &[Limit] {
        &self.limits
    }

    /// How many keys are remembered at the moment, by all limits together.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.limits.iter().map(Limit::keys).sum()
    }
}

impl<S> Layer<S> for RateLimitLayer {
    type Service = RateLimit<S>;

    fn layer(&self, inner: S) -> RateLimit<S> {
        RateLimit { inner, limits: self.clone() }
    }
}

impl<S, B, ResB> Service<Request<B>> for RateLimit<S>
where
    S: Service<Request<B>, Response = Response<ResB>> + Clone,
    ResB: From<Bytes>,
{
    type Response = Response<ResB>;
    type Error = S::Error;
    type Future = RateLimitFuture<S, B, ResB>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        if self.limits.by_method {
            // What the origin is asked for is what is counted.
            remove_overrides(request.headers_mut());
        }
        let mut progress = Progress::default();
        match progress.go_on(&self.limits, &request) {
            Step::Pass => RateLimitFuture::forwarded(self.inner.call(request), progress),
            Step::Refuse(answer) => RateLimitFuture::rejected(answer.render(&request)),
            Step::Wait(deciding) => {
                // The service that is ready goes along.
                let next = self.inner.clone();
                let ready = std::mem::replace(&mut self.inner, next);
                let limits = self.limits.clone();
                RateLimitFuture::waiting(deciding, ready, request, limits, progress)
            }
        }
    }
}
