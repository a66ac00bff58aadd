//! Who a request is from.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::pace::Quota;

/// Who a request is from, as far as whoever authenticated it knows.
///
/// It is made once for all requests of the same credentials where that is possible, and
/// shared. Nothing in it is a secret.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// The name; in the access log, in limits by identity, and for the origin if asked.
    pub name: Arc<str>,
    /// The scheme that told, as one word: `api_key`, `jwt`.
    pub scheme: &'static str,
    /// What it may do, in words of the operator's.
    pub scopes: Box<[Box<str>]>,
    /// What else is said of it. Limits may go by it.
    pub claims: Map<String, Value>,
    /// How often it may ask, where that is its own affair and not the route's.
    pub quota: Option<Quota>,
}

impl Identity {
    /// Somebody of this name, of whom nothing else is known.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>, scheme: &'static str) -> Self {
        let (scopes, claims) = (Box::default(), Map::new());
        Self { name: name.into(), scheme, scopes, claims, quota: None }
    }

    /// With these scopes.
    #[must_use]
    pub fn with_scopes<S: Into<Box<str>>>(mut self, scopes: impl IntoIterator<Item = S>) -> Self {
        self.scopes = scopes.into_iter().map(Into::into).collect();
        self
    }

    /// Whether it has a scope.
    #[must_use]
    pub fn has_scope(&self, scope: &str) -> bool {
        self.scopes.iter().any(|has| **has == *scope)
    }
}
