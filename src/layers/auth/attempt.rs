//! A judgement that is waited for, and what becomes of it if nobody waits any more.

use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::authenticate::Verdict;
use super::failures::FailureCount;

/// Waits for a verdict. If it is given up, the judgement goes on by itself where it counts:
/// whoever asks and goes away has had the work done all the same, and would otherwise guess
/// for nothing.
pub(super) struct Attempt {
    /// Until there is a verdict.
    pub(super) judging: Option<Pin<Box<dyn Future<Output = Verdict> + Send>>>,
    /// Who has failed if the credentials turn out to be wrong.
    pub(super) note: Option<(FailureCount, IpAddr)>,
}

/// Counts a guess if it is dropped before it is cleared: the request has gone away, or come to
/// nothing, after its credentials were found wrong.
#[derive(Default)]
pub(super) struct Guess {
    /// Whose it is.
    pub(super) note: Option<(FailureCount, IpAddr)>,
}

impl Guess {
    /// It is counted elsewhere.
    pub(super) fn clear(&mut self) {
        self.note = None;
    }
}

impl Drop for Guess {
    fn drop(&mut self) {
        if let Some((failures, client)) = self.note.take() {
            failures.note(client);
        }
    }
}

impl Future for Attempt {
    type Output = Verdict;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Verdict> {
        // Polled again after it was ready, which nobody may rely on.
        let Some(judging) = &mut self.judging else { return Poll::Pending };
        let verdict = judging.as_mut().poll(cx);
        if verdict.is_ready() {
            self.judging = None;
        }
        verdict
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let (Some(judging), Some((failures, client))) = (self.judging.take(), self.note.take())
        else {
            return;
        };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if judging.await.is_failure() {
                    failures.note(client);
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pace::Quota;
    use std::num::NonZeroU32;
    use std::time::Duration;

    fn attempt(verdict: Verdict, failures: &FailureCount) -> Attempt {
        let judging = async move {
            tokio::task::yield_now().await;
            verdict
        };
        let note = Some((failures.clone(), "192.0.2.1".parse().unwrap()));
        Attempt { judging: Some(Box::pin(judging)), note }
    }

    #[tokio::test]
    async fn who_goes_away_has_failed_if_the_guess_was_wrong_and_only_then() {
        let client = "192.0.2.1".parse().unwrap();
        let one = FailureCount::new(Quota::new(NonZeroU32::MIN, Duration::from_secs(60)));
        drop(attempt(Verdict::Absent, &one));
        let verdict = attempt(Verdict::Refused("auth_invalid"), &one).await;
        assert!(matches!(verdict, Verdict::Refused(_)));
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert_eq!(one.shut_out_for(client), None);
        drop(attempt(Verdict::Refused("auth_invalid"), &one));
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert!(one.shut_out_for(client).is_some());
    }
}
