//! The signs of life of one connection, and the watch over them.
//!
//! hyper's own head timeout also counts the pause between two requests, and
//! its version detection has none (hyper #3962); neither notices a client that
//! takes no bytes. So the connection notes what happens, and one timer that
//! follows the notes ends it when nothing does.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::ServeSettings;

/// "Not at all", among moments counted in milliseconds.
const NEVER: u64 = u64::MAX;

/// What happened last on a connection. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Pulse(Arc<Notes>);

#[derive(Debug)]
struct Notes {
    opened: Instant,
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
}

/// Why a connection is to end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Expired {
    /// No request came: it may be closed politely.
    Idle,
    /// A request's head, or the client's first byte, took too long.
    Head,
    /// The client takes no bytes.
    Send,
}

/// Counts as an exchange under way until it is dropped.
#[derive(Debug)]
pub(super) struct Beat(Pulse);

impl Pulse {
    pub(super) fn new() -> Self {
        Self(Arc::new(Notes {
            opened: Instant::now(),
            exchanges: AtomicUsize::new(0),
            served: AtomicUsize::new(0),
            idle_since: AtomicU64::new(0),
            head_since: AtomicU64::new(NEVER),
            blocked_since: AtomicU64::new(NEVER),
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
        Beat(self.clone())
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

    /// What will expire first if nothing more happens, and when; `None` while
    /// an exchange is under way and nothing is waiting to be taken.
    fn next(&self, settings: &ServeSettings, http2: bool) -> Option<(u64, Expired)> {
        let due = |since: &AtomicU64, timeout: Duration, why| {
            let since = since.load(Ordering::Relaxed);
            let timeout = u64::try_from(timeout.as_millis()).unwrap_or(NEVER);
            (since != NEVER).then(|| (since.saturating_add(timeout), why))
        };
        let notes = &*self.0;
        let send = due(&notes.blocked_since, settings.send_timeout, Expired::Send);
        if notes.exchanges.load(Ordering::Relaxed) > 0 {
            return send;
        }
        let head = if notes.served.load(Ordering::Relaxed) == 0 {
            due(&notes.idle_since, settings.request_head_timeout, Expired::Head)
        } else if http2 {
            // Pings are bytes, but no request.
            None
        } else {
            due(&notes.head_since, settings.request_head_timeout, Expired::Head)
        };
        let idle = due(&notes.idle_since, settings.keep_alive_timeout, Expired::Idle);
        // Once a request has begun to arrive, the connection is not idle.
        let waiting = head.or(idle);
        [send, waiting].into_iter().flatten().min_by_key(|(at, _)| *at)
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        let notes = &*self.0.0;
        notes.idle_since.store(self.0.now(), Ordering::Relaxed);
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

    pub(super) async fn expired(&mut self) -> Expired {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Expired> {
        loop {
            let Some((due, why)) = self.pulse.next(self.settings, self.http2) else {
                return Poll::Pending;
            };
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

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_nothing_is_given_the_time_of_a_head() {
        assert_eq!(after(&Pulse::new(), false).await, (10, Expired::Head));
        assert_eq!(after(&Pulse::new(), true).await, (10, Expired::Head));
    }

    #[tokio::test(start_paused = true)]
    async fn between_requests_a_connection_may_idle_for_longer() {
        let pulse = Pulse::new();
        drop(pulse.begin());
        assert_eq!(after(&pulse, false).await, (75, Expired::Idle));
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_head_has_its_time_from_its_first_byte() {
        let pulse = Pulse::new();
        drop(pulse.begin());
        tokio::time::advance(Duration::from_secs(30)).await;
        pulse.received();
        assert_eq!(after(&pulse, false).await, (10, Expired::Head));
    }

    #[tokio::test(start_paused = true)]
    async fn an_exchange_under_way_never_expires_unless_the_client_takes_nothing() {
        let pulse = Pulse::new();
        let _beat = pulse.begin();
        let settings = ServeSettings::default();
        assert_eq!(pulse.next(&settings, false), None);
        pulse.blocked();
        assert_eq!(after(&pulse, false).await, (60, Expired::Send));
        pulse.sent();
        assert_eq!(pulse.next(&settings, false), None);
    }
}
