//! One request, one or more attempts.
//!
//! A request moves to the next origin only while not one byte of it was
//! written. One that failed on a pooled connection, which the origin may have
//! closed at that very moment, is sent once more on a fresh one if it was
//! provably not looked at, or is idempotent, and either way has no body that
//! the first attempt could have used up (RFC 9112 §9.3.1, RFC 9113 §8.7).

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
                Err(Unanswered { error, request: Some(back) }) => {
                    request = back;
                    last = Some(error);
                }
                Err(Unanswered { error, request: None }) => return Err(error),
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
        let spare = Spare::of(&request);
        let failure = match self.attempt(origin, request, false).await {
            Ok(response) => return Ok(response),
            Err(failure) => failure,
        };
        if !failure.reused {
            return Err(spare.unanswered(failure));
        }
        let resend = failure.error.resendable();
        let Some(again) = failure.request.or_else(|| spare.request(resend)) else {
            return Err(Unanswered { error: failure.error, request: None });
        };
        self.metrics.request_resent(origin.upstream(), "stale_connection");
        self.attempt(origin, again, true).await.map_err(|failure| spare.unanswered(failure))
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
    /// The request, if it may be sent to another origin.
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

/// What it takes to send a request again.
struct Spare {
    /// Whether carrying it out twice is the same as once (RFC 9110 §9.2.2).
    idempotent: bool,
    /// Its head; `None` where it has a body, of which the first attempt may
    /// have used up a part.
    head: Option<Request<()>>,
}

impl Spare {
    fn of(request: &Request<Body>) -> Self {
        let idempotent = matches!(
            *request.method(),
            Method::GET
                | Method::HEAD
                | Method::OPTIONS
                | Method::PUT
                | Method::DELETE
                | Method::TRACE
        );
        let head = request.body().is_end_stream().then(|| {
            let mut head = Request::new(());
            *head.method_mut() = request.method().clone();
            *head.uri_mut() = request.uri().clone();
            *head.version_mut() = request.version();
            *head.headers_mut() = request.headers().clone();
            head
        });
        Self { idempotent, head }
    }

    /// The request once more, as far as `resend` and the request allow it.
    fn request(&self, resend: Resend) -> Option<Request<Body>> {
        let again = match resend {
            Resend::Safe => true,
            Resend::IfIdempotent => self.idempotent,
            Resend::Never => false,
        };
        self.head.clone().filter(|_| again).map(|head| head.map(|()| Body::empty()))
    }

    /// Hands on what another origin may still be asked: what this one never
    /// looked at.
    fn unanswered(&self, failure: Failure) -> Unanswered {
        let Failure { error, request, .. } = failure;
        let request = match error.resendable() {
            Resend::Safe => request.or_else(|| self.request(Resend::Safe)),
            Resend::IfIdempotent | Resend::Never => None,
        };
        Unanswered { error, request }
    }
}
