//! The signs of life of one connection, and the watch over them.
//!
//! A client may send nothing, or a head that never ends, or take no bytes, be it
//! from the socket or, over HTTP/2, by opening no window. So the connection notes what happens, and one timer that follows the notes
//! ends it when nothing does.

mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use tokio::time::Instant;

pub(super) use watch::{Expired, FAREWELL, Watch};

use super::ServeSettings;
use crate::body::{End, Guard};

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

/// Counts as an exchange under way until it is dropped. As a guard of the
/// response's body it notes when the client leaves it lying.
#[derive(Debug)]
pub(super) struct Beat {
    pulse: Pulse,
    owed_since: Option<u64>,
}

impl Pulse {
    pub(super) fn new(settings: &ServeSettings) -> Self {
        let span = settings.send_timeout.as_millis() / 2;
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
        Beat { pulse: self.clone(), owed_since: None }
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

    /// The client took bytes.
    pub(super) fn sent(&self) {
        if self.0.blocked_since.load(Ordering::Relaxed) != NEVER {
            self.0.blocked_since.store(NEVER, Ordering::Relaxed);
        }
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

impl Beat {
    /// A part of the response is the client's to take.
    pub(super) fn owed(&mut self) {
        self.taken();
        let at = self.pulse.now() / self.pulse.0.span;
        self.pulse.0.owed[slot(at)].fetch_add(1, Ordering::Relaxed);
        self.owed_since = Some(at);
    }

    /// The client took it.
    fn taken(&mut self) {
        if let Some(at) = self.owed_since.take() {
            self.pulse.0.owed[slot(at)].fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Guard for Beat {
    fn data(&mut self, bytes: usize) {
        self.owed();
        self.pulse.earn(bytes);
    }

    fn waiting(&mut self) {
        self.taken();
    }

    fn end(&mut self, end: End) {
        self.taken();
        if end == End::Complete {
            add(&self.pulse.0.completed, 1);
        }
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        self.taken();
        let notes = &*self.pulse.0;
        notes.idle_since.store(self.pulse.now(), Ordering::Relaxed);
        notes.exchanges.fetch_sub(1, Ordering::Relaxed);
    }
}
