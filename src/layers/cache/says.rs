//! In words: how long a stored response is used, and why another is not stored.

use std::fmt::Write as _;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::policy::{Freshness, Why};

/// Two clocks at one moment: what is stored goes by the one, and people by the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clocks {
    pub(super) now: Instant,
    pub(super) wall: Timestamp,
}

impl Clocks {
    pub(super) fn now() -> Self {
        Self { now: Instant::now(), wall: Timestamp::now() }
    }

    /// The time that it will be then, or was, to the second.
    fn after(self, seconds: i64) -> String {
        let then = self.wall.checked_add(SignedDuration::from_secs(seconds));
        let then = then.map_or(Timestamp::MAX.as_second(), Timestamp::as_second);
        Timestamp::from_second(then).unwrap_or(Timestamp::MAX).to_string()
    }
}

/// Until when it is fresh, or since when it is not.
pub(super) fn fresh_until(freshness: &Freshness, clocks: Clocks) -> String {
    clocks.after(freshness.ttl(clocks.now))
}

/// What becomes of a request that is made now, and until when.
pub(super) fn of_stored(freshness: &Freshness, clocks: Clocks) -> String {
    if freshness.no_cache {
        return "validated before each use, for it says `no-cache`".to_owned();
    }
    let ttl = freshness.ttl(clocks.now);
    let mut text = String::new();
    if freshness.is_fresh(clocks.now) {
        let _infallible = write!(text, "fresh until {}, for {ttl} s", clocks.after(ttl));
        if freshness.never_stale {
            text.push_str("; then it has to be validated");
        } else {
            let both = [
                (freshness.while_revalidate, "served while one request revalidates it"),
                (freshness.if_error, "served if the origin fails"),
            ];
            for (span, how) in both.into_iter().filter(|(span, _)| !span.is_zero()) {
                let _infallible = write!(text, "; then for {} s {how}", span.as_secs());
            }
        }
        return text;
    }
    // What was purged softly may have been fresh.
    let stale = ttl.saturating_neg().max(0);
    if freshness.condemned {
        text.push_str("purged softly");
    } else {
        let _infallible = write!(text, "stale since {}, for {stale} s", clocks.after(-stale));
    }
    let left = |span: Duration| i64::try_from(span.as_secs()).unwrap_or(i64::MAX) - stale;
    let (revalidating, error) = (left(freshness.while_revalidate), left(freshness.if_error));
    if !freshness.never_stale && !freshness.condemned && revalidating > 0 {
        let until = clocks.after(revalidating);
        let how = "served while one request revalidates it";
        let _infallible = write!(text, "; {how}, until {until}, for {revalidating} s");
        return text;
    }
    text.push_str("; validated before it is used");
    if !freshness.never_stale && error > 0 {
        text.push_str(", and served if the origin fails");
        if !freshness.condemned {
            let _infallible = write!(text, ", until {}, for {error} s", clocks.after(error));
        }
    }
    text
}

/// Why responses are not stored, for as long as that is remembered.
pub(super) fn of_not_stored(why: Why, remembered: Duration, clocks: Clocks) -> String {
    let seconds = remembered.as_secs();
    let until = clocks.after(i64::try_from(seconds).unwrap_or(i64::MAX));
    let what = match why {
        "stale-at-once" => "not shared by requests at the same time: the answer is stale at once",
        _ => &format!("not stored: {}", reason(why)),
    };
    format!("{what}; remembered until {until}, for {seconds} s")
}

/// What a word of `Cache-Status` means.
fn reason(why: Why) -> &'static str {
    match why {
        "private" => "the answer says `private`",
        "no-store" => "the answer says `no-store`",
        "request-no-store" => "the request said `no-store`",
        "authorization" => {
            "the request had `Authorization` or came by an API key, and the answer does not say \
             `public`"
        }
        "cookie" => "the request had a `Cookie`, and the answer does not say `public`",
        "set-cookie" => "the answer has `Set-Cookie`, and does not say `public`",
        "vary" => "the answer says `Vary: *`",
        "no-lifetime" => {
            "the answer says nothing of how long it may be used, and the route has no \
             `default_ttl`"
        }
        "too-long" => "the answer is longer than `max_object`",
        "partial" => "the answer is a part",
        "status-not-understood" => "the answer's status is not understood, as it says it has to be",
        other => other,
    }
}

/// Why there may be nothing.
pub(super) fn of_unknown(routes: usize) -> &'static str {
    match routes {
        0 => "no route has a cache",
        _ => {
            "nothing is known: nobody asked for it, it was purged or had to make room, or its \
             requests do without the cache (a method other than GET, a body, a range or HEAD of \
             what is not stored); that an answer is not stored is remembered for two minutes"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn freshness(lifetime: u64, age: u64) -> Freshness {
        Freshness {
            received: Instant::now(),
            initial_age: Duration::from_secs(age),
            lifetime: Duration::from_secs(lifetime),
            no_cache: false,
            never_stale: false,
            while_revalidate: Duration::ZERO,
            if_error: Duration::ZERO,
            immutable: false,
            condemned: false,
        }
    }

    fn said(freshness: &Freshness) -> String {
        let wall = "2026-01-01T00:00:00.5Z".parse().unwrap();
        of_stored(freshness, Clocks { now: freshness.received, wall })
    }

    #[test]
    fn what_is_stored_says_until_when_it_is_used() {
        let ten = Duration::from_secs(10);
        let fresh = freshness(60, 18);
        assert_eq!(said(&fresh), "fresh until 2026-01-01T00:00:42Z, for 42 s");
        let later = Freshness { while_revalidate: ten, ..fresh };
        assert!(
            said(&later).ends_with("42 s; then for 10 s served while one request revalidates it")
        );
        let never = Freshness { never_stale: true, ..fresh };
        assert!(said(&never).ends_with("42 s; then it has to be validated"));
        let always = Freshness { no_cache: true, ..fresh };
        assert!(said(&always).starts_with("validated before each use"));
    }

    #[test]
    fn what_is_stale_says_since_when_and_what_it_is_still_good_for() {
        let ten = Duration::from_secs(10);
        let stale = freshness(60, 63);
        let since = "stale since 2025-12-31T23:59:57Z, for 3 s; ";
        assert_eq!(said(&stale), format!("{since}validated before it is used"));
        let revalidated = Freshness { while_revalidate: ten, ..stale };
        let until = "until 2026-01-01T00:00:07Z, for 7 s";
        assert_eq!(
            said(&revalidated),
            format!("{since}served while one request revalidates it, {until}")
        );
        let if_error = Freshness { if_error: ten, ..stale };
        let served =
            format!("validated before it is used, and served if the origin fails, {until}");
        assert_eq!(said(&if_error), format!("{since}{served}"));
        let over = Freshness { while_revalidate: Duration::from_secs(3), ..stale };
        assert_eq!(said(&over), said(&stale));
        let condemned = Freshness { condemned: true, ..freshness(60, 0) };
        assert_eq!(said(&condemned), "purged softly; validated before it is used");
        let condemned = Freshness { while_revalidate: ten, if_error: ten, ..condemned };
        assert_eq!(
            said(&condemned),
            "purged softly; validated before it is used, and served if the origin fails"
        );
    }

    #[test]
    fn what_is_not_stored_says_why() {
        let wall = "2026-01-01T00:00:00Z".parse().unwrap();
        let clocks = Clocks { now: Instant::now(), wall };
        assert_eq!(
            of_not_stored("private", Duration::from_secs(90), clocks),
            "not stored: the answer says `private`; remembered until 2026-01-01T00:01:30Z, for 90 s"
        );
        let at_once = of_not_stored("stale-at-once", Duration::ZERO, clocks);
        assert!(at_once.starts_with("not shared by requests at the same time"), "{at_once}");
        assert!(of_unknown(0).contains("no route"));
    }
}
