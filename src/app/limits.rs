//! What bounds the requests of a route, in the places where it does.

use std::sync::Arc;

use super::Common;
use crate::config::RouteSettings;
use crate::layers::{ConcurrencyLayer, Limit, RateLimitLayer, RateLimitSettings};

/// What bounds the requests of a route.
#[derive(Clone, Debug, Default)]
pub(super) struct Limits {
    /// The rate limits that are asked before anybody is identified.
    pub(super) before: Option<RateLimitLayer>,
    /// Those that are asked of somebody who is, beside the quotas that identities have of
    /// their own.
    pub(super) after: Option<RateLimitLayer>,
    /// What may be under way at once.
    pub(super) concurrency: Option<ConcurrencyLayer>,
}

impl Limits {
    /// The limits as they are configured; of those before, the counts go on where they mean
    /// the same.
    pub(super) fn build(
        route: &RouteSettings,
        common: &Common,
        before: Option<&Self>,
    ) -> Result<Self, String> {
        let limit = |settings: &RateLimitSettings| {
            let mut known = before.into_iter().flat_map(Self::configured);
            let limit = match known.find(|limit| limit.settings().name == settings.name) {
                Some(known) => known.renewed(settings),
                None => {
                    let counts =
                        common.metrics.rate_limit(&route.name.as_str().into(), &settings.name);
                    Limit::new(settings).counting(counts)
                }
            };
            share(limit, route, common)
        };
        let (mut first, mut second) = (Vec::new(), Vec::new());
        for settings in &route.rate_limits {
            let limits = if settings.key.needs_identity() { &mut second } else { &mut first };
            limits.push(limit(settings)?);
        }
        let by_identity = |settings: &RateLimitSettings| settings.key.is_by_identity();
        let identified = route.api_key.is_some() || route.auth.is_some();
        if identified && !route.rate_limits.iter().any(by_identity) {
            second.push(of_identities(route, common, before));
        }
        let layer = |limits: Vec<Limit>| {
            let tells = route.rate_limit_headers;
            (!limits.is_empty()).then(|| RateLimitLayer::of(limits).telling(tells))
        };
        let concurrency = route.concurrency.as_ref().map(|settings| {
            let known = before.and_then(|before| before.concurrency.as_ref());
            known.map_or_else(|| ConcurrencyLayer::new(settings), |known| known.renewed(settings))
        });
        Ok(Self { before: layer(first), after: layer(second), concurrency })
    }

    fn all(&self) -> impl Iterator<Item = &Limit> {
        [&self.before, &self.after].into_iter().flatten().flat_map(RateLimitLayer::limits)
    }

    /// The rate limits that the configuration has.
    pub(super) fn configured(&self) -> impl Iterator<Item = &Limit> {
        self.all().filter(|limit| !limit.is_of_identities())
    }
}

/// Has identities that have a quota of their own keep to it where no limit is by identity.
fn of_identities(route: &RouteSettings, common: &Common, before: Option<&Limits>) -> Limit {
    let known = before.and_then(|before| before.all().find(|limit| limit.is_of_identities()));
    known.cloned().unwrap_or_else(|| {
        let limit = Limit::of_identities();
        let name: Arc<str> = route.name.as_str().into();
        let counts = common.metrics.rate_limit(&name, &limit.settings().name);
        limit.counting(counts)
    })
}

/// Has a limit count together with other instances, if it is to.
#[cfg(feature = "redis")]
fn share(limit: Limit, route: &RouteSettings, common: &Common) -> Result<Limit, String> {
    use crate::context::Prefixes;
    use crate::layers::SharedLimiter;

    let settings = limit.settings();
    let Some(shared) = settings.shared.as_ref().filter(|_| !limit.is_shared()) else {
        return Ok(limit);
    };
    let Some(limits) = common.shared_limits() else {
        return Err("its rate limits are shared by way of Redis, and there is none".to_owned());
    };
    let name = format!("{}/{}", route.name, settings.name);
    let counts = common.metrics.shared_limits(&route.name.as_str().into());
    let shared = SharedLimiter::new(limits, &name, settings.quota(), shared, counts);
    let Prefixes { ipv4, ipv6 } = settings.key.prefixes;
    let key = format!("{}/{ipv4}/{ipv6}", settings.key.word());
    let shared = shared.of_keys(&key, settings.max_keys);
    Ok(limit.sharing(shared))
}

/// Without Redis there is nothing to share by.
#[cfg(not(feature = "redis"))]
fn share(limit: Limit, _route: &RouteSettings, _common: &Common) -> Result<Limit, String> {
    match limit.settings().shared {
        None => Ok(limit),
        Some(_) => Err("its rate limits cannot be shared: this Tollgate was built without Redis \
                        (the feature `redis`)"
            .to_owned()),
    }
}
