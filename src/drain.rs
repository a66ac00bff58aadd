//! Ending without dropping anything: a trigger, its watchers, a deadline.
//!
//! Whoever holds a [`Watcher`] learns that work should end, and counts as
//! unfinished until its [`Watcher::busy`] guard is dropped. The [`Trigger`]
//! waits for them until a deadline and then cuts.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
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
    draining: CancellationToken,
    cut: CancellationToken,
    busy: TaskTracker,
}

/// Something unfinished that the drain waits for.
#[derive(Debug)]
pub struct Busy(#[allow(dead_code, reason = "held for its drop")] TaskTrackerToken);

/// Makes a trigger; its watchers come from [`Trigger::watcher`].
#[must_use]
pub fn trigger() -> Trigger {
    Trigger {
        watcher: Watcher {
            draining: CancellationToken::new(),
            cut: CancellationToken::new(),
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
        draining.cancel();
        busy.close();
        if tokio::time::timeout(deadline, busy.wait()).await.is_ok() {
            return 0;
        }
        let left = busy.len();
        cut.cancel();
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
    pub async fn draining(&self) {
        self.draining.cancelled().await;
    }

    /// Whether work should end.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Resolves when the deadline has passed and whatever is left must stop.
    pub async fn cut(&self) {
        self.cut.cancelled().await;
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
