//! The signs of life of one connection, and the watch over them.
//!
//! A client may send nothing, or a head that never ends, or take no bytes, or few,
//! be it from the socket or, over HTTP/2, by opening no window. So the connection notes what happens, and one timer that follows the notes
//! ends it when nothing does.

mod lying;
mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

pub(super) use lying::Lying;
pub(super) use watch::{Expired, FAREWELL, Watch};

use super::ServeSettings;
use crate::pace::{MinRate, Pace};

/// "Not at all", among moments counted in milliseconds.
const NEVER: u64 = u64::MAX;

/// "In this turn": a moment that is looked up only if it still counts when the
/// watch comes by.
const JUST_NOW: u64 = u64::MAX - 1;

/// What happened last on a connection. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Pulse(Arc<Notes>);

#[derive(Debug)]
struct Notes {
    opened: Instant,
    /// The length of a span of [`Notes::owed`], in milliseconds.
    span: u64,
    /// Exchanges whose response is not yet at its end.
    exchanges: AtomicUsize,
    /// How many exchanges have begun.
    served: AtomicUsize,
    /// When the last exchange ended, or the connection opened.
    idle_since: AtomicU64,
    /// When the first byte of the next request came.
    head_since: AtomicU64,
    /// Since when bytes have been waiting for the client to take them.
    blocked_since: AtomicU64,
    /// When the client was told that the connection ends.
    ending_since: AtomicU64,
    /// Whether the connection is parked, or about to be.
    parked: AtomicBool,
    /// The slowest that the client may take bytes, if there is one, and how long
    /// one that was fast may pause.
    min_rate: Option<(MinRate, Duration)>,
    /// How fast it takes those that it is waited for with.
    pace: Option<Mutex<Pace>>,
    /// Whether it is as far ahead as counts.
    well_ahead: AtomicBool,
    /// Whether it takes the response of one exchange too slowly.
    slow: AtomicBool,
    /// Responses of which a part was handed over and not yet asked for more, by
    /// the span of time in which it was.
    owed: [AtomicUsize; SPANS],
    /// See [`Pulse::take_earned`] and [`Pulse::take_completed`].
    earned: AtomicU32,
    completed: AtomicU32,
}

/// How many spans are told apart. A span is half of the send timeout, so what
/// was handed over three spans ago has waited for at least the whole of it.
const SPANS: usize = 4;
const SPANS_TO_TAKE: u64 = 3;

/// What a request, or a part of a response, earns: a window update for its
/// stream and one for the connection, a priority, a ping.
const FRAMES_PER_PART: u32 = 4;

/// A window update of less than this is one that nobody needs.
const BYTES_PER_FRAME: usize = 256;

/// Counts as an exchange under way until it is dropped.
#[derive(Debug)]
pub(super) struct Beat {
    pulse: Pulse,
}

impl Pulse {
    pub(super) fn new(settings: &ServeSettings) -> Self {
        let span = settings.send_timeout.as_millis() / 2;
        let min_rate = settings.min_response_rate.map(|rate| (rate, settings.send_timeout));
        Self(Arc::new(Notes {
            opened: Instant::now(),
            span: u64::try_from(span).unwrap_or(NEVER).max(1),
            exchanges: AtomicUsize::new(0),
            served: AtomicUsize::new(0),
            idle_since: AtomicU64::new(0),
            head_since: AtomicU64::new(NEVER),
            blocked_since: AtomicU64::new(NEVER),
            ending_since: AtomicU64::new(NEVER),
            parked: AtomicBool::new(false),
            min_rate,
            pace: min_rate.map(|(rate, pause)| Mutex::new(Pace::new(rate, pause))),
            well_ahead: AtomicBool::new(false),
            slow: AtomicBool::new(false),
            owed: std::array::from_fn(|_| AtomicUsize::new(0)),
            earned: AtomicU32::new(0),
            completed: AtomicU32::new(0),
        }))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.0.opened.elapsed().as_millis()).unwrap_or(JUST_NOW - 1)
    }

    /// An exchange begins.
    pub(super) fn begin(&self) -> Beat {
        self.0.exchanges.fetch_add(1, Ordering::Relaxed);
        self.0.served.fetch_add(1, Ordering::Relaxed);
        self.0.head_since.store(NEVER, Ordering::Relaxed);
        self.earn(0);
        Beat { pulse: self.clone() }
    }

    /// The connection is parked, or at work again.
    pub(super) fn park(&self, parked: bool) {
        self.0.parked.store(parked, Ordering::Relaxed);
    }

    /// The client was told that the connection ends.
    pub(super) fn ending(&self) {
        self.0.ending_since.store(self.now(), Ordering::Relaxed);
    }

    /// A message, or a part of one with so many bytes, went its way: the client
    /// may answer with a few frames that carry nothing.
    pub(super) fn earn(&self, bytes: usize) {
        let frames = u32::try_from(bytes / BYTES_PER_FRAME).unwrap_or(u32::MAX);
        add(&self.0.earned, FRAMES_PER_PART.saturating_add(frames));
    }

    /// How many frames that carry nothing were earned since this was last asked:
    /// window updates, pings and the like.
    pub(super) fn take_earned(&self) -> u32 {
        self.0.earned.swap(0, Ordering::Relaxed)
    }

    /// How many exchanges came to their end since this was last asked.
    pub(super) fn take_completed(&self) -> u32 {
        self.0.completed.swap(0, Ordering::Relaxed)
    }

    /// Bytes came from the client.
    pub(super) fn received(&self) {
        if self.0.exchanges.load(Ordering::Relaxed) == 0
            && self.0.head_since.load(Ordering::Relaxed) == NEVER
        {
            self.0.head_since.store(JUST_NOW, Ordering::Relaxed);
        }
    }

    /// The client takes nothing at the moment.
    pub(super) fn blocked(&self) {
        if self.0.blocked_since.load(Ordering::Relaxed) == NEVER {
            self.0.blocked_since.store(self.now(), Ordering::Relaxed);
        }
    }

    /// The client, or the system for it, took this many bytes.
    pub(super) fn sent(&self, bytes: usize) {
        let notes = &*self.0;
        let since = notes.blocked_since.load(Ordering::Relaxed);
        if since != NEVER {
            notes.blocked_since.store(NEVER, Ordering::Relaxed);
        } else if notes.well_ahead.load(Ordering::Relaxed) {
            return;
        }
        let Some(pace) = &notes.pace else { return };
        let mut pace = pace.lock();
        if since != NEVER {
            pace.waited(Duration::from_millis(self.now().saturating_sub(since)));
        }
        pace.moved(bytes);
        notes.well_ahead.store(pace.is_well_ahead(), Ordering::Relaxed);
    }

    /// How much longer a client that takes nothing is waited for, by its rate.
    fn patience(&self) -> Duration {
        self.0.pace.as_ref().map_or(Duration::MAX, |pace| pace.lock().patience())
    }
}

/// Adds to a count that one task writes to.
fn add(count: &AtomicU32, more: u32) {
    count.store(count.load(Ordering::Relaxed).saturating_add(more), Ordering::Relaxed);
}

/// Where a span is counted.
fn slot(at: u64) -> usize {
    // The remainder is below SPANS.
    (at % SPANS as u64) as usize
}

impl Pulse {
    /// Something lies for the client to take, since this span.
    fn lies(&self, at: u64) {
        self.0.owed[slot(at)].fetch_add(1, Ordering::Relaxed);
    }

    /// It does so no longer.
    fn lies_no_longer(&self, at: u64) {
        self.0.owed[slot(at)].fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        let notes = &*self.pulse.0;
        notes.idle_since.store(self.pulse.now(), Ordering::Relaxed);
        notes.exchanges.fetch_sub(1, Ordering::Relaxed);
    }
}
