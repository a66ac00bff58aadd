//! What comes with a request to change something.

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::ConnectInfo;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::operator::Reload;
use super::socket::Peer;
use crate::respond::{Answer, Format};

/// The longest body that is read.
const MAX_BODY: usize = 64 * 1024;

/// How long a body may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest that a configuration may wait to be confirmed.
const MAX_CONFIRM: Duration = Duration::from_secs(24 * 60 * 60);

/// Who asks, and how they like to be answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asker {
    pub(super) peer: Option<SocketAddr>,
    pub(super) format: Format,
}

impl Asker {
    pub(super) fn of(parts: &Parts) -> Self {
        let peer = parts.extensions.get::<ConnectInfo<Peer>>();
        Self {
            peer: peer.map(|ConnectInfo(Peer(peer))| *peer),
            format: Format::preferred(&parts.headers),
        }
    }
}

/// The body, from JSON; `None` if there is none.
pub(super) async fn json<T: DeserializeOwned>(
    fields: &HeaderMap,
    body: Body,
) -> Result<Option<T>, Answer> {
    let read = tokio::time::timeout(PATIENCE, to_bytes(body, MAX_BODY)).await;
    let body = match read {
        Ok(Ok(body)) => body,
        // It was cut short, or longer than is read; whoever cut it reads no answer.
        Ok(Err(_)) => {
            let detail = "A body here is no longer than 64 KiB.";
            return Err(
                Answer::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail).close()
            );
        }
        Err(_) => {
            let detail = "The body did not arrive in time.";
            return Err(Answer::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", detail).close());
        }
    };
    if body.is_empty() {
        return Ok(None);
    }
    // What a form or a script of another page can send without being asked is not this.
    if !is_json(fields) {
        let detail = "A body here is JSON: `Content-Type: application/json`.";
        return Err(Answer::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json", detail));
    }
    serde_json::from_slice(&body).map(Some).map_err(|error| wrong(error.to_string()))
}

/// The body, from JSON, which must be there; `example` is one.
pub(super) async fn needed<T: DeserializeOwned>(
    fields: &HeaderMap,
    body: Body,
    example: &str,
) -> Result<T, Answer> {
    let missing = || wrong(format!("a body is missing, such as {example}"));
    json(fields, body).await?.ok_or_else(missing)
}

fn is_json(fields: &HeaderMap) -> bool {
    let value = fields.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = value.unwrap_or_default().split(';').next().unwrap_or_default();
    essence.trim().eq_ignore_ascii_case("application/json")
}

/// What was asked for is wrong.
pub(super) fn wrong(why: impl Into<String>) -> Answer {
    Answer::new(StatusCode::BAD_REQUEST, "bad_request", why.into())
}

/// The body of a reload.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ReloadBody {
    plan: bool,
    confirm: Option<String>,
}

/// What kind of reload a query and a body ask for; they may not both.
pub(super) fn reload(query: Option<&str>, body: Option<ReloadBody>) -> Result<Reload, Answer> {
    let asked = match (query.filter(|query| !query.is_empty()), body) {
        (Some(_), Some(_)) => return Err(wrong("say it in the query or in the body, not in both")),
        (Some(query), None) => from_query(query)?,
        (None, body) => body.unwrap_or_default(),
    };
    let confirm = asked.confirm.as_deref().map(confirm_within).transpose()?;
    if asked.plan && confirm.is_some() {
        return Err(wrong("`plan` changes nothing, so there is nothing to `confirm`"));
    }
    Ok(Reload { plan_only: asked.plan, confirm })
}

fn from_query(query: &str) -> Result<ReloadBody, Answer> {
    let mut asked = ReloadBody::default();
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = percent_decode_str(value).decode_utf8_lossy().replace('+', " ");
        match (name, &*value) {
            ("plan", "" | "true" | "1") => asked.plan = true,
            ("plan", "false" | "0") => asked.plan = false,
            ("plan", _) => return Err(wrong("`plan` is `true` or `false`")),
            ("confirm", _) => asked.confirm = Some(value),
            _ => return Err(wrong(format!("unknown `{name}`, expected `plan` or `confirm`"))),
        }
    }
    Ok(asked)
}

fn confirm_within(text: &str) -> Result<Duration, Answer> {
    let time = humantime::parse_duration(text).ok();
    let fits = |time: &Duration| (Duration::from_secs(1)..=MAX_CONFIRM).contains(time);
    time.filter(fits).ok_or_else(|| {
        wrong(format!("`confirm` is a time from 1s to 24h, such as \"60s\", not `{text}`"))
    })
}
