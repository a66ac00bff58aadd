//! `[auth.oidc]`

use std::path::Path;
use std::time::Duration;

use http::Uri;

use super::jwt::{algorithm, claim, claims_to_headers, leeway, required_claims};
use crate::config::reader::{Fits, Misfit, Table, Value};
use crate::config::says_where;
use crate::config::units::{Secret, duration, file, is_plain_from_elsewhere, secret, web_url};
use crate::layers::{OidcSettings, SharedSecret};

/// How long a secret for cookies has to be, in bytes.
const LEAST_SECRET: usize = 32;

/// A browser forgets a cookie after 400 days (RFC 6265bis §5.5).
const MOST_SESSION: Duration = Duration::from_secs(400 * 24 * 3600);

const ELSEWHERE: [(&str, &str); 11] = [
    ("oidc_issuer_url", "issuer"),
    ("provider", "issuer"),
    ("discovery", "issuer"),
    ("redirect_uri", "callback"),
    ("redirect_url", "callback"),
    ("logout_path", "logout"),
    ("session_secret", "cookie_secret"),
    ("secret", "client_secret"),
    ("session_lifetime", "session"),
    ("scope", "scopes"),
    ("headers", "claims_to_headers"),
];

pub(super) fn read(mut table: Table<'_>, base: &Path) -> Option<OidcSettings> {
    if !cfg!(feature = "jwt") {
        table.complain("this Tollgate was built without OpenID Connect (the feature `jwt`)", None);
    }
    conceal_secrets(&table);
    let issuer = table.require("issuer", "the identity provider, by its URL", issuer);
    let client_id = table.require("client_id", "what the provider calls this proxy", text);
    let cookie_secrets = if table.has("cookie_secret") {
        table.list("cookie_secret", |value| cookie_secret(value, base)).unwrap_or_default()
    } else {
        table.complain("the key `cookie_secret` is missing: what sessions are sealed by", None);
        let _known = table.value("cookie_secret");
        Vec::new()
    };
    let found = issuer.is_some() && client_id.is_some();
    let is_plain = issuer.as_ref().is_some_and(|issuer| issuer.starts_with("http://"));
    let mut oidc = OidcSettings::new(
        issuer.unwrap_or_default(),
        client_id.unwrap_or_default(),
        cookie_secrets,
    );
    oidc.client_secret = table.read("client_secret", |value| one_secret(value, base));
    if let Some(value) = table.value("scopes") {
        let scopes = scopes(&value);
        if !scopes.iter().any(|scope| scope == "openid") {
            value.complain("without `openid` nobody is told who has logged in", None);
        }
        oidc.scopes = scopes;
    }
    table.set("callback", &mut oidc.callback, path);
    table.set("logout", &mut oidc.logout, path);
    if oidc.callback == oidc.logout {
        table.complain("`callback` and `logout` are the same path", None);
    }
    table.set("provider_logout", &mut oidc.provider_logout, Value::boolean);
    oidc.public_url = table.read("public_url", origin);
    table.set("session", &mut oidc.session, |value| match duration(value)? {
        time if (Duration::from_secs(1)..=MOST_SESSION).contains(&time) => Ok(time),
        _ => Err(Misfit::new("expected a duration from 1s to 400d")),
    });
    who(&mut table, &mut oidc);
    let ca = table.value("ca");
    if let (Some(ca), true) = (&ca, is_plain) {
        ca.complain("the certificates are for TLS", Some("issuer = \"https://…\"".to_owned()));
    }
    oidc.ca = ca.and_then(|value| value.fit(|value| file(value, base)));
    table.set("timeout", &mut oidc.timeout, duration);
    table.finish(&ELSEWHERE);
    found.then_some(oidc)
}

/// Who somebody is by the provider's token, and what is kept of that.
fn who(table: &mut Table<'_>, oidc: &mut OidcSettings) {
    oidc.algorithms = table.list("algorithms", algorithm).unwrap_or_default();
    if let Some(secret) = oidc.algorithms.iter().find(|one| one.is_symmetric()) {
        let message = format!("{secret} goes by a secret, and the provider's keys are published");
        table.complain(message, None);
    }
    table.set("leeway", &mut oidc.leeway, leeway);
    oidc.required = required_claims(table);
    table.set("name_claim", &mut oidc.name_claim, claim);
    oidc.scopes_claim = table.read("scopes_claim", claim);
    oidc.claims_to_headers = claims_to_headers(table);
    oidc.claims = table.list("claims", claim).unwrap_or_default();
}

/// Keeps what may be a secret out of every report, whatever its key is called.
fn conceal_secrets(table: &Table<'_>) {
    for (name, _, value) in table.entries() {
        let shown = match value.items_if_list() {
            Some(items) => items.iter().all(|item| item.string("").is_ok_and(says_where)),
            None => value.string("").is_ok_and(says_where),
        };
        if name.contains("secret") && !shown {
            value.conceal();
        }
    }
}

fn one_secret(value: &Value<'_>, base: &Path) -> Fits<SharedSecret> {
    match secret(value, base, "secret")? {
        Secret::Read(text) => Ok(SharedSecret::new(text.as_bytes())),
        Secret::Digest(_) => Err(Misfit::new("a digest is not enough: the secret is needed")
            .hint("write \"env:NAME\" or \"file:PATH\"")),
    }
}

fn cookie_secret(value: &Value<'_>, base: &Path) -> Fits<SharedSecret> {
    let secret = one_secret(value, base)?;
    if secret.reveal().len() < LEAST_SECRET {
        let message = format!("the secret has less than {LEAST_SECRET} bytes");
        return Err(Misfit::new(message).hint("`openssl rand -hex 32` makes one"));
    }
    Ok(secret)
}

fn issuer(value: &Value<'_>) -> Fits<String> {
    let url = web_url(value)?;
    if url.query().is_some() {
        return Err(Misfit::new("the URL of a provider has no query"));
    }
    if is_plain_from_elsewhere(&url) {
        value.warn(
            "the provider is asked by plain HTTP on another machine: whoever is on the way can \
             log in as anybody",
        );
    }
    // To the letter: with a slash at its end it is another.
    Ok(value.string("a URL")?.to_owned())
}

fn text(value: &Value<'_>) -> Fits<String> {
    match value.string("a string")? {
        "" => Err(Misfit::new("it is empty")),
        text => Ok(text.to_owned()),
    }
}

fn scopes(value: &Value<'_>) -> Vec<String> {
    let items = value.items("a list such as [\"openid\", \"email\"]").unwrap_or_default();
    items.iter().filter_map(|item| item.fit(super::scope)).collect()
}

/// A path of ours.
fn path(value: &Value<'_>) -> Fits<String> {
    let text = value.string("a path such as \"/login/callback\"")?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    let is_sound = text.starts_with('/')
        && text.bytes().all(plain)
        && !text.split('/').skip(1).any(|part| matches!(part, "" | "." | ".."));
    if is_sound { Ok(text.to_owned()) } else { Err(Misfit::new("expected a path of plain words")) }
}

/// Scheme and host.
fn origin(value: &Value<'_>) -> Fits<Uri> {
    let url = web_url(value)?;
    if url.path() != "/" || url.query().is_some() {
        return Err(Misfit::new(
            "expected a scheme and a host, such as \"https://app.example.com\"",
        ));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use crate::config::parse;

    const SECRET: &str = "cookie_secret = \"file:secret\"\n";

    const MINIMAL: &str = "issuer = \"https://id.test\"\nclient_id = \"a\"\n";

    fn problems(oidc: &str, routes: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("secret"), "0123456789abcdef0123456789abcdef").unwrap();
        std::fs::write(dir.path().join("short"), "0123456789abcdef").unwrap();
        let toml = format!(
            "[[listener]]\nname = \"a\"\naddress = \"127.0.0.1:0\"\n[[auth]]\nname = \"people\"\n\
             [auth.oidc]\n{oidc}\n{routes}"
        );
        let parsed = parse(&dir.path().join("a.toml"), &toml);
        parsed.map_or_else(|error| error.to_string(), |_| String::new())
    }

    fn route(name: &str, more: &str) -> String {
        format!("[[route]]\nname = \"{name}\"\nrespond = {{}}\nauth = \"people\"\n{more}\n")
    }

    #[test]
    fn what_cannot_be_is_said() {
        let all = route("all", "");
        let fine = format!("{MINIMAL}{SECRET}");
        assert_eq!(problems(&fine, &all), "");
        for (oidc, said) in [
            (String::new(), "`issuer` is missing"),
            (MINIMAL.to_owned(), "`cookie_secret` is missing"),
            (format!("{MINIMAL}cookie_secret = \"file:short\""), "less than 32 bytes"),
            (format!("{fine}scopes = [\"email\"]"), "without `openid`"),
            (format!("{fine}callback = \"/a/../b\""), "plain words"),
            (format!("{fine}callback = \"https://evil.test/\""), "plain words"),
            (format!("{fine}logout = \"/.tollgate/callback\""), "the same path"),
            (format!("{fine}public_url = \"https://a.test/app\""), "a scheme and a host"),
            (format!("{fine}session = \"500d\""), "400d"),
            (format!("{fine}algorithms = [\"HS256\"]"), "published"),
            (format!("{fine}redirect_uri = \"/a\""), "here it is `callback`"),
        ] {
            let told = problems(&oidc, &all);
            assert!(told.contains(said), "{oidc}\n{told}");
        }
    }

    #[test]
    fn secrets_are_never_shown() {
        let all = route("all", "");
        for oidc in [
            "cookie_secret = \"hunter2\"",
            "cookie_secret = [\"env:A\", \"hunter2\"]",
            "client_secret = \"hunter2\"",
            "client_secret = { a = \"hunter2\" }",
            "secret = \"hunter2\"",
        ] {
            let told = problems(&format!("{MINIMAL}{oidc}"), &all);
            assert!(!told.is_empty() && !told.contains("hunter2"), "{told}");
        }
    }
}
