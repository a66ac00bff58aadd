//! A name for each exchange, which client, log and origin share.

use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use http::header::HeaderName;
use http::{HeaderValue, Request, Response};
use pin_project_lite::pin_project;
use tower::{Layer, Service};
use tower_http::request_id::{MakeRequestId as Make, RequestId};

use crate::context::Exchange;

/// The field that carries the id.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Makes ids of 32 hexadecimal digits: half chosen at random when the process
/// starts, half different for each request.
#[derive(Clone, Debug)]
pub struct MakeRequestId {
    process: [u8; 16],
    next: Arc<AtomicU64>,
    random: RandomState,
}

impl Default for MakeRequestId {
    fn default() -> Self {
        let random = RandomState::new();
        let mut process = [0; 16];
        write_hex(&mut process, random.hash_one("process"));
        Self { process, next: Arc::default(), random }
    }
}

impl Make for MakeRequestId {
    fn make_request_id<B>(&mut self, _request: &Request<B>) -> Option<RequestId> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut id = [0; 32];
        id[..16].copy_from_slice(&self.process);
        write_hex(&mut id[16..], self.random.hash_one(number));
        HeaderValue::from_bytes(&id).ok().map(RequestId::new)
    }
}

/// Writes a number in as many digits as there is room for.
fn write_hex(digits: &mut [u8], mut number: u64) {
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(number & 0xf) as usize];
        number >>= 4;
    }
}

/// Puts [`Identify`] before a service.
#[derive(Clone, Debug)]
pub struct RequestIdLayer<M = MakeRequestId> {
    make: M,
}

impl<M> RequestIdLayer<M> {
    /// Names requests by `make`, which may be anybody's.
    #[must_use]
    pub const fn new(make: M) -> Self {
        Self { make }
    }
}

/// Gives each request an id, unless it came with one; writes it into the
/// exchange, and into the response unless the origin did.
#[derive(Clone, Debug)]
pub struct Identify<S, M = MakeRequestId> {
    inner: S,
    make: M,
}

impl<S, M: Clone> Layer<S> for RequestIdLayer<M> {
    type Service = Identify<S, M>;

    fn layer(&self, inner: S) -> Identify<S, M> {
        Identify { inner, make: self.make.clone() }
    }
}

impl<S, M, B, ResB> Service<Request<B>> for Identify<S, M>
where
    S: Service<Request<B>, Response = Response<ResB>>,
    M: Make,
{
    type Response = Response<ResB>;
    type Error = S::Error;
    type Future = Identified<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let id = match request.headers().get(REQUEST_ID) {
            Some(id) => Some(id.clone()),
            None => {
                let id = self.make.make_request_id(&request).map(RequestId::into_header_value);
                if let Some(id) = &id {
                    request.headers_mut().insert(REQUEST_ID, id.clone());
                }
                id
            }
        };
        if let Some(exchange) = request.extensions().get::<Exchange>() {
            exchange.update(|record| record.request_id.clone_from(&id));
        }
        Identified { inner: self.inner.call(request), id }
    }
}

pin_project! {
    /// The response of an [`Identify`] on its way.
    #[derive(Debug)]
    pub struct Identified<F> {
        #[pin]
        inner: F,
        id: Option<HeaderValue>,
    }
}

impl<F, ResB, E> Future for Identified<F>
where
    F: Future<Output = Result<Response<ResB>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.inner.poll(cx))?;
        if let Some(id) = this.id.take() {
            response.headers_mut().entry(REQUEST_ID).or_insert(id);
        }
        Poll::Ready(Ok(response))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn ids_differ_and_have_a_fixed_length() {
        let mut make = MakeRequestId::default();
        let request = Request::new(());
        let ids: HashSet<_> = (0..1_000)
            .map(|_| make.make_request_id(&request).unwrap().into_header_value())
            .collect();
        assert_eq!(ids.len(), 1_000);
        assert!(ids.iter().all(|id| id.len() == 32));
    }

    #[test]
    fn a_number_is_written_with_leading_zeros() {
        let mut digits = [0; 16];
        write_hex(&mut digits, 0x0123_4567_89ab_cdef);
        assert_eq!(&digits, b"0123456789abcdef");
    }

    async fn answered(request: Request<()>, response: Response<()>) -> (String, String) {
        let mut seen = String::new();
        let service = tower::service_fn(|request: Request<()>| {
            seen = request.headers()[REQUEST_ID].to_str().unwrap().to_owned();
            std::future::ready(Ok::<_, std::convert::Infallible>(response.clone()))
        });
        let layer = RequestIdLayer::new(MakeRequestId::default());
        let response = tower::ServiceExt::oneshot(layer.layer(service), request).await.unwrap();
        let told = response.headers()[REQUEST_ID].to_str().unwrap().to_owned();
        (seen, told)
    }

    #[tokio::test]
    async fn origin_and_client_are_told_the_same_id() {
        let (seen, told) = answered(Request::new(()), Response::new(())).await;
        assert_eq!((seen.len(), &told), (32, &seen));
        let named = Request::builder().header(REQUEST_ID, "mine").body(()).unwrap();
        let (seen, told) = answered(named, Response::new(())).await;
        assert_eq!((&*seen, &*told), ("mine", "mine"));
        let other = Response::builder().header(REQUEST_ID, "other").body(()).unwrap();
        let (seen, told) = answered(Request::new(()), other).await;
        assert_eq!((seen.len(), &*told), (32, "other"));
    }
}
