//! How much of something a client may do, besides what it is there for.

use std::time::Duration;

use tokio::time::Instant;

/// What is given back each second, used or not: pings and the like that a
/// connection may send for as long as it lives.
const EACH_SECOND: u32 = 10;

/// A number of things that may be done at once. It fills again with time, and
/// with what the connection is used for.
#[derive(Debug)]
pub(super) struct Allowance {
    left: u32,
    most: u32,
    filled: Instant,
}

impl Allowance {
    pub(super) fn new(most: u32) -> Self {
        Self { left: most, most, filled: Instant::now() }
    }

    /// Takes one away, and says whether it was there. Asks for the time, and for
    /// what was `earned` since it last asked, only once all are gone.
    pub(super) fn take(&mut self, earned: impl FnOnce() -> u32) -> bool {
        if self.left == 0 {
            let passed = self.filled.elapsed();
            let by_time = passed.as_secs_f64() * f64::from(EACH_SECOND);
            // A part of one that is not yet due stays due.
            let by_time = by_time.min(f64::from(self.most)).floor();
            self.filled += if by_time < f64::from(self.most) {
                Duration::from_secs_f64(by_time / f64::from(EACH_SECOND))
            } else {
                passed
            };
            // Between zero and `most`, and whole.
            self.left = (by_time as u32).saturating_add(earned()).min(self.most);
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(allowance: &mut Allowance, earned: u32) -> u32 {
        let mut earned = Some(earned);
        let mut count = 0;
        while allowance.take(|| earned.take().unwrap_or_default()) {
            count += 1;
        }
        count
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_gone_comes_back_with_time_and_use_up_to_the_most() {
        let mut allowance = Allowance::new(50);
        assert_eq!(taken(&mut allowance, 0), 50);
        assert_eq!(taken(&mut allowance, 7), 7);
        tokio::time::advance(Duration::from_millis(1250)).await;
        assert_eq!(taken(&mut allowance, 0), 12);
        tokio::time::advance(Duration::from_millis(50)).await;
        assert_eq!(taken(&mut allowance, 0), 1, "the half from before is not lost");
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(taken(&mut allowance, 1000), 50);
        assert_eq!(taken(&mut allowance, 0), 0);
    }
}
