//! The keys of what bounds a route's requests.

use super::keys::Keys;
use super::spell::{NONE, duration, or_none, size};
use crate::context::Prefixes;
use crate::layers::{
    BandwidthSettings, ConcurrencySettings, CostSettings, LimitKey, LimitKeyPart, OnFailure,
    RateLimitSettings, SharedSettings,
};

/// The keys of all limits: the first as if it were the only one.
pub(super) fn rate_limits(keys: &mut Keys, limits: &[RateLimitSettings], headers: bool) {
    keys.one("rate_limit_headers", headers);
    for (index, limit) in limits.iter().enumerate() {
        let mut name = "rate_limit".to_owned();
        if index > 0 {
            name += &format!("[{index}]");
        }
        keys.table(&name, rate_limit(limit));
    }
}

fn rate_limit(settings: &RateLimitSettings) -> Keys {
    let RateLimitSettings {
        name,
        rate,
        per,
        burst,
        key,
        cost: CostSettings { each, by_method, header, keep_header },
        exempt,
        dry_run,
        max_keys,
        shared,
    } = settings;
    let mut keys = Keys::default();
    keys.one("name", name);
    keys.one("rate", rate);
    keys.one("per", duration(*per));
    keys.one("burst", burst);
    limit_key(&mut keys, key);
    keys.one("cost", each);
    let costs = by_method.iter().map(|(methods, cost)| {
        let methods: Vec<&str> = methods.iter().map(http::Method::as_str).collect();
        format!("{} {cost}", methods.join(" "))
    });
    keys.list("costs", costs);
    keys.one("cost_header", or_none(header.as_ref(), ToString::to_string));
    keys.one("keep_cost_header", keep_header);
    keys.list("exempt", exempt);
    keys.one("dry_run", dry_run);
    keys.one("max_keys", max_keys);
    keys.one("shared", shared.is_some());
    if let Some(shared) = shared {
        shared_keys(&mut keys, shared);
    }
    keys
}

pub(super) fn concurrency(settings: &ConcurrencySettings) -> Keys {
    let ConcurrencySettings { max, key } = settings;
    let mut keys = Keys::default();
    keys.one("max", max);
    limit_key(&mut keys, key);
    keys
}

pub(super) fn bandwidth(settings: &BandwidthSettings) -> Keys {
    let BandwidthSettings { response, burst } = settings;
    let mut keys = Keys::default();
    keys.one("response", format!("{}/s", size(response.get())));
    keys.one("burst", size(*burst));
    keys
}

fn limit_key(keys: &mut Keys, key: &LimitKey) {
    let LimitKey { parts, prefixes: Prefixes { ipv4, ipv6 } } = key;
    keys.list("key", parts.iter().map(part));
    keys.one("ipv4_prefix", ipv4);
    keys.one("ipv6_prefix", ipv6);
}

fn part(part: &LimitKeyPart) -> String {
    match part {
        LimitKeyPart::Address => "address".to_owned(),
        LimitKeyPart::Identity => "identity".to_owned(),
        LimitKeyPart::Route => "route".to_owned(),
        LimitKeyPart::Header(name) => format!("header:{name}"),
        LimitKeyPart::Claim(name) => format!("claim:{name}"),
    }
}

fn shared_keys(keys: &mut Keys, settings: &SharedSettings) {
    let SharedSettings { lease, lease_time, deadline, on_failure, instances, prefix } = settings;
    let on_failure = match on_failure {
        OnFailure::Open => "open",
        OnFailure::Closed => "closed",
        OnFailure::Local => "local",
    };
    keys.one("shared.lease", lease.map_or_else(|| NONE.to_owned(), |lease| lease.to_string()));
    keys.one("shared.lease_time", duration(*lease_time));
    keys.one("shared.deadline", duration(*deadline));
    keys.one("shared.on_failure", on_failure);
    keys.one("shared.instances", instances);
    keys.one("shared.prefix", prefix);
}

/// What becomes of the counts of limits that change.
pub(super) fn effects(old: &[RateLimitSettings], new: &[RateLimitSettings]) -> Vec<String> {
    let before = |now: &RateLimitSettings| old.iter().find(|before| before.name == now.name);
    let anew = new.iter().filter(|now| before(now).is_some_and(|before| counts_anew(before, now)));
    let only = old.len() == 1 && new.len() == 1;
    let effect = |limit: &RateLimitSettings| match only {
        true => "the counts of its rate limit start anew".to_owned(),
        false => format!("the counts of its rate limit `{}` start anew", limit.name),
    };
    anew.map(effect).collect()
}

/// Whether a limit counts anew that takes the place of another. What is shared stands in
/// Redis, wherever that is counted by the same quota, under the same name.
fn counts_anew(before: &RateLimitSettings, now: &RateLimitSettings) -> bool {
    match (&before.shared, &now.shared) {
        (Some(shared), Some(new)) => {
            (before.quota(), &before.key, &shared.prefix) != (now.quota(), &now.key, &new.prefix)
        }
        _ => !before.counts_like(now),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;
    use std::time::Duration;

    #[test]
    fn what_stands_in_redis_does_not_start_anew_with_how_it_is_asked() {
        let mut old = RateLimitSettings::per_second(NonZeroU32::MIN);
        old.shared = Some(SharedSettings::default());
        let anew = |change: &dyn Fn(&mut RateLimitSettings, &mut SharedSettings)| {
            let (mut new, mut shared) = (old.clone(), SharedSettings::default());
            change(&mut new, &mut shared);
            new.shared = Some(shared);
            !effects(std::slice::from_ref(&old), &[new]).is_empty()
        };
        assert!(!anew(&|_, shared| shared.deadline = Duration::from_secs(1)));
        assert!(!anew(&|_, shared| shared.lease = Some(NonZeroU32::MIN)));
        assert!(!anew(&|_, shared| shared.lease_time = Duration::from_secs(9)));
        assert!(!anew(&|_, shared| shared.on_failure = OnFailure::Open));
        assert!(!anew(&|_, shared| shared.instances = NonZeroU32::MAX));
        assert!(!anew(&|new, _| new.max_keys = 1));
        assert!(anew(&|_, shared| shared.prefix = "other".to_owned()));
        assert!(anew(&|new, _| new.rate = NonZeroU32::MAX));
        assert!(anew(&|new, _| new.key.prefixes.ipv4 = 24));
        let alone = RateLimitSettings { shared: None, ..old.clone() };
        assert!(!effects(std::slice::from_ref(&old), std::slice::from_ref(&alone)).is_empty());
        let fewer = RateLimitSettings { max_keys: 1, ..alone.clone() };
        assert!(!effects(&[alone], &[fewer]).is_empty());
    }
}
