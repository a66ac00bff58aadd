//! The keys of the tables that are there once.

use super::keys::{Hidden, Keys};
use super::spell::{budget, duration, or_none, path, size};
use crate::accept::ConnectionLimits;
use crate::config::{AdminSettings, CacheStoreSettings, LogSettings, ServerSettings, Settings};
use crate::context::Prefixes;
use crate::layers::{CacheDiskSettings, CacheFleetSettings, KeyDigest, TrustSettings};
use crate::observe::{AccessLogFormat, AccessLogSettings, LogOutput};
use crate::redis::{RedisAt, RedisPassword, RedisSettings, SentinelSettings};
use crate::upstream::{AddressFamily, DnsSettings};

/// What only a new process can have: its threads, what they count against, the
/// log that was opened before all else, and the listener by which it is asked.
pub(super) const OF_THE_PROCESS: [&str; 24] = [
    "server.workers",
    "server.memory_budget",
    "cache.memory",
    "cache.disk",
    "cache.disk.path",
    "cache.disk.size",
    "cache.fleet",
    "cache.fleet.stream",
    "cache.fleet.max_length",
    "cache.fleet.unsafe_methods",
    "redis.url",
    "redis.sentinel",
    "redis.sentinel.urls",
    "redis.sentinel.master",
    "redis.sentinel.database",
    "redis.cluster",
    "redis.cluster.urls",
    "redis.ca",
    "redis.server_name",
    "redis.connect_timeout",
    "redis.timeout",
    "log.format",
    "admin.enabled",
    "admin.address",
];

/// Each table with its keys.
pub(super) fn tables(settings: &Settings) -> [(&'static str, Keys); 7] {
    let Settings {
        listeners: _,
        upstreams: _,
        authenticators: _,
        routes: _,
        sources: _,
        places: _,
        warnings: _,
        server,
        dns,
        cache,
        redis,
        trust,
        access_log,
        log,
        admin,
    } = settings;
    [
        ("server", server_keys(server, trust)),
        ("dns", dns_keys(dns)),
        ("cache", cache_keys(cache)),
        ("redis", redis_keys(redis.as_ref())),
        ("log", log_keys(log)),
        ("access_log", access_log_keys(access_log)),
        ("admin", admin_keys(*admin)),
    ]
}

/// Has `settings` say of the process what `running` says: it stays so until the
/// next one.
pub(super) fn leave(settings: &mut Settings, running: &Settings) {
    settings.server.workers = running.server.workers;
    settings.server.memory_budget = running.server.memory_budget;
    settings.cache = running.cache.clone();
    // As whom Redis is asked follows: passwords are changed while everything runs.
    settings.redis = match (settings.redis.take(), &running.redis) {
        (Some(new), Some(running)) => Some(running.asking_as(&new)),
        (_, running) => running.clone(),
    };
    settings.log.json = running.log.json;
    // Of the admin listener its token follows; one that is to go keeps it until then.
    settings.admin = match (settings.admin, running.admin) {
        (Some(AdminSettings { token, .. }), Some(running)) => {
            Some(AdminSettings { token, ..running })
        }
        (_, running) => running,
    };
}

/// What a change to one of these tables brings about.
pub(super) fn effects(table: &str) -> Vec<String> {
    match table {
        "dns" => vec!["the names of origins are resolved anew".to_owned()],
        "redis" => vec!["the next connection to Redis is made so".to_owned()],
        _ => Vec::new(),
    }
}

fn server_keys(settings: &ServerSettings, trust: &TrustSettings) -> Keys {
    let ServerSettings {
        workers,
        connections: ConnectionLimits { total, per_client, client: Prefixes { ipv4, ipv6 } },
        max_in_flight,
        memory_budget,
        lame_duck,
        drain_timeout,
        reload_on_change,
    } = settings;
    let TrustSettings { proxies, unix } = trust;
    let mut keys = Keys::default();
    let per_core = || "one per core".to_owned();
    keys.one("workers", workers.map_or_else(per_core, |workers| workers.to_string()));
    keys.one("max_connections", total);
    keys.one("max_connections_per_client", per_client);
    keys.one("client_ipv4_prefix", ipv4);
    keys.one("client_ipv6_prefix", ipv6);
    keys.one("max_in_flight", max_in_flight);
    keys.one("memory_budget", budget(*memory_budget));
    keys.one("lame_duck", duration(*lame_duck));
    keys.one("drain_timeout", duration(*drain_timeout));
    keys.one("reload_on_change", reload_on_change);
    let unix = unix.then(|| "unix".to_owned());
    keys.list("trusted_proxies", proxies.iter().map(ToString::to_string).chain(unix));
    keys
}

fn dns_keys(settings: &DnsSettings) -> Keys {
    let DnsSettings { servers, timeout, attempts, min_ttl, max_ttl, negative_ttl, family, allow } =
        settings;
    let mut keys = Keys::default();
    keys.list("servers", servers);
    keys.one("timeout", duration(*timeout));
    keys.one("attempts", attempts);
    keys.one("min_ttl", duration(*min_ttl));
    keys.one("max_ttl", duration(*max_ttl));
    keys.one("negative_ttl", duration(*negative_ttl));
    let family = match family {
        AddressFamily::Ipv6First => "ipv6_first",
        AddressFamily::Ipv4First => "ipv4_first",
        AddressFamily::Ipv6 => "ipv6",
        AddressFamily::Ipv4 => "ipv4",
    };
    keys.one("family", family);
    keys.list("allow", allow);
    keys
}

fn cache_keys(settings: &CacheStoreSettings) -> Keys {
    let CacheStoreSettings { memory, disk, fleet } = settings;
    let mut keys = Keys::default();
    keys.one("memory", size(*memory));
    if let Some(CacheDiskSettings { path: folder, size: bytes }) = disk {
        let mut of_disk = Keys::default();
        of_disk.one("path", path(folder));
        of_disk.one("size", size(*bytes));
        keys.table("disk", of_disk);
    }
    if let Some(CacheFleetSettings { stream, max_length, unsafe_methods }) = fleet {
        let mut of_fleet = Keys::default();
        of_fleet.one("stream", stream);
        of_fleet.one("max_length", max_length);
        of_fleet.one("unsafe_methods", unsafe_methods);
        keys.table("fleet", of_fleet);
    }
    keys
}

fn redis_keys(settings: Option<&RedisSettings>) -> Keys {
    let mut keys = Keys::default();
    let Some(settings) = settings else { return keys };
    let RedisSettings { at, username, password, ca, server_name, connect_timeout, timeout } =
        settings;
    match at {
        RedisAt::Url(url) => keys.one("url", url),
        RedisAt::Sentinel(settings) => {
            let SentinelSettings { urls, master, database, username, password } = settings;
            let mut of_sentinel = Keys::default();
            of_sentinel.list("urls", urls);
            of_sentinel.one("master", master);
            of_sentinel.one("database", database);
            of_sentinel.one("username", or_none(username.as_ref(), Clone::clone));
            of_sentinel.pairs("password", hidden(password.as_ref()));
            keys.table("sentinel", of_sentinel);
        }
        RedisAt::Cluster(urls) => {
            let mut of_cluster = Keys::default();
            of_cluster.list("urls", urls);
            keys.table("cluster", of_cluster);
        }
    }
    keys.one("username", or_none(username.as_ref(), Clone::clone));
    keys.pairs("password", hidden(password.as_ref()));
    keys.one("ca", or_none(ca.as_deref(), path));
    keys.one("server_name", or_none(server_name.as_ref(), Clone::clone));
    keys.one("connect_timeout", duration(*connect_timeout));
    keys.one("timeout", duration(*timeout));
    keys
}

/// A password, as it is compared.
fn hidden(password: Option<&RedisPassword>) -> Option<(&'static str, Hidden)> {
    let digest = |password: &RedisPassword| KeyDigest::of(password.reveal().as_bytes());
    password.map(|password| ("password", Hidden::Digest(digest(password))))
}

fn log_keys(settings: &LogSettings) -> Keys {
    let LogSettings { level, json } = settings;
    let mut keys = Keys::default();
    keys.one("level", level);
    keys.one("format", if *json { "json" } else { "text" });
    keys
}

fn access_log_keys(settings: &AccessLogSettings) -> Keys {
    let AccessLogSettings { output, format } = settings;
    let mut keys = Keys::default();
    let output = match output {
        LogOutput::Stdout => "stdout".to_owned(),
        LogOutput::Stderr => "stderr".to_owned(),
        LogOutput::Off => "off".to_owned(),
        LogOutput::File(file) => path(file),
    };
    keys.one("output", output);
    let format = match format {
        AccessLogFormat::Text => "text",
        AccessLogFormat::Json => "json",
    };
    keys.one("format", format);
    keys
}

fn admin_keys(settings: Option<AdminSettings>) -> Keys {
    let mut keys = Keys::default();
    keys.one("enabled", settings.is_some());
    if let Some(AdminSettings { address, token }) = settings {
        keys.one("address", address);
        keys.pairs("token", token.map(|token| ("token", Hidden::Digest(token))));
    }
    keys
}
