//! How long to wait before another attempt.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// The first pause before another attempt, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How long to wait before another attempt: from 100 ms to 5 s, twice as long each time,
/// of which up to half is left to chance so that not all come back at once.
#[derive(Clone, Debug, Default)]
pub struct Pause {
    attempts: u32,
    random: RandomState,
}

impl Pause {
    /// For how long, now that another attempt has failed.
    pub fn after_failure(&mut self) -> Duration {
        let (least, most) = PAUSES;
        let whole = least.saturating_mul(1 << self.attempts.min(16)).min(most);
        self.attempts = self.attempts.saturating_add(1);
        let chance = u32::try_from(self.random.hash_one(self.attempts) % 1024).unwrap_or(0);
        whole / 2 + whole / 2 * chance / 1024
    }

    /// It went well: the next is the shortest again.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_bound_and_are_left_to_chance() {
        let mut pause = Pause::default();
        let pauses: Vec<Duration> = (0..12).map(|_| pause.after_failure()).collect();
        for (attempt, waited) in pauses.iter().enumerate() {
            let whole = PAUSES.0.saturating_mul(1 << attempt).min(PAUSES.1);
            assert!((whole / 2..=whole).contains(waited), "{attempt}: {waited:?}");
        }
        assert_ne!(pauses[10], pauses[11]);
        pause.reset();
        assert!(pause.after_failure() <= PAUSES.0);
    }
}
