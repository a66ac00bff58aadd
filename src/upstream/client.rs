//! Sending one request to one origin over a pooled connection.
//!
//! An HTTP/1.1 connection goes back to the pool when the response body has been
//! read to its end and the next request may be written, never before; one broken
//! off is closed. One of HTTP/2 is shared while it is in use, see [`http2`].

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, Uri, Version, header};
use tokio::time::Instant;

use super::connect::Dialled;
use super::http1::Http1;
use super::http2::{self, Claim, Dialling, Outcome};
use super::origin::Origin;
use crate::body::{Body, Hold};
use crate::budget::Charge;
use crate::context::{Interim, Permit};
use crate::error::{Error, Kind, Resend};
use crate::proxy_protocol::Announced;

/// A response, and what it took to get it.
#[derive(Debug)]
pub struct Sent {
    /// The response; its body streams from the origin.
    pub response: Response<Body>,
    /// Time spent connecting; `None` where a pooled connection was used.
    pub connect: Option<Duration>,
}

/// A request that got no response.
#[derive(Debug)]
pub struct Failure {
    /// Why, and whether it may be sent again.
    pub error: Error,
    /// Whether the connection came from the pool: it may have been dead.
    pub reused: bool,
    /// Time spent connecting.
    pub connect: Option<Duration>,
}

/// A connection that may carry a request now.
enum Lease {
    Http1(Box<Http1>),
    Http2(http2::Lease),
}

/// Which connections a request may be sent on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reuse {
    /// Any that is there.
    Any,
    /// One that is newer than the one that has just failed.
    Newer,
    /// None: one is to be made.
    Never,
}

impl Origin {
    /// Takes `request`, whose URI is in origin form, sends it and waits for the
    /// head of the response. `reuse` says on which connections. After a failure
    /// the request is there again if its body is whole; whether it may be sent
    /// again, the error says. `now` spares a look at the clock. `announced` is
    /// whose request it is, if the origin is told so: then only a connection of
    /// the same is used. Interim responses go to `interims`.
    ///
    /// # Errors
    ///
    /// No connection could be made, or it failed before a response came.
    pub async fn send(
        self: &Arc<Self>,
        request: &mut Option<Request<Body>>,
        reuse: Reuse,
        announced: Option<Announced>,
        now: Instant,
        interims: Option<&Interim>,
    ) -> Result<Sent, Failure> {
        let http1 = announced.is_some() || request.as_ref().is_some_and(switches);
        if http1 && self.speaks_only_http2() {
            *request = None;
            let error = Error::new(Kind::UpgradeFailed)
                .detail("the origin is spoken to in HTTP/2, which does not switch protocols");
            return Err(Failure { error, reused: false, connect: None });
        }
        let (lease, connect) = match self.pooled(reuse, http1, announced, now) {
            Some(lease) => (lease, None),
            // Boxed, as all that is rare: the state of it would be carried along,
            // and moved, by every exchange.
            None => match Box::pin(self.dial(http1, reuse, announced)).await {
                Ok(dialled) => dialled,
                Err((error, connect)) => return Err(Failure { error, reused: false, connect }),
            },
        };
        let reused = connect.is_none();
        // Connecting took its time.
        let now = connect.map_or(now, |_| Instant::now());
        match self.exchange(lease, request, now, interims).await {
            Ok(response) => Ok(Sent { response, connect }),
            Err(error) => Err(Failure { error, reused, connect }),
        }
    }

    fn pooled(
        &self,
        reuse: Reuse,
        http1: bool,
        announced: Option<Announced>,
        now: Instant,
    ) -> Option<Lease> {
        // One that failed is no longer shared, so whichever is, is newer.
        let shared = if http1 || reuse == Reuse::Never { None } else { self.pool().shared(now) };
        let idle = || if reuse == Reuse::Any { self.pool().take(announced, now) } else { None };
        shared.map(Lease::Http2).or_else(|| idle().map(Lease::Http1))
    }

    async fn dial(
        &self,
        http1: bool,
        reuse: Reuse,
        announced: Option<Announced>,
    ) -> Result<(Lease, Option<Duration>), (Error, Option<Duration>)> {
        let (started, deadline) = (Instant::now(), self.connector().deadline());
        let mut dialling = None;
        while !http1 && reuse != Reuse::Never && self.pool().may_share() {
            match self.pool().claim(self.h2().max_concurrent_streams) {
                Claim::Lease(lease) => return Ok((Lease::Http2(lease), None)),
                Claim::Dial(turn) => {
                    dialling = Some(turn);
                    break;
                }
                Claim::Wait(other) => {
                    let outcome = tokio::time::timeout_at(deadline, http2::outcome(other)).await;
                    let error = match outcome {
                        Ok(Outcome::Open | Outcome::Settled) => continue,
                        Ok(Outcome::Failed(kind)) => Error::new(kind)
                            .detail("the connection that was waited for ended so")
                            .resend(Resend::Safe),
                        Err(_) => self.connector().too_late(),
                    };
                    return Err((error, Some(started.elapsed())));
                }
            }
        }
        let permit = match self.permit_for(announced) {
            Ok(permit) => permit,
            // Another worker may have one with room.
            Err(error) => match self.pool().shared_by_any().filter(|_| !http1) {
                Some(lease) => return Ok((Lease::Http2(lease), None)),
                None => return Err((error, None)),
            },
        };
        let announced = announced.unwrap_or_default();
        let mut charge = self.charge().map_err(|error| (error, None))?;
        let dialled = self.connector().dial(http1, announced, deadline).await;
        let lease = match dialled.and_then(|dialled| self.charged(dialled, &mut charge)) {
            Ok(mut dialled) => {
                (dialled.stream.permit, dialled.stream.charge) = (Some(permit), charge);
                if !http1 {
                    self.pool().learn(dialled.http2);
                }
                tokio::time::timeout_at(deadline, self.handshake(dialled, dialling))
                    .await
                    .unwrap_or_else(|_| Err(self.connector().too_late()))
            }
            Err(error) => {
                if let Some(dialling) = dialling {
                    dialling.failed(error.kind());
                }
                Err(error)
            }
        };
        if !self.is_retired() {
            self.metrics().origin_connected(self.upstream(), self.shared_name(), lease.is_ok());
        }
        let took = Some(started.elapsed());
        match lease {
            Ok(lease) => Ok((lease, took)),
            Err(error) => Err((error, took)),
        }
    }

    /// A permit for one more connection, for which idle ones give way that are of
    /// no use to this client.
    fn permit_for(&self, announced: Option<Announced>) -> Result<Permit, Error> {
        let mut permit = self.permit();
        while permit.is_err() && announced.is_some() && self.pool().give_up_one() {
            permit = self.permit();
        }
        permit
    }

    /// Makes connections for requests that are still to come, until there are
    /// `count` or one cannot be made.
    pub(super) async fn warm(&self, count: usize) {
        for _ in 0..count {
            match self.dial(false, Reuse::Any, None).await {
                Ok((Lease::Http1(http1), _)) => self.pool().put(http1),
                // One carries all.
                Ok((Lease::Http2(_), _)) => return,
                Err((error, _)) => {
                    let (upstream, origin) = (&**self.upstream(), self.name());
                    let error = error.chain();
                    tracing::debug!(upstream, origin, error, "a connection was not made ahead");
                    return;
                }
            }
        }
    }

    /// Adds to a connection's charge what HTTP/2 needs.
    fn charged(&self, dialled: Dialled, charge: &mut Charge) -> Result<Dialled, Error> {
        if dialled.http2 {
            self.memory().for_http2(self.h2(), charge)?;
        }
        Ok(dialled)
    }

    async fn handshake(
        &self,
        dialled: Dialled,
        dialling: Option<Dialling>,
    ) -> Result<Lease, Error> {
        if dialled.http2 {
            let dialling = dialling.unwrap_or_else(|| self.pool().dial());
            let lease = http2::connect(dialled.stream, self.h2(), dialling).await?;
            return Ok(Lease::Http2(lease));
        }
        Ok(Lease::Http1(Http1::new(dialled.stream, self.memory().budget.clone())))
    }

    async fn exchange(
        self: &Arc<Self>,
        lease: Lease,
        slot: &mut Option<Request<Body>>,
        now: Instant,
        interims: Option<&Interim>,
    ) -> Result<Response<Body>, Error> {
        let deadline = self.timeouts().response_head;
        let response = match lease {
            Lease::Http1(http1) => http1.send(self, slot, now, deadline, interims).await?,
            Lease::Http2(lease) => {
                self.charge_upload(slot)?;
                Box::pin(lease.send(self, slot, deadline, interims)).await?
            }
        };
        let idle = self.timeouts().idle_body;
        Ok(response.map(|body| body.with_idle_timeout(idle, Kind::ResponseBodyTimeout)))
    }

    /// Ties what HTTP/2 may hold of a request's body to that.
    fn charge_upload(&self, slot: &mut Option<Request<Body>>) -> Result<(), Error> {
        if let Some(request) = slot
            && !http_body::Body::is_end_stream(request.body())
        {
            let charge = self.memory().for_upload()?;
            *slot = slot.take().map(|request| request.map(|body| body.with_guard(Hold(charge))));
        }
        Ok(())
    }

    /// HTTP/2 carries the scheme and the authority in the target.
    pub(super) fn address<B>(&self, request: &mut Request<B>) {
        *request.version_mut() = Version::HTTP_2;
        let host = request.headers_mut().remove(header::HOST);
        let authority = host
            .and_then(|host| host.to_str().ok()?.parse().ok())
            .or_else(|| self.authority().cloned());
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme =
            Some(if self.is_tls() { http::uri::Scheme::HTTPS } else { http::uri::Scheme::HTTP });
        parts.authority = authority;
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
}

pub(super) fn no_request() -> Error {
    Error::new(Kind::Internal).detail("there is no request to send")
}

/// Whether a request asks to switch protocols.
fn switches(request: &Request<Body>) -> bool {
    request.headers().contains_key(header::UPGRADE)
}
