//! Stored responses, on disk: segments that are only ever appended to, an index of them
//! in memory, and a list of what has been purged.
//!
//! | file | what it is about |
//! |---|---|
//! | `format` | records: how they are written, and that no damaged one is taken for whole |
//! | `segment` | a file of records |
//! | `contents` | what stands in a segment, for a fast restart |
//! | `index` | where everything lies, in memory |
//! | `journal`, `purges` | what has been purged |
//! | `folder`, `recover` | whose folder it is, and what is in it |
//! | `writer`, `evict` | the thread that writes, and what has to go |
//! | `writing`, `reading` | a response on its way there, and back |
//!
//! One thread writes. It keeps the order, so of two responses for the same key the one
//! further on is the newer one, before and after a crash. Nothing is synchronized with the
//! disk but purges: what a crash of the machine leaves incomplete, checksums find out.

mod contents;
mod evict;
mod folder;
mod format;
mod index;
mod journal;
mod purges;
mod reading;
mod recover;
mod segment;
#[cfg(test)]
mod tests;
mod writer;
mod writing;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::sync::oneshot;

use folder::Seed;
use format::CHUNK;
use index::{Index, Known};
use purges::Purges;
use segment::{From, Segment};
use writer::Job;

pub(super) use reading::OnDisk;
pub(super) use writing::Writing;

/// Where the store lies and how much of the disk it may take.
#[derive(Clone, Debug)]
pub(super) struct DiskSettings {
    /// A folder of the store's own. It is made if it is not there.
    pub(super) folder: PathBuf,
    /// The most bytes that its files take together. A body of up to a fifth of it can be
    /// stored.
    pub(super) capacity: u64,
}

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error("{} is in use by another process", .0.display())]
    Locked(PathBuf),
    #[error("{} holds files that are not this cache's", .0.display())]
    Foreign(PathBuf),
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// What is purged.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wiped<'a> {
    /// All variants of one key.
    Key(&'a str),
    /// All keys whose URL, which stands behind the line feed, begins so.
    UrlPrefix(&'a str),
    /// Whatever was stored with this tag.
    Tag(&'a str),
    All,
}

/// What a store has done, and what is in it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct DiskFigures {
    /// Bytes that the files take, with those that were removed and are still being read.
    pub(super) bytes: u64,
    pub(super) capacity: u64,
    pub(super) objects: u64,
    /// Responses that have been stored, renewed ones among them.
    pub(super) written: u64,
    /// Responses that could not be stored, and stored ones that could not be read.
    pub(super) failed: u64,
    /// Responses that were not stored because the disk was behind.
    pub(super) too_busy: u64,
}

/// A store. Cheap to clone; all clones are one. With the last of them its thread ends, as
/// soon as what was given is written.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    shared: Arc<Shared>,
    jobs: Sender<Job>,
}

/// What was found under a key.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) meta: Bytes,
    /// It was purged softly: to be validated before it is used.
    pub(super) condemned: bool,
    pub(super) body: OnDisk,
}

/// By their numbers, which grow.
type Segments = BTreeMap<u32, Arc<Segment>>;

#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    seed: Seed,
    layout: Layout,
    index: Index,
    segments: ArcSwap<Segments>,
    purges: Purges,
    /// Bytes that the writer has still to write.
    queued: AtomicU64,
    /// Bytes that wait for more, to become chunks.
    gathered: AtomicU64,
    /// Bytes of removed segments that are still being read.
    pinned: AtomicU64,
    written: AtomicU64,
    failed: AtomicU64,
    too_busy: AtomicU64,
    closed: AtomicBool,
}

/// How the capacity is shared out.
#[derive(Clone, Copy, Debug)]
struct Layout {
    capacity: u64,
    /// For all segments.
    segments: u64,
    /// For one of them, with its contents.
    segment: u64,
    /// After so many bytes it is written down what stands there.
    noted: u64,
    /// The most bytes that are written again with each segment.
    rescued: u64,
    chunk: usize,
    /// The longest body.
    longest: u64,
    purges: usize,
}

impl Layout {
    fn of(capacity: u64) -> Self {
        const MIB: u64 = 1024 * 1024;
        #[allow(clippy::cast_possible_truncation, reason = "it is not large")]
        let purges = (capacity / 16384).clamp(64, 262_144) as usize;
        let left = capacity.saturating_sub(purges::reserve(purges) + 4096);
        // Not more files than a process may have open, and no file longer than its places
        // can tell.
        let segment = (capacity / 256).clamp(64 * MIB, 3072 * MIB).min(left / 16);
        let noted = (segment / 8).max(64 * MIB);
        // Under Zipf's law, with room for a quarter of all that is asked for, half of it
        // would find one in a hundred more, and write a fifth more.
        let rescued = segment / 4;
        let chunk = CHUNK.min(usize::try_from(segment / 4).unwrap_or(CHUNK));
        let segments = left - rescued;
        Self { capacity, segments, segment, noted, rescued, chunk, longest: left / 4, purges }
    }
}

impl Shared {
    fn new(
        folder: PathBuf,
        seed: Seed,
        layout: Layout,
        index: Index,
        segments: Segments,
        purges: Purges,
    ) -> Self {
        let segments = ArcSwap::from_pointee(segments);
        let zero = || AtomicU64::new(0);
        let (queued, gathered, pinned) = (zero(), zero(), zero());
        let (written, failed, too_busy) = (zero(), zero(), zero());
        let closed = AtomicBool::new(false);
        Self {
            folder,
            seed,
            layout,
            index,
            segments,
            purges,
            queued,
            gathered,
            pinned,
            written,
            failed,
            too_busy,
            closed,
        }
    }

    fn hash(&self, key: &str) -> u64 {
        self.seed.hash(key.as_bytes())
    }

    /// It cannot be read.
    fn lost(&self, known: &Known) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.index.forget(known);
    }

    fn tag_hashes(&self, tags: &[Box<str>]) -> Box<[u64]> {
        tags.iter().map(|tag| self.seed.hash(tag.as_bytes())).collect()
    }
}

impl Disk {
    /// Takes a folder, for this process alone, and learns what is in it. It blocks.
    ///
    /// # Errors
    ///
    /// See [`OpenError`].
    pub(super) fn open(settings: &DiskSettings) -> Result<Self, OpenError> {
        let (folder, usable) = folder::Folder::take(&settings.folder)?;
        let failed = |source| OpenError::Io { path: settings.folder.clone(), source };
        let layout = Layout::of(settings.capacity);
        let (shared, active) = recover::recover(&folder, usable, layout).map_err(failed)?;
        let shared = Arc::new(shared);
        let jobs = writer::start(shared.clone(), folder, active).map_err(failed)?;
        Ok(Self { shared, jobs })
    }

    pub(super) fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::SeqCst)
    }

    /// Whether something may be stored under a key. It looks at memory alone.
    pub(super) fn may_have(&self, key: &str) -> bool {
        !self.is_closed() && self.shared.index.contains(self.shared.hash(key))
    }

    /// What is stored under a key, oldest first. What cannot be read is left out, counted
    /// and forgotten.
    pub(super) async fn find(&self, key: &str) -> Vec<Found> {
        if !self.may_have(key) {
            return Vec::new();
        }
        if let Some(found) = reading::find(&self.shared, key, From::Memory) {
            return found;
        }
        let (shared, key) = (self.shared.clone(), Box::<str>::from(key));
        let found = tokio::task::spawn_blocking(move || reading::find(&shared, &key, From::Disk));
        // It fails where the runtime ends.
        found.await.ok().flatten().unwrap_or_default()
    }

    /// Begins to store a response, in the place of an earlier one of the same key and
    /// variant. What is purged from now on is not stored. None where the disk is too far
    /// behind.
    pub(super) fn begin(&self, key: &str, variant: u64, tags: &[Box<str>]) -> Option<Writing> {
        if self.is_closed() {
            return None;
        }
        Writing::begin(&self.shared, &self.jobs, (key, variant, tags))
    }

    /// Stores the same body under other meta, without writing it again. What was purged
    /// since `found` was found stays so; what was purged softly before is not condemned any
    /// more. Nothing is done if another response has taken its place meanwhile.
    pub(super) fn renew(
        &self,
        found: &OnDisk,
        key: &str,
        variant: u64,
        tags: &[Box<str>],
        meta: Bytes,
    ) {
        if !self.is_closed() {
            let tags = self.shared.tag_hashes(tags);
            writing::renew(&self.shared, &self.jobs, found, (key, variant, tags, meta));
        }
    }

    /// Forgets what is meant, or, softly, has it found as condemned. It writes a few bytes,
    /// and looks at nothing that is stored. When it is back, the purge holds even if the
    /// process is killed.
    pub(super) fn purge(&self, what: &Wiped<'_>, soft: bool) {
        if self.is_closed() {
            return;
        }
        if let Err(error) = self.shared.purges.add(what, soft) {
            self.shared.failed.fetch_add(1, Ordering::Relaxed);
            let folder = self.shared.folder.display();
            tracing::error!(%folder, %error, "a purge could not be written");
        }
        let job = match what {
            Wiped::All if !soft => Job::Clear(self.shared.purges.count()),
            _ => Job::Purged,
        };
        if let Wiped::Key(key) = what
            && !soft
        {
            self.shared.index.forget_key(self.shared.hash(key));
        }
        // If the thread has ended, so has the store.
        let _sent = self.jobs.send(job);
    }

    pub(super) fn figures(&self) -> DiskFigures {
        let shared = &self.shared;
        let segments: u64 = shared.segments.load().values().map(|segment| segment.takes()).sum();
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        DiskFigures {
            bytes: segments + load(&shared.pinned) + shared.purges.size() + folder::SIZE as u64,
            capacity: shared.layout.capacity,
            objects: shared.index.len(),
            written: load(&shared.written),
            failed: load(&shared.failed),
            too_busy: load(&shared.too_busy),
        }
    }

    /// Writes what was given, and lets go of the folder. Nothing is found or stored
    /// from then on.
    pub(super) async fn close(&self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        let (done, ended) = oneshot::channel();
        if self.jobs.send(Job::Close(done)).is_ok() {
            let _ended = ended.await;
        }
    }
}
