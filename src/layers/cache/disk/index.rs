//! Where everything lies, in memory: 32 bytes for each response, in tables of which each
//! has a lock of its own. A key is known by its hash alone: whether a response is of the
//! key that was meant, the key in its commit says.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use hashbrown::HashTable;
use parking_lot::RwLock;

use super::format::Place;

/// Tables, among which keys are shared out.
const SHARDS: usize = 256;

/// The most variants of one key: each of them is read when the key is looked for.
const MOST_VARIANTS: usize = 32;

/// The bit of a length that tells that the response was asked for.
const ASKED: u32 = 1 << 31;

/// Bytes that hold a commit, or a chunk and its commit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Spot {
    pub(super) place: Place,
    pub(super) length: u32,
    /// The segment that goes first of those that the response lies in.
    pub(super) oldest: u32,
}

/// A response, as the index knows it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Known {
    pub(super) hash: u64,
    pub(super) variant: u64,
    pub(super) spot: Spot,
}

#[derive(Debug)]
struct Entry {
    hash: u64,
    variant: u64,
    place: Place,
    length: AtomicU32,
    oldest: u32,
}

#[derive(Debug)]
pub(super) struct Index {
    shards: Box<[RwLock<HashTable<Entry>>]>,
    count: AtomicU64,
}

impl Entry {
    fn new(known: &Known, asked: bool) -> Self {
        let Known { hash, variant, spot: Spot { place, length, oldest } } = *known;
        let length = AtomicU32::new(length | if asked { ASKED } else { 0 });
        Self { hash, variant, place, length, oldest }
    }

    fn known(&self) -> Known {
        let Self { hash, variant, place, oldest, .. } = *self;
        let length = self.length.load(Ordering::Relaxed) & !ASKED;
        Known { hash, variant, spot: Spot { place, length, oldest } }
    }

    fn asked(&self) -> bool {
        self.length.load(Ordering::Relaxed) & ASKED != 0
    }
}

impl Index {
    pub(super) fn new() -> Self {
        let shards = (0..SHARDS).map(|_| RwLock::default()).collect();
        Self { shards, count: AtomicU64::new(0) }
    }

    fn shard(&self, hash: u64) -> &RwLock<HashTable<Entry>> {
        // The table itself goes by the lowest bits and the highest.
        &self.shards[(hash >> 32) as usize % SHARDS]
    }

    pub(super) fn len(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    pub(super) fn contains(&self, hash: u64) -> bool {
        self.shard(hash).read().find(hash, |entry| entry.hash == hash).is_some()
    }

    /// All responses with this hash, oldest first. They have been asked for from now on.
    pub(super) fn ask(&self, hash: u64) -> Vec<Known> {
        let table = self.shard(hash).read();
        let entries = table.iter_hash(hash).filter(|entry| entry.hash == hash);
        let mut found: Vec<_> = entries
            .map(|entry| {
                entry.length.fetch_or(ASKED, Ordering::Relaxed);
                entry.known()
            })
            .collect();
        found.sort_unstable_by_key(|known| known.spot.place);
        found
    }

    pub(super) fn get(&self, hash: u64, variant: u64) -> Option<Known> {
        let table = self.shard(hash).read();
        table.find(hash, |entry| entry.is(hash, variant)).map(Entry::known)
    }

    /// Puts a response in the place of the one with the same hash and variant. Of too many
    /// variants the one that was written first goes.
    pub(super) fn put(&self, known: &Known, asked: bool) {
        let Known { hash, variant, .. } = *known;
        let mut table = self.shard(hash).write();
        let new = Entry::new(known, asked);
        if let Some(old) = table.find_mut(hash, |entry| entry.is(hash, variant)) {
            *old = new;
            return;
        }
        table.insert_unique(hash, new, |entry| entry.hash);
        let variants = table.iter_hash(hash).filter(|entry| entry.hash == hash);
        let (count, first) = variants.fold((0, None), |(count, first), entry| {
            let first = first.map_or(entry.place, |first| entry.place.min(first));
            (count + 1, Some(first))
        });
        let is_first = |entry: &Entry| entry.hash == hash && Some(entry.place) == first;
        match table.find_entry(hash, is_first) {
            Ok(entry) if count > MOST_VARIANTS => drop(entry.remove()),
            _ => {
                self.count.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Forgets a response, unless another has taken its place.
    pub(super) fn forget(&self, known: &Known) {
        let Known { hash, variant, spot } = *known;
        let mut table = self.shard(hash).write();
        let same = |entry: &Entry| entry.is(hash, variant) && entry.place == spot.place;
        if let Ok(entry) = table.find_entry(hash, same) {
            entry.remove();
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Forgets all variants of a key.
    pub(super) fn forget_key(&self, hash: u64) {
        let mut table = self.shard(hash).write();
        while let Ok(entry) = table.find_entry(hash, |entry| entry.hash == hash) {
            entry.remove();
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// What goes with a segment that is the oldest one, and whether it was asked for, in
    /// the order in which it lies there.
    pub(super) fn going_with(&self, segment: u32) -> Vec<(Known, bool)> {
        let mut going = Vec::new();
        for shard in &self.shards {
            let table = shard.read();
            let with = table.iter().filter(|entry| entry.oldest <= segment);
            going.extend(with.map(|entry| (entry.known(), entry.asked())));
        }
        going.sort_unstable_by_key(|(known, _)| known.spot.place);
        going
    }

    /// Bytes of memory that it takes.
    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().allocation_size()).sum()
    }

    /// Forgets whatever lies in a segment that is not meant.
    pub(super) fn retain(&self, meant: impl Fn(u32) -> bool) {
        for shard in &self.shards {
            let mut table = shard.write();
            let before = table.len();
            table.retain(|entry| meant(entry.oldest) && meant(entry.place.segment));
            self.count.fetch_sub((before - table.len()) as u64, Ordering::Relaxed);
        }
    }
}

impl Entry {
    fn is(&self, hash: u64, variant: u64) -> bool {
        self.hash == hash && self.variant == variant
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(hash: u64, variant: u64, segment: u32, offset: u32) -> Known {
        let place = Place { segment, offset };
        Known { hash, variant, spot: Spot { place, length: 100, oldest: segment } }
    }

    #[test]
    fn a_response_takes_32_bytes() {
        assert_eq!(size_of::<Entry>(), 32);
    }

    #[test]
    fn a_key_has_several_variants_and_each_is_there_once() {
        let index = Index::new();
        index.put(&known(5, 1, 1, 40), false);
        index.put(&known(5, 2, 1, 20), false);
        index.put(&known(5 << 40, 2, 1, 60), false);
        assert_eq!(index.ask(5), [known(5, 2, 1, 20), known(5, 1, 1, 40)]);
        index.put(&known(5, 2, 2, 0), false);
        assert_eq!(index.ask(5), [known(5, 1, 1, 40), known(5, 2, 2, 0)]);
        index.forget(&known(5, 2, 1, 20));
        assert_eq!(index.len(), 3);
        index.forget(&known(5, 2, 2, 0));
        assert_eq!(index.ask(5), [known(5, 1, 1, 40)]);
        index.forget_key(5);
        assert!(!index.contains(5) && index.contains(5 << 40) && index.len() == 1);
    }

    #[test]
    fn of_too_many_variants_the_one_written_first_goes() {
        let index = Index::new();
        let variant = |number: u32| known(5, u64::from(number), 1, 100 - number);
        for number in 0..40 {
            index.put(&variant(number), false);
        }
        let most = u32::try_from(MOST_VARIANTS).unwrap();
        let left: Vec<_> = (0..most).rev().map(variant).collect();
        assert_eq!((index.ask(5), index.len()), (left, u64::from(most)));
        index.put(&known(5, 3, 2, 0), false);
        index.put(&known(5, 40, 2, 1), false);
        let gone = u64::from(most) - 1;
        assert!(index.get(5, gone).is_none() && index.get(5, 3).is_some());
        assert_eq!(index.len(), u64::from(most));
    }

    #[test]
    fn what_goes_with_a_segment_is_known_and_whether_it_was_asked_for() {
        let index = Index::new();
        index.put(&known(1, 0, 1, 40), false);
        index.put(&known(2, 0, 1, 20), false);
        let elsewhere =
            Known { spot: Spot { oldest: 1, ..known(3, 0, 2, 0).spot }, ..known(3, 0, 2, 0) };
        index.put(&elsewhere, true);
        index.put(&known(4, 0, 2, 20), false);
        index.ask(1);
        let going = [(known(2, 0, 1, 20), false), (known(1, 0, 1, 40), true), (elsewhere, true)];
        assert_eq!(index.going_with(1), going);
        index.retain(|segment| segment != 1);
        assert!(index.contains(4) && index.len() == 1);
    }
}
