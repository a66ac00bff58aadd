//! What is decided about a request, and by what.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// Whether a request may pass, and how it stands with its key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Decision {
    /// Whether it may pass.
    pub admitted: bool,
    /// How many more would pass now.
    pub remaining: u32,
    /// After how long it would pass; zero if it does.
    pub wait: Duration,
    /// After how long as many would pass as ever do at once.
    pub reset: Duration,
    /// What decided.
    pub by: DecidedBy,
}

/// What has decided about a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DecidedBy {
    /// Redis was asked for it.
    Redis,
    /// Something was left of what had been taken ahead.
    Lease,
    /// Redis said earlier that nothing passes until later than now.
    Remembered,
    /// Redis has not answered, and requests pass then ([`OnFailure::Open`]).
    ///
    /// [`OnFailure::Open`]: super::OnFailure::Open
    FailedOpen,
    /// Redis has not answered, and requests are turned away then ([`OnFailure::Closed`]):
    /// as what cannot be served now, for the client has done nothing wrong.
    ///
    /// [`OnFailure::Closed`]: super::OnFailure::Closed
    FailedClosed,
    /// Redis has not answered, and this instance has counted by itself
    /// ([`OnFailure::Local`]).
    ///
    /// [`OnFailure::Local`]: super::OnFailure::Local
    Local,
}

/// A decision, now or in a moment.
#[derive(Debug)]
pub enum Checked {
    /// It is known.
    Now(Decision),
    /// Redis is asked; in [`SharedSettings::deadline`] at the latest it is decided.
    ///
    /// [`SharedSettings::deadline`]: super::SharedSettings::deadline
    Later(Deciding),
}

/// A decision that waits for Redis. Whoever drops it has not asked.
pub struct Deciding(Pin<Box<dyn Future<Output = Decision> + Send>>);

impl Deciding {
    pub(super) fn new(decides: impl Future<Output = Decision> + Send + 'static) -> Self {
        Self(Box::pin(decides))
    }
}

impl Checked {
    /// Waits for the decision, if it has to be waited for.
    pub async fn decided(self) -> Decision {
        match self {
            Self::Now(decision) => decision,
            Self::Later(deciding) => deciding.await,
        }
    }
}

impl Future for Deciding {
    type Output = Decision;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Decision> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for Deciding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Deciding")
    }
}
