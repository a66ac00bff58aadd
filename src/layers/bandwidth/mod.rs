//! Bounds how fast a response is sent.

mod bucket;
mod paced;

use std::num::NonZeroU64;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{Request, Response, StatusCode};
use http_body::Body as _;
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use crate::body::Body;
use paced::Paced;

/// How fast a response is sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BandwidthSettings {
    /// Bytes of its body in a second.
    pub response: NonZeroU64,
    /// So many bytes go before that, as fast as they can. Default
    /// [`BandwidthSettings::BURST`].
    pub burst: u64,
}

impl BandwidthSettings {
    /// What goes as fast as it can unless told otherwise: 64 KiB.
    pub const BURST: u64 = 64 << 10;
}

/// Puts [`Bandwidth`] before a service.
///
/// ```
/// use std::num::NonZeroU64;
///
/// use http::{Request, Response};
/// use tollgate::body::Body;
/// use tollgate::layers::{BandwidthLayer, BandwidthSettings};
/// use tower::{ServiceBuilder, service_fn};
///
/// let response = NonZeroU64::new(1 << 20).unwrap();
/// let settings = BandwidthSettings { response, burst: BandwidthSettings::BURST };
/// let service = ServiceBuilder::new()
///     .layer(BandwidthLayer::new(&settings))
///     .service(service_fn(|_: Request<Body>| async {
///         Ok::<_, std::convert::Infallible>(Response::new(Body::from("ok")))
///     }));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct BandwidthLayer {
    settings: BandwidthSettings,
}

/// Sends the body of each response no faster than told. What is held back is not read from
/// the origin either. Tunnels are not held back.
#[derive(Clone, Debug)]
pub struct Bandwidth<S> {
    inner: S,
    settings: BandwidthSettings,
}

impl BandwidthLayer {
    /// Bounds as told.
    #[must_use]
    pub const fn new(settings: &BandwidthSettings) -> Self {
        Self { settings: *settings }
    }
}

impl<S> Layer<S> for BandwidthLayer {
    type Service = Bandwidth<S>;

    fn layer(&self, inner: S) -> Bandwidth<S> {
        Bandwidth { inner, settings: self.settings }
    }
}

impl<S, B> Service<Request<B>> for Bandwidth<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BandwidthFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        BandwidthFuture { inner: self.inner.call(request), settings: self.settings }
    }
}

pin_project! {
    /// A response that is going to be paced.
    #[derive(Debug)]
    pub struct BandwidthFuture<F> {
        #[pin]
        inner: F,
        settings: BandwidthSettings,
    }
}

impl<F, E> Future for BandwidthFuture<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx))?;
        let BandwidthSettings { response: rate, burst } = *this.settings;
        // What is no longer than the burst never waits.
        let short = response.body().size_hint().upper().is_some_and(|upper| upper <= burst);
        if short || response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Poll::Ready(Ok(response));
        }
        Poll::Ready(Ok(response.map(|body| Body::new(Paced::new(body, rate, burst)))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use std::convert::Infallible;
    use std::time::Duration;
    use tokio::time::Instant;
    use tower::ServiceExt;

    #[tokio::test(start_paused = true)]
    async fn only_what_is_longer_than_the_burst_is_held_back() {
        let response = NonZeroU64::new(100).unwrap();
        let layer = BandwidthLayer::new(&BandwidthSettings { response, burst: 50 });
        let service = layer.layer(tower::service_fn(|request: Request<usize>| async move {
            let body = bytes::Bytes::from(vec![b'x'; request.into_body()]);
            Ok::<_, Infallible>(Response::new(Body::from(body)))
        }));
        for (length, millis) in [(0, 0), (50, 0), (150, 1_000), (250, 2_000)] {
            let begin = Instant::now();
            let response = service.clone().oneshot(Request::new(length)).await.unwrap();
            assert_eq!(response.body().size_hint().exact(), Some(length as u64));
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(body.len(), length);
            let late = begin.elapsed().abs_diff(Duration::from_millis(millis));
            assert!(late < Duration::from_millis(20), "{length}: {:?}", begin.elapsed());
        }
    }
}
