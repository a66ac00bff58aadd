//! Who is let in on each route: the schemes, built once each, and what routes make of them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use http::HeaderName;
use parking_lot::Mutex;

use crate::config::{RouteSettings, Settings};
use crate::layers::{
    ApiKeys, AuthLayer, AuthMeans, AuthSettings, Authenticate, Authenticator, FailureCount,
    are_twins, begins_like,
};
use crate::pace::Quota;
use crate::watch::Contents;

/// Fields that say something else: an origin cannot be told by them who asks, for they are
/// taken out of what comes in, and some of them are written anew after that.
const TAKEN: [&str; 39] = [
    "accept",
    "accept-encoding",
    "accept-language",
    "authorization",
    "baggage",
    "cache-control",
    "content-digest",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "early-data",
    "expect",
    "forwarded",
    "idempotency-key",
    "max-forwards",
    "origin",
    "pragma",
    "prefer",
    "priority",
    "range",
    "referer",
    "signature",
    "signature-input",
    "traceparent",
    "tracestate",
    "user-agent",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-real-ip",
    "x-request-id",
];

/// What more such fields begin with.
const TAKEN_ALIKE: [&str; 3] = ["access-control-request-", "if-", "sec-"];

/// The schemes that routes ask by name.
#[derive(Debug)]
pub(super) struct Authenticators {
    schemes: HashMap<String, Authenticator>,
    /// Failures are counted once for all routes that let one fail alike often.
    failures: Mutex<HashMap<Quota, FailureCount>>,
    /// What routes ask that have keys of their own, by the routes' names.
    own: Mutex<HashMap<String, Arc<ApiKeys>>>,
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
                Some((known.schemes.get(&one.name)?, alike))
            });
            let scheme = match known {
                Some((known, true)) => Ok(known.scheme.clone()),
                Some((known, false)) => one.scheme.build_after(Some(&*known.scheme), means),
                None => one.scheme.build(means),
            };
            match scheme {
                Ok(scheme) => {
                    let named = Authenticator { name: one.name.as_str().into(), scheme };
                    if built.insert(one.name.clone(), named).is_some() {
                        problems.push(format!("there are two authenticators named `{}`", one.name));
                    }
                }
                Err(problem) => {
                    let named = settings.places.named("auth", &one.name);
                    problems.push(format!("{named}: {problem}"));
                }
            }
        }
        let failures = old.map(|(_, old, _)| old.failures.lock().clone()).unwrap_or_default();
        let mut own = old.map(|(_, old, _)| old.own.lock().clone()).unwrap_or_default();
        own.retain(|name, _| settings.routes.iter().any(|route| route.name == *name));
        Self { schemes: built, failures: Mutex::new(failures), own: Mutex::new(own) }
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

    /// Whether a route asks for one of `settings` that could not be built.
    pub(super) fn are_unfit_for(&self, route: &RouteSettings, settings: &Settings) -> bool {
        let is_there = |name: &String| settings.authenticators.iter().any(|one| one.name == *name);
        let mut names = route.auth.iter().flat_map(AuthSettings::names);
        names.any(|name| !self.schemes.contains_key(name) && is_there(name))
    }

    /// What tells origins who asks by this field, of whatever is built by these settings.
    fn telling(&self, settings: &Settings, field: &HeaderName) -> String {
        let tells = |one: &&Authenticator| one.scheme.identity_fields().contains(field);
        let by = self.schemes.values().filter(tells).map(|one| &*one.name).min();
        let by_keys = |route: &&RouteSettings| {
            let keys = route.api_key.iter();
            keys.flat_map(|keys| [&keys.identity_header, &keys.scopes_header])
                .any(|header| header.as_ref() == Some(field))
        };
        let route = settings.routes.iter().find(by_keys).map(|route| ("route", &*route.name));
        by.map(|name| ("auth", name)).or(route).map_or_else(
            || format!("by `{field}`"),
            |(kind, name)| settings.places.named(kind, name),
        )
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
                let mut own = self.own.lock();
                let keys = ApiKeys::after(own.get(&route.name).map(|own| &**own), keys, means)?;
                let keys = Arc::new(keys);
                own.insert(route.name.clone(), keys.clone());
                let keys = keys as Arc<dyn Authenticate>;
                (AuthLayer::any([keys]), AuthSettings::default().failures)
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
        Ok(layer.scopes(auth.scopes.iter().map(String::as_str)))
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
pub(super) fn overlapping<'a>(
    layers: impl Iterator<Item = &'a AuthLayer> + Clone,
    authenticators: &Authenticators,
    settings: &Settings,
) -> Vec<String> {
    let mut fields: Vec<HeaderName> = identity_fields(layers.clone()).into_iter().collect();
    fields.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    let credentials: Vec<HeaderName> = layers.flat_map(AuthLayer::credential_fields).collect();
    let is_taken = |field: &HeaderName| {
        let name = field.as_str();
        let mut taken = credentials.iter().map(HeaderName::as_str).chain(TAKEN);
        let is_taken = taken.any(|taken| are_twins(name, taken))
            || TAKEN_ALIKE.iter().any(|start| begins_like(name, start));
        is_taken.then(|| {
            format!(
                "{}: the origin cannot be told who asks by `{field}`: that says something else, \
                 and what tells the origin is taken out of what clients send",
                authenticators.telling(settings, field)
            )
        })
    };
    fields.iter().filter_map(is_taken).collect()
}
