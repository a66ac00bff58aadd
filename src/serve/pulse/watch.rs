//! When a connection is to end, or may let its buffers go, by what was noted.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Sleep;

use super::{NEVER, Pulse, SPANS_TO_TAKE, slot};
use crate::serve::ServeSettings;

/// How long a connection that was told to end may take over it.
pub(in crate::serve) const FAREWELL: Duration = Duration::from_secs(5);

/// How long a connection of HTTP/1 keeps its buffers for the next request. One
/// with more than twenty requests a second is never parked, and the others pay
/// half a microsecond for each. Connections that are opened at once are parked
/// while others still come, so that these take over the memory.
const QUIET: Duration = Duration::from_millis(50);

/// Why a connection is to end, or what else it is time for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::serve) enum Expired {
    /// Nothing has happened for a moment: the connection may be parked.
    Quiet,
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

impl Pulse {
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
        let idle = |http2: bool| {
            if !http2 && settings.keep_alive_timeout > QUIET && self.may_park() {
                (after(QUIET), Expired::Quiet)
            } else {
                (after(settings.keep_alive_timeout), Expired::Idle)
            }
        };
        let head = if notes.served.load(Ordering::Relaxed) == 0 {
            Some((after(settings.request_head_timeout), Expired::Head))
        } else if http2 {
            // Pings are bytes, but no request.
            None
        } else {
            due(&notes.head_since, settings.request_head_timeout, Expired::Head)
        };
        // Once a request has begun to arrive, the connection is not idle.
        sooner(head.unwrap_or_else(|| idle(http2)))
    }

    /// Whether a connection with no exchange under way, and no part of the next
    /// request's head, is between two messages for all that was noted.
    fn may_park(&self) -> bool {
        let notes = &*self.0;
        notes.unread.load(Ordering::Relaxed) == 0
            && notes.blocked_since.load(Ordering::Relaxed) == NEVER
            && !notes.parked.load(Ordering::Relaxed)
            && !notes.unparkable.load(Ordering::Relaxed)
    }
}

/// Waits until the connection has expired. To be polled whenever the
/// connection is, since what it waits for moves with every note.
pub(in crate::serve) struct Watch<'a> {
    pulse: &'a Pulse,
    settings: &'a ServeSettings,
    http2: bool,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<'a> Watch<'a> {
    pub(in crate::serve) fn new(
        pulse: &'a Pulse,
        settings: &'a ServeSettings,
        http2: bool,
    ) -> Self {
        Self { pulse, settings, http2, timer: None }
    }

    /// The client was told that the connection ends.
    pub(in crate::serve) fn ending(&self) {
        self.pulse.ending();
    }

    /// See [`Pulse::park`].
    pub(in crate::serve) fn park(&self, parked: bool) {
        self.pulse.park(parked);
    }

    /// See [`Pulse::never_park`].
    pub(in crate::serve) fn never_park(&self) {
        self.pulse.never_park();
    }

    pub(in crate::serve) async fn expired(&mut self) -> Expired {
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
    use crate::body::{End, Guard};
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
    async fn a_request_body_left_unread_keeps_the_connection_from_being_parked() {
        let pulse = Pulse::new(&ServeSettings::default());
        drop(pulse.begin());
        let mut first = pulse.uploads();
        drop(pulse.begin());
        let mut second = pulse.uploads();
        // What becomes of the body of a request before says nothing.
        first.end(End::Complete);
        assert!(!pulse.may_park());
        second.end(End::Complete);
        assert!(pulse.may_park());
        drop(pulse.begin());
        pulse.uploads().end(End::Dropped);
        assert!(!pulse.may_park());
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
