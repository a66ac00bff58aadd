//! Opens the record of each exchange and closes it exactly once: at the end of
//! the response body, or when the client goes away before that.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::header;
use http::{HeaderValue, Request, Response, Version};
use http_body::Body as _;
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use crate::body::{Body, End, Guard};
use crate::context::{AtEnd, Downstream, Exchange, Facts, RequestLine};
use crate::observe::{AccessLog, Metrics};

/// Puts [`Exchanges`] before a service.
#[derive(Clone, Debug)]
pub struct ExchangesLayer {
    books: Arc<Books>,
}

/// Opens an [`Exchange`] for each request, and writes the access log and the
/// metrics from it when it is over.
#[derive(Clone, Debug)]
pub struct Exchanges<S> {
    inner: S,
    books: Arc<Books>,
}

/// Where exchanges are written down.
#[derive(Debug)]
struct Books {
    access_log: AccessLog,
    metrics: Metrics,
    secret_parameters: Option<Arc<[Arc<str>]>>,
}

impl AtEnd for Books {
    fn ended(&self, facts: &Facts) {
        self.metrics.exchange_finished(facts);
        if !self.access_log.write(facts) {
            self.metrics.access_log_dropped();
        }
    }
}

impl ExchangesLayer {
    /// Writes to these.
    #[must_use]
    pub fn new(access_log: AccessLog, metrics: Metrics) -> Self {
        Self { books: Arc::new(Books { access_log, metrics, secret_parameters: None }) }
    }

    /// Has the values of these query parameters hidden, whatever becomes of a request.
    #[must_use]
    pub fn hiding(self, parameters: impl IntoIterator<Item = Arc<str>>) -> Self {
        let mut parameters: Vec<Arc<str>> = parameters.into_iter().collect();
        parameters.sort_unstable();
        parameters.dedup();
        let Books { access_log, metrics, .. } = &*self.books;
        let (access_log, metrics) = (access_log.clone(), metrics.clone());
        let secret_parameters = (!parameters.is_empty()).then(|| parameters.into());
        Self { books: Arc::new(Books { access_log, metrics, secret_parameters }) }
    }
}

impl<S> Layer<S> for ExchangesLayer {
    type Service = Exchanges<S>;

    fn layer(&self, inner: S) -> Exchanges<S> {
        Exchanges { inner, books: self.books.clone() }
    }
}

impl<S> Service<Request<Body>> for Exchanges<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = ExchangesFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let downstream = request.extensions().get::<Arc<Downstream>>().cloned();
        let line = request_line(&request);
        let books: Arc<dyn AtEnd> = self.books.clone();
        let exchange = Exchange::open(downstream.unwrap_or_default(), line, Some(books));
        if let Some(parameters) = &self.books.secret_parameters {
            exchange.update(|record| record.secret_parameters = Some(parameters.clone()));
        }
        request.extensions_mut().insert(exchange.clone());
        if !request.body().is_end_stream() {
            let received = Received(exchange.clone());
            request = request.map(|body| body.with_guard(received));
        }
        let waited = Waited(Some(exchange));
        ExchangesFuture { inner: self.inner.call(request), waited }
    }
}

pin_project! {
    /// The response of [`Exchanges`] on its way.
    #[derive(Debug)]
    pub struct ExchangesFuture<F> {
        #[pin]
        inner: F,
        // Behind `inner`, so that what that notes when it is dropped is seen.
        waited: Waited,
    }
}

/// An exchange whose client waits for the response. If it goes away before there is one,
/// that is the end of the exchange: others may still wait for what it has begun.
#[derive(Debug)]
struct Waited(Option<Exchange>);

impl Drop for Waited {
    fn drop(&mut self) {
        if let Some(exchange) = self.0.take() {
            exchange.end();
        }
    }
}

impl<F, E> Future for ExchangesFuture<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.inner.poll(cx))?;
        let Some(exchange) = this.waited.0.take() else { return Poll::Ready(Ok(response)) };
        exchange.update(|record| record.status = Some(response.status()));
        if exchange.request().version == Version::HTTP_2 {
            // Its connection may hold the end of the body for longer than that
            // lasts, and with it what the exchange was charged for.
            response.extensions_mut().insert(exchange.clone());
        }
        Poll::Ready(Ok(response.map(|body| body.with_guard(Sent(exchange)))))
    }
}

/// Counts the request's body.
struct Received(Exchange);

impl Guard for Received {
    fn data(&mut self, bytes: usize) {
        self.0.update(|record| record.request_bytes += bytes as u64);
    }
}

/// Counts the response's body, and keeps the exchange open until its end.
struct Sent(Exchange);

impl Guard for Sent {
    fn data(&mut self, bytes: usize) {
        self.0.update(|record| record.response_bytes += bytes as u64);
    }

    fn end(&mut self, end: End) {
        self.0.update(|record| match end {
            // A tunnel is complete when its bytes are.
            End::Complete => record.complete = !record.upgraded,
            End::Failed(kind) => record.error_kind = Some(kind),
            End::Dropped => {}
        });
    }
}

fn request_line<B>(request: &Request<B>) -> RequestLine {
    let authority = request.uri().authority();
    let authority = authority.and_then(|host| HeaderValue::from_str(host.as_str()).ok());
    let mut line = RequestLine {
        method: request.method().clone(),
        uri: request.uri().clone(),
        version: request.version(),
        host: authority,
        user_agent: None,
        referer: None,
        accept: None,
        content_type: None,
        fields: request.headers().len(),
    };
    // One walk past all fields is cheaper than to look each of these up. A value
    // is a part of the buffer that the head came in: to clone it is to count one
    // more who reads it.
    for (name, value) in request.headers() {
        let place = match *name {
            header::HOST => &mut line.host,
            header::USER_AGENT => &mut line.user_agent,
            header::REFERER => &mut line.referer,
            header::ACCEPT => &mut line.accept,
            header::CONTENT_TYPE => &mut line.content_type,
            _ => continue,
        };
        place.get_or_insert_with(|| value.clone());
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use std::convert::Infallible;
    use tower::ServiceExt;

    async fn exchange_of(request: Request<Body>) -> (Exchange, Response<Body>) {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let sender = Arc::new(parking_lot::Mutex::new(Some(sender)));
        let service = tower::service_fn(move |request: Request<Body>| {
            let exchange = request.extensions().get::<Exchange>().unwrap().clone();
            let _ = sender.lock().take().unwrap().send(exchange);
            async move {
                let body = request.into_body().collect().await.unwrap().to_bytes();
                Ok::<_, Infallible>(Response::new(Body::from(body)))
            }
        });
        let layer = ExchangesLayer::new(AccessLog::off(), Metrics::default());
        let response = layer.layer(service).oneshot(request).await.unwrap();
        (receiver.await.unwrap(), response)
    }

    #[tokio::test]
    async fn both_bodies_are_counted_and_the_end_is_seen() {
        let request = Request::post("/x").header("host", "a.test").body(Body::from("12345"));
        let (exchange, response) = exchange_of(request.unwrap()).await;
        assert!(!exchange.read(|record| record.complete));
        response.into_body().collect().await.unwrap();
        exchange.read(|record| {
            assert_eq!((record.request_bytes, record.response_bytes), (5, 5));
            assert_eq!(record.status.unwrap(), 200);
            assert!(record.complete);
        });
        assert_eq!(exchange.request().host.as_ref().unwrap(), "a.test");
    }

    #[tokio::test]
    async fn a_client_that_goes_away_leaves_an_incomplete_exchange() {
        let request = Request::post("/x").body(Body::from("12345")).unwrap();
        let (exchange, response) = exchange_of(request).await;
        drop(response);
        assert!(!exchange.read(|record| record.complete));
    }
}
