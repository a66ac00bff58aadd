//! Ending without dropping anything: a trigger, its watchers, a deadline.
//!
//! Whoever holds a [`Watcher`] learns that work should end, and counts as
//! unfinished until its [`Watcher::busy`] guard is dropped. The [`Trigger`]
//! waits for them until a deadline and then cuts.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// Starts the drain, and waits for it.
#[derive(Debug)]
pub struct Trigger {
    watcher: Watcher,
}

/// Learns of the drain. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Watcher {
    draining: Flag,
    cut: Flag,
    busy: TaskTracker,
}

/// Something that comes true once.
#[derive(Clone, Debug, Default)]
struct Flag {
    token: CancellationToken,
    /// True before the token is cancelled: whoever reads false will be woken.
    raised: Arc<AtomicBool>,
}

impl Flag {
    fn raise(&self) {
        self.raised.store(true, Ordering::Release);
        self.token.cancel();
    }

    fn signal(&self) -> Signal<'_> {
        Signal { raised: &self.raised, wait: self.token.cancelled(), waker: None }
    }
}

pin_project! {
    /// Resolves when work should end. A task that is busy with other things polls
    /// it again and again, which costs a look at a flag.
    #[derive(Debug)]
    pub struct Signal<'a> {
        raised: &'a AtomicBool,
        #[pin]
        wait: WaitForCancellationFuture<'a>,
        waker: Option<Waker>,
    }
}

impl Future for Signal<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let known = this.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if known && !this.raised.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        *this.waker = Some(cx.waker().clone());
        this.wait.poll(cx)
    }
}

/// Something unfinished that the drain waits for.
#[derive(Debug)]
pub struct Busy(#[allow(dead_code, reason = "held for its drop")] TaskTrackerToken);

/// Makes a trigger; its watchers come from [`Trigger::watcher`].
#[must_use]
pub fn trigger() -> Trigger {
    Trigger {
        watcher: Watcher {
            draining: Flag::default(),
            cut: Flag::default(),
            busy: TaskTracker::new(),
        },
    }
}

impl Trigger {
    /// A watcher of this trigger.
    #[must_use]
    pub fn watcher(&self) -> Watcher {
        self.watcher.clone()
    }

    /// Tells every watcher to end, waits until all have or `deadline` has
    /// passed, then cuts what is left. Returns how many were cut.
    pub async fn drain(self, deadline: Duration) -> usize {
        let Watcher { draining, cut, busy } = self.watcher;
        draining.raise();
        busy.close();
        if tokio::time::timeout(deadline, busy.wait()).await.is_ok() {
            return 0;
        }
        let left = busy.len();
        cut.raise();
        left
    }
}

impl Watcher {
    /// A watcher that is never told to end, for whoever has no life-cycle.
    #[must_use]
    pub fn never() -> Self {
        trigger().watcher()
    }

    /// Resolves when work should end.
    #[must_use]
    pub fn draining(&self) -> Signal<'_> {
        self.draining.signal()
    }

    /// Whether work should end.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.raised.load(Ordering::Acquire)
    }

    /// Resolves when the deadline has passed and whatever is left must stop.
    #[must_use]
    pub fn cut(&self) -> Signal<'_> {
        self.cut.signal()
    }

    /// Counts the caller as unfinished until the guard is dropped.
    #[must_use]
    pub fn busy(&self) -> Busy {
        Busy(self.busy.token())
    }

    /// How many guards of [`Watcher::busy`] are out.
    #[must_use]
    pub fn busy_count(&self) -> usize {
        self.busy.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_drain_waits_for_the_busy_and_cuts_none_of_them() {
        let trigger = trigger();
        let watcher = trigger.watcher();
        let busy = watcher.busy();
        let task = tokio::spawn(async move {
            watcher.draining().await;
            tokio::time::sleep(Duration::from_secs(3)).await;
            drop(busy);
        });
        assert_eq!(trigger.drain(Duration::from_secs(5)).await, 0);
        task.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn past_the_deadline_the_rest_is_cut_and_counted() {
        let trigger = trigger();
        let watcher = trigger.watcher();
        let _busy = (watcher.busy(), watcher.busy());
        assert_eq!(trigger.drain(Duration::from_secs(5)).await, 2);
        watcher.cut().await;
    }
}
