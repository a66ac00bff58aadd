//! HTTP/1 on one connection.
//!
//! hyper keeps a buffer to read into, one to write from and the room for an
//! exchange for as long as a connection lives, some 30 KiB, although between
//! two requests there is nothing in them. So a quiet connection is parked: hyper
//! is taken apart, and only the stream and the service are kept. The next byte
//! brings hyper back, and so does everything else that it may have to answer.
//!
//! That hyper is between two messages is proved twice. By the notes: every
//! exchange is over, its response was taken, its request's body was read to the
//! end, and nothing came after it. And by hyper itself: told to shut down, it is
//! done at once only if it has nothing under way.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use hyper::server::conn::http1::{Builder, UpgradeableConnection};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::io::Noted;
use super::pulse::Watch;
use super::{Answers, PerConnection, ServeSettings, run};
use crate::drain;

type Connection<IO, S> = UpgradeableConnection<TokioIo<Noted<IO>>, PerConnection<S>>;

/// Serves HTTP/1 until the connection ends, expires or is drained.
pub(super) async fn serve<IO, S>(
    mut io: Noted<IO>,
    mut service: PerConnection<S>,
    settings: &ServeSettings,
    watch: &mut Watch<'_>,
    drain: &drain::Watcher,
) where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Answers,
{
    while let Wake::Up = parked(&mut io, watch, drain).await {
        service.pulse.park(false);
        let connection = builder(settings).serve_connection(TokioIo::new(io), service);
        let mut connection = Box::new(connection.with_upgrades());
        loop {
            let end = UpgradeableConnection::graceful_shutdown;
            if !run(Pin::new(&mut *connection), end, watch, drain).await {
                return;
            }
            match told_to_go(&mut connection, watch).await {
                Poll::Ready(Ok(())) => break,
                Poll::Ready(Err(error)) => {
                    tracing::debug!(%error, "a connection ended");
                    return;
                }
                // Not what the notes say. It has been told to end, then.
                Poll::Pending => watch.ending(),
            }
        }
        let Some(parts) = connection.into_parts() else { return };
        (io, service) = (parts.io.into_inner(), parts.service);
        io.give_back(&parts.read_buf);
    }
}

enum Wake {
    Up,
    /// There is nothing left to wake up for.
    Never,
}

/// Waits without hyper until there is something for it.
async fn parked<IO>(io: &mut Noted<IO>, watch: &mut Watch<'_>, drain: &drain::Watcher) -> Wake
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    tokio::select! {
        biased;
        readable = io.readable() => match readable {
            Ok(()) => Wake::Up,
            Err(error) => {
                tracing::debug!(%error, "an idle connection ended");
                Wake::Never
            }
        },
        () = drain.cut() => Wake::Never,
        // hyper knows how to take leave.
        () = drain.draining() => Wake::Up,
        _expired = watch.expired() => {
            watch.never_park();
            Wake::Up
        }
    }
}

/// Whether hyper lets go of the connection at once, without touching the stream.
async fn told_to_go<IO, S>(
    connection: &mut Connection<IO, S>,
    watch: &Watch<'_>,
) -> Poll<hyper::Result<()>>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Answers,
{
    watch.park(true);
    let mut connection = Pin::new(connection);
    connection.as_mut().graceful_shutdown();
    let polled = poll_fn(|cx| Poll::Ready(connection.as_mut().poll(cx))).await;
    if polled.is_pending() {
        watch.park(false);
    }
    polled
}

fn builder(settings: &ServeSettings) -> Builder {
    let mut builder = Builder::new();
    builder
        // The watch counts the head's time, without the pause before it.
        .header_read_timeout(None)
        .max_buf_size(settings.max_request_head.max(8 * 1024))
        .max_header_size(settings.max_request_head)
        .max_headers(settings.head.max_fields);
    builder
}

#[cfg(test)]
mod tests;
