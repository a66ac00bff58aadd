//! Names of origins, and what they resolve to.
//!
//! A [`Name`] holds the addresses that a name has now, and a [`Service`] the
//! targets of its SRV records. Both are asked for again in the background when
//! their TTL has passed, so that no request waits for a name server but those
//! that come before the very first answer. What was found stays in use until
//! something else is: an answer that does not come, or is empty, changes nothing.

mod address;
mod name;
mod records;
mod resolver;
mod screen;
mod service;
mod settings;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

pub(super) use address::{Address, HEAD_START};
pub(super) use name::Name;
pub use resolver::Resolver;
pub(super) use service::{Service, Target};
pub use settings::{AddressFamily, DnsSettings};

/// The first pause after a failure; each that follows is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// What was found, and for how long it holds.
#[derive(Debug)]
struct Answer<T> {
    found: T,
    /// Within what the settings allow.
    ttl: Duration,
}

/// Why nothing was found.
#[derive(Debug)]
struct Fault {
    /// One word, for metrics.
    reason: &'static str,
    detail: String,
}

impl Fault {
    fn new(reason: &'static str, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

/// When a question is put again. Whoever puts it holds this, so that there is
/// only one, and who comes next goes on where that one ended.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    next: Option<Instant>,
    /// Questions in a row without an answer.
    failures: u32,
    /// Who was asked the last time.
    asked: Option<Arc<Resolver>>,
}

impl Schedule {
    /// Waits until it is time to ask `resolver`.
    async fn due(&self, resolver: &Arc<Resolver>) {
        let same = self.asked.as_ref().is_some_and(|asked| Arc::ptr_eq(asked, resolver));
        if let Some(next) = self.next.filter(|_| same) {
            tokio::time::sleep_until(next).await;
        }
    }

    /// The next question is put when `pause` is over.
    pub(super) fn pause(&mut self, pause: Duration, asked: Arc<Resolver>) {
        (self.next, self.asked) = (Some(Instant::now() + pause), Some(asked));
    }
}

/// How long to wait after so many failures in a row.
fn pause_after(failures: u32, most: Duration) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_the_longest() {
        let most = Duration::from_secs(5);
        let pauses = [1, 2, 3, 6, 7, u32::MAX].map(|failures| pause_after(failures, most));
        let expected = [250, 500, 1_000, 5_000, 5_000, 5_000].map(Duration::from_millis);
        assert_eq!(pauses, expected);
        assert_eq!(pause_after(1, Duration::from_millis(20)), Duration::from_millis(20));
    }
}
