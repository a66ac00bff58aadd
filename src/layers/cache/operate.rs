//! What an operator may ask of a cache: purge it, how full it is, and what it has of a
//! URL.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use http::Uri;
use serde::Serialize;

use super::disk::Wiped;
use super::key::Key;
use super::says::{self, Clocks};
use super::store::{Had, Stored};
use super::{Cache, Route, Told};
use crate::observe::{CacheCounts, CacheDiskFigures, CacheOutcome};

/// What is to be forgotten.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Purge {
    /// A URL with all its variants, on every route.
    Url(Uri),
    /// Every URL that begins so, such as `https://example.com/images/`.
    Prefix(String),
    /// Whatever the origin has called so by `Surrogate-Key` or `Cache-Tag`.
    Tag(String),
    /// Everything.
    All,
}

/// What came of a purge.
#[derive(Clone, Debug, Serialize)]
pub struct Purged {
    /// How many responses it was about here.
    pub purged: u64,
    /// Whether the others have been told; `None` where there are none.
    #[serde(flatten)]
    pub others: Option<Told>,
}

/// How full a cache is, and what it was good for.
#[derive(Clone, Debug, Serialize)]
pub struct CacheFigures {
    /// Bytes that may be stored.
    pub memory_bytes: u64,
    /// Bytes that are stored in memory.
    pub stored_bytes: u64,
    /// What is on disk; `None` without one, or before it could be opened.
    pub disk: Option<CacheDiskFigures>,
    /// URLs of which something is stored or remembered.
    pub objects: u64,
    /// Requests to origins whose answers others may share.
    pub in_flight: usize,
    /// URLs that had to make room for others since the process began.
    pub evicted: u64,
    /// Of the requests that were looked for, on all routes together, the share that the
    /// origin sent no body for; `None` if there were none.
    pub hit_ratio: Option<f64>,
    /// What became of the requests of each route since the process began.
    pub routes: Vec<CacheRouteFigures>,
}

/// What became of a route's requests, each counted once.
#[derive(Clone, Debug, Serialize)]
pub struct CacheRouteFigures {
    /// The route.
    pub route: String,
    /// A stored response was fresh.
    pub hit: u64,
    /// A stored response was used although it was stale.
    pub stale: u64,
    /// A stored response was used once the origin had said that it still holds.
    pub revalidated: u64,
    /// The response of another request was shared.
    pub collapsed: u64,
    /// The origin had to be asked.
    pub miss: u64,
    /// The request, or the response, has nothing to do with the cache.
    pub pass: u64,
    /// All but the last two among all but the last.
    pub hit_ratio: Option<f64>,
}

/// What a cache has of a URL.
#[derive(Clone, Debug, Serialize)]
pub struct CacheShown {
    /// The URL, as it is looked for.
    pub url: String,
    /// Why there may be nothing, if there is nothing.
    pub says: Option<&'static str>,
    /// For each route that has something of it.
    pub routes: Vec<CacheEntry>,
}

/// What a cache has of a URL on one route.
#[derive(Clone, Debug, Serialize)]
pub struct CacheEntry {
    /// The route.
    pub route: String,
    /// Why its responses are not stored, for as long as that is remembered.
    pub not_stored_because: Option<&'static str>,
    /// The same in words, and until when.
    pub says: Option<String>,
    /// What is stored.
    pub variants: Vec<CacheVariant>,
}

/// One stored response.
#[derive(Clone, Debug, Serialize)]
pub struct CacheVariant {
    /// Its status.
    pub status: u16,
    /// The length of its body.
    pub bytes: u64,
    /// `memory`, or `disk` for what is there only.
    pub on: &'static str,
    /// How old it is.
    pub age_seconds: u64,
    /// How long it stays fresh; negative since it is stale.
    pub ttl_seconds: i64,
    /// Whether it is used without asking the origin.
    pub fresh: bool,
    /// Until when it is fresh, or since when it is not (RFC 3339).
    pub fresh_until: String,
    /// What becomes of a request for it, and until when.
    pub says: String,
    /// Its `ETag`.
    pub etag: Option<String>,
    /// What the origin calls it by.
    pub tags: Vec<String>,
    /// The fields of the request that it was selected by.
    pub selected_by: Vec<(String, String)>,
}

impl Cache {
    /// Forgets what is meant, or (`soft`) has it validated before it is used again. How
    /// many responses that were. What is under way from an origin is not stored.
    pub fn purge(&self, what: &Purge, soft: bool) -> u64 {
        // The epochs first, for what is on its way to the disk; memory last, for what comes
        // from there.
        let (memory, disk) = (self.memory(), &self.shared().tier);
        match what {
            Purge::Url(url) => self.invalidate(url, soft),
            Purge::Prefix(prefix) => {
                let prefix = with_lower_host(prefix);
                memory.count_up_all();
                disk.purge(&Wiped::UrlPrefix(&prefix), soft);
                memory.invalidate_all(soft, |key, _| key.url().starts_with(&prefix))
            }
            Purge::Tag(tag) => {
                memory.count_up_all();
                disk.purge(&Wiped::Tag(tag), soft);
                memory.invalidate_all(soft, |_, stored| {
                    stored.head.tags.iter().any(|known| **known == **tag)
                })
            }
            Purge::All => {
                let on_disk = disk.objects();
                memory.count_up_all();
                disk.purge(&Wiped::All, soft);
                memory.invalidate_all(soft, |_, _| true).max(on_disk)
            }
        }
    }

    /// Forgets a URL, on every route that there is or was.
    fn invalidate(&self, url: &Uri, soft: bool) -> u64 {
        let (memory, disk) = (self.memory(), &self.shared().tier);
        let each = self.every_key(url).into_iter().map(|key| {
            memory.count_up(&key);
            let on_disk = u64::from(disk.purge_key(&key, soft));
            memory.invalidate(&key, soft).max(on_disk)
        });
        each.sum()
    }

    /// What a URL is found by on every route that there is or was.
    fn every_key(&self, url: &Uri) -> Vec<Key> {
        let spaces = self.shared().spaces.lock();
        spaces.iter().filter_map(|(space, key)| Key::of_url(space, url, key)).collect()
    }

    /// The same where other work must not wait: what has to look at everything that is
    /// stored does so on a thread of its own. It needs a tokio runtime.
    pub async fn purge_aside(&self, what: Purge, soft: bool) -> u64 {
        if matches!(what, Purge::Url(_)) {
            return self.purge(&what, soft);
        }
        let cache = self.clone();
        // It can only fail by panicking, or because the runtime is gone.
        tokio::task::spawn_blocking(move || cache.purge(&what, soft)).await.unwrap_or_default()
    }

    /// The same here, and in the caches of all others of its [fleet](Self::join).
    pub async fn purge_everywhere(&self, what: Purge, soft: bool) -> Purged {
        let purged = self.purge_aside(what.clone(), soft).await;
        let others = match self.fleet() {
            Some(fleet) => Some(fleet.tell(what, soft).await),
            None => None,
        };
        Purged { purged, others }
    }

    /// How full it is, and what it was good for.
    #[must_use]
    pub fn figures(&self) -> CacheFigures {
        let (stored_bytes, objects) = self.memory().level();
        let memory_bytes = self.memory().capacity();
        let routes = self.routes();
        let sum = |of: fn(&CacheRouteFigures) -> u64| routes.iter().map(of).sum::<u64>();
        let (answered, missed) = (sum(CacheRouteFigures::answered), sum(|route| route.miss));
        CacheFigures {
            memory_bytes,
            stored_bytes,
            disk: self.shared().tier.figures(),
            objects,
            in_flight: self.shared().flights.count(),
            evicted: self.memory().evicted(),
            hit_ratio: ratio(answered, missed),
            routes,
        }
    }

    fn routes(&self) -> Vec<CacheRouteFigures> {
        let routes = self.shared().routes.read();
        // Those of earlier configurations count together with their successors.
        let mut named = BTreeMap::new();
        for route in routes.iter().filter_map(Weak::upgrade) {
            named.insert(route.name().to_owned(), route.counts.clone());
        }
        named.into_iter().map(|(name, counts)| CacheRouteFigures::of(name, &counts)).collect()
    }

    /// What it has of a URL.
    pub async fn show(&self, url: &Uri) -> CacheShown {
        let clocks = Clocks::now();
        let keys = self.keys(url);
        let shown = keys.first().map_or_else(|| url.to_string(), |key| key.url().to_owned());
        let mut routes = Vec::new();
        for key in &keys {
            let resource = self.memory().get(key).unwrap_or_default();
            let stored = resource.variants.iter().map(Had::from);
            let mut variants: Vec<_> = stored.map(|had| variant(&had, clocks, "memory")).collect();
            for had in self.shared().tier.all(key).await {
                let same = |stored: &Stored| stored.head.id == had.head.id;
                if !resource.variants.iter().any(same) {
                    variants.push(variant(&had, clocks, "disk"));
                }
            }
            let why = resource.passes(clocks.now);
            let remembered = resource.passes_for(clocks.now);
            if why.is_some() || !variants.is_empty() {
                routes.push(CacheEntry {
                    route: key.route().to_owned(),
                    not_stored_because: why,
                    says: why.map(|why| says::of_not_stored(why, remembered, clocks)),
                    variants,
                });
            }
        }
        let says = routes.is_empty().then(|| says::of_unknown(keys.len()));
        CacheShown { url: shown, says, routes }
    }

    /// What a URL is found by, on every route.
    fn keys(&self, url: &Uri) -> Vec<Key> {
        let routes = self.shared().routes.read();
        let routes = routes.iter().filter_map(Weak::upgrade);
        let of = |route: Arc<Route>| Key::of_url(&route.space, url, &route.settings.key);
        let mut keys: Vec<Key> = routes.filter_map(of).collect();
        keys.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        keys.dedup();
        keys
    }
}

impl CacheRouteFigures {
    fn of(route: String, counts: &CacheCounts) -> Self {
        let mut figures = Self {
            route,
            hit: counts.get(CacheOutcome::Hit),
            stale: counts.get(CacheOutcome::Stale),
            revalidated: counts.get(CacheOutcome::Revalidated),
            collapsed: counts.get(CacheOutcome::Collapsed),
            miss: counts.get(CacheOutcome::Miss),
            pass: counts.get(CacheOutcome::Pass),
            hit_ratio: None,
        };
        figures.hit_ratio = ratio(figures.answered(), figures.miss);
        figures
    }

    /// Those that the origin sent no body for.
    fn answered(&self) -> u64 {
        self.hit + self.stale + self.revalidated + self.collapsed
    }
}

#[allow(clippy::cast_precision_loss, reason = "nobody counts to 2^52")]
fn ratio(answered: u64, missed: u64) -> Option<f64> {
    let all = answered + missed;
    (all > 0).then(|| answered as f64 / all as f64)
}

fn variant(had: &Had, clocks: Clocks, on: &'static str) -> CacheVariant {
    let (head, now) = (&had.head, clocks.now);
    let etag = head.headers.get(http::header::ETAG);
    CacheVariant {
        status: head.status.as_u16(),
        bytes: had.content.length().unwrap_or_default(),
        on,
        age_seconds: head.freshness.age(now).as_secs(),
        ttl_seconds: head.freshness.ttl(now),
        fresh: head.freshness.is_fresh(now) && !head.freshness.no_cache,
        fresh_until: says::fresh_until(&head.freshness, clocks),
        says: says::of_stored(&head.freshness, clocks),
        etag: etag.map(|tag| String::from_utf8_lossy(tag.as_bytes()).into_owned()),
        tags: head.tags.iter().map(ToString::to_string).collect(),
        selected_by: head
            .selecting
            .shown()
            .map(|(name, value)| (name.to_string(), value.into_owned()))
            .collect(),
    }
}

/// Scheme and host in lower case, as they are stored.
fn with_lower_host(prefix: &str) -> String {
    let host = prefix.find("://").map_or(0, |at| at + 3);
    let path = prefix[host..].find('/').map_or(prefix.len(), |at| host + at);
    format!("{}{}", prefix[..path].to_ascii_lowercase(), &prefix[path..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_has_its_host_in_lower_case_and_its_path_as_it_is() {
        assert_eq!(with_lower_host("HTTPS://A.test/Img"), "https://a.test/Img");
        assert_eq!(with_lower_host("http://A"), "http://a");
    }
}
