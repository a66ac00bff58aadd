//! How many exchanges of each key are under way.
//!
//! A key is remembered for as long as it has one, so there are never more keys than
//! exchanges.

use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroU32;
use std::sync::Arc;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use parking_lot::Mutex;

/// Enough that two cores rarely want the same one.
const SHARDS: usize = 64;

/// Counts exchanges by key.
#[derive(Debug)]
pub(super) struct Slots {
    shards: Box<[Shard]>,
    random: RandomState,
}

/// On a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Shard(Mutex<HashTable<Taken>>);

#[derive(Clone, Copy, Debug)]
struct Taken {
    key: u64,
    by: u32,
}

/// One of the exchanges of a key, until this is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Arc<Slots>,
    key: u64,
}

impl Slots {
    pub(super) fn new() -> Self {
        let shards = (0..SHARDS).map(|_| Shard::default()).collect();
        Self { shards, random: RandomState::new() }
    }

    /// What keys are hashed with that are no numbers.
    pub(super) fn random(&self) -> &RandomState {
        &self.random
    }

    /// One more of this key, unless it has `max` already.
    pub(super) fn take(self: &Arc<Self>, key: u64, max: NonZeroU32) -> Option<Slot> {
        let hash = self.random.hash_one(key);
        let mut shard = self.shard(hash).lock();
        let rehash = |taken: &Taken| self.random.hash_one(taken.key);
        match shard.entry(hash, |taken| taken.key == key, rehash) {
            Entry::Occupied(taken) if taken.get().by >= max.get() => return None,
            Entry::Occupied(mut taken) => taken.get_mut().by += 1,
            Entry::Vacant(free) => {
                free.insert(Taken { key, by: 1 });
            }
        }
        Some(Slot { slots: self.clone(), key })
    }

    fn give_back(&self, key: u64) {
        let hash = self.random.hash_one(key);
        let mut shard = self.shard(hash).lock();
        if let Ok(mut entry) = shard.find_entry(hash, |taken| taken.key == key) {
            entry.get_mut().by -= 1;
            if entry.get().by == 0 {
                entry.remove();
            }
        }
    }

    fn shard(&self, hash: u64) -> &Mutex<HashTable<Taken>> {
        // Other bits than those that the table goes by; the remainder is below SHARDS.
        &self.shards[(hash >> 24) as usize % SHARDS].0
    }

    /// How many keys have exchanges under way.
    pub(super) fn keys(&self) -> usize {
        self.shards.iter().map(|shard| shard.0.lock().len()).sum()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.give_back(self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_free_again_when_it_is_dropped_and_leaves_nothing_behind() {
        let slots = Arc::new(Slots::new());
        let two = NonZeroU32::new(2).unwrap();
        let first = slots.take(7, two).unwrap();
        let second = slots.take(7, two).unwrap();
        assert!(slots.take(7, two).is_none());
        assert!(slots.take(8, two).is_some());
        drop(first);
        let third = slots.take(7, two).unwrap();
        drop((second, third));
        assert_eq!(slots.keys(), 0);
    }

    #[test]
    fn many_threads_never_have_more_than_the_limit() {
        let (slots, most) = (Arc::new(Slots::new()), NonZeroU32::new(3).unwrap());
        let under_way = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        let Some(slot) = slots.take(1, most) else { continue };
                        let now = under_way.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        assert!(now < 3);
                        under_way.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                        drop(slot);
                    }
                });
            }
        });
        assert_eq!(slots.keys(), 0);
    }
}
