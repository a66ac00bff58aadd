//! Stored responses, in memory.
//!
//! moka keeps them: W-TinyLFU, so that a scan does not wash out what is asked for often;
//! a hash table that is read without locks; and one budget for the whole, where a
//! cache that gives each shard a share of its own could not take a long object. A
//! resource has its variants in one entry, which is replaced at once.
//!
//! The disk, if there is one, stands behind it (`tier`).

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::HeaderMap;
use moka::notification::RemovalCause;
use moka::ops::compute::Op;
use moka::sync::Cache as Moka;
use tokio::time::Instant;

use super::compact;
use super::content::Content;
use super::key::{Key, Selecting};
use super::policy::{Freshness, Why};

/// The most variants of one resource; the oldest goes.
const MOST_VARIANTS: usize = 32;

/// How long it is remembered that a resource's responses are not stored.
const REMEMBERED: Duration = Duration::from_secs(120);

/// What a resource takes beside its variants, in the table as well, and what each of
/// these takes beside its fields and its body (`benches/stored.rs`).
const OF_RESOURCE: usize = 512;
const OF_VARIANT: usize = 384;

/// What has been invalidated is counted apart for so many parts of all keys: a change
/// keeps what is on its way for others of its part from being stored.
const EPOCHS: usize = 1 << 14;

/// A response without its body.
#[derive(Clone, Debug)]
pub(super) struct Head {
    /// Tells its body from any other, also of the same URL.
    pub(super) id: u64,
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) selecting: Selecting,
    pub(super) freshness: Freshness,
    /// What the origin calls it by (`Surrogate-Key`, `Cache-Tag`).
    pub(super) tags: Vec<Box<str>>,
}

/// A stored response.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) head: Arc<Head>,
    pub(super) body: Bytes,
}

/// A stored response, wherever its body lies.
#[derive(Clone, Debug)]
pub(super) struct Had {
    pub(super) head: Arc<Head>,
    pub(super) content: Content,
}

/// What is stored of one URL of one route.
#[derive(Clone, Debug, Default)]
pub(super) struct Resource {
    pub(super) variants: Vec<Stored>,
    /// Until when its responses are not worth waiting for, and why.
    pass: Option<(Instant, Why)>,
}

/// The memory tier.
#[derive(Debug)]
pub(super) struct Memory {
    objects: Moka<Key, Arc<Resource>, foldhash::quality::RandomState>,
    capacity: u64,
    epochs: Box<[AtomicU64]>,
    hasher: RandomState,
    /// URLs that had to make room.
    evicted: Arc<AtomicU64>,
    /// Bytes that came since moka last looked whether something has to go.
    unsettled: AtomicU64,
}

impl Resource {
    /// The variant that a request selects, the newest of several.
    pub(super) fn select(&self, request: &HeaderMap) -> Option<&Stored> {
        self.variants.iter().rev().find(|stored| stored.head.selecting.matches(request))
    }

    /// Why requests do not wait for one another.
    pub(super) fn passes(&self, now: Instant) -> Option<Why> {
        self.pass.filter(|(until, _)| now < *until).map(|(_, why)| why)
    }

    /// For how long that is remembered.
    pub(super) fn passes_for(&self, now: Instant) -> Duration {
        self.pass.map_or(Duration::ZERO, |(until, _)| until.saturating_duration_since(now))
    }
}

impl Head {
    /// For the next response that comes.
    pub(super) fn next_id() -> u64 {
        static BEGIN: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        static NEXT: AtomicU64 = AtomicU64::new(0);
        BEGIN.hash_one(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl From<&Stored> for Had {
    fn from(stored: &Stored) -> Self {
        Self { head: stored.head.clone(), content: Content::Whole(stored.body.clone()) }
    }
}

impl Stored {
    /// The same in memory of its own: what came with it may be a part of a much longer
    /// buffer.
    fn compact(self) -> Self {
        let head = Head { headers: compact::compact(&self.head.headers), ..(*self.head).clone() };
        Self { head: Arc::new(head), body: self.body }
    }

    pub(super) fn weight(&self) -> usize {
        let tags: usize = self.head.tags.iter().map(|tag| tag.len() + 32).sum();
        let head = compact::weight(&self.head.headers) + tags + self.head.selecting.weight();
        OF_VARIANT + head + self.body.len()
    }
}

fn weigh(key: &Key, resource: &Arc<Resource>) -> u32 {
    let variants: usize = resource.variants.iter().map(Stored::weight).sum();
    u32::try_from(OF_RESOURCE + key.as_str().len() + variants).unwrap_or(u32::MAX)
}

impl Memory {
    pub(super) fn new(capacity: u64) -> Self {
        let evicted = Arc::new(AtomicU64::new(0));
        let count = evicted.clone();
        let made_room = move |_: Arc<Key>, _: Arc<Resource>, cause| {
            if cause == RemovalCause::Size {
                count.fetch_add(1, Ordering::Relaxed);
            }
        };
        let objects = Moka::builder().max_capacity(capacity).weigher(weigh);
        let hasher = foldhash::quality::RandomState::default();
        let objects = objects.eviction_listener(made_room).build_with_hasher(hasher);
        Self {
            objects,
            evicted,
            capacity,
            epochs: (0..EPOCHS).map(|_| AtomicU64::new(0)).collect(),
            hasher: RandomState::new(),
            unsettled: AtomicU64::new(0),
        }
    }

    pub(super) fn capacity(&self) -> u64 {
        self.capacity
    }

    pub(super) fn get(&self, key: &Key) -> Option<Arc<Resource>> {
        self.objects.get(key.as_str())
    }

    fn epoch_of(&self, key: &Key) -> &AtomicU64 {
        let hash = self.hasher.hash_one(key.as_str());
        #[allow(clippy::cast_possible_truncation, reason = "it is smaller than their number")]
        let at = (hash % EPOCHS as u64) as usize;
        &self.epochs[at]
    }

    /// Changes with each invalidation that may be about this key: what was asked for
    /// before is not stored after it.
    pub(super) fn epoch(&self, key: &Key) -> u64 {
        self.epoch_of(key).load(Ordering::SeqCst)
    }

    /// Stores a response that was asked for in this epoch, in the place of the one that
    /// the same requests select. Whether it is stored; it may not fit.
    pub(super) fn put(&self, key: &Key, stored: Stored, epoch: u64) -> bool {
        self.put_unless(key, stored, epoch, |_| false)
    }

    /// The same for one that was stored before, here or on disk: what has taken its place
    /// since then stays.
    pub(super) fn put_again(&self, key: &Key, stored: Stored, epoch: u64) -> bool {
        let (id, received) = (stored.head.id, stored.head.freshness.received);
        self.put_unless(key, stored, epoch, |other| {
            other.head.id != id || other.head.freshness.received > received
        })
    }

    /// Whether what selects the same has another body.
    pub(super) fn has_another(&self, key: &Key, head: &Head) -> bool {
        let another =
            |other: &Stored| other.head.selecting == head.selecting && other.head.id != head.id;
        self.get(key).is_some_and(|resource| resource.variants.iter().any(another))
    }

    fn put_unless(
        &self,
        key: &Key,
        stored: Stored,
        epoch: u64,
        stays: impl Fn(&Stored) -> bool,
    ) -> bool {
        if self.epoch(key) != epoch || stored.weight() as u64 > self.capacity {
            return false;
        }
        let bytes = stored.weight() as u64;
        let stored = stored.compact();
        let mut put = false;
        let _done = self.objects.entry(key.clone()).and_compute_with(|old| {
            let old = old.map(moka::Entry::into_value);
            let same = |other: &&Stored| other.head.selecting == stored.head.selecting;
            let before = old.as_ref().and_then(|old| old.variants.iter().find(same));
            if before.is_some_and(&stays) {
                return Op::Nop;
            }
            put = true;
            let mut resource = Resource::default();
            resource.variants.reserve_exact(1 + old.as_ref().map_or(0, |old| old.variants.len()));
            resource.variants.extend(old.iter().flat_map(|old| &old.variants).cloned());
            resource.variants.retain(|other| other.head.selecting != stored.head.selecting);
            if resource.variants.len() >= MOST_VARIANTS {
                resource.variants.remove(0);
            }
            resource.variants.push(stored);
            Op::Put(Arc::new(resource))
        });
        if !put {
            return false;
        }
        if self.epoch(key) != epoch {
            self.objects.invalidate(key.as_str());
            return false;
        }
        self.settle(bytes);
        true
    }

    /// moka looks after every few dozen objects whether it is over its budget, however
    /// long they are.
    fn settle(&self, bytes: u64) {
        let unsettled = self.unsettled.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if unsettled > self.capacity / 64 {
            self.unsettled.store(0, Ordering::Relaxed);
            self.objects.run_pending_tasks();
        }
    }

    /// Remembers that responses to this key are not stored. What is stored stays.
    pub(super) fn pass(&self, key: &Key, why: Why) {
        let until = Instant::now() + REMEMBERED;
        self.objects.entry(key.clone()).and_upsert_with(|old| {
            let variants = old.map(|old| old.into_value().variants.clone()).unwrap_or_default();
            Arc::new(Resource { variants, pass: Some((until, why)) })
        });
    }

    /// Begins an invalidation, before it goes to the disk: what was asked for until now is
    /// not stored there. Whoever reads there what is still to go sees it counted up once
    /// more, when it is forgotten here.
    pub(super) fn count_up(&self, key: &Key) {
        self.epoch_of(key).fetch_add(1, Ordering::SeqCst);
    }

    /// The same for all keys.
    pub(super) fn count_up_all(&self) {
        for epoch in &self.epochs {
            epoch.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Forgets what is stored of a key (RFC 9111 §4.4), or has it validated before it is
    /// used again. How many responses that were.
    pub(super) fn invalidate(&self, key: &Key, soft: bool) -> u64 {
        self.count_up(key);
        self.forget(key, soft, |_| true)
    }

    /// Has one response validated before it is used again.
    pub(super) fn condemn(&self, key: &Key, id: u64) {
        self.count_up(key);
        self.forget(key, true, |stored| stored.head.id == id);
    }

    fn forget(&self, key: &Key, soft: bool, which: impl Fn(&Stored) -> bool) -> u64 {
        let mut count = 0;
        let _done = self.objects.entry(key.clone()).and_compute_with(|old| {
            let Some(old) = old.map(moka::Entry::into_value) else { return Op::Nop };
            let mut resource = Resource { variants: Vec::new(), pass: old.pass };
            for stored in &old.variants {
                let meant = which(stored);
                count += u64::from(meant);
                match (meant, soft) {
                    (true, false) => {}
                    (true, true) => resource.variants.push(condemned(stored)),
                    (false, _) => resource.variants.push(stored.clone()),
                }
            }
            if resource.variants.is_empty() { Op::Remove } else { Op::Put(Arc::new(resource)) }
        });
        count
    }

    /// Forgets what selects the same: what came after it is stored elsewhere.
    pub(super) fn give_way(&self, key: &Key, selecting: &Selecting) {
        if self.objects.contains_key(key.as_str()) {
            self.forget(key, false, |stored| stored.head.selecting == *selecting);
        }
    }

    /// The same for whatever is meant, among all.
    pub(super) fn invalidate_all(&self, soft: bool, which: impl Fn(&Key, &Stored) -> bool) -> u64 {
        self.count_up_all();
        let meant = |key: &Key, resource: &Resource| {
            resource.variants.iter().any(|stored| which(key, stored))
        };
        let keys = self.objects.iter().filter(|(key, resource)| meant(key, resource));
        let keys: Vec<_> = keys.map(|(key, _)| key).collect();
        keys.iter().map(|key| self.forget(key, soft, |stored| which(key, stored))).sum()
    }

    /// How many URLs had to make room.
    pub(super) fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    /// How many bytes are stored, of how many URLs.
    pub(super) fn level(&self) -> (u64, u64) {
        self.objects.run_pending_tasks();
        (self.objects.weighted_size(), self.objects.entry_count())
    }
}

fn condemned(stored: &Stored) -> Stored {
    let mut head = (*stored.head).clone();
    head.freshness.condemned = true;
    Stored { head: Arc::new(head), body: stored.body.clone() }
}

#[cfg(test)]
mod tests {
    use super::super::directives::Control;
    use super::super::{CacheKeySettings, CacheSettings};
    use super::*;
    use http::Uri;

    fn key(path: &str) -> Key {
        let url: Uri = format!("http://a.test{path}").parse().unwrap();
        Key::of_url("r", &url, &CacheKeySettings::default()).unwrap()
    }

    fn stored(language: &str, bytes: usize) -> Stored {
        let headers =
            HeaderMap::from_iter([(http::header::VARY, "accept-language".parse().unwrap())]);
        let request = asking(language);
        let (status, settings) = (StatusCode::OK, CacheSettings::default());
        let freshness =
            Freshness::of(status, &headers, &Control::default(), Duration::ZERO, &settings);
        let selecting = Selecting::of(&request, &headers, &settings.key);
        let tags = vec![language.into()];
        let head = Arc::new(Head { id: 0, status, headers, selecting, freshness, tags });
        Stored { head, body: Bytes::from(vec![0; bytes]) }
    }

    fn asking(language: &str) -> HeaderMap {
        HeaderMap::from_iter([(http::header::ACCEPT_LANGUAGE, language.parse().unwrap())])
    }

    #[test]
    fn variants_lie_beside_one_another_and_one_takes_the_place_of_its_like() {
        let memory = Memory::new(1 << 20);
        for (language, bytes) in [("de", 1), ("en", 2), ("de", 3)] {
            assert!(memory.put(&key("/"), stored(language, bytes), 0));
        }
        let resource = memory.get(&key("/")).unwrap();
        let length = |language| resource.select(&asking(language)).map(|found| found.body.len());
        assert_eq!((length("de"), length("en"), length("fr")), (Some(3), Some(2), None));
        assert_eq!(resource.variants.len(), 2);
    }

    #[test]
    fn what_was_stored_before_does_not_take_the_place_of_what_came_after_it() {
        let memory = Memory::new(1 << 20);
        let of = |id, bytes| {
            let stored = stored("de", bytes);
            Stored { head: Arc::new(Head { id, ..(*stored.head).clone() }), body: stored.body }
        };
        let length = || memory.get(&key("/")).unwrap().variants[0].body.len();
        let early = of(1, 1);
        let renewed = of(1, 2);
        assert!(memory.put_again(&key("/"), renewed, 0), "there is nothing yet");
        assert!(!memory.put_again(&key("/"), early, 0), "it has been renewed");
        assert!(memory.put_again(&key("/"), of(1, 3), 0));
        assert!(memory.put(&key("/"), of(2, 4), 0));
        assert!(!memory.put_again(&key("/"), of(1, 5), 0), "there is another");
        assert!(memory.has_another(&key("/"), &of(1, 0).head));
        assert!(!memory.has_another(&key("/"), &of(2, 0).head));
        assert_eq!(length(), 4);
        assert!(memory.put_again(&key("/"), stored("en", 1), 0), "it selects something else");
    }

    #[test]
    fn the_budget_holds_and_a_scan_does_not_wash_out_what_is_asked_for() {
        let memory = Memory::new(1 << 20);
        memory.put(&key("/often"), stored("de", 1000), 0);
        for round in 0..2_000 {
            assert!(memory.get(&key("/often")).is_some(), "washed out in round {round}");
            memory.put(&key(&format!("/{round}")), stored("de", 10_000), 0);
        }
        let (bytes, _) = memory.level();
        assert!(bytes <= 1 << 20, "{bytes}");
    }

    #[test]
    fn what_was_asked_for_before_an_invalidation_is_not_stored_after_it() {
        let memory = Memory::new(1 << 20);
        let epoch = memory.epoch(&key("/"));
        memory.invalidate(&key("/"), false);
        assert!(!memory.put(&key("/"), stored("de", 1), epoch));
        let epoch = memory.epoch(&key("/"));
        memory.invalidate_all(false, |_, _| false);
        assert!(!memory.put(&key("/"), stored("de", 1), epoch));
        assert!(memory.put(&key("/"), stored("de", 1), memory.epoch(&key("/"))));
    }

    #[test]
    fn a_purge_takes_what_is_meant_and_a_soft_one_leaves_it_to_be_validated() {
        let memory = Memory::new(1 << 20);
        let put = |language| memory.put(&key("/"), stored(language, 1), memory.epoch(&key("/")));
        assert!(put("de") && put("en"));
        let tagged = |_: &Key, stored: &Stored| stored.head.tags.iter().any(|tag| &**tag == "de");
        assert_eq!(memory.invalidate_all(true, tagged), 1);
        let resource = memory.get(&key("/")).unwrap();
        let condemned =
            |language| resource.select(&asking(language)).unwrap().head.freshness.condemned;
        assert!(condemned("de") && !condemned("en"));
        assert_eq!(memory.invalidate_all(false, tagged), 1);
        assert_eq!(memory.invalidate(&key("/"), false), 1);
        assert!(memory.get(&key("/")).is_none());
    }

    #[test]
    fn what_is_not_stored_is_remembered_until_something_is() {
        let memory = Memory::new(1 << 20);
        let passes = || memory.get(&key("/")).and_then(|found| found.passes(Instant::now()));
        memory.pass(&key("/"), "private");
        assert_eq!(passes(), Some("private"));
        memory.put(&key("/"), stored("de", 1), 0);
        assert_eq!(passes(), None);
        memory.pass(&key("/"), "private");
        assert_eq!(memory.get(&key("/")).unwrap().variants.len(), 1);
    }
}
