//! `[redis]`

use std::path::Path;

use super::reader::{Fits, Misfit, Table, Value};
use super::says_where;
use super::units::{Secret, duration, file, secret};
use crate::redis::{RedisPassword, RedisSettings, RedisUrl, RedisUrlError};

/// `needed`: whether something else goes by way of it.
pub(super) fn read(root: &mut Table<'_>, base: &Path, needed: bool) -> Option<RedisSettings> {
    let Some(mut table) = root.table("redis") else {
        if needed {
            let hint = "add a table [redis] with its `url`".to_owned();
            root.complain("`[cache.fleet]` goes by way of Redis, and there is none", Some(hint));
        }
        return None;
    };
    if !cfg!(feature = "redis") {
        table.complain("this Tollgate was built without Redis (the feature `redis`)", None);
    }
    conceal_secrets(&table);
    let url = table.require("url", "where Redis is, such as \"redis://10.0.0.5:6379\"", url);
    let username = table.read("username", name);
    let password = table.read("password", |value| password(value, base));
    if username.is_some() && password.is_none() && !table.has("password") {
        table.complain("a `username` needs a `password`", None);
    }
    let ca = table.value("ca");
    if let (Some(ca), Some(RedisUrl { tls: false, .. })) = (&ca, &url) {
        ca.complain("the certificates are for TLS", Some("write `rediss://` in `url`".to_owned()));
    }
    let ca = ca.and_then(|value| value.fit(|value| file(value, base)));
    let read_without_url = RedisUrl { tls: false, host: String::new(), port: 0, database: 0 };
    let mut redis = RedisSettings::new(url.unwrap_or(read_without_url));
    (redis.username, redis.password, redis.ca) = (username, password, ca);
    table.set("connect_timeout", &mut redis.connect_timeout, duration);
    table.set("timeout", &mut redis.timeout, duration);
    table.finish(&[
        ("address", "url"),
        ("host", "url"),
        ("port", "url"),
        ("user", "username"),
        ("tls", "url"),
        ("ca_file", "ca"),
        ("database", "url"),
        ("db", "url"),
    ]);
    Some(redis)
}

/// Keeps what may be a password out of every report: whatever its key is called, and
/// whatever it is. A URL may have one in it, though it should not.
fn conceal_secrets(table: &Table<'_>) {
    for (key, _, value) in table.entries() {
        let text = value.string("").ok();
        let shown = match key.as_str() {
            "username" | "ca" | "connect_timeout" | "timeout" => true,
            "url" => text.is_some_and(|text| !text.contains(['@', '?'])),
            _ => text.is_some_and(says_where_to_read),
        };
        if !shown {
            value.conceal();
        }
    }
}

/// A digest is no place: whoever has one may try passwords on it.
fn says_where_to_read(text: &str) -> bool {
    says_where(text) && !text.starts_with("sha256:")
}

fn url(value: &Value<'_>) -> Fits<RedisUrl> {
    const WHAT: &str = "a URL such as \"redis://10.0.0.5:6379\"";
    let text = value.string(WHAT)?;
    text.parse().map_err(|error: RedisUrlError| {
        let misfit = Misfit::new(error.to_string());
        match error {
            RedisUrlError::Userinfo => misfit.hint("see `username` and `password`"),
            _ => misfit,
        }
    })
}

fn name(value: &Value<'_>) -> Fits<String> {
    let text = value.string("the name of a user")?;
    let sound = !text.is_empty() && !text.contains(char::is_whitespace);
    sound.then(|| text.to_owned()).ok_or_else(|| Misfit::new("expected the name of a user"))
}

fn password(value: &Value<'_>, base: &Path) -> Fits<RedisPassword> {
    const WAYS: &str = "write \"env:NAME\" or \"file:PATH\"";
    let text = value.string("where the password stands")?;
    if !says_where(text) {
        let message = "a password does not stand in the configuration itself";
        return Err(Misfit::new(message).hint(WAYS));
    }
    match secret(value, base, "password")? {
        Secret::Read(text) => Ok(RedisPassword::new(text.to_string())),
        Secret::Digest(_) => {
            Err(Misfit::new("a digest is no password that Redis could be shown").hint(WAYS))
        }
    }
}
