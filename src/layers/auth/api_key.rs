//! Authentication by API key.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use subtle::{Choice, ConditionallySelectable};
use tower::{Layer, Service};

use super::identity::remove_twins;
use crate::context::Exchange;
use crate::layers::{ApiKeySettings, KeyDigest, ShortCircuit};
use crate::respond::{Answer, Format};

/// Puts [`ApiKeyAuth`] before a service.
#[derive(Clone, Debug)]
pub struct ApiKeyLayer {
    shared: Arc<Shared>,
}

/// Lets requests with a known API key in, and answers 401 to all others.
///
/// The key is taken out of the request; its name goes into the exchange and,
/// if asked for, into a field for the origin. The same answer, after the same
/// work, meets a missing key and a wrong one.
#[derive(Clone, Debug)]
pub struct ApiKeyAuth<S> {
    inner: S,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    settings: ApiKeySettings,
    challenge: HeaderValue,
}

impl ApiKeyLayer {
    /// Lets these keys in.
    #[must_use]
    pub fn new(settings: &ApiKeySettings) -> Self {
        // `ApiKey` is no registered scheme (RFC 9110 §16.4.1): there is none
        // for keys in a field of their own, and a 401 must carry a challenge.
        let challenge = format!("ApiKey realm=\"tollgate\", header=\"{}\"", settings.header);
        let challenge = HeaderValue::try_from(challenge)
            .unwrap_or_else(|_| HeaderValue::from_static("ApiKey realm=\"tollgate\""));
        Self { shared: Arc::new(Shared { settings: settings.clone(), challenge }) }
    }
}

impl<S> Layer<S> for ApiKeyLayer {
    type Service = ApiKeyAuth<S>;

    fn layer(&self, inner: S) -> ApiKeyAuth<S> {
        ApiKeyAuth { inner, shared: self.shared.clone() }
    }
}

impl<S, B, ResB> Service<Request<B>> for ApiKeyAuth<S>
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
        let Shared { settings, challenge } = &*self.shared;
        let exchange = request.extensions().get::<Exchange>().cloned();
        let (name, rejection) = identify(request.headers(), settings);
        let Some(name) = name else {
            if let Some(exchange) = exchange {
                exchange.update(|record| record.rejection = Some(rejection));
            }
            let detail = "A valid API key is needed here.";
            let answer = Answer::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
                .header(header::WWW_AUTHENTICATE, challenge.clone());
            return ShortCircuit::rejected(answer.render(Format::preferred(request.headers())));
        };
        let headers = request.headers_mut();
        headers.remove(&settings.header);
        if let Some(field) = &settings.identity_header {
            remove_twins(headers, field);
            if let Ok(value) = HeaderValue::from_str(&name) {
                headers.insert(field.clone(), value);
            }
        }
        if let Some(exchange) = exchange {
            exchange.update(|record| record.identity = Some(name));
        }
        ShortCircuit::forwarded(self.inner.call(request))
    }
}

/// The name of the key that a request carries, or why it has none.
fn identify(headers: &HeaderMap, settings: &ApiKeySettings) -> (Option<Arc<str>>, &'static str) {
    let mut lines = headers.get_all(&settings.header).iter();
    let (given, why) = match (lines.next(), lines.next()) {
        (Some(given), None) => (given.as_bytes(), "auth_invalid"),
        (Some(_), Some(_)) => (&b""[..], "auth_ambiguous"),
        (None, _) => (&b""[..], "auth_missing"),
    };
    let digest = KeyDigest::of(given);
    // Every key is compared, so that the time says nothing of which one, if
    // any, it was.
    let (mut known, mut which) = (Choice::from(0), 0_u32);
    for (index, key) in (0_u32..).zip(&settings.keys) {
        let same = key.digest.matches(&digest);
        which.conditional_assign(&index, same);
        known |= same;
    }
    let given_once = why == "auth_invalid";
    let name = (bool::from(known) && given_once)
        .then(|| settings.keys.get(which as usize).map(|key| key.name.clone()))
        .flatten();
    (name, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::Body;
    use crate::layers::ApiKey;
    use http::HeaderName;
    use std::convert::Infallible;
    use tower::ServiceExt;

    fn key(name: &str, secret: &str) -> ApiKey {
        ApiKey { name: name.into(), digest: KeyDigest::of(secret.as_bytes()) }
    }

    /// Answers with the fields that reached the origin.
    async fn ask(fields: &[(&str, &str)]) -> Response<Body> {
        let echo = |request: Request<()>| async move {
            let mut response = Response::new(Body::empty());
            *response.headers_mut() = request.headers().clone();
            Ok::<_, Infallible>(response)
        };
        let mut settings = ApiKeySettings::new(vec![key("alice", "a1"), key("bob", "b2")]);
        settings.identity_header = Some(HeaderName::from_static("x-client"));
        let service = ApiKeyLayer::new(&settings).layer(tower::service_fn(echo));
        let mut request = Request::get("/");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        service.oneshot(request.body(()).unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn defect_4_each_key_has_a_name_that_is_carried_on_and_the_key_is_not() {
        for (secret, name) in [("a1", "alice"), ("b2", "bob")] {
            let response = ask(&[("x-api-key", secret)]).await;
            assert_eq!(response.status(), 200);
            assert_eq!(response.headers()["x-client"], name);
            assert!(!response.headers().contains_key("x-api-key"));
        }
    }

    #[tokio::test]
    async fn defect_5_a_401_carries_a_challenge_and_is_the_same_for_missing_and_wrong() {
        let missing = ask(&[]).await;
        let wrong = ask(&[("x-api-key", "a2")]).await;
        for response in [&missing, &wrong] {
            assert_eq!(response.status(), 401);
            let challenge = response.headers()["www-authenticate"].to_str().unwrap();
            assert!(challenge.contains("x-api-key"), "{challenge}");
        }
        assert_eq!(missing.headers(), wrong.headers());
    }

    #[tokio::test]
    async fn two_keys_are_one_too_many_even_if_one_is_right() {
        let response = ask(&[("x-api-key", "a1"), ("x-api-key", "a1")]).await;
        assert_eq!(response.status(), 401);
    }

    #[tokio::test]
    async fn nobody_can_bring_an_identity_along() {
        let response = ask(&[
            ("x-api-key", "a1"),
            ("x-client", "root"),
            ("x_client", "root"),
            ("x.client", "root"),
        ])
        .await;
        let fields: Vec<_> = response.headers().iter().collect();
        assert_eq!(fields.len(), 1, "{fields:?}");
        assert_eq!(response.headers()["x-client"], "alice");
    }
}
