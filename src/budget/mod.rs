//! The memory that Tollgate may use, lent out piece by piece.
//!
//! Whoever lets memory grow, be it by a connection, an exchange or a longer
//! buffer, takes a [`Charge`] for as much as that may come to, and gives it back
//! by dropping it. What does not fit is refused before it is begun: the system
//! never has to end the process for want of memory.
//!
//! Each thread takes from a share of its own, which it fills from the whole in
//! slabs, so that the cores do not count on one cache line. When little is left
//! the shares are called in, and the count is exact.

mod machine;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

pub use machine::memory_limit;

use crate::seat::seat;

/// What a thread takes from the whole at once.
const SLAB: usize = 1024 * 1024;

/// What a charge is for. Each use has to leave something of the budget to the
/// more urgent ones, so that what has been begun can also be carried out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Use {
    /// A longer buffer than the least. Without it a message moves in smaller
    /// steps. Up to 3/4 of the budget.
    Buffer,
    /// A request and its response. Up to 7/8.
    Exchange,
    /// A connection to an origin. Up to 15/16.
    Origin,
    /// A connection from a client, which is to be told that there is no room for
    /// its request. Up to the whole.
    Connection,
}

impl Use {
    /// Every use.
    pub const ALL: [Self; 4] = [Self::Buffer, Self::Exchange, Self::Origin, Self::Connection];

    /// The use as one word, for metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Buffer => "buffer",
            Self::Exchange => "exchange",
            Self::Origin => "origin",
            Self::Connection => "connection",
        }
    }

    const fn limit(self, max: usize) -> usize {
        match self {
            Self::Buffer => max / 4 * 3,
            Self::Exchange => max / 8 * 7,
            Self::Origin => max / 16 * 15,
            Self::Connection => max,
        }
    }
}

/// A number of bytes that may be charged at once. Cheap to clone: all clones are
/// the same budget. The default is one without bounds, which counts nothing.
#[derive(Clone, Debug, Default)]
pub struct Budget(Option<Arc<Pool>>);

#[derive(Debug)]
struct Pool {
    ledger: Arc<Ledger>,
    shares: Box<[Arc<Share>]>,
}

/// What all threads write to, seldom.
#[derive(Debug)]
#[repr(align(128))]
struct Ledger {
    max: usize,
    slab: usize,
    /// What the shares and the charges have together.
    taken: AtomicUsize,
    refused: [AtomicU64; Use::ALL.len()],
}

/// What one thread may lend out without asking, on cache lines of its own.
#[derive(Debug)]
#[repr(align(128))]
struct Share {
    free: AtomicUsize,
    ledger: Arc<Ledger>,
}

/// Memory that is spoken for, until this is dropped.
#[derive(Debug, Default)]
pub struct Charge {
    /// Where it goes back to; `None` where nothing is counted.
    share: Option<Arc<Share>>,
    bytes: usize,
}

impl Budget {
    /// A budget of `max` bytes.
    #[must_use]
    pub fn new(max: usize) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(64);
        let slab = SLAB.min(max / (16 * threads));
        let ledger = Ledger {
            max,
            slab,
            taken: AtomicUsize::new(0),
            refused: std::array::from_fn(|_| AtomicU64::new(0)),
        };
        let ledger = Arc::new(ledger);
        let share = |_| Arc::new(Share { free: AtomicUsize::new(0), ledger: ledger.clone() });
        let shares = (0..threads).map(share).collect();
        Self(Some(Arc::new(Pool { ledger, shares })))
    }

    /// A budget without bounds.
    #[must_use]
    pub fn unlimited() -> Self {
        Self(None)
    }

    /// How many bytes may be charged at once; `None` where nothing is counted.
    #[must_use]
    pub fn max(&self) -> Option<usize> {
        self.0.as_ref().map(|pool| pool.ledger.max)
    }

    /// How many bytes are charged.
    #[must_use]
    pub fn charged(&self) -> usize {
        let Some(pool) = &self.0 else { return 0 };
        let free: usize = pool.shares.iter().map(|share| share.free.load(Ordering::Relaxed)).sum();
        pool.ledger.taken.load(Ordering::Relaxed).saturating_sub(free)
    }

    /// How often this use was refused.
    #[must_use]
    pub fn refused(&self, of: Use) -> u64 {
        self.0.as_ref().map_or(0, |pool| pool.ledger.refused[of as usize].load(Ordering::Relaxed))
    }

    /// Takes `bytes` for this use; `None` if they do not fit.
    #[must_use]
    pub fn charge(&self, bytes: usize, of: Use) -> Option<Charge> {
        let Some(pool) = &self.0 else { return Some(Charge::default()) };
        let share = &pool.shares[seat() % pool.shares.len()];
        let limit = of.limit(pool.ledger.max);
        if share.take(bytes, limit) || pool.take_of_all(bytes, limit) {
            return Some(Charge { share: Some(share.clone()), bytes });
        }
        pool.ledger.refused[of as usize].fetch_add(1, Ordering::Relaxed);
        None
    }

    /// Has `charge` cover `bytes`; false, and as it was, if they do not fit.
    pub fn extend(&self, charge: &mut Charge, bytes: usize, of: Use) -> bool {
        let more = bytes.saturating_sub(charge.bytes);
        if more == 0 || self.0.is_none() {
            return true;
        }
        let Some(mut other) = self.charge(more, of) else { return false };
        // It does not matter which share it goes back to.
        other.bytes += std::mem::take(&mut charge.bytes);
        *charge = other;
        true
    }
}

impl Pool {
    /// Takes from the whole, with the shares called in.
    fn take_of_all(&self, bytes: usize, limit: usize) -> bool {
        for share in &self.shares {
            let free = share.free.swap(0, Ordering::Relaxed);
            self.ledger.taken.fetch_sub(free, Ordering::Relaxed);
        }
        self.ledger.take(bytes, limit)
    }
}

impl Ledger {
    fn take(&self, bytes: usize, limit: usize) -> bool {
        let more = |taken: usize| taken.checked_add(bytes).filter(|taken| *taken <= limit);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }
}

impl Share {
    /// Takes from this share, filling it if it has too little. What all have taken
    /// is at least what is charged, so below the limit there is no need to know
    /// that exactly.
    fn take(&self, bytes: usize, limit: usize) -> bool {
        let less = |free: usize| free.checked_sub(bytes);
        if self.ledger.taken.load(Ordering::Relaxed) <= limit
            && self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
        {
            return true;
        }
        let slab = self.ledger.slab;
        if self.ledger.take(bytes.saturating_add(slab), limit) {
            self.free.fetch_add(slab, Ordering::Relaxed);
            return true;
        }
        false
    }

    /// Takes bytes back, and leaves to others what it does not need.
    fn give(&self, bytes: usize) {
        let free = self.free.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let slab = self.ledger.slab;
        if free > 2 * slab {
            let keep = |free: usize| (free > slab).then_some(slab);
            let before = self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, keep);
            if let Ok(before) = before {
                self.ledger.taken.fetch_sub(before - slab, Ordering::Relaxed);
            }
        }
    }
}

impl Charge {
    /// How many bytes it is for; none where nothing is counted.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if let Some(share) = &self.share
            && self.bytes > 0
        {
            share.give(self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_charged_is_given_back() {
        let budget = Budget::new(1 << 20);
        let first = budget.charge(1000, Use::Exchange).unwrap();
        let second = budget.charge(500_000, Use::Exchange).unwrap();
        assert_eq!(budget.charged(), 501_000);
        drop(first);
        assert_eq!(budget.charged(), 500_000);
        drop(second);
        assert_eq!(budget.charged(), 0);
    }

    #[test]
    fn the_count_is_exact_where_little_is_left() {
        let budget = Budget::new(160_000);
        let held: Vec<_> = std::iter::from_fn(|| budget.charge(1_000, Use::Connection)).collect();
        assert_eq!(held.len(), 160);
        assert_eq!(budget.refused(Use::Connection), 1);
        drop(held);
        assert!(budget.charge(160_000, Use::Connection).is_some());
    }

    #[test]
    fn each_use_leaves_something_to_the_more_urgent() {
        let budget = Budget::new(16_000);
        let mut held = Vec::new();
        for (of, share) in
            [(Use::Buffer, 12), (Use::Exchange, 14), (Use::Origin, 15), (Use::Connection, 16)]
        {
            held.extend(std::iter::from_fn(|| budget.charge(500, of)));
            assert_eq!(budget.charged(), share * 1_000, "{of:?}");
        }
        assert!(budget.charge(usize::MAX, Use::Connection).is_none());
    }

    #[test]
    fn a_charge_is_extended_or_left_as_it_was() {
        let budget = Budget::new(16_000);
        let mut charge = Charge::default();
        assert!(budget.extend(&mut charge, 8_000, Use::Buffer));
        assert!(budget.extend(&mut charge, 4_000, Use::Buffer));
        assert_eq!(charge.bytes(), 8_000);
        assert!(!budget.extend(&mut charge, 13_000, Use::Buffer));
        assert_eq!((charge.bytes(), budget.charged()), (8_000, 8_000));
        let there = std::thread::scope(|scope| {
            let extend = || budget.extend(&mut charge, 10_000, Use::Buffer);
            scope.spawn(extend).join().unwrap()
        });
        assert!(there);
        assert_eq!((charge.bytes(), budget.charged()), (10_000, 10_000));
        drop(charge);
        assert_eq!(budget.charged(), 0);
    }

    #[test]
    fn many_threads_never_pass_the_limit_and_lose_nothing() {
        let budget = Budget::new(1 << 20);
        let most = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (budget, most) = (&budget, &most);
                scope.spawn(move || {
                    let mut held = std::collections::VecDeque::new();
                    for turn in 0..20_000 {
                        held.extend(budget.charge(1 + (turn * 37 + thread) % 9_000, Use::Exchange));
                        if held.len() > 300 {
                            held.pop_front();
                        }
                        let taken = budget.0.as_ref().unwrap().ledger.taken.load(Ordering::Relaxed);
                        most.fetch_max(taken, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(budget.charged(), 0);
        // 7/8 of a mebibyte, of which each alone at times wanted more.
        assert!(most.into_inner() <= (1 << 20) / 8 * 7);
        assert!(budget.refused(Use::Exchange) > 0);
    }

    #[test]
    fn without_bounds_nothing_is_counted() {
        let budget = Budget::unlimited();
        let mut charge = budget.charge(usize::MAX, Use::Buffer).unwrap();
        assert!(budget.extend(&mut charge, usize::MAX, Use::Buffer));
        assert_eq!((budget.max(), budget.charged()), (None, 0));
    }
}
