//! `/api/cache`: what is stored of responses.

use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::Value;

use super::AdminState;
use super::api::{answer, json, operator, read};
use super::input::{Asker, needed, wrong};
use crate::layers::{Cache, Purge, Purged, Told};
use crate::respond::Answer;

/// What is to be forgotten: one of the first four.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PurgeBody {
    url: Option<String>,
    prefix: Option<String>,
    tag: Option<String>,
    all: bool,
    soft: bool,
}

/// How full the cache is, or what it has of `?url=`.
pub(super) async fn tell(State(state): State<AdminState>, request: Request) -> Response {
    let asker = |request: Request| Asker::of(&request.into_parts().0);
    let asked = match request.uri().query().filter(|query| !query.is_empty()) {
        None => None,
        Some(query) => match query.strip_prefix("url=").map(decoded).as_deref().map(url) {
            Some(Ok(url)) => Some(url),
            Some(Err(answer)) => return answer.render(asker(request).format),
            None => {
                let answer = wrong("expected `url=` with a URL");
                return answer.render(asker(request).format);
            }
        },
    };
    let cache = operator(&state).and_then(|operator| operator.cache());
    let told = match (cache, asked) {
        (Ok(cache), None) => Ok(figures(&cache)),
        (Ok(cache), Some(url)) => Ok(json(cache.show(&url).await)),
        (Err(refused), _) => Err(refused),
    };
    read(request, told)
}

/// A plus sign stands for itself: this is a URL, and no form.
fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

pub(super) async fn purge(State(state): State<AdminState>, request: Request) -> Response {
    const EXAMPLE: &str = "{\"url\": \"https://example.com/a\"}";
    let (parts, body) = request.into_parts();
    let asker = Asker::of(&parts);
    let read = needed::<PurgeBody>(&parts.headers, body, EXAMPLE).await;
    let (what, soft) = match read.and_then(meant) {
        Ok(meant) => meant,
        Err(answer) => return answer.render(asker.format),
    };
    let how = if soft { "soft purge" } else { "purge" };
    let text = format!("cache: {how} of {what:?}");
    let done = match operator(&state).and_then(|operator| operator.cache()) {
        Ok(cache) => Ok(cache.purge_everywhere(what, soft).await),
        Err(refused) => Err(refused),
    };
    let unheard = |done: &Purged| matches!(done.others, Some(Told::Queued(_) | Told::NotSent(_)));
    let accepted = done.as_ref().is_ok_and(unheard);
    let done = done.map(|done| purged(&done, soft));
    let mut answer = answer(asker, &text, done);
    if accepted {
        // It is done here, and not yet, or not, elsewhere (RFC 9110 §15.3.3).
        *answer.status_mut() = StatusCode::ACCEPTED;
    }
    answer
}

/// How full it is, and how it stands with the fleet.
fn figures(cache: &Cache) -> Value {
    let mut told = json(cache.figures());
    if let (Value::Object(told), Some(fleet)) = (&mut told, cache.fleet()) {
        told.insert("fleet".to_owned(), json(fleet.figures()));
    }
    told
}

fn purged(done: &Purged, soft: bool) -> Value {
    let fate = if soft { "validated before they are used again" } else { "forgotten" };
    let mut message = format!("Stored responses that are {fate}: {}.", done.purged);
    match &done.others {
        None => {}
        Some(Told::Sent(_)) => message.push_str(" The other instances have been told."),
        Some(Told::Queued(why)) => {
            let text = " THE OTHER INSTANCES HAVE NOT HEARD OF IT YET, and will when Redis can be \
                        reached";
            message.push_str(&format!("{text}: {why}."));
        }
        Some(Told::NotSent(why)) => {
            message.push_str(&format!(" THE OTHER INSTANCES DO NOT HEAR OF IT: {why}."));
        }
    }
    let mut told = json(done);
    if let Value::Object(told) = &mut told {
        told.insert("soft".to_owned(), soft.into());
        told.insert("message".to_owned(), message.into());
    }
    told
}

fn meant(body: PurgeBody) -> Result<(Purge, bool), Answer> {
    let PurgeBody { url, prefix, tag, all, soft } = body;
    let one_of = "say one of `url`, `prefix`, `tag` and `all`";
    let what = match (url, prefix, tag, all) {
        (Some(text), None, None, false) => Purge::Url(self::url(&text)?),
        (None, Some(prefix), None, false) if prefix.contains("://") => Purge::Prefix(prefix),
        (None, Some(_), None, false) => {
            return Err(wrong(
                "`prefix` is the beginning of a URL, such as `https://example.com/a`",
            ));
        }
        (None, None, Some(tag), false) if !tag.is_empty() => Purge::Tag(tag),
        (None, None, None, true) => Purge::All,
        _ => return Err(wrong(one_of)),
    };
    Ok((what, soft))
}

fn url(text: &str) -> Result<Uri, Answer> {
    let url: Option<Uri> = text.parse().ok();
    let whole = |url: &Uri| url.scheme().is_some() && url.authority().is_some();
    url.filter(whole)
        .ok_or_else(|| wrong(format!("`{text}` is no URL such as `https://example.com/a`")))
}
