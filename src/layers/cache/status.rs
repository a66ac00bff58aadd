//! `Cache-Status` (RFC 9211): what the cache did, on every response that passes it.

use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::policy::Why;
use crate::observe::CacheOutcome;

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// What the cache did for one request.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Status {
    /// Why it was forwarded (RFC 9211 §2.2); `None`: it was a hit.
    pub(super) forwarded: Option<&'static str>,
    /// The status of the origin's answer.
    pub(super) answered: Option<u16>,
    /// In seconds.
    pub(super) ttl: Option<i64>,
    pub(super) stored: bool,
    pub(super) collapsed: bool,
    pub(super) detail: Option<Why>,
}

impl Status {
    pub(super) fn hit() -> Self {
        Self::default()
    }

    pub(super) fn forwarded(why: &'static str) -> Self {
        Self { forwarded: Some(why), ..Self::default() }
    }

    /// What it counts as.
    pub(super) fn outcome(&self) -> CacheOutcome {
        match (self.forwarded, self.answered) {
            (_, _) if self.collapsed => CacheOutcome::Collapsed,
            (None, _) if self.ttl.is_some_and(|ttl| ttl <= 0) => CacheOutcome::Stale,
            (None, _) => CacheOutcome::Hit,
            (Some("stale"), Some(304)) => CacheOutcome::Revalidated,
            (Some("uri-miss" | "vary-miss" | "stale" | "request"), _) => CacheOutcome::Miss,
            (Some(_), _) => CacheOutcome::Pass,
        }
    }

    /// Says so, behind what caches nearer to the origin said.
    pub(super) fn write(&self, headers: &mut HeaderMap) {
        let mut text = Text::default();
        text.push("tollgate");
        match self.forwarded {
            None => text.push("; hit"),
            Some(why) => text.push("; fwd=").push(why),
        };
        if let Some(status) = self.answered {
            text.push("; fwd-status=").number(status.into());
        }
        if let Some(ttl) = self.ttl {
            text.push("; ttl=").number(ttl);
        }
        for (is, said) in [(self.stored, "; stored"), (self.collapsed, "; collapsed")] {
            if is {
                text.push(said);
            }
        }
        if let Some(detail) = self.detail {
            text.push("; detail=").push(detail);
        }
        if let Ok(value) = HeaderValue::from_bytes(text.as_bytes()) {
            headers.append(CACHE_STATUS, value);
        }
    }
}

/// Text on the stack, as long as the longest status: every hit writes one. What does not
/// fit any more is left out.
struct Text {
    bytes: [u8; 192],
    length: usize,
}

impl Default for Text {
    fn default() -> Self {
        Self { bytes: [0; 192], length: 0 }
    }
}

impl Text {
    fn push(&mut self, text: &str) -> &mut Self {
        self.push_bytes(text.as_bytes())
    }

    fn push_bytes(&mut self, bytes: &[u8]) -> &mut Self {
        let room = self.bytes.get_mut(self.length..self.length + bytes.len());
        if let Some(room) = room {
            room.copy_from_slice(bytes);
            self.length += bytes.len();
        }
        self
    }

    fn number(&mut self, number: i64) -> &mut Self {
        let (mut digits, mut at) = ([0; 20], 20);
        let mut left = number.unsigned_abs();
        while at > 0 {
            at -= 1;
            #[allow(clippy::cast_possible_truncation, reason = "it is below ten")]
            let digit = (left % 10) as u8;
            digits[at] = b'0' + digit;
            left /= 10;
            if left == 0 {
                break;
            }
        }
        if number < 0 {
            self.push("-");
        }
        self.push_bytes(&digits[at..])
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc9211_s2_what_was_done_is_said_behind_what_others_said() {
        let mut headers = HeaderMap::new();
        headers.insert(CACHE_STATUS, HeaderValue::from_static("origin; hit"));
        Status { ttl: Some(-5), ..Status::hit() }.write(&mut headers);
        let forwarded = Status::forwarded("uri-miss");
        Status { answered: Some(200), stored: true, ..forwarded }.write(&mut headers);
        Status { detail: Some("private"), ..forwarded }.write(&mut headers);
        let said: Vec<_> = headers.get_all(CACHE_STATUS).iter().collect();
        assert_eq!(
            said,
            [
                "origin; hit",
                "tollgate; hit; ttl=-5",
                "tollgate; fwd=uri-miss; fwd-status=200; stored",
                "tollgate; fwd=uri-miss; detail=private"
            ]
        );
    }

    #[test]
    fn numbers_are_written_as_they_are() {
        for number in [0, 7, 10, 86_400, -1, i64::MAX, i64::MIN] {
            let mut text = Text::default();
            text.number(number);
            assert_eq!(text.as_bytes(), number.to_string().as_bytes());
        }
    }
}
