//! Turns whatever fails below into one well-formed response.

use std::any::Any;
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use crate::context::Exchange;
use crate::error::{BoxError, Error, Kind, cause_of};
use crate::respond::{Answer, Format, PRODUCT};

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// Puts [`Rescue`] before a service.
#[derive(Clone, Copy, Debug, Default)]
pub struct RescueLayer;

/// Answers for a service that fails or panics; never fails itself.
///
/// What went wrong goes to the log and the exchange's record; the client is
/// told no more than the class of the fault.
#[derive(Clone, Debug)]
pub struct Rescue<S> {
    inner: S,
}

impl<S> Layer<S> for RescueLayer {
    type Service = Rescue<S>;

    fn layer(&self, inner: S) -> Rescue<S> {
        Rescue { inner }
    }
}

impl<S, B, ResB> Service<Request<B>> for Rescue<S>
where
    S: Service<Request<B>, Response = Response<ResB>>,
    S::Error: Into<BoxError>,
    ResB: From<Bytes>,
{
    type Response = Response<ResB>;
    type Error = Infallible;
    type Future = RescueFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // An inner service that fails here will do so again when it is called.
        self.inner.poll_ready(cx).map(|_| Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let asker = match request.extensions().get::<Exchange>() {
            Some(exchange) => Asker::Known(exchange.clone()),
            None => Asker::Unknown(Format::preferred(request.headers())),
        };
        let called = catch_unwind(AssertUnwindSafe(|| self.inner.call(request)));
        let (inner, panicked) = match called {
            Ok(inner) => (Some(inner), None),
            Err(panic) => (None, Some(panicked(&*panic))),
        };
        RescueFuture { inner, panicked, asker }
    }
}

pin_project! {
    /// The response of [`Rescue`] on its way.
    #[derive(Debug)]
    pub struct RescueFuture<F> {
        #[pin]
        inner: Option<F>,
        panicked: Option<Error>,
        asker: Asker,
    }
}

/// Who is to be answered.
#[derive(Debug)]
enum Asker {
    Known(Exchange),
    Unknown(Format),
}

impl Asker {
    fn exchange(&self) -> Option<&Exchange> {
        match self {
            Self::Known(exchange) => Some(exchange),
            Self::Unknown(_) => None,
        }
    }

    /// How to write an answer: worked out only if there is one to write.
    fn format(&self) -> Format {
        match self {
            Self::Known(exchange) => {
                let line = exchange.request();
                Format::of(line.accept.as_ref(), line.content_type.as_ref())
            }
            Self::Unknown(format) => *format,
        }
    }
}

impl<F, ResB, E> Future for RescueFuture<F>
where
    F: Future<Output = Result<Response<ResB>, E>>,
    E: Into<BoxError>,
    ResB: From<Bytes>,
{
    type Output = Result<Response<ResB>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let error: BoxError = match (this.inner.as_pin_mut(), this.panicked.take()) {
            (Some(inner), _) => match catch_unwind(AssertUnwindSafe(|| inner.poll(cx))) {
                Ok(polled) => match ready!(polled) {
                    Ok(response) => return Poll::Ready(Ok(response)),
                    Err(error) => error.into(),
                },
                Err(panic) => panicked(&*panic).into(),
            },
            (None, Some(error)) => error.into(),
            (None, None) => return Poll::Pending,
        };
        Poll::Ready(Ok(answer(error, this.asker)))
    }
}

fn answer<ResB: From<Bytes>>(error: BoxError, asker: &Asker) -> Response<ResB> {
    let error = match cause_of::<Error>(&*error) {
        Some(_) => error,
        None => Error::new(Kind::Internal).because(error).into(),
    };
    let Some(error) = cause_of::<Error>(&*error) else {
        return Answer::for_error(&Error::new(Kind::Internal)).render(asker.format());
    };
    let forwarded = asker.exchange().and_then(|exchange| {
        exchange.update(|record| {
            record.error = Some(error.chain());
            record.error_kind = Some(error.kind());
            record.rejection = Some(error.kind().as_str());
            record.cache_forwarded
        })
    });
    let mut response: Response<ResB> = Answer::for_error(error).render(asker.format());
    if let Some(why) = forwarded
        && let Some(status) = cache_status(why, error.kind())
    {
        response.headers_mut().insert(CACHE_STATUS, status);
    }
    response
}

/// RFC 9211 §2: why a cache asked an origin, and what came of it.
fn cache_status(why: &str, kind: Kind) -> Option<HeaderValue> {
    HeaderValue::try_from(format!("{PRODUCT}; fwd={why}; detail={}", kind.as_str())).ok()
}

fn panicked(panic: &(dyn Any + Send)) -> Error {
    let message = panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "of an unknown kind".to_owned());
    tracing::error!(message, "a layer panicked; its exchange is answered 500");
    Error::new(Kind::Internal).detail(format!("panic: {message}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::Body;
    use tower::ServiceExt;

    async fn rescued<F, Fut>(service: F) -> Response<Body>
    where
        F: FnMut(Request<()>) -> Fut,
        Fut: Future<Output = Result<Response<Body>, BoxError>>,
    {
        let service = RescueLayer.layer(tower::service_fn(service));
        service.oneshot(Request::new(())).await.unwrap()
    }

    #[tokio::test]
    async fn an_error_is_answered_by_its_kind() {
        let response = rescued(|_| async { Err(Error::new(Kind::ConnectTimeout).into()) }).await;
        assert_eq!(response.status(), 504);
    }

    #[tokio::test]
    async fn a_strangers_error_is_a_fault_of_ours_and_tells_the_client_nothing() {
        use http_body_util::BodyExt;
        let response = rescued(|_| async { Err("the secret is 42".into()) }).await;
        assert_eq!(response.status(), 500);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert!(!String::from_utf8_lossy(&body).contains("42"));
    }

    #[tokio::test]
    async fn a_panic_costs_one_exchange_only() {
        let response = rescued(|_| async { panic!("in the future") }).await;
        assert_eq!(response.status(), 500);
        let called =
            |_| -> std::future::Ready<Result<Response<Body>, BoxError>> { panic!("in the call") };
        assert_eq!(rescued(called).await.status(), 500);
    }
}
