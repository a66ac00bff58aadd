//! From the text of a token to what it says.

use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header;

use super::claims::Claims;
use super::jwk;
use super::key::{Key, KeySet};
use super::token::Token;
use super::{JwksSettings, JwtAlgorithm, JwtKeys, JwtRules, JwtSetupError};
use crate::error::BoxError;
use crate::fetch::{Fetch, FetchSettings, place};
use crate::layers::auth::kept::{Fresh, Kept, Pace, Source};
use crate::layers::list_members;
use crate::observe::Metrics;

/// What a token is checked by, besides keys.
#[derive(Clone, Debug)]
pub(in crate::layers::auth) struct Checks {
    pub(in crate::layers::auth) algorithms: Vec<JwtAlgorithm>,
    pub(in crate::layers::auth) rules: JwtRules,
    /// The longest token, in bytes.
    pub(in crate::layers::auth) max_token: usize,
}

/// Checks tokens by keys that it has, or has fetched.
#[derive(Clone, Debug)]
pub(super) struct Verifier {
    keys: Keys,
    checks: Arc<Checks>,
}

#[derive(Clone, Debug)]
enum Keys {
    Fixed(Arc<KeySet>),
    Jwks(Kept<Jwks>),
}

/// Where an issuer publishes its keys.
#[derive(Debug)]
struct Jwks {
    settings: JwksSettings,
    fetch: Fetch,
    algorithms: Vec<JwtAlgorithm>,
    /// Its URL, as far as it may be told.
    place: String,
}

/// Why a token is not taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::layers::auth) enum Fault {
    /// For this reason, which goes to the log only.
    Refused(&'static str),
    /// It was good, or will be, for this reason not now.
    Outdated(&'static str),
    /// There is no key that it could be by.
    UnknownKey,
    /// It cannot be told now, for this reason.
    Unavailable(&'static str),
}

/// The issuer may have a new key that could not be fetched yet: this is nobody's guess.
const UNKNOWN_FOR_NOW: Fault = Fault::Outdated("jwt_unknown_key");

/// What came of a token.
pub(super) enum Verifying {
    Now(Result<Claims, Fault>),
    /// Keys have to be fetched first.
    Later(Pin<Box<dyn Future<Output = Result<Claims, Fault>> + Send>>),
}

impl Checks {
    /// Whether a token is short enough to be looked at.
    fn looks_at(&self, text: &str) -> bool {
        text.len() <= self.max_token
    }

    /// What a token says, if it is by one of these keys and says what it has to.
    pub(in crate::layers::auth) fn check(
        &self,
        text: &str,
        keys: &KeySet,
    ) -> Result<Claims, Fault> {
        if !self.looks_at(text) {
            return Err(Fault::Refused("jwt_too_long"));
        }
        let mut head = Vec::new();
        let token = Token::read(text, &mut head).map_err(Fault::Refused)?;
        if !self.algorithms.contains(&token.algorithm) {
            return Err(Fault::Refused("jwt_algorithm"));
        }
        let id = token.key_id.as_deref();
        if !keys.knows(token.algorithm, id) {
            return Err(Fault::UnknownKey);
        }
        if !keys.verify(token.algorithm, id, token.signed, &token.signature) {
            return Err(Fault::Refused("jwt_signature"));
        }
        // Nothing of what it says is read before it is known who said it.
        let payload = token.payload().map_err(Fault::Refused)?;
        let claims = Claims::read(&payload).map_err(Fault::Refused)?;
        self.rules.check(&claims, now())?;
        Ok(claims)
    }
}

impl Verifier {
    pub(super) fn new(
        keys: &JwtKeys,
        algorithms: &[JwtAlgorithm],
        rules: JwtRules,
        max_token: usize,
        metrics: &Metrics,
    ) -> Result<Self, JwtSetupError> {
        let mut algorithms = algorithms.to_vec();
        let keys = match keys {
            JwtKeys::Secret(secret) => {
                if algorithms.is_empty() {
                    algorithms.push(JwtAlgorithm::Hs256);
                }
                fixed(Key::secret(secret.reveal(), &algorithms)?)
            }
            JwtKeys::PublicKey(key) => {
                let key = Key::public(key.info(), &algorithms)?;
                algorithms = key.algorithms().collect();
                fixed(key)
            }
            JwtKeys::Jwks(settings) => {
                if algorithms.is_empty() {
                    algorithms.extend(JwtAlgorithm::PUBLIC);
                }
                if let Some(secret) = algorithms.iter().find(|one| one.is_symmetric()) {
                    return Err(JwtSetupError::PublishedSecret(*secret));
                }
                Keys::Jwks(Jwks::new(settings, &algorithms, metrics)?)
            }
        };
        Ok(Self { keys, checks: Arc::new(Checks { algorithms, rules, max_token }) })
    }

    pub(super) fn rules(&self) -> &JwtRules {
        &self.checks.rules
    }

    /// When a token with these claims is good, in seconds since 1970.
    pub(super) fn times(&self, claims: &Claims) -> Option<Range<f64>> {
        self.rules().times(claims).ok()
    }

    /// Whether a token is short enough to be looked at.
    pub(super) fn looks_at(&self, text: &str) -> bool {
        self.checks.looks_at(text)
    }

    /// The keys that there are now, if any.
    pub(super) fn keys(&self) -> Option<Arc<KeySet>> {
        match &self.keys {
            Keys::Fixed(keys) => Some(keys.clone()),
            Keys::Jwks(kept) => kept.get(),
        }
    }

    /// What a token says, if it can be believed. `keys` are those that there are.
    pub(super) fn verify(&self, text: &str, keys: Option<Arc<KeySet>>) -> Verifying {
        // With no keys as well, for what is no token at all does not wait for any.
        let none = KeySet::default();
        let kept = match (self.checks.check(text, keys.as_deref().unwrap_or(&none)), &self.keys) {
            (Err(Fault::UnknownKey), Keys::Jwks(kept)) => kept,
            (done, _) => return Verifying::Now(done.map_err(named)),
        };
        let Some(renewed) = kept.renewed() else {
            return Verifying::Now(Err(match keys {
                Some(_) => UNKNOWN_FOR_NOW,
                None => Fault::Unavailable("jwt_no_keys"),
            }));
        };
        let (text, checks) = (text.to_owned(), self.checks.clone());
        Verifying::Later(Box::pin(async move {
            match renewed.await {
                Some(fresh) => checks.check(&text, &fresh).map_err(|fault| {
                    let is_fresh = keys.is_none_or(|keys| !Arc::ptr_eq(&keys, &fresh));
                    let is_unknown = fault == Fault::UnknownKey;
                    if is_unknown && !is_fresh { UNKNOWN_FOR_NOW } else { named(fault) }
                }),
                None => Err(Fault::Unavailable("jwt_no_keys")),
            }
        }))
    }
}

/// Seconds since 1970.
pub(super) fn now() -> f64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs_f64()
}

fn fixed(key: Key) -> Keys {
    Keys::Fixed(Arc::new(KeySet::new(vec![key])))
}

fn named(fault: Fault) -> Fault {
    match fault {
        Fault::UnknownKey => Fault::Refused("jwt_unknown_key"),
        other => other,
    }
}

impl Jwks {
    fn new(
        settings: &JwksSettings,
        algorithms: &[JwtAlgorithm],
        metrics: &Metrics,
    ) -> Result<Kept<Self>, JwtSetupError> {
        let fetch = Fetch::new(&FetchSettings {
            ca: settings.ca.clone(),
            plain: settings.url.scheme_str() == Some("http"),
            timeout: settings.timeout,
            ..FetchSettings::default()
        })?;
        let pace = Pace {
            refresh: settings.refresh,
            pause: settings.unknown_kid_pause.min(settings.refresh),
            patience: settings.timeout + Duration::from_secs(1),
        };
        let place = place(&settings.url);
        let counts = metrics.fetches(&place);
        let (settings, algorithms) = (settings.clone(), algorithms.to_vec());
        Ok(Kept::new(Self { settings, fetch, algorithms, place }, pace, counts))
    }
}

impl Source for Jwks {
    type Value = KeySet;

    async fn fetch(&self) -> Result<Fresh<KeySet>, BoxError> {
        let response = self.fetch.get_json(&self.settings.url).await?;
        let lifetime = max_age(response.headers());
        Ok(Fresh { value: jwk::read(response.body(), &self.algorithms)?, lifetime })
    }

    fn what(&self) -> &'static str {
        "the keys of tokens"
    }

    fn place(&self) -> &str {
        &self.place
    }
}

/// How long an answer says that it is good (RFC 9111 §5.2.2.1).
pub(in crate::layers::auth) fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let lines = headers.get_all(header::CACHE_CONTROL).iter();
    let mut members = lines.flat_map(|line| list_members(line.as_bytes()));
    members.find_map(|member| {
        let (name, seconds) = std::str::from_utf8(member).ok()?.split_once('=')?;
        let seconds = name.eq_ignore_ascii_case("max-age").then(|| seconds.trim_matches('"'))?;
        seconds.parse().ok().map(Duration::from_secs)
    })
}
