//! HTTP/2 on one connection: hyper and h2, held to their limits and to ours.

mod allowance;
mod frame_watch;
mod frames;
pub(super) mod request;

use hyper::server::conn::http2::{Builder, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::io::Noted;
use super::pulse::Watch;
use super::{Answers, PerConnection, ServeSettings, run};
use crate::drain;
use frame_watch::FrameWatch;

/// Serves HTTP/2 until the connection ends, expires or is drained.
pub(super) async fn serve<IO, S>(
    io: Noted<IO>,
    service: PerConnection<S>,
    settings: &ServeSettings,
    watch: &mut Watch<'_>,
    drain: &drain::Watcher,
) where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Answers,
{
    let io = FrameWatch::new(io, &settings.h2, service.pulse.clone());
    // Boxed, so that a connection of another version has no room for it.
    let mut connection = Box::pin(builder(settings).serve_connection(TokioIo::new(io), service));
    run(connection.as_mut(), Connection::graceful_shutdown, watch, drain).await;
}

fn builder(settings: &ServeSettings) -> Builder<TokioExecutor> {
    let h2 = &settings.h2;
    let max_request_head = u32::try_from(settings.max_request_head).unwrap_or(u32::MAX);
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(h2.max_concurrent_streams)
        .initial_stream_window_size(h2.stream_window)
        .initial_connection_window_size(h2.connection_window)
        .max_frame_size(h2.max_frame_size)
        .max_header_list_size(h2.max_header_list.unwrap_or(max_request_head))
        .max_send_buf_size(h2.send_buffer as usize)
        .max_pending_accept_reset_streams(h2.max_pending_resets)
        .max_local_error_reset_streams(h2.max_error_resets)
        .keep_alive_interval(h2.ping_interval)
        .keep_alive_timeout(h2.ping_timeout);
    builder
}
