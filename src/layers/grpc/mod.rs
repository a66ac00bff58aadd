//! The deadline of a gRPC call.

mod timeout;

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::{Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::Sleep;
use tower::{Layer, Service};

use super::GrpcSettings;
use crate::body::Body;
use crate::context::Exchange;
use crate::error::BoxError;
use crate::respond::{Answer, Format};

/// How long the caller will wait.
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// A deadline that is further away is none: no call and no timer lives as long.
const FAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Puts [`Grpc`] before a service.
#[derive(Clone, Copy, Debug)]
pub struct GrpcLayer {
    max_timeout: Option<Duration>,
}

/// Ends gRPC calls at their deadline: with `DEADLINE_EXCEEDED`, in trailers where
/// the response has begun already. Whatever is below is dropped then, which
/// cancels the call at the origin. Other requests pass.
#[derive(Clone, Debug)]
pub struct Grpc<S> {
    inner: S,
    max_timeout: Option<Duration>,
}

impl GrpcLayer {
    /// Deadlines as callers set them, within what `settings` allow.
    #[must_use]
    pub const fn new(settings: &GrpcSettings) -> Self {
        Self { max_timeout: settings.max_timeout }
    }
}

impl<S> Layer<S> for GrpcLayer {
    type Service = Grpc<S>;

    fn layer(&self, inner: S) -> Grpc<S> {
        Grpc { inner, max_timeout: self.max_timeout }
    }
}

impl<S> Service<Request<Body>> for Grpc<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = GrpcFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let content_type = request.headers().get(header::CONTENT_TYPE);
        if content_type.and_then(Format::of_call) != Some(Format::Grpc) {
            return GrpcFuture { inner: Some(self.inner.call(request)), call: None, answer: None };
        }
        let exchange = request.extensions().get::<Exchange>().cloned();
        let timeout = match allowed(request.headers_mut(), self.max_timeout) {
            Ok(timeout) => timeout,
            Err(Malformed) => {
                let detail = "`grpc-timeout` is malformed.";
                let answer = Answer::new(StatusCode::BAD_REQUEST, "grpc_timeout_invalid", detail);
                reject(exchange.as_ref(), &answer);
                return GrpcFuture { inner: None, call: None, answer: Some(Box::new(answer)) };
            }
        };
        let call = timeout
            .filter(|timeout| *timeout < FAR)
            .map(|timeout| Call { sleep: Box::pin(tokio::time::sleep(timeout)), exchange });
        GrpcFuture { inner: Some(self.inner.call(request)), call, answer: None }
    }
}

struct Malformed;

/// How long the call may take, and says so to the origin where that is less than
/// the caller would wait.
fn allowed(headers: &mut HeaderMap, max: Option<Duration>) -> Result<Option<Duration>, Malformed> {
    let mut lines = headers.get_all(GRPC_TIMEOUT).iter();
    let asked = match (lines.next(), lines.next()) {
        (None, _) => None,
        (Some(line), None) => Some(timeout::parse(line.as_bytes()).ok_or(Malformed)?),
        (Some(_), Some(_)) => return Err(Malformed),
    };
    let Some(max) = max else { return Ok(asked) };
    if asked.is_some_and(|asked| asked <= max) {
        return Ok(asked);
    }
    if let Ok(value) = HeaderValue::try_from(timeout::format(max)) {
        headers.insert(GRPC_TIMEOUT, value);
    }
    Ok(Some(max))
}

fn exceeded() -> Answer {
    let detail = "The deadline of the call has passed.";
    Answer::new(StatusCode::GATEWAY_TIMEOUT, "deadline_exceeded", detail)
}

fn reject(exchange: Option<&Exchange>, answer: &Answer) {
    if let Some(exchange) = exchange {
        exchange.update(|record| record.rejection = Some(answer.code()));
    }
}

/// A call with a deadline.
#[derive(Debug)]
struct Call {
    sleep: Pin<Box<Sleep>>,
    exchange: Option<Exchange>,
}

impl Call {
    /// The answer to a call whose deadline has passed.
    fn poll_exceeded(&mut self, cx: &mut Context<'_>) -> Poll<Answer> {
        self.sleep.as_mut().poll(cx).map(|()| {
            let answer = exceeded();
            reject(self.exchange.as_ref(), &answer);
            answer
        })
    }
}

pin_project! {
    /// The response of [`Grpc`] on its way.
    #[derive(Debug)]
    pub struct GrpcFuture<F> {
        #[pin]
        inner: Option<F>,
        call: Option<Call>,
        // Boxed: it is rare, and every request would carry its size along.
        answer: Option<Box<Answer>>,
    }
}

impl<F, E> Future for GrpcFuture<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let Some(inner) = this.inner.as_mut().as_pin_mut()
            && let Poll::Ready(answered) = inner.poll(cx)
        {
            let Some(call) = this.call.take() else { return Poll::Ready(answered) };
            return Poll::Ready(answered.map(|response| under_deadline(response, call)));
        }
        if let Some(call) = this.call
            && let Poll::Ready(answer) = call.poll_exceeded(cx)
        {
            *this.call = None;
            this.inner.set(None);
            return Poll::Ready(Ok(answer.render(Format::Grpc)));
        }
        match this.answer.take() {
            Some(answer) => Poll::Ready(Ok(answer.render(Format::Grpc))),
            None => Poll::Pending,
        }
    }
}

fn under_deadline(response: Response<Body>, call: Call) -> Response<Body> {
    if http_body::Body::is_end_stream(response.body()) {
        return response;
    }
    response.map(|body| Body::new(UnderDeadline { body: Some(body), call: Some(call) }))
}

/// The body of a response, which ends at the deadline.
struct UnderDeadline {
    body: Option<Body>,
    call: Option<Call>,
}

impl http_body::Body for UnderDeadline {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        if let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        let Some(Poll::Ready(answer)) = self.call.as_mut().map(|call| call.poll_exceeded(cx))
        else {
            return Poll::Pending;
        };
        (self.body, self.call) = (None, None);
        let mut trailers = HeaderMap::new();
        answer.grpc_trailers(&mut trailers);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        // It may end before.
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(timeout: Option<&'static str>) -> HeaderMap {
        timeout.map(|text| (GRPC_TIMEOUT, HeaderValue::from_static(text))).into_iter().collect()
    }

    fn allowed_of(timeout: Option<&'static str>, max: Option<u64>) -> (Option<u64>, HeaderMap) {
        let mut headers = headers(timeout);
        let Ok(allowed) = allowed(&mut headers, max.map(Duration::from_secs)) else {
            panic!("{timeout:?} is malformed")
        };
        (allowed.map(|time| time.as_secs()), headers)
    }

    #[test]
    fn a_caller_waits_no_longer_than_is_allowed_and_the_origin_knows() {
        assert_eq!(allowed_of(None, None), (None, headers(None)));
        assert_eq!(allowed_of(Some("5S"), None), (Some(5), headers(Some("5S"))));
        assert_eq!(allowed_of(Some("5S"), Some(9)), (Some(5), headers(Some("5S"))));
        let most = headers(Some("9000000u"));
        assert_eq!(allowed_of(Some("99999999H"), Some(9)), (Some(9), most.clone()));
        assert_eq!(allowed_of(None, Some(9)), (Some(9), most));
    }

    #[test]
    fn two_timeouts_are_none() {
        let mut both = headers(Some("5S"));
        both.append(GRPC_TIMEOUT, HeaderValue::from_static("6S"));
        assert!(allowed(&mut both, None).is_err());
        assert!(allowed(&mut headers(Some("five")), None).is_err());
    }
}
