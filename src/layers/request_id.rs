//! A name for each exchange, which client, log and origin share.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use http::header::HeaderName;
use http::{HeaderValue, Request};
use tower::{Layer, Service};
use tower_http::request_id::{MakeRequestId as Make, RequestId};

use crate::context::Exchange;

/// The field that carries the id.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Makes ids of 32 hexadecimal digits: half chosen at random when the process
/// starts, half different for each request.
#[derive(Clone, Debug)]
pub struct MakeRequestId {
    process: u64,
    next: Arc<AtomicU64>,
    random: RandomState,
}

impl Default for MakeRequestId {
    fn default() -> Self {
        let random = RandomState::new();
        Self { process: random.hash_one("process"), next: Arc::default(), random }
    }
}

impl Make for MakeRequestId {
    fn make_request_id<B>(&mut self, _request: &Request<B>) -> Option<RequestId> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut id = [0; 32];
        write_hex(&mut id[..16], self.process);
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

/// Puts [`RecordRequestId`] before a service.
#[derive(Clone, Copy, Debug, Default)]
pub struct RecordRequestIdLayer;

/// Copies the request's id into the exchange.
#[derive(Clone, Debug)]
pub struct RecordRequestId<S> {
    inner: S,
}

impl<S> Layer<S> for RecordRequestIdLayer {
    type Service = RecordRequestId<S>;

    fn layer(&self, inner: S) -> RecordRequestId<S> {
        RecordRequestId { inner }
    }
}

impl<S, B> Service<Request<B>> for RecordRequestId<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let id = request.headers().get(REQUEST_ID);
        if let (Some(id), Some(exchange)) = (id, request.extensions().get::<Exchange>()) {
            exchange.update(|record| record.request_id = Some(id.clone()));
        }
        self.inner.call(request)
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
}
