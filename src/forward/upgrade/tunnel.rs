//! Two streams that have switched, joined.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, timeout};

use super::relay::Relay;
use crate::context::Exchange;
use crate::drain;
use crate::switch::{OnSwitch, Switched};

/// How long one side of a tunnel may be silent when the other has ended.
const FAREWELL: Duration = Duration::from_secs(10);

/// Joins the two once both have switched, until both have ended, one breaks off,
/// nothing has moved for `idle`, or the drain cuts. A `websocket`'s client is told
/// of the drain by a Close frame.
pub(super) async fn run(
    downstream: OnSwitch,
    upstream: OnSwitch,
    exchange: Option<Exchange>,
    idle: Duration,
    websocket: bool,
    (drain, _busy): (drain::Watcher, drain::Busy),
) {
    let switched = async { tokio::try_join!(downstream, upstream) };
    let switched = tokio::select! {
        switched = timeout(idle, switched) => switched,
        () = drain.cut() => return,
    };
    let (downstream, upstream) = match switched {
        Ok(Ok(both)) => both,
        Ok(Err(error)) => {
            tracing::debug!(%error, "an upgrade was not completed");
            return;
        }
        Err(_) => return,
    };
    // It holds 16 KiB on the stack while it is polled, and little between.
    let mut tunnel = Tunnel {
        downstream,
        upstream,
        up: Relay::new(),
        down: if websocket { Relay::of_frames() } else { Relay::new() },
        idle,
        moved: Instant::now(),
        timer: Box::pin(tokio::time::sleep(idle)),
        exchange,
    };
    let (draining, cut) = (drain.draining(), drain.cut());
    let (mut draining, mut cut) = (std::pin::pin!(draining), std::pin::pin!(cut));
    let mut told = !websocket;
    let end = poll_fn(|cx| {
        if cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(End::Cut);
        }
        if !told && draining.as_mut().poll(cx).is_ready() {
            told = true;
            tunnel.down.take_leave();
        }
        tunnel.poll(cx)
    })
    .await;
    match end {
        End::Both => tunnel.complete(),
        End::Broken(error) => tracing::trace!(%error, "a tunnel broke off"),
        End::Idle => tracing::debug!(?idle, "a tunnel was idle for too long"),
        End::Cut => tracing::debug!("a tunnel was cut"),
    }
}

struct Tunnel {
    downstream: Switched,
    upstream: Switched,
    up: Relay,
    down: Relay,
    idle: Duration,
    /// When a byte was last taken, or an end came.
    moved: Instant,
    /// Rings when nothing may have moved for too long.
    timer: Pin<Box<Sleep>>,
    exchange: Option<Exchange>,
}

enum End {
    Both,
    Broken(io::Error),
    Idle,
    Cut,
}

impl Tunnel {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let before = self.progress();
        let up = self.up.poll(cx, &mut self.downstream, &mut self.upstream);
        let down = self.down.poll(cx, &mut self.upstream, &mut self.downstream);
        match (up, down) {
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(End::Both),
            (Poll::Ready(Err(error)), _) | (_, Poll::Ready(Err(error))) => {
                return Poll::Ready(End::Broken(error));
            }
            _ => {}
        }
        let (.., half) = self.progress();
        if self.progress() != before {
            self.moved = Instant::now();
            if half && !before.2 && self.idle > FAREWELL {
                self.timer.as_mut().reset(self.moved + FAREWELL);
            }
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            let due = self.due(half);
            if due <= Instant::now() {
                let end = if half && self.idle > FAREWELL { End::Both } else { End::Idle };
                return Poll::Ready(end);
            }
            // A timer that rings too early costs one look; moving it with every
            // byte would cost one each.
            self.timer.as_mut().reset(due);
        }
        Poll::Pending
    }

    /// Differs when something has moved.
    fn progress(&self) -> (u64, u64, bool) {
        let half = self.up.has_ended() || self.down.has_ended();
        (self.up.bytes, self.down.bytes, half)
    }

    /// When nothing will have moved for too long, or one side will have left what
    /// was sent to it lying for too long, whatever it sends.
    fn due(&self, half: bool) -> Instant {
        let silence = if half { self.idle.min(FAREWELL) } else { self.idle };
        let blocked = [self.up.blocked, self.down.blocked].into_iter().flatten().min();
        let due = self.moved + silence;
        blocked.map_or(due, |since| due.min(since + self.idle))
    }

    fn complete(&self) {
        if let Some(exchange) = &self.exchange {
            exchange.update(|record| record.complete = true);
        }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        if let Some(exchange) = &self.exchange {
            exchange.update(|record| {
                record.request_bytes += self.up.bytes;
                record.response_bytes += self.down.bytes;
            });
        }
    }
}
