//! What connections to origins may have to hold in memory.

use crate::budget::{Budget, Charge, Use};
use crate::error::{Error, Kind};

/// What a connection needs: what is read of a response, and its own state.
const CONNECTION: usize = 24 * 1024;

/// The same for TLS: what the socket has not taken of a request, 64 KiB, and
/// records on their way in.
const TLS_SESSION: usize = 96 * 1024;

/// The buffers and tables of HTTP/2, beside its window.
const HTTP2: usize = 64 * 1024;

/// How many streams that nobody reads fill the window of a connection: a slow
/// reader downstream must not stall its neighbours.
const STREAMS: u32 = 16;

/// The windows of HTTP/2 for a budget that has the room.
const MOST_STREAM_WINDOW: u32 = 256 * 1024;
const LEAST_STREAM_WINDOW: u32 = 64 * 1024;

/// Where the memory for connections to origins comes from, and how it is divided.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    pub(super) budget: Budget,
    pub(super) stream_window: u32,
    pub(super) connection_window: u32,
}

impl Memory {
    /// A connection of HTTP/2 has at the most a 64th of the budget.
    pub(super) fn new(budget: Budget) -> Self {
        let most = |max: usize| u32::try_from(max / 64).unwrap_or(u32::MAX) / STREAMS;
        let window = budget.max().map_or(MOST_STREAM_WINDOW, most);
        let stream_window = window.clamp(LEAST_STREAM_WINDOW, MOST_STREAM_WINDOW);
        Self { budget, stream_window, connection_window: STREAMS * stream_window }
    }

    /// What a connection needs.
    pub(super) fn for_connection(&self, tls: bool) -> Result<Charge, Error> {
        let bytes = CONNECTION + if tls { TLS_SESSION } else { 0 };
        self.budget.charge(bytes, Use::Origin).ok_or_else(used_up)
    }

    /// What one of HTTP/2 needs beyond that: all that its origin may send before
    /// anybody reads it.
    pub(super) fn for_http2(&self, charge: &mut Charge) -> Result<(), Error> {
        let bytes = charge.bytes() + HTTP2 + self.connection_window as usize;
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
            let memory = Memory::new(budget);
            (memory.stream_window >> 10, memory.connection_window >> 10)
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
        assert_eq!(memory.for_http2(&mut charge).unwrap_err().kind(), Kind::Overloaded);
        assert_eq!(memory.budget.charged(), CONNECTION);
    }
}
