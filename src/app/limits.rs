//! What bounds the requests of a route, in the places where it does.

use std::collections::HashSet;
use std::sync::Arc;

use http::header::HeaderName;

use super::Common;
use crate::config::{RouteSettings, Settings};
use crate::layers::{
    ConcurrencyLayer, Limit, LimitKey, LimitKeyPart, RateLimitLayer, RateLimitSettings, are_twins,
};

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
            let limits = if is_asked_behind(route, settings) { &mut second } else { &mut first };
            limits.push(limit(settings)?);
        }
        // A quota of its own stands in the place of a limit's where that is for each identity.
        let of_each = |settings: &RateLimitSettings| settings.key.is_identity();
        if identifies(route) && !route.rate_limits.iter().any(of_each) {
            second.push(of_identities(route, common, before));
        }
        let layer = |limits: Vec<Limit>| {
            let tells = route.rate_limit_headers;
            (!limits.is_empty()).then(|| RateLimitLayer::of(limits).telling(tells))
        };
        let (before_auth, behind) = match (layer(first), layer(second)) {
            (Some(outer), Some(inner)) => {
                let (outer, inner) = outer.around(inner);
                (Some(outer), Some(inner))
            }
            one => one,
        };
        let concurrency = route.concurrency.as_ref().map(|settings| {
            let known = before.and_then(|before| before.concurrency.as_ref());
            known.map_or_else(|| ConcurrencyLayer::new(settings), |known| known.renewed(settings))
        });
        Ok(Self { before: before_auth, after: behind, concurrency })
    }

    /// Whether there is a limit of this name, whoever has asked for it.
    pub(super) fn has(&self, limit: &str) -> bool {
        self.all().any(|one| *one.settings().name == *limit)
    }

    fn all(&self) -> impl Iterator<Item = &Limit> {
        [&self.before, &self.after].into_iter().flatten().flat_map(RateLimitLayer::limits)
    }

    /// The rate limits that the configuration has.
    pub(super) fn configured(&self) -> impl Iterator<Item = &Limit> {
        self.all().filter(|limit| !limit.is_of_identities())
    }
}

/// Whether it is known who asks, on this route.
fn identifies(route: &RouteSettings) -> bool {
    route.api_key.is_some() || route.auth.is_some()
}

/// Whether a limit is asked once it is known who asks. One that all requests share is, too:
/// strangers, who are turned away, would use it up for those who are let in.
fn is_asked_behind(route: &RouteSettings, limit: &RateLimitSettings) -> bool {
    limit.key.needs_identity() || (identifies(route) && limit.key.is_route())
}

/// What is wrong with the limits of a route that go by a field of which nobody sees anything
/// where they are asked: those by which origins are told who asks, `all` of them, are taken
/// out of what comes in, and the route's own authentication sets `own`.
pub(super) fn blind(
    route: &RouteSettings,
    settings: &Settings,
    all: &HashSet<HeaderName>,
    own: &HashSet<HeaderName>,
) -> Vec<String> {
    let is_blind = |key: &LimitKey, behind: bool| {
        let mut names = key.parts.iter().filter_map(|part| match part {
            LimitKeyPart::Header(name) if !(behind && own.contains(name)) => Some(name.clone()),
            _ => None,
        });
        names.find(|name| all.iter().any(|set| are_twins(set.as_str(), name.as_str())))
    };
    let rates = route.rate_limits.iter().map(|limit| {
        let field = is_blind(&limit.key, is_asked_behind(route, limit));
        (format!("the rate limit `{}`", limit.name), field)
    });
    let concurrency = route
        .concurrency
        .iter()
        .map(|settings| ("`concurrency`".to_owned(), is_blind(&settings.key, identifies(route))));
    let problem = |(what, field): (String, Option<HeaderName>)| {
        Some(format!(
            "{}: {what} goes by `{}`, which authentication sets and takes out of what \
             clients send: it would always be missing. \"identity\" and \"claim:NAME\" go by \
             who asks",
            settings.places.named("route", &route.name),
            field?
        ))
    };
    rates.chain(concurrency).filter_map(problem).collect()
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
        return Err("its rate limits are shared by way of Redis, which is only connected to from \
                    a start on: a `[redis]` that is new takes a restart or an upgrade"
            .to_owned());
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
