//! A way in for the fuzz targets.

use super::reading::freest;

/// The path as the freest reader would have it, where that is another.
#[must_use]
pub fn freest_reading(path: &str) -> Option<String> {
    freest(path)
}
