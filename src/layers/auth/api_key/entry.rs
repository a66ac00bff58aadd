//! A key that is known, with all that is worked out from it once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use http::HeaderValue;
use http::header::AUTHORIZATION;

use super::given::Place;
use super::{ApiKey, ApiKeySettings, SCHEME};
use crate::context::Identity;
use crate::layers::auth::authenticate::{Changes, Grant, Verdict};

/// A key that is in use is said to end so long before it does.
const SOON: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// How often that is said of each.
const REPEAT: Duration = Duration::from_secs(24 * 60 * 60);

/// What a key brings.
#[derive(Debug)]
pub(super) struct Entry {
    identity: Arc<Identity>,
    not_before: Option<SystemTime>,
    expires: Option<SystemTime>,
    changes: Arc<Changes>,
    /// The same, where the key was in the `Authorization` field.
    of_bearer: Arc<Changes>,
    /// When it was last said that it ends, in seconds since 1970.
    told: AtomicU64,
}

impl Entry {
    pub(super) fn of(key: &ApiKey, settings: &ApiKeySettings) -> Self {
        let mut identity = Identity::new(key.name.clone(), SCHEME);
        identity.scopes = key.scopes.clone();
        identity.quota = key.quota;
        if let Some(id) = &key.id {
            identity.claims.insert("key_id".to_owned(), (**id).into());
        }
        let fields = [
            (&settings.identity_header, key.name.to_string()),
            (&settings.scopes_header, key.scopes.join(" ")),
        ];
        let set = fields
            .into_iter()
            .filter_map(|(field, text)| Some((field.clone()?, HeaderValue::try_from(text).ok()?)));
        let changes = Changes {
            remove: vec![settings.header.clone()],
            set: set.collect(),
            strip_query: settings.query.clone(),
            ..Changes::default()
        };
        let mut of_bearer = changes.clone();
        of_bearer.remove.push(AUTHORIZATION);
        Self {
            identity: Arc::new(identity),
            not_before: key.not_before,
            expires: key.expires,
            changes: Arc::new(changes),
            of_bearer: Arc::new(of_bearer),
            told: AtomicU64::new(0),
        }
    }

    /// The same as was known by another entry before, as far as the log was told of it.
    #[cfg(feature = "redis")]
    pub(super) fn after(self, before: &Self) -> Self {
        Self { told: AtomicU64::new(before.told.load(Ordering::Relaxed)), ..self }
    }

    /// Lets in, unless it is too early or too late.
    pub(super) fn verdict(&self, place: Place) -> Verdict {
        if self.not_before.is_some() || self.expires.is_some() {
            let now = SystemTime::now();
            if self.not_before.is_some_and(|begin| now < begin) {
                return Verdict::Outdated("auth_not_yet");
            }
            if self.expires.is_some_and(|end| now >= end) {
                return Verdict::Outdated("auth_expired");
            }
            self.remind(now);
        }
        let changes = if place == Place::Bearer { &self.of_bearer } else { &self.changes };
        let (identity, changes) = (Some(self.identity.clone()), Some(changes.clone()));
        Verdict::Granted(Grant { identity, changes, response: Vec::new() })
    }

    /// When the log was last told that it ends, in seconds since 1970.
    #[cfg(all(test, feature = "redis"))]
    pub(super) fn told(&self) -> u64 {
        self.told.load(Ordering::Relaxed)
    }

    /// Says once a day, of a key in use, that it ends soon.
    fn remind(&self, now: SystemTime) {
        let Some(end) = self.expires else { return };
        let soon = end.duration_since(now).is_ok_and(|left| left < SOON);
        let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let last = self.told.load(Ordering::Relaxed);
        let due = seconds >= last.saturating_add(REPEAT.as_secs());
        let alone =
            || self.told.compare_exchange(last, seconds, Ordering::Relaxed, Ordering::Relaxed);
        if soon && due && alone().is_ok() {
            let expires = jiff::Timestamp::try_from(end).unwrap_or(jiff::Timestamp::MAX);
            let id = self.identity.claims.get("key_id").and_then(|id| id.as_str());
            tracing::warn!(name = &*self.identity.name, id, %expires, "an API key in use expires soon");
        }
    }
}
