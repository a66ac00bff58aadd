//! The thread that writes. Records are collected and written together; what they make is
//! found only once they have been written. What cannot be written is counted, and was
//! never there.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::Shared;
use super::contents;
use super::folder::Folder;
use super::format::{self, Commit, Extent, HEADER, Place, SMALL};
use super::index::{Known, Spot};
use super::purges::Verdict;
use super::segment::{From, START, Segment};
use super::writing::{Begun, Progress, Queued};

/// So many bytes are written at once.
const BATCH: usize = 1024 * 1024;

/// What the thread is asked to do.
#[derive(Debug)]
pub(super) enum Job {
    /// The next part of a body.
    Chunk {
        progress: Arc<Mutex<Progress>>,
        pieces: Vec<Bytes>,
        queued: Queued,
    },
    /// The last part of it, and all that makes it a response.
    Commit {
        progress: Arc<Mutex<Progress>>,
        pieces: Vec<Bytes>,
        commit: Box<Commit>,
        begun: Begun,
        queued: Queued,
    },
    /// Another commit for the same body.
    Renew {
        known: Known,
        commit: Box<Commit>,

        queued: Queued,
    },
    /// There is a new purge.
    Purged,
    /// Nothing with a lesser stamp is there any more.
    Clear(u64),
    Close(oneshot::Sender<()>),
    /// Tells when what was given before is written.
    #[cfg(test)]
    Settle(oneshot::Sender<()>),
}

pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) folder: Folder,
    pub(super) active: Option<Active>,
    /// The number of the next segment.
    pub(super) next: u32,
    /// What goes to the end of the active segment.
    batch: Vec<u8>,
    /// What is found once the batch is written, and whether it has been asked for.
    waiting: Vec<(Known, bool)>,
    /// Whose parts are in the batch.
    parts: Vec<Arc<Mutex<Progress>>>,
    /// Removed segments that somebody may still read, and what they take.
    pub(super) gone: Vec<(Weak<Segment>, u64)>,
    unsynced: bool,
}

/// The segment that is written to.
pub(super) struct Active {
    pub(super) segment: Arc<Segment>,
    pub(super) entries: Vec<Known>,
    /// Up to where its contents have been written.
    noted: u64,
}

impl Active {
    pub(super) fn new(segment: Arc<Segment>, entries: Vec<Known>) -> Self {
        let noted = segment.size();
        Self { segment, entries, noted }
    }

    /// Writes its contents if it has grown so much: a start after a crash reads no more
    /// than that.
    fn note(&mut self, folder: &Path, every: u64) {
        if self.segment.size() - self.noted >= every {
            self.noted = self.segment.size();
            let _written = contents::write(folder, &self.segment, &self.entries);
        }
    }
}

/// Begins the thread, which ends with the last sender.
pub(super) fn start(
    shared: Arc<Shared>,
    folder: Folder,
    active: Option<Active>,
) -> io::Result<Sender<Job>> {
    let (sender, jobs) = channel();
    let last = shared.segments.load().keys().next_back().copied();
    let next = last.map_or(0, |last| last.saturating_add(1));
    let (batch, waiting, parts, gone) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let writer =
        Writer { shared, folder, active, next, batch, waiting, parts, gone, unsynced: false };
    std::thread::Builder::new().name("cache-disk".into()).spawn(move || writer.run(&jobs))?;
    Ok(sender)
}

impl Writer {
    fn run(mut self, jobs: &Receiver<Job>) {
        let closing = loop {
            let job = match jobs.try_recv() {
                Err(TryRecvError::Empty) => {
                    self.settle();
                    jobs.recv().ok()
                }
                job => job.ok(),
            };
            match job {
                None => break None,
                Some(Job::Close(done)) => break Some(done),
                Some(job) => self.take(job),
            }
            if self.batch_is_full() {
                self.flush();
            }
        };
        self.settle();
        self.seal();
        self.shared.closed.store(true, Ordering::SeqCst);
        self.shared.purges.close();
        drop(self.folder);
        if let Some(done) = closing {
            // Who closed it may not wait for it.
            let _told = done.send(());
        }
    }

    fn take(&mut self, job: Job) {
        match job {
            Job::Chunk { progress, pieces, queued } => {
                self.part(&progress, &pieces);
                drop(queued);
            }
            Job::Commit { progress, pieces, mut commit, begun, queued } => {
                let stored = self.commit(&progress, &pieces, &mut commit);
                if stored.is_err() {
                    self.outdated(self.shared.hash(&commit.key), commit.variant);
                }
                self.count_failed(stored.is_err());
                drop((begun, queued));
            }
            Job::Renew { known, commit, queued } => {
                let renewed = self.renew(&known, &commit);
                self.count_failed(renewed.is_err());
                drop(queued);
            }
            Job::Purged => self.purged(),
            Job::Clear(number) => {
                self.purged();
                self.clear(number);
            }
            Job::Close(_) => {}
            #[cfg(test)]
            Job::Settle(done) => {
                self.settle();
                let _told = done.send(());
            }
        }
    }

    fn count_failed(&self, failed: bool) {
        self.shared.failed.fetch_add(failed.into(), Ordering::Relaxed);
    }

    /// What came after it could not be stored: others have been sent that by now.
    fn outdated(&mut self, hash: u64, variant: u64) {
        let same = |known: &Known| known.hash == hash && known.variant == variant;
        if self.waiting.iter().any(|(known, _)| same(known)) {
            self.flush();
        }
        if let Some(known) = self.shared.index.get(hash, variant) {
            self.shared.index.forget(&known);
        }
    }

    fn purged(&mut self) {
        self.unsynced = true;
        if self.shared.purges.is_untidy() {
            self.tidy();
        }
    }

    /// There is nothing else to do.
    fn settle(&mut self) {
        self.flush();
        if std::mem::take(&mut self.unsynced) {
            // It holds already; this is for when the machine crashes.
            self.count_failed(self.shared.purges.sync().is_err());
        }
        self.forget_gone();
    }

    /// Writes the batch, and has found what it made.
    pub(super) fn flush(&mut self) {
        if let Some(active) = &mut self.active
            && !self.batch.is_empty()
        {
            match active.segment.append(&self.batch) {
                Ok(()) => {
                    for (known, asked) in &self.waiting {
                        self.shared.index.put(known, *asked);
                        active.entries.push(*known);
                    }
                    self.shared.written.fetch_add(self.waiting.len() as u64, Ordering::Relaxed);
                    active.note(&self.folder.path, self.shared.layout.noted);
                }
                Err(error) => self.broken(&error),
            }
        }
        self.batch.clear();
        self.waiting.clear();
        self.parts.clear();
    }

    fn broken(&mut self, error: &io::Error) {
        let folder = self.folder.path.display();
        tracing::warn!(%folder, %error, "responses could not be stored");
        self.shared.failed.fetch_add(self.waiting.len() as u64, Ordering::Relaxed);
        for progress in &self.parts {
            progress.lock().broken = true;
        }
        for (Known { hash, variant, .. }, _) in &self.waiting {
            if let Some(older) = self.shared.index.get(*hash, *variant) {
                self.shared.index.forget(&older);
            }
        }
        // What stands behind its end might be found after a crash.
        if let Some(active) = self.active.take_if(|active| !active.segment.is_sound()) {
            self.discard(active.segment.number);
        }
    }

    /// Writes beside the active segment what stands in it.
    pub(super) fn seal(&mut self) {
        if let Some(Active { segment, entries, .. }) = self.active.take() {
            // Without it the segment is read through at the next start.
            let written = contents::write(&self.folder.path, &segment, &entries);
            self.count_failed(written.is_err());
        }
    }

    /// A place for records that stand in a row, with so many bytes.
    pub(super) fn room(&mut self, bytes: usize) -> io::Result<Place> {
        let takes = u64::from(START) + bytes as u64 + contents::ENTRY + contents::FIXED;
        // No other segment would be longer.
        let attempts = if takes > self.shared.layout.segment { 0 } else { 2 };
        for _ in 0..attempts {
            if let Some(place) = self.place(bytes) {
                return Ok(place);
            }
            self.roll()?;
        }
        Err(io::ErrorKind::FileTooLarge.into())
    }

    fn place(&self, bytes: usize) -> Option<Place> {
        let Active { segment, entries, .. } = self.active.as_ref()?;
        let offset = segment.size() + self.batch.len() as u64;
        let entries = (entries.len() + self.waiting.len() + 1) as u64;
        let end = offset + bytes as u64 + entries * contents::ENTRY + contents::FIXED;
        let offset = u32::try_from(offset).ok()?;
        (end <= self.shared.layout.segment).then_some(Place { segment: segment.number, offset })
    }

    pub(super) fn batch_is_full(&self) -> bool {
        self.batch.len() >= BATCH
    }

    pub(super) fn chunk(
        &mut self,
        pieces: &[Bytes],
        progress: &Arc<Mutex<Progress>>,
    ) -> io::Result<Extent> {
        let bytes: usize = pieces.iter().map(Bytes::len).sum();
        let place = self.room(HEADER + bytes)?;
        let extent = format::chunk(pieces, place, &mut self.batch);
        if !self.parts.last().is_some_and(|last| Arc::ptr_eq(last, progress)) {
            self.parts.push(progress.clone());
        }
        Ok(extent)
    }

    fn part(&mut self, progress: &Arc<Mutex<Progress>>, pieces: &[Bytes]) {
        if progress.lock().broken {
            return;
        }
        let extent = self.chunk(pieces, progress);
        let mut progress = progress.lock();
        match extent {
            Ok(extent) => progress.extents.push(extent),
            Err(_) => progress.broken = true,
        }
    }

    fn commit(
        &mut self,
        progress: &Arc<Mutex<Progress>>,
        pieces: &[Bytes],
        commit: &mut Commit,
    ) -> io::Result<()> {
        let rest: usize = pieces.iter().map(Bytes::len).sum();
        let written = progress.lock().extents.len();
        let along = written == 0 && rest > 0 && rest <= SMALL;
        if along {
            // So that both are in one segment.
            self.room(HEADER + rest + commit.size(1))?;
        }
        if rest > 0 {
            self.part(progress, pieces);
        }
        let mut progress = progress.lock();
        if progress.broken {
            return Err(io::ErrorKind::Other.into());
        }
        commit.extents = std::mem::take(&mut progress.extents);
        drop(progress);
        self.add(commit, along, false)
    }

    /// Adds a commit behind its parts.
    pub(super) fn add(&mut self, commit: &Commit, along: bool, asked: bool) -> io::Result<()> {
        let hash = self.shared.hash(&commit.key);
        if self.shared.purges.judge(hash, commit) == Verdict::Gone {
            return Ok(());
        }
        let size = commit.size(commit.extents.len());
        let place = self.room(size)?;
        let segments = self.shared.segments.load();
        let mut parts = commit.extents.iter().map(|extent| extent.place.segment);
        let there = parts.all(|number| segments.contains_key(&number));
        let Some(segment) = segments.get(&place.segment).filter(|_| there) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        segment.holds(commit.stamp);
        commit.encode(place, &mut self.batch);
        let mut spot = Spot { place, length: length_of(size), oldest: commit.oldest(place) };
        if let (true, [only]) = (along, &commit.extents[..]) {
            spot.place = only.place;
            spot.length += length_of(HEADER) + only.length;
        }
        self.waiting.push((Known { hash, variant: commit.variant, spot }, asked));
        Ok(())
    }

    fn renew(&mut self, known: &Known, commit: &Commit) -> io::Result<()> {
        let same = |(waiting, _): &(Known, bool)| {
            waiting.hash == known.hash && waiting.variant == known.variant
        };
        if self.waiting.iter().any(same) {
            self.flush();
        }
        // Is it still the same body that is stored?
        let Some(now) = self.shared.index.get(known.hash, known.variant) else { return Ok(()) };
        let segment = self.shared.segments.load().get(&now.spot.place.segment).cloned();
        let Some(segment) = segment else { return Ok(()) };
        let span = segment.span(&now.spot, From::Disk)?;
        let is_same = match &commit.extents[..] {
            // One empty body is like another.
            [] => now.spot.place == known.spot.place,
            extents => span.commit.extents == extents,
        };
        if is_same { self.add(commit, false, true) } else { Ok(()) }
    }

    /// Forgets purges of what is not stored any more.
    pub(super) fn tidy(&mut self) {
        let segments = self.shared.segments.load();
        let stamps = segments.values().map(|segment| segment.oldest_stamp());
        let oldest = stamps.min().unwrap_or(u64::MAX);
        let tidied = self.shared.purges.tidy(&self.folder.path, oldest);
        self.count_failed(tidied.is_err());
    }
}

/// No record is longer than a segment, whose places are of 32 bits.
#[allow(clippy::cast_possible_truncation, reason = "there was room for it in a segment")]
fn length_of(size: usize) -> u32 {
    size as u32
}
