//! How long a body may be silent, and how slow.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::error::Kind;
use crate::pace::{MinRate, Pace};

/// How long the next frame may be waited for.
pub(super) struct IdleTimeout {
    after: Duration,
    kind: Kind,
    /// Whether the next frame is waited for.
    waiting: bool,
    sleep: Option<Pin<Box<Sleep>>>,
    paced: Option<Box<Paced>>,
}

/// How fast the frames come.
struct Paced {
    pace: Pace,
    /// When the wait for the next one began.
    since: Instant,
}

impl IdleTimeout {
    pub(super) fn new(after: Duration, kind: Kind) -> Self {
        Self { after, kind, waiting: false, sleep: None, paced: None }
    }

    /// Holds the frames to a least rate as well.
    pub(super) fn hold_to(&mut self, rate: MinRate) {
        let pace = Pace::new(rate, self.after);
        self.paced = Some(Box::new(Paced { pace, since: Instant::now() }));
    }

    pub(super) fn after(&self) -> Duration {
        self.after
    }

    /// What it fails with.
    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// Ready once nothing has come for too long. A wait begins with the first call
    /// after a frame: until then nobody wanted any.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let at = (!std::mem::replace(&mut self.waiting, true)).then(|| self.begin());
        let sleep = match (&mut self.sleep, at) {
            (Some(sleep), None) => sleep,
            (Some(sleep), Some(at)) => {
                sleep.as_mut().reset(at);
                sleep
            }
            (sleep @ None, at) => {
                let at = at.unwrap_or_else(Instant::now);
                sleep.insert(Box::pin(tokio::time::sleep_until(at)))
            }
        };
        sleep.as_mut().poll(cx)
    }

    /// Begins a wait; tells how long it may last.
    fn begin(&mut self) -> Instant {
        let now = Instant::now();
        let patience = self.paced.as_mut().map(|paced| {
            paced.since = now;
            paced.pace.patience()
        });
        now + patience.map_or(self.after, |patience| patience.min(self.after))
    }

    /// A frame came, with this many bytes.
    pub(super) fn moved(&mut self, bytes: usize) {
        let waited = std::mem::take(&mut self.waiting);
        if let Some(paced) = &mut self.paced {
            if waited {
                paced.pace.waited(paced.since.elapsed());
            }
            paced.pace.moved(bytes);
        }
    }
}
