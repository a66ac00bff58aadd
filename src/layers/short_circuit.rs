//! The future of every layer that answers or passes on.

use std::pin::Pin;
use std::task::{Context, Poll};

use http::Response;
use pin_project_lite::pin_project;

pin_project! {
    /// Either a response that is ready, or the inner service's future.
    #[derive(Debug)]
    pub struct ShortCircuit<F, B> {
        #[pin]
        state: State<F, B>,
    }
}

pin_project! {
    #[derive(Debug)]
    #[project = Projected]
    enum State<F, B> {
        Rejected { response: Option<Response<B>> },
        Forwarded { #[pin] future: F },
    }
}

impl<F, B> ShortCircuit<F, B> {
    /// Answers with `response`.
    pub fn rejected(response: Response<B>) -> Self {
        Self { state: State::Rejected { response: Some(response) } }
    }

    /// Waits for the inner service.
    pub fn forwarded(future: F) -> Self {
        Self { state: State::Forwarded { future } }
    }
}

impl<F, B, E> Future for ShortCircuit<F, B>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            Projected::Rejected { response } => match response.take() {
                Some(response) => Poll::Ready(Ok(response)),
                // Polled again after it was ready, which nobody may rely on.
                None => Poll::Pending,
            },
            Projected::Forwarded { future } => future.poll(cx),
        }
    }
}
