//! Requests that have to wait: for the origin, or for another who asks it.

use std::sync::Arc;

use http::header::{self, HeaderMap};
use http::{Request, Response, StatusCode};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tower::{Service, ServiceExt};

use super::Route;
use super::answer::{Client, answer, answer_at};
use super::content::Content;
use super::directives::Directives;
use super::fetch::{Fetch, Fetched, Heading};
use super::flight::{Fault, Joined, Leading, Outcome};
use super::key::Key;
use super::policy::{Asked, Use, Why};
use super::status::Status;
use super::store::{Had, Stored};
use crate::body::Body;
use crate::context::Exchange;
use crate::error::{Error, Kind, Side};
use crate::observe::CacheOutcome;
use crate::respond::{Answer, Format};

/// A request that has to wait for the origin.
pub(super) struct Fetching {
    pub(super) route: Arc<Route>,
    pub(super) key: Key,
    pub(super) client: Client,
    pub(super) stale: Option<Had>,
    pub(super) why: &'static str,
    pub(super) said: Option<Directives>,
    pub(super) exchange: Option<Exchange>,
    /// It is not in memory, and may be on disk.
    pub(super) on_disk: bool,
    /// Why it is not asked for as a whole that could be stored, if it is not.
    pub(super) detail: Option<Why>,
}

/// How often a request waits for another before it asks for itself.
const ROUNDS: usize = 3;

/// What becomes of a request that waited.
enum Followed {
    Answered(Box<Result<Response<Body>, Error>>),
    /// It asks, or waits, for this with those that are left.
    Again(Key),
    /// It asks for itself.
    Alone,
}

impl Fetching {
    /// Looks, and asks, for itself: nobody waits for the answer.
    pub(super) async fn alone<S>(
        mut self,
        service: S,
        request: Request<Body>,
    ) -> Result<Response<Body>, Error>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Error>
            + Clone
            + Send
            + 'static,
        S::Future: Send + 'static,
    {
        if let Some((had, aged)) = self.looked(request.headers()).await {
            let response = self.route.disk_hit(&self.client, &had, self.exchange.as_ref());
            if aged {
                self.route.revalidate(service, &request, &self.key, had);
            }
            return Ok(response);
        }
        if self.said.as_ref().is_some_and(|said| said.only_if_cached) {
            return Ok(self.route.nothing_cached(&request));
        }
        if self.detail.is_some() {
            return self.pass_by(service, request).await;
        }
        let Self { route, key, client, stale, why, exchange, .. } = self;
        let asked = route.asked(&request);
        // Its answer is not stored as a rule: the client's own conditions go along.
        let as_is = stale.is_none();
        let fetch = Fetch { route: route.clone(), key, asked, stale, why, as_is, lead: None };
        let fetched = fetch.run(service, request).await;
        route.fetched(&client, fetched, why, exchange.as_ref())
    }

    /// Asks for what is not asked for as a whole.
    async fn pass_by<S>(self, service: S, request: Request<Body>) -> Result<Response<Body>, Error>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Error>,
    {
        let Self { route, key, client, stale, why, exchange, detail, .. } = self;
        let status = Status { detail, ..Status::forwarded(why) };
        let heading = stale.filter(|_| client.is_head()).map(|stale| {
            let (asked, epoch) = (route.asked(&request), route.cache.memory().epoch(&key));
            Heading { key, asked, stale, epoch, began: Instant::now() }
        });
        let answered = service.oneshot(request).await;
        route.tell(exchange.as_ref(), status.outcome());
        let mut response = answered?;
        if let Some(heading) = heading {
            heading.answered(&route, &response);
        }
        status.pass_by(&mut response);
        Ok(response)
    }

    /// Asks for all who want the same, or waits for whoever does.
    pub(super) async fn with_others<S>(
        mut self,
        service: S,
        request: Request<Body>,
    ) -> Result<Response<Body>, Error>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Error>
            + Clone
            + Send
            + 'static,
        S::Future: Send + 'static,
    {
        let route = self.route.clone();
        let shared = route.cache.shared();
        let asked = route.asked(&request);
        let patience = Instant::now() + route.settings.collapse_wait;
        let (mut wanted, mut round) = (self.key.clone(), 0);
        let (lead, waiting) = loop {
            let epoch = shared.memory.epoch(&self.key);
            let waiting = match shared.flights.join(&wanted, epoch) {
                Joined::Leader(lead, waiting) => break (lead, waiting),
                Joined::Follower(waiting) => waiting,
            };
            let outcome = tokio::time::timeout_at(patience, waiting.outcome()).await;
            round += 1;
            wanted = match outcome.map(|outcome| self.follow(&request, asked, outcome, round)) {
                Ok(Followed::Answered(answered)) => return *answered,
                Ok(Followed::Again(wanted)) if round < ROUNDS => wanted,
                _ => return self.alone(service, request).await,
            };
        };
        // Whoever led before may have stored it since it was looked for.
        if let Some(resource) = shared.memory.get(&self.key)
            && let Some(stored) = resource.select(request.headers())
        {
            let now = Instant::now();
            let reuse = stored.head.freshness.s4_reuse(self.said.as_ref(), now);
            if matches!(reuse, Use::Fresh) {
                let content = Content::Whole(stored.body.clone());
                lead.publish(Outcome::Shared(stored.head.clone(), content));
                return Ok(route.hit(&self.client, stored, self.exchange.as_ref()));
            }
            (self.stale, self.on_disk) = (Some(stored.into()), false);
        }
        let (client, why, exchange) = (self.client.clone(), self.why, self.exchange.clone());
        let (reply, answered) = oneshot::channel();
        // In a task of its own: others may wait for it when this client has gone away.
        let task = tokio::spawn(async move {
            let _gone = reply.send(self.lead(lead, asked, service, request).await);
        });
        waiting.aborts(task.abort_handle());
        match answered.await {
            Ok(fetched) => route.fetched(&client, fetched, why, exchange.as_ref()),
            Err(_) => Err(Error::new(Kind::Internal).detail("the fetch for the cache ended early")),
        }
    }

    /// Looks, and asks, for all.
    async fn lead<S>(
        mut self,
        lead: Leading,
        asked: Asked,
        service: S,
        request: Request<Body>,
    ) -> Result<Fetched, Error>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Error>
            + Clone
            + Send
            + 'static,
        S::Future: Send + 'static,
    {
        if let Some((had, aged)) = self.looked(request.headers()).await {
            lead.publish(Outcome::Stored(had.clone()));
            drop(lead);
            if aged {
                self.route.revalidate(service, &request, &self.key, had.clone());
            }
            return Ok(Fetched::Stored(had));
        }
        let Self { route, key, stale, why, .. } = self;
        let lead = Some(lead);
        let fetch = Fetch { route, key, asked, stale, why, as_is: false, lead };
        fetch.run(service, request).await
    }

    /// What is on disk, if it may be used, and whether it is to be revalidated
    /// meanwhile. What has to be validated first is noted.
    async fn looked(&mut self, request: &HeaderMap) -> Option<(Had, bool)> {
        if !std::mem::take(&mut self.on_disk) {
            return None;
        }
        let Self { route, key, client, said, .. } = self;
        let (had, reuse) = route.look_on_disk(key, request, client, said.as_ref()).await?;
        if reuse != Use::Validate {
            return Some((had, reuse == Use::StaleWhileRevalidating));
        }
        let fresh = had.head.freshness.is_fresh(Instant::now());
        self.why = if fresh { "request" } else { "stale" };
        self.stale = Some(had);
        None
    }

    /// What becomes of a request that has waited so many times.
    fn follow(
        &self,
        request: &Request<Body>,
        asked: Asked,
        outcome: Outcome,
        round: usize,
    ) -> Followed {
        let status = Status { collapsed: true, ..Status::forwarded(self.why) };
        let exchange = self.exchange.as_ref();
        match outcome {
            Outcome::Shared(head, content) if head.selecting.matches(request.headers()) => {
                let Some(response) = answer(&self.client, &head, &content, status) else {
                    return Followed::Alone;
                };
                self.route.tell(exchange, status.outcome());
                Followed::Answered(Box::new(Ok(response)))
            }
            Outcome::Stored(had) if had.head.selecting.matches(request.headers()) => {
                let freshness = &had.head.freshness;
                match freshness.s4_reuse(self.said.as_ref(), Instant::now()) {
                    Use::Validate => Followed::Alone,
                    _ => {
                        let response = self.route.disk_hit(&self.client, &had, exchange);
                        Followed::Answered(Box::new(Ok(response)))
                    }
                }
            }
            Outcome::Shared(head, _) | Outcome::Stored(Had { head, .. }) => {
                Followed::Again(self.key.variant(&head.selecting, request.headers()))
            }
            // Its own answer may be for all.
            Outcome::Personal if !asked.is_personal() => Followed::Again(self.key.clone()),
            // It may have been because of who asked: one more finds out for all.
            Outcome::Fault(_) if round == 1 => Followed::Again(self.key.clone()),
            Outcome::Fault(fault) => {
                self.route.tell(exchange, status.outcome());
                Followed::Answered(Box::new(Ok(faulty(&fault, request, status))))
            }
            Outcome::Failed(kind) if kind.side() == Side::Upstream => {
                self.route.tell(exchange, status.outcome());
                let detail = "another request for the same met it";
                Followed::Answered(Box::new(Err(Error::new(kind).detail(detail))))
            }
            _ => Followed::Alone,
        }
    }
}

/// The answer to a request that waited for others, to whom the origin said that it
/// fails: what it said is theirs, that it fails is not.
fn faulty(fault: &Fault, request: &Request<Body>, status: Status) -> Response<Body> {
    let detail = "The origin has failed others that asked for the same just now.";
    let mut answer = Answer::new(fault.status, "origin_failed", detail);
    if let Some(wait) = &fault.retry_after {
        answer = answer.header(header::RETRY_AFTER, wait.clone());
    }
    if let Some(exchange) = request.extensions().get::<Exchange>() {
        exchange.update(|record| record.rejection = Some(answer.code()));
    }
    let mut response = answer.render(Format::preferred(request.headers()));
    let answered = Some(fault.status.as_u16());
    Status { answered, detail: Some("origin-failed"), ..status }.write(response.headers_mut());
    response
}

impl Route {
    /// Counts what was done for a request, and has the access log tell of it.
    pub(super) fn tell(&self, exchange: Option<&Exchange>, outcome: CacheOutcome) {
        self.counts.count(outcome);
        if let Some(exchange) = exchange {
            exchange.update(|record| record.cache = Some(outcome.as_str()));
        }
    }

    /// The answer to whoever had the origin asked.
    fn fetched(
        &self,
        client: &Client,
        fetched: Result<Fetched, Error>,
        why: &'static str,
        exchange: Option<&Exchange>,
    ) -> Result<Response<Body>, Error> {
        let response = match fetched {
            Err(error) => {
                self.tell(exchange, Status::forwarded(why).outcome());
                return Err(error);
            }
            Ok(Fetched::Stored(had)) => self.disk_hit(client, &had, exchange),
            Ok(Fetched::Alone(response)) => {
                self.tell(exchange, Status::forwarded("bypass").outcome());
                response
            }
            Ok(Fetched::Shared(got)) => {
                self.tell(exchange, got.status.outcome());
                let answered = answer(client, &got.head, &got.content, got.status);
                let mut response = answered.unwrap_or_else(|| {
                    let gone = Status { detail: Some("gone"), ..Status::forwarded(why) };
                    let mut response = Response::new(Body::empty());
                    *response.status_mut() = StatusCode::BAD_GATEWAY;
                    gone.write(response.headers_mut());
                    response
                });
                // Some may be stored since before these were not.
                for name in got.own.keys().chain(&self.settings.unstored) {
                    response.headers_mut().remove(name);
                }
                for (name, value) in &got.own {
                    response.headers_mut().append(name, value.clone());
                }
                response
            }
        };
        Ok(response)
    }

    pub(super) fn hit(
        &self,
        client: &Client,
        stored: &Stored,
        exchange: Option<&Exchange>,
    ) -> Response<Body> {
        let content = Content::Whole(stored.body.clone());
        let now = Instant::now();
        let response = answer_at(client, &stored.head, &content, Status::hit(), now);
        let response = response.unwrap_or_default();
        let stale = !stored.head.freshness.is_fresh(now);
        let status = Status { ttl: stale.then_some(0), ..Status::hit() };
        self.tell(exchange, status.outcome());
        response
    }

    /// RFC 9111 §5.2.1.7.
    pub(super) fn nothing_cached<B>(&self, request: &Request<B>) -> Response<Body> {
        let detail = "Nothing that is stored answers this request.";
        let answer = Answer::new(StatusCode::GATEWAY_TIMEOUT, "only_if_cached", detail);
        let exchange = request.extensions().get::<Exchange>();
        if let Some(exchange) = exchange {
            exchange.update(|record| record.rejection = Some(answer.code()));
        }
        let mut response = answer.render(Format::preferred(request.headers()));
        let status = Status { detail: Some("only-if-cached"), ..Status::forwarded("bypass") };
        status.write(response.headers_mut());
        self.tell(exchange, status.outcome());
        response
    }
}
