//! Stored responses, on disk: segments that are only ever appended to, an index of them
//! in memory, and a list of what has been purged.

use std::io;
use std::ops::Range;
use std::path::PathBuf;

use bytes::Bytes;
use futures_util::Stream;

/// Where the store lies and how much of the disk it may take.
#[derive(Clone, Debug)]
pub(super) struct DiskSettings {
    /// A folder of the store's own. It is made if it is not there.
    pub(super) folder: PathBuf,
    /// The most bytes that its files take together.
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
    /// Bytes that the files take.
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

/// A store. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub(super) struct Disk(DiskSettings);

/// What was found under a key.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) meta: Bytes,
    /// It was purged softly: to be validated before it is used.
    pub(super) condemned: bool,
    pub(super) body: OnDisk,
}

/// A stored body. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct OnDisk(Bytes);

/// A response that is being stored. Dropped before [`Writing::finish`], it was never
/// there.
#[derive(Debug)]
pub(super) struct Writing(());

impl Disk {
    /// Takes a folder, for this process alone, and learns what is in it. It blocks.
    ///
    /// # Errors
    ///
    /// See [`OpenError`].
    pub(super) fn open(settings: &DiskSettings) -> Result<Self, OpenError> {
        std::fs::create_dir_all(&settings.folder)
            .map_err(|source| OpenError::Io { path: settings.folder.clone(), source })?;
        Ok(Self(settings.clone()))
    }

    /// Whether something may be stored under a key. It looks at memory alone.
    pub(super) fn may_have(&self, _key: &str) -> bool {
        false
    }

    /// What is stored under a key, oldest first.
    #[allow(clippy::unused_async, reason = "nothing is read yet")]
    pub(super) async fn find(&self, _key: &str) -> Vec<Found> {
        Vec::new()
    }

    /// Begins to store a response, in the place of an earlier one of the same key and
    /// variant. None where the disk is too far behind.
    pub(super) fn begin(&self, _key: &str, _variant: u64, _tags: &[Box<str>]) -> Option<Writing> {
        Some(Writing(()))
    }

    /// Stores the same body under other meta, without writing it again.
    pub(super) fn renew(
        &self,
        _found: &OnDisk,
        _key: &str,
        _variant: u64,
        _tags: &[Box<str>],
        _meta: Bytes,
    ) {
    }

    /// Forgets what is meant, or, softly, has it found as condemned.
    pub(super) fn purge(&self, _what: &Wiped<'_>, _soft: bool) {}

    pub(super) fn figures(&self) -> DiskFigures {
        DiskFigures { capacity: self.0.capacity, ..DiskFigures::default() }
    }

    /// Writes what was given, and lets go of the folder. Nothing is found or stored
    /// from then on.
    #[allow(clippy::unused_async, reason = "nothing is written yet")]
    pub(super) async fn close(&self) {}
}

impl OnDisk {
    /// In bytes.
    pub(super) fn length(&self) -> u64 {
        self.0.len() as u64
    }

    /// These bytes, in pieces each of which has been verified.
    pub(super) fn read(
        &self,
        range: Range<u64>,
    ) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        let end = usize::try_from(range.end).unwrap_or(usize::MAX).min(self.0.len());
        let first = usize::try_from(range.start).unwrap_or(usize::MAX).min(end);
        futures_util::stream::iter([Ok(self.0.slice(first..end))])
    }

    /// All of it, verified.
    #[allow(clippy::unused_async, reason = "nothing is read yet")]
    pub(super) async fn whole(&self) -> io::Result<Bytes> {
        Ok(self.0.clone())
    }
}

impl Writing {
    /// Hands over the next bytes. False if the disk is too far behind: then it is not
    /// stored.
    pub(super) fn push(&mut self, _bytes: Bytes) -> bool {
        true
    }

    /// The response is whole.
    pub(super) fn finish(self, _meta: Bytes) {}
}
