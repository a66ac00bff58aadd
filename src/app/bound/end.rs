//! How a run ends.

use std::pin::pin;
use std::time::Duration;

use crate::config::ServerSettings;
use crate::drain::{self, Left};

/// How often a drain that lasts says what is left.
const PROGRESS: Duration = Duration::from_secs(5);

/// How long what comes after the drain may take: threads end, logs are written.
const LAST_STEPS: Duration = Duration::from_secs(5);

/// How a run is to end. From the start of it on the proxy says that it is not
/// ready.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Ending {
    /// How long it still accepts and serves as before, while load balancers take
    /// notice.
    lame_duck: Duration,
    /// How long it then waits for what is under way, before it cuts.
    drain_timeout: Duration,
}

/// How a run ended: what was still busy at the drain deadline, and cut.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Ended {
    /// All that was cut.
    pub cut: usize,
    /// Connections with an exchange under way among that. Idle ones end when the
    /// drain begins.
    pub connections: usize,
    /// Tunnels among that, such as those of WebSockets.
    pub tunnels: usize,
}

impl Ending {
    /// A process that is told to stop; or one whose successor accepts already, for
    /// which nobody needs to take notice.
    pub(super) fn new(settings: &ServerSettings, handed_over: bool) -> Self {
        let ServerSettings { lame_duck, drain_timeout, .. } = *settings;
        let lame_duck = if handed_over { Duration::ZERO } else { lame_duck };
        Self { lame_duck, drain_timeout }
    }

    /// How long all of it may take.
    pub(super) fn longest(&self) -> Duration {
        self.lame_duck + self.drain_timeout + LAST_STEPS
    }

    /// Waits as it says, stops accepting, lets what is under way finish, and cuts
    /// the rest.
    pub(super) async fn carry_out(self, drain: drain::Trigger) -> Ended {
        let Self { lame_duck, drain_timeout: timeout } = self;
        if !lame_duck.is_zero() {
            tracing::info!(?lame_duck, "not ready any more; serving until load balancers know");
            tokio::time::sleep(lame_duck).await;
        }
        let watcher = drain.watcher();
        let say = |left: Left| {
            let Left { connections, tunnels } = left;
            tracing::info!(connections, tunnels, ?timeout, "draining");
        };
        say(watcher.left());
        let mut drained = pin!(drain.drain(timeout));
        let left = loop {
            match tokio::time::timeout(PROGRESS, drained.as_mut()).await {
                Ok(left) => break left,
                Err(_) => say(watcher.left()),
            }
        };
        let Left { connections, tunnels } = left;
        if left.total() > 0 {
            tracing::warn!(connections, tunnels, "the drain timeout passed; cut");
        }
        Ended { cut: left.total(), connections, tunnels }
    }
}
