//! How often something may be done, and whether bytes move fast enough while nothing but
//! the peer holds them up.

use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

/// The slowest that a peer may be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MinRate {
    /// Bytes in each second that the peer is waited for.
    pub bytes: NonZeroU64,
    /// How far it may fall behind that.
    pub grace: Duration,
}

impl MinRate {
    /// 240 bytes a second, and ten seconds behind that: far below what any line
    /// carries, and far above what costs a thousand clients nothing.
    pub const DEFAULT: Self =
        Self { bytes: NonZeroU64::MIN.saturating_add(239), grace: Duration::from_secs(10) };
}

/// How often something may be done.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Quota {
    /// So many times in each [`Quota::per`], sustained.
    pub requests: NonZeroU32,
    /// The time that [`Quota::requests`] counts for.
    pub per: Duration,
    /// So many times at once, after a pause.
    pub burst: NonZeroU32,
}

impl Quota {
    /// So many times in each `per`, and as many at once.
    #[must_use]
    pub const fn new(requests: NonZeroU32, per: Duration) -> Self {
        Self { requests, per, burst: requests }
    }

    /// Lets this many come at once after a pause.
    #[must_use]
    pub const fn burst(mut self, burst: NonZeroU32) -> Self {
        self.burst = burst;
        self
    }

    /// The longest that [`Quota::refill`] may be, so that it can be counted in
    /// nanoseconds: ten years.
    pub const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

    /// The time after which there is one more: at least a nanosecond, and so short that
    /// the burst is back within [`Quota::LONGEST`].
    #[must_use]
    pub fn each(&self) -> Duration {
        let longest = Self::LONGEST / self.burst.get();
        (self.per / self.requests.get()).clamp(Duration::from_nanos(1), longest)
    }

    /// Whether the burst is back within [`Quota::LONGEST`] without being counted any faster
    /// than it says.
    #[must_use]
    pub const fn refills_in_time(&self) -> bool {
        let all = self.per.as_nanos() * self.burst.get() as u128;
        all / self.requests.get() as u128 <= Self::LONGEST.as_nanos()
    }

    /// The time that it takes until the whole burst is back.
    #[must_use]
    pub fn refill(&self) -> Duration {
        self.each() * self.burst.get()
    }
}

/// How far a peer is behind, or ahead of, a rate. Only the time counts in which
/// it was waited for.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    rate: MinRate,
    /// In microseconds; below zero it is ahead.
    behind: i64,
    /// How far it may get ahead, and so how long it may pause afterwards.
    most_ahead: i64,
}

impl Pace {
    /// Begins to measure. Who was fast may pause for as long as `pause`, beside
    /// what the grace allows.
    #[must_use]
    pub fn new(rate: MinRate, pause: Duration) -> Self {
        Self { rate, behind: 0, most_ahead: micros(pause) }
    }

    /// The peer was waited for.
    pub fn waited(&mut self, time: Duration) {
        self.behind = self.behind.saturating_add(micros(time));
    }

    /// The peer moved this many bytes.
    pub fn moved(&mut self, bytes: usize) {
        let time = (bytes as u64).saturating_mul(1_000_000) / self.rate.bytes;
        let time = i64::try_from(time).unwrap_or(i64::MAX);
        self.behind = self.behind.saturating_sub(time).max(-self.most_ahead);
    }

    /// Whether it is as far ahead as counts, so that more bytes change nothing.
    #[must_use]
    pub fn is_well_ahead(&self) -> bool {
        self.behind <= -self.most_ahead
    }

    /// How much longer it may be waited for.
    #[must_use]
    pub fn patience(&self) -> Duration {
        let left = micros(self.rate.grace).saturating_sub(self.behind);
        Duration::from_micros(u64::try_from(left).unwrap_or(0))
    }
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn pace() -> Pace {
        let bytes = NonZeroU64::new(100).unwrap();
        Pace::new(MinRate { bytes, grace: 5 * SECOND }, 60 * SECOND)
    }

    #[test]
    fn who_keeps_the_rate_never_falls_behind() {
        let mut pace = pace();
        for _ in 0..1_000 {
            pace.waited(SECOND);
            pace.moved(100);
        }
        assert_eq!(pace.patience(), 5 * SECOND);
    }

    #[test]
    fn a_byte_at_a_time_is_too_slow_after_the_grace() {
        let mut pace = pace();
        let mut seconds = 0;
        while pace.patience() > Duration::ZERO {
            pace.waited(SECOND);
            pace.moved(1);
            seconds += 1;
        }
        assert_eq!(seconds, 6);
    }

    #[test]
    fn a_burst_that_is_not_back_in_ten_years_is_no_quota_to_keep() {
        let number = |number| NonZeroU32::new(number).unwrap();
        let quota = |requests, per, burst| Quota::new(number(requests), per).burst(number(burst));
        assert!(quota(1, Quota::LONGEST, 1).refills_in_time());
        assert!(quota(10, Quota::LONGEST, 10).refills_in_time());
        assert!(!quota(1, Quota::LONGEST, 2).refills_in_time());
        assert!(!quota(1, 86_400 * SECOND, 3_651).refills_in_time());
        assert!(!quota(1, Duration::MAX, u32::MAX).refills_in_time());
        assert!(quota(u32::MAX, SECOND, u32::MAX).refills_in_time());
    }

    #[test]
    fn who_was_fast_may_pause_but_not_for_ever() {
        let mut pace = pace();
        pace.moved(1 << 30);
        assert!(pace.is_well_ahead());
        assert_eq!(pace.patience(), 65 * SECOND);
    }
}
