//! What is remembered of somebody who has logged in: all of it in their cookie.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::OidcSettings;
use crate::context::Identity;
use crate::layers::auth::jwt::{self, Claims};

/// A session. Its names are short, for it travels with every request.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct Session {
    /// Until when, in seconds since 1970.
    #[serde(rename = "e")]
    until: u64,
    #[serde(rename = "n")]
    name: Box<str>,
    #[serde(rename = "s")]
    scopes: Box<[Box<str>]>,
    /// Those claims that somebody wants to see, by the names that they are asked for by.
    #[serde(rename = "c")]
    claims: Map<String, Value>,
}

impl Session {
    /// Of somebody of whom an identity provider says this, having granted these scopes.
    pub(super) fn new(
        settings: &OidcSettings,
        claims: &Claims,
        granted: &str,
    ) -> Result<Self, &'static str> {
        let scopes = match &settings.scopes_claim {
            Some(claim) => claims.scopes(Some(claim)),
            None => granted.split(' ').filter(|word| !word.is_empty()).map(Into::into).collect(),
        };
        let headers = settings.claims_to_headers.iter().map(|(claim, _)| claim);
        let kept = headers.chain(&settings.claims).filter_map(|claim| {
            let value = claims.get(claim)?;
            Some((claim.clone(), value.clone()))
        });
        // What cannot be told the origin is told whoever logs in, and not in each request.
        jwt::fields(claims, &settings.claims_to_headers)?;
        Ok(Self {
            until: now() + settings.session.as_secs(),
            name: (*jwt::name(claims, &settings.name_claim)?).into(),
            scopes,
            claims: kept.collect(),
        })
    }

    pub(super) fn is_over(&self) -> bool {
        now() >= self.until
    }

    pub(super) fn claims(&self) -> Claims {
        Claims::of(self.claims.clone())
    }

    pub(super) fn into_identity(self) -> Identity {
        let Self { until: _, name, scopes, claims } = self;
        Identity { name: name.into(), scheme: "oidc", scopes, claims, quota: None }
    }
}

/// In seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap_or(Duration::ZERO).as_secs()
}
