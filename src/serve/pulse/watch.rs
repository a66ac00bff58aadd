//! When a connection is to end, or may let its buffers go, by what was noted.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Sleep;

use super::{JUST_NOW, NEVER, Pulse, SPANS_TO_TAKE, slot};
use crate::serve::ServeSettings;

/// How long a connection that was told to end may take over it.
pub(in crate::serve) const FAREWELL: Duration = Duration::from_secs(5);

/// How long a connection of HTTP/1 keeps its buffers for the next request. One
/// with more than twenty requests a second is never parked, and the others pay
/// half a microsecond for each. Connections that are opened at once are parked
/// while others still come, so that these take over the memory.
const QUIET: Duration = Duration::from_millis(50);

fn millis(timeout: Duration) -> u64 {
    u64::try_from(timeout.as_millis()).unwrap_or(NEVER)
}

/// Why a connection is to end, or what else it is time for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::serve) enum Expired {
    /// Nothing has happened for a moment: the connection may be parked.
    Quiet,
    /// No request came: it may be closed politely.
    Idle,
    /// A request's head, or the client's first byte, took too long.
    Head,
    /// The client takes no bytes, or too few.
    Send,
    /// The client does not take the response of one exchange, or takes it too
    /// slowly, whatever it does beside that.
    Stalled,
    /// The client was told that the connection ends, and keeps it.
    Farewell,
}

impl Pulse {
    /// When a response will have lain for too long, if one lies, and otherwise
    /// when to look again: a part may be handed over that wakes nobody.
    fn stalled(&self) -> (u64, Expired) {
        if self.0.slow.load(Ordering::Relaxed) {
            return (0, Expired::Stalled);
        }
        let span = self.0.span;
        let now = self.now() / span;
        let lies = |at: &u64| self.0.owed[slot(*at)].load(Ordering::Relaxed) > 0;
        let oldest = (0..=SPANS_TO_TAKE).rev().filter_map(|age| now.checked_sub(age)).find(lies);
        let due = oldest.map_or(now + 1, |oldest| oldest + SPANS_TO_TAKE);
        (due.saturating_mul(span), Expired::Stalled)
    }

    /// What will expire first if nothing more happens, and when.
    fn next(&self, settings: &ServeSettings, http2: bool) -> (u64, Expired) {
        let notes = &*self.0;
        // The watch comes after the connection: had the head been whole by now,
        // this would have been taken back.
        if notes.head_since.load(Ordering::Relaxed) == JUST_NOW {
            notes.head_since.store(self.now(), Ordering::Relaxed);
        }
        let send = self.blocked_until(settings);
        if self.is_exchanging() {
            let stalled = self.stalled();
            return if send <= stalled.0 { (send, Expired::Send) } else { stalled };
        }
        self.next_between_exchanges(settings, http2, send)
    }

    /// Whether an exchange is under way.
    fn is_exchanging(&self) -> bool {
        self.0.exchanges.load(Ordering::Relaxed) > 0
    }

    /// A moment before which there is no need to look at the clock: not while an
    /// exchange is under way and nothing is blocked.
    fn look_at(&self, settings: &ServeSettings, http2: bool) -> u64 {
        let send = self.blocked_until(settings);
        if self.is_exchanging() {
            send
        } else if self.0.head_since.load(Ordering::Relaxed) == JUST_NOW {
            0
        } else {
            self.next_between_exchanges(settings, http2, send).0
        }
    }

    fn blocked_until(&self, settings: &ServeSettings) -> u64 {
        let since = self.0.blocked_since.load(Ordering::Relaxed);
        if since == NEVER {
            return NEVER;
        }
        since.saturating_add(millis(settings.send_timeout.min(self.patience())))
    }

    fn next_between_exchanges(
        &self,
        settings: &ServeSettings,
        http2: bool,
        send: u64,
    ) -> (u64, Expired) {
        let notes = &*self.0;
        let since = |at: &AtomicU64| Some(at.load(Ordering::Relaxed)).filter(|at| *at != NEVER);
        let idle_since = notes.idle_since.load(Ordering::Relaxed);
        let after = |timeout: Duration| idle_since.saturating_add(millis(timeout));
        if let Some(ending) = since(&notes.ending_since) {
            let at = ending.saturating_add(millis(FAREWELL));
            return (at.max(after(FAREWELL)), Expired::Farewell);
        }
        let head = || {
            if notes.served.load(Ordering::Relaxed) == 0 {
                return Some(after(settings.request_head_timeout));
            }
            // Over HTTP/2 pings are bytes, but no request.
            let begun = since(&notes.head_since).filter(|_| !http2)?;
            Some(begun.saturating_add(millis(settings.request_head_timeout)))
        };
        // Once a request has begun to arrive, the connection is not idle.
        let other = match head() {
            Some(at) => (at, Expired::Head),
            None if !http2 && settings.keep_alive_timeout > QUIET && self.may_park() => {
                (after(QUIET), Expired::Quiet)
            }
            None => (after(settings.keep_alive_timeout), Expired::Idle),
        };
        if send <= other.0 { (send, Expired::Send) } else { other }
    }

    /// Whether a connection with no exchange under way, and no part of the next
    /// request's head, is between two messages for all that was noted.
    fn may_park(&self) -> bool {
        let notes = &*self.0;
        notes.blocked_since.load(Ordering::Relaxed) == NEVER
            && !notes.parked.load(Ordering::Relaxed)
    }
}

/// Waits until the connection has expired. To be polled whenever the
/// connection is, since what it waits for moves with every note.
pub(in crate::serve) struct Watch<'a> {
    pulse: &'a Pulse,
    settings: &'a ServeSettings,
    http2: bool,
    timer: Option<Pin<Box<Sleep>>>,
    /// When the timer rings, as the notes count.
    rings: u64,
    /// Whether that is early enough for any response that may come to lie: what
    /// lies from now on is due later than what was due when it was looked at.
    for_exchanges: bool,
}

impl<'a> Watch<'a> {
    pub(in crate::serve) fn new(
        pulse: &'a Pulse,
        settings: &'a ServeSettings,
        http2: bool,
    ) -> Self {
        Self { pulse, settings, http2, timer: None, rings: NEVER, for_exchanges: false }
    }

    /// The client was told that the connection ends.
    pub(in crate::serve) fn ending(&self) {
        self.pulse.ending();
    }

    /// See [`Pulse::park`].
    pub(in crate::serve) fn park(&self, parked: bool) {
        self.pulse.park(parked);
    }

    pub(in crate::serve) async fn expired(&mut self) -> Expired {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Expired> {
        let exchanging = self.pulse.is_exchanging();
        if self.timer.as_ref().is_some_and(|timer| !timer.is_elapsed())
            && (self.for_exchanges || !exchanging)
            && self.rings <= self.pulse.look_at(self.settings, self.http2)
        {
            // It rings early enough, and the task that it wakes is this one.
            return Poll::Pending;
        }
        loop {
            let (due, why) = self.pulse.next(self.settings, self.http2);
            if self.pulse.now() >= due {
                return Poll::Ready(why);
            }
            let at = self.pulse.0.opened + Duration::from_millis(due);
            match &mut self.timer {
                // A timer that rings too early costs one look; moving it with
                // every exchange would cost one each.
                Some(timer) if self.rings <= due && !timer.is_elapsed() => {
                    self.for_exchanges |= exchanging;
                }
                Some(timer) => {
                    timer.as_mut().reset(at);
                    (self.rings, self.for_exchanges) = (due, exchanging);
                }
                None => {
                    self.timer = Some(Box::pin(tokio::time::sleep_until(at)));
                    (self.rings, self.for_exchanges) = (due, exchanging);
                }
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
    use crate::body::Guard;
    use crate::serve::pulse::Lying;
    use tokio::time::Instant;

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
    async fn a_timer_that_was_set_while_idle_is_set_anew_for_a_response_that_lies() {
        let send_timeout = Duration::from_secs(2);
        let settings = ServeSettings { send_timeout, ..ServeSettings::default() };
        let pulse = Pulse::new(&settings);
        drop(pulse.begin());
        let mut watch = Watch::new(&pulse, &settings, true);
        assert!(futures_util::poll!(std::pin::pin!(watch.expired())).is_pending());
        let beat = pulse.begin();
        assert!(futures_util::poll!(std::pin::pin!(watch.expired())).is_pending());
        let _lying = Lying::new(beat, None);
        let before = Instant::now();
        assert_eq!(watch.expired().await, Expired::Stalled);
        assert_eq!(before.elapsed().as_secs(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_nothing_is_given_the_time_of_a_head() {
        assert_eq!(after(&Pulse::new(&ServeSettings::default()), false).await, (10, Expired::Head));
        assert_eq!(after(&Pulse::new(&ServeSettings::default()), true).await, (10, Expired::Head));
    }

    #[tokio::test(start_paused = true)]
    async fn between_requests_a_connection_is_parked_and_may_idle_for_longer() {
        let pulse = Pulse::new(&ServeSettings::default());
        drop(pulse.begin());
        assert_eq!(after(&pulse, false).await, (0, Expired::Quiet));
        pulse.park(true);
        assert_eq!(after(&pulse, false).await, (74, Expired::Idle));
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
        assert_eq!(after(&pulse, false).await, (10, Expired::Send));
        pulse.sent(1 << 20);
        pulse.blocked();
        assert_eq!(after(&pulse, false).await, (60, Expired::Send));
        pulse.sent(1);
        assert!(never(&pulse));
    }
    #[tokio::test(start_paused = true)]
    async fn a_response_left_lying_expires_though_others_move() {
        let pulse = Pulse::new(&ServeSettings::default());
        let mut lying = Lying::new(pulse.begin(), None);
        let mut moving = Lying::new(pulse.begin(), None);
        lying.data(1 << 20);
        for _ in 0..8 {
            moving.data(10_000);
            tokio::time::advance(Duration::from_secs(7)).await;
            moving.waiting();
        }
        assert_eq!(after(&pulse, true).await, (90 - 56, Expired::Stalled));
        lying.waiting();
        assert!(never(&pulse));
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_taken_byte_by_byte_expires() {
        let pulse = Pulse::new(&ServeSettings::default());
        let mut slow = Lying::new(pulse.begin(), None);
        let before = Instant::now();
        while never(&pulse) {
            slow.data(1);
            tokio::time::advance(Duration::from_secs(3)).await;
            slow.waiting();
        }
        assert_eq!(before.elapsed().as_secs(), 12);
        assert_eq!(after(&pulse, true).await, (0, Expired::Stalled));
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_response_lies_until_the_connection_has_let_go_of_it() {
        let pulse = Pulse::new(&ServeSettings::default());
        let mut lying = Lying::new(pulse.begin(), None);
        let mut data = bytes::Bytes::from_static(b"end");
        lying.data(data.len());
        lying.hold(&mut data);
        assert_eq!(data, "end");
        drop(lying);
        assert_eq!(after(&pulse, true).await, (90, Expired::Stalled));
        drop(data);
        assert!(!pulse.is_exchanging());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_little_at_a_time_is_too_slow() {
        let pulse = Pulse::new(&ServeSettings::default());
        let _beat = pulse.begin();
        let before = Instant::now();
        loop {
            pulse.blocked();
            let next = pulse.next(&ServeSettings::default(), false);
            if pulse.now() >= next.0 {
                assert_eq!(next.1, Expired::Send);
                break;
            }
            tokio::time::advance(Duration::from_secs(1)).await;
            pulse.sent(24);
        }
        // A tenth of the rate: nine tenths of each second it is behind.
        assert_eq!(before.elapsed().as_secs(), 12);
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
