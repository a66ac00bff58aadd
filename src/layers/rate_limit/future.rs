//! The way of a request through the limits, and of its response back.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use pin_project_lite::pin_project;
use tower::Service;

use super::RateLimitLayer;
use super::progress::{Progress, Step, Waiting};

pin_project! {
    /// A request on its way through the limits.
    pub struct RateLimitFuture<S, B, ResB>
    where
        S: Service<Request<B>>,
    {
        #[pin]
        state: State<S::Future, S, B, ResB>,
    }
}

pin_project! {
    #[project = Projected]
    enum State<F, S, B, ResB> {
        Rejected { response: Option<Response<ResB>> },
        Forwarded { #[pin] future: F, progress: Progress },
        Waiting { held: Option<Box<Held<S, B>>> },
    }
}

/// What waits with a request.
struct Held<S, B> {
    waiting: Waiting,
    service: S,
    request: Request<B>,
    limits: RateLimitLayer,
    progress: Progress,
}

impl<S, B, ResB> RateLimitFuture<S, B, ResB>
where
    S: Service<Request<B>>,
{
    pub(super) fn rejected(response: Response<ResB>) -> Self {
        Self { state: State::Rejected { response: Some(response) } }
    }

    pub(super) fn forwarded(future: S::Future, progress: Progress) -> Self {
        Self { state: State::Forwarded { future, progress } }
    }

    pub(super) fn waiting(
        waiting: Waiting,
        service: S,
        request: Request<B>,
        limits: RateLimitLayer,
        progress: Progress,
    ) -> Self {
        let held = Held { waiting, service, request, limits, progress };
        Self { state: State::Waiting { held: Some(Box::new(held)) } }
    }
}

impl<S, B, ResB> Future for RateLimitFuture<S, B, ResB>
where
    S: Service<Request<B>, Response = Response<ResB>>,
    ResB: From<Bytes>,
{
    type Output = Result<Response<ResB>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            match state.as_mut().project() {
                Projected::Rejected { response } => {
                    // Polled again after it was ready, which nobody may rely on.
                    return response.take().map_or(Poll::Pending, |done| Poll::Ready(Ok(done)));
                }
                Projected::Forwarded { future, progress } => {
                    let mut response = ready!(future.poll(cx))?;
                    progress.finish(response.headers_mut());
                    return Poll::Ready(Ok(response));
                }
                Projected::Waiting { held } => {
                    let Some(waits) = held.as_mut() else { return Poll::Pending };
                    let decision = ready!(waits.waiting.deciding.as_mut().poll(cx));
                    let Some(done) = held.take() else { return Poll::Pending };
                    let Held { waiting, mut service, request, limits, mut progress } = *done;
                    let step = progress.go_on_after(decision, waiting.asked, &limits, &request);
                    state.set(match step {
                        Step::Pass => State::Forwarded { future: service.call(request), progress },
                        Step::Refuse(refused) => {
                            State::Rejected { response: Some(refused.render(&request)) }
                        }
                        Step::Wait(waiting) => {
                            let held = Held { waiting, service, request, limits, progress };
                            State::Waiting { held: Some(Box::new(held)) }
                        }
                    });
                }
            }
        }
    }
}

impl<S, B, ResB> fmt::Debug for RateLimitFuture<S, B, ResB>
where
    S: Service<Request<B>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimitFuture").finish_non_exhaustive()
    }
}
