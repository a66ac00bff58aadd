//! What authentication by API key is told.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::HeaderName;

use crate::layers::KeyDigest;
use crate::pace::Quota;

/// Authentication by API key.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiKeySettings {
    /// The field that carries the key. Default `X-API-Key`.
    pub header: HeaderName,
    /// Whether `Authorization: Bearer` may carry it as well. Default false.
    pub bearer: bool,
    /// The query parameter that may carry it as well. Default none: what stands in a URL
    /// is stored and shown in many places.
    pub query: Option<Arc<str>>,
    /// The keys that let a request in; those that were read from [`ApiKeySettings::file`]
    /// among them. Several may have one name.
    pub keys: Arc<[ApiKey]>,
    /// The file that keys were read from, as far as they were. Default none.
    pub file: Option<PathBuf>,
    /// Keys that stand in Redis. Default none.
    pub redis: Option<RedisKeySettings>,
    /// Tells the origin the key's name in this field. Default none.
    pub identity_header: Option<HeaderName>,
    /// Tells the origin the key's scopes in this field, with spaces between. Default none.
    pub scopes_header: Option<HeaderName>,
}

/// Keys that stand in Redis, each under the prefix, a colon and its SHA-256 digest in
/// hexadecimal digits, as a record such as [`ApiKey::to_record`] makes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RedisKeySettings {
    /// What stands before the digest. Default `tollgate:keys`.
    pub prefix: Arc<str>,
    /// For how long a key that was found is not looked up again: so much later one that
    /// is taken out of Redis ceases to let anybody in. Default 10 s.
    pub cache: Duration,
    /// For how long such a key still lets in while Redis does not answer. At least
    /// [`RedisKeySettings::cache`]. Default 5 min.
    pub stale: Duration,
}

/// One API key.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiKey {
    /// Whose it is; in logs, metrics and the identity field.
    pub name: Arc<str>,
    /// What it hashes to.
    pub digest: KeyDigest,
    /// What tells it from others of the same name. Nothing secret. Default none.
    pub id: Option<Arc<str>>,
    /// It lets nobody in before. Default none.
    pub not_before: Option<SystemTime>,
    /// It lets nobody in from then on. Default none.
    pub expires: Option<SystemTime>,
    /// What may be done with it. Default nothing in particular.
    pub scopes: Box<[Box<str>]>,
    /// How often whoever has it may ask, where that is its own affair. Default none.
    pub quota: Option<Quota>,
}

impl ApiKeySettings {
    /// These keys in `X-API-Key`.
    #[must_use]
    pub fn new(keys: impl IntoIterator<Item = ApiKey>) -> Self {
        Self {
            header: HeaderName::from_static("x-api-key"),
            bearer: false,
            query: None,
            keys: keys.into_iter().collect(),
            file: None,
            redis: None,
            identity_header: None,
            scopes_header: None,
        }
    }
}

impl RedisKeySettings {
    /// With this prefix, and every default.
    #[must_use]
    pub fn new(prefix: impl Into<Arc<str>>) -> Self {
        let (cache, stale) = (Duration::from_secs(10), Duration::from_secs(5 * 60));
        Self { prefix: prefix.into(), cache, stale }
    }
}

impl ApiKey {
    /// A key that lets in for ever, and by which nothing else is known.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>, digest: KeyDigest) -> Self {
        Self {
            name: name.into(),
            digest,
            id: None,
            not_before: None,
            expires: None,
            scopes: Box::default(),
            quota: None,
        }
    }
}
