//! The disk behind the memory: what goes there, and what comes from there.
//!
//! It may be opened late, and be let go of early: a process that takes over from another
//! gets the folder when that one has let go of it. Without it there is nothing there.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderMap;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::codec;
use super::content::Content;
use super::disk::{Disk, DiskFigures, DiskSettings, OnDisk, OpenError, Wiped, Writing};
use super::key::Key;
use super::settings::CacheDiskSettings;
use super::store::{Had, Head};
use crate::observe::CacheDiskFigures;

/// What is not on disk so long after it was given has not been written at all.
const FORGOTTEN: Duration = Duration::from_secs(600);

/// Why a folder cannot be the disk of a cache.
#[derive(Debug, thiserror::Error)]
#[error("the cache's disk: {0}; {hint}", hint = hint(.0))]
pub struct CacheDiskError(OpenError);

fn hint(error: &OpenError) -> &'static str {
    match error {
        OpenError::Locked(_) => {
            "each process needs a folder of its own, and one that is ending keeps it until then"
        }
        OpenError::Foreign(_) => "name an empty folder, or one that is not there yet",
        OpenError::Io { .. } => "it has to be a folder that this user may write to",
    }
}

impl CacheDiskError {
    /// Whether another process has it.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        matches!(self.0, OpenError::Locked(_))
    }
}

/// What is known of the disk beside what it counts itself.
#[derive(Debug, Default)]
pub(super) struct Tier {
    disk: OnceLock<(Disk, CacheDiskSettings)>,
    coming: Arc<Mutex<Coming>>,
    /// Responses that were served from there.
    hits: AtomicU64,
    /// What was found there and could not be used.
    unusable: AtomicU64,
}

/// What is on its way to the disk, and not yet known to be there.
#[derive(Debug, Default)]
struct Coming {
    keys: HashMap<Key, OnTheWay>,
    /// With so many it is looked which of them have come.
    look_at: usize,
}

#[derive(Debug)]
struct OnTheWay {
    /// What is being stored: nobody else stores the same at the same time.
    variants: Vec<u64>,
    since: Instant,
}

/// A response on its way to the disk. Dropped before its end it was never there.
#[derive(Debug)]
pub(super) struct Storing {
    writing: Writing,
    #[allow(dead_code, reason = "held for its drop")]
    claim: Claim,
    replaces: bool,
}

#[derive(Debug)]
struct Claim {
    coming: Arc<Mutex<Coming>>,
    key: Key,
    variant: u64,
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(way) = self.coming.lock().keys.get_mut(self.key.as_str()) {
            way.variants.retain(|variant| *variant != self.variant);
            way.since = Instant::now();
        }
    }
}

impl Coming {
    /// Whether nobody stores the same.
    fn claim(&mut self, key: &Key, variant: u64, disk: &Disk) -> bool {
        if self.keys.len() >= self.look_at {
            self.keys.retain(|key, way| {
                let waits = || !disk.may_have(key.as_str()) && way.since.elapsed() < FORGOTTEN;
                !way.variants.is_empty() || waits()
            });
            self.look_at = 64.max(self.keys.len() * 2);
        }
        let way = self.keys.entry(key.clone());
        let way = way.or_insert_with(|| OnTheWay { variants: Vec::new(), since: Instant::now() });
        let is_free = !way.variants.contains(&variant);
        if is_free {
            way.variants.push(variant);
        }
        is_free
    }
}

impl Tier {
    /// Takes a folder. It blocks.
    pub(super) fn open(&self, settings: &CacheDiskSettings) -> Result<(), CacheDiskError> {
        let CacheDiskSettings { path, size } = settings.clone();
        let disk = Disk::open(&DiskSettings { folder: path, capacity: size });
        let disk = disk.map_err(CacheDiskError)?;
        self.disk.get_or_init(|| (disk, settings.clone()));
        Ok(())
    }

    pub(super) async fn close(&self) {
        if let Some((disk, _)) = self.disk.get() {
            disk.close().await;
        }
    }

    pub(super) fn is_there(&self) -> bool {
        self.disk.get().is_some()
    }

    /// The longest body that it takes.
    pub(super) fn longest(&self) -> u64 {
        self.disk.get().map_or(0, |(_, settings)| settings.size / 5)
    }

    pub(super) fn may_have(&self, key: &Key) -> bool {
        self.disk.get().is_some_and(|(disk, _)| disk.may_have(key.as_str()))
    }

    /// The newest response that a request selects.
    pub(super) async fn find(&self, key: &Key, request: &HeaderMap) -> Option<Had> {
        self.all(key).await.into_iter().rev().find(|had| had.head.selecting.matches(request))
    }

    /// Every response to a key, oldest first.
    pub(super) async fn all(&self, key: &Key) -> Vec<Had> {
        let Some((disk, _)) = self.disk.get() else { return Vec::new() };
        let mut all = Vec::new();
        for found in disk.find(key.as_str()).await {
            match codec::from_disk(&found.meta) {
                Some(mut head) => {
                    if found.condemned {
                        Arc::make_mut(&mut head).freshness.condemned = true;
                    }
                    all.push(Had { head, content: Content::Disk(found.body) });
                }
                None => self.unusable(),
            }
        }
        all
    }

    /// Begins to store what has so many bytes at least; `None` if the disk does not take
    /// it, or somebody else does so.
    pub(super) fn begin(&self, key: &Key, head: &Head, least: u64) -> Option<Storing> {
        let (disk, _) = self.disk.get()?;
        let variant = head.selecting.digest();
        let mut coming = self.coming.lock();
        let replaces = disk.may_have(key.as_str()) || coming.keys.contains_key(key.as_str());
        if !coming.claim(key, variant, disk) {
            return None;
        }
        drop(coming);
        let claim = Claim { coming: self.coming.clone(), key: key.clone(), variant };
        let fits = least <= self.longest();
        let writing = disk.begin(key.as_str(), variant, &head.tags).filter(|_| fits);
        if writing.is_none() && replaces {
            // What lies there is older than what others are sent now.
            self.purge_key(key, false);
        }
        Some(Storing { writing: writing?, claim, replaces })
    }

    /// The same body under a head that is as good as new.
    pub(super) fn renew(&self, body: &OnDisk, key: &Key, head: &Head) {
        if let Some((disk, _)) = self.disk.get() {
            let variant = head.selecting.digest();
            disk.renew(body, key.as_str(), variant, &head.tags, codec::to_disk(head));
        }
    }

    /// Forgets, or condemns, what is stored of a key, or is on its way there. Whether
    /// there may have been anything. Where there was not, nothing is written: what clients
    /// change is told here as well.
    pub(super) fn purge_key(&self, key: &Key, soft: bool) -> bool {
        let had = self.may_have(key);
        if had || self.coming.lock().keys.contains_key(key.as_str()) {
            self.purge(&Wiped::Key(key.as_str()), soft);
        }
        had
    }

    pub(super) fn purge(&self, what: &Wiped<'_>, soft: bool) {
        if let Some((disk, _)) = self.disk.get() {
            disk.purge(what, soft);
        }
    }

    pub(super) fn hit(&self) {
        self.hits.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn unusable(&self) {
        self.unusable.fetch_add(1, Ordering::Relaxed);
    }

    /// `None` without a disk.
    pub(super) fn figures(&self) -> Option<CacheDiskFigures> {
        let DiskFigures { bytes, capacity, objects, written, failed, too_busy } =
            self.disk.get()?.0.figures();
        Some(CacheDiskFigures {
            capacity_bytes: capacity,
            stored_bytes: bytes,
            objects,
            hits: self.hits.load(Ordering::Relaxed),
            written,
            failed: failed + self.unusable.load(Ordering::Relaxed),
            given_up: too_busy,
        })
    }

    /// Whether there is a disk, and it has not been let go of.
    pub(super) fn is_open(&self) -> bool {
        self.disk.get().is_some_and(|disk| !disk.0.is_closed())
    }

    pub(super) fn objects(&self) -> u64 {
        self.disk.get().map_or(0, |(disk, _)| disk.figures().objects)
    }
}

impl Storing {
    /// Whether something older may lie there, or be on its way.
    pub(super) fn replaces(&self) -> bool {
        self.replaces
    }

    /// More has come; `false` if the disk is behind, and nothing comes of it.
    pub(super) fn push(&mut self, bytes: Bytes) -> bool {
        self.writing.push(bytes)
    }

    /// All of it has come.
    pub(super) fn finish(self, head: &Head) {
        self.writing.finish(codec::to_disk(head));
    }
}
