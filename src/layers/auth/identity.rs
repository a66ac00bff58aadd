//! Fields that only Tollgate may set: who a request is from.

use std::sync::Arc;
use std::task::{Context, Poll};

use http::Request;
use http::header::HeaderName;
use tower::{Layer, Service};

use crate::layers::twins::remove_twins;

/// Puts [`StripIdentity`] before a service.
#[derive(Clone, Debug)]
pub struct StripIdentityLayer {
    fields: Arc<[HeaderName]>,
}

/// Takes identity fields out of every request, also of those whose route asks
/// for no key: the origin behind it may believe them all the same.
#[derive(Clone, Debug)]
pub struct StripIdentity<S> {
    inner: S,
    fields: Arc<[HeaderName]>,
}

impl StripIdentityLayer {
    /// Takes these fields out, and the names that some origins read as theirs.
    #[must_use]
    pub fn new(fields: impl IntoIterator<Item = HeaderName>) -> Self {
        Self { fields: fields.into_iter().collect() }
    }
}

impl<S> Layer<S> for StripIdentityLayer {
    type Service = StripIdentity<S>;

    fn layer(&self, inner: S) -> StripIdentity<S> {
        StripIdentity { inner, fields: self.fields.clone() }
    }
}

impl<S, B> Service<Request<B>> for StripIdentity<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        for field in &*self.fields {
            remove_twins(request.headers_mut(), field);
        }
        self.inner.call(request)
    }
}
