//! What an instance knows of each key: what it has taken ahead, and until when nothing
//! passes.
//!
//! A key takes some 170 bytes at the most: 72 in the table and a byte of the table's own,
//! where seven of sixteen places are taken. What says nothing any more is let go of by
//! whoever brings a new key when a shard has grown by half since it was last looked through,
//! or has not been for ten seconds. Where a shard is full of what says something, whoever
//! comes takes the place of one of a few that are looked at: of the one that soonest says
//! nothing, and for which Redis is not being asked.

use std::hash::BuildHasher;

use foldhash::quality::RandomState;
use hashbrown::HashTable;
use parking_lot::{Mutex, MutexGuard};

use super::entry::Entry;

/// The most keys of a shard: half of what the table takes that has room for them, so that
/// it does not grow for the traces of those that have gone.
const MOST_OF_SHARD: usize = 7 << 9;

/// Enough that two cores rarely want the same one.
const LEAST_SHARDS: usize = 64;

/// Below this many keys a shard is not worth looking through because it has grown.
const FEW: usize = 64;

/// How long it may be that a shard is not looked through, in microseconds.
const LOOK_EVERY: i64 = 10_000_000;

/// How soon a full shard is looked through again, in microseconds.
const PAUSE: i64 = 100_000;

/// So many keys of a full shard are looked at for the one that goes.
const CANDIDATES: usize = 8;

/// The keys of one limit, by digest.
#[derive(Debug)]
pub(super) struct Table {
    shards: Box<[Mutex<Shard>]>,
    random: RandomState,
}

#[derive(Debug)]
pub(super) struct Shard {
    keys: HashTable<Kept>,
    random: RandomState,
    /// The most keys.
    most: usize,
    /// When there are so many it is looked through again.
    patience: usize,
    looked: i64,
    /// Keys that had to go, to find the next elsewhere.
    gone: usize,
}

/// A key and what is known of it.
#[derive(Debug)]
struct Kept {
    /// In two halves: as one number it would take more room.
    key: [u64; 2],
    entry: Entry,
}

impl Table {
    /// Room for `max_keys`, rounded up to what the tables hold; none is taken yet.
    pub(super) fn new(max_keys: usize) -> Self {
        let random = RandomState::default();
        let shards = max_keys.div_ceil(MOST_OF_SHARD).max(LEAST_SHARDS);
        let share = max_keys.div_ceil(shards).div_ceil(7).next_power_of_two() * 7;
        let most = share.min(MOST_OF_SHARD);
        let shard = || {
            let (keys, random) = (HashTable::new(), random.clone());
            let patience = FEW.min(most);
            Mutex::new(Shard { keys, random, most, patience, looked: 0, gone: 0 })
        };
        Self { shards: (0..shards).map(|_| shard()).collect(), random: random.clone() }
    }

    pub(super) fn shard(&self, key: u128) -> MutexGuard<'_, Shard> {
        // The lowest and the highest bits are what the shard's own table goes by.
        let between = (self.random.hash_one(halves(key)) >> 24) & 0xffff_ffff;
        // A product of two numbers below 2^32, so the share of the first is below the second.
        let at = (between * self.shards.len() as u64) >> 32;
        self.shards[at as usize].lock()
    }

    /// How many keys are remembered.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().keys.len()).sum()
    }

    /// The most keys that are remembered.
    #[cfg(test)]
    fn capacity(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().most).sum()
    }

    /// The bytes that all keys take.
    #[cfg(test)]
    fn memory(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().keys.allocation_size()).sum()
    }
}

fn halves(key: u128) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, rest @ ..] = key.to_be_bytes();
    [u64::from_be_bytes([a, b, c, d, e, f, g, h]), u64::from_be_bytes(rest)]
}

impl Shard {
    pub(super) fn known(&mut self, key: u128) -> Option<&mut Entry> {
        let key = halves(key);
        let hash = self.random.hash_one(key);
        self.keys.find_mut(hash, |kept| kept.key == key).map(|kept| &mut kept.entry)
    }

    /// What is known of a key, which is nothing at first.
    pub(super) fn entry(&mut self, key: u128, now: i64) -> &mut Entry {
        let key = halves(key);
        let hash = self.random.hash_one(key);
        if self.keys.find(hash, |kept| kept.key == key).is_none() {
            self.make_room(hash, now);
        }
        let random = &self.random;
        let kept = self.keys.entry(hash, |kept| kept.key == key, |kept| random.hash_one(kept.key));
        &mut kept.or_insert_with(|| Kept { key, entry: Entry::new(now) }).into_mut().entry
    }

    fn make_room(&mut self, hash: u64, now: i64) {
        // A shard that is full of what says something is not looked through for each key
        // that comes.
        let pause = if self.patience < self.most { 0 } else { PAUSE };
        let has_grown = self.keys.len() >= self.patience && now - self.looked >= pause;
        if has_grown || now - self.looked >= LOOK_EVERY {
            self.keys.retain(|kept| kept.entry.says_something(now));
            if self.keys.len() < self.keys.capacity() / 4 {
                let random = &self.random;
                self.keys.shrink_to(FEW.max(self.keys.len() * 2), |kept| random.hash_one(kept.key));
            }
            let half_more = self.keys.len() + self.keys.len() / 2;
            self.patience = half_more.max(FEW).min(self.most);
            self.looked = now;
        }
        if self.keys.len() >= self.most {
            self.forget_one(hash);
        }
    }

    /// Forgets who says least, of a few that stand where `hash` and the time happen to point
    /// at.
    fn forget_one(&mut self, hash: u64) {
        self.gone = self.gone.wrapping_add(1);
        let places = self.keys.num_buckets();
        let start = (hash as usize) ^ self.gone.wrapping_mul(0x9e37_79b9);
        let taken = (0..places).filter_map(|step| {
            let place = start.wrapping_add(step) % places;
            Some((self.keys.get_bucket(place)?.entry.says(), place))
        });
        let least = taken.take(CANDIDATES).min();
        if let Some((_, place)) = least
            && let Ok(kept) = self.keys.get_bucket_entry(place)
        {
            kept.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::tests::answer;
    use super::super::rate::tests::rate;
    use super::*;
    use std::sync::Arc;
    use std::time::Duration;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_key_takes_as_many_bytes_as_are_said() {
        assert!(std::mem::size_of::<Kept>() <= 72);
    }

    #[test]
    fn keys_that_say_nothing_are_let_go_of_and_others_are_not() {
        let table = Table::new(1_000_000);
        let (rate, now) = (rate(1, 1), 1);
        for key in 0..20_000_u128 {
            let mut shard = table.shard(key);
            let entry = shard.entry(key, now);
            if key < 100 {
                entry.settle(&rate, &answer(0, 3_600_000_000), now, SECOND, now);
            }
        }
        assert!(table.len() < 20_000, "{}", table.len());
        for key in 0..100 {
            assert!(table.shard(key).known(key).is_some());
        }
    }

    #[test]
    fn a_full_table_forgets_those_that_say_least_and_none_that_is_asked_for() {
        let table = Table::new(10_000);
        let (rate, now) = (rate(1, 1), 1);
        let settle = |key: u128, full| {
            table.shard(key).entry(key, now).settle(&rate, &answer(0, full), now, SECOND, now);
        };
        for key in 0..100 {
            settle(key, 3_600_000_000);
            table.shard(key + 100).entry(key + 100, now).flight = Some(Arc::default());
        }
        for key in 1_000..100_000 {
            settle(key, 60_000_000);
            // Also the one that comes is counted.
            assert!(table.shard(key).known(key).is_some(), "{key}");
        }
        for key in 0..200 {
            assert!(table.shard(key).known(key).is_some(), "{key}");
        }
        assert!(table.len() >= 10_000 && table.len() <= table.capacity(), "{}", table.len());
    }

    #[test]
    fn keys_take_what_is_stated_and_no_more_are_remembered_than_that() {
        for max_keys in [1, 448, 449, 10_000, 229_376, 300_000] {
            let table = Table::new(max_keys);
            let room = table.capacity();
            assert!((max_keys..(2 * max_keys).max(449)).contains(&room), "{max_keys}: {room}");
        }
        let table = Table::new(229_376);
        for key in 0..500_000_u128 {
            let mut shard = table.shard(key);
            let entry = shard.entry(key, 1);
            entry.settle(&rate(1, 1), &answer(0, 3_600_000_000), 1, SECOND, 1);
        }
        assert!(table.len() <= table.capacity(), "{}", table.len());
        let bytes = table.memory() / table.len();
        assert!(bytes <= 170, "{bytes} bytes a key");
    }
}
