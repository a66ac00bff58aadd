//! A shared HTTP cache (RFC 9111), off unless a route has it.
//!
//! | file | what it is about |
//! |---|---|
//! | `directives` | `Cache-Control` and `CDN-Cache-Control`, read |
//! | `policy` | what may be stored, for how long it is fresh, how it is validated |
//! | `compact` | fields without the buffer that they came in |
//! | `key` | what a stored response is found by |
//! | `store` | where it lies |
//! | `disk` | a store of bodies on disk, which knows nothing of HTTP |
//! | `tier` | that store behind the memory |
//! | `late` | what it is purged of before it is there |
//! | `codec` | a response's head as bytes |
//! | `content` | a body that several read while it comes |
//! | `streamed` | a body that is read from disk while it is sent |
//! | `flight` | who asks, and who waits |
//! | `fetch` | asks the origin |
//! | `place` | where a response goes: memory, disk, or both |
//! | `fill` | takes a body from the origin to there |
//! | `lookup` | looks on disk for what memory has not |
//! | `answer` | answers from what is stored |
//! | `plan` | what is looked for, what is passed by, what a change invalidates |
//! | `wait` | waits for the origin, or for another who asks |
//! | `service` | the layer |
//! | `fleet` | purges of many machines |
//! | `operate` | purge, figures, and what is stored |
//! | `says` | why something is stored or not, and until when, in words |
//!
//! It stands below whatever changes requests and responses for the operator: what it
//! sees of a request is what the origin will see, and what it stores is what the origin
//! sent.

mod answer;
mod codec;
mod compact;
mod content;
mod directives;
mod disk;
mod fetch;
mod fill;
#[cfg_attr(not(feature = "redis"), allow(dead_code, reason = "nobody tells or hears"))]
mod fleet;
mod flight;
mod key;
mod late;
mod lookup;
mod operate;
mod place;
mod plan;
mod policy;
mod says;
mod service;
mod settings;
mod status;
mod store;
mod streamed;
mod tier;
mod wait;

use std::collections::HashMap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock, Weak};

use http::HeaderName;
use parking_lot::{Mutex, RwLock};
use sha2::{Digest, Sha256};
use tower::Layer;

use crate::hex::hex;
use crate::observe::{CacheCounts, CacheDiskFigures, CacheLevel};
pub(in crate::layers) use directives::members as list_members;
pub use fleet::{CacheFleetSettings, Fleet, FleetFigures, FleetPosition, Told};
pub use operate::{
    CacheEntry, CacheFigures, CacheRouteFigures, CacheShown, CacheVariant, Purge, Purged,
};
pub use service::{CacheFuture, Cached};
pub use settings::{CacheDiskSettings, CacheKeySettings, CacheSettings};
pub use tier::CacheDiskError;

use directives::Scope;
use flight::Flights;
use store::Memory;
use tier::Tier;

/// The responses that are stored, of all routes. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Cache(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    memory: Memory,
    tier: Tier,
    flights: Arc<Flights>,
    /// Bytes of bodies that are on their way.
    filling: AtomicUsize,
    /// The routes that store here, for as long as there are any of them.
    routes: RwLock<Vec<Weak<Route>>>,
    /// What routes have been known by since the process began, and how their requests
    /// are told apart: one may come back with what is stored for it.
    spaces: Mutex<HashMap<Arc<str>, CacheKeySettings>>,
    /// Others that are told of purges.
    fleet: OnceLock<Fleet>,
}

impl Cache {
    /// One that takes up to so many bytes of memory for what is stored, and up to half
    /// as many for what is on its way.
    #[must_use]
    pub fn new(memory: u64) -> Self {
        Self(Arc::new(Shared {
            memory: Memory::new(memory),
            tier: Tier::default(),
            flights: Flights::new(),
            filling: AtomicUsize::new(0),
            routes: RwLock::default(),
            spaces: Mutex::default(),
            fleet: OnceLock::new(),
        }))
    }

    /// One with a disk behind its memory: what is stored outlives the process. It blocks
    /// until it is known what is there already.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tollgate::layers::{Cache, CacheDiskSettings, CacheLayer, CacheSettings};
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("cache");
    /// let disk = CacheDiskSettings { path, size: 10 << 30 };
    /// let cache = Cache::with_disk(256 << 20, &disk)?;
    /// let layer = CacheLayer::new(&cache, "site", &CacheSettings::default());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The folder cannot be used, or another process uses it.
    pub fn with_disk(memory: u64, disk: &CacheDiskSettings) -> Result<Self, CacheDiskError> {
        let cache = Self::new(memory);
        cache.open_disk(disk)?;
        Ok(cache)
    }

    /// Puts a disk behind the memory of a cache that has none. It blocks.
    ///
    /// # Errors
    ///
    /// The folder cannot be used, or another process uses it.
    pub fn open_disk(&self, disk: &CacheDiskSettings) -> Result<(), CacheDiskError> {
        self.0.tier.open(disk)
    }

    /// Has it keep what it is purged of for a disk that will be there later.
    pub(crate) fn expect_disk(&self) {
        self.0.tier.expect();
    }

    /// The disk will not be there.
    pub(crate) fn expect_no_disk(&self) {
        self.0.tier.expect_none();
    }

    /// Writes to the disk what is on its way there, and lets go of its folder, so that
    /// another process can have it. From then on the memory is alone.
    pub async fn close_disk(&self) {
        self.0.tier.close().await;
    }

    /// Whether there is a disk behind the memory, which has not been let go of.
    #[must_use]
    pub fn has_disk(&self) -> bool {
        self.0.tier.is_open()
    }

    /// What stored responses of a layer are found by, and whether none was known by it.
    fn space(&self, name: &str, meaning: &[u8], settings: &CacheSettings) -> (Arc<str>, bool) {
        let CacheKeySettings { ignore_query, headers } = &settings.key;
        let mut digest = Sha256::new();
        let mut add = |text: &[u8]| {
            digest.update((text.len() as u64).to_le_bytes());
            digest.update(text);
        };
        add(meaning);
        add(&[u8::from(settings.store_set_cookie)]);
        ignore_query.iter().for_each(|name| add(name.as_bytes()));
        add(b"");
        headers.iter().for_each(|name| add(name.as_str().as_bytes()));
        // What stands behind these two is something else.
        let mut space = name.replace(['\n', '\t'], " ");
        space.push('\t');
        space.push_str(&hex(&digest.finalize()[..16]));
        let space = space.into();
        let is_new = self.claim(&space, &settings.key);
        (space, is_new)
    }

    fn claim(&self, space: &Arc<str>, key: &CacheKeySettings) -> bool {
        self.0.spaces.lock().insert(space.clone(), key.clone()).is_none()
    }

    /// Has others told of what it is purged of. The first has it: a cache is of one fleet.
    pub fn join(&self, fleet: &Fleet) {
        self.0.fleet.get_or_init(|| fleet.clone());
    }

    /// The others that are told of purges.
    #[must_use]
    pub fn fleet(&self) -> Option<&Fleet> {
        self.0.fleet.get()
    }

    fn shared(&self) -> &Shared {
        &self.0
    }

    fn memory(&self) -> &Memory {
        &self.0.memory
    }
}

impl CacheLevel for Cache {
    fn level(&self) -> (u64, u64) {
        self.memory().level()
    }

    fn disk(&self) -> Option<CacheDiskFigures> {
        self.0.tier.figures()
    }

    fn evicted(&self) -> u64 {
        self.memory().evicted()
    }
}

/// Puts [`Cached`] before a service.
///
/// It needs a tokio runtime, on which what is stored goes on coming when the client that
/// asked for it has gone away.
#[derive(Clone, Debug)]
pub struct CacheLayer(Arc<Route>);

/// What the requests of a route have in common.
#[derive(Debug)]
struct Route {
    cache: Cache,
    /// Its name and what decides about it: what is stored for a route is not for one
    /// that does something else under the same name.
    space: Arc<str>,
    /// What is stored may go to the disk: the space is the same in the next process.
    lasts: bool,
    settings: CacheSettings,
    counts: CacheCounts,
    /// Fields that the operator has every request carry, which so are nobody's own.
    vouched: Vec<HeaderName>,
}

impl CacheLayer {
    /// Stores in `cache`, apart from whatever other layers store there.
    ///
    /// On disk, what is stored is found again by a layer of the same name whose requests
    /// are told apart in the same way: put into the name what else decides about the
    /// responses, such as the origin. Of several layers of one name in one cache only the
    /// first goes to the disk.
    #[must_use]
    pub fn new(cache: &Cache, name: &str, settings: &CacheSettings) -> Self {
        let (space, is_new) = cache.space(name, b"", settings);
        if is_new {
            return Self::of(cache, space, true, settings);
        }
        let mut number = 1_u64;
        loop {
            let numbered = format!("{space} {number}").into();
            if cache.claim(&numbered, &settings.key) {
                return Self::of(cache, numbered, false, settings);
            }
            number += 1;
        }
    }

    /// Stores in `cache` what is of use to every layer of this name and meaning, in this
    /// process and in others that have the disk.
    pub(crate) fn meaning(
        cache: &Cache,
        name: &str,
        meaning: &[u8],
        settings: &CacheSettings,
    ) -> Self {
        let (space, _) = cache.space(name, meaning, settings);
        Self::of(cache, space, true, settings)
    }

    fn of(cache: &Cache, space: Arc<str>, lasts: bool, settings: &CacheSettings) -> Self {
        let (cache, settings) = (cache.clone(), settings.clone());
        let (counts, vouched) = (CacheCounts::default(), Vec::new());
        Self(Arc::new(Route { cache, space, lasts, settings, counts, vouched }))
    }

    /// A layer that takes the place of this one, with other settings. What is stored
    /// goes on being used, unless requests are told apart in another way. This one is
    /// not changed by it.
    #[must_use]
    pub fn renewed(&self, name: &str, settings: &CacheSettings) -> Self {
        let Route { cache, settings: old, .. } = &*self.0;
        // Cookies that were stored are not handed out any more once that is taken back.
        let same = old.key == settings.key && old.store_set_cookie == settings.store_set_cookie;
        if !same {
            let Self(new) = Self::new(cache, name, settings);
            let (counts, vouched) = (self.0.counts.clone(), self.0.vouched.clone());
            return Self(Arc::new(Route { counts, vouched, ..new.same() }));
        }
        Self(Arc::new(Route { settings: settings.clone(), ..self.0.same() }))
    }

    /// Counts here.
    #[must_use]
    pub fn counting(self, counts: CacheCounts) -> Self {
        Self(Arc::new(Route { counts, ..self.0.same() }))
    }

    /// Takes these fields of requests for the operator's: `Authorization` among them is
    /// no client's.
    #[must_use]
    pub fn vouching(self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        Self(Arc::new(Route { vouched: names.into_iter().collect(), ..self.0.same() }))
    }
}

impl Route {
    /// Another that says the same.
    fn same(&self) -> Self {
        let Self { cache, space, lasts, settings, counts, vouched } = self;
        Self {
            cache: cache.clone(),
            space: space.clone(),
            lasts: *lasts,
            settings: settings.clone(),
            counts: counts.clone(),
            vouched: vouched.clone(),
        }
    }
}

impl Route {
    fn name(&self) -> &str {
        self.space.split('\t').next().unwrap_or_default()
    }
}

impl<S> Layer<S> for CacheLayer {
    type Service = Cached<S>;

    fn layer(&self, inner: S) -> Cached<S> {
        let mut routes = self.0.cache.0.routes.write();
        routes.retain(|known| known.strong_count() > 0);
        routes.push(Arc::downgrade(&self.0));
        drop(routes);
        Cached::new(inner, self.0.clone())
    }
}
