//! The signs of life of one connection, and the watch over them.
//!
//! hyper's own head timeout also counts the pause between two requests, and
//! its version detection has none (hyper #3962); neither notices a client that
//! takes no bytes, be it from the socket or, over HTTP/2, by opening no window.
//! So the connection notes what happens, and one timer that follows the notes
//! ends it when nothing does.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::ServeSettings;
use crate::body::{End, Guard};

/// How long a connection that was told to end may take over it.
pub(super) const FAREWELL: Duration = Duration::from_secs(5);

/// "Not at all", among moments counted in milliseconds.
const NEVER: u64 = u64::MAX;

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
    /// Whether any exchange has begun.
    served: AtomicUsize,
    /// When the last exchange ended, or the connection opened.
    idle_since: AtomicU64,
    /// When the first byte of the next request came.
    head_since: AtomicU64,
    /// Since when bytes have been waiting for the client to take them.
    blocked_since: AtomicU64,
    /// When the client was told that the connection ends.
    ending_since: AtomicU64,
    /// Responses of which a part was handed over and not yet asked for more, by
    /// the span of time in which it was.
    owed: [AtomicUsize; SPANS],
}

/// How many spans are told apart. A span is half of the send timeout, so what
/// was handed over three spans ago has waited for at least the whole of it.
const SPANS: usize = 4;
const SPANS_TO_TAKE: u64 = 3;

/// Why a connection is to end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Expired {
    /// No request came: it may be closed politely.
    Idle,
    /// A request's head, or the client's first byte, took too long.
    Head,
    /// The client takes no bytes.
    Send,
    /// The client does not take the response of one exchange, whatever it does
    /// beside that.
    Stalled,
    /// The client was told that the connection ends, and keeps it.
    Farewell,
}

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
            owed: std::array::from_fn(|_| AtomicUsize::new(0)),
        }))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.0.opened.elapsed().as_millis()).unwrap_or(NEVER - 1)
    }

    /// An exchange begins.
    pub(super) fn begin(&self) -> Beat {
        self.0.exchanges.fetch_add(1, Ordering::Relaxed);
        self.0.served.store(1, Ordering::Relaxed);
        self.0.head_since.store(NEVER, Ordering::Relaxed);
        Beat { pulse: self.clone(), owed_since: None }
    }

    /// The client was told that the connection ends.
    pub(super) fn ending(&self) {
        self.0.ending_since.store(self.now(), Ordering::Relaxed);
    }

    /// When a response will have lain for too long, if one lies, and otherwise
    /// when to look again: a part may be handed over that wakes nobody.
    fn stalled(&self) -> (u64, Expired) {
        let span = self.0.span;
        let now = self.now() / span;
        let lies = |at: &u64| self.0.owed[slot(*at)].load(Ordering::Relaxed) > 0;
        let oldest = (0..=SPANS_TO_TAKE).rev().filter_map(|age| now.checked_sub(age)).find(lies);
        let due = oldest.map_or(now + 1, |oldest| oldest + SPANS_TO_TAKE);
        (due.saturating_mul(span), Expired::Stalled)
    }

    /// Bytes came from the client.
    pub(super) fn received(&self) {
        if self.0.exchanges.load(Ordering::Relaxed) == 0
            && self.0.head_since.load(Ordering::Relaxed) == NEVER
        {
            self.0.head_since.store(self.now(), Ordering::Relaxed);
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

    /// What will expire first if nothing more happens, and when.
    fn next(&self, settings: &ServeSettings, http2: bool) -> (u64, Expired) {
        let millis = |timeout: Duration| u64::try_from(timeout.as_millis()).unwrap_or(NEVER);
        let due = |since: &AtomicU64, timeout: Duration, why| {
            let since = since.load(Ordering::Relaxed);
            (since != NEVER).then(|| (since.saturating_add(millis(timeout)), why))
        };
        let notes = &*self.0;
        let send = due(&notes.blocked_since, settings.send_timeout, Expired::Send);
        let sooner = |other: (u64, Expired)| send.filter(|(at, _)| *at <= other.0).unwrap_or(other);
        if notes.exchanges.load(Ordering::Relaxed) > 0 {
            return sooner(self.stalled());
        }
        let idle_since = notes.idle_since.load(Ordering::Relaxed);
        let after = |timeout: Duration| idle_since.saturating_add(millis(timeout));
        if let Some((at, why)) = due(&notes.ending_since, FAREWELL, Expired::Farewell) {
            return (at.max(after(FAREWELL)), why);
        }
        let head = if notes.served.load(Ordering::Relaxed) == 0 {
            Some((after(settings.request_head_timeout), Expired::Head))
        } else if http2 {
            // Pings are bytes, but no request.
            None
        } else {
            due(&notes.head_since, settings.request_head_timeout, Expired::Head)
        };
        // Once a request has begun to arrive, the connection is not idle.
        sooner(head.unwrap_or_else(|| (after(settings.keep_alive_timeout), Expired::Idle)))
    }
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
    fn data(&mut self, _bytes: usize) {
        self.owed();
    }

    fn waiting(&mut self) {
        self.taken();
    }

    fn end(&mut self, _end: End) {
        self.taken();
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

/// Waits until the connection has expired. To be polled whenever the
/// connection is, since what it waits for moves with every note.
pub(super) struct Watch<'a> {
    pulse: &'a Pulse,
    settings: &'a ServeSettings,
    http2: bool,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<'a> Watch<'a> {
    pub(super) fn new(pulse: &'a Pulse, settings: &'a ServeSettings, http2: bool) -> Self {
        Self { pulse, settings, http2, timer: None }
    }

    /// The client was told that the connection ends.
    pub(super) fn ending(&self) {
        self.pulse.ending();
    }

    pub(super) async fn expired(&mut self) -> Expired {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Expired> {
        loop {
            let (due, why) = self.pulse.next(self.settings, self.http2);
            if self.pulse.now() >= due {
                return Poll::Ready(why);
            }
            let at = self.pulse.0.opened + Duration::from_millis(due);
            match &mut self.timer {
                // A timer that rings too early costs one look; moving it with
                // every exchange would cost one each.
                Some(timer) if timer.deadline() <= at && !timer.is_elapsed() => {}
                Some(timer) => timer.as_mut().reset(at),
                None => self.timer = Some(Box::pin(tokio::time::sleep_until(at))),
            }
            let Some(timer) = &mut self.timer else { return Poll::Pending };
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn after(pulse: &Pulse, http2: bool) -> (u64, Expired) {
        let before = Instant::now();
        let settings = ServeSettings::default();
        let why = Watch::new(pulse, &settings, http2).expired().await;
        (before.elapsed().as_secs(), why)
    }

    /// Whether all there is to do is to look again.
    fn never(pulse: &Pulse) -> bool {
        let (at, why) = pulse.next(&ServeSettings::default(), true);
        at > pulse.now() && why == Expired::Stalled
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_nothing_is_given_the_time_of_a_head() {
        assert_eq!(after(&Pulse::new(&ServeSettings::default()), false).await, (10, Expired::Head));
        assert_eq!(after(&Pulse::new(&ServeSettings::default()), true).await, (10, Expired::Head));
    }

    #[tokio::test(start_paused = true)]
    async fn between_requests_a_connection_may_idle_for_longer() {
        let pulse = Pulse::new(&ServeSettings::default());
        drop(pulse.begin());
        assert_eq!(after(&pulse, false).await, (75, Expired::Idle));
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_head_has_its_time_from_its_first_byte() {
        let pulse = Pulse::new(&ServeSettings::default());
        drop(pulse.begin());
        tokio::time::advance(Duration::from_secs(30)).await;
        pulse.received();
        assert_eq!(after(&pulse, false).await, (10, Expired::Head));
    }

    #[tokio::test(start_paused = true)]
    async fn an_exchange_under_way_never_expires_unless_the_client_takes_nothing() {
        let pulse = Pulse::new(&ServeSettings::default());
        let _beat = pulse.begin();
        assert!(never(&pulse));
        pulse.blocked();
        assert_eq!(after(&pulse, false).await, (60, Expired::Send));
        pulse.sent();
        assert!(never(&pulse));
    }
    #[tokio::test(start_paused = true)]
    async fn a_response_left_lying_expires_though_others_move() {
        let pulse = Pulse::new(&ServeSettings::default());
        let (mut lying, mut moving) = (pulse.begin(), pulse.begin());
        lying.owed();
        for _ in 0..8 {
            moving.data(1);
            tokio::time::advance(Duration::from_secs(7)).await;
            moving.waiting();
        }
        assert_eq!(after(&pulse, true).await, (90 - 56, Expired::Stalled));
        lying.waiting();
        assert!(never(&pulse));
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_told_to_go_may_finish_and_then_has_little_time() {
        let pulse = Pulse::new(&ServeSettings::default());
        let beat = pulse.begin();
        pulse.ending();
        tokio::time::advance(Duration::from_secs(30)).await;
        assert!(never(&pulse));
        drop(beat);
        assert_eq!(after(&pulse, true).await, (5, Expired::Farewell));
    }
}
