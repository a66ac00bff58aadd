//! A shared HTTP cache (RFC 9111), off unless a route has it.
//!
//! | file | what it is about |
//! |---|---|
//! | `directives` | `Cache-Control` and `CDN-Cache-Control`, read |
//! | `policy` | what may be stored, for how long it is fresh, how it is validated |
//! | `key` | what a stored response is found by |
//! | `store` | where it lies |
//! | `disk` | a store on disk, which knows of bytes alone |
//! | `content` | a body that several read while it comes |
//! | `flight` | who asks, and who waits |
//! | `fetch` | asks the origin, and stores |
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
mod content;
mod directives;
#[allow(dead_code, reason = "what is behind memory does not ask it yet")]
mod disk;
mod fetch;
#[cfg_attr(not(feature = "redis"), allow(dead_code, reason = "nobody tells or hears"))]
mod fleet;
mod flight;
#[cfg(fuzzing)]
pub(crate) mod fuzz;
mod key;
mod operate;
mod plan;
mod policy;
mod says;
mod service;
mod settings;
mod status;
mod store;
mod wait;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use http::HeaderName;
use parking_lot::RwLock;
use tower::Layer;

use crate::observe::{CacheCounts, CacheLevel};
pub(in crate::layers) use directives::members as list_members;
pub use fleet::{CacheFleetSettings, Fleet, FleetFigures, FleetPosition, Told};
pub use operate::{
    CacheEntry, CacheFigures, CacheRouteFigures, CacheShown, CacheVariant, Purge, Purged,
};
pub use service::{CacheFuture, Cached};
pub use settings::{CacheKeySettings, CacheSettings};

use directives::Scope;
use flight::Flights;
use store::Memory;

/// The responses that are stored, of all routes. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Cache(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    memory: Memory,
    flights: Arc<Flights>,
    /// Bytes of bodies that are on their way.
    filling: AtomicUsize,
    /// The routes that store here, for as long as there are any of them.
    routes: RwLock<Vec<Weak<Route>>>,
    /// The number of the next route.
    next: AtomicU64,
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
            flights: Flights::new(),
            filling: AtomicUsize::new(0),
            routes: RwLock::default(),
            next: AtomicU64::new(0),
            fleet: OnceLock::new(),
        }))
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
    /// Its name with a number: what is stored for a route is not for one that does
    /// something else under the same name.
    space: Arc<str>,
    settings: CacheSettings,
    counts: CacheCounts,
    /// Fields that the operator has every request carry, which so are nobody's own.
    vouched: Vec<HeaderName>,
}

impl CacheLayer {
    /// Stores in `cache`, apart from whatever other layers store there.
    #[must_use]
    pub fn new(cache: &Cache, name: &str, settings: &CacheSettings) -> Self {
        let number = cache.0.next.fetch_add(1, Ordering::Relaxed);
        let (cache, settings, counts) = (cache.clone(), settings.clone(), CacheCounts::default());
        let space = format!("{name}\t{number}").into();
        Self(Arc::new(Route { cache, space, settings, counts, vouched: Vec::new() }))
    }

    /// A layer that takes the place of this one, with other settings. What is stored
    /// goes on being used, unless requests are told apart in another way. This one is
    /// not changed by it.
    #[must_use]
    pub fn renewed(&self, name: &str, settings: &CacheSettings) -> Self {
        let Route { cache, settings: old, space, counts, vouched } = &*self.0;
        let new = Self::new(cache, name, settings);
        // Cookies that were stored are not handed out any more once that is taken back.
        let same = old.key == settings.key && old.store_set_cookie == settings.store_set_cookie;
        let space = if same { space.clone() } else { new.0.space.clone() };
        let (cache, settings) = (cache.clone(), settings.clone());
        let (counts, vouched) = (counts.clone(), vouched.clone());
        Self(Arc::new(Route { cache, space, settings, counts, vouched }))
    }

    /// Counts here.
    #[must_use]
    pub fn counting(self, counts: CacheCounts) -> Self {
        let Route { cache, space, settings, vouched, .. } = &*self.0;
        let (cache, space) = (cache.clone(), space.clone());
        let (settings, vouched) = (settings.clone(), vouched.clone());
        Self(Arc::new(Route { cache, space, settings, counts, vouched }))
    }

    /// Takes these fields of requests for the operator's: `Authorization` among them is
    /// no client's.
    #[must_use]
    pub fn vouching(self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        let Route { cache, space, settings, counts, .. } = &*self.0;
        let (cache, space) = (cache.clone(), space.clone());
        let (settings, counts) = (settings.clone(), counts.clone());
        let vouched = names.into_iter().collect();
        Self(Arc::new(Route { cache, space, settings, counts, vouched }))
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
