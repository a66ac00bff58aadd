//! Authentication by API key.

mod entry;
mod given;
mod record;
#[cfg(feature = "redis")]
mod remote;
mod settings;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::fast::RandomState;
use http::HeaderValue;
use http::header::{AUTHORIZATION, HeaderName};
use http::request::Parts;

pub use record::{check_key_name, check_key_prefix, check_scope};
pub use settings::{ApiKey, ApiKeySettings, RedisKeySettings};

use super::authenticate::{Asked, Authenticate, Judging, Verdict};
use super::changes::strip_parameter;
use crate::layers::twins::remove_twins;
use crate::layers::{AuthMeans, KeyDigest};
use entry::Entry;
use given::{Given, Place};
#[cfg(feature = "redis")]
use remote::{Remote, Told};

/// What this scheme is called in logs.
const SCHEME: &str = "api_key";

/// Lets requests with a known API key in.
///
/// The same work meets a wrong key and one that nobody has: what was given is hashed, its
/// digest is looked up, and one digest is compared in constant time, somebody's or
/// nobody's. The work does not grow with the number of keys.
///
/// ```
/// use tollgate::layers::{ApiKey, ApiKeySettings, ApiKeys, AuthLayer, KeyDigest};
///
/// let mut key = ApiKey::new("ci", KeyDigest::of(b"secret123"));
/// key.scopes = ["deploy".into()].into();
/// let layer = AuthLayer::by(ApiKeys::new(&ApiKeySettings::new([key])));
/// # let _ = layer;
/// ```
#[derive(Debug)]
pub struct ApiKeys {
    settings: ApiKeySettings,
    challenge: HeaderValue,
    /// What each key brings.
    keys: HashMap<KeyDigest, Entry, RandomState>,
    /// What an unknown key is compared with.
    nobody: KeyDigest,
    #[cfg(feature = "redis")]
    remote: Option<Arc<Remote>>,
}

impl ApiKeys {
    /// Lets these keys in; not those in Redis: see [`ApiKeys::with`].
    #[must_use]
    pub fn new(settings: &ApiKeySettings) -> Self {
        let entry = |key: &ApiKey| (key.digest, Entry::of(key, settings));
        Self {
            challenge: challenge(settings),
            keys: settings.keys.iter().map(entry).collect(),
            settings: settings.clone(),
            nobody: KeyDigest::from_bytes([0; 32]),
            #[cfg(feature = "redis")]
            remote: None,
        }
    }

    /// Lets these keys in, those in Redis as well if [`ApiKeySettings::redis`] says so.
    ///
    /// # Errors
    ///
    /// There is no Redis, or none in this build.
    pub fn with(settings: &ApiKeySettings, means: &AuthMeans) -> Result<Self, String> {
        Self::after(None, settings, means)
    }

    /// The same, in the place of `before`: what Redis has said goes on, for Redis may be away
    /// when something else changes.
    #[cfg(feature = "redis")]
    pub(crate) fn after(
        before: Option<&Self>,
        settings: &ApiKeySettings,
        means: &AuthMeans,
    ) -> Result<Self, String> {
        let mut keys = Self::new(settings);
        let known = before.and_then(|before| before.remote.as_ref());
        keys.remote = match (&settings.redis, &means.redis) {
            (None, _) => None,
            (Some(_), None) => return Err("its keys stand in Redis, and there is none".to_owned()),
            (Some(of_redis), Some(redis)) => {
                let known = known.filter(|known| known.is_told(of_redis, settings));
                let new = || Arc::new(Remote::new(of_redis, settings, redis));
                Some(known.cloned().unwrap_or_else(new))
            }
        };
        Ok(keys)
    }

    /// The same, where there is no Redis to remember anything of.
    #[cfg(not(feature = "redis"))]
    pub(crate) fn after(
        _: Option<&Self>,
        settings: &ApiKeySettings,
        _: &AuthMeans,
    ) -> Result<Self, String> {
        match settings.redis {
            None => Ok(Self::new(settings)),
            Some(_) => {
                Err("this Tollgate was built without Redis (the feature `redis`)".to_owned())
            }
        }
    }

    /// What a key brings that is known here.
    fn known(&self, digest: &KeyDigest) -> Option<&Entry> {
        // To where in the map a request leads is for SHA-256 to say and not for
        // whoever sent it: how long the look-up takes tells nothing of the keys.
        let known = self.keys.get_key_value(digest).map(|(digest, entry)| (digest, Some(entry)));
        let (stored, entry) = known.unwrap_or((&self.nobody, None));
        let same = bool::from(stored.matches(digest));
        entry.filter(|_| same)
    }

    #[cfg(feature = "redis")]
    fn elsewhere(&self, digest: KeyDigest, place: Place, client: Option<IpAddr>) -> Judging {
        let Some(remote) = &self.remote else { return Verdict::Refused("auth_invalid").into() };
        if let Some(told) = remote.remembered(&digest) {
            return told.verdict(place).into();
        }
        let remote = remote.clone();
        Judging::Later(Box::pin(async move { remote.ask(digest, client).await.verdict(place) }))
    }

    #[cfg(not(feature = "redis"))]
    fn elsewhere(&self, _: KeyDigest, _: Place, _: Option<IpAddr>) -> Judging {
        Verdict::Refused("auth_invalid").into()
    }
}

impl Authenticate for ApiKeys {
    fn scheme(&self) -> &'static str {
        SCHEME
    }

    fn judge(&self, request: &Asked<'_>) -> Judging {
        match given::given(&self.settings, request) {
            Given::Nothing => Verdict::Absent.into(),
            Given::Several => Verdict::Refused("auth_ambiguous").into(),
            Given::Key(key, place) => {
                let digest = KeyDigest::of(&key);
                match self.known(&digest) {
                    Some(entry) => entry.verdict(place).into(),
                    None => self.elsewhere(digest, place, request.client()),
                }
            }
        }
    }

    fn challenge(&self) -> Option<HeaderValue> {
        Some(self.challenge.clone())
    }

    fn identity_fields(&self) -> Vec<HeaderName> {
        let ApiKeySettings { identity_header, scopes_header, .. } = &self.settings;
        [identity_header, scopes_header].into_iter().flatten().cloned().collect()
    }

    fn conceal(&self, request: &mut Parts, kept: &[HeaderName]) {
        if !kept.contains(&self.settings.header) {
            remove_twins(&mut request.headers, &self.settings.header);
        }
        // Of what stands in Redis nobody can tell here: every token there is taken for a key,
        // as it would be if this scheme were asked.
        let is_ours = |token: &[u8]| {
            self.settings.redis.is_some() || self.known(&KeyDigest::of(token)).is_some()
        };
        if self.settings.bearer
            && !kept.contains(&AUTHORIZATION)
            && given::bearers(&request.headers).any(is_ours)
        {
            request.headers.remove(AUTHORIZATION);
        }
        if let Some(parameter) = &self.settings.query {
            strip_parameter(request, parameter);
        }
    }

    fn credential_fields(&self) -> Vec<HeaderName> {
        let bearer = self.settings.bearer.then_some(AUTHORIZATION);
        [self.settings.header.clone()].into_iter().chain(bearer).collect()
    }

    fn shown_in(&self, request: &Asked<'_>) -> Option<Vec<HeaderName>> {
        match given::given(&self.settings, request) {
            Given::Key(_, Place::Field) => Some(vec![self.settings.header.clone()]),
            Given::Key(_, Place::Bearer) => Some(vec![AUTHORIZATION]),
            Given::Key(_, Place::Query) | Given::Nothing => Some(Vec::new()),
            Given::Several => None,
        }
    }

    fn secret_parameter(&self) -> Option<Arc<str>> {
        self.settings.query.clone()
    }
}

#[cfg(feature = "redis")]
impl Told {
    fn verdict(&self, place: Place) -> Verdict {
        match self {
            Self::Known(entry) => entry.verdict(place),
            Self::Unknown => Verdict::Refused("auth_invalid"),
            Self::Unavailable => Verdict::Unavailable("auth_unavailable"),
        }
    }
}

/// `ApiKey` is no registered scheme (RFC 9110 §16.4.1): there is none for keys in a field
/// of their own, and a 401 must carry a challenge.
fn challenge(settings: &ApiKeySettings) -> HeaderValue {
    if settings.bearer {
        return HeaderValue::from_static("Bearer realm=\"tollgate\"");
    }
    HeaderValue::try_from(format!("ApiKey realm=\"tollgate\", header=\"{}\"", settings.header))
        .unwrap_or_else(|_| HeaderValue::from_static("ApiKey realm=\"tollgate\""))
}

#[cfg(test)]
mod tests;
