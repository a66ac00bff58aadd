//! What of a response the connection has, and the client has not taken: over
//! HTTP/2 that is decided for each response by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::{Beat, NEVER, add};
use crate::body::{End, Guard};
use crate::context::Exchange;
use crate::pace::Pace;

/// Watches over the body of a response: notes when the client leaves it lying, or
/// takes it too slowly. The exchange lasts until the connection has let go of the
/// last byte, not only until it has them all.
#[derive(Debug)]
pub(in crate::serve) struct Lying {
    life: Arc<Life>,
    /// The part that was handed over last, until more is asked for.
    part: Option<Part>,
    pace: Option<Pace>,
}

/// A part of a response that is the client's to take.
#[derive(Clone, Copy, Debug)]
struct Part {
    /// When it was handed over, in milliseconds.
    at: u64,
    bytes: usize,
}

/// What lasts as long as any byte of a response is held.
#[derive(Debug)]
struct Life {
    beat: Beat,
    #[allow(dead_code, reason = "held for its drop")]
    exchange: Option<Exchange>,
    /// The span since which the end of the response lies.
    tail: AtomicU64,
}

/// Bytes that a connection holds.
struct Held {
    data: Bytes,
    #[allow(dead_code, reason = "held for its drop")]
    life: Arc<Life>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Lying {
    /// Watches over the response to the exchange that `beat` counts. The head of
    /// it is handed over.
    pub(in crate::serve) fn new(beat: Beat, exchange: Option<Exchange>) -> Self {
        let pace = beat.pulse.0.min_rate.map(|(rate, pause)| Pace::new(rate, pause));
        let life = Arc::new(Life { beat, exchange, tail: AtomicU64::new(NEVER) });
        let mut lying = Self { life, part: None, pace };
        lying.hand_over(0);
        lying
    }

    fn span_of(&self, at: u64) -> u64 {
        at / self.life.beat.pulse.0.span
    }

    fn hand_over(&mut self, bytes: usize) {
        self.taken();
        let at = self.life.beat.pulse.now();
        self.life.beat.pulse.lies(self.span_of(at));
        self.part = Some(Part { at, bytes });
    }

    /// More is asked for, so the client has made room for what there was.
    fn taken(&mut self) {
        let Some(Part { at, bytes }) = self.part.take() else { return };
        let pulse = &self.life.beat.pulse;
        pulse.lies_no_longer(self.span_of(at));
        if let Some(pace) = &mut self.pace {
            pace.waited(Duration::from_millis(pulse.now().saturating_sub(at)));
            pace.moved(bytes);
            if pace.patience().is_zero() {
                pulse.0.slow.store(true, Ordering::Relaxed);
            }
        }
    }
}

impl Guard for Lying {
    fn data(&mut self, bytes: usize) {
        self.hand_over(bytes);
        self.life.beat.pulse.earn(bytes);
    }

    fn hold(&mut self, data: &mut Bytes) {
        if !data.is_empty() {
            let held = Held { data: std::mem::take(data), life: self.life.clone() };
            *data = Bytes::from_owner(held);
        }
    }

    fn waiting(&mut self) {
        self.taken();
    }

    fn end(&mut self, end: End) {
        self.taken();
        if end == End::Complete {
            add(&self.life.beat.pulse.0.completed, 1);
        }
    }
}

impl Drop for Lying {
    fn drop(&mut self) {
        self.taken();
        // The parts that are still held have the rest of the time.
        let at = self.span_of(self.life.beat.pulse.now());
        self.life.beat.pulse.lies(at);
        self.life.tail.store(at, Ordering::Relaxed);
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        let at = self.tail.load(Ordering::Relaxed);
        if at != NEVER {
            self.beat.pulse.lies_no_longer(at);
        }
    }
}
