//! HTTP on one connection from a client: hyper, held to its limits.

mod http1;
mod http2;
mod io;
mod pulse;
mod settings;
mod validate;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Request, Response, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use parking_lot::Mutex;
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite};
use tower::Service;

pub use settings::{H2Settings, ServeSettings};
pub use validate::{Validate, ValidateLayer};

use crate::body::Body;
use crate::context::Downstream;
use crate::drain;
use crate::layers::Ask;
use io::Noted;
use pulse::{Beat, Expired, FAREWELL, Pulse, Watch};

/// How long a drain waits for the first byte of a connection that has just
/// been made.
const FIRST_BYTE: Duration = Duration::from_millis(500);

/// Which version of HTTP a connection speaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Speaks {
    /// HTTP/1.
    Http1,
    /// HTTP/2.
    Http2,
    /// To be told from the first bytes, as far as the listener allows both.
    Either,
}

/// A service that answers the requests of a connection.
pub trait Answers:
    Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
    + Clone
    + Send
    + 'static
{
}

impl<S> Answers for S where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static
{
}

/// Serves one connection until it ends, expires or is drained. The future is
/// boxed: who awaits it after a handshake has room for the larger of the two.
pub fn connection<IO, S>(
    io: IO,
    speaks: Speaks,
    downstream: Arc<Downstream>,
    settings: Arc<ServeSettings>,
    service: S,
    drain: drain::Watcher,
) -> Pin<Box<impl Future<Output = ()> + Send>>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Answers,
{
    Box::pin(async move {
        let pulse = Pulse::new(&settings);
        let mut io = Noted::new(io, pulse.clone());
        let http2 = match speaks {
            Speaks::Http1 => false,
            Speaks::Http2 => true,
            Speaks::Either if !(settings.http1 && settings.http2) => settings.http2,
            Speaks::Either => {
                let told = tokio::time::timeout(settings.request_head_timeout, io.speaks_http2());
                let told = tokio::select! {
                    // What has come already is answered, drain or not.
                    biased;
                    told = told => told,
                    () = async {
                        drain.draining().await;
                        tokio::time::sleep(FIRST_BYTE).await;
                    } => return,
                };
                match told {
                    Ok(Ok(http2)) => http2,
                    Ok(Err(_)) | Err(_) => return,
                }
            }
        };
        let service = Mutex::new(service);
        let service = PerConnection { service, downstream, pulse: pulse.clone() };
        let mut watch = Watch::new(&pulse, &settings, http2);
        if http2 {
            http2::serve(io, service, &settings, &mut watch, &drain).await;
        } else {
            http1::serve(io, service, &settings, &mut watch, &drain).await;
        }
    })
}

/// Polls a connection beside its watch and the drain, until it has ended, or
/// may be parked: then it returns true.
async fn run<C>(
    mut connection: Pin<&mut C>,
    graceful_shutdown: fn(Pin<&mut C>),
    watch: &mut Watch<'_>,
    drain: &drain::Watcher,
) -> bool
where
    C: Future<Output = hyper::Result<()>>,
{
    let mut ending = false;
    loop {
        // The watch comes after the connection: it looks at what that noted.
        tokio::select! {
            biased;
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended");
                }
                return false;
            }
            () = drain.cut() => return false,
            () = drain.draining(), if !ending => {
                ending = true;
                watch.ending();
                graceful_shutdown(connection.as_mut());
            }
            expired = watch.expired() => {
                if expired == Expired::Quiet {
                    return true;
                }
                tracing::debug!(?expired, "a connection expired");
                match expired {
                    // A request that comes in this moment is still answered.
                    Expired::Idle if !ending => {
                        ending = true;
                        watch.ending();
                        graceful_shutdown(connection.as_mut());
                    }
                    Expired::Stalled => break,
                    Expired::Quiet
                    | Expired::Idle
                    | Expired::Head
                    | Expired::Send
                    | Expired::Farewell => return false,
                }
            }
        }
    }
    // No single stream can be reset from here. The client's other exchanges
    // have a little time left.
    graceful_shutdown(connection.as_mut());
    tokio::select! {
        _ended = tokio::time::timeout(FAREWELL, connection) => {}
        () = drain.cut() => {}
    }
    false
}

/// Answers the requests of one connection.
#[derive(Debug)]
struct PerConnection<S> {
    /// Never waited for: one task asks.
    service: Mutex<S>,
    downstream: Arc<Downstream>,
    pulse: Pulse,
}

impl<S: Answers> hyper::service::Service<Request<Incoming>> for PerConnection<S> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering<Ask<S, Request<Body>>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let beat = self.pulse.begin();
        let mut request = request.map(Body::from);
        if request.version() < Version::HTTP_2 {
            if request.extensions().get::<OnUpgrade>().is_some() {
                // hyper gives the stream away when such a connection ends.
                self.pulse.never_park();
            }
            if !request.body().is_end_stream() {
                let upload = self.pulse.uploads();
                request = request.map(|body| body.with_guard(upload));
            }
        }
        request.extensions_mut().insert(self.downstream.clone());
        let answer = Ask::new(&mut *self.service.lock(), request);
        Answering { answer, beat: Some(beat) }
    }
}

pin_project! {
    /// A response on its way; the exchange lasts until its body's end.
    #[derive(Debug)]
    struct Answering<F> {
        #[pin]
        answer: F,
        beat: Option<Beat>,
    }
}

impl<F> Future for Answering<F>
where
    F: Future<Output = Result<Response<Body>, Infallible>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Ok(response) = ready!(this.answer.poll(cx));
        let Some(mut beat) = this.beat.take() else { return Poll::Ready(Ok(response)) };
        beat.owed();
        Poll::Ready(Ok(response.map(|body| body.with_guard(beat))))
    }
}

#[cfg(test)]
mod tests;
