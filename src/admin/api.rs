//! `/api`: what an operator may ask, over HTTP.
//!
//! A handler reads what was sent, has the [`Operator`] carry it out, and says what
//! came of it: to whoever asked, and in the log.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use axum::routing::{get, post, put};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::input::{self, Asker, ReloadBody, needed, wrong};
use super::operator::{
    DRY_RUN_PERSISTS, LOG_LEVEL_PERSISTS, ORIGIN_PERSISTS, Operator, Refused, Reload, Reloaded,
    Reply,
};
use super::{AdminState, cache};
use crate::upstream::{OriginChange, OriginStatus};

/// The paths, with what they are for; a person reads them at `/`.
pub(super) const PATHS: [(&str, &str); 12] = [
    ("GET /api/status", "what runs, with which configuration"),
    ("POST /api/reload", "read the configuration again; ?plan only says what would change"),
    ("POST /api/reload/confirm", "keep a configuration that would be rolled back"),
    ("POST /api/reload/rollback", "back to the configuration before"),
    ("POST /api/upgrade", "have the binary that now is there take over"),
    ("GET /api/upstreams", "upstreams and their origins"),
    ("GET, PATCH /api/upstreams/{upstream}/origins/{origin}", "one origin: weight, drained"),
    ("GET, PUT /api/log-level", "how much is logged"),
    ("PUT /api/routes/{route}/rate-limit", "a rate limit's dry run"),
    ("GET /api/cache", "how full the cache is; ?url=… what it has of a URL, and why or why not"),
    ("POST /api/cache/purge", "forget a url, a prefix, a tag, or all of what is stored"),
    ("GET /api/certificates", "certificates, and until when they are good"),
];

pub(super) fn router() -> Router<AdminState> {
    Router::new()
        .route("/api/status", get(status))
        .route("/api/reload", post(reload))
        .route("/api/reload/confirm", post(confirm))
        .route("/api/reload/rollback", post(roll_back))
        .route("/api/upgrade", post(upgrade))
        .route("/api/upstreams", get(upstreams))
        .route("/api/upstreams/{upstream}/origins/{origin}", get(origin).patch(set_origin))
        .route("/api/log-level", get(log_level).put(set_log_level))
        .route("/api/routes/{route}/rate-limit", put(set_rate_limit))
        .route("/api/certificates", get(certificates))
        .route("/api/cache", get(cache::tell))
        .route("/api/cache/purge", post(cache::purge))
}

pub(super) type Operated = Arc<dyn Operator>;

/// The proxy in hand, if there is one.
pub(super) fn operator(state: &AdminState) -> Result<Operated, Refused> {
    let nobody = || Refused::Unsupported("This proxy is not operated from here.".to_owned());
    state.operator.clone().ok_or_else(nobody)
}

async fn status(State(state): State<AdminState>, request: Request) -> Response {
    let told = operator(&state).map(|operator| {
        let mut told = json(operator.status());
        if let Value::Object(told) = &mut told {
            told.insert("state".to_owned(), state.phase().into());
        }
        told
    });
    read(request, told)
}

async fn upstreams(State(state): State<AdminState>, request: Request) -> Response {
    read(request, operator(&state).map(|operator| json!({ "upstreams": operator.upstreams() })))
}

async fn certificates(State(state): State<AdminState>, request: Request) -> Response {
    let told = |operator: Operated| json!({ "certificates": operator.certificates() });
    read(request, operator(&state).map(told))
}

async fn origin(
    State(state): State<AdminState>,
    Path((upstream, origin)): Path<(String, String)>,
    request: Request,
) -> Response {
    let found = operator(&state).and_then(|operator| find(&*operator, &upstream, &origin));
    read(request, found.map(json))
}

/// An origin by its name or its URL.
fn find(operator: &dyn Operator, upstream: &str, origin: &str) -> Result<OriginStatus, Refused> {
    let upstreams = operator.upstreams();
    let names = |names: &mut dyn Iterator<Item = &str>| names.collect::<Vec<_>>().join(", ");
    let Some(named) = upstreams.iter().find(|named| named.name == upstream) else {
        let known = names(&mut upstreams.iter().map(|known| known.name.as_str()));
        let why = format!("there is no upstream `{upstream}`; there are: {known}");
        return Err(Refused::NotFound(why));
    };
    let is_it = |known: &&OriginStatus| known.name == origin || known.url == origin;
    named.origins.iter().find(is_it).cloned().ok_or_else(|| {
        let known = names(&mut named.origins.iter().map(|known| known.name.as_str()));
        Refused::NotFound(format!("upstream `{upstream}` has no origin `{origin}`; it has {known}"))
    })
}

async fn log_level(State(state): State<AdminState>, request: Request) -> Response {
    read(request, operator(&state).and_then(|operator| operator.log_level()).map(json))
}

async fn reload(State(state): State<AdminState>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let asker = Asker::of(&parts);
    let body = match input::json::<ReloadBody>(&parts.headers, body).await {
        Ok(body) => body,
        Err(answer) => return answer.render(asker.format),
    };
    let asked = match input::reload(parts.uri.query(), body) {
        Ok(asked) => asked,
        Err(answer) => return answer.render(asker.format),
    };
    let what = match asked {
        Reload { plan_only: true, .. } => "plan a reload".to_owned(),
        Reload { confirm: None, .. } => "reload".to_owned(),
        Reload { confirm: Some(time), .. } => {
            format!("reload, to be confirmed within {}", humantime::format_duration(time))
        }
    };
    let done = carried_out(&state, move |operator| operator.reload(asked)).await;
    answer(asker, &what, done.map(|reloaded| told(&reloaded, asked)))
}

/// A reload that is over, with a sentence on it.
fn told(reloaded: &Reloaded, asked: Reload) -> Value {
    let Reloaded { generation, changed, confirm_within, .. } = *reloaded;
    let message = match (changed, asked.plan_only, confirm_within) {
        (false, true, _) => "Nothing would change.".to_owned(),
        (true, true, _) => "This is what would change; nothing has.".to_owned(),
        (false, false, None) if asked.confirm.is_some() => format!(
            "Nothing has changed: generation {generation} stays. It was in force already, so there \
             is nothing to confirm, and it is not rolled back."
        ),
        (false, false, None) => format!("Nothing has changed: generation {generation} stays."),
        (false, false, Some(time)) => format!(
            "Generation {generation} is in force since its file changed. It is rolled back unless \
             it is confirmed within {}: `tollgate confirm`, or POST /api/reload/confirm.",
            humantime::format_duration(time),
        ),
        (true, false, None) => format!("Generation {generation} is in force."),
        (true, false, Some(time)) => format!(
            "Generation {generation} is in force. It is rolled back unless it is confirmed within \
             {}: `tollgate confirm`, or POST /api/reload/confirm.",
            humantime::format_duration(time),
        ),
    };
    let mut told = json(reloaded);
    told["applied"] = (changed && !asked.plan_only).into();
    told["message"] = message.into();
    told
}

async fn confirm(State(state): State<AdminState>, request: Request) -> Response {
    plain(
        &state,
        request,
        "confirm",
        |operator| operator.confirm(),
        |confirmed| format!("Generation {} stays.", confirmed.generation),
    )
    .await
}

async fn roll_back(State(state): State<AdminState>, request: Request) -> Response {
    plain(
        &state,
        request,
        "roll back",
        |operator| operator.roll_back(),
        |reloaded| {
            format!(
                "Rolled back: generation {} is in force. The file still holds what was rolled \
                 back: put it right, or a restart brings that in force.",
                reloaded.generation
            )
        },
    )
    .await
}

async fn upgrade(State(state): State<AdminState>, request: Request) -> Response {
    plain(
        &state,
        request,
        "upgrade",
        |operator| operator.upgrade(),
        |upgraded| {
            let (new, old) = (upgraded.pid, std::process::id());
            format!("Process {new} has taken over; process {old} finishes what is under way.")
        },
    )
    .await
}

async fn set_origin(
    State(state): State<AdminState>,
    Path((upstream, origin)): Path<(String, String)>,
    request: Request,
) -> Response {
    const EXAMPLE: &str = "{\"weight\": 3}, {\"reset_weight\": true} or {\"drained\": true}";
    let (parts, body) = request.into_parts();
    let asker = Asker::of(&parts);
    let change = match needed::<OriginChange>(&parts.headers, body, EXAMPLE).await {
        Ok(change) => change,
        Err(answer) => return answer.render(asker.format),
    };
    if change == OriginChange::default() {
        return wrong(format!("nothing is to be changed; say {EXAMPLE}")).render(asker.format);
    }
    if change.weight.is_some() && change.reset_weight {
        let why = "`weight` and `reset_weight` exclude each other";
        return wrong(why).render(asker.format);
    }
    let done = operator(&state)
        .and_then(|operator| operator.set_origin(&upstream, &origin, &change))
        .map(|now| {
            let message = format!("Origin {origin} of {upstream}: {}.", words(&change));
            json!({ "origin": now, "message": message, "persists": ORIGIN_PERSISTS })
        });
    let what = format!("origin {origin:?} of {upstream:?}: {}", words(&change));
    answer(asker, &what, done)
}

fn words(change: &OriginChange) -> String {
    let weight = match (change.weight, change.reset_weight) {
        (Some(weight), _) => Some(format!("weight {weight}")),
        (None, true) => Some("the configured weight".to_owned()),
        (None, false) => None,
    };
    let drained = change.drained.map(|drained| {
        let word = if drained { "drained, it gets nothing new" } else { "enabled" };
        word.to_owned()
    });
    weight.into_iter().chain(drained).collect::<Vec<_>>().join("; ")
}

/// Another level, or back to the configured one.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LevelBody {
    level: Option<String>,
    reset: bool,
}

async fn set_log_level(State(state): State<AdminState>, request: Request) -> Response {
    const EXAMPLE: &str = "{\"level\": \"debug\"} or {\"reset\": true}";
    let (parts, body) = request.into_parts();
    let asker = Asker::of(&parts);
    let LevelBody { level, reset } = match needed(&parts.headers, body, EXAMPLE).await {
        Ok(body) => body,
        Err(answer) => return answer.render(asker.format),
    };
    if level.is_some() == reset {
        return wrong(format!("say one of {EXAMPLE}")).render(asker.format);
    }
    let done = operator(&state).and_then(|operator| operator.set_log_level(level.as_deref()));
    let done = done.map(|now| {
        let message = format!("The log's level is {}.", now.level);
        let mut told = json(now);
        told["message"] = message.into();
        told["persists"] = LOG_LEVEL_PERSISTS.into();
        told
    });
    let what =
        level.map_or_else(|| "log level reset".into(), |level| format!("log level {level:?}"));
    answer(asker, &what, done)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RateLimitBody {
    dry_run: bool,
    /// Of all limits of the route, if it is missing.
    #[serde(default)]
    limit: Option<String>,
}

async fn set_rate_limit(
    State(state): State<AdminState>,
    Path(route): Path<String>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let asker = Asker::of(&parts);
    let wanted = needed(&parts.headers, body, "{\"dry_run\": true}").await;
    let RateLimitBody { dry_run, limit } = match wanted {
        Ok(body) => body,
        Err(answer) => return answer.render(asker.format),
    };
    let limit = limit.as_deref();
    let done = operator(&state)
        .and_then(|operator| operator.set_rate_limit_dry_run(&route, limit, dry_run));
    let which = limit.map_or_else(String::new, |limit| format!(" {limit}"));
    let done = done.map(|()| {
        let does = if dry_run { "only counts what it would refuse" } else { "refuses" };
        let message = format!("The rate limit{which} of route {route} {does}.");
        json!({
            "route": route,
            "limit": limit,
            "dry_run": dry_run,
            "message": message,
            "persists": DRY_RUN_PERSISTS,
        })
    });
    answer(asker, &format!("rate limit{which} of route {route:?}: dry run {dry_run}"), done)
}

/// Something that is asked for without a word more.
async fn plain<T, Start>(
    state: &AdminState,
    request: Request,
    what: &str,
    start: Start,
    message: impl FnOnce(&T) -> String,
) -> Response
where
    T: Serialize + Send + 'static,
    Start: FnOnce(&dyn Operator) -> Reply<'_, T> + Send + 'static,
{
    let (parts, body) = request.into_parts();
    let asker = Asker::of(&parts);
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Nothing {}
    if let Err(answer) = input::json::<Nothing>(&parts.headers, body).await {
        return answer.render(asker.format);
    }
    let done = carried_out(state, start).await.map(|done| {
        let message = message(&done);
        let mut told = json(done);
        told["message"] = message.into();
        told
    });
    answer(asker, what, done)
}

/// Carries something out to its end, even if whoever asked does not wait for it.
async fn carried_out<T, Start>(state: &AdminState, start: Start) -> Result<T, Refused>
where
    T: Send + 'static,
    Start: FnOnce(&dyn Operator) -> Reply<'_, T> + Send + 'static,
{
    let operator = operator(state)?;
    let task = tokio::spawn(async move { start(&*operator).await });
    task.await.unwrap_or_else(|error| Err(Refused::Failed(format!("it ended early: {error}"))))
}

/// Says what is, which changes nothing and is not logged.
pub(super) fn read(request: Request, told: Result<Value, Refused>) -> Response {
    let (parts, _body) = request.into_parts();
    match told {
        Ok(told) => written(&told),
        Err(refused) => refused.answer().render::<Body>(Asker::of(&parts).format),
    }
}

/// Says what came of a change.
pub(super) fn answer(asker: Asker, what: &str, done: Result<Value, Refused>) -> Response {
    let peer = asker.peer.map(tracing::field::display);
    match done {
        Ok(told) => {
            tracing::info!(peer, "admin: {what}");
            written(&told)
        }
        Err(refused) => {
            tracing::info!(peer, why = %first_line(&refused), "admin, refused: {what}");
            refused.answer().render(asker.format)
        }
    }
}

/// A report has many lines, and stands in the log already.
fn first_line(refused: &Refused) -> String {
    refused.to_string().lines().next().unwrap_or_default().to_owned()
}

/// As JSON; what is told here can always be written so.
pub(super) fn json(data: impl Serialize) -> Value {
    serde_json::to_value(data).unwrap_or_default()
}

fn written(told: &Value) -> Response {
    let mut text = serde_json::to_string_pretty(told).unwrap_or_default();
    text.push('\n');
    let mut response = Response::new(Body::from(text));
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
