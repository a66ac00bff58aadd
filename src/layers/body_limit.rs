//! Bounds the request's body: how long it may be, how long it may be silent, and how
//! slow.

use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, header};
use tower::{Layer, Service};

use super::ShortCircuit;
use crate::body::Body;
use crate::context::Exchange;
use crate::error::{Error, Kind};
use crate::pace::MinRate;
use crate::respond::{Answer, Format};

/// Puts [`BodyLimit`] before a service.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimitLayer {
    max: Option<u64>,
    silence: Duration,
    min_rate: Option<MinRate>,
}

/// Answers 413 to a body that is too long: at once if its length is announced,
/// else as soon as it is exceeded. A body that stays silent, or comes too slowly,
/// fails, which ends in 408.
#[derive(Clone, Debug)]
pub struct BodyLimit<S> {
    inner: S,
    limits: BodyLimitLayer,
}

impl BodyLimitLayer {
    /// Bodies of up to `max` bytes, with pauses of up to `silence`.
    #[must_use]
    pub const fn new(max: Option<u64>, silence: Duration) -> Self {
        Self { max, silence, min_rate: None }
    }

    /// Holds bodies to a least rate as well, but for those of gRPC, whose messages
    /// may be few and far between.
    #[must_use]
    pub const fn at_least(self, min_rate: Option<MinRate>) -> Self {
        Self { min_rate, ..self }
    }
}

impl<S> Layer<S> for BodyLimitLayer {
    type Service = BodyLimit<S>;

    fn layer(&self, inner: S) -> BodyLimit<S> {
        BodyLimit { inner, limits: *self }
    }
}

impl<S, ResB> Service<Request<Body>> for BodyLimit<S>
where
    S: Service<Request<Body>, Response = Response<ResB>>,
    ResB: From<Bytes>,
{
    type Response = Response<ResB>;
    type Error = S::Error;
    type Future = ShortCircuit<S::Future, ResB>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let BodyLimitLayer { max, silence, min_rate } = self.limits;
        if let (Some(max), Some(length)) = (max, announced(&request))
            && length > max
        {
            let answer = Answer::for_error(&Error::new(Kind::RequestBodyTooLarge));
            if let Some(exchange) = request.extensions().get::<Exchange>() {
                exchange.update(|record| record.rejection = Some(answer.code()));
            }
            return ShortCircuit::rejected(answer.render(Format::preferred(request.headers())));
        }
        let min_rate = min_rate.filter(|_| !is_grpc(&request));
        let request = request.map(|body| {
            if http_body::Body::is_end_stream(&body) {
                return body;
            }
            let body = body.with_idle_timeout(silence, Kind::RequestBodyTimeout);
            let body = match min_rate {
                Some(rate) => body.with_min_rate(rate),
                None => body,
            };
            match max {
                Some(max) => body.with_limit(max),
                None => body,
            }
        });
        ShortCircuit::forwarded(self.inner.call(request))
    }
}

fn is_grpc<B>(request: &Request<B>) -> bool {
    Format::of(None, request.headers().get(header::CONTENT_TYPE)) == Format::Grpc
}

fn announced<B>(request: &Request<B>) -> Option<u64> {
    request.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::BoxError;
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    async fn ask(length: Option<&str>, body: &'static str) -> Result<u16, BoxError> {
        let read = |request: Request<Body>| async {
            request.into_body().collect().await?;
            Ok::<_, BoxError>(Response::new(Body::empty()))
        };
        let service =
            BodyLimitLayer::new(Some(4), Duration::from_secs(60)).layer(tower::service_fn(read));
        let mut request = Request::post("/");
        if let Some(length) = length {
            request = request.header("content-length", length);
        }
        let response = service.oneshot(request.body(Body::from(body))?).await?;
        Ok(response.status().as_u16())
    }

    #[tokio::test]
    async fn an_announced_length_is_judged_before_the_body_is_read() {
        assert_eq!(ask(Some("5"), "12345").await.unwrap(), 413);
        assert_eq!(ask(Some("4"), "1234").await.unwrap(), 200);
    }

    #[tokio::test]
    async fn a_body_without_a_length_fails_past_the_limit() {
        let error = ask(None, "12345").await.unwrap_err();
        let error: &Error = crate::error::cause_of(&*error).unwrap();
        assert_eq!(error.kind(), Kind::RequestBodyTooLarge);
    }
}
