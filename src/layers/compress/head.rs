//! What compression changes in the head of a response.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::ContentCoding;
use crate::layers::list_members;

/// Fields that say what the content, or the representation with its coding, hashes to
/// (RFC 9530 §2 and §3, and those that were before them): both are others now.
pub(super) const DIGESTS: [HeaderName; 4] = [
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-md5"),
];

/// RFC 9110 §12.5.5: says that the response was chosen by what is accepted.
pub(super) fn varies(headers: &mut HeaderMap) {
    let lines = headers.get_all(header::VARY).iter();
    let said = lines
        .flat_map(|line| list_members(line.as_bytes()))
        .any(|name| name == b"*" || name.eq_ignore_ascii_case(b"accept-encoding"));
    if said {
        return;
    }
    headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
}

/// Has the head be that of the content in this coding.
pub(super) fn encoded(headers: &mut HeaderMap, coding: ContentCoding) {
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding.as_str()));
    another_form(headers);
    varies(headers);
}

/// Takes out what holds of the content as it is only. A strong tag becomes weak: the
/// bytes are others, the meaning is the same (RFC 9110 §8.8.1).
pub(super) fn another_form(headers: &mut HeaderMap) {
    headers.remove(header::CONTENT_LENGTH);
    headers.remove(header::ACCEPT_RANGES);
    for name in DIGESTS {
        headers.remove(name);
    }
    let Some(tag) = headers.get(header::ETAG).map(HeaderValue::as_bytes) else { return };
    if tag.starts_with(b"W/") {
        return;
    }
    let weak = HeaderValue::from_bytes(&[b"W/", tag].concat());
    match weak {
        Ok(weak) if tag.starts_with(b"\"") => headers.insert(header::ETAG, weak),
        // It is no tag (RFC 9110 §8.8.3): nobody can tell what it is compared with.
        _ => headers.remove(header::ETAG),
    };
}

/// RFC 9110 §15.4.5: a 304 says what the 200 would have said. Its tag is the one that the
/// client asked by; `known` are the lines of its `If-None-Match`. Without a tag nobody can
/// tell which form it is about, and nothing is said that holds of one only.
pub(super) fn not_modified(headers: &mut HeaderMap, known: &[HeaderValue]) {
    let Some(tag) = headers.get(header::ETAG).map(HeaderValue::as_bytes) else {
        another_form(headers);
        return;
    };
    let opaque = tag.strip_prefix(b"W/").unwrap_or(tag);
    let mut tags = known.iter().flat_map(|line| list_members(line.as_bytes()));
    if tags.any(|known| known.strip_prefix(b"W/") == Some(opaque)) {
        another_form(headers);
        varies(headers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn shown(headers: &HeaderMap) -> Vec<String> {
        let line = |(name, value): (&HeaderName, &HeaderValue)| {
            format!("{name}: {}", value.to_str().unwrap())
        };
        let mut lines: Vec<_> = headers.iter().map(line).collect();
        lines.sort();
        lines
    }

    #[test]
    fn what_holds_of_the_content_as_it_is_goes() {
        let mut compressed = headers(&[
            ("content-length", "5"),
            ("accept-ranges", "bytes"),
            ("content-md5", "x"),
            ("digest", "sha-256=x"),
            ("content-digest", "sha-256=:x:"),
            ("repr-digest", "sha-256=:x:"),
            ("etag", "\"a\""),
            ("last-modified", "x"),
        ]);
        encoded(&mut compressed, ContentCoding::Gzip);
        let expected = [
            "content-encoding: gzip",
            "etag: W/\"a\"",
            "last-modified: x",
            "vary: Accept-Encoding",
        ];
        assert_eq!(shown(&compressed), expected);
    }

    #[test]
    fn a_tag_is_weak_at_most_once_and_what_is_none_goes() {
        for (tag, becomes) in [("W/\"a\"", Some("W/\"a\"")), ("a", None), ("w/\"a\"", None)] {
            let mut headers = headers(&[("etag", tag)]);
            another_form(&mut headers);
            assert_eq!(headers.get("etag").map(|tag| tag.to_str().unwrap()), becomes);
        }
    }

    #[test]
    fn vary_names_accept_encoding_once() {
        for (vary, becomes) in [
            ("Cookie", vec!["Cookie", "Accept-Encoding"]),
            ("Cookie, accept-encoding", vec!["Cookie, accept-encoding"]),
            ("*", vec!["*"]),
        ] {
            let mut headers = headers(&[("vary", vary)]);
            varies(&mut headers);
            assert_eq!(headers.get_all("vary").iter().collect::<Vec<_>>(), becomes);
        }
    }

    #[test]
    fn rfc9110_s15_4_5_a_304_has_the_tag_that_it_was_asked_by() {
        let after = |tag: &str, known: &str| {
            let mut headers = headers(&[("etag", tag), ("accept-ranges", "bytes")]);
            not_modified(&mut headers, &[known.parse().unwrap()]);
            shown(&headers)
        };
        let weak = ["etag: W/\"a,b\"", "vary: Accept-Encoding"];
        assert_eq!(after("\"a,b\"", "\"x\", W/\"a,b\""), weak);
        assert_eq!(after("W/\"a,b\"", "W/\"a,b\""), weak);
        let mut untagged = headers(&[("accept-ranges", "bytes"), ("date", "x")]);
        not_modified(&mut untagged, &[]);
        assert_eq!(shown(&untagged), ["date: x"]);
        let strong = ["accept-ranges: bytes", "etag: \"a\""];
        assert_eq!(after("\"a\"", "\"a\", W/\"b\""), strong);
    }
}
