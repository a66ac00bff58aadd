//! `[auth.jwt]`

use std::path::Path;
use std::time::Duration;

use http::Uri;
use serde_json::Value as Json;

use crate::config::reader::{Fits, Misfit, Table, Value};
use crate::config::says_where;
use crate::config::units::{
    Secret, duration, file, header_name, is_plain_from_elsewhere, memory_size, pause, secret,
    token, web_url,
};
use crate::layers::{
    JwksSettings, JwtAlgorithm, JwtKeys, JwtPublicKey, JwtRules, JwtSettings, SharedSecret,
    TokenPlace,
};

/// Clocks that differ by more are wrong.
const MOST_LEEWAY: Duration = Duration::from_secs(600);

/// The longest token: a head of a request is hardly longer.
const MOST_TOKEN: usize = 64 * 1024;

pub(super) fn read(mut table: Table<'_>, base: &Path) -> Option<JwtSettings> {
    if !cfg!(feature = "jwt") {
        table.complain("this Tollgate was built without JSON Web Tokens (the feature `jwt`)", None);
    }
    let algorithms = table.list("algorithms", algorithm).unwrap_or_default();
    let keys = keys(&mut table, base, &algorithms);
    // What only goes with keys is read all the same: it is known.
    let without_keys = JwtKeys::PublicKey(JwtPublicKey::of_info(Vec::new()));
    let found = keys.is_some();
    let mut settings = JwtSettings::new(keys.unwrap_or(without_keys));
    settings.algorithms = algorithms;
    rules(&mut table, &mut settings.rules);
    settings.place = place(&mut table);
    table.set("strip", &mut settings.strip, Value::boolean);
    table.set("max_token", &mut settings.max_token, |value| match memory_size(value)? {
        size if size <= MOST_TOKEN => Ok(size),
        _ => Err(Misfit::new("expected a size of at most 64KiB")),
    });
    table.set("name_claim", &mut settings.name_claim, claim);
    settings.scopes_claim = table.read("scopes_claim", claim);
    settings.claims_to_headers = claims_to_headers(&mut table);
    table.finish(&[
        ("jwks_uri", "jwks"),
        ("jwks_url", "jwks"),
        ("remote_jwks", "jwks"),
        ("key", "public_key"),
        ("secret_key", "secret"),
        ("issuers", "issuer"),
        ("iss", "issuer"),
        ("audiences", "audience"),
        ("aud", "audience"),
        ("algorithm", "algorithms"),
        ("clock_skew", "leeway"),
        ("claims", "required_claims"),
        ("forward", "strip"),
        ("claim_to_headers", "claims_to_headers"),
        ("headers", "claims_to_headers"),
    ]);
    found.then_some(settings)
}

/// Of `jwks`, `public_key` and `secret` the one that is there.
fn keys(table: &mut Table<'_>, base: &Path, algorithms: &[JwtAlgorithm]) -> Option<JwtKeys> {
    let sources = ["jwks", "public_key", "secret"];
    let given = sources.into_iter().filter(|key| table.has(key)).count();
    if given != 1 {
        let message = if given == 0 {
            "it has no keys: what tokens are checked by"
        } else {
            "the keys `jwks`, `public_key` and `secret` exclude each other"
        };
        let hint = "one of: jwks = \"https://…\", public_key = \"….pem\", secret = \"env:…\"";
        table.complain(message, Some(hint.to_owned()));
    }
    let fetched = table.has("jwks");
    let jwks = jwks(table, base);
    let public_key = table.read("public_key", |value| {
        let path = file(value, base)?;
        value.comes_from(&path);
        JwtPublicKey::read(&path).map_err(|error| Misfit::new(error.to_string()))
    });
    let secret = table.value("secret").and_then(|value| {
        if !value.string("").is_ok_and(says_where) {
            value.conceal();
        }
        value.fit(|value| shared_secret(value, base, algorithms))
    });
    for algorithm in algorithms {
        if fetched && algorithm.is_symmetric() {
            let message = format!("{algorithm} goes by a secret, and a set of keys is published");
            table.complain(message, None);
        }
    }
    if given != 1 {
        return None;
    }
    let (public_key, secret) = (public_key.map(JwtKeys::PublicKey), secret.map(JwtKeys::Secret));
    jwks.map(JwtKeys::Jwks).or(public_key).or(secret)
}

fn jwks(table: &mut Table<'_>, base: &Path) -> Option<JwksSettings> {
    let fetched = table.has("jwks");
    let place = table.value("jwks");
    let url = place.as_ref().and_then(|value| value.fit(web_url));
    if let (Some(place), true) = (&place, url.as_ref().is_some_and(is_plain_from_elsewhere)) {
        place.warn(
            "the keys come by plain HTTP from another machine: whoever is on the way can put \
             others in their place, and be let in by them",
        );
    }
    let mut jwks = JwksSettings::new(url.clone().unwrap_or_default());
    let times = [
        ("timeout", &mut jwks.timeout),
        ("refresh", &mut jwks.refresh),
        ("unknown_kid_pause", &mut jwks.unknown_kid_pause),
    ];
    for (key, target) in times {
        let Some(value) = table.value(key) else { continue };
        if !fetched {
            value.complain("it is for keys that are fetched", Some("jwks = \"https://…\"".into()));
        }
        if let Some(time) = value.fit(duration) {
            *target = time;
        }
    }
    let ca = table.value("ca");
    if let (Some(ca), true) = (&ca, url.as_ref().and_then(Uri::scheme_str) != Some("https")) {
        ca.complain("the certificates are for TLS", Some("jwks = \"https://…\"".to_owned()));
    }
    jwks.ca = ca.and_then(|value| value.fit(|value| file(value, base)));
    url.map(|_| jwks)
}

fn shared_secret(
    value: &Value<'_>,
    base: &Path,
    algorithms: &[JwtAlgorithm],
) -> Fits<SharedSecret> {
    let text = match secret(value, base, "secret")? {
        Secret::Read(text) => text,
        Secret::Digest(_) => {
            let message = "a digest is no secret that tokens could be checked by";
            return Err(Misfit::new(message).hint("write \"env:NAME\" or \"file:PATH\""));
        }
    };
    let default = [JwtAlgorithm::Hs256];
    let algorithms = if algorithms.is_empty() { &default[..] } else { algorithms };
    let least = algorithms.iter().filter_map(|one| one.least_secret()).max().unwrap_or_default();
    if text.len() < least {
        let hint = format!("`openssl rand -hex {}` makes one", least.div_ceil(2).max(32));
        return Err(Misfit::new(format!("the secret has less than {least} bytes")).hint(hint));
    }
    Ok(SharedSecret::new(text.as_bytes().to_vec()))
}

fn rules(table: &mut Table<'_>, rules: &mut JwtRules) {
    let text = |value: &Value<'_>| match value.string("a string")? {
        "" => Err(Misfit::new("it is empty")),
        text => Ok(text.to_owned()),
    };
    rules.issuers = table.list("issuer", text).unwrap_or_default();
    rules.audiences = table.list("audience", text).unwrap_or_default();
    table.set("any_audience", &mut rules.any_audience, Value::boolean);
    if rules.any_audience && !rules.audiences.is_empty() {
        table.complain("`audience` and `any_audience` exclude each other", None);
    }
    table.set("require_exp", &mut rules.require_exp, Value::boolean);
    table.set("leeway", &mut rules.leeway, leeway);
    rules.required = required_claims(table);
}

pub(super) fn leeway(value: &Value<'_>) -> Fits<Duration> {
    match pause(value)? {
        leeway if leeway <= MOST_LEEWAY => Ok(leeway),
        _ => Err(Misfit::new("expected a duration of at most 10m")),
    }
}

pub(super) fn required_claims(table: &mut Table<'_>) -> Vec<(String, Vec<Json>)> {
    let Some(required) = table.table("required_claims") else { return Vec::new() };
    let one = |(name, _, value): (String, _, Value<'_>)| {
        let values = match value.items_if_list() {
            Some(items) => items.iter().filter_map(|item| item.fit(json)).collect(),
            None => value.fit(json).into_iter().collect(),
        };
        (name, values)
    };
    required.entries().map(one).collect()
}

/// A value that a claim may have.
fn json(value: &Value<'_>) -> Fits<Json> {
    if value.is_string() {
        return Ok(value.string("a string")?.into());
    }
    let number = value.integer("a string, a whole number, or `true` or `false`", 0, u64::MAX >> 1);
    value.boolean().map(Json::from).or_else(|_| number.map(Json::from))
}

fn place(table: &mut Table<'_>) -> TokenPlace {
    let header = table.read("header", header_name);
    let cookie = table.value("cookie");
    if let (Some(cookie), Some(_)) = (&cookie, &header) {
        cookie.complain("`header` and `cookie` exclude each other", None);
    }
    let cookie = cookie.and_then(|value| value.fit(|value| token(value, "the name of a cookie")));
    match (header, cookie) {
        (Some(header), _) if header == http::header::AUTHORIZATION => TokenPlace::Bearer,
        (Some(header), _) => TokenPlace::Header(header),
        (None, Some(cookie)) => TokenPlace::Cookie(cookie),
        (None, None) => TokenPlace::Bearer,
    }
}

pub(super) fn claims_to_headers(table: &mut Table<'_>) -> Vec<(String, http::HeaderName)> {
    let Some(claims) = table.table("claims_to_headers") else { return Vec::new() };
    let mut fields: Vec<(String, http::HeaderName)> = Vec::new();
    for (claim, _, value) in claims.entries() {
        let Some(field) = value.fit(header_name) else { continue };
        if fields.iter().any(|(_, other)| *other == field) {
            value.complain("another claim is written to this field", None);
        }
        fields.push((claim, field));
    }
    fields
}

pub(super) fn claim(value: &Value<'_>) -> Fits<String> {
    match value.string("the name of a claim")? {
        "" => Err(Misfit::new("expected the name of a claim")),
        name => Ok(name.to_owned()),
    }
}

pub(super) fn algorithm(value: &Value<'_>) -> Fits<JwtAlgorithm> {
    let text = value.string("an algorithm such as \"RS256\"")?;
    if text.eq_ignore_ascii_case("none") {
        return Err(Misfit::new("a token that nobody signed tells nothing"));
    }
    let names = JwtAlgorithm::ALL.map(JwtAlgorithm::as_str).join(", ");
    text.parse()
        .map_err(|error| Misfit::new(format!("`{text}`: {error}")).hint(format!("known: {names}")))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::parse;

    fn problems(jwt: &str) -> String {
        let toml = format!(
            "[[listener]]\nname = \"a\"\naddress = \"127.0.0.1:0\"\n[[auth]]\nname = \"a\"\n\
             [auth.jwt]\n{jwt}\n[[route]]\nname = \"a\"\nrespond = {{}}\nauth = \"a\"\n"
        );
        parse(Path::new("a.toml"), &toml).unwrap_err().to_string()
    }

    #[test]
    fn what_cannot_be_is_said() {
        const URL: &str = "jwks = \"https://id.test/keys\"\n";
        for (jwt, said) in [
            (String::new(), "it has no keys"),
            (format!("{URL}public_key = \"x.pem\""), "exclude each other"),
            (format!("{URL}algorithms = [\"none\"]"), "nobody signed"),
            (format!("{URL}algorithms = [\"HS256\"]"), "is published"),
            (format!("{URL}algorithms = [\"RS257\"]"), "RS257"),
            (format!("{URL}audience = \"a\"\nany_audience = true"), "exclude each other"),
            (format!("{URL}header = \"X-A\"\ncookie = \"a\""), "exclude each other"),
            (format!("{URL}leeway = \"1h\""), "at most 10m"),
            (format!("{URL}max_token = \"1MiB\""), "at most 64KiB"),
            (format!("{URL}required_claims = {{ a = 1.5 }}"), "whole number"),
            (format!("{URL}claims_to_headers = {{ a = \"X-A\", b = \"x-a\" }}"), "another claim"),
            (format!("{URL}issuers = [\"a\"]"), "here it is `issuer`"),
            ("jwks = \"ftp://id.test/keys\"".to_owned(), "expected a URL"),
            ("jwks = \"http://id.test/keys\"\nca = \"a.toml\"".to_owned(), "for TLS"),
            ("public_key = \"missing.pem\"".to_owned(), "missing.pem cannot be read"),
            ("public_key = \"x.pem\"\nrefresh = \"1m\"".to_owned(), "that are fetched"),
        ] {
            let told = problems(&jwt);
            assert!(told.contains(said), "{jwt}\n{told}");
        }
    }

    #[test]
    fn a_secret_is_never_shown() {
        for jwt in [
            "secret = \"hunter2\"",
            "secret = \"hunter2\"\nsecrets = \"env:A\"",
            "secret = [\"hunter2\"]",
            "jwks = \"https://me:hunter2@id.test/keys\"",
        ] {
            let told = problems(jwt);
            assert!(!told.contains("hunter2"), "{told}");
        }
    }
}
