//! Calling a service that is mostly ready at once.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use pin_project_lite::pin_project;
use tower::{Service, ServiceExt};

pin_project! {
    /// The answer of a service that was asked.
    ///
    /// tower's `Oneshot` keeps the request until the service is ready, and so is
    /// as large as a request. All services of this house are ready at any time;
    /// only one that is not is waited for in a box.
    pub struct Ask<S, R>
    where
        S: Service<R>,
    {
        #[pin]
        state: State<S::Future, Waiting<S, R>>,
    }
}

type Waiting<S, R> = Pin<
    Box<dyn Future<Output = Result<<S as Service<R>>::Response, <S as Service<R>>::Error>> + Send>,
>;

pin_project! {
    #[project = Projected]
    enum State<F, W> {
        Called { #[pin] future: F },
        Waiting { future: W },
    }
}

impl<S, R> Ask<S, R>
where
    S: Service<R>,
{
    /// Asks `service`, by way of a copy of it.
    pub fn new(service: &S, request: R) -> Self
    where
        S: Clone + Send + 'static,
        S::Future: Send,
        R: Send + 'static,
    {
        let mut service = service.clone();
        let state: State<S::Future, Waiting<S, R>> =
            match service.poll_ready(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Ok(())) => State::Called { future: service.call(request) },
                // One that is not ready, or never will be, says so once more.
                Poll::Ready(Err(_)) | Poll::Pending => {
                    State::Waiting { future: Box::pin(service.oneshot(request)) }
                }
            };
        Self { state }
    }
}

impl<S, R> Future for Ask<S, R>
where
    S: Service<R>,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            Projected::Called { future } => future.poll(cx),
            Projected::Waiting { future } => future.as_mut().poll(cx),
        }
    }
}

impl<S, R> std::fmt::Debug for Ask<S, R>
where
    S: Service<R>,
{
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ask")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use std::future::{Ready, ready};

    /// Is ready when it is asked for the second time.
    #[derive(Clone, Default)]
    struct Slow {
        asked: bool,
    }

    impl Service<&'static str> for Slow {
        type Response = &'static str;
        type Error = Infallible;
        type Future = Ready<Result<&'static str, Infallible>>;

        fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            if std::mem::replace(&mut self.asked, true) {
                return Poll::Ready(Ok(()));
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        }

        fn call(&mut self, request: &'static str) -> Self::Future {
            assert!(std::mem::take(&mut self.asked), "called before it was ready");
            ready(Ok(request))
        }
    }

    #[tokio::test]
    async fn a_service_that_is_not_ready_is_waited_for() {
        assert_eq!(Ask::new(&Slow::default(), "late").await, Ok("late"));
        assert_eq!(Ask::new(&Slow { asked: true }, "at once").await, Ok("at once"));
    }
}
