//! The keys of `[[upstream]]` and of its origins, and what changes to them cost.

use super::keys::{KeyChange, Keys};
use super::spell::{NONE, duration, or_none, path, size};
use crate::proxy_protocol::Version;
use crate::signature::SignSettings;
use crate::upstream::{
    Balancing, HashBy, HealthCheck, OriginScheme, OriginSettings, PassiveHealth, Probe, Protocol,
    UpstreamH2, UpstreamSettings, UpstreamTimeouts, UpstreamTls,
};

/// All but its origins, of which only their order is compared.
pub(super) fn upstream(settings: &UpstreamSettings) -> Keys {
    let UpstreamSettings {
        name: _,
        origins,
        balance,
        protocol,
        h2,
        proxy_protocol,
        tls,
        sign,
        timeouts,
        max_idle,
        max_connections,
        warm,
        max_attempts,
        each_address,
        health,
        passive,
    } = settings;
    let mut keys = Keys::default();
    keys.order("origins", origins.iter().map(|origin| &origin.url));
    keys.table("balance", balance_keys(balance));
    let protocol = match protocol {
        Protocol::Auto => "auto",
        Protocol::Http1 => "http1",
        Protocol::Http2 => "http2",
    };
    keys.one("protocol", protocol);
    keys.one("each_address", each_address);
    keys.one("max_idle", max_idle);
    keys.one("max_connections", or_none(*max_connections, |most| most.to_string()));
    keys.one("warm", warm);
    let version = match proxy_protocol {
        None => NONE,
        Some(Version::V1) => "v1",
        Some(Version::V2) => "v2",
    };
    keys.one("proxy_protocol", version);
    keys.one("max_attempts", max_attempts);
    keys.table("timeouts", timeout_keys(timeouts));
    keys.table("passive", passive_keys(*passive));
    if let Some(health) = health {
        keys.table("health", health_keys(health));
    }
    keys.table("h2", h2_keys(*h2));
    keys.table("tls", tls_keys(tls));
    if let Some(sign) = sign {
        keys.table("sign", sign_keys(sign));
    }
    keys
}

pub(super) fn origin(settings: &OriginSettings) -> Keys {
    let OriginSettings { url: _, weight } = settings;
    let mut keys = Keys::default();
    keys.one("weight", weight);
    keys
}

fn balance_keys(settings: &Balancing) -> Keys {
    let mut keys = Keys::default();
    let mut ignored: &[String] = &[];
    match settings {
        Balancing::RoundRobin => keys.one("hash", NONE),
        Balancing::Hash(HashBy::Url { ignore_query }) => {
            keys.one("hash", "url");
            ignored = ignore_query;
        }
        Balancing::Hash(HashBy::Client) => keys.one("hash", "client"),
        Balancing::Hash(HashBy::Header(name)) => keys.one("hash", format!("header:{name}")),
    }
    keys.list("ignore_query", ignored);
    keys
}

fn timeout_keys(timeouts: &UpstreamTimeouts) -> Keys {
    let UpstreamTimeouts { connect, response_head, idle_body, idle_tunnel, pool_idle } = timeouts;
    let mut keys = Keys::default();
    keys.one("connect", duration(*connect));
    keys.one("response_head", duration(*response_head));
    keys.one("idle_body", duration(*idle_body));
    keys.one("idle_tunnel", duration(*idle_tunnel));
    keys.one("pool_idle", duration(*pool_idle));
    keys
}

fn passive_keys(settings: PassiveHealth) -> Keys {
    let PassiveHealth { max_failures, set_aside } = settings;
    let mut keys = Keys::default();
    keys.one("max_failures", max_failures);
    keys.one("set_aside", duration(set_aside));
    keys
}

fn h2_keys(settings: UpstreamH2) -> Keys {
    let UpstreamH2 {
        max_concurrent_streams,
        stream_window,
        connection_window,
        ping_interval,
        ping_timeout,
    } = settings;
    let mut keys = Keys::default();
    keys.one("max_concurrent_streams", max_concurrent_streams);
    keys.one("stream_window", size(u64::from(stream_window)));
    keys.one("connection_window", size(u64::from(connection_window)));
    keys.one("ping_interval", duration(ping_interval));
    keys.one("ping_timeout", duration(ping_timeout));
    keys
}

fn tls_keys(settings: &UpstreamTls) -> Keys {
    let UpstreamTls { verify, ca, server_name } = settings;
    let mut keys = Keys::default();
    keys.one("verify", verify);
    keys.one("ca", ca.as_deref().map_or_else(|| "the system's".to_owned(), path));
    keys.one("server_name", server_name.as_deref().unwrap_or("the origin's host"));
    keys
}

fn sign_keys(settings: &SignSettings) -> Keys {
    let SignSettings { key, key_id, components, expires, label, tag, nonce, digest_body } =
        settings;
    let mut keys = Keys::default();
    keys.one("key_id", key_id);
    keys.one("algorithm", key.algorithm());
    let name = if key.algorithm().is_symmetric() { "secret" } else { "private_key" };
    keys.hidden(name, key.fingerprint());
    keys.list("components", components);
    keys.one("expires", expires.map_or_else(|| "never".to_owned(), duration));
    keys.one("label", label);
    keys.one("tag", tag.as_deref().unwrap_or(NONE));
    keys.one("nonce", nonce);
    keys.one("digest_body", or_none(*digest_body, |most| size(most as u64)));
    keys
}

fn health_keys(settings: &HealthCheck) -> Keys {
    let HealthCheck { probe, interval, timeout, rise, fall } = settings;
    let mut keys = Keys::default();
    match probe {
        Probe::Tcp => keys.one("type", "tcp"),
        Probe::Http { method, path, host, expect } => {
            keys.one("type", "http");
            keys.one("method", method);
            keys.one("path", path);
            keys.one("host", host.as_deref().unwrap_or("the origin's"));
            keys.list(
                "expect",
                expect.iter().map(|range| format!("{}-{}", range.first, range.last)),
            );
        }
    }
    keys.one("interval", duration(*interval));
    keys.one("timeout", duration(*timeout));
    keys.one("rise", rise);
    keys.one("fall", fall);
    keys
}

/// What becomes of the state of an upstream that changes.
pub(super) fn effects(
    old: &UpstreamSettings,
    new: &UpstreamSettings,
    changes: &[KeyChange],
) -> Vec<String> {
    let mut effects = Vec::new();
    let stays =
        |origin: &&OriginSettings| old.origins.iter().any(|before| before.url == origin.url);
    let anew = new.origins.iter().filter(stays).filter(|origin| {
        changes.iter().any(|change| concerns_connections(&change.key, origin, old, new))
    });
    match anew.count() {
        0 => {}
        1 => effects.push("connections to 1 origin are made anew; its health is kept".to_owned()),
        count => {
            let effect = format!("connections to {count} origins are made anew; health is kept");
            effects.push(effect);
        }
    }
    if old.health.is_some() && new.health.is_none() {
        effects.push("origins that probes had found down count as up".to_owned());
    }
    effects
}

/// Whether connections to an origin as it was are not what is now asked for.
fn concerns_connections(
    key: &str,
    origin: &OriginSettings,
    old: &UpstreamSettings,
    new: &UpstreamSettings,
) -> bool {
    let https = origin.url.scheme == OriginScheme::Https;
    let speaks_h2 = |settings: &UpstreamSettings| settings.protocol != Protocol::Http1;
    match key.split_once('.').map_or(key, |(table, _)| table) {
        "timeouts" => key != "timeouts.idle_tunnel",
        "max_idle" | "max_connections" | "proxy_protocol" | "each_address" => true,
        "tls" | "protocol" => https,
        "h2" => match origin.url.scheme {
            OriginScheme::Http => false,
            OriginScheme::H2c => true,
            OriginScheme::Https => speaks_h2(old) || speaks_h2(new),
        },
        _ => false,
    }
}
