//! `[cache]` and `[route.cache]`.

use std::path::Path;

use super::CacheStoreSettings;
use super::reader::{Fits, Misfit, Table, Value};
use super::units::{duration, header_name, pause, size};
use crate::layers::{CacheDiskSettings, CacheFleetSettings, CacheSettings};

/// With less not even one object of some length has room.
const LEAST_MEMORY: u64 = 1 << 20;

/// With less a stream keeps hardly anything for those who were away for a moment.
const LEAST_LENGTH: u64 = 100;

const LONGEST_STREAM: usize = 256;

pub(super) fn store(root: &mut Table<'_>, base: &Path) -> CacheStoreSettings {
    let mut cache = CacheStoreSettings::default();
    let Some(mut table) = root.table("cache") else { return cache };
    table.set("memory", &mut cache.memory, |v| match size(v)? {
        bytes if bytes >= LEAST_MEMORY => Ok(bytes),
        _ => Err(Misfit::new("expected a size of at least 1MiB")
            .hint("a route without `[route.cache]` stores nothing")),
    });
    cache.fleet = table.table("fleet").map(fleet);
    cache.disk = table.table("disk").and_then(|table| disk(table, base));
    table.finish(&[
        ("size", "memory"),
        ("max_size", "memory"),
        ("memory_budget", "memory"),
        ("path", "[cache.disk] path"),
    ]);
    cache
}

/// The folder is looked at when it is opened, not by who only checks a configuration.
fn disk(mut table: Table<'_>, base: &Path) -> Option<CacheDiskSettings> {
    let path = table.require("path", "a folder of the cache's own", |v| {
        match v.string("the path of a folder")? {
            "" => Err(Misfit::new("expected the path of a folder")
                .hint("such as \"/var/cache/tollgate\", of its own")),
            path => Ok(base.join(path)),
        }
    });
    let size = table.require("size", "how much of the disk it may take", |v| match size(v)? {
        bytes if bytes >= CacheDiskSettings::LEAST => Ok(bytes),
        _ => Err(Misfit::new("expected a size of at least 64MiB")
            .hint("without `[cache.disk]` nothing is stored on disk")),
    });
    table.finish(&[
        ("folder", "path"),
        ("dir", "path"),
        ("directory", "path"),
        ("max_size", "size"),
        ("capacity", "size"),
    ]);
    Some(CacheDiskSettings { path: path?, size: size? })
}

fn fleet(mut table: Table<'_>) -> CacheFleetSettings {
    let mut fleet = CacheFleetSettings::default();
    table.set("stream", &mut fleet.stream, |v| {
        let name = v.string("the key of a stream, such as \"tollgate:purges\"")?;
        let sound = (1..=LONGEST_STREAM).contains(&name.len()) && !name.contains(char::is_control);
        let wrong = || {
            Misfit::new(format!("expected the key of a stream, of up to {LONGEST_STREAM} bytes"))
        };
        if sound { Ok(name.to_owned()) } else { Err(wrong()) }
    });
    table.set("max_length", &mut fleet.max_length, |v| {
        let number = v.integer("a number", LEAST_LENGTH, u64::from(u32::MAX))?;
        u32::try_from(number).map_err(|_| Misfit::new("the number is too large"))
    });
    table.set("unsafe_methods", &mut fleet.unsafe_methods, Value::boolean);
    table.finish(&[
        ("key", "stream"),
        ("channel", "stream"),
        ("maxlen", "max_length"),
        ("url", "[redis] url"),
    ]);
    fleet
}

pub(super) fn of_route(mut table: Table<'_>) -> CacheSettings {
    let default_ttl = table.read("default_ttl", duration);
    let (max_ttl, max_object) = (table.read("max_ttl", duration), table.read("max_object", size));
    let mut cache = CacheSettings { default_ttl, max_ttl, max_object, ..CacheSettings::default() };
    let honour = &mut cache.honour_request_directives;
    table.set("honour_request_directives", honour, Value::boolean);
    table.set("store_set_cookie", &mut cache.store_set_cookie, Value::boolean);
    table.set("stale_while_revalidate", &mut cache.stale_while_revalidate, pause);
    table.set("stale_if_error", &mut cache.stale_if_error, pause);
    table.set("collapse_wait", &mut cache.collapse_wait, duration);
    if let Some(mut key) = table.table("key") {
        cache.key.ignore_query = key.list("ignore_query", parameter).unwrap_or_default();
        cache.key.headers = key.list("headers", header_name).unwrap_or_default();
        key.finish(&[("query", "ignore_query"), ("fields", "headers"), ("vary", "headers")]);
    }
    table.finish(&[
        ("ttl", "default_ttl"),
        ("max_size", "max_object"),
        ("set_cookie", "store_set_cookie"),
        ("lock_timeout", "collapse_wait"),
    ]);
    cache
}

/// A name in a query, or with a `*` at its end the beginning of several.
pub(super) fn parameter(value: &Value<'_>) -> Fits<String> {
    let text = value.string("the name of a parameter, such as \"utm_*\"")?;
    let name = text.strip_suffix('*').unwrap_or(text);
    if text.is_empty() || name.contains(['*', '&', '=', '?', '#', ' ']) {
        return Err(Misfit::new(format!("`{text}` is not the name of a parameter"))
            .hint("a `*` may stand at its end only"));
    }
    Ok(text.to_owned())
}
