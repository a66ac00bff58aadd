//! What connections to origins may have to hold in memory.

use super::UpstreamH2;
use super::http2::SEND_BUFFER;
use crate::budget::{Budget, Charge, Use};
use crate::error::{Error, Kind};

/// What a connection needs: what is read of a response, and its own state.
const CONNECTION: usize = 24 * 1024;

/// The same for TLS: what the socket has not taken of a request, 64 KiB, and
/// records on their way in.
const TLS_SESSION: usize = 96 * 1024;

/// The buffers and tables of HTTP/2, beside its window.
const HTTP2: usize = 64 * 1024;

/// The least windows of HTTP/2, whatever the budget.
const LEAST_STREAM_WINDOW: u32 = 64 * 1024;
const LEAST_CONNECTION_WINDOW: u32 = 1024 * 1024;

/// Where the memory for connections to origins comes from, and how it is divided.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    pub(super) budget: Budget,
}

impl Memory {
    pub(super) fn new(budget: Budget) -> Self {
        Self { budget }
    }

    /// What of these windows a connection may have: at the most a 64th of the
    /// budget, and a stream a 16th of that, so that a slow reader downstream does
    /// not stall its neighbours.
    pub(super) fn limit(&self, h2: UpstreamH2) -> UpstreamH2 {
        let Some(max) = self.budget.max() else { return h2 };
        let most = u32::try_from(max / 64).unwrap_or(u32::MAX).max(LEAST_CONNECTION_WINDOW);
        if h2.connection_window <= most {
            return h2;
        }
        let stream_window = h2.stream_window.min((most / 16).max(LEAST_STREAM_WINDOW));
        UpstreamH2 { stream_window, connection_window: most, ..h2 }
    }

    /// What a connection needs.
    pub(super) fn for_connection(&self, tls: bool) -> Result<Charge, Error> {
        let bytes = CONNECTION + if tls { TLS_SESSION } else { 0 };
        self.budget.charge(bytes, Use::Origin).ok_or_else(used_up)
    }

    /// What an upload over HTTP/2 needs that its origin does not take.
    pub(super) fn for_upload(&self) -> Result<Charge, Error> {
        self.budget.charge(SEND_BUFFER, Use::Origin).ok_or_else(used_up)
    }

    /// What one of HTTP/2 needs beyond that: all that its origin may send before
    /// anybody reads it.
    pub(super) fn for_http2(&self, h2: &UpstreamH2, charge: &mut Charge) -> Result<(), Error> {
        let bytes = charge.bytes() + HTTP2 + h2.connection_window as usize;
        self.budget.extend(charge, bytes, Use::Origin).then_some(()).ok_or_else(used_up)
    }
}

/// Another origin would be none the better.
fn used_up() -> Error {
    Error::new(Kind::Overloaded).detail("the memory budget has no room for a connection")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_budget_makes_for_small_windows() {
        let windows = |budget| {
            let h2 = Memory::new(budget).limit(UpstreamH2::default());
            (h2.stream_window >> 10, h2.connection_window >> 10)
        };
        assert_eq!(windows(Budget::unlimited()), (256, 4096));
        assert_eq!(windows(Budget::new(1 << 30)), (256, 4096));
        assert_eq!(windows(Budget::new(128 << 20)), (128, 2048));
        assert_eq!(windows(Budget::new(16 << 20)), (64, 1024));
    }

    #[test]
    fn a_connection_that_does_not_fit_is_refused() {
        let memory = Memory::new(Budget::new(1 << 20));
        let mut charge = memory.for_connection(false).unwrap();
        assert_eq!(
            memory.for_http2(&UpstreamH2::default(), &mut charge).unwrap_err().kind(),
            Kind::Overloaded
        );
        assert_eq!(memory.budget.charged(), CONNECTION);
    }
}
