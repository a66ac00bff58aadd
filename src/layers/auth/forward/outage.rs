//! Says in the log when a service cannot be asked, and when it can again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::Uri;
use parking_lot::Mutex;
use tokio::time::Instant;

/// No outage is told of sooner after another; of one in which requests are let in without a
/// decision it is said again so often.
const REMINDER: Duration = Duration::from_secs(10);

/// Whether a service gives decisions.
#[derive(Debug)]
pub(super) struct Outage {
    /// Whether there is one: nearly always there is not, and then nothing is locked.
    any: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When this outage began.
    since: Option<Instant>,
    /// Whether it was told of.
    is_told: bool,
    /// When one was told of last.
    told: Option<Instant>,
}

impl Outage {
    pub(super) fn new() -> Self {
        Self { any: AtomicBool::new(false), state: Mutex::default() }
    }

    /// There was no decision; with `open` the request is let in without one.
    pub(super) fn failed(&self, url: &Uri, reason: &'static str, open: bool) {
        if !self.begin(Instant::now(), open) {
            return;
        }
        let url = spelt(url);
        if open {
            tracing::warn!(
                url,
                reason,
                "forward-auth: requests are let in without a decision, as `on_failure = \
                 \"open\"` asks"
            );
        } else {
            tracing::warn!(
                url,
                reason,
                "forward-auth: the service gives no decision, and lets nobody in"
            );
        }
    }

    /// It has given a decision.
    pub(super) fn answered(&self, url: &Uri) {
        if let Some(outage) = self.end(Instant::now()) {
            let url = spelt(url);
            tracing::info!(url, ?outage, "forward-auth: the service gives decisions again");
        }
    }

    /// Notes that there is one; whether that is to be said, also `again` of one that is known.
    fn begin(&self, now: Instant, again: bool) -> bool {
        let mut state = self.state.lock();
        self.any.store(true, Ordering::Relaxed);
        state.since.get_or_insert(now);
        let is_soon = state.told.is_some_and(|told| now - told < REMINDER);
        if is_soon || (state.is_told && !again) {
            return false;
        }
        (state.told, state.is_told) = (Some(now), true);
        true
    }

    /// How long one has lasted that ends, if it was told of.
    fn end(&self, now: Instant) -> Option<Duration> {
        if !self.any.load(Ordering::Relaxed) {
            return None;
        }
        let mut state = self.state.lock();
        self.any.store(false, Ordering::Relaxed);
        let since = state.since.take()?;
        std::mem::take(&mut state.is_told).then(|| now - since)
    }
}

/// Which service it is. A query may have more in it than is for the log.
fn spelt(url: &Uri) -> String {
    let scheme = url.scheme_str().unwrap_or_default();
    let authority = url.authority().map_or("", |authority| authority.as_str());
    format!("{scheme}://{authority}{}", url.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_told_of_once_and_so_is_its_end() {
        let (outage, start) = (Outage::new(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(outage.end(at(0)), None);
        assert!(outage.begin(at(1), false));
        assert!(!outage.begin(at(2), false));
        assert!(!outage.begin(at(60), false));
        assert_eq!(outage.end(at(61)), Some(Duration::from_secs(60)));
        assert_eq!(outage.end(at(62)), None);
    }

    #[test]
    fn where_requests_are_let_in_it_is_said_again_and_again() {
        let (outage, start) = (Outage::new(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let said = (0..30).filter(|second| outage.begin(at(*second), true));
        assert_eq!(said.count(), 3);
    }

    #[test]
    fn a_service_that_comes_and_goes_does_not_fill_the_log() {
        let (outage, start) = (Outage::new(), Instant::now());
        let (mut begins, mut ends) = (0, 0);
        for second in 0..60 {
            let now = start + Duration::from_secs(second);
            begins += usize::from(outage.begin(now, false));
            ends += usize::from(outage.end(now).is_some());
        }
        assert_eq!((begins, ends), (6, 6));
    }

    #[test]
    fn the_log_has_no_query() {
        let url = "http://auth.test:9091/verify?token=s3cret".parse().unwrap();
        assert_eq!(spelt(&url), "http://auth.test:9091/verify");
    }
}
