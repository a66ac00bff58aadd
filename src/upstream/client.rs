//! Sending one request to one origin over a pooled connection.
//!
//! An HTTP/1.1 connection goes back to the pool when the response body has been
//! read to its end and the next request may be written, never before; one broken
//! off is closed. One of HTTP/2 is shared while it is in use.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Request, Response, Uri, Version, header};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::Instant;

use super::connect::Dialled;
use super::http1::Http1;
use super::origin::Origin;
use super::pool::Http2;
use super::upload::{Upload, classify};
use crate::body::Body;
use crate::budget::Charge;
use crate::context::Interim;
use crate::error::{Error, Kind, Resend};

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
    Http2(Http2),
}

impl Origin {
    /// Takes `request`, whose URI is in origin form, sends it and waits for the
    /// head of the response. `fresh` asks for a connection that is newer than the
    /// one that has just failed. After a failure the request is there again if
    /// its body is untouched; whether it may be sent again, the error says. `now`
    /// spares a look at the clock. Interim responses go to `interims`.
    ///
    /// # Errors
    ///
    /// No connection could be made, or it failed before a response came.
    pub async fn send(
        self: &Arc<Self>,
        request: &mut Option<Request<Body>>,
        fresh: bool,
        now: Instant,
        interims: Option<&Interim>,
    ) -> Result<Sent, Failure> {
        let http1 = request.as_ref().is_some_and(switches);
        if http1 && self.speaks_only_http2() {
            *request = None;
            let error = Error::new(Kind::UpgradeFailed)
                .detail("the origin is spoken to in HTTP/2, which does not switch protocols");
            return Err(Failure { error, reused: false, connect: None });
        }
        let (lease, connect) = match self.pooled(fresh, http1, now) {
            Some(lease) => (lease, None),
            // Boxed, as all that is rare: the state of it would be carried along,
            // and moved, by every exchange.
            None => match Box::pin(self.dial(http1)).await {
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

    fn pooled(&self, fresh: bool, http1: bool, now: Instant) -> Option<Lease> {
        // One that failed is no longer shared, so whichever is, is newer.
        let shared = if http1 { None } else { self.pool().shared(now) };
        let idle = || if fresh { None } else { self.pool().take(now) };
        shared.map(Lease::Http2).or_else(|| idle().map(Lease::Http1))
    }

    async fn dial(
        &self,
        http1: bool,
    ) -> Result<(Lease, Option<Duration>), (Error, Option<Duration>)> {
        let (started, deadline) = (Instant::now(), self.connector().deadline());
        let turn = async { if http1 { None } else { self.pool().turn().await } };
        let Ok(_turn) = tokio::time::timeout_at(deadline, turn).await else {
            return Err((self.connector().too_late(), Some(started.elapsed())));
        };
        if !http1 && let Some(shared) = self.pool().shared(Instant::now()) {
            return Ok((Lease::Http2(shared), None));
        }
        let permit = self.permit().map_err(|error| (error, None))?;
        let mut charge = self.charge().map_err(|error| (error, None))?;
        let dialled = self.connector().dial(http1, deadline).await;
        let lease = match dialled.and_then(|dialled| self.charged(dialled, &mut charge)) {
            Ok(mut dialled) => {
                (dialled.stream.permit, dialled.stream.charge) = (permit, charge);
                tokio::time::timeout_at(deadline, self.handshake(dialled))
                    .await
                    .unwrap_or_else(|_| Err(self.connector().too_late()))
            }
            Err(error) => Err(error),
        };
        self.metrics().origin_connected(self.upstream(), self.shared_name(), lease.is_ok());
        let took = Some(started.elapsed());
        match lease {
            Ok(lease) => Ok((lease, took)),
            Err(error) => Err((error, took)),
        }
    }

    /// Makes connections for requests that are still to come, until there are
    /// `count` or one cannot be made.
    pub(super) async fn warm(&self, count: usize) {
        for _ in 0..count {
            match self.dial(false).await {
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
            self.memory().for_http2(charge)?;
        }
        Ok(dialled)
    }

    async fn handshake(&self, dialled: Dialled) -> Result<Lease, Error> {
        let failed = |error: hyper::Error| {
            Error::new(Kind::ConnectionTerminated)
                .detail("the HTTP handshake failed")
                .because(error)
                .resend(Resend::Safe)
        };
        if dialled.http2 {
            let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .initial_stream_window_size(self.memory().stream_window)
                .initial_connection_window_size(self.memory().connection_window)
                .keep_alive_interval(Duration::from_secs(30))
                .keep_alive_timeout(Duration::from_secs(10))
                .handshake(TokioIo::new(dialled.stream))
                .await
                .map_err(failed)?;
            tokio::spawn(connection);
            return Ok(Lease::Http2(self.pool().share(sender)));
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
            Lease::Http1(http1) if slot.as_ref().is_some_and(switches) => {
                Box::pin(switch(*http1, slot, deadline)).await?.map(Body::from)
            }
            Lease::Http1(http1) => http1.send(self, slot, now, deadline, interims).await?,
            Lease::Http2(shared) => {
                Box::pin(self.exchange_http2(shared, slot, deadline)).await?.map(Body::from)
            }
        };
        let idle = self.timeouts().idle_body;
        Ok(response.map(|body| body.with_idle_timeout(idle, Kind::ResponseBodyTimeout)))
    }

    async fn exchange_http2(
        &self,
        mut shared: Http2,
        slot: &mut Option<Request<Body>>,
        deadline: Duration,
    ) -> Result<Response<Incoming>, Error> {
        if let Err(error) = shared.sender.ready().await {
            self.pool().unshare(&shared);
            return Err(classify(error).resend(Resend::Safe));
        }
        let Some(mut request) = slot.take() else { return Err(no_request()) };
        let upload = Upload::watch(&mut request);
        let host = request.headers().get(header::HOST).cloned();
        let spare = spare(&request);
        self.address(&mut request);
        let sending = shared.sender.try_send_request(request);
        let timer = std::pin::pin!(tokio::time::sleep(deadline));
        let answered = upload.or_timeout(deadline, timer, sending, slot).await;
        if let Err(error) = &answered {
            if error.resendable() > Resend::Never {
                self.pool().unshare(&shared);
            }
            *slot = slot.take().map(|request| restore(request, host)).or(spare);
        }
        answered
    }

    /// HTTP/2 carries the scheme and the authority in the target.
    pub(super) fn address(&self, request: &mut Request<Body>) {
        *request.version_mut() = Version::HTTP_2;
        // What an origin says before its answer is not heard over HTTP/2.
        request.headers_mut().remove(header::EXPECT);
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

/// Sends a request that asks to switch protocols, by way of hyper, which hands
/// the stream out once both sides agree. The connection is driven by a task of
/// its own, and not used again.
async fn switch(
    http1: Http1,
    slot: &mut Option<Request<Body>>,
    deadline: Duration,
) -> Result<Response<Incoming>, Error> {
    let io = TokioIo::new(http1.into_stream());
    let (mut sender, connection) =
        http1::Builder::new().max_buf_size(64 * 1024).handshake(io).await.map_err(classify)?;
    tokio::spawn(connection.with_upgrades());
    let Some(mut request) = slot.take() else { return Err(no_request()) };
    let upload = Upload::watch(&mut request);
    let spare = spare(&request);
    *request.version_mut() = Version::HTTP_11;
    frame(&mut request);
    let sending = sender.try_send_request(request);
    let timer = std::pin::pin!(tokio::time::sleep(deadline));
    let answered = upload.or_timeout(deadline, timer, sending, slot).await;
    if answered.is_err() {
        *slot = slot.take().map(|request| restore(request, None)).or(spare);
    }
    answered
}

/// A copy of a request without a body, for sending it again: hyper keeps what it
/// has begun to send.
fn spare(request: &Request<Body>) -> Option<Request<Body>> {
    request.body().is_end_stream().then(|| {
        let mut spare = Request::new(Body::empty());
        *spare.method_mut() = request.method().clone();
        *spare.uri_mut() = request.uri().clone();
        *spare.version_mut() = request.version();
        *spare.headers_mut() = request.headers().clone();
        spare
    })
}

/// Says that a body of unknown length follows: for methods that seldom have one,
/// such as GET, hyper would otherwise leave it out without a word.
fn frame(request: &mut Request<Body>) {
    let unknown =
        !request.body().is_end_stream() && !request.headers().contains_key(header::CONTENT_LENGTH);
    if unknown {
        let chunked = HeaderValue::from_static("chunked");
        request.headers_mut().insert(header::TRANSFER_ENCODING, chunked);
    }
}

/// Makes a request that came back fit for any connection again: its target in
/// origin form, and its host where it was.
fn restore(mut request: Request<Body>, host: Option<HeaderValue>) -> Request<Body> {
    let headers = request.headers_mut();
    headers.remove(header::TRANSFER_ENCODING);
    if let Some(host) = host {
        headers.insert(header::HOST, host);
    }
    let path = std::mem::take(request.uri_mut()).into_parts().path_and_query;
    *request.uri_mut() = path.map_or_else(|| Uri::from_static("/"), Uri::from);
    request
}
