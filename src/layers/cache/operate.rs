//! What an operator may ask of a cache: purge it, how full it is, and what it has of a
//! URL.

use std::sync::{Arc, Weak};

use http::Uri;
use serde::Serialize;
use tokio::time::Instant;

use super::disk::Wiped;
use super::key::Key;
use super::store::Had;
use super::{Cache, Route};
use crate::observe::CacheDiskFigures;

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

/// How full a cache is.
#[derive(Clone, Copy, Debug, Serialize)]
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
}

/// What a cache has of a URL.
#[derive(Clone, Debug, Serialize)]
pub struct CacheShown {
    /// The URL, as it is looked for.
    pub url: String,
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
        // In this order: what is on its way to the disk counts on it.
        let (memory, disk) = (self.memory(), &self.shared().tier);
        match what {
            Purge::Url(url) => self.invalidate(url, soft),
            Purge::Prefix(prefix) => {
                let prefix = with_lower_host(prefix);
                let count = memory.invalidate_all(soft, |key, _| key.url().starts_with(&prefix));
                disk.purge(&Wiped::UrlPrefix(&prefix), soft);
                count
            }
            Purge::Tag(tag) => {
                let count = memory.invalidate_all(soft, |_, stored| {
                    stored.head.tags.iter().any(|known| **known == **tag)
                });
                disk.purge(&Wiped::Tag(tag), soft);
                count
            }
            Purge::All => {
                let count = memory.invalidate_all(soft, |_, _| true);
                let on_disk = disk.objects();
                disk.purge(&Wiped::All, soft);
                count.max(on_disk)
            }
        }
    }

    /// Forgets a URL, on every route that there is or was.
    fn invalidate(&self, url: &Uri, soft: bool) -> u64 {
        let (memory, disk) = (self.memory(), &self.shared().tier);
        let spaces = self.shared().spaces.lock().clone();
        let keys = spaces.iter().filter_map(|(space, key)| Key::of_url(space, url, key));
        let each = keys.map(|key| {
            let count = memory.invalidate(&key, soft);
            count.max(u64::from(disk.purge_key(&key, soft)))
        });
        each.sum()
    }

    /// How full it is.
    #[must_use]
    pub fn figures(&self) -> CacheFigures {
        let (stored_bytes, objects) = self.memory().level();
        let memory_bytes = self.memory().capacity();
        CacheFigures {
            memory_bytes,
            stored_bytes,
            disk: self.shared().tier.figures(),
            objects,
            in_flight: self.shared().flights.count(),
        }
    }

    /// What it has of a URL.
    pub async fn show(&self, url: &Uri) -> CacheShown {
        let now = Instant::now();
        let keys = self.keys(url);
        let shown = keys.first().map_or_else(|| url.to_string(), |key| key.url().to_owned());
        let mut routes = Vec::new();
        for key in &keys {
            let resource = self.memory().get(key).unwrap_or_default();
            let stored = resource.variants.iter().map(Had::from);
            let mut variants: Vec<_> = stored.map(|had| variant(&had, now, "memory")).collect();
            for had in self.shared().tier.all(key).await {
                let in_memory =
                    resource.variants.iter().any(|stored| stored.head.id == had.head.id);
                if !in_memory {
                    variants.push(variant(&had, now, "disk"));
                }
            }
            let not_stored_because = resource.passes(now);
            if not_stored_because.is_some() || !variants.is_empty() {
                let route = key.route().to_owned();
                routes.push(CacheEntry { route, not_stored_because, variants });
            }
        }
        CacheShown { url: shown, routes }
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

fn variant(had: &Had, now: Instant, on: &'static str) -> CacheVariant {
    let head = &had.head;
    let etag = head.headers.get(http::header::ETAG);
    CacheVariant {
        status: head.status.as_u16(),
        bytes: had.content.length().unwrap_or_default(),
        on,
        age_seconds: head.freshness.age(now).as_secs(),
        ttl_seconds: head.freshness.ttl(now),
        fresh: head.freshness.is_fresh(now) && !head.freshness.no_cache,
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
