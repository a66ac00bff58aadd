//! HTTP/2 on one connection: hyper and h2, held to their limits and to ours.

mod allowance;
mod frame_watch;
mod frames;
#[cfg(fuzzing)]
pub(crate) mod fuzz;
pub(super) mod request;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::header;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::server::conn::http2::{Builder, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite};

use super::io::Noted;
use super::pulse::{Beat, Lying, Pulse, Watch};
use super::{Answers, ServeSettings, Served, has_no_body, run};
use crate::body::Body;
use crate::context::{Downstream, Exchange};
use crate::drain;
use crate::layers::Ask;
use crate::switch::OnSwitch;
use frame_watch::FrameWatch;

/// Serves HTTP/2 until the connection ends, expires or is drained.
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
    let io = FrameWatch::new(io, &settings.h2, pulse.clone());
    let (service, downstream) = (Mutex::new(service), Arc::new(downstream));
    let service = PerConnection { service, downstream, pulse };
    // Boxed, so that a connection of another version has no room for it.
    let mut connection = Box::pin(builder(settings).serve_connection(TokioIo::new(io), service));
    run(connection.as_mut(), watch, drain).await;
}

impl<IO, S> Served for Connection<TokioIo<IO>, PerConnection<S>, TokioExecutor>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Answers,
{
    type Failed = hyper::Error;

    fn end(self: Pin<&mut Self>, _patience: Duration) {
        self.graceful_shutdown();
    }
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
    if h2.extended_connect {
        builder.enable_connect_protocol();
    }
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
        let head = *request.method() == Method::HEAD;
        let mut request = request.map(Body::of_stream);
        if *request.method() == Method::CONNECT
            && let Some(on_switch) = OnSwitch::take(request.extensions_mut())
        {
            // The exchange lasts as long as its tunnel does.
            let pulse = self.pulse.clone();
            let on_switch =
                on_switch.holding(self.pulse.begin()).telling(move |bytes| pulse.earn(bytes));
            request.extensions_mut().insert(on_switch);
        }
        request.extensions_mut().insert(self.downstream.clone());
        let answer = Ask::new(&mut *self.service.lock(), request);
        Answering { answer, head, beat: Some(beat) }
    }
}

pin_project! {
    /// A response on its way; the exchange lasts until its body's end.
    #[derive(Debug)]
    struct Answering<F> {
        #[pin]
        answer: F,
        // Whether HEAD is what it answers.
        head: bool,
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
        if has_no_body(response.status(), *this.head) {
            response = bodiless(response);
        }
        Poll::Ready(Ok(response.map(|body| body.with_guard(lying))))
    }
}

/// Takes the body from a response that must not have one: hyper would send it. What its
/// length would have been may be said, but not where there never is any (RFC 9110 §8.6).
fn bodiless(mut response: Response<Body>) -> Response<Body> {
    let status = response.status();
    let size = response.body().size_hint().exact().filter(|size| *size > 0);
    let headers = response.headers_mut();
    if status == StatusCode::NO_CONTENT {
        headers.remove(header::CONTENT_LENGTH);
    } else if let Some(size) = size
        && status != StatusCode::NOT_MODIFIED
        && !headers.contains_key(header::CONTENT_LENGTH)
    {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(size));
    }
    response.map(Body::emptied)
}
