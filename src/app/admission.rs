//! Who is let in on each route: the schemes, built once each, and what routes make of them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use http::HeaderName;
use http::header;
use parking_lot::Mutex;

use crate::config::{RouteSettings, Settings};
use crate::layers::{
    ApiKeys, AuthLayer, AuthMeans, AuthSettings, Authenticator, FailureCount, are_twins,
};
use crate::pace::Quota;
use crate::watch::Contents;

/// Fields that say something else: an origin cannot be told by them who asks, for they are
/// taken out of what comes in.
const TAKEN: [HeaderName; 20] = [
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::ACCEPT_LANGUAGE,
    header::AUTHORIZATION,
    header::CACHE_CONTROL,
    header::CONTENT_ENCODING,
    header::CONTENT_TYPE,
    header::COOKIE,
    header::EXPECT,
    header::FORWARDED,
    header::ORIGIN,
    header::RANGE,
    header::REFERER,
    header::USER_AGENT,
    header::VIA,
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("signature"),
    HeaderName::from_static("signature-input"),
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-request-id"),
];

/// The schemes that routes ask by name.
#[derive(Debug)]
pub(super) struct Authenticators {
    schemes: HashMap<String, Authenticator>,
    /// Failures are counted once for all routes that let one fail alike often.
    failures: Mutex<HashMap<Quota, FailureCount>>,
}

impl Authenticators {
    /// Builds those of `settings`. What `old` has built alike, by certificates that are the
    /// same as in `trusted`, goes on, with all that it remembers.
    pub(super) fn build(
        settings: &Settings,
        means: &AuthMeans,
        trusted: &Contents,
        old: Option<(&Settings, &Self, &Contents)>,
        problems: &mut Vec<String>,
    ) -> Self {
        let mut built = HashMap::new();
        for one in &settings.authenticators {
            let known = old.and_then(|(before, known, trusted_before)| {
                let alike = before.authenticators.contains(one)
                    && !trusted.differ_in(trusted_before, one.scheme.ca());
                known.schemes.get(&one.name).filter(|_| alike)
            });
            let scheme = match known {
                Some(known) => Ok(known.scheme.clone()),
                None => one.scheme.build(means),
            };
            match scheme {
                Ok(scheme) => {
                    let named = Authenticator { name: one.name.as_str().into(), scheme };
                    if built.insert(one.name.clone(), named).is_some() {
                        problems.push(format!("there are two authenticators named `{}`", one.name));
                    }
                }
                Err(problem) => problems.push(format!("auth `{}`: {problem}", one.name)),
            }
        }
        let failures = old.map(|(_, old, _)| old.failures.lock().clone()).unwrap_or_default();
        Self { schemes: built, failures: Mutex::new(failures) }
    }

    /// Whether a route asks the same as it would ask of `old`.
    pub(super) fn are_alike_for(&self, route: &RouteSettings, old: &Self) -> bool {
        let names = route.auth.iter().flat_map(AuthSettings::names);
        let is_same = |name: &String| match (self.schemes.get(name), old.schemes.get(name)) {
            (Some(now), Some(before)) => Arc::ptr_eq(&now.scheme, &before.scheme),
            _ => false,
        };
        names.into_iter().all(is_same)
    }

    /// Who is let in on a route.
    pub(super) fn of_route(
        &self,
        route: &RouteSettings,
        means: &AuthMeans,
    ) -> Result<Option<AuthLayer>, String> {
        let (layer, failures) = match (&route.auth, &route.api_key) {
            (None, None) => return Ok(None),
            (Some(_), Some(_)) => return Err("`auth` and `api_key` exclude each other".to_owned()),
            (None, Some(keys)) => {
                let keys = ApiKeys::with(keys, means)?;
                (AuthLayer::by(keys), AuthSettings::default().failures)
            }
            (Some(auth), None) => (self.layer(auth)?, auth.failures),
        };
        let layer = match failures {
            Some(quota) => layer.counting_failures(self.failures(quota)),
            None => layer,
        };
        // What clients bring along is taken out for all routes at once.
        Ok(Some(layer.stripped_before()))
    }

    fn layer(&self, auth: &AuthSettings) -> Result<AuthLayer, String> {
        if auth.names().next().is_none() {
            return Err("nobody is named who says who is let in".to_owned());
        }
        let named = |names: &[String]| -> Result<Vec<_>, String> {
            names.iter().map(|name| self.named(name)).collect()
        };
        let layer = AuthLayer::any(named(&auth.any)?).and_all(named(&auth.all)?);
        let layer = layer.scopes(auth.scopes.iter().map(String::as_str));
        Ok(if auth.preflights { layer.preflights() } else { layer })
    }

    fn failures(&self, quota: Quota) -> FailureCount {
        let mut counts = self.failures.lock();
        counts.entry(quota).or_insert_with(|| FailureCount::new(quota)).clone()
    }

    fn named(&self, name: &String) -> Result<Authenticator, String> {
        self.schemes.get(name).cloned().ok_or_else(|| format!("there is no authenticator `{name}`"))
    }
}

/// Every query parameter that credentials may stand in, on whatever route.
pub(super) fn secret_parameters<'a>(
    layers: impl Iterator<Item = &'a AuthLayer>,
) -> impl Iterator<Item = Arc<str>> {
    layers.flat_map(AuthLayer::secret_parameters)
}

/// Every field by which origins are told who asks, on whatever route, each once.
pub(super) fn identity_fields<'a>(
    layers: impl Iterator<Item = &'a AuthLayer>,
) -> HashSet<HeaderName> {
    layers.flat_map(AuthLayer::identity_fields).collect()
}

/// What is wrong with the fields by which origins are told who asks: taken out of every
/// request, they would be missed by whoever looks for credentials there, or for what such a
/// field is for.
pub(super) fn overlapping<'a>(layers: impl Iterator<Item = &'a AuthLayer> + Clone) -> Vec<String> {
    let mut fields: Vec<HeaderName> = identity_fields(layers.clone()).into_iter().collect();
    fields.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    let taken: Vec<HeaderName> =
        layers.flat_map(AuthLayer::credential_fields).chain(TAKEN).collect();
    let is_taken = |field: &HeaderName| {
        taken.iter().find(|taken| are_twins(field.as_str(), taken.as_str())).map(|taken| {
            format!(
                "the origin cannot be told who asks by `{field}`: clients send `{taken}`, and \
                 what tells the origin is taken out of what they send"
            )
        })
    };
    fields.iter().filter_map(is_taken).collect()
}
