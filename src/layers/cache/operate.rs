//! What an operator may ask of a cache: purge it, how full it is, and what it has of a
//! URL.

use std::sync::{Arc, Weak};

use http::Uri;
use serde::Serialize;
use tokio::time::Instant;

use super::key::Key;
use super::store::Stored;
use super::{Cache, Route, Told};

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

/// How full a cache is.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct CacheFigures {
    /// Bytes that may be stored.
    pub memory_bytes: u64,
    /// Bytes that are stored.
    pub stored_bytes: u64,
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
    pub bytes: usize,
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
        let memory = self.memory();
        match what {
            Purge::Url(url) => {
                let keys = self.keys(url);
                keys.iter().map(|key| memory.invalidate(key, soft)).sum()
            }
            Purge::Prefix(prefix) => {
                let prefix = with_lower_host(prefix);
                memory.invalidate_all(soft, |key, _| key.url().starts_with(&prefix))
            }
            Purge::Tag(tag) => memory.invalidate_all(soft, |_, stored| {
                stored.head.tags.iter().any(|known| **known == **tag)
            }),
            Purge::All => memory.invalidate_all(soft, |_, _| true),
        }
    }

    /// The same here, and in the caches of all others of its [fleet](Self::join).
    pub async fn purge_everywhere(&self, what: &Purge, soft: bool) -> Purged {
        let purged = self.purge(what, soft);
        let others = match self.fleet() {
            Some(fleet) => Some(fleet.tell(what, soft).await),
            None => None,
        };
        Purged { purged, others }
    }

    /// How full it is.
    #[must_use]
    pub fn figures(&self) -> CacheFigures {
        let (stored_bytes, objects) = self.memory().level();
        let memory_bytes = self.memory().capacity();
        CacheFigures {
            memory_bytes,
            stored_bytes,
            objects,
            in_flight: self.shared().flights.count(),
        }
    }

    /// What it has of a URL.
    #[must_use]
    pub fn show(&self, url: &Uri) -> CacheShown {
        let now = Instant::now();
        let keys = self.keys(url);
        let shown = keys.first().map_or_else(|| url.to_string(), |key| key.url().to_owned());
        let entry = |key: &Key| {
            let resource = self.memory().get(key)?;
            Some(CacheEntry {
                route: key.route().to_owned(),
                not_stored_because: resource.passes(now),
                variants: resource.variants.iter().map(|stored| variant(stored, now)).collect(),
            })
        };
        CacheShown { url: shown, routes: keys.iter().filter_map(entry).collect() }
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

fn variant(stored: &Stored, now: Instant) -> CacheVariant {
    let head = &stored.head;
    let etag = head.headers.get(http::header::ETAG);
    CacheVariant {
        status: head.status.as_u16(),
        bytes: stored.body.len(),
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
