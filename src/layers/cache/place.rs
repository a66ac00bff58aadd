//! Where a response goes: into memory and onto disk, each as far as it takes it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::{self, HeaderValue};
use tokio::time::Instant;

use super::Route;
use super::content::Content;
use super::key::Key;
use super::store::{Had, Head, Stored};
use super::tier::{Storing, Tier};

/// The longest body that is in memory where there is a disk for what is longer.
const MOST_IN_MEMORY: u64 = 8 << 20;

/// The longest body that is stored, unless a route says otherwise.
const MOST_WITHOUT_DISK: u64 = 8 << 20;
const MOST_WITH_DISK: u64 = 1 << 30;

/// What is of use for a shorter time is not worth being written.
const WORTH_WRITING: Duration = Duration::from_secs(10);

/// Where a response is being stored.
#[derive(Debug)]
pub(super) struct Place {
    route: Arc<Route>,
    key: Key,
    epoch: u64,
    head: Arc<Head>,
    /// Memory takes it, as far as is known.
    memory: bool,
    disk: Option<Storing>,
}

impl Place {
    /// For a response of this length at least; `None` if nothing takes it.
    pub(super) fn of(
        route: &Arc<Route>,
        key: &Key,
        epoch: u64,
        head: &Arc<Head>,
        least: u64,
    ) -> Option<Self> {
        let memory = least <= route.most_in_memory();
        let disk = route.begin_on_disk(key, head, least);
        let (route, key, head) = (route.clone(), key.clone(), head.clone());
        let takes = memory || disk.is_some();
        takes.then_some(Self { route, key, epoch, head, memory, disk })
    }

    pub(super) fn route(&self) -> &Arc<Route> {
        &self.route
    }

    pub(super) fn is_in_memory(&self) -> bool {
        self.memory
    }

    /// More has come, for the disk.
    pub(super) fn push(&mut self, data: &Bytes) {
        let Some(disk) = &mut self.disk else { return };
        if disk.push(data.clone()) {
            return;
        }
        let replaces = disk.replaces();
        self.disk = None;
        if let Some(tier) = self.route.tier().filter(|_| replaces) {
            // What lies there is older than what others are sent now.
            tier.purge_key(&self.key, false);
        }
    }

    /// Memory does not take it. `None` if nothing else does.
    pub(super) fn without_memory(self) -> Option<Self> {
        self.disk.is_some().then_some(Self { memory: false, ..self })
    }

    /// It has turned out longer than the route stores.
    pub(super) fn too_long(self) {
        self.route.cache.memory().pass(&self.key, "too-long");
    }

    /// All of it has come: `length` bytes, which are `body` if memory is to have it.
    /// Whether it is stored.
    pub(super) fn store(self, length: u64, body: Option<Bytes>) -> bool {
        let Self { route, key, epoch, head, memory, disk } = self;
        let passes = !head.freshness.is_for_others(Instant::now());
        let mut head = (*head).clone();
        if head.status != StatusCode::NO_CONTENT {
            head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        let head = Arc::new(head);
        let mut stored = false;
        match body.filter(|_| memory) {
            Some(body) => {
                let response = Stored { head: head.clone(), body };
                stored = route.cache.memory().put(&key, response, epoch);
            }
            // Or one that came before it would be found there first.
            None => route.cache.memory().give_way(&key, &head.selecting),
        }
        if let (Some(disk), Some(tier)) = (disk, route.tier()) {
            stored |= route.unless_purged(&key, epoch, tier, || disk.finish(&head));
        }
        if stored && passes {
            route.cache.memory().pass(&key, "stale-at-once");
        }
        stored
    }
}

impl Head {
    /// Whether it is of use long enough to be written to a disk: fresh, served stale, or
    /// validated.
    fn is_worth_writing(&self) -> bool {
        let can_be_validated = self.headers.contains_key(header::ETAG)
            || self.headers.contains_key(header::LAST_MODIFIED);
        let freshness = &self.freshness;
        let stale = freshness.while_revalidate.max(freshness.if_error);
        let of_use =
            freshness.lifetime + if freshness.never_stale { Duration::ZERO } else { stale };
        can_be_validated || of_use.saturating_sub(freshness.age(Instant::now())) >= WORTH_WRITING
    }
}

impl Route {
    /// The disk, if what is stored for this route may go there.
    pub(super) fn tier(&self) -> Option<&Tier> {
        let tier = &self.cache.shared().tier;
        (self.lasts && tier.is_there()).then_some(tier)
    }

    /// The longest body that is stored.
    pub(super) fn most_stored(&self) -> u64 {
        let with_disk = |tier: &Tier| MOST_WITH_DISK.min(tier.longest()).max(MOST_IN_MEMORY);
        let most = || self.tier().map_or(MOST_WITHOUT_DISK, with_disk);
        self.settings.max_object.unwrap_or_else(most)
    }

    /// The longest body that is stored in memory.
    pub(super) fn most_in_memory(&self) -> u64 {
        let most = self.most_stored();
        if self.tier().is_some() { most.min(MOST_IN_MEMORY) } else { most }
    }

    fn begin_on_disk(&self, key: &Key, head: &Head, least: u64) -> Option<Storing> {
        let tier = self.tier()?;
        if head.is_worth_writing() {
            return tier.begin(key, head, least);
        }
        tier.purge_key(key, false);
        None
    }

    /// Forgets what is stored of a key.
    pub(super) fn forget(&self, key: &Key) {
        let memory = self.cache.memory();
        if self.lasts {
            memory.count_up(key);
            // Also where the disk is still to come.
            self.cache.shared().tier.purge_key(key, false);
        }
        memory.invalidate(key, false);
    }

    /// Puts something on disk that was asked for in this epoch. A purge first counts up
    /// the epoch and then goes to the disk: either it comes after what is put there, or
    /// it is seen here.
    fn unless_purged(&self, key: &Key, epoch: u64, tier: &Tier, put: impl FnOnce()) -> bool {
        let memory = self.cache.memory();
        if memory.epoch(key) != epoch {
            return false;
        }
        put();
        let good = memory.epoch(key) == epoch;
        if !good {
            tier.purge_key(key, false);
        }
        good
    }

    /// What is stored is stale from now on, whatever its age says.
    pub(super) fn condemn(&self, key: &Key, had: &Had) {
        if had.head.freshness.condemned {
            // Or each that asks would keep from being stored what others are fetching.
            return;
        }
        let memory = self.cache.memory();
        if self.lasts {
            memory.count_up(key);
            self.cache.shared().tier.purge_key(key, true);
        }
        memory.condemn(key, had.head.id);
    }

    /// What is stored is as good as new. Whether it is stored still.
    pub(super) fn store_renewed(
        self: &Arc<Self>,
        key: &Key,
        head: &Arc<Head>,
        content: &Content,
        epoch: u64,
    ) -> bool {
        match content {
            Content::Whole(body) => {
                let stored = Stored { head: head.clone(), body: body.clone() };
                let stored = self.cache.memory().put_again(key, stored, epoch);
                if stored && self.tier().is_some_and(|tier| tier.may_have(key)) {
                    let (route, key, head) = (self.clone(), key.clone(), head.clone());
                    tokio::spawn(async move { route.renew_on_disk(&key, &head, epoch).await });
                }
                stored
            }
            Content::Disk(_) if self.cache.memory().has_another(key, head) => false,
            Content::Disk(body) => self.tier().is_some_and(|tier| {
                self.unless_purged(key, epoch, tier, || tier.renew(body, key, head))
            }),
            Content::Growing(_) => false,
        }
    }

    /// The same for what lies on disk as well, if it is the same body.
    async fn renew_on_disk(&self, key: &Key, head: &Head, epoch: u64) {
        let Some(tier) = self.tier() else { return };
        let same = tier.all(key).await.into_iter().find(|had| had.head.id == head.id);
        if let Some(Content::Disk(body)) = same.map(|had| had.content) {
            self.unless_purged(key, epoch, tier, || tier.renew(&body, key, head));
        }
    }
}
