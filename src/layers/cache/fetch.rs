//! Asks the origin, stores what may be stored, and shares it while it comes.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderMap};
use http::{Request, Response, StatusCode};
use http_body::Body as _;
use tokio::time::Instant;
use tower::{Service, ServiceExt};

use super::content::{Content, Growing};
use super::directives::Control;
use super::fill::fill;
use super::flight::{Fault, Leading, Outcome};
use super::key::{Key, Selecting};
use super::place::Place;
use super::policy::{
    Asked, Freshness, Why, is_failure, s3_1_stored_fields, s3_2_merge, s3_may_store,
    s4_3_1_validate, s4_3_4_is_about, s4_3_5_is_about, s7_3_take_personal, strip_conditions, take,
};
use super::status::Status;
use super::store::{Had, Head};
use super::{CacheSettings, Route};
use crate::body::Body;
use crate::error::Error;

/// A request on its way to the origin, for the cache.
pub(super) struct Fetch {
    pub(super) route: Arc<Route>,
    pub(super) key: Key,
    pub(super) asked: Asked,
    /// What is to be validated.
    pub(super) stale: Option<Had>,
    /// Why the origin is asked.
    pub(super) why: &'static str,
    /// The client's own conditions go on to the origin: its answer is likely not stored.
    pub(super) as_is: bool,
    pub(super) lead: Option<Leading>,
}

/// What came of it.
pub(super) enum Fetched {
    /// A response that is, or was, stored.
    Shared(Got),
    /// One that was on disk.
    Stored(Had),
    /// One that is for whoever asked, and nobody else.
    Alone(Response<Body>),
}

/// A response that is, or was, stored, for whoever had it fetched.
pub(super) struct Got {
    pub(super) head: Arc<Head>,
    pub(super) content: Content,
    pub(super) status: Status,
    /// Fields that are for this client only.
    pub(super) own: HeaderMap,
    /// Nobody reads it; it has the beginning kept until the client reads.
    #[allow(dead_code, reason = "held for its drop")]
    kept: Option<Body>,
}

/// A request of the same fields and extensions, without a body.
pub(super) fn copy_of(request: &Request<Body>) -> Request<Body> {
    let mut copy = Request::new(Body::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    *copy.extensions_mut() = request.extensions().clone();
    copy
}

impl Fetched {
    fn of(head: Arc<Head>, content: Content, status: Status, own: HeaderMap) -> Self {
        Self::Shared(Got { head, content, status, own, kept: None })
    }
}

impl Fetch {
    /// Asks, and tells those who wait for this flight what came of it.
    pub(super) async fn run<S>(
        mut self,
        service: S,
        mut request: Request<Body>,
    ) -> Result<Fetched, Error>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Error> + Clone,
    {
        let epoch = self.route.cache.memory().epoch(&self.key);
        let mut validates = false;
        if let Some(stale) = &self.stale {
            validates = s4_3_1_validate(request.headers_mut(), &stale.head.headers);
        } else if !self.as_is {
            strip_conditions(request.headers_mut());
        }
        let original = request.headers().clone();
        let mut spare = validates.then(|| copy_of(&request));
        let mut began = Instant::now();
        let mut answered = service.clone().oneshot(request).await;
        if let (Ok(response), Some(stale)) = (&answered, &self.stale)
            && validates
            && response.status() == StatusCode::NOT_MODIFIED
            && !s4_3_4_is_about(&stale.head.headers, response.headers())
            && let Some(mut again) = spare.take()
        {
            // §4.3.3: what it is about is not here; it is asked for whole.
            strip_conditions(again.headers_mut());
            validates = false;
            began = Instant::now();
            answered = service.oneshot(again).await;
        }
        let mut response = match answered {
            Ok(response) => response,
            Err(error) => return self.failed(error),
        };
        let status =
            Status { answered: Some(response.status().as_u16()), ..Status::forwarded(self.why) };
        let mut instead = false;
        if let Some(stale) = self.stale.take() {
            if validates && response.status() == StatusCode::NOT_MODIFIED {
                return Ok(self.renew(&stale, &response, began, epoch, status));
            }
            if is_failure(response.status()) && stale.head.freshness.outlives(Instant::now()) {
                let unstored = self.route.settings.unstored.iter().cloned();
                let own = take(response.headers_mut(), unstored);
                return Ok(self.stand_in(stale, status, own));
            }
            instead = self.says_anew(response.status());
        }
        Ok(self.receive(response, &original, began, epoch, status, instead))
    }

    /// Whether an answer of this status says what has become of what was stored, and not
    /// just how the origin fares, or what it has for one client only.
    fn says_anew(&self, status: StatusCode) -> bool {
        let fares = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
        !fares && !self.asked.is_personal()
    }

    /// The origin could not be asked.
    fn failed(mut self, error: Error) -> Result<Fetched, Error> {
        if let Some(stale) = self.stale.take()
            && stale.head.freshness.may_stand_in(Instant::now())
        {
            let status =
                Status { detail: Some(error.kind().as_str()), ..Status::forwarded(self.why) };
            return Ok(self.stand_in(stale, status, HeaderMap::new()));
        }
        self.publish(Outcome::Failed(error.kind()));
        Err(error)
    }

    /// RFC 5861 §4.
    fn stand_in(self, stale: Had, status: Status, own: HeaderMap) -> Fetched {
        let Had { head, content } = stale;
        self.publish(Outcome::Shared(head.clone(), content.clone()));
        Fetched::of(head, content, status, own)
    }

    /// RFC 9111 §4.3.4: what is stored still holds, and is as good as new.
    fn renew(
        self,
        stale: &Had,
        response: &Response<Body>,
        began: Instant,
        epoch: u64,
        status: Status,
    ) -> Fetched {
        let settings = &self.route.settings;
        let (head, own) = renewed(&stale.head, response.headers(), self.asked, began, settings);
        let control = Control::of(&head.headers);
        let (head, content) = (Arc::new(head), stale.content.clone());
        // Who asks has no part in it: the content is what it was.
        let asked = Asked::default();
        let stored = match s3_may_store(asked, head.status, &head.headers, &control, settings) {
            Ok(()) if self.asked.no_store => false,
            Ok(()) => self.route.store_renewed(&self.key, &head, &content, epoch),
            // What it was stored by holds no longer.
            Err(_) => {
                self.route.forget(&self.key);
                false
            }
        };
        self.publish_if_shared(&head, &content, stored);
        Fetched::of(head, content, Status { stored, ..status }, own)
    }

    /// A new response: is it stored? If it is not, it may still be `instead` of what is.
    fn receive(
        self,
        response: Response<Body>,
        request: &HeaderMap,
        began: Instant,
        epoch: u64,
        status: Status,
        instead: bool,
    ) -> Fetched {
        let settings = &self.route.settings;
        let control = Control::of(response.headers());
        let (code, headers) = (response.status(), response.headers());
        let least = response.body().size_hint().lower();
        let longer = least > self.route.most_stored();
        let may = match s3_may_store(self.asked, code, headers, &control, settings) {
            Ok(()) if longer => Err("too-long"),
            may => may,
        };
        if let Err(why) = may {
            if instead && why != "partial" {
                self.route.forget(&self.key);
            }
            return self.alone(response, why, status);
        }
        let (parts, body) = response.into_parts();
        let mut headers = parts.headers;
        // What is counted from is what came: `Age` is not stored.
        let freshness = Freshness::of(code, &headers, &control, began.elapsed(), settings);
        let own = s3_1_stored_fields(&mut headers, &control, settings);
        let selecting = Selecting::of(request, &headers, &settings.key);
        let tags = tags(&headers);
        let id = Head::next_id();
        let head = Arc::new(Head { id, status: code, headers, selecting, freshness, tags });
        let place = Place::of(&self.route, &self.key, epoch, &head, least);
        let shared = Status { stored: place.is_some(), ..status };
        if body.is_end_stream() {
            let stored = place.is_some_and(|place| place.store(0, Some(Bytes::new())));
            let content = Content::Whole(Bytes::new());
            self.publish_if_shared(&head, &content, stored);
            return Fetched::of(head, content, Status { stored, ..shared }, own);
        }
        let growing = Growing::new(body.size_hint().exact());
        let content = Content::Growing(growing.clone());
        let kept = content.body();
        let lead = self.publish_if_shared(&head, &content, true);
        tokio::spawn(fill(place, growing, body, lead));
        Fetched::Shared(Got { head, content, status: shared, own, kept })
    }

    /// It is for whoever asked. If that is because of the response, the next ones do not
    /// wait for one another.
    fn alone(self, mut response: Response<Body>, why: Why, status: Status) -> Fetched {
        let outcome = if matches!(why, "request-no-store" | "authorization" | "cookie") {
            Outcome::Personal
        } else if response.status().is_server_error() {
            let retry_after = response.headers().get(header::RETRY_AFTER).cloned();
            Outcome::Fault(Fault { status: response.status(), retry_after })
        } else {
            if why != "partial" {
                self.route.cache.memory().pass(&self.key, why);
            }
            Outcome::Alone
        };
        self.publish(outcome);
        Status { detail: Some(why), ..status }.write(response.headers_mut());
        Fetched::Alone(response)
    }

    fn publish(&self, outcome: Outcome) {
        if let Some(lead) = &self.lead {
            lead.publish(outcome);
        }
    }

    /// Only a response that need not be validated before it is used may be used for
    /// others (RFC 9111 §4).
    fn publish_if_shared(
        mut self,
        head: &Arc<Head>,
        content: &Content,
        stored: bool,
    ) -> Option<Leading> {
        if stored && head.freshness.is_for_others(Instant::now()) {
            self.publish(Outcome::Shared(head.clone(), content.clone()));
        } else {
            if stored {
                self.route.cache.memory().pass(&self.key, "stale-at-once");
            }
            self.publish(Outcome::Alone);
        }
        self.lead.take()
    }
}

/// RFC 9111 §3.2: what is stored, renewed by a response that came without its content;
/// and the fields of that which are for this client only.
fn renewed(
    stored: &Head,
    newer: &HeaderMap,
    asked: Asked,
    began: Instant,
    settings: &CacheSettings,
) -> (Head, HeaderMap) {
    let mut head = stored.clone();
    let mut fields = newer.clone();
    let mut own = s3_1_stored_fields(&mut fields, &Control::of(newer), settings);
    if asked.is_personal() && !Control::of(newer).is_for_all() {
        own.extend(s7_3_take_personal(&mut fields));
    }
    s3_2_merge(&mut head.headers, &fields);
    head.tags = tags(&head.headers);
    let control = Control::of(&head.headers);
    // Its age is that of what came, of which nothing is stored.
    let mut for_age = head.headers.clone();
    if let Some(age) = newer.get(header::AGE) {
        for_age.insert(header::AGE, age.clone());
    }
    head.freshness = Freshness::of(head.status, &for_age, &control, began.elapsed(), settings);
    (head, own)
}

/// A HEAD on its way to the origin, for which there is a stored response that is stale.
pub(super) struct Heading {
    pub(super) key: Key,
    pub(super) asked: Asked,
    pub(super) stale: Had,
    pub(super) epoch: u64,
    pub(super) began: Instant,
}

impl Heading {
    /// RFC 9111 §4.3.5: what is stored is renewed, or stale from now on.
    pub(super) fn answered(&self, route: &Arc<Route>, response: &Response<Body>) {
        if response.status() != StatusCode::OK {
            return;
        }
        let (newer, settings) = (response.headers(), &route.settings);
        let (head, _) = renewed(&self.stale.head, newer, self.asked, self.began, settings);
        let control = Control::of(&head.headers);
        // What is for one client only tells nothing of what is for all.
        if s3_may_store(self.asked, head.status, &head.headers, &control, settings).is_err() {
            return;
        }
        let old = &self.stale.head;
        if old.status == StatusCode::OK && s4_3_5_is_about(&old.headers, newer) {
            let (head, content) = (Arc::new(head), &self.stale.content);
            route.store_renewed(&self.key, &head, content, self.epoch);
        } else {
            route.condemn(&self.key, &self.stale);
        }
    }
}

/// What the origin calls a response by: `Surrogate-Key` has blanks between, `Cache-Tag`
/// commas.
fn tags(headers: &HeaderMap) -> Vec<Box<str>> {
    let lines = ["surrogate-key", "cache-tag"].into_iter().flat_map(|name| headers.get_all(name));
    let words = lines.filter_map(|line| line.to_str().ok());
    let words = words.flat_map(|line| line.split([' ', ',', '\t']));
    words.filter(|tag| !tag.is_empty()).map(Into::into).collect()
}

#[cfg(test)]
mod tests {
    use super::super::CacheKeySettings;
    use super::*;
    use std::time::Duration;

    fn fields(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let lines = lines.iter().map(|(name, value)| {
            (header::HeaderName::from_static(name), header::HeaderValue::from_static(value))
        });
        lines.collect()
    }

    #[test]
    fn s3_2_what_is_renewed_is_called_by_the_tags_that_came() {
        let settings = CacheSettings::default();
        let headers = fields(&[("cache-control", "max-age=9"), ("surrogate-key", "a b")]);
        let (status, control) = (StatusCode::OK, Control::of(&headers));
        let freshness = Freshness::of(status, &headers, &control, Duration::ZERO, &settings);
        let selecting = Selecting::of(&headers, &headers, &CacheKeySettings::default());
        let tags = tags(&headers);
        let stored = Head { id: 1, status, headers, selecting, freshness, tags };
        let renewed = |newer| {
            let (asked, now) = (Asked::default(), Instant::now());
            renewed(&stored, &newer, asked, now, &settings).0.tags.join(" ")
        };
        assert_eq!(renewed(fields(&[])), "a b");
        assert_eq!(renewed(fields(&[("surrogate-key", "c")])), "c");
        assert_eq!(renewed(fields(&[("cache-tag", "c")])), "a b c");
    }
}
