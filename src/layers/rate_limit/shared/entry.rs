//! What an instance knows of one key.

use std::sync::Arc;
use std::time::Duration;

use super::flight::Flight;
use super::rate::{Rate, Standing};

/// What is known of a key. Times are microseconds since the limiter was made.
#[derive(Debug)]
pub(super) struct Entry {
    /// When one token may be taken, at the earliest: others take some as well, so it may
    /// be later and never is earlier.
    opens: i64,
    /// When the bucket that counts without Redis is full, in nanoseconds.
    alone: u64,
    /// When what is left of what was taken ahead is lost.
    until: i64,
    /// When it was taken.
    since: i64,
    /// How much is left of it.
    left: u32,
    /// How much to take next time.
    next: u32,
    /// How many tokens are waited for.
    waiting: u32,
    /// The question that is under way.
    pub(super) flight: Option<Arc<Flight>>,
}

/// What Redis has answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    /// So many tokens were taken.
    pub(super) taken: u32,
    /// Of which so many are not spoken for.
    pub(super) ahead: u32,
    /// In so many microseconds the bucket is full.
    pub(super) full: i64,
}

impl Entry {
    pub(super) fn new(now: i64) -> Self {
        let opens = i64::MIN / 2;
        let (alone, until, left, next, waiting) = (0, now, 0, 1, 0);
        Self { opens, alone, until, since: now, left, next, waiting, flight: None }
    }

    /// Whether it is of use at the moment, and until when it is.
    pub(super) fn says(&self) -> (bool, i64) {
        let alone = i64::try_from(self.alone.div_ceil(1_000)).unwrap_or(i64::MAX);
        let is_used = self.flight.is_some() || self.waiting > 0;
        (is_used, self.until.max(self.opens).max(alone))
    }

    pub(super) fn says_something(&self, now: i64) -> bool {
        let (is_used, until) = self.says();
        is_used || now < until
    }

    /// Takes tokens of those that were taken ahead.
    pub(super) fn take(&mut self, cost: u32, now: i64) -> bool {
        if now >= self.until || self.left < cost {
            return false;
        }
        self.left -= cost;
        true
    }

    /// How much is left of what was taken ahead.
    pub(super) fn left(&self, now: i64) -> u32 {
        if now < self.until { self.left } else { 0 }
    }

    /// Puts back what was taken of it.
    pub(super) fn give_back(&mut self, tokens: u32, now: i64) {
        if now < self.until {
            self.left = self.left.saturating_add(tokens);
        }
    }

    /// Whether it is known that so many tokens cannot be had, with what is left here.
    pub(super) fn is_refused(&self, rate: &Rate, cost: u32, now: i64) -> bool {
        let lacks = cost.saturating_sub(self.left(now));
        lacks > 0 && now < self.opens.saturating_add(rate.beyond_first(lacks))
    }

    /// Whether it is time to take more ahead before what is left is used up.
    pub(super) fn runs_low(&self, now: i64) -> bool {
        self.flight.is_none() && self.next >= 4 && self.left <= self.next / 4 && now >= self.opens
    }

    /// How much is to be taken now, when not enough is left. As much as the last time; twice
    /// as much if that was used up in less than half its time; less if some of it was lost;
    /// and one if nobody has asked for long.
    pub(super) fn wants(&mut self, most: u32, lease_time: Duration, now: i64) -> u32 {
        let time = i64::try_from(lease_time.as_micros()).unwrap_or(i64::MAX);
        let held = now - self.since;
        if held >= time.saturating_mul(2) {
            self.next = 1;
        } else if held >= time {
            self.next = self.next.saturating_sub(self.left).max(1);
        } else if held < time / 2 && self.until > self.since {
            self.next = self.next.saturating_mul(2);
        }
        self.next = self.next.min(most);
        self.next
    }

    /// Redis has answered a question that was sent at a time.
    pub(super) fn settle(
        &mut self,
        rate: &Rate,
        answer: &Answer,
        sent: i64,
        lease_time: Duration,
        now: i64,
    ) {
        let Answer { taken, ahead, full } = *answer;
        self.opens = rate.opens(sent.saturating_add(full), 1);
        if taken > 0 {
            self.left = self.left(now).saturating_add(ahead);
            self.since = now;
            let time = i64::try_from(lease_time.as_micros()).unwrap_or(i64::MAX);
            // Not from when it was asked for: on a slow way it would be lost as it comes.
            self.until = now.saturating_add(time);
        }
    }

    /// How the bucket stands, as far as is known here.
    pub(super) fn standing(&self, rate: &Rate, cost: u32, now: i64) -> Standing {
        let full = rate.full(self.opens, 1).saturating_sub(now).max(0);
        let mut standing = rate.standing(full, 0, cost.saturating_sub(self.left(now)));
        standing.remaining = standing.remaining.saturating_add(self.left(now)).min(rate.burst());
        standing
    }

    /// Counts without Redis, by the share of one of so many instances. It begins with what
    /// is known of the bucket that all share.
    pub(super) fn count_alone(
        &mut self,
        rate: &Rate,
        instances: u32,
        cost: u32,
        now: i64,
    ) -> (bool, Standing) {
        let (token, burst) = rate.share(instances);
        let fill = token.saturating_mul(u64::from(burst.max(cost)));
        let at = nanos(now);
        let known = nanos(rate.full(self.opens, 1)).min(at.saturating_add(fill));
        let full = self.alone.max(known).max(at);
        let after = full.saturating_add(token.saturating_mul(u64::from(cost)));
        let end = at.saturating_add(fill);
        let admitted = after <= end;
        let full = if admitted { after } else { full };
        self.alone = full;
        let remaining = end.saturating_sub(full) / token.max(1);
        let standing = Standing {
            remaining: u32::try_from(remaining).unwrap_or(u32::MAX).min(burst),
            wait: if admitted { Duration::ZERO } else { Duration::from_nanos(after - end) },
            reset: Duration::from_nanos(full - at),
        };
        (admitted, standing)
    }

    /// Takes so many tokens without Redis, or as many as there are.
    pub(super) fn charge_alone(&mut self, rate: &Rate, instances: u32, cost: u32, now: i64) {
        let (_, standing) = self.count_alone(rate, instances, 0, now);
        self.count_alone(rate, instances, cost.min(standing.remaining), now);
    }

    /// Somebody waits for so many tokens.
    pub(super) fn waits(&mut self, cost: u32) {
        self.waiting = self.waiting.saturating_add(cost);
    }

    /// Somebody waits no more.
    pub(super) fn waits_no_more(&mut self, cost: u32) {
        self.waiting = self.waiting.saturating_sub(cost);
    }

    /// How many tokens are waited for.
    pub(super) fn waiting(&self) -> u32 {
        self.waiting
    }
}

fn nanos(micros: i64) -> u64 {
    u64::try_from(micros.max(0)).unwrap_or(0).saturating_mul(1_000)
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::rate::tests::rate;
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    pub(in super::super) fn answer(taken: u32, full: i64) -> Answer {
        Answer { taken, ahead: taken, full }
    }

    #[test]
    fn more_is_taken_while_it_is_used_up_and_less_when_it_is_not() {
        let (rate, mut entry) = (rate(1000, 1000), Entry::new(0));
        let mut taken = Vec::new();
        let mut now = 10;
        for _ in 0..6 {
            let want = entry.wants(20, SECOND, now);
            taken.push(want);
            entry.settle(&rate, &answer(want, 0), now, SECOND, now);
            assert!(entry.take(want, now + 1));
            now += 1_000;
        }
        assert_eq!(taken, [1, 2, 4, 8, 16, 20]);
        // Also where each is taken for somebody.
        let mut other = Entry::new(0);
        assert_eq!(other.wants(20, SECOND, 1), 1);
        other.settle(&rate, &Answer { taken: 1, ahead: 0, full: 1_000 }, 1, SECOND, 2);
        assert_eq!(other.wants(20, SECOND, 3), 2);
        // Used up, but not soon.
        assert_eq!(entry.wants(20, SECOND, now + 600_000), 20);
        entry.settle(&rate, &answer(20, 0), now, SECOND, now);
        assert!(entry.take(5, now));
        assert!(!entry.take(1, now + 1_000_000), "what is left is lost");
        assert_eq!(entry.wants(20, SECOND, now + 1_100_000), 5);
        entry.settle(&rate, &answer(5, 0), now, SECOND, now);
        assert_eq!(entry.wants(20, SECOND, now + 2_000_000), 1);
    }

    #[test]
    fn what_is_slow_to_come_is_of_use_when_it_comes() {
        let (rate, mut entry) = (rate(1000, 1000), Entry::new(0));
        entry.settle(&rate, &answer(5, 0), 10, SECOND, 1_500_010);
        assert_eq!(entry.left(1_500_010), 5);
        assert!(entry.take(5, 2_500_009));
        assert_eq!(entry.left(2_500_010), 0);
    }

    #[test]
    fn what_redis_refused_is_refused_until_then_and_not_longer() {
        let (rate, mut entry) = (rate(10, 20), Entry::new(0));
        assert!(!entry.is_refused(&rate, 20, 0));
        // Empty: full in 2 s.
        entry.settle(&rate, &answer(0, 2_000_000), 500, SECOND, 700);
        assert!(entry.is_refused(&rate, 1, 100_499));
        assert!(!entry.is_refused(&rate, 1, 100_500));
        assert!(entry.is_refused(&rate, 3, 300_499));
        assert!(!entry.is_refused(&rate, 3, 300_500));
        assert_eq!(entry.standing(&rate, 1, 500).wait, Duration::from_millis(100));
    }

    #[test]
    fn alone_it_counts_as_the_whole_or_as_a_share_and_begins_with_what_is_known() {
        let rate = rate(10, 20);
        let admitted = |entry: &mut Entry, instances, now| {
            (0..100).filter(|_| entry.count_alone(&rate, instances, 1, now).0).count()
        };
        assert_eq!(admitted(&mut Entry::new(0), 1, 5), 20);
        assert_eq!(admitted(&mut Entry::new(0), 3, 5), 6);
        let mut entry = Entry::new(0);
        // Half of it is used up.
        entry.settle(&rate, &answer(0, 1_000_000), 0, SECOND, 0);
        assert_eq!(admitted(&mut entry, 1, 0), 10);
        let (_, standing) = entry.count_alone(&rate, 1, 1, 0);
        assert_eq!(standing.wait, Duration::from_millis(100));
        assert_eq!(admitted(&mut entry, 1, 1_000_000), 10);
        entry.charge_alone(&rate, 1, 1_000, 3_000_000);
        assert_eq!(admitted(&mut entry, 1, 3_000_000), 0);
        assert_eq!(admitted(&mut entry, 1, 3_100_000), 1);
    }

    #[test]
    fn what_is_left_counts_for_what_costs_more() {
        let (rate, mut entry) = (rate(10, 20), Entry::new(0));
        // Three are left, and there are no more for 100 ms.
        entry.settle(&rate, &answer(3, 2_000_000), 0, SECOND, 0);
        assert!(entry.is_refused(&rate, 4, 99_999));
        assert_eq!(entry.standing(&rate, 4, 0).wait, Duration::from_millis(100));
        assert!(!entry.is_refused(&rate, 4, 100_000));
        assert!(entry.is_refused(&rate, 5, 199_999));
        assert!(!entry.is_refused(&rate, 5, 200_000));
        assert!(entry.take(3, 200_000));
        entry.give_back(3, 200_001);
        assert_eq!(entry.left(200_001), 3);
        entry.give_back(3, 1_000_000);
        assert_eq!(entry.left(1_000_000), 0);
    }
}
