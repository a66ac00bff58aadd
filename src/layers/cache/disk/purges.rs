//! What has been purged, as a list against which whatever is read is judged: a purge costs
//! the same however much is stored. Purges have numbers, and what is stored has the number
//! of purges that there had been when it was asked for.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use super::Wiped;
use super::folder::Seed;
use super::format::Commit;
use super::journal::{Journal, Kind, Purge, RECORD};

/// The last purges of something.
#[derive(Clone, Copy, Debug, Default)]
struct Last {
    hard: u64,
    soft: u64,
}

#[derive(Debug, Default)]
struct Lists {
    all: Last,
    keys: HashMap<u64, Last>,
    tags: HashMap<u64, Last>,
    /// By their lengths.
    prefixes: HashMap<u32, HashMap<u64, Last>>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    Good,
    Condemned,
    Gone,
}

#[derive(Debug)]
pub(super) struct Purges {
    /// How many there have been.
    count: AtomicU64,
    lists: RwLock<Lists>,
    journal: Mutex<Journal>,
    /// The stamps of what is on its way, and how many have each.
    begun: Mutex<BTreeMap<u64, usize>>,
    seed: Seed,
    /// How many are remembered one by one.
    most: usize,
}

/// The most bytes that the journal of so many purges takes, and its successor beside it.
pub(super) fn reserve(most: usize) -> u64 {
    ((most * 6 + 256) * RECORD) as u64
}

impl Last {
    fn add(&mut self, number: u64, soft: bool) {
        let last = if soft { &mut self.soft } else { &mut self.hard };
        *last = number.max(*last);
    }

    fn newest(&self) -> u64 {
        self.hard.max(self.soft)
    }
}

impl Lists {
    fn add(&mut self, purge: &Purge) {
        let last = match purge.kind {
            Kind::Count => return,
            Kind::All => &mut self.all,
            Kind::Key => self.keys.entry(purge.hash).or_default(),
            Kind::Tag => self.tags.entry(purge.hash).or_default(),
            Kind::Prefix(length) => {
                self.prefixes.entry(length).or_default().entry(purge.hash).or_default()
            }
        };
        last.add(purge.number, purge.soft);
    }

    fn len(&self) -> usize {
        let prefixes = self.prefixes.values().map(HashMap::len);
        self.keys.len() + self.tags.len() + prefixes.sum::<usize>()
    }

    /// Remembers purges up to this one as if they had been of everything.
    fn forget(&mut self, number: u64) {
        self.all.hard = self.all.hard.max(number);
        self.keys.retain(|_, last| last.newest() > number);
        self.tags.retain(|_, last| last.newest() > number);
        for prefixes in self.prefixes.values_mut() {
            prefixes.retain(|_, last| last.newest() > number);
        }
        self.prefixes.retain(|_, prefixes| !prefixes.is_empty());
    }

    /// The number up to which half of them are.
    fn middle(&self) -> u64 {
        let prefixes = self.prefixes.values().flat_map(HashMap::values);
        let all = self.keys.values().chain(self.tags.values()).chain(prefixes);
        let mut numbers: Vec<u64> = all.map(Last::newest).collect();
        let middle = numbers.len() / 2;
        if numbers.is_empty() { 0 } else { *numbers.select_nth_unstable(middle).1 }
    }

    fn purges(&self) -> Vec<Purge> {
        let mut purges = Vec::new();
        let mut add = |kind, hash, last: &Last| {
            for (number, soft) in [(last.hard, false), (last.soft, true)] {
                if number > 0 {
                    purges.push(Purge { kind, soft, number, hash });
                }
            }
        };
        add(Kind::All, 0, &self.all);
        self.keys.iter().for_each(|(hash, last)| add(Kind::Key, *hash, last));
        self.tags.iter().for_each(|(hash, last)| add(Kind::Tag, *hash, last));
        for (length, prefixes) in &self.prefixes {
            prefixes.iter().for_each(|(hash, last)| add(Kind::Prefix(*length), *hash, last));
        }
        purges
    }
}

/// The URL of a key, which stands behind the first line feed.
fn url_of(key: &str) -> &str {
    key.split_once('\n').map_or(key, |(_, url)| url)
}

impl Purges {
    pub(super) fn new(journal: Journal, purges: &[Purge], seed: Seed, most: usize) -> Self {
        let mut lists = Lists::default();
        purges.iter().for_each(|purge| lists.add(purge));
        let count = purges.iter().map(|purge| purge.number).max().unwrap_or(0);
        let (lists, journal) = (RwLock::new(lists), Mutex::new(journal));
        let (count, begun) = (AtomicU64::new(count), Mutex::default());
        Self { count, lists, journal, begun, seed, most }
    }

    /// The stamp of what is asked for now.
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    /// The same, for what is on its way until [`Purges::end`].
    pub(super) fn begin(&self) -> u64 {
        let mut begun = self.begun.lock();
        let stamp = self.count();
        *begun.entry(stamp).or_default() += 1;
        stamp
    }

    pub(super) fn end(&self, stamp: u64) {
        let mut begun = self.begun.lock();
        if let Entry::Occupied(mut count) = begun.entry(stamp) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    /// There have been so many, though the journal does not know it.
    pub(super) fn at_least(&self, count: u64) {
        self.count.fetch_max(count, Ordering::SeqCst);
    }

    /// It holds even if it could not be written.
    pub(super) fn add(&self, what: &Wiped<'_>, soft: bool) -> io::Result<()> {
        let (kind, hash) = match *what {
            Wiped::All => (Kind::All, 0),
            Wiped::Key(key) => (Kind::Key, self.seed.hash(key.as_bytes())),
            Wiped::Tag(tag) => (Kind::Tag, self.seed.hash(tag.as_bytes())),
            Wiped::UrlPrefix(prefix) => {
                let length = u32::try_from(prefix.len()).unwrap_or(u32::MAX);
                (Kind::Prefix(length), self.seed.hash(prefix.as_bytes()))
            }
        };
        let mut journal = self.journal.lock();
        let number = self.count() + 1;
        let purge = Purge { kind, soft, number, hash };
        let written = journal.append(&purge);
        self.lists.write().add(&purge);
        // Whoever takes this for a stamp is not meant, so whoever has a lesser one is by now.
        self.count.store(number, Ordering::SeqCst);
        written
    }

    pub(super) fn judge(&self, hash: u64, commit: &Commit) -> Verdict {
        let lists = self.lists.read();
        let mut last = lists.all;
        let mut meant = |found: Option<&Last>| {
            if let Some(found) = found {
                last = Last { hard: last.hard.max(found.hard), soft: last.soft.max(found.soft) };
            }
        };
        meant(lists.keys.get(&hash));
        if !lists.tags.is_empty() {
            commit.tags.iter().for_each(|tag| meant(lists.tags.get(tag)));
        }
        let url = url_of(&commit.key).as_bytes();
        for (length, prefixes) in &lists.prefixes {
            if let Some(beginning) = url.get(..*length as usize) {
                meant(prefixes.get(&self.seed.hash(beginning)));
            }
        }
        if commit.stamp < last.hard {
            Verdict::Gone
        } else if commit.condemned || commit.stamp < last.soft {
            Verdict::Condemned
        } else {
            Verdict::Good
        }
    }

    /// Forgets purges that are about nothing any more, as nothing with a lesser stamp than
    /// this is stored or on its way, and the older half if there are too many; writes the journal anew
    /// where that makes it much shorter, or where it was lost.
    pub(super) fn tidy(&self, folder: &Path, oldest_stamp: u64) -> io::Result<()> {
        let mut journal = self.journal.lock();
        let count = self.count();
        let begun = self.begun.lock().keys().next().copied().unwrap_or(count);
        let (count, purges) = {
            let mut lists = self.lists.write();
            lists.forget(oldest_stamp.min(begun).min(count));
            if lists.len() > self.most {
                let middle = lists.middle();
                lists.forget(middle);
            }
            (count, lists.purges())
        };
        let long = (purges.len() * 3 / 2 + 64) * RECORD;
        if !journal.is_lost() && journal.size() <= long as u64 {
            return Ok(());
        }
        *journal = Journal::create(folder, count, &purges)?;
        Ok(())
    }

    /// Whether [`Purges::tidy`] is called for.
    pub(super) fn is_untidy(&self) -> bool {
        let journal = self.journal.lock();
        journal.is_lost() || journal.size() > ((self.most * 3 + 128) * RECORD) as u64
    }

    /// Waits until the disk has it.
    pub(super) fn sync(&self) -> io::Result<()> {
        let file = self.journal.lock().file();
        file.map_or(Ok(()), |file| file.sync_data())
    }

    /// Another process has the journal from now on.
    pub(super) fn close(&self) {
        self.journal.lock().close();
    }

    /// How many bytes the journal takes.
    pub(super) fn size(&self) -> u64 {
        self.journal.lock().size()
    }
}
