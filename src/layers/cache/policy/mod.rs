//! What RFC 9111 and RFC 5861 say of a response, its request and the time: pure
//! functions, each named after the section it carries out.

mod date;
mod range;

use std::time::{Duration, SystemTime};

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use tokio::time::Instant;

use super::CacheSettings;
use super::directives::{Control, Directives, seconds};
pub(super) use range::{Part, range};

/// The longest that is guessed (RFC 9111 §4.2.2 leaves it to us).
const LONGEST_GUESS: Duration = Duration::from_secs(24 * 60 * 60);

/// Why a response is not stored, or a request does without the cache, in a word.
pub(super) type Why = &'static str;

/// What of a request decides whether its response may be stored.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Asked {
    /// It has `Authorization`, or somebody was let in by a key.
    pub(super) credentials: bool,
    /// It has `Cookie`.
    pub(super) cookie: bool,
    /// It says `no-store`.
    pub(super) no_store: bool,
}

impl Asked {
    /// Whether its response may be for nobody else because of what it has itself.
    pub(super) fn is_personal(self) -> bool {
        self.credentials || self.cookie || self.no_store
    }
}

/// RFC 9111 §3: whether a response may be stored. It has to be one to a GET that was
/// sent as a whole.
pub(super) fn s3_may_store(
    asked: Asked,
    status: StatusCode,
    headers: &HeaderMap,
    control: &Control,
    settings: &CacheSettings,
) -> Result<(), Why> {
    let said = &control.directives;
    let understood = is_understood(status);
    if asked.no_store {
        return Err("request-no-store");
    }
    if status == StatusCode::PARTIAL_CONTENT || status == StatusCode::NOT_MODIFIED {
        return Err("partial");
    }
    if said.must_understand && !understood {
        return Err("status-not-understood");
    }
    // §5.2.2.3: who understands the status goes past `no-store`.
    if said.no_store && !said.must_understand {
        return Err("no-store");
    }
    if said.private.is_whole() {
        return Err("private");
    }
    // `Vary: *` matches nothing (§4.1): it would never be used.
    if headers.get_all(header::VARY).iter().any(|value| value.as_bytes().contains(&b'*')) {
        return Err("vary");
    }
    // §3.5, and the same for cookies either way, which the RFC leaves to the origin.
    let for_all = control.is_for_all();
    if asked.credentials && !for_all {
        return Err("authorization");
    }
    if asked.cookie && !for_all {
        return Err("cookie");
    }
    if headers.contains_key(header::SET_COOKIE) && !said.public && !settings.store_set_cookie {
        return Err("set-cookie");
    }
    let explicit = said.public
        || said.max_age.is_some()
        || said.s_maxage.is_some()
        || (!control.targeted && headers.contains_key(header::EXPIRES));
    // What is validated before each use needs no lifetime, but something to ask by.
    let validated = said.no_cache.is_whole()
        && (headers.contains_key(header::ETAG) || headers.contains_key(header::LAST_MODIFIED));
    let guessed = is_heuristically_cacheable(status)
        && (validated
            || settings.default_ttl.is_some()
            || headers.contains_key(header::LAST_MODIFIED));
    if !explicit && !guessed {
        return Err("no-lifetime");
    }
    Ok(())
}

/// RFC 9110 §15: the final statuses whose meaning for caches we know.
fn is_understood(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        200 | 203 | 204 | 300..=303 | 307 | 308 | 400..=417 | 421..=426 | 428 | 429 | 431 | 451
            | 500..=508 | 510 | 511
    )
}

/// RFC 9110 §15.1: the statuses that may be stored although nothing is said.
fn is_heuristically_cacheable(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
}

/// RFC 9111 §4.2.1: how long the origin says that a response is fresh; §4.2.2: what is
/// guessed if it does not.
pub(super) fn s4_2_1_lifetime(
    status: StatusCode,
    headers: &HeaderMap,
    control: &Control,
    received: SystemTime,
    settings: &CacheSettings,
) -> Duration {
    let said = &control.directives;
    if let Some(lifetime) = said.s_maxage.or(said.max_age) {
        return lifetime;
    }
    let date = date(headers, &header::DATE).unwrap_or(received);
    if !control.targeted && headers.contains_key(header::EXPIRES) {
        // §5.3: what is no date is in the past; so is one of several that differ.
        let mut lines = headers.get_all(header::EXPIRES).iter();
        let first = lines.next();
        let one = lines.all(|line| Some(line) == first);
        let expires = first.filter(|_| one).and_then(|value| date::parse(value.as_bytes()));
        return expires.and_then(|expires| expires.duration_since(date).ok()).unwrap_or_default();
    }
    s4_2_2_guess(status, headers, said, date, settings)
}

fn s4_2_2_guess(
    status: StatusCode,
    headers: &HeaderMap,
    said: &Directives,
    date: SystemTime,
    settings: &CacheSettings,
) -> Duration {
    if !is_heuristically_cacheable(status) && !said.public {
        return Duration::ZERO;
    }
    settings.default_ttl.unwrap_or_else(|| {
        let modified = self::date(headers, &header::LAST_MODIFIED);
        let age = modified.and_then(|modified| date.duration_since(modified).ok());
        age.map_or(Duration::ZERO, |age| (age / 10).min(LONGEST_GUESS))
    })
}

/// RFC 9111 §4.2.3: how old a response was when it came. `delay` is how long its
/// request took.
pub(super) fn s4_2_3_initial_age(
    headers: &HeaderMap,
    received: SystemTime,
    delay: Duration,
) -> Duration {
    let date = date(headers, &header::DATE);
    let apparent = date.and_then(|date| received.duration_since(date).ok()).unwrap_or_default();
    // §5.1: the first of several; what is no number is nothing.
    let first = headers.get(header::AGE).map(HeaderValue::as_bytes);
    let first = first.and_then(|value| value.split(|byte| *byte == b',').next());
    let age = first.map(<[u8]>::trim_ascii).and_then(seconds).unwrap_or_default();
    apparent.max(age + delay)
}

/// How long a stored response may be used, and under which conditions.
#[derive(Clone, Debug)]
pub(super) struct Freshness {
    /// When it came, or was last validated.
    pub(super) received: Instant,
    pub(super) initial_age: Duration,
    pub(super) lifetime: Duration,
    /// It is validated before each use (§5.2.2.4).
    pub(super) no_cache: bool,
    /// It is never used stale (§4.2.4).
    pub(super) never_stale: bool,
    pub(super) while_revalidate: Duration,
    pub(super) if_error: Duration,
    /// It does not change while it is fresh (RFC 8246).
    pub(super) immutable: bool,
    /// An operator said that it is stale from now on.
    pub(super) condemned: bool,
}

/// What becomes of a request for which there is a stored response.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Use {
    /// It is used.
    Fresh,
    /// It is used though it is stale: the client would have it so.
    Stale,
    /// It is used, and revalidated meanwhile (RFC 5861 §3).
    StaleWhileRevalidating,
    /// It is validated first.
    Validate,
}

impl Freshness {
    /// Of a response that came just now.
    pub(super) fn of(
        status: StatusCode,
        headers: &HeaderMap,
        control: &Control,
        delay: Duration,
        settings: &CacheSettings,
    ) -> Self {
        let (received, now) = (Instant::now(), SystemTime::now());
        let said = &control.directives;
        let initial_age = s4_2_3_initial_age(headers, now, delay);
        // The operator's limit counts from now, and a lifetime from when it was made.
        let most = settings.max_ttl.map_or(Duration::MAX, |most| most.saturating_add(initial_age));
        Self {
            received,
            initial_age,
            lifetime: s4_2_1_lifetime(status, headers, control, now, settings).min(most),
            no_cache: said.no_cache.is_whole(),
            // §5.2.2.10: `s-maxage` is `proxy-revalidate` as well.
            never_stale: said.must_revalidate || said.proxy_revalidate || said.s_maxage.is_some(),
            while_revalidate: said
                .stale_while_revalidate
                .unwrap_or(settings.stale_while_revalidate),
            if_error: said.stale_if_error.unwrap_or(settings.stale_if_error),
            immutable: said.immutable,
            condemned: false,
        }
    }

    /// RFC 9111 §4.2.3: how old it is.
    pub(super) fn age(&self, now: Instant) -> Duration {
        self.initial_age + now.saturating_duration_since(self.received)
    }

    /// How long it stays fresh; negative once it is stale. In whole seconds.
    pub(super) fn ttl(&self, now: Instant) -> i64 {
        let whole = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        whole(self.lifetime) - whole(self.age(now))
    }

    /// RFC 9111 §4.2: whether it is fresh.
    pub(super) fn is_fresh(&self, now: Instant) -> bool {
        !self.condemned && self.age(now) < self.lifetime
    }

    /// For how long it has been stale.
    fn staleness(&self, now: Instant) -> Duration {
        self.age(now).saturating_sub(self.lifetime)
    }

    /// RFC 9111 §4: what becomes of a request. `request` is what it says, if that is
    /// honoured.
    pub(super) fn s4_reuse(&self, request: Option<&Directives>, now: Instant) -> Use {
        if self.no_cache || request.is_some_and(|said| said.no_cache != super::Scope::Nothing) {
            return Use::Validate;
        }
        let age = self.age(now);
        if let Some(said) = request {
            // §5.2.1.1 and §5.2.1.3. RFC 8246 §2: what does not change is not validated
            // because a page is loaded again.
            let unchanged = self.immutable && self.is_fresh(now);
            let too_old = !unchanged && said.max_age.is_some_and(|max| age > max);
            let left = self.lifetime.saturating_sub(age);
            if too_old && said.max_stale.is_none() || said.min_fresh.is_some_and(|min| left < min) {
                return Use::Validate;
            }
        }
        if self.is_fresh(now) {
            return Use::Fresh;
        }
        // What an operator has made stale is to be asked for, whatever is allowed of what
        // has become so.
        if self.never_stale || self.condemned {
            return Use::Validate;
        }
        let stale = self.staleness(now);
        if let Some(max) = request.and_then(|said| said.max_stale)
            && max.is_none_or(|max| stale <= max)
        {
            return Use::Stale;
        }
        if stale < self.while_revalidate { Use::StaleWhileRevalidating } else { Use::Validate }
    }

    /// RFC 9111 §4: whether others may have it as it is, who asked at the same time.
    pub(super) fn is_for_others(&self, now: Instant) -> bool {
        matches!(self.s4_reuse(None, now), Use::Fresh | Use::StaleWhileRevalidating)
    }

    /// RFC 5861 §4: whether it may be used because the origin fails.
    pub(super) fn may_stand_in(&self, now: Instant) -> bool {
        !self.never_stale && !self.no_cache && self.staleness(now) < self.if_error
    }

    /// Whether it is used on rather than an answer by which the origin fails, whatever
    /// that says of its being stored.
    pub(super) fn outlives(&self, now: Instant) -> bool {
        self.may_stand_in(now) || self.s4_reuse(None, now) == Use::StaleWhileRevalidating
    }
}

/// RFC 5861 §4: the answers by which an origin fails.
pub(super) fn is_failure(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}

/// RFC 9111 §3.1 and §3.2: leaves the fields that are stored: none of the connection,
/// none that are for one client only, which are returned.
pub(super) fn s3_1_stored_fields(
    headers: &mut HeaderMap,
    control: &Control,
    settings: &CacheSettings,
) -> HeaderMap {
    let said = &control.directives;
    for name in [header::AGE, header::CONNECTION, header::TRANSFER_ENCODING, header::TRAILER] {
        headers.remove(name);
    }
    let always = ["proxy-authenticate", "proxy-authentication-info", "proxy-status"];
    let always = always.into_iter().map(HeaderName::from_static);
    let always = always.chain((!settings.store_set_cookie).then_some(header::SET_COOKIE));
    let named = said.private.fields().iter().chain(said.no_cache.fields());
    let own = take(headers, named.chain(&settings.unstored).cloned().chain(always));
    if !headers.contains_key(header::DATE)
        && let Ok(now) = HeaderValue::try_from(httpdate::fmt_http_date(SystemTime::now()))
    {
        // RFC 9110 §6.6.1: what has none gets it when it is received.
        headers.insert(header::DATE, now);
    }
    own
}

/// Takes out the fields of these names.
pub(super) fn take(
    headers: &mut HeaderMap,
    names: impl IntoIterator<Item = HeaderName>,
) -> HeaderMap {
    let mut taken = HeaderMap::new();
    for name in names {
        for value in headers.get_all(&name) {
            taken.append(name.clone(), value.clone());
        }
        headers.remove(name);
    }
    taken
}

/// RFC 9111 §7.3: takes out of a response without content, which went to somebody who has
/// a cookie or credentials, all but what it says of the stored one's validity.
pub(super) fn s7_3_take_personal(headers: &mut HeaderMap) -> HeaderMap {
    let kept = [
        header::CACHE_CONTROL,
        HeaderName::from_static("cdn-cache-control"),
        header::DATE,
        header::EXPIRES,
        header::ETAG,
        header::LAST_MODIFIED,
    ];
    let mut own = std::mem::take(headers);
    for name in kept {
        for value in own.get_all(&name) {
            headers.append(name.clone(), value.clone());
        }
        own.remove(name);
    }
    // What describes the content is that of what is stored.
    for name in DESCRIBE_CONTENT {
        own.remove(name);
    }
    own
}

/// What describes the stored content itself is not for a response without it to say.
const DESCRIBE_CONTENT: [HeaderName; 5] = [
    header::CONTENT_LENGTH,
    header::CONTENT_ENCODING,
    header::CONTENT_TYPE,
    header::CONTENT_RANGE,
    header::VARY,
];

/// RFC 9111 §3.2: a stored response's fields, renewed by those of a 304.
pub(super) fn s3_2_merge(stored: &mut HeaderMap, newer: &HeaderMap) {
    for name in newer.keys().filter(|name| !DESCRIBE_CONTENT.contains(name)) {
        stored.remove(name);
        for value in newer.get_all(name) {
            stored.append(name, value.clone());
        }
    }
}

/// RFC 9111 §4.3.1: asks whether a stored response is still right; `false` if it has
/// nothing to be asked by.
pub(super) fn s4_3_1_validate(request: &mut HeaderMap, stored: &HeaderMap) -> bool {
    strip_conditions(request);
    let mut asks = false;
    for (validator, condition) in
        [(header::ETAG, header::IF_NONE_MATCH), (header::LAST_MODIFIED, header::IF_MODIFIED_SINCE)]
    {
        if let Some(value) = stored.get(validator) {
            request.insert(condition, value.clone());
            asks = true;
        }
    }
    asks
}

/// RFC 9111 §4.3.4: whether a 304 is about the stored response.
pub(super) fn s4_3_4_is_about(stored: &HeaderMap, not_modified: &HeaderMap) -> bool {
    match (stored.get(header::ETAG), not_modified.get(header::ETAG)) {
        // A strong one names its equal only; a weak one whatever is as good.
        (Some(ours), Some(theirs)) if is_weak(theirs.as_bytes()) => {
            opaque(ours.as_bytes()) == opaque(theirs.as_bytes())
        }
        (Some(ours), Some(theirs)) => ours == theirs,
        (None, Some(_)) => false,
        (_, None) => match not_modified.get(header::LAST_MODIFIED) {
            Some(theirs) => stored.get(header::LAST_MODIFIED).is_none_or(|ours| ours == theirs),
            None => true,
        },
    }
}

/// RFC 9111 §4.3.5: whether a response to HEAD is about the stored response.
pub(super) fn s4_3_5_is_about(stored: &HeaderMap, head: &HeaderMap) -> bool {
    [header::ETAG, header::LAST_MODIFIED, header::CONTENT_LENGTH]
        .iter()
        .all(|name| head.get(name).is_none_or(|theirs| stored.get(name) == Some(theirs)))
}

/// Takes a client's own conditions out.
pub(super) fn strip_conditions(request: &mut HeaderMap) {
    request.remove(header::IF_NONE_MATCH);
    request.remove(header::IF_MODIFIED_SINCE);
}

/// RFC 9111 §4.3.2: whether the client has what a response of this status and these
/// fields would tell it.
pub(super) fn s4_3_2_is_known(request: &HeaderMap, status: StatusCode, stored: &HeaderMap) -> bool {
    if status != StatusCode::OK {
        return false;
    }
    if request.contains_key(header::IF_NONE_MATCH) {
        let Some(ours) = stored.get(header::ETAG) else {
            return request.get_all(header::IF_NONE_MATCH).iter().any(|value| value == "*");
        };
        let lines = request.get_all(header::IF_NONE_MATCH).iter();
        return lines
            .flat_map(|line| super::directives::members(line.as_bytes()))
            .any(|tag| tag == b"*" || opaque(tag) == opaque(ours.as_bytes()));
    }
    let (Some(since), Some(modified)) = (
        date(request, &header::IF_MODIFIED_SINCE),
        date(stored, &header::LAST_MODIFIED).or_else(|| date(stored, &header::DATE)),
    ) else {
        return false;
    };
    modified <= since
}

fn is_weak(tag: &[u8]) -> bool {
    tag.starts_with(b"W/")
}

/// An entity tag without its weakness.
fn opaque(tag: &[u8]) -> &[u8] {
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

/// RFC 9111 §4.4: whether a method may change what it names.
pub(super) fn s4_4_is_unsafe(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE)
}

fn date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    date::parse(headers.get(name)?.as_bytes())
}

#[cfg(test)]
mod tests;
