//! What clients are told of limits: the fields `RateLimit-Policy` and `RateLimit` of
//! draft-ietf-httpapi-ratelimit-headers-11, which are lists of strings with parameters
//! (RFC 9651 §3.1). One line for each limit.

use std::time::Duration;

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};

use super::decision::Decision;
use crate::pace::Quota;
use crate::respond::whole_seconds;

/// How often one may ask (§3 of the draft).
pub(super) const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// How much is left of that (§4 of the draft).
pub(super) const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// The policy of a limit: so many units in a window of whole seconds. That is the burst
/// within the time after which it is back; where it is back in less than a second, as many
/// as come back in one.
pub(super) fn policy(name: &str, quota: Quota) -> Option<HeaderValue> {
    let second = Duration::from_secs(1);
    let (units, window) = match quota.refill() {
        refill if refill >= second => (quota.burst.get().into(), whole_seconds(refill)),
        _ => (second.as_nanos() / quota.each().as_nanos().max(1), 1),
    };
    value(name, &format!(";q={units};w={window}"))
}

/// How a key stands with a limit: what is left, and how long it takes until all of it is
/// back. Where nothing is let through, the time until something is again: `Retry-After`
/// must not be sooner (§6 of the draft).
pub(super) fn standing(name: &str, decision: &Decision) -> Option<HeaderValue> {
    let time = if decision.admitted { decision.reset } else { decision.wait };
    value(name, &format!(";r={};t={}", decision.remaining, whole_seconds(time)))
}

/// A string with parameters.
fn value(name: &str, parameters: &str) -> Option<HeaderValue> {
    let mut value = String::with_capacity(name.len() + parameters.len() + 2);
    value.push('"');
    for c in name.chars() {
        match c {
            '"' | '\\' => value.extend(['\\', c]),
            ' '..='~' => value.push(c),
            _ => value.push('_'),
        }
    }
    value.push('"');
    value.push_str(parameters);
    HeaderValue::try_from(value).ok()
}

/// Tells of one limit, beside what is there already.
pub(super) fn tell(
    headers: &mut HeaderMap,
    name: &str,
    policy: Option<HeaderValue>,
    decision: &Decision,
) {
    if let (Some(policy), Some(standing)) = (policy, standing(name, decision)) {
        headers.append(RATELIMIT_POLICY, policy);
        headers.append(RATELIMIT, standing);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    fn quota(requests: u32, per: Duration, burst: u32) -> Quota {
        let number = |number| NonZeroU32::new(number).unwrap();
        Quota { requests: number(requests), per, burst: number(burst) }
    }

    #[test]
    fn a_policy_tells_the_sustained_rate_and_the_burst() {
        let told = |requests, per, burst| {
            let policy = policy("a", quota(requests, Duration::from_millis(per), burst));
            policy.unwrap().to_str().unwrap().to_owned()
        };
        assert_eq!(told(100, 60_000, 100), "\"a\";q=100;w=60");
        assert_eq!(told(10, 1_000, 10), "\"a\";q=10;w=1");
        assert_eq!(told(10, 1_000, 25), "\"a\";q=25;w=3");
        assert_eq!(told(1_000, 1_000, 10), "\"a\";q=1000;w=1");
        assert_eq!(told(1, 3_600_000, 1), "\"a\";q=1;w=3600");
    }

    #[test]
    fn a_standing_tells_what_is_left_and_for_how_long() {
        let told = |admitted, remaining, wait, reset| {
            let (wait, reset) = (Duration::from_millis(wait), Duration::from_millis(reset));
            let decision = Decision { admitted, remaining, wait, reset, counted: true };
            standing("a \"b\\\u{e4}", &decision).unwrap().to_str().unwrap().to_owned()
        };
        assert_eq!(told(true, 50, 0, 29_100), "\"a \\\"b\\\\_\";r=50;t=30");
        assert_eq!(told(false, 0, 1_500, 9_000), "\"a \\\"b\\\\_\";r=0;t=2");
    }
}
