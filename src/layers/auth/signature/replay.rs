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
#[derive(Debug)]
pub(super) struct Remembered {
    shards: Box<[Mutex<Shard>]>,
    /// How many there may be in one shard.
    most: usize,
    window: Duration,
}

#[derive(Debug)]
struct Shard {
    younger: HashSet<u128, RandomState>,
    elder: HashSet<u128, RandomState>,
    /// When the younger generation began.
    since: Instant,
}

/// What is known of a digest.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Seen {
    /// It is new, and remembered from now on.
    Never,
    /// It was there before.
    Before,
    /// There is no room to remember it.
    TooMany,
}

impl Remembered {
    /// Remembers up to `most` digests, each for `window` or longer.
    pub(super) fn new(most: usize, window: Duration) -> Self {
        let since = Instant::now();
        let shard = || Shard { younger: HashSet::default(), elder: HashSet::default(), since };
        Self {
            shards: (0..SHARDS).map(|_| Mutex::new(shard())).collect(),
            most: most.div_ceil(SHARDS),
            window,
        }
    }

    /// Notes a digest of at least 17 bytes, which no one can choose.
    pub(super) fn note(&self, digest: &[u8], now: Instant) -> Seen {
        let mut key = [0; 16];
        key.copy_from_slice(&digest[..16]);
        let key = u128::from_le_bytes(key);
        let mut shard = self.shards[usize::from(digest[16]) % SHARDS].lock();
        shard.age(now, self.window);
        if shard.younger.contains(&key) || shard.elder.contains(&key) {
            return Seen::Before;
        }
        if shard.younger.len() + shard.elder.len() >= self.most {
            return Seen::TooMany;
        }
        shard.younger.insert(key);
        Seen::Never
    }
}

impl Shard {
    fn age(&mut self, now: Instant, window: Duration) {
        let age = now.saturating_duration_since(self.since);
        if age < window {
            return;
        }
        self.elder = std::mem::take(&mut self.younger);
        if age >= 2 * window {
            self.elder = HashSet::default();
        }
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

    #[test]
    fn what_was_noted_is_known_for_at_least_its_time() {
        let remembered = Remembered::new(1_000, WINDOW);
        let start = Instant::now() + WINDOW / 2;
        assert_eq!(remembered.note(&digest(1), start), Seen::Never);
        for at in [start, start + WINDOW / 2, start + WINDOW - Duration::from_millis(1)] {
            assert_eq!(remembered.note(&digest(1), at), Seen::Before);
        }
        assert_eq!(remembered.note(&digest(2), start + WINDOW), Seen::Never);
        assert_eq!(remembered.note(&digest(1), start + 3 * WINDOW), Seen::Never);
    }

    #[test]
    fn there_is_no_more_room_than_was_given_and_it_comes_back() {
        let remembered = Remembered::new(1_600, WINDOW);
        let start = Instant::now();
        let noted = (0..10_000).filter(|n| remembered.note(&digest(*n), start) == Seen::Never);
        assert_eq!(noted.count(), 1_600);
        assert_eq!(remembered.note(&digest(20_000), start), Seen::TooMany);
        assert_eq!(remembered.note(&digest(0), start), Seen::Before);
        assert_eq!(remembered.note(&digest(20_000), start + 2 * WINDOW), Seen::Never);
    }
}
