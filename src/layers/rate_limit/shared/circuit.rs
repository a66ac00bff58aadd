//! Whether Redis is waited for.
//!
//! Once it is known to be of no help nobody waits for it: every request is decided without
//! it at once, and ten times a second it is asked in the background, until it has answered
//! in time several times in a row. Of an outage one line is logged, and of its end; of many
//! in a minute only the first few.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

/// Nobody waits any more once at least so many answers in a row did not come in time, and
/// none did to what was asked in the course of so many deadlines less one: many that are
/// late at the same moment are one delay, of Redis' or of our own.
const PATIENCE: u32 = 3;

/// After so many answers in time in a row it is waited for again.
const CALM: u32 = 3;

/// How often it is looked whether it answers again.
pub(super) const LOOK: Duration = Duration::from_millis(100);

/// So many outages are logged in this time.
const LINES: (u32, Duration) = (5, Duration::from_secs(60));

/// How it stands with one Redis. Times are microseconds since a start that is the caller's.
#[derive(Debug)]
pub(super) struct Circuit {
    /// Whether it is waited for no more.
    open: AtomicBool,
    /// Since when.
    since: AtomicU64,
    /// When it is to be asked again.
    look: AtomicU64,
    /// How many answers in a row did not come in time.
    late: AtomicU32,
    /// When the first of them was asked for; the end of time if none is late.
    first_late: AtomicU64,
    /// How many answers in a row came in time since it is waited for no more.
    in_time: AtomicU32,
    /// Somebody has it asked in the background.
    looked_after: AtomicBool,
    said: Mutex<Said>,
}

/// What was logged.
#[derive(Debug, Default)]
struct Said {
    /// Since when so many lines were.
    since: u64,
    lines: u32,
    /// So many outages were not.
    untold: u32,
    /// Whether the one was that there is.
    told: bool,
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

impl Default for Circuit {
    fn default() -> Self {
        Self {
            open: AtomicBool::default(),
            since: AtomicU64::default(),
            look: AtomicU64::default(),
            late: AtomicU32::default(),
            first_late: AtomicU64::new(u64::MAX),
            in_time: AtomicU32::default(),
            looked_after: AtomicBool::default(),
            said: Mutex::default(),
        }
    }
}

impl Circuit {
    /// What is to be done with a question now. Of those who ask while it is open one is told
    /// to look, and has to.
    pub(super) fn way(&self, now: u64) -> Way {
        if !self.is_open() {
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

    /// Whether whoever asks this is to have it asked in the background; one is at a time.
    pub(super) fn begins_to_look(&self) -> bool {
        !self.looked_after.swap(true, Ordering::Relaxed)
    }

    /// Whether somebody has it asked in the background.
    pub(super) fn is_looked_after(&self) -> bool {
        self.looked_after.load(Ordering::Relaxed)
    }

    /// Whoever did does not any more.
    pub(super) fn looks_no_more(&self) {
        self.looked_after.store(false, Ordering::Relaxed);
    }

    /// Whether it is waited for no more.
    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    /// What it was asked at a time it has answered in time. `limit` is whose circuit it is,
    /// if not that of all.
    pub(super) fn answered(&self, sent: u64, now: u64, limit: Option<&str>) {
        if self.late.load(Ordering::Relaxed) > 0 {
            self.late.store(0, Ordering::Relaxed);
            self.first_late.store(u64::MAX, Ordering::Relaxed);
        }
        let since = self.since.load(Ordering::Relaxed);
        // What was asked before says nothing of how it is now.
        if !self.is_open()
            || sent < since
            || self.in_time.fetch_add(1, Ordering::Relaxed) + 1 < CALM
            || !self.open.swap(false, Ordering::Relaxed)
        {
            return;
        }
        let outage = Duration::from_micros(now.saturating_sub(since));
        if self.said.lock().told {
            tracing::info!(limit, ?outage, "rate limits: counted by way of Redis again");
        } else {
            tracing::debug!(limit, ?outage, "rate limits: counted by way of Redis again");
        }
    }

    /// What it was asked at a time it has not answered before this deadline; it may all the
    /// same. `true`: from now on it is not waited for.
    pub(super) fn late(
        &self,
        sent: u64,
        deadline: Duration,
        now: u64,
        limit: Option<&str>,
    ) -> bool {
        self.in_time.store(0, Ordering::Relaxed);
        let first = self.first_late.fetch_min(sent, Ordering::Relaxed).min(sent);
        let late = self.late.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let while_nothing_came = micros(deadline).saturating_mul(u64::from(PATIENCE - 1));
        late >= PATIENCE
            && sent - first >= while_nothing_came
            && self.failed(now, &"it does not answer in time", limit)
    }

    /// It is of no help. `true`: from now on it is not waited for.
    pub(super) fn failed(&self, now: u64, why: &dyn Display, limit: Option<&str>) -> bool {
        self.in_time.store(0, Ordering::Relaxed);
        if self.is_open() || self.open.swap(true, Ordering::Relaxed) {
            return false;
        }
        self.since.store(now, Ordering::Relaxed);
        self.look.store(now + micros(LOOK), Ordering::Relaxed);
        match self.tells(now) {
            Some(untold) => tracing::warn!(
                error = %why,
                limit,
                untold,
                "rate limits: not counted by way of Redis; each does as its `on_failure` says"
            ),
            None => {
                tracing::debug!(error = %why, limit, "rate limits: not counted by way of Redis");
            }
        }
        true
    }

    /// Whether another outage is told of, and how many were not.
    fn tells(&self, now: u64) -> Option<u32> {
        let mut said = self.said.lock();
        if now.saturating_sub(said.since) >= micros(LINES.1) {
            (said.since, said.lines) = (now, 0);
        }
        said.told = said.lines < LINES.0;
        if !said.told {
            said.untold = said.untold.saturating_add(1);
            return None;
        }
        said.lines += 1;
        Some(std::mem::take(&mut said.untold))
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_micros(5_000);

    fn late(circuit: &Circuit, sent: u64) {
        circuit.late(sent, DEADLINE, sent + 5_000, None);
    }

    #[test]
    fn nobody_waits_for_what_has_not_answered_for_three_deadlines() {
        let circuit = Circuit::default();
        late(&circuit, 0);
        late(&circuit, 5_000);
        circuit.answered(10_000, 10_100, None);
        late(&circuit, 20_000);
        late(&circuit, 25_000);
        assert_eq!(circuit.way(30_001), Way::Asks);
        late(&circuit, 30_000);
        assert_eq!(circuit.way(35_001), Way::Closed);
    }

    #[test]
    fn one_delay_of_all_that_are_under_way_is_one_delay() {
        let circuit = Circuit::default();
        for sent in 0..1_000 {
            // The process itself may have been asleep: it is noticed much later.
            circuit.late(sent, DEADLINE, 50_000, None);
        }
        assert_eq!(circuit.way(50_001), Way::Asks);
        circuit.answered(50_000, 50_100, None);
        for sent in 60_000..61_000 {
            late(&circuit, sent);
        }
        assert_eq!(circuit.way(66_000), Way::Asks);
        late(&circuit, 71_000);
        assert_eq!(circuit.way(76_001), Way::Closed);
    }

    #[test]
    fn one_looks_every_now_and_then_until_it_has_answered_in_time_thrice() {
        let circuit = Circuit::default();
        circuit.failed(10, &"gone", None);
        assert_eq!(circuit.way(100_009), Way::Closed);
        assert_eq!(circuit.way(100_010), Way::Looks);
        assert_eq!(circuit.way(100_011), Way::Closed);
        // Those that were under way when it failed say nothing.
        for _ in 0..9 {
            circuit.answered(9, 100_012, None);
        }
        for now in [200_010, 300_010] {
            assert_eq!(circuit.way(now), Way::Looks);
            circuit.answered(now, now + 1, None);
        }
        late(&circuit, 400_010);
        for now in [500_010, 600_010, 700_010] {
            assert_eq!(circuit.way(now), Way::Looks);
            circuit.answered(now, now + 1, None);
        }
        assert_eq!(circuit.way(700_012), Way::Asks);
    }

    #[test]
    fn one_looks_after_it_at_a_time_however_often_it_comes_and_goes() {
        let circuit = Circuit::default();
        assert!(circuit.begins_to_look());
        assert!(!circuit.begins_to_look());
        circuit.looks_no_more();
        assert!(circuit.begins_to_look());
    }

    #[test]
    fn of_many_outages_in_a_minute_a_few_are_told() {
        let circuit = Circuit::default();
        let told = |now| circuit.tells(now);
        assert_eq!((0..100).filter_map(told).count(), 5);
        assert_eq!(told(59_999_999), None);
        assert_eq!(told(60_000_000), Some(96));
        assert_eq!(told(60_000_001), Some(0));
    }
}
