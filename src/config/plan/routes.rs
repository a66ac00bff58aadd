//! The keys of `[[route]]`.

use super::auth;
use super::keys::{Hidden, Keys};
use super::limits;
use super::spell::{NONE, duration, min_rate, or_none, size};
use crate::config::RouteSettings;
use crate::layers::{
    CacheKeySettings, CacheSettings, CompressionSettings, GrpcSettings, HeaderChanges,
    HeaderRewriteSettings,
};
use crate::route::{
    Action, FixedResponse, ForwardAction, Match, OriginHost, PathPattern, Redirect, RedirectTo,
};

pub(super) fn route(settings: &RouteSettings) -> Keys {
    let RouteSettings {
        name: _,
        listeners,
        matches: Match { hosts, path },
        action,
        methods,
        rate_limits,
        rate_limit_headers,
        concurrency,
        bandwidth,
        api_key,
        auth,
        cache,
        compression,
        grpc,
        headers: HeaderRewriteSettings { request, response },
        max_request_body,
        request_body_timeout,
        min_request_rate,
    } = settings;
    let mut keys = Keys::default();
    keys.list("listeners", listeners);
    keys.list("hosts", hosts);
    match path {
        PathPattern::Prefix(prefix) => keys.one("path", prefix),
        PathPattern::Exact(path) => keys.one("path_exact", path),
    }
    match methods {
        None => keys.list("methods", [""; 0]),
        Some(some) => keys.list("methods", &some.methods),
    }
    action_keys(&mut keys, action);
    let size_or_not = max_request_body.map_or_else(|| "unlimited".to_owned(), size);
    keys.one("max_request_body", size_or_not);
    keys.one("request_body_timeout", duration(*request_body_timeout));
    min_rate(&mut keys, "min_request_rate", "request_rate_grace", *min_request_rate);
    keys.table("grpc", grpc_keys(*grpc));
    limits::rate_limits(&mut keys, rate_limits, *rate_limit_headers);
    if let Some(concurrency) = concurrency {
        keys.table("concurrency", limits::concurrency(concurrency));
    }
    if let Some(bandwidth) = bandwidth {
        keys.table("bandwidth", limits::bandwidth(bandwidth));
    }
    if let Some(api_key) = api_key {
        keys.table("api_key", auth::api_key(api_key));
    }
    if let Some(auth) = auth {
        keys.table("auth", auth::of_route(auth));
    }
    if let Some(cache) = cache {
        keys.table("cache", cache_keys(cache));
    }
    if let Some(compression) = compression {
        keys.table("compression", compression_keys(compression));
    }
    keys.table("headers.request", header_keys(request));
    keys.table("headers.response", header_keys(response));
    keys
}

fn action_keys(keys: &mut Keys, action: &Action) {
    let mut of_action = Keys::default();
    match action {
        Action::Forward(forward) => {
            forward_keys(&mut of_action, forward);
            keys.with("upstream", of_action);
        }
        Action::Redirect(redirect) => {
            redirect_keys(&mut of_action, redirect);
            keys.table("redirect", of_action);
        }
        Action::Respond(FixedResponse { status, content_type, body }) => {
            of_action.one("status", status.as_u16());
            of_action.one("content_type", content_type);
            of_action.hidden("body", body);
            keys.table("respond", of_action);
        }
    }
}

fn forward_keys(keys: &mut Keys, action: &ForwardAction) {
    let ForwardAction { upstream, rewrite_prefix, host, upgrades } = action;
    keys.one("upstream", upstream);
    let strips = rewrite_prefix.as_deref() == Some("");
    keys.one("strip_prefix", strips);
    let prefix = rewrite_prefix.as_deref().filter(|_| !strips);
    keys.one("rewrite_prefix", prefix.unwrap_or(NONE));
    let host = match host {
        OriginHost::Keep => "keep",
        OriginHost::Origin => "origin",
        OriginHost::Set(host) => host,
    };
    keys.one("host", host);
    keys.list("upgrades", upgrades);
}

fn redirect_keys(keys: &mut Keys, redirect: &Redirect) {
    let Redirect { status, to } = redirect;
    keys.one("status", status.as_u16());
    match to {
        RedirectTo::Https { port } => {
            keys.one("to", "https");
            keys.one("port", port);
        }
        RedirectTo::SamePath(uri) => {
            keys.one("to", uri);
            keys.one("keep_path", true);
        }
        RedirectTo::Fixed(uri) => {
            keys.one("to", uri);
            keys.one("keep_path", false);
        }
    }
}

fn grpc_keys(settings: GrpcSettings) -> Keys {
    let GrpcSettings { web, max_timeout } = settings;
    let mut keys = Keys::default();
    keys.one("web", web);
    keys.one("max_timeout", or_none(max_timeout, duration));
    keys
}

fn cache_keys(settings: &CacheSettings) -> Keys {
    let CacheSettings {
        default_ttl,
        max_ttl,
        max_object,
        honour_request_directives,
        store_set_cookie,
        stale_while_revalidate,
        stale_if_error,
        collapse_wait,
        key: CacheKeySettings { ignore_query, headers },
        // Told by the rate limits that read them.
        unstored: _,
    } = settings;
    let mut keys = Keys::default();
    keys.one("default_ttl", or_none(*default_ttl, duration));
    keys.one("max_ttl", or_none(*max_ttl, duration));
    keys.one("max_object", max_object.map_or_else(|| "default".to_owned(), size));
    keys.one("honour_request_directives", honour_request_directives);
    keys.one("store_set_cookie", store_set_cookie);
    keys.one("stale_while_revalidate", duration(*stale_while_revalidate));
    keys.one("stale_if_error", duration(*stale_if_error));
    keys.one("collapse_wait", duration(*collapse_wait));
    keys.list("key.ignore_query", ignore_query);
    keys.list("key.headers", headers);
    keys
}

fn compression_keys(settings: &CompressionSettings) -> Keys {
    let CompressionSettings { codings, types, min_length, level, with_credentials } = settings;
    let mut keys = Keys::default();
    keys.list("codings", codings);
    keys.list("types", types);
    keys.one("min_length", size(*min_length));
    keys.one("level", level.as_str());
    keys.one("with_credentials", with_credentials);
    keys
}

/// Values are not shown: some carry a token.
fn header_keys(changes: &HeaderChanges) -> Keys {
    let HeaderChanges { remove, set, append } = changes;
    let mut keys = Keys::default();
    let hidden = |(name, value): &(http::HeaderName, http::HeaderValue)| {
        (name.clone(), Hidden::Bytes(value.as_bytes().to_vec()))
    };
    keys.pairs("set", set.iter().map(hidden));
    keys.pairs("append", append.iter().map(hidden));
    keys.list("remove", remove);
    keys
}

/// What becomes of the state of a route that changes.
pub(super) fn effects(old: &RouteSettings, new: &RouteSettings) -> Vec<String> {
    let mut effects = limits::effects(&old.rate_limits, &new.rate_limits);
    if new.cache.is_some() && old.cache.is_some() && !old.stores_alike(new) {
        effects.push("what is stored of its responses is not used any more".to_owned());
    }
    effects
}
