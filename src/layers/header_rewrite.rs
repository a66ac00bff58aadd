//! Changes the fields of requests and responses as the operator wants them.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::{HeaderMap, Request, Response};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use super::{HeaderChanges, HeaderRewriteSettings};

/// Puts [`HeaderRewrite`] before a service.
#[derive(Clone, Debug)]
pub struct HeaderRewriteLayer {
    settings: Arc<HeaderRewriteSettings>,
}

/// Removes, sets and appends fields, in that order, both ways.
#[derive(Clone, Debug)]
pub struct HeaderRewrite<S> {
    inner: S,
    settings: Arc<HeaderRewriteSettings>,
}

impl HeaderRewriteLayer {
    /// Makes these changes.
    #[must_use]
    pub fn new(settings: &HeaderRewriteSettings) -> Self {
        Self { settings: Arc::new(settings.clone()) }
    }
}

impl<S> Layer<S> for HeaderRewriteLayer {
    type Service = HeaderRewrite<S>;

    fn layer(&self, inner: S) -> HeaderRewrite<S> {
        HeaderRewrite { inner, settings: self.settings.clone() }
    }
}

impl<S, B, ResB> Service<Request<B>> for HeaderRewrite<S>
where
    S: Service<Request<B>, Response = Response<ResB>>,
{
    type Response = Response<ResB>;
    type Error = S::Error;
    type Future = HeaderRewriteFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        change(request.headers_mut(), &self.settings.request);
        HeaderRewriteFuture { inner: self.inner.call(request), settings: self.settings.clone() }
    }
}

pin_project! {
    /// The response of [`HeaderRewrite`] on its way.
    #[derive(Debug)]
    pub struct HeaderRewriteFuture<F> {
        #[pin]
        inner: F,
        settings: Arc<HeaderRewriteSettings>,
    }
}

impl<F, ResB, E> Future for HeaderRewriteFuture<F>
where
    F: Future<Output = Result<Response<ResB>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.inner.poll(cx))?;
        change(response.headers_mut(), &this.settings.response);
        Poll::Ready(Ok(response))
    }
}

fn change(headers: &mut HeaderMap, changes: &HeaderChanges) {
    // Most messages have none of them, which one walk past their names tells.
    if !changes.remove.is_empty() && headers.keys().any(|name| changes.remove.contains(name)) {
        for name in &changes.remove {
            headers.remove(name);
        }
    }
    for (name, value) in &changes.set {
        headers.insert(name, value.clone());
    }
    for (name, value) in &changes.append {
        headers.append(name, value.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    #[test]
    fn fields_are_removed_then_set_then_appended() {
        let name = HeaderName::from_static;
        let value = HeaderValue::from_static;
        let mut headers = HeaderMap::new();
        headers.append("x-a", value("old"));
        headers.append("x-a", value("older"));
        headers.append("x-b", value("kept"));
        change(
            &mut headers,
            &HeaderChanges {
                remove: vec![name("x-a"), name("x-c")],
                set: vec![(name("x-a"), value("new"))],
                append: vec![(name("x-b"), value("more")), (name("x-a"), value("newer"))],
            },
        );
        let all = |name: &str| headers.get_all(name).iter().collect::<Vec<_>>();
        assert_eq!(all("x-a"), ["new", "newer"]);
        assert_eq!(all("x-b"), ["kept", "more"]);
    }

    #[test]
    fn by_default_responses_do_not_say_what_the_origin_runs() {
        let mut headers = HeaderMap::new();
        headers.insert("server", HeaderValue::from_static("origin/1.0"));
        headers.insert("x-powered-by", HeaderValue::from_static("magic"));
        change(&mut headers, &HeaderChanges::response_defaults());
        assert_eq!(headers["server"], "tollgate");
        assert_eq!(headers.len(), 1);
    }
}
