//! The identity provider: what it says of itself, and what it is asked for.

use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::Value;

use super::OidcSettings;
use crate::error::BoxError;
use crate::fetch::{Fetch, FetchSettings, FetchSetupError};
use crate::layers::auth::jwt::{KeySet, jwks, max_age};
use crate::layers::auth::kept::{Fresh, Kept, Pace, Source};
use crate::layers::{JwtAlgorithm, SharedSecret};
use crate::observe::Metrics;
use crate::roots::RootsError;

/// What is encoded in a form and in a query: all but what RFC 3986 §2.3 leaves as it is.
const IN_FORM: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// How long what a provider says of itself, and its keys, are used.
const REFRESH: Duration = Duration::from_secs(600);

/// How long an unknown key does not have them fetched again.
const PAUSE: Duration = Duration::from_secs(30);

/// Where a provider is found.
#[derive(Debug)]
pub(super) struct Discovery {
    issuer: String,
    url: Uri,
    fetch: Fetch,
    algorithms: Vec<JwtAlgorithm>,
}

/// What a provider says of itself (OpenID Connect Discovery 1.0 §3), and its keys.
#[derive(Debug)]
pub(super) struct Provider {
    /// Where people are sent to log in.
    pub(super) authorization: Uri,
    /// Where a code is exchanged.
    token: Uri,
    /// Where people are sent to log out.
    pub(super) end_session: Option<Uri>,
    /// Whether it says in its answers who it is (RFC 9207).
    pub(super) tells_issuer: bool,
    /// Whether it takes a client's secret in the body only.
    secret_in_body: bool,
    pub(super) keys: KeySet,
}

/// What a code was exchanged for.
#[derive(Debug, Deserialize)]
pub(super) struct Tokens {
    pub(super) id_token: String,
    /// What was granted, as words; `None` if that is all that was asked for.
    #[serde(default, deserialize_with = "words")]
    pub(super) scope: Option<String>,
}

/// Words with spaces between (RFC 6749 §3.3), or a list of them, as some providers have it. In
/// anything else there are none.
fn words<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    Ok(match Value::deserialize(from)? {
        Value::Null => None,
        Value::String(words) => Some(words),
        Value::Array(words) => {
            let words: Vec<&str> = words.iter().filter_map(Value::as_str).collect();
            Some(words.join(" "))
        }
        _ => Some(String::new()),
    })
}

/// Why there is nothing for a code, in the provider's words.
#[derive(Deserialize)]
struct Denial {
    error: String,
}

#[derive(Deserialize)]
struct Metadata {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    end_session_endpoint: Option<String>,
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
}

/// Why a provider is not to be used.
#[derive(Debug, thiserror::Error)]
enum ProviderError {
    #[error("it says nothing of itself that could be read: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("it calls itself `{0}`")]
    Other(String),
    #[error("its {what} `{url}` is not to be used")]
    Url { what: &'static str, url: String },
}

/// Why there is nothing for a code.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExchangeError {
    /// The provider does not know the code, or not as one of this login (`invalid_grant`, RFC
    /// 6749 §5.2).
    #[error("it does not know a code")]
    Unknown,
    /// The provider would not have it, for a reason that need not be the code.
    #[error("it answered {0} to a code")]
    Refused(StatusCode),
    #[error("a code cannot be exchanged: {0}")]
    Failed(#[source] BoxError),
}

impl Discovery {
    pub(super) fn new(
        settings: &OidcSettings,
        algorithms: &[JwtAlgorithm],
        fetch: Fetch,
        metrics: &Metrics,
    ) -> Result<Kept<Self>, http::uri::InvalidUri> {
        let issuer = settings.issuer.clone();
        let base = issuer.trim_end_matches('/');
        let url = format!("{base}/.well-known/openid-configuration").parse()?;
        let pace = Pace {
            refresh: REFRESH,
            pause: PAUSE,
            patience: 2 * settings.timeout + Duration::from_secs(1),
        };
        let discovery = Self { issuer, url, fetch, algorithms: algorithms.to_vec() };
        let counts = metrics.fetches(discovery.place());
        Ok(Kept::new(discovery, pace, counts))
    }

    fn provider(&self, metadata: &Metadata, keys: KeySet) -> Result<Provider, ProviderError> {
        let url = |what, text: &str| self.url_of(what, text);
        let methods = metadata.token_endpoint_auth_methods_supported.as_deref();
        let has = |name: &str| methods.is_some_and(|all| all.iter().any(|one| one == name));
        Ok(Provider {
            authorization: url("authorization_endpoint", &metadata.authorization_endpoint)?,
            token: url("token_endpoint", &metadata.token_endpoint)?,
            end_session: match &metadata.end_session_endpoint {
                Some(text) => Some(url("end_session_endpoint", text)?),
                None => None,
            },
            tells_issuer: metadata.authorization_response_iss_parameter_supported,
            secret_in_body: has("client_secret_post") && !has("client_secret_basic"),
            keys,
        })
    }

    /// Nothing of a provider that is reached over TLS is to be had without.
    fn url_of(&self, what: &'static str, text: &str) -> Result<Uri, ProviderError> {
        let wrong = || ProviderError::Url { what, url: text.chars().take(200).collect() };
        let url: Uri = text.parse().map_err(|_| wrong())?;
        let is_web = match url.scheme_str() {
            Some("https") => true,
            Some("http") => self.url.scheme_str() == Some("http"),
            _ => false,
        };
        let host = url.authority().filter(|authority| !authority.as_str().contains('@'));
        if is_web && host.is_some() { Ok(url) } else { Err(wrong()) }
    }
}

impl Source for Discovery {
    type Value = Provider;

    async fn fetch(&self) -> Result<Fresh<Provider>, BoxError> {
        let response = self.fetch.get_json(&self.url).await?;
        let metadata: Metadata =
            serde_json::from_slice(response.body()).map_err(ProviderError::Malformed)?;
        // Of two issuers with one name the other could log people in here (§4.3).
        if metadata.issuer != self.issuer {
            return Err(ProviderError::Other(metadata.issuer).into());
        }
        let jwks_url = self.url_of("jwks_uri", &metadata.jwks_uri)?;
        let response = self.fetch.get_json(&jwks_url).await?;
        let keys = jwks(response.body(), &self.algorithms)?;
        let lifetime = max_age(response.headers());
        Ok(Fresh { value: self.provider(&metadata, keys)?, lifetime })
    }

    fn what(&self) -> &'static str {
        "the keys of an identity provider"
    }

    fn place(&self) -> &str {
        &self.issuer
    }
}

impl Provider {
    /// Exchanges a code (RFC 6749 §4.1.3, RFC 7636 §4.5).
    pub(super) async fn exchange(
        &self,
        fetch: &Fetch,
        settings: &OidcSettings,
        code: &str,
        redirect: &str,
        verifier: &str,
    ) -> Result<Tokens, ExchangeError> {
        let mut fields = vec![
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", redirect),
            ("code_verifier", verifier),
        ];
        let mut request = Request::new(Bytes::new());
        *request.method_mut() = Method::POST;
        request.uri_mut().clone_from(&self.token);
        let headers = request.headers_mut();
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        headers.insert(header::CONTENT_TYPE, form);
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        let id = &settings.client_id;
        let secret = settings.client_secret.as_ref().map(SharedSecret::reveal);
        match secret.map(std::str::from_utf8).transpose().map_err(failed)? {
            // RFC 6749 §2.3.1
            Some(secret) if !self.secret_in_body => {
                let both = format!("{}:{}", encoded(id), encoded(secret));
                let value = format!("Basic {}", BASE64_STANDARD.encode(both));
                let mut value = HeaderValue::try_from(value).map_err(failed)?;
                value.set_sensitive(true);
                headers.insert(header::AUTHORIZATION, value);
            }
            Some(secret) => fields.extend([("client_id", &**id), ("client_secret", secret)]),
            None => fields.push(("client_id", id)),
        }
        *request.body_mut() = query(&fields).into();
        let response = fetch.send(request).await.map_err(failed)?;
        match response.status() {
            status if status.is_success() => {
                serde_json::from_slice(response.body()).map_err(failed)
            }
            status if status.is_client_error() => {
                let denial = serde_json::from_slice::<Denial>(response.body());
                let is_unknown = denial.is_ok_and(|denial| denial.error == "invalid_grant");
                Err(if is_unknown {
                    ExchangeError::Unknown
                } else {
                    ExchangeError::Refused(status)
                })
            }
            status => Err(ExchangeError::Failed(format!("it answered {status}").into())),
        }
    }
}

fn failed(error: impl Into<BoxError>) -> ExchangeError {
    ExchangeError::Failed(error.into())
}

/// What goes to the provider goes by this.
pub(super) fn fetch(settings: &OidcSettings) -> Result<Fetch, FetchSetupError> {
    let by = FetchSettings {
        ca: settings.ca.clone(),
        timeout: settings.timeout,
        ..FetchSettings::default()
    };
    match Fetch::new(&by) {
        // A provider that is reached without TLS need not have anything that is not.
        Err(FetchSetupError::Roots(RootsError::NoneOnSystem))
            if settings.issuer.starts_with("http:") =>
        {
            Fetch::new(&FetchSettings { plain: true, ..by })
        }
        made => made,
    }
}

/// `a=1&b=2`, encoded.
pub(super) fn query(fields: &[(&str, &str)]) -> String {
    let pairs: Vec<String> =
        fields.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
    pairs.join("&")
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, IN_FORM).to_string()
}

/// A URL with more in its query.
pub(super) fn with_query(url: &Uri, fields: &[(&str, &str)]) -> String {
    let (url, query) = (url.to_string(), query(fields));
    let join = if url.contains('?') { '&' } else { '?' };
    format!("{url}{join}{query}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn discovery(issuer: &str) -> Kept<Discovery> {
        let settings = OidcSettings::new(issuer, "tollgate", Vec::new());
        let fetch = fetch(&settings).unwrap();
        Discovery::new(&settings, &[], fetch, &Metrics::default()).unwrap()
    }

    #[test]
    fn a_provider_is_found_below_its_name() {
        for (issuer, below) in [
            ("https://id.test", ""),
            ("https://id.test/", ""),
            ("https://id.test/realms/a", "/realms/a"),
        ] {
            let kept = discovery(issuer);
            assert_eq!(kept.source().issuer, issuer);
            let url = format!("https://id.test{below}/.well-known/openid-configuration");
            assert_eq!(kept.source().url.to_string(), url);
        }
    }

    #[test]
    fn nothing_is_sent_where_anybody_could_read_it() {
        let safe = discovery("https://id.test");
        let safe = safe.source();
        assert!(safe.url_of("", "https://login.test/a?b=c").is_ok());
        for url in ["http://id.test/", "javascript:alert(1)", "/login", "https://a@id.test/", ""] {
            assert!(safe.url_of("", url).is_err(), "{url}");
        }
        let plain = discovery("http://127.0.0.1:1");
        assert!(plain.source().url_of("", "http://127.0.0.1:1/token").is_ok());
    }

    #[test]
    fn what_was_granted_is_read_however_it_is_said() {
        for (scope, granted) in [
            ("", None),
            (r#","scope":null"#, None),
            (r#","scope":"openid email""#, Some("openid email")),
            (r#","scope":["openid","email"]"#, Some("openid email")),
            (r#","scope":[]"#, Some("")),
            (r#","scope":7"#, Some("")),
        ] {
            let answer = format!(r#"{{"id_token":"a","token_type":"Bearer"{scope}}}"#);
            let tokens: Tokens = serde_json::from_str(&answer).unwrap();
            assert_eq!(tokens.scope.as_deref(), granted, "{answer}");
        }
    }

    #[test]
    fn what_stands_in_a_query_cannot_leave_it() {
        let url: Uri = "https://id.test/login?a=b".parse().unwrap();
        let whole = with_query(&url, &[("state", "x&y=z#\r\n é"), ("n", "-._~")]);
        assert_eq!(whole, "https://id.test/login?a=b&state=x%26y%3Dz%23%0D%0A%20%C3%A9&n=-._~");
    }
}
