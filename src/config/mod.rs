//! From a TOML file to [`Settings`].
//!
//! A file is read key by key with its spans, so that everything that is wrong
//! with it is said at once, each with its place and what was expected there.

mod admin;
mod alike;
mod auth;
mod cache;
mod client_auth;
mod compression;
mod dns;
mod limits;
mod listeners;
mod places;
mod plan;
mod problem;
mod rate_limits;
mod reader;
mod redis;
mod routes;
mod server;
mod settings;
mod signing;
mod units;
mod upstreams;

use std::path::Path;

use toml::de::DeTable;

pub use admin::{AdminAccess, admin_access};
#[cfg(feature = "cli")]
pub(crate) use auth::{FileKey, parse_keys};
pub use places::Places;
pub use plan::{CertificateInUse, Difference, Item, KeyChange, Part, Plan};
pub use problem::{LoadError, Problem};
#[cfg(feature = "redis")]
pub(crate) use redis::redis_of;
pub use settings::{
    AdminSettings, CacheStoreSettings, LogSettings, MemoryBudget, RouteSettings, ServerSettings,
    Settings,
};

use problem::Problems;
use reader::Table;
use routes::Known;

/// Reads a configuration file.
///
/// # Errors
///
/// Everything that is wrong with it.
pub fn load(path: &Path) -> Result<Settings, LoadError> {
    let text =
        std::fs::read_to_string(path).map_err(|error| LoadError::unreadable(path, &error))?;
    let mut settings = parse(path, &text)?;
    settings.sources.insert(0, path.to_owned());
    Ok(settings)
}

/// Reads a configuration from memory. `path` is the name it has in messages;
/// relative paths in it start at that file's folder.
///
/// # Errors
///
/// Everything that is wrong with it.
pub fn parse(path: &Path, text: &str) -> Result<Settings, LoadError> {
    let base = path.parent().unwrap_or_else(|| Path::new(""));
    let problems = Problems::new(text);
    let (document, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        for error in errors {
            problems.add("", error.span().unwrap_or(0..0), error.message(), None);
        }
        conceal_secrets(text, &problems);
        // What follows a broken line would be guesswork.
        return Err(problems.into_error(path));
    }
    let mut settings = read(Table::root(&document, &problems), base);
    if !problems.is_empty() {
        return Err(problems.into_error(path));
    }
    settings.sources = problems.take_sources();
    settings.places = Places::of(Table::root(&document, &problems), path);
    settings.warnings = problems.take_warnings(path);
    Ok(settings)
}

fn read(mut root: Table<'_>, base: &Path) -> Settings {
    let (server, trust) = server::server(&mut root);
    let log = server::log(&mut root);
    let access_log = server::access_log(&mut root, base);
    let admin = admin::read(&mut root, base);
    let dns = dns::read(&mut root);
    let cache = cache::store(&mut root, base);
    let redis = redis::read(&mut root, base, cache.fleet.is_some());
    let listeners = listeners::read(&mut root, base);
    let upstreams = upstreams::read(&mut root, base);
    let names: Vec<String> = upstreams.iter().map(|upstream| upstream.name.clone()).collect();
    let (authenticators, named) = auth::read(&mut root, base);
    let known = Known {
        upstreams: &names,
        listeners: &listeners,
        authenticators: &authenticators,
        authenticator_names: &named,
        redis: root.has("redis"),
    };
    let routes = routes::read(&mut root, base, &known);
    auth::check_routes(&mut root, &authenticators, &routes, &listeners);
    auth::warn_of_unused(&mut root, &routes);
    root.finish(&[
        ("listeners", "[[listener]]"),
        ("upstreams", "[[upstream]]"),
        ("routes", "[[route]]"),
        ("authentication", "[[auth]]"),
        ("logging", "[log]"),
        ("resolver", "[dns]"),
        ("valkey", "[redis]"),
    ]);
    Settings {
        listeners,
        upstreams,
        authenticators,
        routes,
        server,
        dns,
        cache,
        redis,
        trust,
        access_log,
        log,
        admin,
        sources: Vec::new(),
        places: Places::default(),
        warnings: Vec::new(),
    }
}

/// Whether this text says where a secret is, or what its digest is, and is not the
/// secret itself.
fn says_where(text: &str) -> bool {
    ["env:", "file:", "sha256:"].iter().any(|prefix| text.starts_with(prefix))
}

/// Keeps what may be a secret out of the report on a text that is no TOML, and so has
/// no values yet: whatever is quoted behind `key =` and the like. A URL may have a password
/// in it, though it should not.
fn conceal_secrets(text: &str, problems: &Problems<'_>) {
    let named = ["key", "token", "password", "secret", "url"]
        .into_iter()
        .flat_map(|word| text.match_indices(word).map(|(at, word)| at + word.len()));
    for behind in named {
        let Some(rest) = text[behind..].trim_start().strip_prefix('=') else { continue };
        let rest = rest.trim_start();
        let Some(quote) = rest.chars().next().filter(|c| matches!(c, '"' | '\'')) else { continue };
        let value = &rest[1..];
        if says_where(value) {
            continue;
        }
        let start = text.len() - value.len();
        let length = value.find([quote, '\n']).unwrap_or(value.len());
        problems.conceal(start..start + length);
    }
}
