//! A way in for the fuzz targets.

use super::line;
use crate::context::Facts;

/// The line of an exchange for people.
#[must_use]
pub fn log_line_text(exchange: &Facts) -> Vec<u8> {
    let mut text = Vec::new();
    line::text(exchange, &mut text);
    text
}

/// The line of an exchange for programs.
#[must_use]
pub fn log_line_json(exchange: &Facts) -> Vec<u8> {
    let mut json = Vec::new();
    line::json(exchange, &mut json);
    json
}
