//! One request, one or more attempts.
//!
//! A request moves to the next origin only while not one byte of it was
//! written. One that failed on a pooled connection, which the origin may have
//! closed at that very moment, is sent once more on a fresh one if it was
//! provably not looked at, or is idempotent, and either way has no body that
//! the first attempt could have used up (RFC 9112 §9.3.1, RFC 9113 §8.7).

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use http::{Method, Request, Response};
use tokio::time::Instant;

use super::sign;
use super::target::{self, TargetSettings};
use crate::balance::Balance;
use crate::body::Body;
use crate::context::Exchange;
use crate::error::{Error, Kind, Resend};
use crate::observe::Metrics;
use crate::proxy_protocol::{Addresses, Announced};
use crate::upstream::{Failure, Origin, Reuse, Verdict};

/// How often a request may be sent again to one origin because the connection
/// was on its way out: the last time on one of its own.
const MAX_STALE: u32 = 3;

/// The attempts at one request.
pub(super) struct Attempts<'a> {
    balance: &'a dyn Balance,
    /// What origins are picked by.
    key: u64,
    metrics: &'a Metrics,
    exchange: Option<&'a Exchange>,
    tried: Vec<Arc<Origin>>,
    /// Whose request it is, if origins are told so.
    announced: Option<Announced>,
    /// When the next attempt begins, if that was just looked at.
    now: Option<Instant>,
}

impl<'a> Attempts<'a> {
    pub(super) fn new(
        balance: &'a dyn Balance,
        key: u64,
        metrics: &'a Metrics,
        exchange: Option<&'a Exchange>,
        now: Instant,
    ) -> Self {
        let told = balance.upstream().settings().proxy_protocol.is_some();
        let announced = told.then(|| exchange.map_or(Announced::Unknown, announced));
        Self { balance, key, metrics, exchange, tried: Vec::new(), announced, now: Some(now) }
    }

    pub(super) async fn run(
        &mut self,
        slot: &mut Option<Request<Body>>,
        target: &TargetSettings,
    ) -> Result<Response<Body>, Error> {
        let upstream = self.balance.upstream();
        let most = upstream.settings().max_attempts.max(1) as usize;
        let mut last: Option<Error> = None;
        while self.tried.len() < most {
            let Some(request) = slot else { break };
            let Some(origin) = self.balance.pick(self.key, &self.tried) else { break };
            if let Some(error) = last.take() {
                self.metrics.request_resent(upstream.name(), "connect_failed");
                tracing::debug!(
                    upstream = &**upstream.name(),
                    next = origin.name(),
                    error = error.chain(),
                    "the request moves to the next origin"
                );
            }
            target::address(request, &origin, target);
            if let Some(settings) = &upstream.settings().sign {
                sign::sign(request, &origin, settings)?;
            }
            match self.ask(&origin, slot).await {
                Ok(response) => return Ok(response),
                Err(error) => last = Some(error),
            }
            self.tried.push(origin);
        }
        Err(last.unwrap_or_else(|| {
            Error::new(Kind::NoOrigin)
                .detail(format!("no origin of `{}` is fit to be asked", upstream.name()))
        }))
    }

    /// Asks one origin: on a pooled connection, and if that proves dead, once
    /// more on a newer one; more often if the origin provably did not look at
    /// it, as when it closes connections one after another. The request is put back if another may be asked:
    /// this one never looked at it.
    async fn ask(
        &mut self,
        origin: &Arc<Origin>,
        slot: &mut Option<Request<Body>>,
    ) -> Result<Response<Body>, Error> {
        let idempotent = slot.as_ref().is_some_and(|request| is_idempotent(request.method()));
        let mut failure = match self.attempt(origin, slot, Reuse::Any).await {
            Ok(response) => return Ok(response),
            Err(failure) => failure,
        };
        for again in 1..=MAX_STALE {
            let may_resend = match failure.error.resendable() {
                Resend::Safe => true,
                Resend::IfIdempotent => idempotent && again == 1,
                Resend::Never => false,
            };
            if !(failure.reused && may_resend && slot.is_some()) {
                break;
            }
            self.metrics.request_resent(origin.upstream(), "stale_connection");
            let reuse = if again < MAX_STALE { Reuse::Newer } else { Reuse::Never };
            failure = match Box::pin(self.attempt(origin, slot, reuse)).await {
                Ok(response) => return Ok(response),
                Err(failure) => failure,
            };
        }
        if failure.error.resendable() != Resend::Safe {
            *slot = None;
        }
        Err(failure.error)
    }

    async fn attempt(
        &mut self,
        origin: &Arc<Origin>,
        slot: &mut Option<Request<Body>>,
        reuse: Reuse,
    ) -> Result<Response<Body>, Failure> {
        let upstream = self.balance.upstream();
        let now = self.now.take().unwrap_or_else(Instant::now);
        let downstream = self.exchange.map(|exchange| exchange.downstream());
        let interims = downstream.and_then(|downstream| downstream.interim.as_ref());
        let sent = origin.send(slot, reuse, self.announced, now, interims).await;
        let connect = match &sent {
            Ok(sent) => sent.connect,
            Err(failure) => failure.connect,
        };
        if let Some(exchange) = self.exchange {
            let name = origin.shared_name().clone();
            exchange.update(|record| {
                record.origin = Some(name);
                record.attempts += 1;
                record.connect = match (record.connect, connect) {
                    (Some(before), Some(now)) => Some(before + now),
                    (before, now) => before.or(now),
                };
            });
        }
        match sent {
            Ok(sent) => {
                if sent.connect.is_some() {
                    upstream.report(origin, Verdict::Reached);
                }
                Ok(sent.response)
            }
            Err(failure) => {
                if is_connect_failure(failure.error.kind()) {
                    upstream.report(origin, Verdict::Unreachable(failure.error.chain()));
                }
                Err(failure)
            }
        }
    }
}

/// The client of an exchange and where it connected to, as far as that is known.
fn announced(exchange: &Exchange) -> Announced {
    let Some(client) = exchange.client() else { return Announced::Unknown };
    let downstream = exchange.downstream();
    // A proxy that passes on the client's address knows of no port.
    let port = downstream.peer.filter(|_| downstream.peer_address() == Some(client));
    let source = SocketAddr::new(client, port.map_or(0, |peer| peer.port()));
    let unspecified = match source {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let destination = downstream.local.unwrap_or(unspecified);
    Announced::Client(Addresses { source, destination }.aligned())
}

fn is_connect_failure(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::DnsFailed
            | Kind::DnsTimeout
            | Kind::ConnectRefused
            | Kind::ConnectTimeout
            | Kind::TlsCertificate
            | Kind::TlsProtocol
    )
}

/// Whether carrying a request out twice is the same as once (RFC 9110 §9.2.2).
fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE | Method::TRACE
    )
}
