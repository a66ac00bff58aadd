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

/// This hop, by the version that the request came in.
static HOPS: LazyLock<[Option<HeaderValue>; 4]> = LazyLock::new(|| {
    ["1.0", "1.1", "2.0", "3.0"]
        .map(|version| HeaderValue::try_from(format!("{version} {}", *PSEUDONYM)).ok())
});

/// Whether the request has passed this process before.
pub(super) fn names_us(headers: &HeaderMap) -> bool {
    let us = PSEUDONYM.as_bytes();
    headers.get_all(header::VIA).iter().any(|line| {
        line.as_bytes()
            .split(|byte| *byte == b',')
            .filter_map(|hop| {
                hop.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).nth(1)
            })
            .any(|name| name == us)
    })
}

/// Adds this hop.
pub(super) fn append(headers: &mut HeaderMap, version: Version) {
    let [http_10, http_11, http_2, http_3] = &*HOPS;
    let hop = match version {
        Version::HTTP_10 => http_10,
        Version::HTTP_2 => http_2,
        Version::HTTP_3 => http_3,
        _ => http_11,
    };
    if let Some(hop) = hop {
        headers.append(header::VIA, hop.clone());
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
