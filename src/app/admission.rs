//! Who is let in on each route: the schemes, built once each, and what routes make of them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use http::HeaderName;

use crate::config::{RouteSettings, Settings};
use crate::layers::{ApiKeys, AuthLayer, AuthMeans, AuthSettings, Authenticate};
use crate::watch::Contents;

/// The schemes that routes ask by name.
#[derive(Debug)]
pub(super) struct Authenticators(HashMap<String, Arc<dyn Authenticate>>);

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
            let known = old.and_then(|(before, Self(known), trusted_before)| {
                let alike = before.authenticators.contains(one)
                    && !trusted.differ_in(trusted_before, one.scheme.ca());
                known.get(&one.name).filter(|_| alike)
            });
            let scheme = known.map_or_else(|| one.scheme.build(means), |known| Ok(known.clone()));
            match scheme {
                Ok(scheme) => {
                    if built.insert(one.name.clone(), scheme).is_some() {
                        problems.push(format!("there are two authenticators named `{}`", one.name));
                    }
                }
                Err(problem) => problems.push(format!("auth `{}`: {problem}", one.name)),
            }
        }
        Self(built)
    }

    /// Whether a route asks the same as it would ask of `old`.
    pub(super) fn are_alike_for(&self, route: &RouteSettings, old: &Self) -> bool {
        let names = route.auth.iter().flat_map(AuthSettings::names);
        let is_same = |name: &String| match (self.0.get(name), old.0.get(name)) {
            (Some(now), Some(before)) => Arc::ptr_eq(now, before),
            _ => false,
        };
        names.into_iter().all(is_same)
    }

    /// Who is let in on a route; of the layer that it had, failures go on being counted.
    pub(super) fn of_route(
        &self,
        route: &RouteSettings,
        means: &AuthMeans,
        before: Option<&AuthLayer>,
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
            Some(quota) => layer.failures(quota),
            None => layer,
        };
        Ok(Some(match before {
            Some(before) => layer.remembering(before),
            None => layer,
        }))
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

    fn named(&self, name: &String) -> Result<Arc<dyn Authenticate>, String> {
        self.0.get(name).cloned().ok_or_else(|| format!("there is no authenticator `{name}`"))
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
