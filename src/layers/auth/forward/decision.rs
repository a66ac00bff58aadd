//! What the service's answer means.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use super::settings::ForwardAuthSettings;
use crate::context::Identity;
use crate::fetch::FetchError;
use crate::forward::strip_hop_by_hop;
use crate::layers::auth::{Changes, Grant, Verdict};
use crate::layers::list_members;
use crate::respond::{Answer, Format};

/// What was decided of a request, and of those that are like it.
#[derive(Clone, Debug)]
pub(super) enum Decision {
    Granted(Grant),
    /// Answered with this, for this reason.
    Refused(Arc<Response<Bytes>>, &'static str),
    /// It could not be asked, or answered what nobody understands.
    Failed(&'static str),
}

impl Decision {
    /// What an answer means (compatible with Traefik and nginx): 2xx lets in, 4xx refuses,
    /// a redirect is for the client, and anything else is no decision.
    pub(super) fn of(
        answer: Result<Response<Bytes>, FetchError>,
        settings: &ForwardAuthSettings,
    ) -> Self {
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                let reason = match () {
                    () if error.is_timeout() => "forward_timeout",
                    () if error.is_unreachable() => "forward_unreachable",
                    () => "forward_invalid",
                };
                tracing::debug!(%error, "no decision");
                return Self::Failed(reason);
            }
        };
        let status = answer.status();
        match status.as_u16() {
            200..=299 => Self::Granted(grant(answer.headers(), settings)),
            300..=399 if answer.headers().contains_key(header::LOCATION) => {
                Self::Refused(Arc::new(passed_on(answer)), "forward_redirected")
            }
            401 => Self::Refused(Arc::new(passed_on(answer)), "forward_refused"),
            400..=499 => Self::Refused(Arc::new(passed_on(answer)), "forward_forbidden"),
            _ => Self::Failed("forward_invalid"),
        }
    }

    /// For how long it holds for requests that are alike, if it does at all.
    pub(super) fn holds_for(&self, headers: &HeaderMap, longest: Duration) -> Option<Duration> {
        // A cookie is for the one who gets it.
        let sets = match self {
            Self::Granted(grant) => !grant.response.is_empty(),
            Self::Refused(..) => headers.contains_key(header::SET_COOKIE),
            Self::Failed(_) => true,
        };
        let allowed = allowed(headers, longest);
        (!sets && !allowed.is_zero()).then_some(allowed)
    }

    /// How many bytes it takes to remember.
    pub(super) fn size(&self) -> usize {
        let of = |name: &HeaderName, value: &HeaderValue| name.as_str().len() + value.len() + 64;
        512 + match self {
            // Once to be set, and once among what is known of them.
            Self::Granted(grant) => grant.changes.as_ref().map_or(0, |changes| {
                2 * changes.set.iter().map(|(name, value)| of(name, value)).sum::<usize>()
            }),
            Self::Refused(answer, _) => {
                let fields = answer.headers().iter().map(|(name, value)| of(name, value));
                answer.body().len() + fields.sum::<usize>()
            }
            Self::Failed(_) => 0,
        }
    }

    /// The verdict on one request.
    pub(super) fn verdict(&self, settings: &ForwardAuthSettings, format: Format) -> Verdict {
        match self {
            Self::Granted(grant) => Verdict::Granted(grant.clone()),
            Self::Refused(answer, reason) => {
                if settings.pass_response || answer.status().is_redirection() {
                    return Verdict::Answered(Box::new((**answer).clone()), reason);
                }
                match answer.status() {
                    StatusCode::UNAUTHORIZED => {
                        Verdict::Answered(Box::new(unauthorized(answer.headers(), format)), reason)
                    }
                    _ => Verdict::Forbidden(reason),
                }
            }
            Self::Failed(_) if settings.open_on_failure => Verdict::Granted(unknown(settings)),
            Self::Failed(reason) => Verdict::Unavailable(reason),
        }
    }
}

/// By `Cache-Control` (RFC 9111 §5.2.2): nothing that may not be stored or would have to
/// be asked about again, and no longer than it is fresh.
fn allowed(headers: &HeaderMap, longest: Duration) -> Duration {
    let mut allowed = longest;
    let lines = headers.get_all(header::CACHE_CONTROL).iter();
    for member in lines.flat_map(|line| list_members(line.as_bytes())) {
        let member = String::from_utf8_lossy(member).to_ascii_lowercase();
        let (name, value) = member.split_once('=').unwrap_or((&member, ""));
        match name.trim() {
            "no-store" | "no-cache" => return Duration::ZERO,
            "max-age" => {
                let seconds = value.trim().trim_matches('"').parse().unwrap_or(0);
                allowed = allowed.min(Duration::from_secs(seconds));
            }
            _ => {}
        }
    }
    allowed
}

/// What a request that is let in gets along.
fn grant(headers: &HeaderMap, settings: &ForwardAuthSettings) -> Grant {
    let text = |name: &HeaderName| joined(headers, name)?.to_str().ok().map(str::to_owned);
    let mut changes = unchanged(settings);
    for name in &settings.response_headers {
        if let Some(value) = joined(headers, name) {
            changes.remove.retain(|other| other != name);
            changes.set.push((name.clone(), value));
        }
    }
    let name = settings.name_header.as_ref().and_then(text).filter(|name| !name.is_empty());
    let identity = name.map(|name| {
        let scopes = settings.scopes_header.as_ref().and_then(text).unwrap_or_default();
        let scopes = scopes.split(',').map(str::trim).filter(|scope| !scope.is_empty());
        let mut identity = Identity::new(name, "forward").with_scopes(scopes);
        for (name, value) in &changes.set {
            if let Ok(value) = value.to_str()
                && *name != header::AUTHORIZATION
                && *name != header::COOKIE
            {
                identity.claims.insert(name.as_str().to_owned(), value.into());
            }
        }
        Arc::new(identity)
    });
    let cookies = headers.get_all(header::SET_COOKIE).iter().filter(|_| settings.set_cookies);
    Grant {
        identity,
        changes: Some(Arc::new(changes)),
        response: cookies.map(|cookie| (header::SET_COOKIE, cookie.clone())).collect(),
    }
}

/// Lets a request in of which nothing is known.
fn unknown(settings: &ForwardAuthSettings) -> Grant {
    Grant::default().changing(unchanged(settings))
}

/// None of the fields that the service would have set.
fn unchanged(settings: &ForwardAuthSettings) -> Changes {
    Changes { remove: settings.response_headers.clone(), ..Changes::default() }
}

/// The lines of a field as one.
fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<HeaderValue> {
    let mut lines = headers.get_all(name).iter();
    let first = lines.next()?;
    if headers.get_all(name).iter().nth(1).is_none() {
        return Some(first.clone());
    }
    let lines: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    HeaderValue::from_bytes(&lines.join(&b", "[..])).ok()
}

/// An answer for the client, without what concerned our connection to the service.
fn passed_on(answer: Response<Bytes>) -> Response<Bytes> {
    let (parts, body) = answer.into_parts();
    let mut passed = Response::new(body);
    *passed.status_mut() = parts.status;
    *passed.headers_mut() = parts.headers;
    let headers = passed.headers_mut();
    strip_hop_by_hop(headers, &[]);
    headers.remove(header::CONTENT_LENGTH);
    headers.remove(header::TRAILER);
    // It is one of ours as far as the client is concerned.
    headers.remove(header::SERVER);
    passed
}

fn unauthorized(theirs: &HeaderMap, format: Format) -> Response<Bytes> {
    let detail = "Valid credentials are needed here.";
    let mut answer = Answer::new(StatusCode::UNAUTHORIZED, "unauthorized", detail);
    let names = [header::WWW_AUTHENTICATE, header::SET_COOKIE];
    for name in names {
        for value in theirs.get_all(&name) {
            answer = answer.header(name.clone(), value.clone());
        }
    }
    answer.render(format)
}
