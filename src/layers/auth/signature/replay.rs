//! What was seen already.

use std::collections::HashSet;
use std::time::Duration;

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use tokio::time::Instant;

/// How many parts there are, each with a lock of its own.
const SHARDS: usize = 16;

/// Remembers digests for a while, in two generations: what is noted goes into the younger
/// one, and once that is as old as anything has to be remembered, it becomes the elder,
/// whose place it takes. So nothing is forgotten too early, nothing is kept for more than
/// twice as long, and no entry needs a time of its own.
///
/// Time is that which has passed, whatever the clock on the wall says. Should that be set
/// back, so that something is in time again which was forgotten, it is known by when it was
/// made.
#[derive(Debug)]
pub(super) struct Remembered {
    shards: Box<[Mutex<Shard>]>,
    /// How many there may be in one shard.
    most: usize,
    window: Duration,
}

#[derive(Debug)]
struct Shard {
    younger: Generation,
    elder: Generation,
    /// When the younger generation began.
    since: Instant,
    /// Of all that is forgotten, when the last was made.
    forgotten: Option<i64>,
}

#[derive(Debug, Default)]
struct Generation {
    digests: HashSet<u128, RandomState>,
    /// When the last of them was made.
    latest: Option<i64>,
}

/// What is known of a digest.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Seen {
    /// It is new, and remembered from now on.
    Never,
    /// It was there before.
    Before,
    /// It may have been there: it is no younger than what is forgotten.
    Forgotten,
    /// There is no room to remember it.
    TooMany,
}

impl Remembered {
    /// Remembers up to `most` digests, each for `window` or longer.
    pub(super) fn new(most: usize, window: Duration) -> Self {
        let since = Instant::now();
        let shard = || Shard {
            younger: Generation::default(),
            elder: Generation::default(),
            since,
            forgotten: None,
        };
        Self {
            shards: (0..SHARDS).map(|_| Mutex::new(shard())).collect(),
            most: most.div_ceil(SHARDS),
            window,
        }
    }

    /// Notes a digest of at least 17 bytes, which no one can choose, of what was made at
    /// `created`, in seconds since 1970.
    pub(super) fn note(&self, digest: &[u8], created: i64, now: Instant) -> Seen {
        let mut key = [0; 16];
        key.copy_from_slice(&digest[..16]);
        let key = u128::from_le_bytes(key);
        let mut shard = self.shards[usize::from(digest[16]) % SHARDS].lock();
        shard.age(now, self.window);
        let Shard { younger, elder, forgotten, .. } = &mut *shard;
        if younger.digests.contains(&key) || elder.digests.contains(&key) {
            return Seen::Before;
        }
        if Some(created) <= *forgotten {
            return Seen::Forgotten;
        }
        if younger.digests.len() + elder.digests.len() >= self.most {
            return Seen::TooMany;
        }
        younger.digests.insert(key);
        younger.latest = younger.latest.max(Some(created));
        Seen::Never
    }
}

impl Shard {
    fn age(&mut self, now: Instant, window: Duration) {
        let age = now.saturating_duration_since(self.since);
        if age < window {
            return;
        }
        let mut younger = std::mem::take(&mut self.younger);
        if age >= window.saturating_mul(2) {
            self.forgotten = self.forgotten.max(younger.latest);
            younger = Generation::default();
        }
        let elder = std::mem::replace(&mut self.elder, younger);
        self.forgotten = self.forgotten.max(elder.latest);
        self.since = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: u64) -> [u8; 32] {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&n.to_le_bytes());
        digest[16] = n.to_le_bytes()[0];
        digest
    }

    const WINDOW: Duration = Duration::from_secs(60);

    /// Notes what is made at that time after the start.
    fn note(remembered: &Remembered, n: u64, start: Instant, after: Duration) -> Seen {
        let created = i64::try_from(after.as_secs()).unwrap();
        remembered.note(&digest(n), created, start + after)
    }

    #[test]
    fn what_was_noted_is_known_for_at_least_its_time() {
        let remembered = Remembered::new(1_000, WINDOW);
        let start = Instant::now() + WINDOW / 2;
        let note = |n, after| note(&remembered, n, start, after);
        assert_eq!(note(1, Duration::ZERO), Seen::Never);
        for after in [Duration::ZERO, WINDOW / 2, WINDOW - Duration::from_millis(1)] {
            assert_eq!(note(1, after), Seen::Before);
        }
        assert_eq!(note(2, WINDOW), Seen::Never);
        assert_eq!(note(1, 3 * WINDOW), Seen::Never);
    }

    #[test]
    fn what_is_no_younger_than_what_is_forgotten_may_have_been_seen() {
        let remembered = Remembered::new(1_000, WINDOW);
        let start = Instant::now();
        assert_eq!(remembered.note(&digest(1), 100, start), Seen::Never);
        assert_eq!(remembered.note(&digest(1 + 256), 90, start), Seen::Never);
        // In two steps, or in one.
        assert_eq!(remembered.note(&digest(1 + 512), 110, start + WINDOW), Seen::Never);
        let later = start + 2 * WINDOW;
        for n in [1, 1 + 256, 1 + 768] {
            assert_eq!(remembered.note(&digest(n), 100, later), Seen::Forgotten, "{n}");
        }
        assert_eq!(remembered.note(&digest(1), 101, later), Seen::Never);
        let much_later = later + 2 * WINDOW;
        assert_eq!(remembered.note(&digest(1 + 512), 110, much_later), Seen::Forgotten);
        assert_eq!(remembered.note(&digest(1 + 512), 111, much_later), Seen::Never);
    }

    #[test]
    fn there_is_no_more_room_than_was_given_and_it_comes_back() {
        let remembered = Remembered::new(1_600, WINDOW);
        let start = Instant::now();
        let note = |n, after| note(&remembered, n, start, after);
        let noted = (0..10_000).filter(|n| note(*n, Duration::ZERO) == Seen::Never);
        assert_eq!(noted.count(), 1_600);
        assert_eq!(note(20_000, Duration::ZERO), Seen::TooMany);
        assert_eq!(note(0, Duration::ZERO), Seen::Before);
        assert_eq!(note(20_000, 2 * WINDOW), Seen::Never);
    }
}
