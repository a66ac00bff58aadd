//! A response on its way to the disk: gathered into chunks, which the writer's thread
//! takes. Nobody waits for it: where it is too far behind, a response is not stored.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;

use bytes::Bytes;
use parking_lot::Mutex;

use super::Shared;
use super::format::{Commit, Extent, MOST_META};
use super::reading::OnDisk;
use super::writer::Job;

/// The most bytes that may wait for the writer's thread.
const QUEUE: u64 = 32 * 1024 * 1024;

/// The most bytes that wait to become whole chunks; beyond it, chunks are shorter.
const GATHERED: u64 = 32 * 1024 * 1024;

/// What a job takes beside its bytes.
const JOB: u64 = 512;

/// A response that is being stored. Dropped before [`Writing::finish`], it was never
/// there.
#[derive(Debug)]
pub(in crate::layers::cache) struct Writing {
    shared: Arc<Shared>,
    jobs: Sender<Job>,
    /// What is to be made of it.
    commit: Option<Box<Commit>>,
    begun: Option<Begun>,
    progress: Arc<Mutex<Progress>>,
    pieces: Vec<Bytes>,
    gathered: usize,
    length: u64,
    given_up: bool,
}

/// What has been written of a body.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) extents: Vec<Extent>,
    /// A part could not be written.
    pub(super) broken: bool,
}

/// The stamp of a response that is on its way: purges are remembered for it.
#[derive(Debug)]
pub(super) struct Begun {
    shared: Arc<Shared>,
    stamp: u64,
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.shared.purges.end(self.stamp);
    }
}

/// A place in the queue, for as long as it is there.
#[derive(Debug)]
pub(super) struct Queued {
    shared: Arc<Shared>,
    bytes: u64,
}

impl Queued {
    /// None where the queue is full.
    fn take(shared: &Arc<Shared>, bytes: usize) -> Option<Self> {
        let bytes = bytes as u64 + JOB;
        let queued = Self { shared: shared.clone(), bytes };
        let before = shared.queued.fetch_add(bytes, Ordering::Relaxed);
        // What does not fit is taken back as it is dropped.
        (before + bytes <= QUEUE).then_some(queued)
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.shared.queued.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Writing {
    pub(super) fn begin(
        shared: &Arc<Shared>,
        jobs: &Sender<Job>,
        (key, variant, tags): (&str, u64, &[Box<str>]),
    ) -> Option<Self> {
        if shared.queued.load(Ordering::Relaxed) > QUEUE / 2 {
            count(&shared.too_busy);
            return None;
        }
        let begun = Begun { shared: shared.clone(), stamp: shared.purges.begin() };
        let commit = Commit {
            key: key.into(),
            variant,
            stamp: begun.stamp,
            condemned: false,
            tags: shared.tag_hashes(tags),
            extents: Vec::new(),
            meta: Bytes::new(),
        };
        Some(Self {
            shared: shared.clone(),
            jobs: jobs.clone(),
            commit: Some(Box::new(commit)),
            begun: Some(begun),
            progress: Arc::default(),
            pieces: Vec::new(),
            gathered: 0,
            length: 0,
            given_up: false,
        })
    }

    /// Hands over the next bytes. False if it is not going to be stored: the disk is too
    /// far behind, or it is too long, or could not be written.
    pub(in crate::layers::cache) fn push(&mut self, mut bytes: Bytes) -> bool {
        self.length = self.length.saturating_add(bytes.len() as u64);
        if self.given_up {
            return false;
        }
        if self.length > self.shared.layout.longest || self.progress.lock().broken {
            return self.give_up(false);
        }
        let chunk = self.shared.layout.chunk;
        while self.gathered + bytes.len() >= chunk {
            let piece = bytes.split_to(chunk - self.gathered);
            self.gather(piece);
            if !self.hand_over() {
                return self.give_up(true);
            }
        }
        self.gather(bytes);
        let crowded = self.shared.gathered.load(Ordering::Relaxed) > GATHERED;
        if crowded && self.gathered > 0 && !self.hand_over() {
            return self.give_up(true);
        }
        true
    }

    fn gather(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.gathered += piece.len();
            self.shared.gathered.fetch_add(piece.len() as u64, Ordering::Relaxed);
            self.pieces.push(piece);
        }
    }

    /// What was gathered.
    fn taken(&mut self) -> Vec<Bytes> {
        self.shared.gathered.fetch_sub(self.gathered as u64, Ordering::Relaxed);
        self.gathered = 0;
        std::mem::take(&mut self.pieces)
    }

    fn hand_over(&mut self) -> bool {
        let Some(queued) = Queued::take(&self.shared, self.gathered) else { return false };
        let (progress, pieces) = (self.progress.clone(), self.taken());
        self.jobs.send(Job::Chunk { progress, pieces, queued }).is_ok()
    }

    fn give_up(&mut self, busy: bool) -> bool {
        count(if busy { &self.shared.too_busy } else { &self.shared.failed });
        self.given_up = true;
        drop(self.taken());
        false
    }

    /// The response is whole. False if it is not going to be stored: what was stored
    /// before it is still there.
    pub(in crate::layers::cache) fn finish(mut self, meta: Bytes) -> bool {
        let (Some(mut commit), Some(begun)) = (self.commit.take(), self.begun.take()) else {
            return false;
        };
        if self.given_up || self.shared.closed.load(Ordering::SeqCst) {
            return false;
        }
        commit.meta = meta;
        // Without extents, of which the writer knows.
        let size = commit.size(0);
        if size > MOST_META {
            count(&self.shared.failed);
            return false;
        }
        let Some(queued) = Queued::take(&self.shared, self.gathered + size) else {
            count(&self.shared.too_busy);
            return false;
        };
        let (progress, pieces) = (self.progress.clone(), self.taken());
        self.jobs.send(Job::Commit { progress, pieces, commit, begun, queued }).is_ok()
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        drop(self.taken());
    }
}

pub(super) fn renew(
    shared: &Arc<Shared>,
    jobs: &Sender<Job>,
    found: &OnDisk,
    (key, variant, tags, meta): (&str, u64, Box<[u64]>, Bytes),
) {
    let (extents, stamp) = (found.extents(), found.stamp());
    let key = key.into();
    let commit = Commit { key, variant, stamp, condemned: false, tags, extents, meta };
    if commit.size(0) > MOST_META {
        return count(&shared.failed);
    }
    match Queued::take(shared, commit.size(commit.extents.len())) {
        Some(queued) => {
            let (known, commit) = (found.known(), Box::new(commit));
            let _sent = jobs.send(Job::Renew { known, commit, queued });
        }
        None => count(&shared.too_busy),
    }
}
