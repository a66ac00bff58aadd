//! The layers.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::header;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::Body as _;
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use super::body::Compressing;
use super::eligible::{Asked, Verdict, accepted, is_about_content};
use super::encoder::{self, Encoder};
use super::room::Room;
use super::{CompressionSettings, ContentCoding, head};
use crate::body::Body;
use crate::observe::{CompressionCounts, CompressionOutcome};
use http::HeaderName;

/// Puts [`AcceptEncoding`] before a service.
#[derive(Clone, Debug)]
pub struct AcceptEncodingLayer(Option<Arc<CompressionSettings>>);

/// Has requests name only the codings that a route offers, such that what means the same
/// to it is the same. It stands above a cache, which so keeps few variants.
#[derive(Clone, Debug)]
pub struct AcceptEncoding<S> {
    inner: S,
    settings: Option<Arc<CompressionSettings>>,
}

impl AcceptEncodingLayer {
    /// By the settings of the [`CompressionLayer`] below; `None`: it changes nothing.
    #[must_use]
    pub fn new(settings: Option<&CompressionSettings>) -> Self {
        Self(settings.map(|settings| Arc::new(settings.clone())))
    }
}

impl<S> Layer<S> for AcceptEncodingLayer {
    type Service = AcceptEncoding<S>;

    fn layer(&self, inner: S) -> AcceptEncoding<S> {
        AcceptEncoding { inner, settings: self.0.clone() }
    }
}

impl<S, B> Service<Request<B>> for AcceptEncoding<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        if let Some(settings) = &self.settings
            && is_about_content(&request)
        {
            accepted(request.headers(), settings).write(request.headers_mut());
        }
        self.inner.call(request)
    }
}

/// Puts [`Compressed`] before a service.
///
/// Alone it is all that compression takes. With a [`CacheLayer`](crate::layers::CacheLayer)
/// it stands below it, so that a response is compressed once and stored compressed, and
/// an [`AcceptEncodingLayer`] above.
#[derive(Clone, Debug)]
pub struct CompressionLayer(Arc<Route>);

/// What the requests of a route have in common.
#[derive(Clone, Debug)]
struct Route {
    settings: CompressionSettings,
    counts: CompressionCounts,
    /// Fields that the operator has every request carry, which so are nobody's own.
    vouched: Vec<HeaderName>,
    room: Room,
}

/// Compresses responses in a coding that the client accepts. See [`CompressionLayer`].
#[derive(Clone, Debug)]
pub struct Compressed<S> {
    inner: S,
    route: Arc<Route>,
}

impl CompressionLayer {
    /// Compresses by these settings.
    #[must_use]
    pub fn new(settings: &CompressionSettings) -> Self {
        let (settings, room) = (settings.clone(), Room::of_process());
        let counts = CompressionCounts::default();
        Self(Arc::new(Route { settings, counts, vouched: Vec::new(), room }))
    }

    /// Counts here.
    #[must_use]
    pub fn counting(self, counts: CompressionCounts) -> Self {
        Self(Arc::new(Route { counts, ..(*self.0).clone() }))
    }

    /// Takes these fields of requests for the operator's: `Authorization` among them is
    /// no client's.
    #[must_use]
    pub fn vouching(self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        let vouched = names.into_iter().collect();
        Self(Arc::new(Route { vouched, ..(*self.0).clone() }))
    }
}

impl<S> Layer<S> for CompressionLayer {
    type Service = Compressed<S>;

    fn layer(&self, inner: S) -> Compressed<S> {
        Compressed { inner, route: self.0.clone() }
    }
}

impl<S, B> Service<Request<B>> for Compressed<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = CompressionFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let asked = is_about_content(&request).then(|| {
            let accepted = accepted(request.headers(), &self.route.settings);
            accepted.write(request.headers_mut());
            let asked = Asked::of(&request, accepted, &self.route.vouched);
            // Boxed: routes without compression have room for this future as well.
            Box::new((self.route.clone(), asked))
        });
        CompressionFuture { inner: self.inner.call(request), asked }
    }
}

pin_project! {
    /// The response of [`Compressed`] on its way.
    pub struct CompressionFuture<F> {
        #[pin]
        inner: F,
        asked: Option<Box<(Arc<Route>, Asked)>>,
    }
}

impl<F, E> Future for CompressionFuture<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx))?;
        Poll::Ready(Ok(match this.asked.as_deref() {
            Some((route, asked)) => route.answer(asked, response),
            None => response,
        }))
    }
}

impl<F> std::fmt::Debug for CompressionFuture<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CompressionFuture")
    }
}

impl Route {
    fn answer(&self, asked: &Asked, mut response: Response<Body>) -> Response<Body> {
        if response.status() == StatusCode::NOT_MODIFIED {
            head::not_modified(response.headers_mut(), &asked.known);
        }
        let length =
            if asked.head { announced(&response) } else { response.body().size_hint().exact() };
        let verdict = asked.judge(response.status(), response.headers(), length, &self.settings);
        match verdict {
            Verdict::Same(outcome) => {
                self.counts.count(outcome);
                return response;
            }
            Verdict::Varies(outcome) => {
                self.counts.count(outcome);
                // What a GET is answered with is not known: nothing is said that might
                // not hold of it.
                if outcome == CompressionOutcome::Head {
                    head::another_form(response.headers_mut());
                }
            }
            Verdict::Compress if asked.head => {
                if let Some(coding) = asked.accepted.codings().next() {
                    self.counts.count(outcome(coding));
                    head::encoded(response.headers_mut(), coding);
                }
            }
            Verdict::Compress => return self.compress(asked, length, response),
        }
        head::varies(response.headers_mut());
        response
    }

    fn compress(
        &self,
        asked: &Asked,
        length: Option<u64>,
        mut response: Response<Body>,
    ) -> Response<Body> {
        let level = self.settings.level;
        let started = asked.accepted.codings().find_map(|coding| {
            let bytes = encoder::memory(coding, level, length);
            let place = self.room.take(bytes, asked.budget.as_ref())?;
            match Encoder::new(coding, level, length) {
                Ok(encoder) => Some((coding, encoder, place)),
                Err(error) => {
                    tracing::debug!(%error, %coding, "an encoder was not to be had");
                    None
                }
            }
        });
        let Some((coding, encoder, place)) = started else {
            self.counts.count(CompressionOutcome::NoRoom);
            head::varies(response.headers_mut());
            return response;
        };
        self.counts.count(outcome(coding));
        head::encoded(response.headers_mut(), coding);
        let counts = self.counts.clone();
        response.map(|body| Body::new(Compressing::new(body, encoder, place, counts)))
    }
}

/// The length that a response without content says it would have.
fn announced(response: &Response<Body>) -> Option<u64> {
    let value = response.headers().get(header::CONTENT_LENGTH).map(HeaderValue::to_str)?;
    value.ok()?.parse().ok()
}

fn outcome(coding: ContentCoding) -> CompressionOutcome {
    match coding {
        ContentCoding::Zstd => CompressionOutcome::Zstd,
        ContentCoding::Brotli => CompressionOutcome::Brotli,
        ContentCoding::Gzip => CompressionOutcome::Gzip,
    }
}

#[cfg(test)]
#[cfg(feature = "compression")]
mod tests;
