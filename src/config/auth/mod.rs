//! `[[auth]]`, and which of them a route asks.

mod address;
mod api_key;
mod basic;
mod forward;
mod jwt;
mod login_routes;
mod mtls;
mod oidc;
mod signature;

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

pub(super) use api_key::api_keys;
#[cfg(feature = "cli")]
pub(crate) use api_key::{FileKey, parse_keys};
pub(super) use login_routes::check_routes;
pub(super) use mtls::needs_client_auth;

use super::RouteSettings;
use super::listeners::unique;
use super::rate_limits::refills;
use super::reader::{Fits, Misfit, Table, Value};
use super::routes::one_of;
use super::units::{duration, positive, rate};
use crate::layers::{AuthSettings, AuthenticatorSettings, SchemeSettings, check_scope};
use crate::pace::Quota;

/// Reads what stands below the name of a scheme.
type Read = fn(Table<'_>, &Around<'_>) -> Option<SchemeSettings>;

/// What schemes are read amid.
#[derive(Clone, Copy)]
struct Around<'a> {
    /// Where relative paths begin.
    base: &'a Path,
    /// Whether there is a Redis.
    redis: bool,
}

const SCHEMES: &[(&str, Read)] = &[
    ("address", |table, _| Some(SchemeSettings::Address(address::read(table)))),
    ("api_key", |table, around| {
        api_keys(table, around.base, around.redis).map(SchemeSettings::ApiKey)
    }),
    ("basic", |table, around| basic::read(table, around.base).map(SchemeSettings::Basic)),
    ("forward", |table, around| {
        forward::read(table, around.base).map(Box::new).map(SchemeSettings::Forward)
    }),
    ("jwt", |table, around| jwt::read(table, around.base).map(Box::new).map(SchemeSettings::Jwt)),
    ("oidc", |table, around| {
        oidc::read(table, around.base).map(Box::new).map(SchemeSettings::Oidc)
    }),
    ("mtls", |table, _| Some(SchemeSettings::Mtls(mtls::read(table)))),
    ("signature", |table, around| {
        signature::read(table, around.base).map(SchemeSettings::Signature)
    }),
];

/// Those that are sound, and the names of all: a route that names one that is not is not
/// wrong itself.
pub(super) fn read(root: &mut Table<'_>, base: &Path) -> (Vec<AuthenticatorSettings>, Vec<String>) {
    let around = Around { base, redis: root.has("redis") };
    let (mut sound, mut names) = (Vec::new(), Vec::new());
    for table in root.tables("auth") {
        sound.extend(authenticator(table, &around, &mut names));
    }
    (sound, names)
}

fn authenticator(
    mut table: Table<'_>,
    around: &Around<'_>,
    names: &mut Vec<String>,
) -> Option<AuthenticatorSettings> {
    let name = table.require("name", "a word by which routes ask for it", |v| unique(v, names));
    names.extend(name.clone());
    let given: Vec<(&str, Read)> =
        SCHEMES.iter().filter(|(scheme, _)| table.has(scheme)).copied().collect();
    let mut scheme = None;
    for (key, read) in &given {
        scheme = table.table(key).and_then(|table| read(table, around));
    }
    if given.is_empty() {
        // One that is misspelt is told by the names of all.
        for (key, _) in SCHEMES {
            let _absent = table.value(key);
        }
    }
    let is_misspelt = given.is_empty() && table.entries().any(|(_, _, value)| value.is_table());
    if given.len() != 1 && !is_misspelt {
        let known: Vec<String> =
            SCHEMES.iter().map(|(scheme, _)| format!("[auth.{scheme}]")).collect();
        let message = if given.is_empty() {
            "it has no scheme: how it is told who asks"
        } else {
            "it has more than one scheme; each is an `[[auth]]` of its own"
        };
        table.complain(message, Some(format!("one of: {}", known.join(", "))));
    }
    let mut elsewhere = vec![
        ("ip", "address"),
        ("ip_allow", "address"),
        ("key", "api_key"),
        ("key_auth", "api_key"),
        ("forward_auth", "forward"),
        ("auth_request", "forward"),
        ("ext_authz", "forward"),
        ("hmac", "signature"),
        ("httpsig", "signature"),
        ("basic_auth", "basic"),
        ("auth_basic", "basic"),
        ("password", "basic"),
        ("jwt_authn", "jwt"),
        ("jwks", "jwt"),
        ("bearer", "jwt"),
        ("oauth2", "oidc"),
        ("openid", "oidc"),
        ("client_certificate", "mtls"),
        ("tls", "mtls"),
    ];
    // Those that were looked at are known, the others are only known to be schemes.
    elsewhere.retain(|(_, ours)| given.is_empty() || given.iter().any(|(key, _)| key == ours));
    table.finish(&elsewhere);
    if given.len() != 1 {
        return None;
    }
    Some(AuthenticatorSettings { name: name?, scheme: scheme? })
}

/// Complains of a file that nobody is let in by: one that holds nothing at all was cut off
/// while it was written, rather than meant.
fn nobody(file: &Value<'_>, path: &Path, text: &str, is_nobody: bool) {
    let path = path.display();
    if is_nobody && text.trim_start_matches('\u{feff}').trim().is_empty() {
        let hint = "a line that begins with `#` says that nobody is meant".to_owned();
        file.complain(format!("{path} is empty: nobody would be let in"), Some(hint));
    } else if is_nobody {
        file.warn(format!("{path} lets nobody in"));
    }
}

/// Warns of those that no route asks.
pub(super) fn warn_of_unused(root: &mut Table<'_>, routes: &[RouteSettings]) {
    let asked: BTreeSet<&String> = routes
        .iter()
        .filter_map(|route| route.auth.as_ref())
        .flat_map(AuthSettings::names)
        .collect();
    for one in root.value("auth").and_then(|all| all.items_if_list()).into_iter().flatten() {
        let name = one.table().and_then(|mut one| one.value("name")?.string("").ok());
        if let Some(name) = name.filter(|name| !asked.contains(&(*name).to_owned())) {
            one.warn(format!("no route asks for `{name}`"));
        }
    }
}

/// The key `auth` of a route: a name, or a table.
pub(super) fn of_route(route: &mut Table<'_>, known: &[String]) -> Option<AuthSettings> {
    if route.has("auth") && route.has("api_key") {
        let hint = "give the keys an `[[auth]]` of their own, and name it in `auth`";
        route.complain("`auth` and `api_key` exclude each other", Some(hint.to_owned()));
    }
    let value = route.value("auth")?;
    if value.is_string() {
        return value.fit(|v| name(v, known)).map(|name| AuthSettings::any([name]));
    }
    let mut table = value.table()?;
    // What is listed and wrong is said where it stands.
    let lists = ["all", "any"].into_iter().filter_map(|key| table.value(key));
    let given = lists.fold(false, |given, list| given | !list.is_empty_list());
    let auth = AuthSettings {
        all: names(&mut table, "all", known),
        any: names(&mut table, "any", known),
        scopes: table.list("scopes", scope).unwrap_or_default(),
        failures: failures(&mut table),
    };
    if !given {
        let hint = "any = [\"…\"]: whom one of these `[[auth]]` lets in".to_owned();
        table.complain("it names nobody who says who is let in", Some(hint));
    }
    table.finish(&[
        ("satisfy", "any"),
        ("name", "any"),
        ("schemes", "any"),
        ("scope", "scopes"),
        ("max_failures", "failures"),
    ]);
    Some(auth)
}

/// Those of a list, each once.
fn names(table: &mut Table<'_>, key: &'static str, known: &[String]) -> Vec<String> {
    let mut named = BTreeSet::new();
    let names = table.list(key, |value| {
        let name = name(value, known)?;
        let twice = || Misfit::new(format!("the `[[auth]]` `{name}` is named twice"));
        if named.insert(name.clone()) { Ok(name) } else { Err(twice()) }
    });
    names.unwrap_or_default()
}

fn name(value: &Value<'_>, known: &[String]) -> Fits<String> {
    let names: Vec<&str> = known.iter().map(String::as_str).collect();
    let name = value.string("the name of an `[[auth]]`")?;
    if names.is_empty() {
        return Err(Misfit::new(format!("there is no `[[auth]]` named `{name}`"))
            .hint(format!("[[auth]]\nname = \"{name}\"")));
    }
    one_of(name, "`[[auth]]` named", &names)
}

fn scope(value: &Value<'_>) -> Fits<String> {
    let scope = value.string("a scope")?;
    check_scope(scope).map(|()| scope.to_owned()).map_err(Misfit::new)
}

/// `failures = { rate = 20, per = "1m", burst = 20 }`, or `"unlimited"`.
fn failures(table: &mut Table<'_>) -> Option<Quota> {
    let default = Some(AuthSettings::FAILURES);
    let Some(value) = table.value("failures") else { return default };
    if value.is_string() {
        return value.fit(unlimited).unwrap_or(default);
    }
    let Some(table) = value.table() else { return default };
    quota(table, Duration::from_secs(60)).map_or(default, Some)
}

fn unlimited(value: &Value<'_>) -> Fits<Option<Quota>> {
    const WHAT: &str = "{ rate = 20, per = \"1m\" } or \"unlimited\"";
    match value.string(WHAT)? {
        "unlimited" => Ok(None),
        "none" | "off" => Err(Misfit::new(format!("expected {WHAT}"))
            .hint("where failures are not to be counted at all, write \"unlimited\"")),
        other => Err(Misfit::new(format!("expected {WHAT}, found `{other}`"))),
    }
}

/// `rate`, `per` and `burst`.
fn quota(mut table: Table<'_>, per: Duration) -> Option<Quota> {
    let rate: Option<NonZeroU32> = table.require("rate", "how many are let through", rate);
    let per = table.read("per", duration).unwrap_or(per);
    let burst = table.read("burst", positive);
    let quota = rate.map(|rate| Quota { requests: rate, per, burst: burst.unwrap_or(rate) });
    if let Some(quota) = quota {
        refills(&table, quota);
    }
    table.finish(&[("limit", "rate"), ("window", "per"), ("period", "per")]);
    quota
}
