//! `Via` (RFC 9110 §7.6.3): the way a request came, and the proof of a loop.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

use http::header;
use http::{HeaderMap, HeaderValue, Version};

use crate::respond::PRODUCT;

/// The name of this process in `Via`. It differs from that of any other, so
/// that one Tollgate behind another is no loop.
static PSEUDONYM: LazyLock<String> = LazyLock::new(|| {
    let random = RandomState::new().hash_one(std::process::id());
    format!("{PRODUCT}-{:08x}", random & 0xffff_ffff)
});

/// Whether the request has passed this process before.
pub(super) fn names_us(headers: &HeaderMap) -> bool {
    let us = PSEUDONYM.as_bytes();
    headers.get_all(header::VIA).iter().any(|line| {
        line.as_bytes()
            .split(|byte| *byte == b',')
            .filter_map(|hop| hop.trim_ascii().split(|byte| *byte == b' ').nth(1))
            .any(|name| name == us)
    })
}

/// Adds this hop.
pub(super) fn append(headers: &mut HeaderMap, version: Version) {
    let version = match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2.0",
        Version::HTTP_3 => "3.0",
        _ => "1.1",
    };
    if let Ok(hop) = HeaderValue::try_from(format!("{version} {}", *PSEUDONYM)) {
        headers.append(header::VIA, hop);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_hop_is_recognised_among_others() {
        let mut headers = HeaderMap::new();
        headers.append(header::VIA, HeaderValue::from_static("1.1 tollgate-ffffffffff, 2.0 cdn"));
        assert!(!names_us(&headers));
        append(&mut headers, Version::HTTP_2);
        assert!(names_us(&headers));
        let last = headers.get_all(header::VIA).iter().next_back().unwrap();
        assert!(last.to_str().unwrap().starts_with("2.0 tollgate-"));
    }
}
