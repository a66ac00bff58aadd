//! HTTP on one connection from a client, held to its limits: HTTP/1 by our own
//! hand, HTTP/2 by hyper's.

mod http1;
mod io;
mod memory;
mod pulse;
mod settings;
mod validate;

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite};
use tower::Service;

pub use settings::{H2Settings, ServeSettings};
pub use validate::{Validate, ValidateLayer};

use crate::body::Body;
use crate::budget::Use;
use crate::context::{Downstream, Exchange};
use crate::drain;
use crate::layers::Ask;
use io::Noted;
use pulse::{Beat, Expired, FAREWELL, Lying, Pulse, Watch};

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
    mut downstream: Downstream,
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
        let mut watch = Watch::new(&pulse, &settings, http2);
        downstream.buffers = memory::buffers(http2, downstream.tls.is_some(), &settings.h2);
        if http2 {
            let more = memory::http2_connection(downstream.tls.is_some());
            let Some(_charge) = downstream.budget.charge(more, Use::Connection) else {
                tracing::debug!("there is no memory for a connection of HTTP/2");
                return;
            };
            let (service, downstream) = (Mutex::new(service), Arc::new(downstream));
            let service = PerConnection { service, downstream, pulse: pulse.clone() };
            // Boxed, so that a connection of one version has no room for the other.
            let connection = h2_builder(&settings).serve_connection(TokioIo::new(io), service);
            run(Box::pin(connection).as_mut(), &mut watch, &drain).await;
        } else {
            let (pulse, watch) = (pulse.clone(), &mut watch);
            http1::serve(io, service, downstream, &settings, (pulse, watch), &drain).await;
        }
    })
}

/// A connection that is served when it is polled.
trait Served: Future<Output = Result<(), Self::Failed>> {
    type Failed: fmt::Display;

    /// Answers what is under way, and nothing that comes after that.
    fn end(self: Pin<&mut Self>);

    /// Answers that a request's head took too long; false if none has begun.
    fn late(self: Pin<&mut Self>) -> bool {
        false
    }
}

impl<IO, S> Served for http2::Connection<TokioIo<IO>, PerConnection<S>, TokioExecutor>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Answers,
{
    type Failed = hyper::Error;

    fn end(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// Why a connection is not polled any more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Pause {
    Over,
    /// Nothing happens at the moment: it may be parked.
    Quiet,
}

/// Polls a connection beside its watch and the drain, until it has ended, or
/// may be parked.
async fn run<C: Served>(
    mut connection: Pin<&mut C>,
    watch: &mut Watch<'_>,
    drain: &drain::Watcher,
) -> Pause {
    let mut ending = false;
    loop {
        // The watch comes after the connection: it looks at what that noted.
        tokio::select! {
            biased;
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended");
                }
                return Pause::Over;
            }
            () = drain.cut() => return Pause::Over,
            () = drain.draining(), if !ending => {
                ending = true;
                watch.ending();
                connection.as_mut().end();
            }
            expired = watch.expired() => {
                if expired == Expired::Quiet {
                    return Pause::Quiet;
                }
                tracing::debug!(?expired, "a connection expired");
                match expired {
                    // A request that comes in this moment is still answered.
                    Expired::Idle if !ending => {
                        ending = true;
                        watch.ending();
                        connection.as_mut().end();
                    }
                    Expired::Head if connection.as_mut().late() => {}
                    Expired::Stalled => break,
                    Expired::Quiet
                    | Expired::Idle
                    | Expired::Head
                    | Expired::Send
                    | Expired::Farewell => return Pause::Over,
                }
            }
        }
    }
    // No single stream can be reset from here. The client's other exchanges
    // have a little time left.
    connection.as_mut().end();
    tokio::select! {
        _ended = tokio::time::timeout(FAREWELL, connection) => {}
        () = drain.cut() => {}
    }
    Pause::Over
}

fn h2_builder(settings: &ServeSettings) -> http2::Builder<TokioExecutor> {
    let h2 = &settings.h2;
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(h2.max_concurrent_streams)
        .initial_stream_window_size(h2.stream_window)
        .initial_connection_window_size(h2.connection_window)
        .max_header_list_size(u32::try_from(settings.max_request_head).unwrap_or(u32::MAX))
        .max_send_buf_size(memory::send_buffer(h2))
        .keep_alive_interval(h2.ping_interval)
        .keep_alive_timeout(h2.ping_timeout);
    builder
}

/// Answers the requests of one connection of HTTP/2.
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
        let Ok(mut response) = ready!(this.answer.poll(cx));
        let Some(beat) = this.beat.take() else { return Poll::Ready(Ok(response)) };
        let exchange = response.extensions_mut().remove::<Exchange>();
        let lying = Lying::new(beat, exchange);
        Poll::Ready(Ok(response.map(|body| body.with_guard(lying))))
    }
}

#[cfg(test)]
mod tests;
