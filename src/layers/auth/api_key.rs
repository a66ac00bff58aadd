//! Authentication by API key.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use foldhash::fast::RandomState;
use http::header;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use tower::{Layer, Service};

use crate::context::Exchange;
use crate::layers::twins::remove_twins;
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
/// work, meets a missing key and a wrong one: what was given is hashed, its
/// digest is looked up, and one digest is compared in constant time, somebody's
/// or nobody's. The work does not grow with the number of keys.
#[derive(Clone, Debug)]
pub struct ApiKeyAuth<S> {
    inner: S,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    settings: ApiKeySettings,
    challenge: HeaderValue,
    /// Whose keys they are.
    names: HashMap<KeyDigest, Arc<str>, RandomState>,
    /// What an unknown key is compared with.
    nobody: KeyDigest,
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
        let names = settings.keys.iter().map(|key| (key.digest, key.name.clone())).collect();
        let nobody = KeyDigest::from_bytes([0; 32]);
        let shared = Shared { settings: settings.clone(), challenge, names, nobody };
        Self { shared: Arc::new(shared) }
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
        let Shared { settings, challenge, .. } = &*self.shared;
        let identified = self.shared.identify(request.headers());
        if let Some(exchange) = request.extensions().get::<Exchange>() {
            exchange.update(|record| match &identified {
                Ok(name) => record.identity = Some(name.clone()),
                Err(rejection) => record.rejection = Some(rejection),
            });
        }
        let Ok(name) = identified else {
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
        ShortCircuit::forwarded(self.inner.call(request))
    }
}

impl Shared {
    /// The name of the key that a request carries, or why it has none.
    fn identify(&self, headers: &HeaderMap) -> Result<Arc<str>, &'static str> {
        let mut lines = headers.get_all(&self.settings.header).iter();
        let (given, why) = match (lines.next(), lines.next()) {
            (Some(given), None) => (given.as_bytes(), "auth_invalid"),
            (Some(_), Some(_)) => (&b""[..], "auth_ambiguous"),
            (None, _) => (&b""[..], "auth_missing"),
        };
        let digest = KeyDigest::of(given);
        // To where in the map a request leads is for SHA-256 to say and not for
        // whoever sent it: how long the look-up takes tells nothing of the keys.
        let known = self.names.get_key_value(&digest).map(|(digest, name)| (digest, Some(name)));
        let (stored, name) = known.unwrap_or((&self.nobody, None));
        let same = bool::from(stored.matches(&digest));
        let given_once = why == "auth_invalid";
        name.filter(|_| same && given_once).cloned().ok_or(why)
    }
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

    #[test]
    fn each_of_many_keys_is_found_and_no_other_is() {
        let keys = (0..1_000).map(|n| key(&format!("client-{n}"), &format!("secret-{n}")));
        let layer = ApiKeyLayer::new(&ApiKeySettings::new(keys.collect()));
        let identify = |secret: String| {
            let headers = [("x-api-key", secret)].map(|(name, value)| {
                (HeaderName::from_static(name), HeaderValue::try_from(value).unwrap())
            });
            layer.shared.identify(&headers.into_iter().collect())
        };
        for n in 0..1_000 {
            assert_eq!(identify(format!("secret-{n}")).as_deref(), Ok(&*format!("client-{n}")));
            assert_eq!(identify(format!("Secret-{n}")), Err("auth_invalid"));
        }
    }

    #[test]
    fn nobodys_digest_lets_nobody_in() {
        let mut layer = ApiKeyLayer::new(&ApiKeySettings::new(Vec::new()));
        let shared = Arc::get_mut(&mut layer.shared).unwrap();
        shared.nobody = KeyDigest::of(b"x");
        let headers = [(HeaderName::from_static("x-api-key"), HeaderValue::from_static("x"))];
        assert_eq!(shared.identify(&headers.into_iter().collect()), Err("auth_invalid"));
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
