//! The request's body on its way to the origin, and the wait for the answer.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::{Request, Response};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep};

use crate::body::{Body, End, Guard};
use crate::error::{Error, Kind, Resend, Side, cause_of};

/// How far the request's body is, so that the wait for the response is counted
/// from its end.
pub(super) struct Upload(Option<Arc<Mutex<Progress>>>);

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
    /// Watches the body of `request` from now on.
    pub(super) fn watch(request: &mut Request<Body>) -> Self {
        if request.body().is_end_stream() {
            return Self(None);
        }
        let progress = Arc::new(Mutex::new(Progress::now(false)));
        let body = std::mem::take(request.body_mut());
        *request.body_mut() = body.with_guard(Meter(progress.clone()));
        Self(Some(progress))
    }

    /// The response, or why there is none within `deadline` of the body's end. A
    /// request that comes back is put into `slot`.
    pub(super) async fn or_timeout(
        &self,
        deadline: Duration,
        mut timer: Pin<&mut Sleep>,
        sending: impl Future<Output = Result<Response<Incoming>, TrySendError<Request<Body>>>>,
        slot: &mut Option<Request<Body>>,
    ) -> Result<Response<Incoming>, Error> {
        let mut sending = std::pin::pin!(sending);
        timer.as_mut().reset(Instant::now() + deadline);
        let sent = std::future::poll_fn(|cx| {
            if let Poll::Ready(sent) = sending.as_mut().poll(cx) {
                return Poll::Ready(Some(sent));
            }
            while timer.as_mut().poll(cx).is_ready() {
                match self.extended(timer.deadline(), deadline) {
                    Some(later) => timer.as_mut().reset(later),
                    None => return Poll::Ready(None),
                }
            }
            Poll::Pending
        });
        match sent.await {
            Some(Ok(response)) => Ok(response),
            Some(Err(mut error)) => {
                *slot = error.take_message();
                Err(self.explained(error.into_error(), slot.is_some()))
            }
            None => {
                let detail = format!("no response head within {deadline:?}");
                Err(Error::new(Kind::ResponseTimeout).detail(detail))
            }
        }
    }

    fn explained(&self, error: hyper::Error, is_back: bool) -> Error {
        if let Some(kind) = self.failed() {
            return Error::new(kind).because(error);
        }
        let resend = if is_back { Resend::Safe } else { Resend::IfIdempotent };
        let error = classify(error);
        // A fault of the client's is not mended by asking again, and an origin
        // that answers nonsense has taken the request.
        let resend = match (error.side(), error.kind()) {
            (Side::Upstream, kind) if kind != Kind::ResponseInvalid => {
                resend.max(error.resendable())
            }
            _ => Resend::Never,
        };
        error.resend(resend)
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
pub(super) fn classify(error: hyper::Error) -> Error {
    if let Some(ours) = cause_of::<Error>(&error) {
        return Error::new(ours.kind()).because(error);
    }
    if error.is_user() {
        return Error::new(Kind::RequestBodyAborted).because(error);
    }
    if error.is_parse() {
        return Error::new(Kind::ResponseInvalid).because(error);
    }
    Error::new(Kind::ConnectionTerminated).because(error)
}
