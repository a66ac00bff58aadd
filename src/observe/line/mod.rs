//! How one exchange reads as a line of the access log.
//!
//! Whatever a client sent is escaped: a line is one line, and holds nothing
//! that a terminal obeys.

mod json;
mod text;
mod write;

use std::sync::Arc;
use std::time::Duration;

use http::Version;
use jiff::Timestamp;

use crate::context::{Facts, Record};

pub(super) use json::json;
pub(super) use text::text;

/// When a line is written.
#[derive(Clone, Copy, Debug)]
struct Moment {
    now: Timestamp,
    /// How long the exchange has lasted.
    elapsed: Duration,
}

impl Moment {
    fn of(exchange: &Facts) -> Self {
        Self { now: Timestamp::now(), elapsed: exchange.elapsed() }
    }
}

/// Query parameters whose values are not shown, besides those that never are.
fn secrets(record: &Record) -> &[Arc<str>] {
    record.secret_parameters.as_deref().unwrap_or_default()
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_3 => "HTTP/3",
        _ => "HTTP/1.1",
    }
}

#[cfg(test)]
pub(super) mod tests;
