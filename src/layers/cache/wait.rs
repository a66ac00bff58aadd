//! Requests that have to wait: for the origin, or for another who asks it.

use std::sync::Arc;

use http::header::HeaderMap;
use http::{Request, Response, StatusCode};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tower::{Service, ServiceExt};

use super::Route;
use super::answer::{Client, answer};
use super::content::Content;
use super::directives::Directives;
use super::fetch::{Fetch, Fetched};
use super::flight::{Joined, Leading, Outcome};
use super::key::Key;
use super::policy::Use;
use super::status::Status;
use super::store::{Had, Stored};
use crate::body::Body;
use crate::context::Exchange;
use crate::error::{Error, Kind, Side};
use crate::respond::{Answer, Format};

/// A request that has to wait for the origin.
pub(super) struct Fetching {
    pub(super) route: Arc<Route>,
    pub(super) key: Key,
    pub(super) client: Client,
    pub(super) stale: Option<Had>,
    pub(super) why: &'static str,
    pub(super) said: Option<Directives>,
    /// It is not in memory, and may be on disk.
    pub(super) on_disk: bool,
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
            let response = self.route.disk_hit(&self.client, &had);
            if aged {
                self.route.revalidate(service, &request, &self.key, had);
            }
            return Ok(response);
        }
        if self.said.as_ref().is_some_and(|said| said.only_if_cached) {
            return Ok(self.route.nothing_cached(&request));
        }
        let Self { route, key, client, stale, why, .. } = self;
        if let Some(detail) = client.is_not_whole() {
            let status = Status { detail: Some(detail), ..Status::forwarded(why) };
            let mut response = service.oneshot(request).await?;
            route.passed_by(&mut response, status);
            return Ok(response);
        }
        let asked = route.asked(&request);
        // Its answer is not stored as a rule: the client's own conditions go along.
        let as_is = stale.is_none();
        let fetch = Fetch { route: route.clone(), key, asked, stale, why, as_is, lead: None };
        let fetched = fetch.run(service, request).await?;
        Ok(route.fetched(&client, fetched, why))
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
        let shared = self.route.cache.shared();
        let epoch = shared.memory.epoch(&self.key);
        let (lead, waiting) = match shared.flights.join(&self.key, epoch) {
            Joined::Leader(lead, waiting) => (lead, waiting),
            Joined::Follower(waiting) => {
                let patience = self.route.settings.collapse_wait;
                let outcome = tokio::time::timeout(patience, waiting.outcome()).await;
                if let Ok(outcome) = outcome
                    && let Some(done) = self.follow(request.headers(), outcome)
                {
                    return done;
                }
                return self.alone(service, request).await;
            }
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
                return Ok(self.route.hit(&self.client, stored));
            }
            (self.stale, self.on_disk) = (Some(stored.into()), false);
        }
        let (route, client, why) = (self.route.clone(), self.client.clone(), self.why);
        let (reply, answered) = oneshot::channel();
        // In a task of its own: others may wait for it when this client has gone away.
        let task = tokio::spawn(async move {
            let _gone = reply.send(self.lead(lead, service, request).await);
        });
        waiting.aborts(task.abort_handle());
        match answered.await {
            Ok(fetched) => Ok(route.fetched(&client, fetched?, why)),
            Err(_) => Err(Error::new(Kind::Internal).detail("the fetch for the cache ended early")),
        }
    }

    /// Looks, and asks, for all.
    async fn lead<S>(
        mut self,
        lead: Leading,
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
        let (asked, lead) = (route.asked(&request), Some(lead));
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

    /// What a request gets that waited; `None` if it has to ask for itself.
    fn follow(
        &self,
        request: &HeaderMap,
        outcome: Outcome,
    ) -> Option<Result<Response<Body>, Error>> {
        match outcome {
            Outcome::Shared(head, content) if head.selecting.matches(request) => {
                let status = Status { collapsed: true, ..Status::forwarded(self.why) };
                let response = answer(&self.client, &head, &content, status)?;
                self.route.counts.count(status.outcome());
                Some(Ok(response))
            }
            Outcome::Stored(had) if had.head.selecting.matches(request) => {
                let freshness = &had.head.freshness;
                let reuse = freshness.s4_reuse(self.said.as_ref(), Instant::now());
                let good = reuse != Use::Validate;
                good.then(|| Ok(self.route.disk_hit(&self.client, &had)))
            }
            Outcome::Failed(kind) if kind.side() == Side::Upstream => {
                let detail = "another request for the same met it";
                Some(Err(Error::new(kind).detail(detail)))
            }
            _ => None,
        }
    }
}

impl Route {
    /// The answer to whoever had the origin asked.
    fn fetched(&self, client: &Client, fetched: Fetched, why: &'static str) -> Response<Body> {
        match fetched {
            Fetched::Stored(had) => self.disk_hit(client, &had),
            Fetched::Alone(response) => {
                self.counts.count(Status::forwarded("bypass").outcome());
                response
            }
            Fetched::Shared(got) => {
                self.counts.count(got.status.outcome());
                let answered = answer(client, &got.head, &got.content, got.status);
                let mut response = answered.unwrap_or_else(|| {
                    let gone = Status { detail: Some("gone"), ..Status::forwarded(why) };
                    let mut response = Response::new(Body::empty());
                    *response.status_mut() = StatusCode::BAD_GATEWAY;
                    gone.write(response.headers_mut());
                    response
                });
                for (name, value) in &got.own {
                    response.headers_mut().append(name, value.clone());
                }
                response
            }
        }
    }

    /// Says what was done of the answer to a request that is not looked for.
    pub(super) fn passed_by(&self, response: &mut Response<Body>, status: Status) {
        self.counts.count(status.outcome());
        if !response.status().is_informational() {
            let answered = Some(response.status().as_u16());
            Status { answered, ..status }.write(response.headers_mut());
        }
    }

    pub(super) fn hit(&self, client: &Client, stored: &Stored) -> Response<Body> {
        let content = Content::Whole(stored.body.clone());
        let response = answer(client, &stored.head, &content, Status::hit()).unwrap_or_default();
        let stale = !stored.head.freshness.is_fresh(Instant::now());
        let status = Status { ttl: stale.then_some(0), ..Status::hit() };
        self.counts.count(status.outcome());
        response
    }

    /// RFC 9111 §5.2.1.7.
    pub(super) fn nothing_cached<B>(&self, request: &Request<B>) -> Response<Body> {
        let detail = "Nothing that is stored answers this request.";
        let answer = Answer::new(StatusCode::GATEWAY_TIMEOUT, "only_if_cached", detail);
        if let Some(exchange) = request.extensions().get::<Exchange>() {
            exchange.update(|record| record.rejection = Some(answer.code()));
        }
        let mut response = answer.render(Format::preferred(request.headers()));
        let status = Status { detail: Some("only-if-cached"), ..Status::forwarded("bypass") };
        status.write(response.headers_mut());
        self.counts.count(status.outcome());
        response
    }
}
