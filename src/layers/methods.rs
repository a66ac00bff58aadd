//! Which methods a route takes.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use tower::{Layer, Service};

use super::twins::{self, are_twins};
use super::{MethodSettings, ShortCircuit};
use crate::context::Exchange;
use crate::respond::{Answer, Format};

/// Fields by which some origins take another method than the request's own.
pub(super) const OVERRIDES: [&str; 3] =
    ["x-http-method-override", "x-http-method", "x-method-override"];

/// Puts [`Methods`] before a service.
#[derive(Clone, Debug)]
pub struct MethodsLayer {
    shared: Arc<Shared>,
}

/// Answers 405 to requests by a method that the route does not take (RFC 9110
/// §15.5.6), and takes out fields that would make another of it at the origin.
#[derive(Clone, Debug)]
pub struct Methods<S> {
    inner: S,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    taken: Vec<Method>,
    allow: HeaderValue,
}

impl MethodsLayer {
    /// Takes these methods, and HEAD with GET.
    #[must_use]
    pub fn new(settings: &MethodSettings) -> Self {
        let mut taken = settings.methods.clone();
        if taken.contains(&Method::GET) && !taken.contains(&Method::HEAD) {
            taken.push(Method::HEAD);
        }
        let names: Vec<&str> = taken.iter().map(Method::as_str).collect();
        // A method is a token, and so fits into a field.
        let allow = HeaderValue::try_from(names.join(", "))
            .unwrap_or_else(|_| HeaderValue::from_static(""));
        Self { shared: Arc::new(Shared { taken, allow }) }
    }
}

impl<S> Layer<S> for MethodsLayer {
    type Service = Methods<S>;

    fn layer(&self, inner: S) -> Methods<S> {
        Methods { inner, shared: self.shared.clone() }
    }
}

impl<S, B, ResB> Service<Request<B>> for Methods<S>
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

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let Shared { taken, allow } = &*self.shared;
        // An extended CONNECT is what GET is over HTTP/1.1 (RFC 8441 §5).
        let method = match *request.method() {
            Method::CONNECT => &Method::GET,
            ref method => method,
        };
        if !taken.contains(method) {
            if let Some(exchange) = request.extensions().get::<Exchange>() {
                exchange.update(|record| record.rejection = Some("method_refused"));
            }
            let detail = "This method is not served here.";
            let answer = Answer::new(StatusCode::METHOD_NOT_ALLOWED, "method_refused", detail)
                .header(header::ALLOW, allow.clone());
            return ShortCircuit::rejected(answer.render(Format::preferred(request.headers())));
        }
        remove_overrides(request.headers_mut());
        ShortCircuit::forwarded(self.inner.call(request))
    }
}

/// Takes out fields that would make a request one by another method at the origin.
pub(super) fn remove_overrides(headers: &mut HeaderMap) {
    twins::remove(headers, |name| OVERRIDES.iter().any(|field| are_twins(name, field)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    async fn asked(taken: &[Method], method: &str, field: &'static str) -> (u16, Option<String>) {
        let settings = MethodSettings { methods: taken.to_vec() };
        let inner = tower::service_fn(|request: Request<()>| async move {
            let status = if request.headers().is_empty() { 200 } else { 299 };
            let response = Response::builder().status(status).body(Bytes::new());
            Ok::<_, Infallible>(response.unwrap())
        });
        let mut request = Request::builder().method(method);
        if !field.is_empty() {
            request = request.header(field, "DELETE");
        }
        let mut service = MethodsLayer::new(&settings).layer(inner);
        let response = service.call(request.body(()).unwrap()).await.unwrap();
        let allow = response.headers().get(header::ALLOW).map(|v| v.to_str().unwrap().to_owned());
        (response.status().as_u16(), allow)
    }

    #[tokio::test]
    async fn what_is_not_named_is_405_and_head_comes_with_get() {
        let taken = [Method::GET, Method::POST];
        for method in ["GET", "HEAD", "POST", "CONNECT"] {
            assert_eq!(asked(&taken, method, "").await, (200, None), "{method}");
        }
        for method in ["DELETE", "get", "BREW", "OPTIONS"] {
            let allow = Some("GET, POST, HEAD".to_owned());
            assert_eq!(asked(&taken, method, "").await, (405, allow), "{method}");
        }
        assert_eq!(asked(&[Method::POST], "HEAD", "").await.0, 405);
    }

    #[tokio::test]
    async fn no_other_method_is_smuggled_in_a_field() {
        for field in ["x-http-method-override", "x_http_method_override", "x-method-override"] {
            assert_eq!(asked(&[Method::POST], "POST", field).await.0, 200, "{field}");
        }
        assert_eq!(asked(&[Method::POST], "POST", "x-other").await.0, 299);
    }
}
