//! A quota in whole numbers, of which no fraction is lost.

use std::time::Duration;

use crate::pace::Quota;

/// The longest that an empty bucket may take to be full, in microseconds: 35 years. What
/// would take longer takes so long.
const LONGEST: u128 = 1 << 50;

/// A quota, for reckoning: a token is back after `micros / parts` microseconds.
///
/// Spans are counted in parts of a microsecond, of which there are [`Rate::parts`] in each:
/// then a token, and with it every span here, is a whole number.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Rate {
    /// Into how many a microsecond is divided; less than 2³².
    parts: u64,
    /// After how many of these parts a token is back.
    token: u64,
    burst: u32,
}

impl Rate {
    /// This quota. A time that is no whole number of microseconds is rounded up to one.
    pub(super) fn of(quota: &Quota) -> Self {
        let (requests, burst) = (u64::from(quota.requests.get()), quota.burst.get());
        let micros = quota.per.as_nanos().div_ceil(1_000).max(1);
        let most = LONGEST * u128::from(requests) / u128::from(burst);
        let micros = u64::try_from(micros.min(most)).unwrap_or(u64::MAX).max(1);
        let common = common_divisor(requests, micros);
        Self { parts: requests / common, token: micros / common, burst }
    }

    pub(super) fn burst(&self) -> u32 {
        self.burst
    }

    /// What a microsecond is divided into.
    pub(super) fn parts(&self) -> u64 {
        self.parts
    }

    /// After how long a token is back, in microseconds and parts of one.
    pub(super) fn token(&self) -> (u64, u64) {
        (self.token / self.parts, self.token % self.parts)
    }

    /// After how long an empty bucket is full, in microseconds and parts of one.
    pub(super) fn fill(&self) -> (u64, u64) {
        let (fill, parts) = (self.tokens(self.burst), i128::from(self.parts));
        let small = |number: i128| u64::try_from(number).unwrap_or(0);
        (small(fill / parts), small(fill % parts))
    }

    /// After how many parts so many tokens are back.
    fn tokens(&self, count: u32) -> i128 {
        i128::from(count) * i128::from(self.token)
    }

    /// A time in microseconds, in parts.
    fn in_parts(&self, micros: i64) -> i128 {
        i128::from(micros) * i128::from(self.parts)
    }

    /// When so many tokens may be taken from a bucket that is full at a time, in
    /// microseconds: no later than they may.
    pub(super) fn opens(&self, full: i64, cost: u32) -> i64 {
        let later = self.tokens(self.burst.saturating_sub(cost));
        full.saturating_sub(ceil(later, self.parts))
    }

    /// When a bucket is full from which this many tokens may be taken at a time, in
    /// microseconds: no earlier than it is.
    pub(super) fn full(&self, opens: i64, cost: u32) -> i64 {
        opens.saturating_add(ceil(self.tokens(self.burst.saturating_sub(cost)), self.parts))
    }

    /// How long the tokens beyond the first keep one waiting, in microseconds, rounded
    /// down.
    pub(super) fn beyond_first(&self, cost: u32) -> i64 {
        floor(self.tokens(cost.saturating_sub(1)), self.parts)
    }

    /// How a bucket stands that is full in so many microseconds and parts of one.
    pub(super) fn standing(&self, full: i64, parts: u64, cost: u32) -> Standing {
        let full = self.in_parts(full) + i128::from(parts);
        let room = self.tokens(self.burst) - full;
        let remaining = u32::try_from(room.max(0) / i128::from(self.token)).unwrap_or(u32::MAX);
        Standing {
            remaining: remaining.min(self.burst),
            wait: self.time(self.tokens(cost) - room),
            reset: self.time(full),
        }
    }

    /// A span of parts as a time, rounded up; nothing if it is past.
    fn time(&self, parts: i128) -> Duration {
        Duration::from_micros(u64::try_from(ceil(parts, self.parts)).unwrap_or(0))
    }

    /// After how long a token is back where so many instances have equal shares, in
    /// nanoseconds, and how many tokens the share holds.
    pub(super) fn share(&self, instances: u32) -> (u64, u32) {
        let instances = instances.max(1);
        let nanos = i128::from(self.token) * 1_000 * i128::from(instances);
        let nanos = u64::try_from(ceil(nanos, self.parts)).unwrap_or(u64::MAX);
        (nanos, (self.burst / instances).max(1))
    }

    /// What tells this quota from every other.
    pub(super) fn digested(&self) -> [u8; 20] {
        let mut bytes = [0; 20];
        bytes[..8].copy_from_slice(&self.parts.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.token.to_be_bytes());
        bytes[16..].copy_from_slice(&self.burst.to_be_bytes());
        bytes
    }
}

/// How a bucket stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Standing {
    /// How many tokens there are.
    pub(super) remaining: u32,
    /// After how long there are as many as were asked about.
    pub(super) wait: Duration,
    /// After how long it is full.
    pub(super) reset: Duration,
}

fn ceil(parts: i128, of: u64) -> i64 {
    let of = i128::from(of);
    i64::try_from(parts.div_euclid(of) + i128::from(parts.rem_euclid(of) > 0)).unwrap_or(i64::MAX)
}

fn floor(parts: i128, of: u64) -> i64 {
    i64::try_from(parts.div_euclid(i128::from(of))).unwrap_or(i64::MAX)
}

fn common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a.max(1)
}

#[cfg(test)]
pub(super) mod tests {
    use std::num::NonZeroU32;

    use super::*;

    /// So many a second, and so many at once.
    pub(in super::super) fn rate(requests: u32, burst: u32) -> Rate {
        Rate::of(&quota(requests, Duration::from_secs(1), burst))
    }

    pub(in super::super) fn quota(requests: u32, per: Duration, burst: u32) -> Quota {
        let some = |number| NonZeroU32::new(number).unwrap();
        Quota::new(some(requests), per).burst(some(burst))
    }

    #[test]
    fn quotas_are_whole_numbers_of_parts() {
        for (requests, per, burst, token, fill) in [
            (1, Duration::from_secs(10), 1, (10_000_000, 0), (10_000_000, 0)),
            (10, Duration::from_secs(1), 20, (100_000, 0), (2_000_000, 0)),
            (3, Duration::from_secs(1), 3, (333_333, 1), (1_000_000, 0)),
            (7_000_000, Duration::from_secs(1), 7, (0, 1), (1, 0)),
            (u32::MAX, Duration::from_secs(1), 1, (0, 1_000_000 / 5), (0, 200_000)),
            // A hundred years at the most.
            (1, Duration::from_secs(1 << 40), 1, (1 << 50, 0), (1 << 50, 0)),
        ] {
            let rate = Rate::of(&quota(requests, per, burst));
            assert_eq!((rate.token(), rate.fill()), (token, fill), "{requests} in {per:?}");
            assert!(rate.parts() < 1 << 32);
        }
    }

    #[test]
    fn a_bucket_stands_as_it_does() {
        let rate = Rate::of(&quota(3, Duration::from_secs(1), 6));
        let standing = |full, parts, cost| rate.standing(full, parts, cost);
        let whole = standing(0, 0, 1);
        assert_eq!((whole.remaining, whole.wait, whole.reset.as_micros()), (6, Duration::ZERO, 0));
        let empty = standing(2_000_000, 0, 2);
        assert_eq!((empty.remaining, empty.wait.as_micros()), (0, 666_667));
        assert_eq!(standing(1_666_667, 0, 1).remaining, 0);
        assert_eq!(standing(1_666_666, 2, 1).remaining, 1);
        let owes = standing(3_000_000, 0, 1);
        assert_eq!((owes.remaining, owes.wait.as_micros()), (0, 1_333_334));
        assert_eq!(owes.reset.as_micros(), 3_000_000);
    }

    #[test]
    fn when_a_bucket_opens_is_never_told_too_late() {
        let rate = Rate::of(&quota(3, Duration::from_secs(1), 6));
        // Full in two seconds means empty now.
        assert_eq!(rate.opens(2_000_000, 1), 2_000_000 - 1_666_667);
        assert!(rate.full(rate.opens(2_000_000, 1), 1) >= 2_000_000);
        assert_eq!(rate.beyond_first(3), 666_666);
    }

    #[test]
    fn an_instance_has_a_share() {
        let rate = Rate::of(&quota(10, Duration::from_secs(1), 20));
        assert_eq!(rate.share(1), (100_000_000, 20));
        assert_eq!(rate.share(3), (300_000_000, 6));
        assert_eq!(rate.share(50), (5_000_000_000, 1));
    }
}
