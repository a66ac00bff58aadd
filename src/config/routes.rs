//! `[[route]]`

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use http::{HeaderName, HeaderValue, Method, StatusCode, Uri};

use super::listeners::unique;
use super::reader::{Fits, Misfit, Table, Value, nearest};
use super::units::{duration, field_name, header_name, header_value, set_min_rate, size, status};
use super::{RouteSettings, auth};
use crate::accept::ListenerSettings;
use crate::layers::{
    AuthenticatorSettings, GrpcSettings, HeaderChanges, HeaderRewriteSettings, MethodSettings,
};
use crate::route::{
    Action, FixedResponse, ForwardAction, HostPattern, Match, OriginHost, PathPattern, Redirect,
    RedirectTo,
};

const ELSEWHERE: [(&str, &str); 18] = [
    ("listener", "listeners"),
    ("entry_points", "listeners"),
    ("method", "methods"),
    ("limit_except", "methods"),
    ("host_names", "hosts"),
    ("domains", "hosts"),
    ("prefix", "path"),
    ("path_prefix", "path"),
    ("backend", "upstream"),
    ("proxy_pass", "upstream"),
    ("target", "upstream"),
    ("authentication", "auth"),
    ("header", "headers"),
    ("client_max_body_size", "max_request_body"),
    ("min_rate", "min_request_rate"),
    ("compress", "compression"),
    ("gzip", "compression"),
    ("encode", "compression"),
];

/// What routes may name.
pub(super) struct Known<'a> {
    pub(super) upstreams: &'a [String],
    pub(super) listeners: &'a [ListenerSettings],
    /// Those that are sound.
    pub(super) authenticators: &'a [AuthenticatorSettings],
    /// The names of all of them.
    pub(super) authenticator_names: &'a [String],
    /// Whether there is a Redis.
    pub(super) redis: bool,
}

pub(super) fn read(root: &mut Table<'_>, base: &Path, known: &Known<'_>) -> Vec<RouteSettings> {
    let mut routes: Vec<RouteSettings> = Vec::new();
    let mut taken = HashMap::new();
    let tables = root.tables("route");
    if tables.is_empty() {
        let hint = "[[route]]\nname = \"all\"\nupstream = \"…\"";
        root.complain("there is no `[[route]]`", Some(hint.to_owned()));
    }
    for table in tables {
        let names: Vec<String> = routes.iter().map(|route| route.name.clone()).collect();
        let (place, span) = (table.path().to_owned(), table.span());
        let problems = table.problems();
        let Some(route) = route(table, base, known, &names) else { continue };
        let takes = takes(&route, known.listeners);
        let already = takes.into_iter().filter_map(|one| taken.insert(one, route.name.clone()));
        let already: BTreeSet<String> = already.collect();
        for first in already {
            let message = format!("the route `{first}` takes the same host and path already");
            problems.add(&place, span.clone(), message, None);
        }
        routes.push(route);
    }
    routes
}

/// Each listener, host and path that a route takes; `None` is any.
fn takes(
    route: &RouteSettings,
    all: &[ListenerSettings],
) -> Vec<(Option<String>, Option<HostPattern>, PathPattern)> {
    let Match { hosts, path } = &route.matches;
    let mut listeners: Vec<Option<String>> = route.listeners.iter().cloned().map(Some).collect();
    if listeners.is_empty() {
        listeners.extend(all.iter().map(|listener| Some(listener.name.clone())));
        listeners.push(None);
    }
    let mut hosts: Vec<Option<HostPattern>> = hosts.iter().cloned().map(Some).collect();
    if hosts.is_empty() {
        hosts.push(None);
    }
    let of = |listener: Option<String>| {
        hosts.iter().map(move |host| (listener.clone(), host.clone(), path.clone()))
    };
    listeners.into_iter().flat_map(of).collect()
}

fn route(
    mut table: Table<'_>,
    base: &Path,
    known: &Known<'_>,
    names: &[String],
) -> Option<RouteSettings> {
    let name = table.require("name", "a word for logs and metrics", |v| unique(v, names));
    let mut named = BTreeSet::new();
    let listeners = table.list("listeners", |v| {
        let name = listener(v, known.listeners)?;
        let twice = || Misfit::new(format!("the listener `{name}` is named twice"));
        if named.insert(name.clone()) { Ok(name) } else { Err(twice()) }
    });
    let matches = matches(&mut table);
    let prefix = match &matches.path {
        PathPattern::Prefix(prefix) => Some(prefix.clone()),
        PathPattern::Exact(_) => None,
    };
    let action = action(&mut table, known, prefix.as_deref());
    let placeholder = Action::Forward(ForwardAction::new(""));
    let usable = action.is_some();
    let mut route = RouteSettings::new(
        name.clone().unwrap_or_default(),
        matches,
        action.unwrap_or(placeholder),
    );
    route.listeners = listeners.unwrap_or_default();
    route.methods = methods(&mut table);
    route.rate_limits = super::rate_limits::read(&mut table, known.redis);
    table.set("rate_limit_headers", &mut route.rate_limit_headers, Value::boolean);
    super::limits::read(&mut table, &mut route);
    route.api_key = table.table("api_key").and_then(|keys| auth::api_keys(keys, base, known.redis));
    route.auth = auth::of_route(&mut table, known.authenticator_names);
    if let Some(asked) = &route.auth {
        let (all, its) = (known.listeners, &route.listeners);
        auth::needs_client_auth(&table, asked, known.authenticators, all, its);
    }
    route.cache = table.table("cache").map(super::cache::of_route);
    route.compression = table.table("compression").map(super::compression::of_route);
    if let Some(grpc) = table.table("grpc") {
        route.grpc = grpc_of(grpc);
    }
    if let Some(headers) = table.table("headers") {
        route.headers = headers_of(headers);
    }
    if let Some(headers) = table.value("headers") {
        super::rate_limits::see_costs(&headers, &route);
    }
    if let Some(limit) = table.read("max_request_body", body_limit) {
        route.max_request_body = limit;
    }
    table.set("request_body_timeout", &mut route.request_body_timeout, duration);
    let (rate, grace) = (table.value("min_request_rate"), table.value("request_rate_grace"));
    set_min_rate(&mut route.min_request_rate, rate.as_ref(), grace.as_ref());
    table.finish(&ELSEWHERE);
    (usable && name.is_some()).then_some(route)
}

fn matches(table: &mut Table<'_>) -> Match {
    let hosts = table.list("hosts", |v| {
        let text = v.string("a host name")?;
        text.parse::<HostPattern>().map_err(Misfit::new)
    });
    if table.has("path") && table.has("path_exact") {
        table.complain("`path` and `path_exact` exclude each other", None);
    }
    let prefix = table.read("path", path);
    let exact = table.read("path_exact", path);
    let path = match (exact, prefix) {
        (Some(exact), _) => PathPattern::Exact(exact),
        (None, Some(prefix)) => PathPattern::Prefix(prefix),
        (None, None) => PathPattern::default(),
    };
    Match { hosts: hosts.unwrap_or_default(), path }
}

fn listener(value: &Value<'_>, all: &[ListenerSettings]) -> Fits<String> {
    let names: Vec<&str> = all.iter().map(|listener| listener.name.as_str()).collect();
    one_of(value.string("the name of a listener")?, "listener", &names)
}

pub(super) fn one_of(name: &str, what: &str, names: &[&str]) -> Fits<String> {
    if names.contains(&name) {
        return Ok(name.to_owned());
    }
    let misfit = Misfit::new(format!("there is no {what} `{name}`"));
    Err(match nearest(name, names) {
        Some(near) => misfit.hint(format!("did you mean `{near}`?")),
        None => misfit.hint(format!("there are: {}", names.join(", "))),
    })
}

/// None named are all.
fn methods(table: &mut Table<'_>) -> Option<MethodSettings> {
    let methods = table.list("methods", |v| {
        let text = v.string("a method such as \"GET\"")?;
        match Method::from_bytes(text.as_bytes()) {
            Ok(Method::CONNECT | Method::TRACE) => {
                Err(Misfit::new(format!("{text} is never served"))
                    .hint("a WebSocket over HTTP/2 is let through where GET is"))
            }
            Ok(_) if text.bytes().any(|byte| byte.is_ascii_lowercase()) => {
                let hint = format!("write \"{}\"", text.to_ascii_uppercase());
                Err(Misfit::new("methods are in capitals").hint(hint))
            }
            Ok(method) => Ok(method),
            Err(_) => Err(Misfit::new(format!("`{text}` is not a method"))),
        }
    })?;
    (!methods.is_empty()).then_some(MethodSettings { methods })
}

fn path(value: &Value<'_>) -> Fits<String> {
    let text = value.string("a path")?;
    if !text.starts_with('/') {
        return Err(Misfit::new("a path begins with `/`").hint(format!("write \"/{text}\"")));
    }
    if text.contains(['?', '#', '*', ' ']) {
        return Err(Misfit::new("a path has no query, fragment, space or wildcard")
            .hint("`path` takes everything below it as it is"));
    }
    Ok(text.to_owned())
}

/// Exactly one of `upstream`, `redirect` and `respond`.
fn action(table: &mut Table<'_>, known: &Known<'_>, prefix: Option<&str>) -> Option<Action> {
    let given: Vec<&str> =
        ["upstream", "redirect", "respond"].into_iter().filter(|key| table.has(key)).collect();
    if given.first().is_some_and(|action| *action != "upstream") {
        for key in
            ["cache", "compression", "grpc", "host", "upgrades", "strip_prefix", "rewrite_prefix"]
        {
            if table.has(key) {
                let message = format!("`{key}` is for routes with an `upstream`");
                table.complain(message, None);
            }
        }
    }
    let forward = forward(table, known, prefix);
    let redirect = table.table("redirect").map(redirect);
    let respond = table.table("respond").map(respond);
    match given.len() {
        0 => {
            let message = "a route says what becomes of its requests: `upstream`, `redirect` or \
                           `respond`";
            table.complain(message, None);
            None
        }
        1 => forward
            .map(Action::Forward)
            .or_else(|| redirect.flatten().map(Action::Redirect))
            .or_else(|| respond.map(Action::Respond)),
        _ => {
            table.complain(format!("{} exclude each other", given.join(" and ")), None);
            None
        }
    }
}

fn forward(
    table: &mut Table<'_>,
    known: &Known<'_>,
    prefix: Option<&str>,
) -> Option<ForwardAction> {
    let upstream = table.read("upstream", |v| {
        let names: Vec<&str> = known.upstreams.iter().map(String::as_str).collect();
        one_of(v.string("the name of an upstream")?, "upstream", &names)
    });
    let strip = table.read("strip_prefix", Value::boolean).unwrap_or(false);
    let rewrite = table.read("rewrite_prefix", path);
    if strip && rewrite.is_some() {
        table.complain("`strip_prefix` and `rewrite_prefix` exclude each other", None);
    }
    if (strip || rewrite.is_some()) && prefix.is_none() {
        table.complain("there is no prefix to replace: the route matches an exact path", None);
    }
    let host = table.read("host", |v| {
        let text = v.string("\"keep\", \"origin\" or a host")?;
        match text {
            "keep" => Ok(OriginHost::Keep),
            "origin" => Ok(OriginHost::Origin),
            host => match HeaderValue::from_str(host) {
                Ok(_) if host.parse::<http::uri::Authority>().is_ok() => {
                    Ok(OriginHost::Set(host.to_owned()))
                }
                _ => Err(Misfit::new(format!("`{host}` is not \"keep\", \"origin\" or a host"))),
            },
        }
    });
    let upgrades = table.list("upgrades", |v| {
        let token = v.string("a protocol such as \"websocket\"")?.to_ascii_lowercase();
        match token.as_str() {
            "h2c" | "http/2.0" => Err(Misfit::new("HTTP/2 is not reached by an upgrade")
                .hint("origins that speak it have an `h2c://` or `https://` URL")),
            "" => Err(Misfit::new("a protocol has a name")),
            _ => Ok(token),
        }
    });
    let mut forward = ForwardAction::new(upstream?);
    forward.rewrite_prefix = if strip { Some(String::new()) } else { rewrite };
    forward.host = host.unwrap_or_default();
    if let Some(upgrades) = upgrades {
        forward.upgrades = upgrades;
    }
    Some(forward)
}

fn redirect(mut table: Table<'_>) -> Option<Redirect> {
    const WHAT: &str = "\"https\", or a URL such as \"https://example.com\"";
    let to = table.require("to", WHAT, |v| {
        let text = v.string(WHAT)?;
        if text == "https" {
            return Ok(None);
        }
        v.parsed::<Uri>(WHAT).map(Some)
    });
    let keep_path = table.read("keep_path", Value::boolean);
    let port = table.read("port", |v| v.integer("a port", 1, 65_535));
    let status = table.read("status", |v| {
        let status = status(v, 300, 308)?;
        match status.as_u16() {
            301 | 302 | 303 | 307 | 308 => Ok(status),
            _ => Err(Misfit::new("expected 301, 302, 303, 307 or 308")),
        }
    });
    if matches!(to, Some(Some(_))) && port.is_some() {
        table.complain("`port` is for `to = \"https\"`; a URL has its own", None);
    }
    if matches!(to, Some(None)) && keep_path.is_some() {
        table.complain("`to = \"https\"` keeps the path anyway: take out `keep_path`", None);
    }
    table.finish(&[("url", "to"), ("location", "to"), ("code", "status")]);
    let to = match to? {
        None => {
            let port = port.and_then(|port| u16::try_from(port).ok()).unwrap_or(443);
            RedirectTo::Https { port }
        }
        Some(uri) if keep_path == Some(true) => RedirectTo::SamePath(uri),
        Some(uri) => RedirectTo::Fixed(uri),
    };
    Some(Redirect { status: status.unwrap_or(StatusCode::PERMANENT_REDIRECT), to })
}

fn respond(mut table: Table<'_>) -> FixedResponse {
    let status = table.read("status", |v| status(v, 200, 599));
    let body = table.read("body", |v| v.string("a string").map(str::to_owned));
    let content_type = table.read("content_type", |v| {
        header_value(v)?;
        v.string("a media type").map(str::to_owned)
    });
    table.finish(&[("code", "status"), ("content", "body")]);
    FixedResponse {
        status: status.unwrap_or(StatusCode::OK),
        content_type: content_type.unwrap_or_else(|| "text/plain; charset=utf-8".to_owned()),
        body: body.unwrap_or_default(),
    }
}

fn grpc_of(mut table: Table<'_>) -> GrpcSettings {
    let mut grpc = GrpcSettings::default();
    table.set("web", &mut grpc.web, Value::boolean);
    grpc.max_timeout = table.read("max_timeout", duration);
    table.finish(&[("grpc_web", "web"), ("timeout", "max_timeout"), ("deadline", "max_timeout")]);
    grpc
}

fn headers_of(mut table: Table<'_>) -> HeaderRewriteSettings {
    let request = table.table("request").map(|t| changes(t, HeaderChanges::default()));
    let response = table.table("response").map(|mut response| {
        let defaults = response.read("defaults", Value::boolean).unwrap_or(true);
        let start =
            if defaults { HeaderChanges::response_defaults() } else { HeaderChanges::default() };
        changes(response, start)
    });
    table.finish(&[]);
    HeaderRewriteSettings {
        request: request.unwrap_or_default(),
        response: response.unwrap_or_else(HeaderChanges::response_defaults),
    }
}

fn changes(mut table: Table<'_>, mut changes: HeaderChanges) -> HeaderChanges {
    let set = pairs(table.table("set"));
    // What the operator sets stands in the place of a default.
    let own: Vec<HeaderName> = set.iter().map(|(name, _)| name.clone()).collect();
    changes.set.retain(|(name, _)| !own.contains(name));
    changes.set.extend(set);
    changes.append.extend(pairs(table.table("append")));
    let remove = table.list("remove", header_name).unwrap_or_default();
    // A field that the operator takes out is not put back by a default.
    changes.set.retain(|(name, _)| own.contains(name) || !remove.contains(name));
    changes.remove.extend(remove);
    table.finish(&[("add", "append"), ("delete", "remove"), ("replace", "set")]);
    changes
}

fn pairs(table: Option<Table<'_>>) -> Vec<(HeaderName, HeaderValue)> {
    let Some(table) = table else { return Vec::new() };
    let pair = |(name, span, value): (String, _, Value<'_>)| {
        let name = match field_name(&name) {
            Ok(name) => Some(name),
            Err(misfit) => {
                value.complain_at(span, misfit);
                None
            }
        };
        Some((name?, value.fit(header_value)?))
    };
    table.entries().filter_map(pair).collect()
}

fn body_limit(value: &Value<'_>) -> Fits<Option<u64>> {
    match value.string("") {
        Ok("unlimited") => Ok(None),
        _ => size(value).map(Some),
    }
}
