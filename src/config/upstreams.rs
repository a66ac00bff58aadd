//! `[[upstream]]`

use std::path::Path;

use http::uri::Authority;
use http::{HeaderName, Method, Uri};
use rustls::pki_types::ServerName;

use super::cache::parameter;
use super::listeners::unique;
use super::reader::{Fits, Misfit, Table, Value};
use super::signing;
use super::units::{count, duration, file, positive, socket_path, window};
use crate::proxy_protocol::Version;
use crate::upstream::{
    Balancing, HashBy, HealthCheck, OriginScheme, OriginSettings, OriginUrl, PassiveHealth, Probe,
    Protocol, StatusRange, UpstreamH2, UpstreamSettings, UpstreamTimeouts, UpstreamTls,
};

const ELSEWHERE: [(&str, &str); 12] = [
    ("lb_policy", "balance"),
    ("hash", "balance"),
    ("servers", "origins"),
    ("backends", "origins"),
    ("endpoints", "origins"),
    ("targets", "origins"),
    ("health_check", "health"),
    ("healthcheck", "health"),
    ("keepalive", "max_idle"),
    ("max_conns", "max_connections"),
    ("min_idle", "warm"),
    ("send_proxy", "proxy_protocol"),
];

pub(super) fn read(root: &mut Table<'_>, base: &Path) -> Vec<UpstreamSettings> {
    let mut upstreams: Vec<UpstreamSettings> = Vec::new();
    for table in root.tables("upstream") {
        let names: Vec<String> = upstreams.iter().map(|one| one.name.clone()).collect();
        upstreams.push(upstream(table, base, &names));
    }
    upstreams
}

fn upstream(mut table: Table<'_>, base: &Path, names: &[String]) -> UpstreamSettings {
    let name = table.require("name", "what routes call it by", |v| unique(v, names));
    if !table.has("origins") {
        let hint = "origins = [\"http://127.0.0.1:3000\"]".to_owned();
        table.complain("the key `origins` is missing", Some(hint));
    }
    let origins = table.list("origins", |value| origin(value, base)).unwrap_or_default();
    if table.value("origins").is_some_and(|origins| origins.is_empty_list()) {
        table.complain("an upstream needs at least one origin", None);
    }
    let mut settings = UpstreamSettings::new(name.unwrap_or_default(), origins);
    let protocols =
        [("auto", Protocol::Auto), ("http1", Protocol::Http1), ("http2", Protocol::Http2)];
    let plain = settings.origins.iter().find(|origin| origin.url.scheme != OriginScheme::Https);
    table.set("protocol", &mut settings.protocol, |v| {
        let protocol = v.word(&protocols)?;
        match plain {
            Some(origin) if protocol != Protocol::Auto => Err(Misfit::new(format!(
                "`protocol` is for `https://` origins, and `{}` is none",
                origin.url
            ))
            .hint("`http://` is HTTP/1.1, and `h2c://` HTTP/2")),
            _ => Ok(protocol),
        }
    });
    if let Some(value) = table.value("balance") {
        settings.balance = balancing(&value);
    }
    connections(&mut table, &mut settings);
    settings.proxy_protocol = table.read("proxy_protocol", |v| {
        let version = v.word(&[("v1", Version::V1), ("v2", Version::V2)])?;
        let told = UpstreamSettings { proxy_protocol: Some(version), ..settings.clone() };
        match told.contradictions().into_iter().next() {
            Some(contradiction) => Err(Misfit::new(contradiction)),
            None => Ok(version),
        }
    });
    table.set("max_attempts", &mut settings.max_attempts, |v| positive(v).map(u32::from));
    table.set("each_address", &mut settings.each_address, Value::boolean);
    if let Some(h2) = table.table("h2") {
        settings.h2 = h2_settings(h2);
    }
    if let Some(tls) = table.table("tls") {
        settings.tls = tls_settings(tls, base);
    }
    settings.sign = table.table("sign").and_then(|table| signing::sign(table, base));
    if let Some(timeouts) = table.table("timeouts") {
        settings.timeouts = timeouts_of(timeouts);
    }
    if let Some(passive) = table.table("passive") {
        settings.passive = passive_health(passive);
    }
    settings.health = table.table("health").map(health);
    table.finish(&ELSEWHERE);
    settings
}

/// How many connections to an origin there are.
fn connections(table: &mut Table<'_>, settings: &mut UpstreamSettings) {
    table.set("max_idle", &mut settings.max_idle, count);
    settings.max_connections = table.read("max_connections", count);
    let most = settings.max_idle.min(settings.max_connections.unwrap_or(usize::MAX));
    table.set("warm", &mut settings.warm, |v| match v.integer("a number", 0, 10_000)? {
        warm if warm <= most as u64 => Ok(usize::try_from(warm).unwrap_or(most)),
        _ => Err(Misfit::new(format!("no more than {most} idle connections may be kept"))
            .hint("raise `max_idle` or `max_connections`, or lower `warm`")),
    });
}

fn origin(value: &Value<'_>, base: &Path) -> Fits<OriginSettings> {
    const WHAT: &str = "an origin such as \"http://127.0.0.1:3000\" or \"unix:/run/app.sock\"";
    let url = |value: &Value<'_>| {
        let mut url = value.parsed::<OriginUrl>(WHAT)?;
        url.unix = url.unix.map(|path| socket_path(&base.join(path))).transpose()?;
        Ok(url)
    };
    if value.is_string() {
        return url(value).map(OriginSettings::new);
    }
    let Some(mut table) = value.table() else {
        return Err(Misfit::new(format!("expected {WHAT}")));
    };
    let url = table.require("url", WHAT, url);
    let service = url.as_ref().is_some_and(|url| url.service);
    let weight = table.read("weight", |v| match v.integer("a weight", 1, 1_000)? {
        _ if service => Err(Misfit::new("the records of a service give its targets their weights")),
        weight => Ok(weight),
    });
    table.finish(&[("address", "url"), ("host", "url")]);
    let weight = weight.and_then(|weight| u32::try_from(weight).ok()).unwrap_or(1);
    url.map(|url| OriginSettings { url, weight })
        .ok_or_else(|| Misfit::new("the origin cannot be used"))
}

/// `"round_robin"`, or a table that says what is hashed.
fn balancing(value: &Value<'_>) -> Balancing {
    if value.is_string() {
        value.fit(|v| match v.string("")? {
            "round_robin" => Ok(()),
            other => Err(Misfit::new(format!("expected \"round_robin\", found `{other}`"))
                .hint("a hash is written { hash = \"url\" }")),
        });
        return Balancing::RoundRobin;
    }
    let Some(mut table) = value.table() else { return Balancing::RoundRobin };
    let by = table.require("hash", "\"url\", \"client\" or \"header:NAME\"", hash);
    let ignored = table.list("ignore_query", parameter);
    let by = match (by, ignored) {
        (Some(HashBy::Url { .. }), Some(ignore_query)) => Some(HashBy::Url { ignore_query }),
        (by, ignored) => {
            if by.is_some() && ignored.is_some() {
                table.complain("`ignore_query` is for `hash = \"url\"`", None);
            }
            by
        }
    };
    table.finish(&[("by", "hash"), ("key", "hash"), ("uri", "hash"), ("header", "hash")]);
    by.map_or(Balancing::RoundRobin, Balancing::Hash)
}

fn hash(value: &Value<'_>) -> Fits<HashBy> {
    const WHAT: &str = "\"url\", \"client\" or \"header:NAME\"";
    match value.string(WHAT)? {
        "url" => Ok(HashBy::Url { ignore_query: Vec::new() }),
        "client" => Ok(HashBy::Client),
        text => match text.strip_prefix("header:").map(str::parse::<HeaderName>) {
            Some(Ok(name)) => Ok(HashBy::Header(name)),
            Some(Err(_)) => Err(Misfit::new(format!("`{text}` names no header field"))),
            None => Err(Misfit::new(format!("expected {WHAT}, found `{text}`"))),
        },
    }
}

fn h2_settings(mut table: Table<'_>) -> UpstreamH2 {
    let mut h2 = UpstreamH2::default();
    table.set("max_concurrent_streams", &mut h2.max_concurrent_streams, count);
    table.set("stream_window", &mut h2.stream_window, window);
    table.set("connection_window", &mut h2.connection_window, window);
    table.set("ping_interval", &mut h2.ping_interval, duration);
    table.set("ping_timeout", &mut h2.ping_timeout, duration);
    table.finish(&[("max_streams", "max_concurrent_streams"), ("keep_alive", "ping_interval")]);
    h2
}

fn tls_settings(mut table: Table<'_>, base: &Path) -> UpstreamTls {
    let mut tls = UpstreamTls::default();
    table.set("verify", &mut tls.verify, Value::boolean);
    tls.ca = table.read("ca", |v| file(v, base));
    tls.server_name = table.read("server_name", |v| {
        const WHAT: &str = "a server name, without scheme or port";
        let name = v.string(WHAT)?;
        match ServerName::try_from(name) {
            Ok(_) => Ok(name.to_owned()),
            Err(_) => Err(Misfit::new(format!("`{name}` is not {WHAT}"))),
        }
    });
    table.finish(&[("sni", "server_name"), ("insecure", "verify"), ("ca_file", "ca")]);
    tls
}

fn timeouts_of(mut table: Table<'_>) -> UpstreamTimeouts {
    let mut timeouts = UpstreamTimeouts::default();
    table.set("connect", &mut timeouts.connect, duration);
    table.set("response_head", &mut timeouts.response_head, duration);
    table.set("idle_body", &mut timeouts.idle_body, duration);
    table.set("idle_tunnel", &mut timeouts.idle_tunnel, duration);
    table.set("pool_idle", &mut timeouts.pool_idle, duration);
    table.finish(&[
        ("read", "response_head"),
        ("idle", "pool_idle"),
        ("tunnel", "idle_tunnel"),
        ("first_byte", "response_head"),
    ]);
    timeouts
}

fn passive_health(mut table: Table<'_>) -> PassiveHealth {
    let mut passive = PassiveHealth::default();
    table.set("max_failures", &mut passive.max_failures, |v| positive(v).map(u32::from));
    table.set("set_aside", &mut passive.set_aside, duration);
    table.finish(&[("max_fails", "max_failures"), ("fail_timeout", "set_aside")]);
    passive
}

fn health(mut table: Table<'_>) -> HealthCheck {
    let http = table.read("type", |v| v.word(&[("http", true), ("tcp", false)])).unwrap_or(true);
    let probe = if http {
        http_probe(&mut table)
    } else {
        for key in ["path", "method", "host", "expect"] {
            if table.has(key) {
                table.complain(format!("`{key}` is for probes of type \"http\""), None);
            }
        }
        let _known = http_probe(&mut table);
        Probe::Tcp
    };
    let mut check = HealthCheck::new(probe);
    table.set("interval", &mut check.interval, duration);
    table.set("timeout", &mut check.timeout, duration);
    table.set("rise", &mut check.rise, |v| positive(v).map(u32::from));
    table.set("fall", &mut check.fall, |v| positive(v).map(u32::from));
    table.finish(&[
        ("uri", "path"),
        ("healthy_threshold", "rise"),
        ("unhealthy_threshold", "fall"),
    ]);
    check
}

fn http_probe(table: &mut Table<'_>) -> Probe {
    let method = table.read("method", |v| v.parsed::<Method>("a method"));
    let path = table.read("path", |v| {
        let path = v.parsed::<Uri>("a path such as \"/health\"")?;
        if path.authority().is_some() || !path.path().starts_with('/') {
            return Err(Misfit::new("expected a path that begins with `/`"));
        }
        Ok(path)
    });
    let host = table.read("host", |v| {
        const WHAT: &str = "a host, with a port if need be";
        let host = v.string(WHAT)?;
        match host.parse::<Authority>() {
            Ok(authority) if !authority.as_str().contains('@') => Ok(host.to_owned()),
            _ => Err(Misfit::new(format!("`{host}` is not {WHAT}"))),
        }
    });
    let expect = table.list("expect", statuses);
    Probe::Http {
        method: method.unwrap_or(Method::GET),
        path: path.unwrap_or_else(|| Uri::from_static("/")),
        host,
        expect: expect.unwrap_or_else(|| vec![StatusRange { first: 200, last: 399 }]),
    }
}

/// `204`, `"204"` or `"200-399"`.
fn statuses(value: &Value<'_>) -> Fits<StatusRange> {
    const WHAT: &str = "a status or a range such as \"200-399\"";
    if !value.is_string() {
        let status = super::units::status(value, 100, 599)?.as_u16();
        return Ok(StatusRange { first: status, last: status });
    }
    let text = value.string(WHAT)?;
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let number = |text: &str| text.trim().parse().ok().filter(|n| (100..600).contains(n));
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => Ok(StatusRange { first, last }),
        _ => Err(Misfit::new(format!("`{text}` is not {WHAT}"))),
    }
}
