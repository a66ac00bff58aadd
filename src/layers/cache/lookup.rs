//! Looks on disk for what memory has not.

use std::pin::pin;
use std::sync::Arc;

use futures_util::StreamExt;
use http::header::HeaderMap;
use http::{Method, Request, Response};
use tokio::time::Instant;
use tower::Service;

use super::Route;
use super::answer::{Client, answer};
use super::content::Content;
use super::directives::Directives;
use super::fetch::{Fetch, copy_of};
use super::flight::Joined;
use super::key::Key;
use super::policy::Use;
use super::status::Status;
use super::store::{Had, Stored};
use crate::body::Body;
use crate::context::Exchange;
use crate::error::Error;

/// What is at most so long is read whole, and lies in memory from then on.
const READ_WHOLE: u64 = 1 << 20;

impl Route {
    /// The response on disk that a request selects, and what becomes of it. That it can
    /// be read has been seen, as far as this client begins to read.
    pub(super) async fn look_on_disk(
        &self,
        key: &Key,
        request: &HeaderMap,
        client: &Client,
        said: Option<&Directives>,
    ) -> Option<(Had, Use)> {
        let tier = self.tier()?;
        let epoch = self.cache.memory().epoch(key);
        let found = tier.find(key, request).await?;
        let Some(had) = self.read_first(found, client).await else {
            tier.unusable();
            return None;
        };
        let reuse = had.head.freshness.s4_reuse(said, Instant::now());
        if reuse != Use::Validate {
            self.promote(key, &had, epoch);
            tier.hit();
        }
        Some((had, reuse))
    }

    /// Reads what the client is to have first; `None` if it cannot be read.
    async fn read_first(&self, found: Had, client: &Client) -> Option<Had> {
        let Content::Disk(body) = &found.content else { return Some(found) };
        let length = body.length();
        let first = client.begins_at(&found.head, length);
        let short = length <= READ_WHOLE.min(self.most_in_memory());
        if length == 0 || (short && first.is_some()) {
            let content = Content::Whole(body.whole().await.ok()?);
            return Some(Had { content, ..found });
        }
        if let Some(first) = first {
            let mut pieces = pin!(body.read(first..first + 1));
            pieces.next().await?.ok()?;
        }
        Some(found)
    }

    fn promote(&self, key: &Key, had: &Had, epoch: u64) {
        if let Content::Whole(body) = &had.content {
            let stored = Stored { head: had.head.clone(), body: body.clone() };
            self.cache.memory().put_again(key, stored, epoch);
        }
    }

    /// The answer from what was found on disk.
    pub(super) fn disk_hit(
        &self,
        client: &Client,
        had: &Had,
        exchange: Option<&Exchange>,
    ) -> Response<Body> {
        let status = Status { detail: Some("disk"), ..Status::hit() };
        let response = answer(client, &had.head, &had.content, status).unwrap_or_default();
        let stale = !had.head.freshness.is_fresh(Instant::now());
        self.tell(exchange, Status { ttl: stale.then_some(0), ..status }.outcome());
        response
    }

    /// Has a response validated that is used meanwhile, unless somebody does already.
    pub(super) fn revalidate<S>(
        self: &Arc<Self>,
        service: S,
        request: &Request<Body>,
        key: &Key,
        stale: Had,
    ) where
        S: Service<Request<Body>, Response = Response<Body>, Error = Error>
            + Clone
            + Send
            + 'static,
        S::Future: Send + 'static,
    {
        let cache = &self.cache;
        let epoch = cache.memory().epoch(key);
        let Joined::Leader(lead, waiting) = cache.shared().flights.join(key, epoch) else { return };
        let mut request = copy_of(request);
        *request.method_mut() = Method::GET;
        self.make_nobodys(request.headers_mut(), &stale.head);
        let asked = self.asked(&request);
        // It is nobody's exchange: it ends when it ends.
        request.extensions_mut().remove::<Exchange>();
        let fetch = Fetch {
            route: self.clone(),
            key: key.clone(),
            asked,
            stale: Some(stale),
            why: "stale",
            as_is: false,
            lead: Some(lead),
        };
        tokio::spawn(async move {
            let _waiting = waiting;
            if let Err(error) = fetch.run(service, request).await {
                tracing::debug!(error = error.chain(), "a stored response was not revalidated");
            }
        });
    }
}
