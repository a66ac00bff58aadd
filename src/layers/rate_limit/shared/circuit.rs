//! Whether Redis is waited for.
//!
//! Once it is known to be of no help nobody waits for it: every request is decided without
//! it at once, and ten times a second one of them has it asked what would have been asked
//! anyway, until it answers in time again. Of an outage one line is logged, and of its end.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// After so many answers in a row that did not come in time nobody waits any more.
const PATIENCE: u32 = 3;

/// How often it is looked whether it answers again.
const LOOK: Duration = Duration::from_millis(100);

/// How it stands with one Redis. Times are microseconds since a start that is the caller's.
#[derive(Debug, Default)]
pub(super) struct Circuit {
    /// Whether it is waited for no more.
    open: AtomicBool,
    /// Since when.
    since: AtomicU64,
    /// When it is to be asked again.
    look: AtomicU64,
    late: AtomicU32,
}

/// What is to be done with a question.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Way {
    /// It is asked, and waited for.
    Asks,
    /// It is asked, and not waited for.
    Looks,
    /// It is not asked.
    Closed,
}

impl Circuit {
    pub(super) fn way(&self, now: u64) -> Way {
        if !self.open.load(Ordering::Relaxed) {
            return Way::Asks;
        }
        let look = self.look.load(Ordering::Relaxed);
        let next = now + micros(LOOK);
        let relaxed = Ordering::Relaxed;
        if now >= look && self.look.compare_exchange(look, next, relaxed, relaxed).is_ok() {
            Way::Looks
        } else {
            Way::Closed
        }
    }

    /// It has answered in time.
    pub(super) fn answered(&self, now: u64) {
        if self.late.load(Ordering::Relaxed) > 0 {
            self.late.store(0, Ordering::Relaxed);
        }
        if self.open.load(Ordering::Relaxed) && self.open.swap(false, Ordering::Relaxed) {
            let outage = now.saturating_sub(self.since.load(Ordering::Relaxed));
            let outage = Duration::from_micros(outage);
            tracing::info!(?outage, "rate limits: counted by way of Redis again");
        }
    }

    /// It has not answered in time; it may all the same.
    pub(super) fn late(&self, now: u64) {
        if self.late.fetch_add(1, Ordering::Relaxed) + 1 >= PATIENCE {
            self.failed(now, &"it does not answer in time");
        }
    }

    /// It is of no help.
    pub(super) fn failed(&self, now: u64, why: &dyn std::fmt::Display) {
        if self.open.load(Ordering::Relaxed) || self.open.swap(true, Ordering::Relaxed) {
            return;
        }
        self.since.store(now, Ordering::Relaxed);
        self.look.store(now + micros(LOOK), Ordering::Relaxed);
        tracing::warn!(
            error = %why,
            "rate limits: not counted by way of Redis; each does as its `on_failure` says"
        );
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_for_what_has_not_answered_thrice() {
        let circuit = Circuit::default();
        circuit.late(1);
        circuit.late(2);
        circuit.answered(3);
        circuit.late(4);
        circuit.late(5);
        assert_eq!(circuit.way(6), Way::Asks);
        circuit.late(7);
        assert_eq!(circuit.way(8), Way::Closed);
    }

    #[test]
    fn one_looks_every_now_and_then() {
        let circuit = Circuit::default();
        circuit.failed(0, &"gone");
        assert_eq!(circuit.way(99_999), Way::Closed);
        assert_eq!(circuit.way(100_000), Way::Looks);
        assert_eq!(circuit.way(100_001), Way::Closed);
        assert_eq!(circuit.way(200_000), Way::Looks);
        circuit.answered(200_001);
        assert_eq!(circuit.way(200_002), Way::Asks);
    }
}
