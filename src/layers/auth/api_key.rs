//! API keys.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};

use super::authenticate::{Asked, Authenticate, Changes, Grant, Judging, Verdict};
use crate::context::Identity;
use crate::layers::{ApiKeySettings, KeyDigest};

/// Knows who asks by a key that the request carries.
///
/// The key is taken out of the request; its name goes into the exchange and,
/// if asked for, into a field for the origin. The same answer, after the same
/// work, meets a missing key and a wrong one: what was given is hashed, its
/// digest is looked up, and one digest is compared in constant time, somebody's
/// or nobody's. The work does not grow with the number of keys.
#[derive(Debug)]
pub struct ApiKeys {
    settings: ApiKeySettings,
    challenge: HeaderValue,
    /// What each key is good for.
    known: HashMap<KeyDigest, Known, RandomState>,
    /// What an unknown key is compared with.
    nobody: KeyDigest,
}

/// Made once for all requests with one key.
#[derive(Clone, Debug)]
struct Known {
    identity: Arc<Identity>,
    changes: Arc<Changes>,
}

impl ApiKeys {
    /// Knows these keys.
    #[must_use]
    pub fn new(settings: &ApiKeySettings) -> Self {
        // `ApiKey` is no registered scheme (RFC 9110 §16.4.1): there is none
        // for keys in a field of their own, and a 401 must carry a challenge.
        let challenge = format!("ApiKey realm=\"tollgate\", header=\"{}\"", settings.header);
        let challenge = HeaderValue::try_from(challenge)
            .unwrap_or_else(|_| HeaderValue::from_static("ApiKey realm=\"tollgate\""));
        let known = |name: &Arc<str>| {
            let field = settings.identity_header.clone();
            let set = field.and_then(|field| Some((field, HeaderValue::from_str(name).ok()?)));
            let changes = Changes {
                remove: vec![settings.header.clone()],
                set: set.into_iter().collect(),
                strip_query: None,
            };
            let identity = Arc::new(Identity::new(name.clone(), "api_key"));
            Known { identity, changes: Arc::new(changes) }
        };
        let known = settings.keys.iter().map(|key| (key.digest, known(&key.name))).collect();
        let nobody = KeyDigest::from_bytes([0; 32]);
        Self { settings: settings.clone(), challenge, known, nobody }
    }

    /// What the key of a request is good for, or why it is good for nothing; the latter
    /// is nothing if there is no key.
    fn identify(&self, headers: &HeaderMap) -> Result<&Known, Option<&'static str>> {
        let mut lines = headers.get_all(&self.settings.header).iter();
        let (given, why) = match (lines.next(), lines.next()) {
            (Some(given), None) => (given.as_bytes(), Some("auth_invalid")),
            (Some(_), Some(_)) => (&b""[..], Some("auth_ambiguous")),
            (None, _) => (&b""[..], None),
        };
        let digest = KeyDigest::of(given);
        // To where in the map a request leads is for SHA-256 to say and not for
        // whoever sent it: how long the look-up takes tells nothing of the keys.
        let found = self.known.get_key_value(&digest).map(|(digest, known)| (digest, Some(known)));
        let (stored, known) = found.unwrap_or((&self.nobody, None));
        let same = bool::from(stored.matches(&digest));
        let given_once = why == Some("auth_invalid");
        known.filter(|_| same && given_once).ok_or(why)
    }
}

impl Authenticate for ApiKeys {
    fn scheme(&self) -> &'static str {
        "api_key"
    }

    fn judge(&self, request: &Asked<'_>) -> Judging {
        let verdict = match self.identify(request.headers) {
            Ok(known) => {
                Verdict::Granted(Grant::to(known.identity.clone()).changing(known.changes.clone()))
            }
            Err(Some(why)) => Verdict::Refused(why),
            Err(None) => Verdict::Absent,
        };
        verdict.into()
    }

    fn challenge(&self) -> Option<HeaderValue> {
        Some(self.challenge.clone())
    }

    fn identity_fields(&self) -> Vec<HeaderName> {
        self.settings.identity_header.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::Body;
    use crate::layers::{ApiKey, AuthLayer};
    use http::{Request, Response};
    use std::convert::Infallible;
    use tower::{Layer, ServiceExt};

    fn key(name: &str, secret: &str) -> ApiKey {
        ApiKey { name: name.into(), digest: KeyDigest::of(secret.as_bytes()) }
    }

    /// Answers with the fields that reached the origin.
    async fn ask(fields: &[(&str, &str)]) -> Response<Body> {
        let echo = |request: Request<Body>| async move {
            let mut response = Response::new(Body::empty());
            *response.headers_mut() = request.headers().clone();
            Ok::<_, Infallible>(response)
        };
        let mut settings = ApiKeySettings::new(vec![key("alice", "a1"), key("bob", "b2")]);
        settings.identity_header = Some(HeaderName::from_static("x-client"));
        let service = AuthLayer::by(ApiKeys::new(&settings)).layer(tower::service_fn(echo));
        let mut request = Request::get("/");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        service.oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
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
        let keys = ApiKeys::new(&ApiKeySettings::new(keys.collect()));
        let identify = |secret: String| {
            let headers = [("x-api-key", secret)].map(|(name, value)| {
                (HeaderName::from_static(name), HeaderValue::try_from(value).unwrap())
            });
            let known = keys.identify(&headers.into_iter().collect())?;
            Ok::<_, Option<&str>>(known.identity.name.to_string())
        };
        for n in 0..1_000 {
            assert_eq!(identify(format!("secret-{n}")).as_deref(), Ok(&*format!("client-{n}")));
            assert_eq!(identify(format!("Secret-{n}")), Err(Some("auth_invalid")));
        }
    }

    #[test]
    fn nobodys_digest_lets_nobody_in() {
        let mut keys = ApiKeys::new(&ApiKeySettings::new(Vec::new()));
        keys.nobody = KeyDigest::of(b"x");
        let headers = [(HeaderName::from_static("x-api-key"), HeaderValue::from_static("x"))];
        let identified = keys.identify(&headers.into_iter().collect());
        assert_eq!(identified.err(), Some(Some("auth_invalid")));
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
