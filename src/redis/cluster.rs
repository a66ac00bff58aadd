//! A cluster: a connection to each master, and a map of which has which keys.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::redis::{Cmd, Value, cmd};
use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::task::AbortOnDropHandle;

use super::RedisUrl;
use super::connect::{Connector, Dedicated, Peer, RedisError};
use super::link::{Link, MOST_OF_A_MAP, Told};
use super::slots::{self, Range, SLOTS, slot};

/// How often the map is asked for anew, while all is well and while it is not.
const LOOKS: (Duration, Duration) = (Duration::from_secs(10), Duration::from_millis(500));

/// How soon after the last time it is asked for anew, at the soonest.
const PAUSE: Duration = Duration::from_millis(100);

pub(super) struct Cluster {
    connector: Arc<Connector>,
    seeds: Vec<RedisUrl>,
    map: ArcSwapOption<Map>,
    /// The map is not right any more.
    stale: Notify,
    /// Whoever told it may not know.
    doubt: AtomicBool,
    /// Why there is no map.
    trouble: Mutex<Option<String>>,
    /// Whether there has been one.
    known: watch::Sender<bool>,
}

/// Which master has which slots.
struct Map {
    /// For each slot the number of its master, from 1; 0 if none has it.
    masters: Box<[u16]>,
    links: Vec<Arc<Link>>,
}

/// The connections that there are, with what keeps them.
type Kept = BTreeMap<String, (Arc<Link>, AbortOnDropHandle<()>)>;

impl Map {
    fn link(&self, key: &[u8]) -> Option<&Arc<Link>> {
        self.links.get(self.number(key)?)
    }

    fn number(&self, key: &[u8]) -> Option<usize> {
        usize::from(*self.masters.get(usize::from(slot(key)))?).checked_sub(1)
    }

    fn link_to(&self, url: &RedisUrl) -> Option<&Arc<Link>> {
        self.links.iter().find(|link| link.url() == Some(url))
    }
}

impl Cluster {
    pub(super) fn new(connector: Arc<Connector>, seeds: &[RedisUrl]) -> Self {
        Self {
            connector,
            seeds: seeds.to_vec(),
            map: ArcSwapOption::empty(),
            stale: Notify::new(),
            doubt: AtomicBool::new(false),
            trouble: Mutex::default(),
            known: watch::channel(false).0,
        }
    }

    /// Whether there is a connection to every master.
    pub(super) fn is_connected(&self) -> bool {
        let map = self.map.load();
        map.as_ref().is_some_and(|map| map.links.iter().all(|link| link.is_connected()))
    }

    /// Whether they all are of use, as far as is known.
    pub(super) fn serves(&self) -> bool {
        let map = self.map.load();
        map.as_ref().is_some_and(|map| map.links.iter().all(|link| link.serves()))
    }

    pub(super) fn reaches(&self, key: &[u8]) -> bool {
        let map = self.map.load();
        let link = map.as_ref().and_then(|map| map.link(key));
        link.is_some_and(|link| link.is_connected())
    }

    pub(super) fn node_of(&self, key: &[u8]) -> Option<usize> {
        self.map.load().as_ref()?.number(key)
    }

    pub(super) fn trouble(&self) -> Option<String> {
        if let Some(trouble) = self.trouble.lock().clone() {
            return Some(trouble);
        }
        let map = self.map.load_full()?;
        map.links.iter().filter(|link| !link.is_connected()).find_map(|link| link.trouble())
    }

    /// Waits until there is a connection to every master.
    pub(super) async fn connected(&self) {
        let mut known = self.known.subscribe();
        loop {
            let _known = known.wait_for(|known| *known).await.map(|known| *known);
            let Some(map) = self.map.load_full() else { continue };
            for link in &map.links {
                // A map that comes meanwhile may be without this one.
                let _there = tokio::time::timeout(LOOKS.1, link.connected()).await;
            }
            if self.is_connected() {
                return;
            }
        }
    }

    pub(super) async fn ask(&self, key: &[u8], command: &Cmd) -> Result<Value, RedisError> {
        let map = self.map.load_full().ok_or(RedisError::Unreachable)?;
        let Some(link) = map.link(key) else {
            self.is_not_right();
            return Err(RedisError::Unreachable);
        };
        let (url, asking) = match link.tell(command, false).await {
            Ok(value) => return Ok(value),
            Err(Told::Moved(url)) => {
                self.is_not_right();
                (url, false)
            }
            Err(Told::Ask(url)) => (url, true),
            Err(Told::Error(error)) => {
                // That it does not know a script says nothing of where it stands.
                if !matches!(error, RedisError::NoScript) {
                    self.is_not_right();
                }
                return Err(error);
            }
        };
        let elsewhere = || RedisError::Refused(format!("the key has moved to {}", url.address()));
        let Some(link) = map.link_to(&url) else {
            self.is_not_right();
            return Err(elsewhere());
        };
        match link.tell(command, asking).await {
            Ok(value) => Ok(value),
            Err(Told::Error(error)) => Err(error),
            Err(Told::Moved(_) | Told::Ask(_)) => Err(elsewhere()),
        }
    }

    /// It is asked for anew, and of another first: the one that told it may be cut off from
    /// the others and not know.
    fn is_not_right(&self) {
        self.doubt.store(true, Ordering::Relaxed);
        self.stale.notify_one();
    }

    pub(super) async fn dedicated(&self, key: &[u8], limit: u64) -> Result<Dedicated, RedisError> {
        let map = self.map.load_full().ok_or(RedisError::Unreachable)?;
        // Whoever needs one again may have found that the key is elsewhere.
        self.stale.notify_one();
        let link = map.link(key).ok_or(RedisError::Unreachable)?;
        link.dedicated(limit).await
    }

    /// Keeps the map right, and a connection to each master, for as long as it is polled.
    pub(super) async fn run(&self) {
        let (mut kept, mut told) = (Kept::new(), None);
        let mut said = false;
        loop {
            let doubted = self.doubt.swap(false, Ordering::Relaxed);
            match self.look(&kept, told.as_ref(), doubted).await {
                Ok((ranges, by)) => {
                    told = Some(by);
                    *self.trouble.lock() = None;
                    said = false;
                    self.adopt(&ranges, &mut kept);
                    // What was doubted meanwhile is the map before, and not who told this one.
                    self.doubt.store(false, Ordering::Relaxed);
                }
                Err(error) => {
                    let cluster = self.connector.settings().at.to_string();
                    if said {
                        tracing::debug!(cluster, %error, "redis: still no map of the cluster");
                    } else {
                        tracing::warn!(cluster, %error, "redis: no map of the cluster; trying again and again");
                    }
                    said = true;
                    *self.trouble.lock() = Some(error.to_string());
                }
            }
            tokio::time::sleep(PAUSE).await;
            let wait = if self.is_connected() && !said { LOOKS.0 } else { LOOKS.1 };
            // What became of it is seen above.
            let _in_time = tokio::time::timeout(wait, self.stale.notified()).await;
        }
    }

    /// Asks for the map, and says who told it.
    async fn look(
        &self,
        kept: &Kept,
        told: Option<&RedisUrl>,
        doubted: bool,
    ) -> Result<(Vec<Range>, RedisUrl), RedisError> {
        let mut why = RedisError::Unreachable;
        let links = kept.values().map(|(link, _)| link);
        let links: Vec<&Arc<Link>> = links.filter(|link| link.is_connected()).collect();
        let connected = links.iter().filter_map(|link| link.url().cloned()).collect();
        for url in in_turn(connected, &self.seeds, told, doubted) {
            let link = links.iter().find(|link| link.url() == Some(&url));
            match self.map_of(&url, link.copied()).await {
                Ok(ranges) => return Ok((ranges, url)),
                Err(error) => why = error,
            }
        }
        Err(why)
    }

    async fn map_of(
        &self,
        url: &RedisUrl,
        link: Option<&Arc<Link>>,
    ) -> Result<Vec<Range>, RedisError> {
        let mut command = cmd("CLUSTER");
        command.arg("SLOTS");
        let answer = match link {
            Some(link) => link.ask(&command).await?,
            None => {
                let mut node = self.connector.open(url, Peer::Data, MOST_OF_A_MAP).await?;
                node.ask(&command, self.connector.settings().timeout).await?
            }
        };
        read(&answer, url)
    }

    fn adopt(&self, ranges: &[Range], kept: &mut Kept) {
        let mut masters = vec![0; usize::from(SLOTS)].into_boxed_slice();
        let (mut links, mut names) = (Vec::new(), Vec::new());
        for Range { first, last, master } in ranges {
            let name = master.address();
            let number = names.iter().position(|known| *known == name).unwrap_or_else(|| {
                let keep = || {
                    let link = Arc::new(Link::to(self.connector.clone(), master.clone()));
                    let runs = AbortOnDropHandle::new(tokio::spawn(link.clone().run()));
                    (link, runs)
                };
                links.push(kept.entry(name.clone()).or_insert_with(keep).0.clone());
                names.push(name);
                names.len() - 1
            });
            let number = u16::try_from(number + 1).unwrap_or(0);
            if let Some(slots) = masters.get_mut(usize::from(*first)..=usize::from(*last)) {
                slots.fill(number);
            }
        }
        kept.retain(|name, _| names.contains(name));
        self.map.store(Some(Arc::new(Map { masters, links })));
        self.known.send_replace(true);
    }
}

/// Who is asked for the map, one after the other: who told it last, then the others to whom
/// there is a connection, then those that the settings name. If it was not right, it begins
/// with whoever comes after the one that told it.
fn in_turn(
    connected: Vec<RedisUrl>,
    seeds: &[RedisUrl],
    told: Option<&RedisUrl>,
    doubted: bool,
) -> Vec<RedisUrl> {
    let first = connected.len();
    let mut urls = connected;
    for seed in seeds {
        if !urls.contains(seed) {
            urls.push(seed.clone());
        }
    }
    match told.and_then(|told| urls.iter().position(|url| url == told)) {
        Some(at) if doubted => urls.rotate_left(at + 1),
        Some(at) if at < first => urls.rotate_left(at),
        _ => {}
    }
    urls
}

fn read(answer: &Value, asked: &RedisUrl) -> Result<Vec<Range>, RedisError> {
    let ranges = slots::read(answer, asked).filter(|ranges| !ranges.is_empty());
    ranges.ok_or_else(|| RedisError::Broken("it has no map of a cluster".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_told_a_map_that_was_not_right_is_asked_last() {
        let url = |port: u16| format!("redis://10.0.0.1:{port}").parse::<RedisUrl>().unwrap();
        let ports = |connected: &[u16], told: Option<u16>, doubted| {
            let connected = connected.iter().map(|port| url(*port)).collect();
            let (seeds, told) = ([url(1), url(8)], told.map(url));
            let urls = in_turn(connected, &seeds, told.as_ref(), doubted);
            urls.iter().map(|url| url.port).collect::<Vec<_>>()
        };
        assert_eq!(ports(&[], None, false), [1, 8]);
        assert_eq!(ports(&[1, 2, 3], Some(2), false), [2, 3, 8, 1]);
        assert_eq!(ports(&[1, 2, 3], Some(2), true), [3, 8, 1, 2]);
        assert_eq!(ports(&[2], Some(2), true), [1, 8, 2]);
        // A connection is not made anew each time for one that is only named.
        assert_eq!(ports(&[2, 3], Some(8), false), [2, 3, 1, 8]);
        assert_eq!(ports(&[2, 3], Some(8), true), [2, 3, 1, 8]);
        assert_eq!(ports(&[2, 3], Some(4), true), [2, 3, 1, 8]);
    }
}
