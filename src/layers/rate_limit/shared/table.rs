//! What an instance knows of each key: what it has taken ahead, and until when nothing
//! passes.
//!
//! A key takes some 170 bytes at the most: 80 in the table, of which at least 7 in 16 places
//! are taken, less what grows at once. What says nothing any more is let go of by whoever
//! brings a new key when a shard has grown by half since it was last looked through, or has
//! not been for ten seconds. There are [`MOST`] keys at the most; of more than that nothing
//! is remembered.

use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;

use foldhash::quality::RandomState;
use hashbrown::HashMap;
use parking_lot::{Mutex, MutexGuard};

use super::flight::Flight;
use super::rate::{Rate, Standing};

/// The most keys that are remembered for one limit: less than 48 MiB of them.
const MOST: usize = 1 << 18;

const SHARDS: usize = 64;

/// Below this many keys a shard is not worth looking through because it has grown.
const FEW: usize = 64;

/// How long it may be that a shard is not looked through, in microseconds.
const LOOK_EVERY: i64 = 10_000_000;

/// How soon a full shard is looked through again, in microseconds.
const PAUSE: i64 = 100_000;

/// The keys of one limit, by digest.
#[derive(Debug)]
pub(super) struct Table {
    shards: Box<[Mutex<Shard>]>,
    random: RandomState,
}

#[derive(Debug, Default)]
pub(super) struct Shard {
    keys: HashMap<u128, Entry, RandomState>,
    /// When there are so many it is looked through again.
    patience: usize,
    looked: i64,
}

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

impl Table {
    pub(super) fn new() -> Self {
        let random = RandomState::default();
        let shard = || {
            let keys = HashMap::with_hasher(random.clone());
            Mutex::new(Shard { keys, patience: FEW, looked: 0 })
        };
        Self { shards: (0..SHARDS).map(|_| shard()).collect(), random: random.clone() }
    }

    pub(super) fn shard(&self, key: u128) -> MutexGuard<'_, Shard> {
        // The lowest and the highest bits are what the shard's own table goes by.
        let at = usize::try_from((self.random.hash_one(key) >> 32) % 64).unwrap_or(0);
        self.shards[at % SHARDS].lock()
    }

    /// How many keys are remembered.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().keys.len()).sum()
    }
}

impl Shard {
    pub(super) fn known(&mut self, key: u128) -> Option<&mut Entry> {
        self.keys.get_mut(&key)
    }

    /// What is known of a key, which is nothing at first; `None` if there is no room to
    /// remember anything.
    pub(super) fn entry(&mut self, key: u128, now: i64) -> Option<&mut Entry> {
        if !self.keys.contains_key(&key) {
            self.make_room(now);
            if self.keys.len() >= MOST / SHARDS {
                return None;
            }
        }
        Some(self.keys.entry(key).or_insert_with(|| Entry::new(now)))
    }

    fn make_room(&mut self, now: i64) {
        // A shard that is full of what says something is not looked through for each key
        // that comes.
        let pause = if self.patience < MOST / SHARDS { 0 } else { PAUSE };
        let has_grown = self.keys.len() >= self.patience && now - self.looked >= pause;
        if !has_grown && now - self.looked < LOOK_EVERY {
            return;
        }
        self.keys.retain(|_, entry| entry.says_something(now));
        self.keys.shrink_to(FEW);
        self.patience = (self.keys.len() + self.keys.len() / 2).clamp(FEW, MOST / SHARDS);
        self.looked = now;
    }
}

impl Entry {
    fn new(now: i64) -> Self {
        let opens = i64::MIN / 2;
        let (alone, until, left, next, waiting) = (0, now, 0, 1, 0);
        Self { opens, alone, until, since: now, left, next, waiting, flight: None }
    }

    fn says_something(&self, now: i64) -> bool {
        self.flight.is_some()
            || self.waiting > 0
            || now < self.until
            || now < self.opens
            || nanos(now) < self.alone
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

    /// Whether it is known that so many tokens cannot be had.
    pub(super) fn is_refused(&self, rate: &Rate, cost: u32, now: i64) -> bool {
        now < self.opens.saturating_add(rate.beyond_first(cost))
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
            self.until = sent.saturating_add(time);
        }
    }

    /// How the bucket stands, as far as is known here.
    pub(super) fn standing(&self, rate: &Rate, cost: u32, now: i64) -> Standing {
        let full = rate.full(self.opens, 1).saturating_sub(now).max(0);
        let mut standing = rate.standing(full, 0, cost);
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
mod tests {
    use super::super::rate::tests::quota;
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn answer(taken: u32, full: i64) -> Answer {
        Answer { taken, ahead: taken, full }
    }

    fn rate(requests: u32, burst: u32) -> Rate {
        Rate::of(&quota(requests, SECOND, burst))
    }

    #[test]
    fn a_key_takes_as_many_bytes_as_are_said() {
        assert!(std::mem::size_of::<(u128, Entry)>() <= 80);
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
    fn keys_that_say_nothing_are_let_go_of_and_others_are_not() {
        let table = Table::new();
        let (rate, now) = (rate(1, 1), 1);
        for key in 0..20_000_u128 {
            let mut shard = table.shard(key);
            let entry = shard.entry(key, now).unwrap();
            if key < 100 {
                entry.settle(&rate, &answer(0, 3_600_000_000), now, SECOND, now);
            }
        }
        assert!(table.len() < 10_000, "{}", table.len());
        for key in 0..100 {
            assert!(table.shard(key).known(key).is_some());
        }
        // And there is an end to how many are remembered.
        let mut refused = 0;
        for key in 0..2 * MOST as u128 {
            let mut shard = table.shard(key);
            match shard.entry(key, now) {
                Some(entry) => entry.settle(&rate, &answer(0, 3_600_000_000), now, SECOND, now),
                None => refused += 1,
            }
        }
        assert_eq!(table.len(), MOST);
        assert_eq!(refused, MOST);
    }
}
