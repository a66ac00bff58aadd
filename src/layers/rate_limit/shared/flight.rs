//! A question to Redis that is under way, for all who wait for what it brings.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

use super::script::Taken;

/// A question that is under way.
#[derive(Debug, Default)]
pub(super) struct Flight {
    end: OnceLock<End>,
    late: AtomicBool,
    ended: Notify,
}

/// What became of it, for those who waited.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    Answered(Taken),
    /// There is no answer.
    Failed,
}

impl Flight {
    /// Only the first end is one.
    pub(super) fn ends(&self, end: End) {
        let _only_the_first = self.end.set(end);
        self.ended.notify_waiters();
    }

    /// It takes longer than the deadline: nobody else begins to wait. Those who came later
    /// than the one who asked still have some of theirs.
    pub(super) fn is_to_be_late(&self) {
        self.late.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_late(&self) -> bool {
        self.late.load(Ordering::Relaxed)
    }

    pub(super) async fn end(&self) -> End {
        let ended = self.ended.notified();
        tokio::pin!(ended);
        loop {
            // From here on the end is not missed.
            ended.as_mut().enable();
            if let Some(end) = self.end.get() {
                return *end;
            }
            ended.as_mut().await;
            ended.set(self.ended.notified());
        }
    }
}
