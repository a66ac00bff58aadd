//! HTTP/1 on one connection.
//!
//! Between two requests there is nothing to be kept but the stream and the
//! service. So a connection that has been quiet for a moment is parked: its
//! buffers, and the room for an exchange, are given back until the next byte.

mod connection;
mod fault;
#[cfg(fuzzing)]
pub(crate) mod fuzz;
mod head;
mod response;
mod wire;

use std::future::poll_fn;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};

use self::connection::{Base, Connection};
use self::head::Limits;
use self::wire::{Shared, Wire};
use super::io::Noted;
use super::pulse::{Pulse, Watch};
use super::{Answers, Pause, ServeSettings, run};
use crate::context::{Downstream, Interim};
use crate::drain;

/// Serves HTTP/1 until the connection ends, expires or is drained.
pub(super) async fn serve<IO, S>(
    io: Noted<IO>,
    service: S,
    downstream: Downstream,
    settings: &ServeSettings,
    (pulse, watch): (Pulse, &mut Watch<'_>),
    drain: &drain::Watcher,
) where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Answers,
{
    let limits = Limits { head: settings.max_request_head, more: settings.head };
    let wire = Wire::new(io, downstream.budget.clone());
    let downstream = Arc::new(Downstream { interim: Some(Interim::default()), ..downstream });
    let mut base = Base { wire, service, downstream, pulse, limits };
    loop {
        match parked(&base.wire, watch, drain).await {
            Wake::Up => watch.park(false),
            // It is not to be parked again.
            Wake::Expired => {}
            Wake::Never => return,
        }
        let mut connection = Box::pin(Connection::new(&mut base));
        loop {
            match run(connection.as_mut(), watch, drain).await {
                Pause::Quiet if connection.is_quiet() => break,
                // Not for long: something is on its way.
                Pause::Quiet => watch.park(true),
                Pause::Over => return,
            }
        }
        watch.park(true);
        drop(connection);
        base.wire.lock().inbox.rest();
    }
}

enum Wake {
    Up,
    Expired,
    /// There is nothing left to wake up for.
    Never,
}

/// Waits without buffers until there is something to do.
async fn parked<IO>(wire: &Shared<IO>, watch: &mut Watch<'_>, drain: &drain::Watcher) -> Wake
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let readable = poll_fn(|cx| match &mut wire.lock().io {
        Some(io) => io.poll_readable(cx),
        None => std::task::Poll::Ready(Ok(())),
    });
    tokio::select! {
        biased;
        readable = readable => match readable {
            Ok(()) => Wake::Up,
            Err(error) => {
                tracing::debug!(%error, "an idle connection ended");
                Wake::Never
            }
        },
        () = drain.cut() => Wake::Never,
        // It is closed in all form.
        () = drain.draining() => Wake::Up,
        _expired = watch.expired() => Wake::Expired,
    }
}

#[cfg(test)]
mod tests;
