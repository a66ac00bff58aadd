//! How much may be sent now.

use std::num::NonZeroU64;
use std::time::Duration;

use tokio::time::Instant;

/// A second, in the nanoseconds that bytes are multiplied by: so no fraction is lost.
const SECOND: u128 = 1_000_000_000;

/// So often a second is sent, at the most: the timers of the runtime have milliseconds, and
/// each turn costs something.
const TURNS: u64 = 50;

/// Fewer bytes than that are not worth a turn, unless a second has no more.
const LEAST: u64 = 256;

/// Bytes that may be sent: they come at a steady rate, and some are there at the beginning.
#[derive(Debug)]
pub(super) struct Bucket {
    rate: NonZeroU64,
    /// Bytes, times [`SECOND`].
    there: u128,
    /// The most that may be there, likewise.
    most: u128,
    at: Instant,
}

impl Bucket {
    pub(super) fn new(rate: NonZeroU64, burst: u64, now: Instant) -> Self {
        let there = u128::from(burst) * SECOND;
        // What comes while a timer is late is not lost.
        let most = there.max(u128::from(turn(rate)) * 2 * SECOND);
        Self { rate, there, most, at: now }
    }

    /// Takes what may be sent now of `wanted` bytes; or says how long to wait until it is
    /// worth while.
    pub(super) fn take(&mut self, wanted: usize, now: Instant) -> Result<usize, Duration> {
        let came = now.saturating_duration_since(self.at).as_nanos() * u128::from(self.rate.get());
        self.there = self.there.saturating_add(came).min(self.most);
        self.at = now;
        let least = u128::from(turn(self.rate).min(wanted as u64)) * SECOND;
        if self.there < least {
            let lacking = (least - self.there).div_ceil(u128::from(self.rate.get()));
            return Err(Duration::from_nanos(u64::try_from(lacking).unwrap_or(u64::MAX)));
        }
        let taken = usize::try_from(self.there / SECOND).unwrap_or(usize::MAX).min(wanted);
        self.there -= taken as u128 * SECOND;
        Ok(taken)
    }
}

/// The bytes of one turn.
fn turn(rate: NonZeroU64) -> u64 {
    (rate.get() / TURNS).max(LEAST.min(rate.get()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends as fast as it may; returns how long that takes and in how many turns.
    fn send(rate: u64, burst: u64, bytes: usize) -> (Duration, usize) {
        let begin = Instant::now();
        let mut bucket = Bucket::new(NonZeroU64::new(rate).unwrap(), burst, begin);
        let (mut now, mut left, mut turns) = (begin, bytes, 0);
        while left > 0 {
            match bucket.take(left, now) {
                Ok(sent) => {
                    assert!(sent > 0);
                    (left, turns) = (left - sent, turns + 1);
                }
                Err(wait) => {
                    assert!(wait > Duration::ZERO);
                    now += wait;
                }
            }
        }
        (now - begin, turns)
    }

    #[tokio::test]
    async fn what_is_past_the_burst_takes_its_time_whatever_the_rate() {
        for rate in [1, 7, 100, 1_000, 65_536, 1 << 20, 1 << 30, u64::MAX / 8] {
            let bytes = usize::try_from((rate * 3).min(1 << 40)).unwrap();
            let (took, turns) = send(rate, 0, bytes);
            let exact = Duration::from_secs_f64(bytes as f64 / rate as f64);
            assert!(took.abs_diff(exact) < Duration::from_millis(1), "{rate}: {took:?} {exact:?}");
            assert!(turns <= 160, "{rate}: {turns}");
        }
    }

    #[tokio::test]
    async fn the_burst_goes_at_once() {
        assert_eq!(send(1_000, 5_000, 5_000), (Duration::ZERO, 1));
        let (took, _) = send(1_000, 5_000, 7_000);
        assert_eq!(took.as_secs(), 2);
    }

    #[tokio::test]
    async fn a_pause_earns_a_burst_and_no_more() {
        let begin = Instant::now();
        let mut bucket = Bucket::new(NonZeroU64::new(1_000).unwrap(), 2_000, begin);
        assert_eq!(bucket.take(9_000, begin), Ok(2_000));
        let later = begin + Duration::from_secs(3_600);
        assert_eq!(bucket.take(9_000, later), Ok(2_000));
        assert!(bucket.take(9_000, later).is_err());
    }
}
