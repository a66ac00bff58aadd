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
use super::late::Late;
use super::settings::CacheDiskSettings;
use super::store::{Had, Head};
use crate::observe::CacheDiskFigures;

/// What is not on disk so long after it was given has not been written at all.
const FORGOTTEN: Duration = Duration::from_secs(600);

/// The most keys that are on their way to the disk; what else comes is not stored there.
const MOST_COMING: usize = 65_536;

/// With so many on their way it is not looked more often than this which have come.
const LOOKED: Duration = Duration::from_secs(1);

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
    /// What the disk is to be purged of once it is there; None if none is to come.
    late: Mutex<Option<Late>>,
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
    looked: Option<Instant>,
}

#[derive(Debug)]
struct OnTheWay {
    /// What is being stored: nobody else stores the same at the same time.
    variants: Vec<u64>,
    /// Whether the writer has something whole of it.
    given: bool,
    since: Instant,
}

/// A response on its way to the disk. Dropped before its end it was never there.
#[derive(Debug)]
pub(super) struct Storing {
    writing: Writing,
    claim: Claim,
    replaces: bool,
    disk: Disk,
}

#[derive(Debug)]
struct Claim {
    coming: Arc<Mutex<Coming>>,
    key: Key,
    variant: u64,
    /// Whether it went to the writer.
    given: bool,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut coming = self.coming.lock();
        let Some(way) = coming.keys.get_mut(self.key.as_str()) else { return };
        way.variants.retain(|variant| *variant != self.variant);
        way.given |= self.given;
        way.since = Instant::now();
        if way.variants.is_empty() && !way.given {
            coming.keys.remove(self.key.as_str());
        }
    }
}

/// What became of the wish to store something.
enum Claimed {
    Free,
    /// Somebody else stores it.
    Taken,
    /// Too much is on its way.
    Full,
}

impl Coming {
    fn claim(&mut self, key: &Key, variant: u64, disk: &Disk) -> Claimed {
        self.look(disk);
        if self.keys.len() >= MOST_COMING && !self.keys.contains_key(key.as_str()) {
            return Claimed::Full;
        }
        let new = || OnTheWay { variants: Vec::new(), given: false, since: Instant::now() };
        let way = self.keys.entry(key.clone()).or_insert_with(new);
        if way.variants.contains(&variant) {
            return Claimed::Taken;
        }
        way.variants.push(variant);
        Claimed::Free
    }

    /// Forgets what has come, if there is much.
    fn look(&mut self, disk: &Disk) {
        let is_full = self.keys.len() >= MOST_COMING;
        let just_looked = || self.looked.is_some_and(|looked| looked.elapsed() < LOOKED);
        if self.keys.len() < self.look_at.min(MOST_COMING) || (is_full && just_looked()) {
            return;
        }
        self.keys.retain(|key, way| {
            let waits = || !disk.may_have(key.as_str()) && way.since.elapsed() < FORGOTTEN;
            !way.variants.is_empty() || waits()
        });
        self.look_at = 64.max(self.keys.len() * 2);
        self.looked = Some(Instant::now());
    }
}

impl Tier {
    /// Purges are kept for a disk that is to be opened later.
    pub(super) fn expect(&self) {
        if !self.is_there() {
            self.late.lock().get_or_insert_default();
        }
    }

    /// No disk is going to be opened.
    pub(super) fn expect_none(&self) {
        *self.late.lock() = None;
    }

    /// Takes a folder. It blocks.
    pub(super) fn open(&self, settings: &CacheDiskSettings) -> Result<(), CacheDiskError> {
        let CacheDiskSettings { path, size } = settings.clone();
        let disk = Disk::open(&DiskSettings { folder: path, capacity: size });
        let disk = disk.map_err(CacheDiskError)?;
        let mut late = self.late.lock();
        self.disk.get_or_init(|| {
            for (what, soft) in &late.take().unwrap_or_default() {
                disk.purge(&what.wiped(), *soft);
            }
            (disk, settings.clone())
        });
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
        let claimed = coming.claim(key, variant, disk);
        drop(coming);
        let claim = match claimed {
            Claimed::Free => {
                let coming = self.coming.clone();
                Some(Claim { coming, key: key.clone(), variant, given: false })
            }
            Claimed::Taken => return None,
            Claimed::Full => None,
        };
        let takes = claim.is_some() && least <= self.longest();
        let writing = takes.then(|| disk.begin(key.as_str(), variant, &head.tags)).flatten();
        if writing.is_none() && replaces {
            // What lies there is older than what others are sent now.
            self.purge_key(key, false);
        }
        Some(Storing { writing: writing?, claim: claim?, replaces, disk: disk.clone() })
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
    /// change is told here as well. What a disk has that is to come is not known.
    pub(super) fn purge_key(&self, key: &Key, soft: bool) -> bool {
        let had = self.may_have(key);
        if had || !self.is_there() || self.coming.lock().keys.contains_key(key.as_str()) {
            self.purge(&Wiped::Key(key.as_str()), soft);
        }
        had
    }

    pub(super) fn purge(&self, what: &Wiped<'_>, soft: bool) {
        if !self.is_there() {
            let mut late = self.late.lock();
            // It may have come until now.
            if !self.is_there() {
                if let Some(late) = &mut *late {
                    late.add(what, soft);
                }
                return;
            }
        }
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
    pub(super) fn finish(mut self, head: &Head) {
        self.claim.given = self.writing.finish(codec::to_disk(head));
        if !self.claim.given && self.replaces {
            // What lies there is older than what others have been sent.
            self.disk.purge(&Wiped::Key(self.claim.key.as_str()), false);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use http::{HeaderValue, StatusCode, Uri};

    use super::super::directives::Control;
    use super::super::key::Selecting;
    use super::super::policy::Freshness;
    use super::super::{CacheKeySettings, CacheSettings};
    use super::*;

    fn key(path: &str) -> Key {
        let url: Uri = format!("http://a.test{path}").parse().unwrap();
        Key::of_url("r", &url, &CacheKeySettings::default()).unwrap()
    }

    fn head(id: u64) -> Head {
        let (status, headers, settings) =
            (StatusCode::OK, HeaderMap::new(), CacheSettings::default());
        let freshness =
            Freshness::of(status, &headers, &Control::default(), Duration::ZERO, &settings);
        let selecting = Selecting::of(&headers, &headers, &settings.key);
        Head { id, status, headers, selecting, freshness, tags: vec![] }
    }

    fn open(tier: Tier, folder: &Path) -> Tier {
        let (path, size) = (folder.join("cache"), 64 << 20);
        tier.open(&CacheDiskSettings { path, size }).unwrap();
        tier
    }

    fn expecting() -> Tier {
        let tier = Tier::default();
        tier.expect();
        tier
    }

    fn store(tier: &Tier, path: &str, id: u64) {
        let mut storing = tier.begin(&key(path), &head(id), 0).unwrap();
        assert!(storing.push(Bytes::from_static(b"body")));
        storing.finish(&head(id));
    }

    /// Whether it is found, and then whether it has been condemned.
    async fn found(tier: &Tier, path: &str) -> Option<bool> {
        let found = tier.find(&key(path), &HeaderMap::new()).await;
        found.map(|had| had.head.freshness.condemned)
    }

    fn coming(tier: &Tier) -> usize {
        tier.coming.lock().keys.len()
    }

    #[tokio::test]
    async fn what_is_purged_before_the_disk_is_there_is_purged_there_as_well() {
        let folder = tempfile::tempdir().unwrap();
        let tier = open(Tier::default(), folder.path());
        for path in ["/a", "/b", "/c", "/p/d"] {
            store(&tier, path, 1);
        }
        tier.close().await;
        let alone = Tier::default();
        alone.purge(&Wiped::All, false);
        assert!(alone.late.lock().is_none());
        let tier = expecting();
        assert!(!tier.purge_key(&key("/a"), false));
        tier.purge_key(&key("/b"), true);
        tier.purge(&Wiped::UrlPrefix("http://a.test/p/"), false);
        let tier = open(tier, folder.path());
        assert!(tier.late.lock().is_none());
        assert_eq!(found(&tier, "/a").await, None);
        assert_eq!(found(&tier, "/b").await, Some(true));
        assert_eq!(found(&tier, "/c").await, Some(false));
        assert_eq!(found(&tier, "/p/d").await, None);
        tier.close().await;
        let tier = expecting();
        tier.purge(&Wiped::All, false);
        let tier = open(tier, folder.path());
        assert_eq!(found(&tier, "/c").await, None);
    }

    #[test]
    fn without_a_disk_to_come_no_purge_is_kept() {
        let tier = expecting();
        tier.purge_key(&key("/x"), false);
        tier.expect_none();
        tier.purge_key(&key("/x"), false);
        assert!(tier.late.lock().is_none());
    }

    #[tokio::test]
    async fn what_does_not_come_to_its_end_is_not_on_its_way() {
        let folder = tempfile::tempdir().unwrap();
        let tier = open(Tier::default(), folder.path());
        let first = tier.begin(&key("/a"), &head(1), 0).unwrap();
        assert!(tier.begin(&key("/a"), &head(2), 0).is_none());
        assert_eq!(coming(&tier), 1);
        drop(first);
        assert_eq!(coming(&tier), 0);
        assert!(tier.begin(&key("/a"), &head(1), u64::MAX).is_none());
        assert_eq!(coming(&tier), 0);
        store(&tier, "/a", 1);
        drop(tier.begin(&key("/a"), &head(1), 0).unwrap());
        assert_eq!(coming(&tier), 1);
        tier.close().await;
        assert!(tier.begin(&key("/b"), &head(1), 0).is_none());
        assert_eq!(coming(&tier), 1);
    }

    #[tokio::test]
    async fn no_more_than_so_many_are_on_their_way() {
        let folder = tempfile::tempdir().unwrap();
        let tier = open(Tier::default(), folder.path());
        let way = || OnTheWay { variants: vec![], given: true, since: Instant::now() };
        let many = (0..MOST_COMING).map(|number| (key(&format!("/{number}")), way()));
        tier.coming.lock().keys.extend(many);
        assert!(tier.begin(&key("/a"), &head(1), 0).is_none());
        assert!(tier.begin(&key("/0"), &head(1), 0).is_some());
        assert_eq!(coming(&tier), MOST_COMING);
    }

    #[tokio::test]
    async fn where_a_newer_response_cannot_be_stored_the_older_one_goes() {
        let folder = tempfile::tempdir().unwrap();
        let tier = open(Tier::default(), folder.path());
        store(&tier, "/a", 1);
        let long = HeaderValue::from_bytes(&vec![b'x'; 2 << 20]).unwrap();
        let mut newer = head(2);
        newer.headers.insert("x-long", long);
        tier.begin(&key("/a"), &head(2), 0).unwrap().finish(&newer);
        tier.close().await;
        let tier = open(Tier::default(), folder.path());
        assert_eq!(found(&tier, "/a").await, None);
    }
}
