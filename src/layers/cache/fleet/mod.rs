//! Purges that all instances of a fleet carry out, by way of a Redis stream.
//!
//! | file | what it is about |
//! |---|---|
//! | `message` | a purge as an entry of the stream, and read from it |
//! | `outbox` | purges that are to be told, in order |
//! | `tell` | appends them to the stream |
//! | `follow` | reads the stream, and carries out what others have told |
//! | `position` | how far it was read, kept over a restart |
//!
//! A stream and not a channel of messages: what was missed while the connection was lost
//! still stands in it. Where it does not any more, everything that is stored is validated
//! before it is used again. Of two instances each is told by the other; what an instance
//! has told itself it knows by its own name, and passes over.

#[cfg(feature = "redis")]
mod follow;
mod message;
mod outbox;
mod position;
mod settings;
#[cfg(feature = "redis")]
mod tell;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_lc_rs::rand;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::oneshot;
use tokio::time::Instant;

pub use position::FleetPosition;
pub use settings::CacheFleetSettings;

use super::Purge;
use crate::hex::hex;
use crate::observe::{FleetCounts, FleetLevel};
use message::LONGEST;
use outbox::{Outbox, Put};

/// How long whoever purges waits to hear whether the others have been told.
const PATIENCE: Duration = Duration::from_millis(1_500);

/// The others, to which purges are told, and by which they are. Cheap to clone: all
/// clones are one.
///
/// [`Cache::join`](super::Cache::join) has a cache tell them; [`Fleet::run`] does the
/// telling, and carries out what is heard.
#[derive(Clone, Debug)]
pub struct Fleet(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    settings: CacheFleetSettings,
    /// What this instance is called among the others: by chance, anew in each process.
    instance: String,
    outbox: Outbox,
    sent: AtomicU64,
    received: AtomicU64,
    unread: AtomicU64,
    lost: AtomicU64,
    heard: Mutex<Heard>,
}

/// How it stands with hearing of others.
#[derive(Debug)]
struct Heard {
    /// When Redis last said that there is nothing more, or at first the start.
    at: Instant,
    /// Whether the stream is being read.
    connected: bool,
    /// The last entry that was carried out, or the one where reading began.
    id: Option<String>,
    /// Why it is not being read.
    trouble: Option<String>,
    /// Why purges are not told.
    untold: Option<String>,
}

/// Whether the others have been told of a purge.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(tag = "fleet", content = "fleet_detail", rename_all = "snake_case")]
pub enum Told {
    /// It stands in the stream, under this id.
    Sent(String),
    /// It does not yet, for this reason; it will be told as soon as it can be.
    Queued(String),
    /// It is not, and will not be.
    NotSent(String),
}

/// How a fleet stands, as this instance sees it.
#[derive(Clone, Debug, Serialize)]
pub struct FleetFigures {
    /// What this instance is called among the others.
    pub instance: String,
    /// The key of the stream.
    pub stream: String,
    /// Whether the stream is being read.
    pub connected: bool,
    /// Why not.
    pub trouble: Option<String>,
    /// Why purges are waiting to be told; `None` while they are told.
    pub untold: Option<String>,
    /// The last entry that was carried out, or the one where reading began.
    pub last_id: Option<String>,
    /// For how long purges of others may have gone unheard; zero while the stream is read.
    pub lag_seconds: f64,
    /// Purges that were told to the others.
    pub sent: u64,
    /// Purges of others that were carried out.
    pub received: u64,
    /// Entries that could not be understood, and were passed over.
    pub unread: u64,
    /// Purges that are still to be told.
    pub waiting: usize,
    /// How often purges were lost, and everything had to be validated.
    pub lost: u64,
}

impl Fleet {
    /// One that neither tells nor hears anything yet.
    #[must_use]
    pub fn new(settings: &CacheFleetSettings) -> Self {
        let (id, trouble, untold) = Default::default();
        let heard = Heard { at: Instant::now(), connected: false, id, trouble, untold };
        Self(Arc::new(Shared {
            settings: settings.clone(),
            instance: name(),
            outbox: Outbox::default(),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            unread: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            heard: Mutex::new(heard),
        }))
    }

    /// By which it tells and hears.
    #[must_use]
    pub fn settings(&self) -> &CacheFleetSettings {
        &self.0.settings
    }

    /// Has the others told of a purge, and waits, but not for long, until they are.
    pub async fn tell(&self, what: Purge, soft: bool) -> Told {
        if message::length(&what) > LONGEST {
            return Told::NotSent(format!("what is to be purged is longer than {LONGEST} bytes"));
        }
        let (told, mut hears) = oneshot::channel();
        self.0.outbox.put(Put { what, soft, told: Some(told) });
        // Where nothing is heard, nothing is likely to be told.
        let patience = if self.0.heard.lock().connected { PATIENCE } else { PATIENCE / 6 };
        match tokio::time::timeout(patience, &mut hears).await {
            Ok(Ok(id)) => Told::Sent(id),
            _ => {
                let heard = self.0.heard.lock();
                // Without a connection the newest word is from whoever waits for one.
                let (first, second) = match heard.connected {
                    true => (&heard.untold, &heard.trouble),
                    false => (&heard.trouble, &heard.untold),
                };
                let trouble = first.as_ref().or(second.as_ref()).cloned();
                Told::Queued(trouble.unwrap_or_else(|| "Redis has not answered yet".to_owned()))
            }
        }
    }

    /// Has the others told that this URL was changed, if they are to be, and there is room.
    pub(super) fn changed(&self, what: Purge) {
        if self.0.settings.unsafe_methods && message::length(&what) <= LONGEST {
            self.0.outbox.put_if_room(Put { what, soft: false, told: None });
        }
    }

    /// How it stands.
    #[must_use]
    pub fn figures(&self) -> FleetFigures {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Shared { settings, instance, outbox, sent, received, unread, lost, heard } = &*self.0;
        let heard = heard.lock();
        let lag = if heard.connected { Duration::ZERO } else { heard.at.elapsed() };
        FleetFigures {
            instance: instance.clone(),
            stream: settings.stream.clone(),
            connected: heard.connected,
            trouble: heard.trouble.clone(),
            untold: heard.untold.clone(),
            last_id: heard.id.clone(),
            lag_seconds: lag.as_secs_f64(),
            sent: of(sent),
            received: of(received),
            unread: of(unread),
            waiting: outbox.len(),
            lost: of(lost),
        }
    }
}

impl FleetCounts for Fleet {
    fn level(&self) -> FleetLevel {
        let figures = self.figures();
        FleetLevel {
            sent: figures.sent,
            received: figures.received,
            unread: figures.unread,
            lost: figures.lost,
            waiting: figures.waiting,
            lag: figures.lag_seconds,
        }
    }
}

/// A name that no other instance has.
fn name() -> String {
    let mut bytes = [0_u8; 16];
    // Without randomness there is no TLS either; the process and the time will do.
    if rand::fill(&mut bytes).is_err() {
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
        return format!("{}-{now}", std::process::id());
    }
    hex(&bytes)
}
