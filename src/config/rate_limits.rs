//! `[[route.rate_limit]]`, and what requests are counted by.

use std::time::Duration;

use http::{HeaderName, Method};

use super::RouteSettings;
use super::reader::{Fits, Misfit, Table, Value};
use super::units::{duration, field_name, header_name, network, positive, rate};
use crate::context::Prefixes;
use crate::layers::{
    CostSettings, HeaderChanges, LimitKey, LimitKeyPart, OnFailure, RateLimitSettings,
    SharedSettings,
};
use crate::pace::Quota;

/// The limits of a route. `redis`: whether there is one to share counts by.
pub(super) fn read(route: &mut Table<'_>, redis: bool) -> Vec<RateLimitSettings> {
    let identified = route.has("auth") || route.has("api_key");
    let mut limits: Vec<RateLimitSettings> = Vec::new();
    for table in route.one_or_more("rate_limit") {
        limits.extend(rate_limit(table, identified, redis, &limits));
    }
    limits
}

fn rate_limit(
    mut table: Table<'_>,
    identified: bool,
    redis: bool,
    others: &[RateLimitSettings],
) -> Option<RateLimitSettings> {
    let rate = table.require("rate", "how many requests are let through", rate);
    let per = table.read("per", duration).unwrap_or(Duration::from_secs(1));
    let burst = table.read("burst", positive);
    let key = limit_key(&mut table, identified);
    let (has_name, name) = (table.has("name"), table.read("name", |v| name(v, others)));
    // Its own would depend on the order, by which nobody is to be taken for another.
    if !has_name && others.iter().any(|other| *other.name == *key.word()) {
        let message = format!("another limit of this route is called `{}`", key.word());
        table.complain(message, Some("give this one a `name`".to_owned()));
    }
    let exempt = table.list("exempt", network).unwrap_or_default();
    let dry_run = table.read("dry_run", Value::boolean).unwrap_or(false);
    let mut max_keys = RateLimitSettings::MAX_KEYS;
    table.set("max_keys", &mut max_keys, |v| {
        let keys = v.integer("a number of keys", 1, 1 << 30)?;
        usize::try_from(keys).map_err(|_| Misfit::new("too many"))
    });
    let cost = cost(&mut table);
    let shared = shared(&mut table, redis);
    let quota = rate.map(|rate| Quota { requests: rate, per, burst: burst.unwrap_or(rate) });
    if let Some(quota) = quota {
        fits_together(&table, quota, &cost);
    }
    table.finish(&[
        ("requests", "rate"),
        ("limit", "rate"),
        ("average", "rate"),
        ("window", "per"),
        ("period", "per"),
        ("by", "key"),
        ("source", "key"),
        ("weight", "cost"),
        ("shadow", "dry_run"),
        ("zone_size", "max_keys"),
        ("redis", "shared"),
    ]);
    let mut limit = RateLimitSettings::new(quota?, key);
    if has_name {
        // One that does not fit is no other's.
        limit.name = name.unwrap_or_default().into();
    }
    (limit.exempt, limit.dry_run, limit.max_keys) = (exempt, dry_run, max_keys);
    (limit.cost, limit.shared) = (cost, shared);
    Some(limit)
}

/// A word that no other limit of the route has.
fn name(value: &Value<'_>, others: &[RateLimitSettings]) -> Fits<String> {
    const WHAT: &str = "a word of letters, digits and `-_.:+`, 64 at the most";
    let name = value.string(WHAT)?;
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.:+".contains(c);
    if name.is_empty() || name.len() > 64 || !name.chars().all(fits) {
        return Err(Misfit::new(format!("`{name}` is not {WHAT}")));
    }
    if others.iter().any(|other| &*other.name == name) {
        return Err(Misfit::new(format!("another limit of this route is called `{name}`")));
    }
    Ok(name.to_owned())
}

/// What is counted by: the keys `key`, `ipv4_prefix` and `ipv6_prefix`.
pub(super) fn limit_key(table: &mut Table<'_>, identified: bool) -> LimitKey {
    let mut prefixes = Prefixes::default();
    table.set("ipv4_prefix", &mut prefixes.ipv4, |v| prefix(v, 32));
    table.set("ipv6_prefix", &mut prefixes.ipv6, |v| prefix(v, 128));
    if table.value("key").is_some_and(|key| key.is_empty_list()) {
        table.complain("`key` is empty", Some("for all requests together: \"route\"".into()));
    }
    let parts = table.list("key", |v| {
        let part = part(v)?;
        let of_identity = matches!(part, LimitKeyPart::Identity | LimitKeyPart::Claim(_));
        if of_identity && !identified {
            return Err(Misfit::new("nobody is identified on this route")
                .hint("a route with `auth` or an `api_key` knows who asks"));
        }
        Ok(part)
    });
    match parts {
        Some(parts) if !parts.is_empty() => LimitKey { parts, prefixes },
        _ => LimitKey { prefixes, ..LimitKey::default() },
    }
}

/// The length of a prefix, in bits.
pub(super) fn prefix(value: &Value<'_>, most: u8) -> Fits<u8> {
    let bits = value.integer("a number of bits", 1, most.into())?;
    u8::try_from(bits).map_err(|_| Misfit::new("too many bits"))
}

fn part(value: &Value<'_>) -> Fits<LimitKeyPart> {
    const WHAT: &str = "\"address\", \"identity\", \"route\", \"header:NAME\" or \"claim:NAME\"";
    let text = value.string(WHAT)?;
    match text.split_once(':') {
        Some(("header", name)) => field_name(name).map(LimitKeyPart::Header),
        Some(("claim", name)) if !name.is_empty() => Ok(LimitKeyPart::Claim(name.into())),
        _ => match text {
            "address" => Ok(LimitKeyPart::Address),
            "identity" => Ok(LimitKeyPart::Identity),
            "route" => Ok(LimitKeyPart::Route),
            _ => Err(misspelt(text, WHAT)),
        },
    }
}

fn misspelt(text: &str, what: &str) -> Misfit {
    let misfit = Misfit::new(format!("`{text}` is not {what}"));
    match text {
        "ip" | "client" | "remote_addr" | "client_address" => misfit.hint("write \"address\""),
        "api_key" | "user" | "consumer" => misfit.hint("write \"identity\""),
        "global" | "all" => misfit.hint("write \"route\""),
        _ => misfit,
    }
}

fn cost(table: &mut Table<'_>) -> CostSettings {
    let mut cost = CostSettings::default();
    table.set("cost", &mut cost.each, positive);
    for mut of_some in table.one_or_more("costs") {
        let methods = of_some.list("methods", |v| {
            let text = v.string("a method such as \"POST\"")?;
            let wrong = || Misfit::new(format!("`{text}` is not a method in capitals"));
            let lower = text.bytes().any(|byte| byte.is_ascii_lowercase());
            Method::from_bytes(text.as_bytes()).ok().filter(|_| !lower).ok_or_else(wrong)
        });
        if methods.as_ref().is_none_or(Vec::is_empty) && !of_some.has("methods") {
            of_some.complain("the key `methods` is missing: whose cost it is", None);
        }
        let each = of_some.require("cost", "what such a request counts for", positive);
        of_some.finish(&[("method", "methods"), ("weight", "cost")]);
        if let (Some(methods), Some(each)) = (methods, each) {
            cost.by_method.push((methods, each));
        }
    }
    cost.header = table.read("cost_header", header_name);
    table.set("keep_cost_header", &mut cost.keep_header, Value::boolean);
    cost
}

/// Complains where what a request has cost is taken out of responses before a limit reads it.
pub(super) fn see_costs(headers: &Value<'_>, route: &RouteSettings) {
    let HeaderChanges { remove, set, append } = &route.headers.response;
    let is_gone = |name: &HeaderName| {
        remove.contains(name) && !set.iter().chain(append).any(|(written, _)| written == name)
    };
    let read = |limit: &RateLimitSettings| {
        limit.cost.header.clone().map(|name| (limit.name.clone(), name))
    };
    let gone = route.rate_limits.iter().filter_map(read).find(|(_, name)| is_gone(name));
    if let Some((limit, name)) = gone {
        let message = format!(
            "`response.remove` takes out `{name}` before the rate limit `{limit}` has read it"
        );
        let hint = "clients do not see a `cost_header` anyway, unless `keep_cost_header` is set";
        headers.complain(message, Some(hint.to_owned()));
    }
}

fn fits_together(table: &Table<'_>, quota: Quota, cost: &CostSettings) {
    let (most, burst) = (cost.most(), quota.burst);
    if most > burst {
        let message =
            format!("a request that counts for {most} never gets through a burst of {burst}");
        table.complain(message, Some(format!("`burst = {most}` lets one through at a time")));
    }
    refills(table, quota);
}

/// Complains of a burst that would not be back in a time that can be counted.
pub(super) fn refills(table: &Table<'_>, quota: Quota) {
    if !quota.refills_in_time() {
        table.complain("a burst that is used up would take more than ten years to come back", None);
    }
}

fn shared(table: &mut Table<'_>, redis: bool) -> Option<SharedSettings> {
    let value = table.value("shared")?;
    let settings = if value.is_table() {
        shared_settings(value.table()?)
    } else {
        value.fit(Value::boolean)?.then(SharedSettings::default)?
    };
    if !redis {
        let hint = "add a table [redis] with its `url`".to_owned();
        value.complain("limits are shared by way of Redis, and there is none", Some(hint));
    }
    Some(settings)
}

fn shared_settings(mut table: Table<'_>) -> SharedSettings {
    let lease = table.read("lease", positive);
    let mut shared = SharedSettings { lease, ..SharedSettings::default() };
    table.set("lease_time", &mut shared.lease_time, duration);
    table.set("deadline", &mut shared.deadline, duration);
    let words =
        [("open", OnFailure::Open), ("closed", OnFailure::Closed), ("local", OnFailure::Local)];
    table.set("on_failure", &mut shared.on_failure, |v| v.word(&words));
    table.set("instances", &mut shared.instances, positive);
    table.set("prefix", &mut shared.prefix, |v| {
        let text = v.string("what the keys in Redis begin with")?;
        let fits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        if fits { Ok(text.to_owned()) } else { Err(Misfit::new("expected visible characters")) }
    });
    table.finish(&[
        ("timeout", "deadline"),
        ("fail_open", "on_failure"),
        ("replicas", "instances"),
    ]);
    shared
}
