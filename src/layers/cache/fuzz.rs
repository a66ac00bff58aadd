//! A way in for the fuzz targets.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, Request, StatusCode};
use tokio::time::Instant;

use super::directives::Control;
use super::key::{Key, Selecting};
use super::policy::{Asked, Freshness, Part, parse_date, range, s3_1_stored_fields, s3_may_store};
use super::{CacheKeySettings, CacheSettings};

/// What is stored of a response.
#[derive(Debug)]
pub struct Kept {
    /// Its fields.
    pub fields: HeaderMap,
    /// How long it is fresh from when it was made.
    pub lifetime: Duration,
    /// Whether it is used without asking, so long after it came.
    pub fresh: Box<[bool]>,
}

/// What is stored of a response to a GET by a stranger or, with `credentials`, by
/// somebody; or why nothing is. `after` are times since it came.
///
/// # Errors
///
/// It is not stored.
pub fn kept(
    credentials: bool,
    status: StatusCode,
    response: &HeaderMap,
    after: &[Duration],
) -> Result<Kept, &'static str> {
    let (control, settings) = (Control::of(response), CacheSettings::default());
    let asked = Asked { credentials, ..Asked::default() };
    s3_may_store(asked, status, response, &control, &settings)?;
    let mut fields = response.clone();
    let _own = s3_1_stored_fields(&mut fields, &control, &settings);
    let freshness = Freshness::of(status, response, &control, Duration::ZERO, &settings);
    let used = |after: &Duration| {
        let now = Instant::now() + *after;
        // Whatever comes of it: it says something.
        let _use = (freshness.s4_reuse(None, now), freshness.ttl(now));
        let _fails = freshness.may_stand_in(now);
        freshness.is_fresh(now)
    };
    let fresh = after.iter().map(used).collect();
    Ok(Kept { fields, lifetime: freshness.lifetime, fresh })
}

/// What a response says to caches, to be compared.
#[must_use]
pub fn said(response: &HeaderMap) -> String {
    format!("{:?}", Control::of(response))
}

/// A date.
#[must_use]
pub fn date(text: &[u8]) -> Option<SystemTime> {
    parse_date(text)
}

/// The first and the last byte that a request is for; `Some(None)` if there are none such,
/// and `None` if it gets the whole.
#[must_use]
pub fn part(request: &HeaderMap, stored: &HeaderMap, length: u64) -> Option<Option<(u64, u64)>> {
    match range(request, stored, length) {
        Part::Whole => None,
        Part::Unsatisfiable => Some(None),
        Part::Of(first, last) => Some(Some((first, last))),
    }
}

/// The URL that a request is looked for by.
#[must_use]
pub fn key(request: &Request<()>, ignore_query: &[String]) -> Option<String> {
    let ignore_query = ignore_query.to_vec();
    let settings = CacheKeySettings { ignore_query, ..CacheKeySettings::default() };
    Key::of("route", request, &settings).map(|key| key.url().to_owned())
}

/// Whether a response to one request is one to another of the same URL.
#[must_use]
pub fn selects(request: &HeaderMap, response: &HeaderMap, other: &HeaderMap) -> bool {
    Selecting::of(request, response, &CacheKeySettings::default()).matches(other)
}
