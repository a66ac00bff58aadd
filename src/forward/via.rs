//! `Via` (RFC 9110 §7.6.3): the way a request came, and the proof of a loop.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

use http::header;
use http::{HeaderMap, HeaderValue, Version};

use crate::respond::PRODUCT;

/// What the names of this process come from. They differ from those of any other, so
/// that one Tollgate behind another is no loop.
static PROCESS: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// A way through this process, as `Via` has it. Each has a name of its own: a request may
/// come again by another, as where the process is the owner of its own request in a
/// fleet, and there are only so many ways until one comes twice.
#[derive(Debug)]
pub(super) struct Hop {
    name: String,
    /// By the version that the request came in.
    values: [Option<HeaderValue>; 4],
}

impl Hop {
    pub(super) fn new(way: &str) -> Self {
        let (process, way) = (PROCESS.hash_one(std::process::id()), PROCESS.hash_one(way));
        let name = format!("{PRODUCT}-{:08x}{:08x}", process & 0xffff_ffff, way & 0xffff_ffff);
        let value = |version| HeaderValue::try_from(format!("{version} {name}")).ok();
        Self { values: ["1.0", "1.1", "2.0", "3.0"].map(value), name }
    }

    /// Whether the request has come this way before.
    pub(super) fn is_named(&self, headers: &HeaderMap) -> bool {
        let us = self.name.as_bytes();
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
    pub(super) fn append(&self, headers: &mut HeaderMap, version: Version) {
        let [http_10, http_11, http_2, http_3] = &self.values;
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_hop_is_recognised_among_others() {
        let hop = Hop::new("a");
        let mut headers = HeaderMap::new();
        headers.append(header::VIA, HeaderValue::from_static("1.1 tollgate-ffffffffff, 2.0 cdn"));
        assert!(!hop.is_named(&headers));
        Hop::new("b").append(&mut headers, Version::HTTP_11);
        assert!(!hop.is_named(&headers));
        hop.append(&mut headers, Version::HTTP_2);
        assert!(Hop::new("a").is_named(&headers));
        let last = headers.get_all(header::VIA).iter().next_back().unwrap();
        assert!(last.to_str().unwrap().starts_with("2.0 tollgate-"));
    }
}
