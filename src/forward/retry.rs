//! One request, one or more attempts.
//!
//! A request moves to the next origin only while not one byte of it was
//! written. One that failed on a pooled connection, which the origin may have
//! closed at that very moment, is sent once more on a fresh one if it was
//! provably not sent, or is idempotent and has no body (RFC 9112 §9.3.1).

use std::sync::Arc;

use http::{Method, Request, Response};
use http_body::Body as _;

use super::target::{self, TargetSettings};
use crate::balance::Balance;
use crate::body::Body;
use crate::context::Exchange;
use crate::error::{Error, Kind, Resend};
use crate::observe::Metrics;
use crate::upstream::{Failure, Origin, Verdict};

/// The attempts at one request.
pub(super) struct Attempts<'a> {
    balance: &'a dyn Balance,
    metrics: &'a Metrics,
    exchange: Option<&'a Exchange>,
    tried: Vec<Arc<Origin>>,
}

impl<'a> Attempts<'a> {
    pub(super) fn new(
        balance: &'a dyn Balance,
        metrics: &'a Metrics,
        exchange: Option<&'a Exchange>,
    ) -> Self {
        Self { balance, metrics, exchange, tried: Vec::new() }
    }

    pub(super) async fn run(
        &mut self,
        mut request: Request<Body>,
        target: &TargetSettings,
    ) -> Result<Response<Body>, Error> {
        let upstream = self.balance.upstream();
        let most = upstream.settings().max_attempts.max(1) as usize;
        let mut last: Option<Error> = None;
        while self.tried.len() < most {
            let Some(origin) = self.balance.pick(&self.tried) else { break };
            if let Some(error) = last.take() {
                self.metrics.request_resent(upstream.name(), "connect_failed");
                tracing::debug!(
                    upstream = &**upstream.name(),
                    next = origin.name(),
                    error = error.chain(),
                    "the request moves to the next origin"
                );
            }
            self.tried.push(origin.clone());
            target::address(&mut request, &origin, target);
            match self.ask(&origin, request).await {
                Ok(response) => return Ok(response),
                Err(Unanswered { error, request: Some(back) })
                    if error.resendable() == Resend::Safe =>
                {
                    request = back;
                    last = Some(error);
                }
                Err(Unanswered { error, .. }) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| {
            Error::new(Kind::NoOrigin)
                .detail(format!("no origin of `{}` is fit to be asked", upstream.name()))
        }))
    }

    /// Asks one origin: on a pooled connection, and if that proves dead, once
    /// more on a fresh one.
    async fn ask(
        &self,
        origin: &Arc<Origin>,
        request: Request<Body>,
    ) -> Result<Response<Body>, Unanswered> {
        let spare = spare(&request);
        let failure = match self.attempt(origin, request, false).await {
            Ok(response) => return Ok(response),
            Err(failure) => failure,
        };
        let again = match (failure.reused, failure.error.resendable()) {
            (true, Resend::Safe) => failure.request.or(spare),
            (true, Resend::IfIdempotent) => spare,
            _ => return Err(Unanswered { error: failure.error, request: failure.request }),
        };
        let Some(again) = again else {
            return Err(Unanswered { error: failure.error, request: None });
        };
        self.metrics.request_resent(origin.upstream(), "stale_connection");
        self.attempt(origin, again, true)
            .await
            .map_err(|failure| Unanswered { error: failure.error, request: failure.request })
    }

    async fn attempt(
        &self,
        origin: &Arc<Origin>,
        request: Request<Body>,
        fresh: bool,
    ) -> Result<Response<Body>, Failure> {
        let upstream = self.balance.upstream();
        let sent = origin.send(request, fresh).await;
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

/// A request that one origin did not answer.
struct Unanswered {
    error: Error,
    request: Option<Request<Body>>,
}

fn is_connect_failure(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::DnsFailed
            | Kind::ConnectRefused
            | Kind::ConnectTimeout
            | Kind::TlsCertificate
            | Kind::TlsProtocol
    )
}

/// A copy of a request that may be sent twice: idempotent (RFC 9110 §9.2.2),
/// and without a body that the first attempt could have used up.
fn spare(request: &Request<Body>) -> Option<Request<Body>> {
    let idempotent = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE | Method::TRACE
    );
    if !idempotent || !request.body().is_end_stream() {
        return None;
    }
    let mut copy = Request::new(Body::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}
