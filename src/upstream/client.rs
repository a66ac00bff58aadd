//! Sending one request to one origin over a pooled connection.
//!
//! The connection goes back to the pool when the response body has been read
//! to its end and hyper says that the next request may be written, never
//! before: one broken off, or one whose request body is still on its way, is
//! closed.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Request, Response, Uri, Version, header};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::connect::Dialled;
use super::origin::Origin;
use super::pool::Http2;
use crate::body::{Body, End, Guard};
use crate::error::{Error, Kind, Resend, Side, cause_of};

/// Flow-control windows towards HTTP/2 origins: a slow reader downstream must
/// not stall its neighbours on the shared connection.
const H2_STREAM_WINDOW: u32 = 256 * 1024;
const H2_CONNECTION_WINDOW: u32 = 16 * H2_STREAM_WINDOW;

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
    /// The request, if it came back: not one byte of it was written.
    pub request: Option<Request<Body>>,
    /// Whether the connection came from the pool: it may have been dead.
    pub reused: bool,
    /// Time spent connecting.
    pub connect: Option<Duration>,
}

/// A connection that may carry a request now.
enum Lease {
    Http1(http1::SendRequest<Body>),
    Http2(Http2),
}

impl Origin {
    /// Sends `request`, whose URI is in origin form, and waits for the head of
    /// the response. `fresh` asks for a connection that is newer than the one
    /// that has just failed.
    ///
    /// # Errors
    ///
    /// No connection could be made, or it failed before a response came.
    pub async fn send(
        self: &Arc<Self>,
        request: Request<Body>,
        fresh: bool,
    ) -> Result<Sent, Failure> {
        let http1 = request.headers().contains_key(header::UPGRADE);
        if http1 && self.speaks_only_http2() {
            let error = Error::new(Kind::UpgradeFailed)
                .detail("the origin is spoken to in HTTP/2, which does not switch protocols");
            return Err(Failure { error, request: None, reused: false, connect: None });
        }
        let (lease, connect) = match self.pooled(fresh, http1) {
            Some(lease) => (lease, None),
            None => match self.dial(http1).await {
                Ok(dialled) => dialled,
                Err((error, connect)) => {
                    let request = Some(request);
                    return Err(Failure { error, request, reused: false, connect });
                }
            },
        };
        let reused = connect.is_none();
        let host = request.headers().get(header::HOST).cloned();
        match self.exchange(lease, request).await {
            Ok(response) => Ok(Sent { response, connect }),
            Err((error, request)) => {
                let request = request.map(|request| restore(request, host));
                Err(Failure { error, request, reused, connect })
            }
        }
    }

    fn pooled(&self, fresh: bool, http1: bool) -> Option<Lease> {
        // One that failed is no longer shared, so whichever is, is newer.
        let shared = if http1 { None } else { self.pool().shared() };
        let idle = || if fresh { None } else { self.pool().take() };
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
        if !http1 && let Some(shared) = self.pool().shared() {
            return Ok((Lease::Http2(shared), None));
        }
        let lease = match self.connector().dial(http1, deadline).await {
            Ok(dialled) => tokio::time::timeout_at(deadline, self.handshake(dialled))
                .await
                .unwrap_or_else(|_| Err(self.connector().too_late())),
            Err(error) => Err(error),
        };
        self.metrics().origin_connected(self.upstream(), self.shared_name(), lease.is_ok());
        let took = Some(started.elapsed());
        match lease {
            Ok(lease) => Ok((lease, took)),
            Err(error) => Err((error, took)),
        }
    }

    async fn handshake(&self, dialled: Dialled) -> Result<Lease, Error> {
        let io = TokioIo::new(dialled.stream);
        let failed = |error: hyper::Error| {
            Error::new(Kind::ConnectionTerminated)
                .detail("the HTTP handshake failed")
                .because(error)
                .resend(Resend::Safe)
        };
        if dialled.http2 {
            let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .initial_stream_window_size(H2_STREAM_WINDOW)
                .initial_connection_window_size(H2_CONNECTION_WINDOW)
                .keep_alive_interval(Duration::from_secs(30))
                .keep_alive_timeout(Duration::from_secs(10))
                .handshake(io)
                .await
                .map_err(failed)?;
            tokio::spawn(connection);
            return Ok(Lease::Http2(self.pool().share(sender)));
        }
        let (sender, connection) =
            http1::Builder::new().max_buf_size(64 * 1024).handshake(io).await.map_err(failed)?;
        tokio::spawn(connection.with_upgrades());
        Ok(Lease::Http1(sender))
    }

    async fn exchange(
        self: &Arc<Self>,
        lease: Lease,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, (Error, Option<Request<Body>>)> {
        let upload = Upload::watch(&mut request);
        let deadline = self.timeouts().response_head;
        match lease {
            Lease::Http1(mut sender) => {
                *request.version_mut() = Version::HTTP_11;
                frame(&mut request);
                let sending = sender.try_send_request(request);
                let response = upload.or_timeout(deadline, sending).await?;
                let back = Return { origin: self.clone(), sender: Some(sender) };
                Ok(response.map(|body| self.guarded(body).with_guard(back)))
            }
            Lease::Http2(mut shared) => {
                if let Err(error) = shared.sender.ready().await {
                    self.pool().unshare(&shared);
                    let error = classify(error).resend(Resend::Safe);
                    return Err((error, Some(request)));
                }
                self.address(&mut request);
                let sending = shared.sender.try_send_request(request);
                match upload.or_timeout(deadline, sending).await {
                    Ok(response) => Ok(response.map(|body| self.guarded(body))),
                    Err(failed) => {
                        if failed.0.resendable() > Resend::Never {
                            self.pool().unshare(&shared);
                        }
                        Err(failed)
                    }
                }
            }
        }
    }

    /// HTTP/2 carries the scheme and the authority in the target.
    pub(super) fn address(&self, request: &mut Request<Body>) {
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

    fn guarded(&self, body: Incoming) -> Body {
        Body::from(body).with_idle_timeout(self.timeouts().idle_body, Kind::ResponseBodyTimeout)
    }
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

/// Gives an HTTP/1.1 connection back to the pool at the end of the response.
struct Return {
    origin: Arc<Origin>,
    sender: Option<http1::SendRequest<Body>>,
}

impl Guard for Return {
    fn end(&mut self, end: End) {
        let Some(mut sender) = self.sender.take() else { return };
        if end != End::Complete || sender.is_closed() {
            return;
        }
        if sender.is_ready() {
            self.origin.pool().put(sender);
            return;
        }
        // The connection's task has yet to see the end of the message, or the
        // request's body is still on its way.
        let origin = self.origin.clone();
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            let patience = origin.timeouts().idle_body;
            if let Ok(Ok(())) = tokio::time::timeout(patience, sender.ready()).await {
                origin.pool().put(sender);
            }
        });
    }
}

/// How far the request's body is, so that the wait for the response is counted
/// from its end.
#[derive(Clone)]
struct Upload(Option<Arc<Mutex<Progress>>>);

struct Progress {
    /// When the body last moved.
    last: Instant,
    /// Whether it is the client that is waited for.
    waiting: bool,
    /// Why it ended before it was whole.
    failed: Option<Kind>,
}

impl Progress {
    fn now(waiting: bool) -> Self {
        Self { last: Instant::now(), waiting, failed: None }
    }
}

impl Upload {
    fn watch(request: &mut Request<Body>) -> Self {
        if request.body().is_end_stream() {
            return Self(None);
        }
        let progress = Arc::new(Mutex::new(Progress::now(false)));
        let body = std::mem::take(request.body_mut());
        *request.body_mut() = body.with_guard(Meter(progress.clone()));
        Self(Some(progress))
    }

    /// The response, or why there is none; with the request if it came back.
    async fn or_timeout<R>(
        &self,
        deadline: Duration,
        sending: impl Future<Output = Result<Response<Incoming>, TrySendError<R>>>,
    ) -> Result<Response<Incoming>, (Error, Option<R>)> {
        let mut sending = std::pin::pin!(sending);
        let mut due = Instant::now() + deadline;
        loop {
            match tokio::time::timeout_at(due, &mut sending).await {
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(mut error)) => {
                    if let Some(kind) = self.failed() {
                        // Over HTTP/2 the cause is lost in the stream's reset.
                        return Err((Error::new(kind).because(error.into_error()), None));
                    }
                    let request = error.take_message();
                    let resend =
                        if request.is_some() { Resend::Safe } else { Resend::IfIdempotent };
                    let error = classify(error.into_error());
                    // A fault of the client's is not mended by asking again, and
                    // an origin that answers nonsense has taken the request.
                    let resend = match (error.side(), error.kind()) {
                        (Side::Upstream, kind) if kind != Kind::ResponseInvalid => {
                            resend.max(error.resendable())
                        }
                        _ => Resend::Never,
                    };
                    return Err((error.resend(resend), request));
                }
                Err(_) => match self.extended(due, deadline) {
                    Some(later) => due = later,
                    None => {
                        let detail = format!("no response head within {deadline:?}");
                        return Err((Error::new(Kind::ResponseTimeout).detail(detail), None));
                    }
                },
            }
        }
    }

    /// Why the request's body was not whole.
    fn failed(&self) -> Option<Kind> {
        self.0.as_ref()?.lock().failed
    }

    /// Whether there is a reason to wait for the response past `due`.
    fn extended(&self, due: Instant, deadline: Duration) -> Option<Instant> {
        let progress = self.0.as_ref()?.lock();
        if progress.waiting {
            // The client is slow, not the origin; how slow it may be is for
            // the request body's own timeout to say.
            return Some(Instant::now() + deadline);
        }
        let later = progress.last + deadline;
        (later > due).then_some(later)
    }
}

struct Meter(Arc<Mutex<Progress>>);

impl Meter {
    fn moved(&self, waiting: bool) {
        *self.0.lock() = Progress::now(waiting);
    }
}

impl Guard for Meter {
    fn data(&mut self, _bytes: usize) {
        self.moved(false);
    }

    fn waiting(&mut self) {
        self.0.lock().waiting = true;
    }

    fn end(&mut self, end: End) {
        let failed = match end {
            // A client that breaks off leaves an error that is not ours.
            End::Failed(kind) if kind.side() == Side::Downstream => Some(kind),
            End::Failed(_) => Some(Kind::RequestBodyAborted),
            End::Complete | End::Dropped => None,
        };
        *self.0.lock() = Progress { failed, ..Progress::now(false) };
    }
}

/// Says what an error of hyper's client means for the exchange.
fn classify(error: hyper::Error) -> Error {
    if let Some(ours) = cause_of::<Error>(&error) {
        return Error::new(ours.kind()).because(error);
    }
    if error.is_user() {
        return Error::new(Kind::RequestBodyAborted).because(error);
    }
    if error.is_parse() {
        return Error::new(Kind::ResponseInvalid).because(error);
    }
    // RFC 9113 §8.7: neither a refused stream nor one past the last that a
    // polite GOAWAY names has been looked at.
    let refused = cause_of::<h2::Error>(&error).is_some_and(|error| match error.reason() {
        Some(h2::Reason::REFUSED_STREAM) => true,
        Some(h2::Reason::NO_ERROR) => error.is_go_away() && error.is_remote(),
        _ => false,
    });
    let resend = if refused { Resend::Safe } else { Resend::Never };
    Error::new(Kind::ConnectionTerminated).because(error).resend(resend)
}
