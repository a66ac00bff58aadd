//! `Cache-Control` (RFC 9111 §5.2) and its targeted form (RFC 9213), read once.

use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// The targeted field that is meant for caches such as this one (RFC 9213 §2.2).
const CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");

/// No time that is named is longer (RFC 9111 §1.2.2).
pub(super) const LONGEST: Duration = Duration::from_secs(1 << 31);

/// What a message says of its being stored. Those of requests and of responses in one:
/// what has no meaning where it stands is read and not looked at.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Directives {
    pub(super) max_age: Option<Duration>,
    pub(super) s_maxage: Option<Duration>,
    pub(super) no_store: bool,
    pub(super) no_cache: Scope,
    pub(super) private: Scope,
    pub(super) public: bool,
    pub(super) must_revalidate: bool,
    pub(super) proxy_revalidate: bool,
    pub(super) must_understand: bool,
    /// RFC 8246.
    pub(super) immutable: bool,
    pub(super) stale_while_revalidate: Option<Duration>,
    pub(super) stale_if_error: Option<Duration>,
    /// `None` within is any staleness.
    pub(super) max_stale: Option<Option<Duration>>,
    pub(super) min_fresh: Option<Duration>,
    pub(super) only_if_cached: bool,
}

/// What a directive is said of.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) enum Scope {
    /// It is not said.
    #[default]
    Nothing,
    /// Of these fields only.
    Fields(Vec<HeaderName>),
    /// Of the message.
    Whole,
}

/// What a response says to a shared cache.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Control {
    pub(super) directives: Directives,
    /// It is said in a targeted field: then `Expires` says nothing (RFC 9213 §2.1).
    pub(super) targeted: bool,
}

impl Control {
    /// Of a response's fields.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        match targeted(headers) {
            Some(directives) => Self { directives, targeted: true },
            None => Self { directives: Directives::of(headers), targeted: false },
        }
    }
}

impl Control {
    /// The origin says that a response is for all, whoever asked (RFC 9111 §3.5; we take
    /// `must-revalidate` for no such word).
    pub(super) fn is_for_all(&self) -> bool {
        self.directives.public || self.directives.s_maxage.is_some()
    }
}

impl Directives {
    /// Of `Cache-Control`. Where a time is said twice the shorter one holds.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut directives = Self::default();
        for line in headers.get_all(header::CACHE_CONTROL) {
            for member in members(line.as_bytes()) {
                let (name, argument) = match member.iter().position(|byte| *byte == b'=') {
                    Some(at) => (&member[..at], Some(unquoted(&member[at + 1..]))),
                    None => (member, None),
                };
                directives.take(&name.to_ascii_lowercase(), argument.as_deref());
            }
        }
        directives
    }

    fn take(&mut self, name: &[u8], argument: Option<&[u8]>) {
        // What cannot be read is stale at once (RFC 9111 §4.2.1).
        let lifetime = || argument.and_then(seconds).unwrap_or_default();
        let allowance = || argument.and_then(seconds);
        match name {
            b"max-age" => shorten(&mut self.max_age, lifetime()),
            b"s-maxage" => shorten(&mut self.s_maxage, lifetime()),
            b"no-store" => self.no_store = true,
            b"no-cache" => self.no_cache.add(argument),
            b"private" => self.private.add(argument),
            // What opens something has to be said as it is meant.
            b"public" if argument.is_none() => self.public = true,
            b"must-revalidate" => self.must_revalidate = true,
            b"proxy-revalidate" => self.proxy_revalidate = true,
            b"immutable" => self.immutable = true,
            b"must-understand" if argument.is_none() => self.must_understand = true,
            b"stale-while-revalidate" => {
                shorten(&mut self.stale_while_revalidate, allowance().unwrap_or_default());
            }
            b"stale-if-error" => {
                shorten(&mut self.stale_if_error, allowance().unwrap_or_default());
            }
            b"max-stale" if argument.is_none() => self.max_stale = Some(None),
            b"max-stale" => self.max_stale = allowance().map(Some),
            b"min-fresh" => self.min_fresh = allowance(),
            b"only-if-cached" => self.only_if_cached = true,
            _ => {}
        }
    }
}

impl Scope {
    pub(super) fn is_whole(&self) -> bool {
        *self == Self::Whole
    }

    /// The fields it is said of; none if it is said of the whole.
    pub(super) fn fields(&self) -> &[HeaderName] {
        match self {
            Self::Fields(fields) => fields,
            Self::Nothing | Self::Whole => &[],
        }
    }

    fn add(&mut self, argument: Option<&[u8]>) {
        let Some(list) = argument else {
            *self = Self::Whole;
            return;
        };
        let names: Option<Vec<HeaderName>> =
            members(list).map(|name| HeaderName::from_bytes(name).ok()).collect();
        match (names, &mut *self) {
            (_, Self::Whole) => {}
            // A list that cannot be read may have meant any field.
            (None, _) => *self = Self::Whole,
            (Some(names), Self::Fields(fields)) => fields.extend(names),
            (Some(names), Self::Nothing) => *self = Self::Fields(names),
        }
    }
}

fn shorten(time: &mut Option<Duration>, other: Duration) {
    *time = Some(time.map_or(other, |time| time.min(other)));
}

/// Delta seconds (RFC 9111 §1.2.2); what overflows is for ever.
pub(super) fn seconds(text: &[u8]) -> Option<Duration> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = std::str::from_utf8(text).ok()?.parse().unwrap_or(u64::MAX);
    Some(Duration::from_secs(number).min(LONGEST))
}

/// The members of a list, which commas within quotes do not end.
pub(in crate::layers) fn members(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(line);
    std::iter::from_fn(move || {
        let whole = rest?;
        let (mut quoted, mut escaped) = (false, false);
        let end = whole.iter().position(|byte| {
            let ends = !quoted && *byte == b',';
            if *byte == b'"' && !escaped {
                quoted = !quoted;
            }
            escaped = quoted && *byte == b'\\' && !escaped;
            ends
        });
        let (member, behind) = match end {
            Some(at) => (&whole[..at], Some(&whole[at + 1..])),
            None => (whole, None),
        };
        rest = behind;
        Some(member.trim_ascii())
    })
    .filter(|member| !member.is_empty())
}

/// An argument without its quotes.
fn unquoted(argument: &[u8]) -> Vec<u8> {
    let Some(within) = argument.strip_prefix(b"\"") else { return argument.to_vec() };
    let within = within.strip_suffix(b"\"").unwrap_or(within);
    let mut text = Vec::with_capacity(within.len());
    let mut bytes = within.iter();
    while let Some(byte) = bytes.next() {
        text.push(if *byte == b'\\' { *bytes.next().unwrap_or(byte) } else { *byte });
    }
    text
}

/// What a targeted field says; `None` if there is none, it is empty, or no dictionary
/// (RFC 9213 §2.1), for then `Cache-Control` holds.
fn targeted(headers: &HeaderMap) -> Option<Directives> {
    let lines: Vec<&[u8]> =
        headers.get_all(CDN_CACHE_CONTROL).iter().map(HeaderValue::as_bytes).collect();
    let text = lines.join(&b","[..]);
    let mut said: Vec<(&[u8], Option<&[u8]>)> = Vec::new();
    for member in members(&text) {
        let (key, value) = match member.iter().position(|byte| matches!(byte, b'=' | b';')) {
            Some(at) if member[at] == b'=' => (&member[..at], Some(item(&member[at + 1..])?)),
            Some(at) => (&member[..at], None),
            None => (member, None),
        };
        let first = key.first().is_some_and(|b| b.is_ascii_lowercase() || *b == b'*');
        let fits = |b: &u8| {
            b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-' | b'.' | b'*')
        };
        if !first || !key.iter().all(fits) {
            return None;
        }
        // The last of several holds (RFC 9651 §4.2.2).
        said.retain(|(other, _)| *other != key);
        said.push((key, value));
    }
    if said.is_empty() {
        return None;
    }
    // A time is a whole number; where it is something else the field is no good.
    let times: [&[u8]; 4] = [b"max-age", b"s-maxage", b"stale-while-revalidate", b"stale-if-error"];
    let is_whole = |value: &[u8]| {
        let digits = value.strip_prefix(b"-").unwrap_or(value);
        !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
    };
    if said.iter().any(|(key, value)| times.contains(key) && !value.is_some_and(is_whole)) {
        return None;
    }
    let mut directives = Directives::default();
    for (key, value) in said {
        match value {
            // A flag that is not true is not said.
            Some(b"?0") => {}
            Some(b"?1") | None => directives.take(key, None),
            Some(value) => directives.take(key, Some(&unquoted(value))),
        }
    }
    Some(directives)
}

/// The bare item of a dictionary's member, without its parameters; `None` if it is
/// none of a dictionary.
fn item(text: &[u8]) -> Option<&[u8]> {
    let end = match text.first()? {
        b'"' => 1 + text[1..].iter().position(|byte| *byte == b'"')? + 1,
        b'0'..=b'9' | b'-' | b'?' | b'*' | b'a'..=b'z' | b'A'..=b'Z' => {
            text.iter().position(|byte| *byte == b';').unwrap_or(text.len())
        }
        _ => return None,
    };
    let (item, behind) = text.split_at(end);
    let plain = item.first() == Some(&b'"') || !item.iter().any(|b| matches!(b, b' ' | b'"'));
    (plain && (behind.is_empty() || behind.starts_with(b";"))).then_some(item)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directives(lines: &[&str]) -> Directives {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::CACHE_CONTROL, line.parse().unwrap());
        }
        Directives::of(&headers)
    }

    const fn secs(secs: u64) -> Option<Duration> {
        Some(Duration::from_secs(secs))
    }

    #[test]
    fn s5_2_names_are_case_insensitive_and_arguments_may_be_quoted() {
        let said = directives(&["Max-Age=\"60\", PUBLIC", "s-maxage=5"]);
        assert_eq!((said.max_age, said.s_maxage, said.public), (secs(60), secs(5), true));
    }

    #[test]
    fn s4_2_1_the_shorter_of_two_times_holds_and_what_cannot_be_read_is_stale() {
        assert_eq!(directives(&["max-age=10, max-age=5"]).max_age, secs(5));
        for wrong in ["max-age=-1", "max-age=1.5", "max-age", "max-age=a", "max-age=\"\""] {
            assert_eq!(directives(&[wrong]).max_age, secs(0), "{wrong}");
        }
    }

    #[test]
    fn s1_2_2_what_overflows_is_for_ever() {
        assert_eq!(directives(&["max-age=99999999999999999999999"]).max_age, Some(LONGEST));
    }

    #[test]
    fn s5_2_2_4_no_cache_and_s5_2_2_7_private_may_name_fields() {
        let said = directives(&["private=\"X-A, x-b\", no-cache=x-c"]);
        assert_eq!(said.private.fields(), ["x-a", "x-b"]);
        assert_eq!(said.no_cache.fields(), ["x-c"]);
        assert!(directives(&["private=\"a\", private"]).private.is_whole());
        assert!(directives(&["private=\"a b\""]).private.is_whole(), "it may have meant any");
    }

    #[test]
    fn s5_2_3_what_is_not_known_says_nothing() {
        let said = directives(&["community=\"UCI, no-store\", x, immutable, max-age=3"]);
        assert_eq!((said.no_store, said.max_age, said.immutable), (false, secs(3), true));
    }

    #[test]
    fn what_opens_something_has_no_argument_and_what_forbids_may_have() {
        let said = directives(&["public=1, must-understand=x, no-store=1, must-revalidate=0"]);
        assert!(!said.public && !said.must_understand);
        assert!(said.no_store && said.must_revalidate);
    }

    #[test]
    fn a_comma_within_quotes_ends_nothing() {
        let said = directives(&["x=\"a, no-store, \\\"b\", max-age=3"]);
        assert_eq!((said.no_store, said.max_age), (false, secs(3)));
    }

    #[test]
    fn s5_2_1_2_max_stale_may_be_without_bounds() {
        assert_eq!(directives(&["max-stale"]).max_stale, Some(None));
        assert_eq!(directives(&["max-stale=7"]).max_stale, Some(secs(7)));
    }

    fn control(targeted: &str) -> Control {
        let mut headers = HeaderMap::new();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(CDN_CACHE_CONTROL, targeted.parse().unwrap());
        Control::of(&headers)
    }

    #[test]
    fn rfc9213_s2_1_a_targeted_field_stands_in_the_place_of_cache_control() {
        let said = control("max-age=600, must-revalidate;x=1");
        assert!(said.targeted && said.directives.must_revalidate && !said.directives.no_store);
        assert_eq!(said.directives.max_age, secs(600));
        assert_eq!(control("max-age=1, max-age=9").directives.max_age, secs(9));
        assert!(!control("private=?0").directives.private.is_whole());
    }

    #[test]
    fn rfc9213_s2_1_one_that_is_empty_or_no_dictionary_says_nothing() {
        for wrong in [
            "",
            "Max-Age=60",
            "max-age=",
            "max-age = 60",
            "max-age=60 x",
            "max-age=:a:b",
            "max-age=\"9\"",
            "max-age=9.0",
        ] {
            let said = control(wrong);
            assert!(!said.targeted && said.directives.no_store, "{wrong}: {said:?}");
        }
    }
}
