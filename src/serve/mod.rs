//! HTTP on one connection from a client, held to its limits: HTTP/1 by our own
//! hand, HTTP/2 by hyper's.

mod authority;
mod http1;
mod http2;
mod io;
mod memory;
mod options;
mod pulse;
mod settings;
mod target;
mod validate;

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tower::Service;

pub use settings::{H2Settings, ServeSettings};
pub use validate::{Validate, ValidateLayer};
#[cfg(fuzzing)]
pub(crate) use {http1::fuzz as http1_fuzz, http2::fuzz as http2_fuzz};

use crate::body::Body;
use crate::budget::Use;
use crate::context::Downstream;
use crate::drain;
use io::Noted;
use pulse::{Expired, FAREWELL, Pulse, Watch};

/// How long a drain waits for a request that may be on its way: the first of a
/// connection that has just been made, or the next of one that HTTP/1 gives no
/// means to tell before the last.
const ON_ITS_WAY: Duration = Duration::from_millis(500);

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
                        tokio::time::sleep(ON_ITS_WAY).await;
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
            let pulse = pulse.clone();
            http2::serve(io, service, downstream, &settings, (pulse, &mut watch), &drain).await;
        } else {
            let (pulse, watch) = (pulse.clone(), &mut watch);
            http1::serve(io, service, downstream, &settings, (pulse, watch), &drain).await;
        }
    })
}

/// Whether a response goes out without a body, whatever it was made with
/// (RFC 9110 §6.4.1): `head` says that it answers HEAD.
fn has_no_body(status: StatusCode, head: bool) -> bool {
    head || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// A connection that is served when it is polled.
trait Served: Future<Output = Result<(), Self::Failed>> {
    type Failed: fmt::Display;

    /// Answers what is under way, and nothing that comes after that. One that has
    /// nothing under way waits for so long, if it cannot tell its client first.
    fn end(self: Pin<&mut Self>, patience: Duration);

    /// Answers that a request's head took too long; false if none has begun.
    fn late(self: Pin<&mut Self>) -> bool {
        false
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
                connection.as_mut().end(ON_ITS_WAY);
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
                        connection.as_mut().end(Duration::ZERO);
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
    connection.as_mut().end(Duration::ZERO);
    tokio::select! {
        _ended = tokio::time::timeout(FAREWELL, connection) => {}
        () = drain.cut() => {}
    }
    Pause::Over
}

#[cfg(test)]
mod tests;
