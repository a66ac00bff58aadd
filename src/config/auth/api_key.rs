//! `[auth.api_key]`, `[route.api_key]`, and files of keys.

use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use toml::de::DeTable;

use super::scope;
use crate::config::problem::{LoadError, Problems};
use crate::config::rate_limits::refills;
use crate::config::reader::{Fits, Misfit, Table, Value};
use crate::config::says_where;
use crate::config::units::{api_key, duration, file_text, header_name, positive, rate};
use crate::layers::{
    ApiKey, ApiKeySettings, KeyDigest, RedisKeySettings, check_key_name, check_key_prefix,
};
use crate::pace::Quota;

/// A key of a file, and where it stands there, in bytes: its table's beginning at least.
#[derive(Debug)]
pub(crate) struct FileKey {
    pub(crate) key: ApiKey,
    #[cfg_attr(not(feature = "cli"), expect(dead_code, reason = "the command line reads it"))]
    pub(crate) span: Range<usize>,
}

/// Keys that were read, of which each is another.
#[derive(Default)]
struct Keys {
    read: Vec<ApiKey>,
    digests: HashSet<KeyDigest>,
    ids: HashSet<Arc<str>>,
}

/// `has_redis`: whether there is a Redis that they may stand in.
pub(in crate::config) fn api_keys(
    mut table: Table<'_>,
    base: &Path,
    has_redis: bool,
) -> Option<ApiKeySettings> {
    let header = table.read("header", header_name);
    let bearer = table.read("bearer", Value::boolean);
    let query = table.read("query", parameter);
    let identity_header = table.read("identity_header", header_name);
    let scopes_header = table.read("scopes_header", header_name);
    if ["keys", "file", "redis"].iter().all(|key| !table.has(key)) {
        let hint = "or a `file` of keys, or a prefix of keys in `redis`".to_owned();
        table.complain("the key `keys` is missing: who is let in", Some(hint));
    }
    let elsewhere = table.has("file") || table.has("redis");
    if let Some(none) = table.value("keys").filter(|keys| keys.is_empty_list() && !elsewhere) {
        none.complain("there is no key: nobody would be let in", None);
    }
    let mut keys = Keys::default();
    for key in table.tables("keys") {
        keys.add(key, base, false);
    }
    let file = table.value("file").and_then(|value| file_of_keys(&value, base, &mut keys));
    let redis = in_redis(&mut table, has_redis);
    table.finish(&[
        ("key", "keys"),
        ("header_name", "header"),
        ("name", "header"),
        ("key_names", "header"),
        ("query_param", "query"),
        ("key_in_query", "query"),
        ("keys_file", "file"),
        ("path", "file"),
        ("scopes", "[route.auth] scopes"),
    ]);
    let mut settings = ApiKeySettings::new(keys.read);
    if let Some(header) = header {
        settings.header = header;
    }
    settings.bearer = bearer.unwrap_or(false);
    settings.query = query;
    (settings.identity_header, settings.scopes_header) = (identity_header, scopes_header);
    (settings.file, settings.redis) = (file, redis);
    Some(settings)
}

/// The name of a query parameter, of characters that nobody has to encode.
fn parameter(value: &Value<'_>) -> Fits<Arc<str>> {
    let text = value.string("the name of a query parameter")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~');
    let fits = !text.is_empty() && text.chars().all(plain);
    fits.then(|| text.into()).ok_or_else(|| {
        Misfit::new("the name of a query parameter has letters, digits, `-`, `.`, `_` and `~`")
    })
}

fn in_redis(table: &mut Table<'_>, has_redis: bool) -> Option<RedisKeySettings> {
    let prefix = table.read("redis", |value| {
        if !has_redis {
            return Err(Misfit::new("API keys stand in Redis, and there is none")
                .hint("add a table [redis] with its `url`"));
        }
        let text = value.string("what keys in Redis begin with, such as \"tollgate:keys\"")?;
        check_key_prefix(text).map(|()| text.to_owned()).map_err(Misfit::new)
    });
    let (cache, stale) = (table.value("cache"), table.value("stale"));
    if !table.has("redis") {
        for value in [&cache, &stale].into_iter().flatten() {
            value.complain("this is for keys in `redis`", None);
        }
    }
    let mut redis = RedisKeySettings::new(prefix?);
    if let Some(cache) = cache.and_then(|value| value.fit(duration)) {
        redis.cache = cache;
        redis.stale = redis.stale.max(cache);
    }
    if let Some(stale) = stale {
        let fits = |value: &Value<'_>| match duration(value)? {
            stale if stale < redis.cache => {
                Err(Misfit::new("`stale` is at least as long as `cache`"))
            }
            stale => Ok(stale),
        };
        redis.stale = stale.fit(fits).unwrap_or(redis.stale);
    }
    Some(redis)
}

fn file_of_keys(value: &Value<'_>, base: &Path, keys: &mut Keys) -> Option<PathBuf> {
    let (path, text) = value.fit(|value| file_text(value, base))?;
    match parse_keys(&path, &text) {
        Ok(read) => {
            super::nobody(value, &path, &text, read.is_empty());
            for FileKey { key, .. } in read {
                if let Err(why) = keys.note(&key) {
                    let message = format!("{}: the key of {}: {why}", path.display(), key.name);
                    value.complain(message, None);
                }
                keys.read.push(key);
            }
        }
        Err(report) => value.add_report(report),
    }
    Some(path)
}

/// Reads the text of a file of keys, each a table `[[key]]`. `path` is the name it has in
/// messages.
///
/// # Errors
///
/// Everything that is wrong with it.
pub(crate) fn parse_keys(path: &Path, text: &str) -> Result<Vec<FileKey>, LoadError> {
    let problems = Problems::new(text);
    let (document, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        for error in errors {
            problems.add("", error.span().unwrap_or(0..0), error.message(), None);
        }
        crate::config::conceal_secrets(text, &problems);
        return Err(problems.into_error(path));
    }
    let mut root = Table::root(&document, &problems);
    let (mut keys, mut spans) = (Keys::default(), Vec::new());
    for table in root.tables("key") {
        let span = table.span();
        if keys.add(table, Path::new(""), true) {
            spans.push(span);
        }
    }
    root.finish(&[("keys", "[[key]]"), ("api_key", "[[key]]")]);
    if !problems.is_empty() {
        return Err(problems.into_error(path));
    }
    let keys = keys.read.into_iter().zip(spans);
    Ok(keys.map(|(key, span)| FileKey { key, span }).collect())
}

impl Keys {
    /// Reads a key; false if that cannot be.
    fn add(&mut self, table: Table<'_>, base: &Path, hashed: bool) -> bool {
        let (path, span, problems) = (table.path().to_owned(), table.span(), table.problems());
        let Some(key) = one_key(table, base, hashed) else { return false };
        if let Err(why) = self.note(&key) {
            problems.add(&path, span, why, None);
        }
        self.read.push(key);
        true
    }

    /// Notes that there is this key.
    fn note(&mut self, key: &ApiKey) -> Result<(), String> {
        if !self.digests.insert(key.digest) {
            return Err("the same key stands here twice".to_owned());
        }
        match &key.id {
            Some(id) if !self.ids.insert(id.clone()) => Err(format!("there are two keys `{id}`")),
            _ => Ok(()),
        }
    }
}

/// What of a key may be shown, whatever stands there.
const SHOWN: [&str; 8] = ["name", "id", "expires", "not_before", "scopes", "rate", "per", "burst"];

fn one_key(mut table: Table<'_>, base: &Path, hashed: bool) -> Option<ApiKey> {
    for (field, _, value) in table.entries() {
        // Whatever it is called, it may be the key itself.
        if !SHOWN.contains(&field.as_str()) && !value.string("").is_ok_and(says_where) {
            value.conceal();
        }
    }
    let name = table.require("name", "whose key it is", |value| {
        let name = value.string("a name")?;
        check_key_name(name).map(|()| name.to_owned()).map_err(Misfit::new)
    });
    let what = "the key, by its digest or where to read it";
    let digest = table.require("key", what, |value| match value.string("") {
        Ok(text) if hashed && !text.starts_with("sha256:") => {
            Err(Misfit::new("a file of keys has them by their digests only, \"sha256:…\"")
                .hint("`tollgate hash-key` makes one from a key"))
        }
        _ => api_key(value, base),
    });
    let id = table.read("id", |value| {
        let id = value.string("a word that tells the key from others")?;
        check_key_name(id).map(|()| Arc::from(id)).map_err(Misfit::new)
    });
    let (not_before, expires) = (table.read("not_before", Value::moment), table.value("expires"));
    let expires = expires.and_then(|value| {
        value.fit(|value| match value.moment()? {
            end if not_before.is_some_and(|begin| end <= begin) => {
                Err(Misfit::new("a key ends after it begins: see `not_before`"))
            }
            end => Ok(end),
        })
    });
    let scopes = table.list("scopes", scope).unwrap_or_default();
    let quota = quota(&mut table);
    table.finish(&[
        ("secret", "key"),
        ("value", "key"),
        ("hash", "key"),
        ("expiry", "expires"),
        ("expires_at", "expires"),
        ("not_after", "expires"),
        ("valid_until", "expires"),
        ("scope", "scopes"),
        ("client", "name"),
    ]);
    let mut key = ApiKey::new(name?, digest?);
    (key.id, key.not_before, key.expires, key.quota) = (id, not_before, expires, quota);
    key.scopes = scopes.into_iter().map(Into::into).collect();
    Some(key)
}

/// How often whoever has a key may ask: the keys `rate`, `per` and `burst`.
fn quota(table: &mut Table<'_>) -> Option<Quota> {
    let rate = table.read("rate", rate);
    let (per, burst) = (table.value("per"), table.value("burst"));
    if !table.has("rate") {
        for value in [&per, &burst].into_iter().flatten() {
            value.complain("this needs a `rate`", None);
        }
    }
    let per = per.and_then(|value| value.fit(duration)).unwrap_or(Duration::from_secs(1));
    let burst = burst.and_then(|value| value.fit(positive));
    let quota = Quota::new(rate?, per);
    let quota = quota.burst(burst.unwrap_or(quota.burst));
    refills(table, quota);
    Some(quota)
}
