//! The end of the request path: pick an origin, send, hand the response back.
//!
//! [`Forward`] is a tower service, the innermost of a route. It takes the
//! fields of the client's connection out, rewrites the target, asks one origin
//! after another as far as that is safe, and streams what comes back.

mod cookie;
#[cfg(fuzzing)]
pub(crate) mod fuzz;
mod hop_by_hop;
mod retry;
mod sign;
mod target;
mod upgrade;
mod via;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::{self, HeaderName};
use http::{HeaderValue, Request, Response, StatusCode, Version};
use tokio::time::Instant;
use tower::Service;

pub(crate) use hop_by_hop::strip as strip_hop_by_hop;
pub use target::{HostPolicy, TargetSettings};

use crate::balance::Balance;
use crate::body::Body;
use crate::context::Exchange;
use crate::drain;
use crate::error::{Error, Kind};
use crate::observe::Metrics;
use crate::respond::Format;

/// What a [`Forward`] is told.
#[derive(Debug)]
pub struct ForwardSettings {
    /// How the target and `Host` are rewritten.
    pub target: TargetSettings,
    /// Protocols that `Upgrade` and an extended CONNECT may ask for, in lower case.
    pub upgrades: Vec<String>,
    /// Fields that the route's layers vouch for: a client cannot have them
    /// taken out by naming them in `Connection`.
    pub vouched: Vec<HeaderName>,
    /// What tells this from the other ways that requests take through the process, such
    /// as a route's name: one that comes by the same way again goes in a circle.
    pub way: String,
}

/// Forwards requests to an upstream. Cheap to clone.
#[derive(Clone)]
pub struct Forward(Arc<Inner>);

struct Inner {
    balance: Box<dyn Balance>,
    settings: ForwardSettings,
    hop: via::Hop,
    metrics: Metrics,
    drain: drain::Watcher,
}

impl Forward {
    /// Forwards to the origins that `balance` picks. Tunnels of upgraded
    /// connections end when `drain` cuts.
    #[must_use]
    pub fn new(
        balance: Box<dyn Balance>,
        settings: ForwardSettings,
        metrics: Metrics,
        drain: drain::Watcher,
    ) -> Self {
        let hop = via::Hop::new(&settings.way);
        Self(Arc::new(Inner { balance, settings, hop, metrics, drain }))
    }
}

impl Service<Request<Body>> for Forward {
    type Response = Response<Body>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Error>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let inner = self.0.clone();
        // Here it lies, and is taken from when it is sent: a request is large, and
        // what moves it from hand to hand costs more than some layers.
        let mut slot = Some(request);
        Box::pin(async move { inner.forward(&mut slot).await })
    }
}

impl Inner {
    async fn forward(&self, slot: &mut Option<Request<Body>>) -> Result<Response<Body>, Error> {
        let Some(request) = slot else {
            return Err(Error::new(Kind::Internal).detail("there is no request to forward"));
        };
        let exchange = request.extensions().get::<Exchange>().cloned();
        let now = Instant::now();
        if let Some(exchange) = &exchange {
            let upstream = self.balance.upstream().name().clone();
            exchange.update(|record| {
                record.upstream = Some(upstream);
                record.policy = Some(now.saturating_duration_since(exchange.started()));
            });
        }
        let switch = match upgrade::Switch::take(request, &self.settings.upgrades) {
            Ok(switch) => switch,
            Err(answer) => {
                if let Some(exchange) = &exchange {
                    exchange.update(|record| record.rejection = Some(answer.code()));
                }
                return Ok(answer.render(Format::preferred(request.headers())));
            }
        };
        let key = self.balance.key(request);
        self.prepare(request, switch.as_ref())?;
        // Nothing that was kept for the layers follows the request upstream.
        request.extensions_mut().clear();
        let signed = self.balance.upstream().settings().sign.as_ref();
        if let Some(most) = signed.and_then(|sign| sign.digest_body) {
            sign::digest_body(request, most).await?;
        }
        let mut attempts =
            retry::Attempts::new(&*self.balance, key, &self.metrics, exchange.as_ref(), now);
        let response = attempts.run(slot, &self.settings.target).await?;
        self.finish(response, switch, exchange.as_ref())
    }

    /// Makes the client's request one that may be sent to any origin.
    fn prepare(
        &self,
        request: &mut Request<Body>,
        switch: Option<&upgrade::Switch>,
    ) -> Result<(), Error> {
        let version = request.version();
        target::rewrite(request, &self.settings.target)?;
        let headers = request.headers_mut();
        let mut trailers = false;
        // Most requests have none of these, which one look at each name tells.
        if headers.keys().any(|name| *name == header::VIA || hop_by_hop::concerns(name)) {
            if self.hop.is_named(headers) {
                return Err(Error::new(Kind::Loop).detail("our own name stands in `Via`"));
            }
            trailers = hop_by_hop::take_te_trailers(headers);
            hop_by_hop::strip(headers, &self.settings.vouched);
        }
        self.hop.append(headers, version);
        if version == Version::HTTP_2 {
            cookie::join(headers);
        }
        match (switch, trailers) {
            (Some(switch), _) => switch.ask(headers),
            (None, true) => {
                headers.insert(header::TE, HeaderValue::from_static("trailers"));
            }
            (None, false) => {}
        }
        Ok(())
    }

    /// Makes the origin's response one that may be sent to the client.
    fn finish(
        &self,
        mut response: Response<Body>,
        switch: Option<upgrade::Switch>,
        exchange: Option<&Exchange>,
    ) -> Result<Response<Body>, Error> {
        if let Some(exchange) = exchange {
            exchange.update(|record| record.response_head = Some(exchange.elapsed()));
        }
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let Some(switch) = switch else {
                return Err(Error::new(Kind::UpgradeFailed)
                    .detail("the origin switched protocols without being asked"));
            };
            let idle = self.balance.upstream().settings().timeouts.idle_tunnel;
            return switch.complete(response, exchange, idle, self.drain.clone());
        }
        if switch.is_some_and(|switch| switch.is_misled_by(response.status())) {
            return Err(Error::new(Kind::UpgradeFailed)
                .detail("the origin answered an upgrade with success, and did not switch"));
        }
        let headers = response.headers();
        if headers.contains_key(header::TRANSFER_ENCODING)
            && headers.contains_key(header::CONTENT_LENGTH)
        {
            // RFC 9112 §6.3: an attempt at response splitting, or a mistake;
            // the body is dropped unread, and its connection with it.
            return Err(Error::new(Kind::ResponseInvalid)
                .detail("the response has both `Transfer-Encoding` and `Content-Length`"));
        }
        hop_by_hop::strip(response.headers_mut(), &[]);
        // The connection's own version is the server's affair.
        *response.version_mut() = Version::HTTP_11;
        Ok(response)
    }
}

impl fmt::Debug for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forward")
            .field("balance", &self.0.balance)
            .field("settings", &self.0.settings)
            .finish_non_exhaustive()
    }
}
