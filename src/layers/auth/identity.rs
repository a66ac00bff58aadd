//! Fields that only Tollgate may set: who a request is from.

use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::HeaderName;
use http::{HeaderMap, Request};
use tower::{Layer, Service};

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

/// Takes a field out, with the names that some origins read as the same:
/// `X_Client` and `X.Client` for `X-Client`.
pub(super) fn remove_twins(headers: &mut HeaderMap, field: &HeaderName) {
    // Most requests have none.
    if !headers.keys().any(|name| are_twins(name, field)) {
        return;
    }
    let twins: Vec<HeaderName> =
        headers.keys().filter(|name| are_twins(name, field)).cloned().collect();
    for twin in twins {
        headers.remove(twin);
    }
}

fn are_twins(one: &HeaderName, other: &HeaderName) -> bool {
    let plain = |byte: u8| if matches!(byte, b'_' | b'.') { b'-' } else { byte };
    let (one, other) = (one.as_str().as_bytes(), other.as_str().as_bytes());
    one.len() == other.len() && one.iter().zip(other).all(|(a, b)| plain(*a) == plain(*b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn a_field_goes_with_its_twins_and_nothing_else_does() {
        let mut headers = HeaderMap::new();
        for name in ["x-client", "x_client", "x.client", "x-client-id"] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static("root"));
        }
        remove_twins(&mut headers, &HeaderName::from_static("x-client"));
        assert_eq!(headers.keys().collect::<Vec<_>>(), ["x-client-id"]);
    }
}
