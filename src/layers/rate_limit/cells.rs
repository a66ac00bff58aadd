//! The memory of a limiter: a bounded table of keys, in shards.
//!
//! Of each key stands here when its bucket will be full again. Once that has passed, the
//! key has nothing to be remembered for, and goes: when its shard would have to grow, and
//! whenever the shard was not looked through for a minute. A key takes
//! [`RateLimitSettings::BYTES_PER_KEY`] at the most, whatever it was made from: a cell and a
//! byte of the table's own, where seven of sixteen places are taken.
//!
//! Where a shard is full of keys that have not refilled, whoever comes takes the place of
//! one of them: of a few that are looked at, the one that would be full first. So a
//! newcomer is counted like anybody else, and what a flood of keys pushes out is the flood
//! itself, for a key that was used once is full again long before one that is held back.
//! To be forgotten, who is held back would have to use up every other key as well.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};

use governor::clock::{Clock, Reference};
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::state::keyed::ShrinkableKeyedStateStore;
use hashbrown::HashTable;
use parking_lot::Mutex;

#[cfg(doc)]
use super::RateLimitSettings;

/// The most keys of a shard: half of what the table takes that has room for them, so that
/// it is tidied up in its place and does not grow for the traces of those that have gone.
const MOST_OF_SHARD: usize = 7 << 9;

/// Enough that two cores rarely want the same one.
const LEAST_SHARDS: usize = 64;

/// How long a shard may keep keys that have refilled, in nanoseconds.
const LOOK_EVERY: u64 = 60_000_000_000;

/// Of so many requests that come to a shard, one finds out whether that time has passed.
const SAMPLE: u32 = 32;

/// So many keys of a full shard are looked at for the one that goes.
const CANDIDATES: usize = 8;

/// Keys, each with the time at which its bucket is full.
#[derive(Debug)]
pub(super) struct Cells<C: Clock> {
    shards: Box<[Shard]>,
    /// The most keys of one shard.
    most: usize,
    random: RandomState,
    clock: C,
    started: C::Instant,
    /// The shard that is looked through next although nobody has come to it.
    next: AtomicUsize,
}

/// On a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Shard(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    cells: HashTable<Cell>,
    /// Requests, to sample.
    asked: u32,
    /// Keys that came since it was last looked through.
    came: u32,
    looked_at: u64,
}

#[derive(Clone, Copy, Debug)]
struct Cell {
    key: u64,
    full_at: u64,
}

impl<C: Clock> Cells<C> {
    /// Room for `max_keys`, rounded up to what the tables hold; none is taken yet.
    pub(super) fn new(max_keys: usize, clock: C) -> Self {
        let shards = max_keys.div_ceil(MOST_OF_SHARD).max(LEAST_SHARDS);
        let share = max_keys.div_ceil(shards).div_ceil(7).next_power_of_two() * 7;
        Self {
            shards: (0..shards).map(|_| Shard::default()).collect(),
            most: share.min(MOST_OF_SHARD),
            random: RandomState::new(),
            started: clock.now(),
            clock,
            next: AtomicUsize::new(0),
        }
    }

    /// The bytes that all keys take.
    #[cfg(test)]
    fn memory(&self) -> usize {
        let tables = self.shards.iter().map(|shard| shard.0.lock().cells.allocation_size());
        tables.sum::<usize>() + size_of_val(&*self.shards)
    }

    /// The most keys that are remembered.
    #[cfg(test)]
    fn capacity(&self) -> usize {
        self.most * self.shards.len()
    }

    /// How long there have been these cells, in nanoseconds.
    pub(super) fn now(&self) -> u64 {
        self.clock.now().duration_since(self.started).as_u64()
    }

    /// The shard of a hash. A table goes by the lowest and the highest bits; here it is
    /// those between.
    fn shard(&self, hash: u64) -> &Mutex<Table> {
        let between = (hash >> 24) & 0xffff_ffff;
        // A product of two numbers below 2^32, so the share of the first is below the second.
        let index = (between * self.shards.len() as u64) >> 32;
        &self.shards[index as usize].0
    }

    /// Looks a shard through that nobody comes to any more.
    fn look_at_next(&self, now: u64) {
        let next = self.next.fetch_add(1, Ordering::Relaxed) % self.shards.len();
        // Who has it at the moment will find out without help.
        if let Some(mut table) = self.shards[next].0.try_lock() {
            table.look_if_due(now, &self.random);
        }
    }
}

impl Table {
    fn look_if_due(&mut self, now: u64, random: &RandomState) {
        if now.saturating_sub(self.looked_at) > LOOK_EVERY {
            self.forget_full(now);
            if self.cells.len() < self.cells.capacity() / 4 {
                self.cells.shrink_to(self.cells.len() * 2, |cell| random.hash_one(cell.key));
            }
        }
    }

    fn forget_full(&mut self, now: u64) {
        self.cells.retain(|cell| cell.full_at > now);
        (self.came, self.looked_at) = (0, now);
    }

    fn insert(&mut self, hash: u64, cell: Cell, most: usize, now: u64, random: &RandomState) {
        let len = self.cells.len();
        let full = len >= most;
        if full || len == self.cells.capacity() {
            // Not each time, where nothing has refilled.
            if self.came as usize >= len / 8 {
                self.forget_full(now);
            }
            if self.cells.len() >= most {
                self.forget_one(hash);
            }
        }
        self.came = self.came.saturating_add(1);
        self.cells.insert_unique(hash, cell, |cell| random.hash_one(cell.key));
    }

    /// Forgets who would be full first, of a few that stand where `hash` and the time
    /// happen to point at.
    fn forget_one(&mut self, hash: u64) {
        let places = self.cells.num_buckets();
        let start = (hash ^ u64::from(self.came).wrapping_mul(0x9e37_79b9_7f4a_7c15)) as usize;
        let taken = (0..places).filter_map(|step| {
            let place = start.wrapping_add(step) % places;
            Some((self.cells.get_bucket(place)?.full_at, place))
        });
        let first = taken.take(CANDIDATES).min();
        if let Some((_, place)) = first
            && let Ok(entry) = self.cells.get_bucket_entry(place)
        {
            entry.remove();
        }
    }
}

impl<C: Clock> StateStore for Cells<C> {
    type Key = u64;

    fn measure_and_replace<T, F, E>(&self, key: &u64, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        // One that is made to withstand those who choose what is hashed: a client may have
        // many addresses to choose from.
        let hash = self.random.hash_one(key);
        let mut table = self.shard(hash).lock();
        table.asked = table.asked.wrapping_add(1);
        let sampled = table.asked.is_multiple_of(SAMPLE);
        let outcome = match table.cells.find_mut(hash, |cell| cell.key == *key) {
            Some(cell) => measure(Some(Nanos::new(cell.full_at))).map(|(outcome, full_at)| {
                cell.full_at = full_at.as_u64();
                outcome
            }),
            None => measure(None).map(|(outcome, full_at)| {
                let cell = Cell { key: *key, full_at: full_at.as_u64() };
                table.insert(hash, cell, self.most, self.now(), &self.random);
                outcome
            }),
        };
        if sampled {
            let now = self.now();
            table.look_if_due(now, &self.random);
            drop(table);
            self.look_at_next(now);
        }
        outcome
    }
}

impl<C: Clock> ShrinkableKeyedStateStore<u64> for Cells<C> {
    fn retain_recent(&self, drop_below: Nanos) {
        for shard in &self.shards {
            shard.0.lock().forget_full(drop_below.as_u64());
        }
    }

    fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.0.lock().cells.len()).sum()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::RateLimitSettings;
    use governor::clock::FakeRelativeClock;
    use std::time::Duration;

    fn cells(max_keys: usize) -> (Cells<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        (Cells::new(max_keys, clock.clone()), clock)
    }

    /// Has the bucket of a key be full after so many nanoseconds; says when it was before.
    fn put(cells: &Cells<FakeRelativeClock>, key: u64, full_at: u64) -> Option<u64> {
        let put = cells.measure_and_replace(&key, |before| {
            Ok::<_, ()>((before.map(Nanos::as_u64), Nanos::new(full_at)))
        });
        put.unwrap()
    }

    fn remembers(cells: &Cells<FakeRelativeClock>, key: u64) -> bool {
        // Nothing is put where nothing was measured.
        cells.measure_and_replace(&key, |before| Err::<((), Nanos), _>(before.is_some()))
            == Err(true)
    }

    #[test]
    fn a_million_keys_take_what_is_stated() {
        let (cells, _clock) = cells(1_000_000);
        for key in 0..1_000_000 {
            put(&cells, key, u64::MAX);
        }
        // A shard that got more than its share has lost a few.
        assert!(cells.len() > 950_000, "{}", cells.len());
        let bytes = cells.memory() / cells.len();
        assert!(bytes <= RateLimitSettings::BYTES_PER_KEY, "{bytes} bytes a key");
        for key in 1_000_000..1_500_000 {
            put(&cells, key, u64::MAX);
        }
        assert!(cells.len() <= cells.capacity(), "{}", cells.len());
        let bytes = cells.memory() / cells.capacity();
        assert!(bytes <= RateLimitSettings::BYTES_PER_KEY, "{bytes} bytes a key");
    }

    #[test]
    fn whatever_the_bound_there_is_room_for_as_many_and_not_for_twice_as_many() {
        for max_keys in [1, 100, 448, 449, 10_000, 229_376, 229_377, 1_000_000, 10_000_000] {
            let (cells, _clock) = cells(max_keys);
            let room = cells.capacity();
            assert!((max_keys..(2 * max_keys).max(449)).contains(&room), "{max_keys}: {room}");
        }
    }

    #[test]
    fn keys_that_are_full_go_before_a_table_grows() {
        let (cells, clock) = cells(1_000_000);
        for round in 0..100_u64 {
            for key in 0..10_000 {
                put(&cells, round * 10_000 + key, round * 1_000_000 + 500_000);
            }
            clock.advance(Duration::from_millis(1));
        }
        assert!(cells.len() < 30_000, "{}", cells.len());
        assert!(cells.memory() < 4 << 20, "{}", cells.memory());
    }

    #[test]
    fn idle_shards_are_looked_through_by_those_who_come_to_others() {
        let (cells, clock) = cells(100_000);
        for key in 0..10_000 {
            put(&cells, key, 1_000);
        }
        clock.advance(Duration::from_secs(61));
        for _ in 0..(SAMPLE as usize * (cells.shards.len() + 1)) {
            put(&cells, 1, u64::MAX);
        }
        assert_eq!(cells.len(), 1);
        assert!(cells.memory() < 16 << 10, "{}", cells.memory());
    }

    #[test]
    fn a_flood_of_keys_does_not_free_those_that_are_held_back() {
        let (cells, _clock) = cells(10_000);
        let held_back: Vec<u64> = (0..100).map(|key| key | 1 << 63).collect();
        for key in &held_back {
            put(&cells, *key, 20_000_000_000);
        }
        for key in 0..200_000 {
            put(&cells, key, 1_000_000_000 + key);
        }
        let kept = held_back.iter().filter(|key| remembers(&cells, **key)).count();
        assert_eq!(kept, held_back.len());
        assert!(cells.len() <= cells.capacity());
    }

    #[test]
    fn a_newcomer_in_a_flood_is_counted() {
        let (cells, _clock) = cells(1_000);
        for key in 0..100_000 {
            put(&cells, key, 1_000_000_000);
            assert!(remembers(&cells, key), "{key}");
        }
    }
}
