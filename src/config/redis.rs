//! `[redis]`

use std::path::Path;

#[cfg(feature = "redis")]
use toml::de::DeTable;

#[cfg(feature = "redis")]
use super::LoadError;
#[cfg(feature = "redis")]
use super::problem::Problems;
use super::reader::{Fits, Misfit, Table, Value};
use super::says_where;
use super::units::{Secret, duration, file, secret};
use crate::redis::{
    RedisAt, RedisPassword, RedisSettings, RedisUrl, RedisUrlError, SentinelSettings,
};

/// Reads nothing but `[redis]` of a file: who adds a key there need not have the secrets of
/// all the rest. `None` if there is none.
///
/// # Errors
///
/// The file cannot be read, is no TOML, or what is wrong with that table.
#[cfg(feature = "redis")]
pub(crate) fn redis_of(path: &Path) -> Result<Option<RedisSettings>, LoadError> {
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|error| LoadError::unreadable(path, &error))?;
    let problems = Problems::new(&text);
    let (document, errors) = DeTable::parse_recoverable(&text);
    for error in errors {
        problems.add("", error.span().unwrap_or(0..0), error.message(), None);
    }
    if !problems.is_empty() {
        super::conceal_secrets(&text, &problems);
        return Err(problems.into_error(path));
    }
    let base = path.parent().unwrap_or_else(|| Path::new(""));
    let redis = read(&mut Table::root(&document, &problems), base, false);
    if problems.is_empty() { Ok(redis) } else { Err(problems.into_error(path)) }
}

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
    let at = at(&mut table, base);
    let (username, password) = login(&mut table, base);
    let ca = table.value("ca");
    let is_tls = at.as_ref().is_none_or(RedisAt::is_tls);
    if let Some(ca) = ca.as_ref().filter(|_| !is_tls) {
        ca.complain(
            "the certificates are for TLS",
            Some("write `rediss://` in the URL".to_owned()),
        );
    }
    let ca = ca.and_then(|value| value.fit(|value| file(value, base)));
    let server_name = table.value("server_name");
    if let Some(name) = server_name.as_ref().filter(|_| !is_tls) {
        let hint = Some("write `rediss://` in the URL".to_owned());
        name.complain("the name is of a certificate, for TLS", hint);
    }
    let server_name = server_name.and_then(|value| value.fit(certificate_name));
    let read_without = RedisUrl { tls: false, host: String::new(), port: 0, database: 0 };
    let mut redis = RedisSettings::at(at.unwrap_or(RedisAt::Url(read_without)));
    (redis.username, redis.password, redis.ca) = (username, password, ca);
    redis.server_name = server_name;
    table.set("connect_timeout", &mut redis.connect_timeout, duration);
    table.set("timeout", &mut redis.timeout, duration);
    table.finish(&[
        ("address", "url"),
        ("host", "url"),
        ("port", "url"),
        ("urls", "[redis.cluster] urls"),
        ("nodes", "[redis.cluster] urls"),
        ("user", "username"),
        ("tls", "url"),
        ("ca_file", "ca"),
        ("sni", "server_name"),
        ("database", "url"),
        ("db", "url"),
    ]);
    Some(redis)
}

/// Where it is: in one of three ways.
fn at(table: &mut Table<'_>, base: &Path) -> Option<RedisAt> {
    const WHERE: &str = "where Redis is, such as \"redis://10.0.0.5:6379\"";
    let ways = ["url", "sentinel", "cluster"];
    if ways.iter().filter(|way| table.has(way)).count() > 1 {
        let message = "one of `url`, `[redis.sentinel]` and `[redis.cluster]` says where Redis is";
        table.complain(message, None);
    }
    let here = table.value("url");
    let sentinel = table.table("sentinel").map(|sentinel| sentinels(sentinel, base));
    let cluster = table.table("cluster").map(cluster);
    match (here, sentinel.or(cluster)) {
        (_, Some(elsewhere)) => elsewhere,
        (Some(here), None) => here.fit(url).map(RedisAt::Url),
        (None, None) => {
            table.complain(format!("the key `url` is missing: {WHERE}"), None);
            None
        }
    }
}

fn sentinels(mut table: Table<'_>, base: &Path) -> Option<RedisAt> {
    conceal_secrets(&table);
    let urls = urls(&mut table, "a sentinel");
    let master = table.require("master", "what the master is called among them", name);
    let (username, password) = login(&mut table, base);
    let mut database = 0;
    table.set("database", &mut database, |value| {
        let number = value.integer("the number of a database", 0, u32::MAX.into())?;
        Ok(u32::try_from(number).unwrap_or(u32::MAX))
    });
    table.finish(&[
        ("url", "urls"),
        ("addresses", "urls"),
        ("hosts", "urls"),
        ("nodes", "urls"),
        ("name", "master"),
        ("service", "master"),
        ("master_name", "master"),
        ("user", "username"),
        ("db", "database"),
    ]);
    let (urls, master) = (urls?, master?);
    Some(RedisAt::Sentinel(SentinelSettings { urls, master, database, username, password }))
}

fn cluster(mut table: Table<'_>) -> Option<RedisAt> {
    conceal_secrets(&table);
    let urls = urls(&mut table, "a cluster");
    table.finish(&[("url", "urls"), ("nodes", "urls"), ("addresses", "urls"), ("seeds", "urls")]);
    urls.map(RedisAt::Cluster)
}

/// Several that speak TLS or do not, and have no databases.
fn urls(table: &mut Table<'_>, of: &str) -> Option<Vec<RedisUrl>> {
    let Some(list) = table.value("urls") else {
        let hint = format!("urls = [\"redis://10.0.0.5:6379\"], each node of {of} that is known");
        table.complain("`urls` is missing", Some(hint));
        return None;
    };
    let items = list.items("a list of URLs such as \"redis://10.0.0.5:6379\"")?;
    let mut urls: Vec<RedisUrl> = Vec::new();
    let (mut sound, none) = (true, items.is_empty());
    for item in items {
        let read = item.fit(|value| {
            let url = url(value)?;
            if url.database > 0 {
                return Err(Misfit::new(format!("{of} has no databases in its URLs")));
            }
            match urls.first() {
                Some(first) if first.tls != url.tls => {
                    Err(Misfit::new("all of them speak TLS (`rediss://`), or none does"))
                }
                _ => Ok(url),
            }
        });
        match read {
            Some(url) => urls.push(url),
            None => sound = false,
        }
    }
    if none {
        list.complain("at least one has to be known", None);
    }
    (sound && !none).then_some(urls)
}

/// As whom it is asked, and what it is shown.
fn login(table: &mut Table<'_>, base: &Path) -> (Option<String>, Option<RedisPassword>) {
    let username = table.read("username", name);
    let password = table.read("password", |value| password(value, base));
    if username.is_some() && password.is_none() && !table.has("password") {
        table.complain("a `username` needs a `password`", None);
    }
    (username, password)
}

/// Keeps what may be a password out of every report: whatever its key is called, and
/// whatever it is. A URL may have one in it, though it should not.
fn conceal_secrets(table: &Table<'_>) {
    for (key, _, value) in table.entries() {
        let text = value.string("").ok();
        let shown = match key.as_str() {
            "username" | "ca" | "server_name" | "connect_timeout" | "timeout" | "master"
            | "database" => true,
            // Tables of their own, and what stands in them.
            "sentinel" | "cluster" => text.is_none(),
            "urls" if value.is_list() => {
                let items = value.items("").unwrap_or_default();
                for item in items.iter().filter(|item| !is_shown(item)) {
                    item.conceal();
                }
                true
            }
            "url" => is_shown(&value),
            _ => text.is_some_and(says_where_to_read),
        };
        if !shown {
            value.conceal();
        }
    }
}

fn is_shown(url: &Value<'_>) -> bool {
    url.string("").is_ok_and(|text| !text.contains(['@', '?']))
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

fn certificate_name(value: &Value<'_>) -> Fits<String> {
    let text = value.string("the name in the certificates")?;
    match rustls::pki_types::ServerName::try_from(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(Misfit::new("expected a name that a certificate can be for")),
    }
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
