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

use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

pub(super) use api_key::api_keys;
#[cfg(feature = "cli")]
pub(crate) use api_key::{FileKey, parse_keys};
pub(super) use login_routes::check_routes;
pub(super) use mtls::needs_client_auth;

use super::listeners::unique;
use super::rate_limits::refills;
use super::reader::{Fits, Misfit, Table, Value};
use super::routes::one_of;
use super::units::{duration, positive};
use crate::layers::{AuthSettings, AuthenticatorSettings, SchemeSettings, check_scope};
use crate::pace::Quota;

/// Reads what stands below the name of a scheme.
type Read = fn(Table<'_>, &Path) -> Option<SchemeSettings>;

const SCHEMES: &[(&str, Read)] = &[
    ("address", |table, _| Some(SchemeSettings::Address(address::read(table)))),
    ("api_key", |table, base| api_keys(table, base).map(SchemeSettings::ApiKey)),
    ("basic", |table, base| basic::read(table, base).map(SchemeSettings::Basic)),
    ("forward", |table, base| {
        forward::read(table, base).map(Box::new).map(SchemeSettings::Forward)
    }),
    ("jwt", |table, base| jwt::read(table, base).map(Box::new).map(SchemeSettings::Jwt)),
    ("oidc", |table, base| oidc::read(table, base).map(Box::new).map(SchemeSettings::Oidc)),
    ("mtls", |table, _| Some(SchemeSettings::Mtls(mtls::read(table)))),
    ("signature", |table, base| signature::read(table, base).map(SchemeSettings::Signature)),
];

pub(super) fn read(root: &mut Table<'_>, base: &Path) -> Vec<AuthenticatorSettings> {
    let mut all: Vec<AuthenticatorSettings> = Vec::new();
    for table in root.tables("auth") {
        let names: Vec<String> = all.iter().map(|one| one.name.clone()).collect();
        all.extend(authenticator(table, base, &names));
    }
    all
}

fn authenticator(
    mut table: Table<'_>,
    base: &Path,
    names: &[String],
) -> Option<AuthenticatorSettings> {
    let name = table.require("name", "a word by which routes ask for it", |v| unique(v, names));
    let given: Vec<(&str, Read)> =
        SCHEMES.iter().filter(|(scheme, _)| table.has(scheme)).copied().collect();
    let mut scheme = None;
    for (key, read) in &given {
        scheme = table.table(key).and_then(|table| read(table, base));
    }
    if given.len() != 1 {
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

/// The key `auth` of a route: a name, or a table.
pub(super) fn of_route(
    route: &mut Table<'_>,
    known: &[AuthenticatorSettings],
) -> Option<AuthSettings> {
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
    let names = |value: &Value<'_>| name(value, known);
    let auth = AuthSettings {
        all: table.list("all", names).unwrap_or_default(),
        any: table.list("any", names).unwrap_or_default(),
        scopes: table.list("scopes", scope).unwrap_or_default(),
        failures: failures(&mut table),
        preflights: table.read("preflights", Value::boolean).unwrap_or_default(),
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
        ("cors", "preflights"),
        ("max_failures", "failures"),
    ]);
    Some(auth)
}

fn name(value: &Value<'_>, known: &[AuthenticatorSettings]) -> Fits<String> {
    let names: Vec<&str> = known.iter().map(|one| one.name.as_str()).collect();
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
        return value.fit(|v| v.word(&[("unlimited", None)])).unwrap_or(default);
    }
    let Some(table) = value.table() else { return default };
    quota(table, Duration::from_secs(60)).map_or(default, Some)
}

/// `rate`, `per` and `burst`.
fn quota(mut table: Table<'_>, per: Duration) -> Option<Quota> {
    let rate: Option<NonZeroU32> = table.require("rate", "how many are let through", positive);
    let per = table.read("per", duration).unwrap_or(per);
    let burst = table.read("burst", positive);
    let quota = rate.map(|rate| Quota { requests: rate, per, burst: burst.unwrap_or(rate) });
    if let Some(quota) = quota {
        refills(&table, quota);
    }
    table.finish(&[("limit", "rate"), ("window", "per"), ("period", "per")]);
    quota
}
