//! The future of every layer that counts what is under way.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::Response;
use pin_project_lite::pin_project;

use crate::body::{Body, Hold};

pin_project! {
    /// The response of an exchange that was let through, on its way. What it counts by goes
    /// on with the body, unless the exchange itself keeps it.
    #[derive(Debug)]
    pub struct Holding<F, P> {
        #[pin]
        inner: F,
        held: Option<P>,
    }
}

impl<F, P> Holding<F, P> {
    /// Waits for `inner`, and has the body of its response keep `held`, if there is anything.
    pub(super) fn new(inner: F, held: Option<P>) -> Self {
        Self { inner, held }
    }
}

impl<F, P, E> Future for Holding<F, P>
where
    F: Future<Output = Result<Response<Body>, E>>,
    P: Send + 'static,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx))?;
        Poll::Ready(Ok(match this.held.take() {
            Some(held) => response.map(|body| body.with_guard(Hold(held))),
            None => response,
        }))
    }
}
