//! `Cache-Status` (RFC 9211): what the cache did, on every response that passes it.

use std::fmt::Write as _;

use http::Response;
use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::policy::Why;
use crate::body::Body;
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

    /// Says so of the answer to a request that was not looked for.
    pub(super) fn pass_by(self, response: &mut Response<Body>) {
        if !response.status().is_informational() {
            let answered = Some(response.status().as_u16());
            Self { answered, ..self }.write(response.headers_mut());
        }
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
        let mut text = String::from("tollgate");
        match self.forwarded {
            None => text.push_str("; hit"),
            Some(why) => {
                let _infallible = write!(text, "; fwd={why}");
            }
        }
        if let Some(status) = self.answered {
            let _infallible = write!(text, "; fwd-status={status}");
        }
        if let Some(ttl) = self.ttl {
            let _infallible = write!(text, "; ttl={ttl}");
        }
        for (is, said) in [(self.stored, "; stored"), (self.collapsed, "; collapsed")] {
            if is {
                text.push_str(said);
            }
        }
        if let Some(detail) = self.detail {
            let _infallible = write!(text, "; detail={detail}");
        }
        if let Ok(value) = HeaderValue::try_from(text) {
            headers.append(CACHE_STATUS, value);
        }
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
}
