//! What the verification of signatures is told.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use crate::signature::digest::CONTENT_DIGEST;
use crate::signature::{Component, Scheme, VerifyingKey};

/// Who may sign requests, and what a signature has to cover.
#[derive(Clone, Debug, PartialEq)]
pub struct SignatureSettings {
    /// Whose signatures let in. The ids are unique.
    pub keys: Vec<SignatureKey>,
    /// What has to be covered, by itself or as a part of something else, such as
    /// `@path` of `@target-uri`. `content-digest` has to be where there is a body, which
    /// is compared with it then. Default `@method`, `@authority`, `@path`, `@query` and
    /// `content-digest`.
    pub required: Vec<Component>,
    /// How old a signature may be, by its `created`, which has to be there. Default
    /// 5 minutes.
    pub max_age: Duration,
    /// By how much a client's clock may be wrong. Default 30 s.
    pub skew: Duration,
    /// Whether a signature has to have a `nonce`. Default false.
    pub nonce: bool,
    /// Whether a signature is good only once: one with a `nonce` by that, another by all
    /// that it covers. Default true.
    pub replay: bool,
    /// How many signatures by one key are remembered at most, at up to 40 bytes each; while
    /// there are as many as that, further ones by it are answered 503. Each is remembered for
    /// up to twice `max_age + 2 * skew`. Default 100,000.
    pub max_remembered: usize,
    /// Only signatures for this application are looked at (`tag`). Default any.
    pub tag: Option<String>,
    /// The longest body that is compared with its digest, in bytes. Default 64 KiB.
    pub max_body: usize,
    /// The scheme that clients sign, where that is not the connection's: a proxy in front
    /// may end TLS. Default the connection's.
    pub scheme: Option<Scheme>,
    /// The field by which the origin is told the key's name. Default none.
    pub identity_header: Option<HeaderName>,
}

/// A key, and whose it is.
#[derive(Clone, Debug, PartialEq)]
pub struct SignatureKey {
    /// What signatures call it (`keyid`).
    pub id: String,
    /// Whose it is.
    pub name: Arc<str>,
    /// The key itself, which is for one algorithm.
    pub key: VerifyingKey,
    /// What its owner may do.
    pub scopes: Vec<Box<str>>,
}

impl SignatureSettings {
    /// Lets in by these keys, all else by default.
    #[must_use]
    pub fn new(keys: Vec<SignatureKey>) -> Self {
        Self {
            keys,
            required: vec![
                Component::Method,
                Component::Authority,
                Component::Path,
                Component::Query,
                Component::Field(CONTENT_DIGEST),
            ],
            max_age: Duration::from_secs(300),
            skew: Duration::from_secs(30),
            nonce: false,
            replay: true,
            max_remembered: 100_000,
            tag: None,
            max_body: 64 * 1024,
            scheme: None,
            identity_header: None,
        }
    }
}

impl SignatureKey {
    /// A key called `id` that is `name`'s.
    #[must_use]
    pub fn new(id: impl Into<String>, name: impl Into<Arc<str>>, key: VerifyingKey) -> Self {
        Self { id: id.into(), name: name.into(), key, scopes: Vec::new() }
    }
}
