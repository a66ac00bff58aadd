//! A way in for the fuzz targets.

use http::header::HeaderName;
use http::{HeaderMap, Version};

use super::{cookie, hop_by_hop};

/// Takes out what concerns one hop.
pub fn strip(headers: &mut HeaderMap, vouched: &[HeaderName]) {
    hop_by_hop::strip(headers, vouched);
}

/// Takes out `TE`; tells whether it asked for trailers.
pub fn take_te_trailers(headers: &mut HeaderMap) -> bool {
    hop_by_hop::take_te_trailers(headers)
}

/// The protocol that a request asks to switch to.
#[must_use]
pub fn requested_upgrade(version: Version, headers: &HeaderMap) -> Option<String> {
    hop_by_hop::requested_upgrade(version, headers)
}

/// Joins the crumbs of a cookie.
pub fn join_cookies(headers: &mut HeaderMap) {
    cookie::join(headers);
}
