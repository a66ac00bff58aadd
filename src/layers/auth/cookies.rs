//! Cookies of a request (RFC 6265 §4.2).

use http::{HeaderMap, HeaderValue, header};

/// A cookie that is there more than once: whoever looks next may see another one.
#[cfg(feature = "jwt")]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Twice;

/// The value of a cookie.
#[cfg(feature = "jwt")]
pub(super) fn get<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Twice> {
    let mut found = None;
    for (_, value) in pairs(headers).filter(|(its, _)| *its == name.as_bytes()) {
        if found.is_some() {
            return Err(Twice);
        }
        found = Some(value);
    }
    Ok(found.and_then(|value| std::str::from_utf8(value).ok()))
}

/// What `Cookie` says without some cookies; `None` if it said of nothing else.
pub(super) fn without(headers: &HeaderMap, is_one: impl Fn(&[u8]) -> bool) -> Option<HeaderValue> {
    let mut rest = Vec::new();
    for (name, value) in pairs(headers).filter(|(name, _)| !is_one(name)) {
        if !rest.is_empty() {
            rest.extend_from_slice(b"; ");
        }
        rest.extend_from_slice(name);
        rest.push(b'=');
        rest.extend_from_slice(value);
    }
    // What stood in fields may stand in one.
    if rest.is_empty() { None } else { HeaderValue::from_bytes(&rest).ok() }
}

/// Names and values; over HTTP/2 in several fields (RFC 9113 §8.2.3).
pub(super) fn pairs(headers: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    let lines = headers.get_all(header::COOKIE).iter();
    let pairs = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    pairs.filter_map(|pair| {
        let pair = pair.trim_ascii();
        let at = pair.iter().position(|byte| *byte == b'=')?;
        Some((&pair[..at], &pair[at + 1..]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cookies(lines: &[&'static str]) -> HeaderMap {
        let lines = lines.iter().map(|line| (header::COOKIE, HeaderValue::from_static(line)));
        lines.collect()
    }

    #[cfg(feature = "jwt")]
    #[test]
    fn a_cookie_is_found_by_its_whole_name_and_once_only() {
        let headers = cookies(&["a=1; b=2=3", "c=;d"]);
        assert_eq!(get(&headers, "a"), Ok(Some("1")));
        assert_eq!(get(&headers, "b"), Ok(Some("2=3")));
        assert_eq!(get(&headers, "c"), Ok(Some("")));
        for missing in ["d", "A", "", "a=1"] {
            assert_eq!(get(&headers, missing), Ok(None), "{missing}");
        }
        assert_eq!(get(&cookies(&["a=1; a=1"]), "a"), Err(Twice));
        assert_eq!(get(&cookies(&["a=1", "b=2;a=3"]), "a"), Err(Twice));
    }

    #[test]
    fn the_others_stay() {
        let headers = cookies(&["a=1; b=2", "ab=3;c=4; d"]);
        assert_eq!(without(&headers, |name| name == b"b").unwrap(), "a=1; ab=3; c=4");
        assert_eq!(without(&cookies(&["a=1"]), |name| name == b"a"), None);
        assert_eq!(without(&HeaderMap::new(), |_| false), None);
    }
}
