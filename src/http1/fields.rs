//! Field lines, and the sections that are made of them (RFC 9112 §5, §7.1.2).

use bytes::BytesMut;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Version};

use super::Invalid;

/// The most fields of a trailer section.
const MAX_TRAILERS: usize = 64;

/// The longest trailer section, in bytes.
const MAX_SECTION: usize = 16 * 1024;

/// Writes a field line.
pub(crate) fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Where a head ends: after the first empty line. Lines may end in a bare line
/// feed, as a recipient may let them (RFC 9112 §2.2).
pub(crate) fn end_of_head(buffer: &[u8], searched: &mut usize) -> Option<usize> {
    for at in memchr::memchr_iter(b'\n', &buffer[*searched..]) {
        let after = *searched + at + 1;
        match &buffer[after..] {
            [b'\n', ..] => return Some(after + 1),
            [b'\r', b'\n', ..] => return Some(after + 2),
            _ => {}
        }
    }
    // An empty line may begin with the last two bytes.
    *searched = buffer.len().saturating_sub(2);
    None
}

/// Whether a list field has this token in any of its lines.
pub(crate) fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    let lines = headers.get_all(name).iter();
    let mut tokens = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    tokens.any(|part| part.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// Whether the connection of a message may be used again (RFC 9112 §9.3).
pub(crate) fn stays_open(version: Version, headers: &HeaderMap) -> bool {
    let mut stays = version == Version::HTTP_11;
    for line in headers.get_all(header::CONNECTION) {
        for token in line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            if token.eq_ignore_ascii_case(b"close") {
                return false;
            }
            stays |= token.eq_ignore_ascii_case(b"keep-alive");
        }
    }
    stays
}

/// The trailer fields that end a chunked body, taken out of `buffer`; `None`
/// while they are not whole. Fields that belong in a head are left out (RFC 9110
/// §6.5.1).
pub(super) fn take_trailers(
    buffer: &mut BytesMut,
    searched: &mut usize,
) -> Result<Option<HeaderMap>, Invalid> {
    let end = match &buffer[..] {
        [b'\r', b'\n', ..] => 2,
        _ => match end_of_head(buffer, searched) {
            Some(end) => end,
            None if buffer.len() > MAX_SECTION => return Err(Invalid::Trailers),
            None => return Ok(None),
        },
    };
    *searched = 0;
    let section = buffer.split_to(end).freeze();
    if end > MAX_SECTION || !lines_end_in_crlf(&section) {
        return Err(Invalid::Trailers);
    }
    let mut fields = [httparse::EMPTY_HEADER; MAX_TRAILERS];
    let parsed = httparse::parse_headers(&section, &mut fields).map_err(|_| Invalid::Trailers)?;
    let httparse::Status::Complete((_, parsed)) = parsed else { return Err(Invalid::Trailers) };
    let mut trailers = HeaderMap::with_capacity(parsed.len());
    for field in parsed {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Invalid::Trailers)?;
        let value = HeaderValue::from_maybe_shared(section.slice_ref(field.value))
            .map_err(|_| Invalid::Trailers)?;
        if may_trail(&name) {
            trailers.append(name, value);
        }
    }
    Ok(Some(trailers))
}

fn lines_end_in_crlf(section: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', section).all(|at| at > 0 && section[at - 1] == b'\r')
}

/// Whether a field may stand in a trailer section: it neither frames, routes nor
/// authenticates a message, nor says how its content is to be read.
pub(crate) fn may_trail(name: &HeaderName) -> bool {
    !matches!(
        *name,
        header::AUTHORIZATION
            | header::CACHE_CONTROL
            | header::CONNECTION
            | header::CONTENT_ENCODING
            | header::CONTENT_LENGTH
            | header::CONTENT_RANGE
            | header::CONTENT_TYPE
            | header::COOKIE
            | header::EXPECT
            | header::FORWARDED
            | header::HOST
            | header::MAX_FORWARDS
            | header::PROXY_AUTHENTICATE
            | header::PROXY_AUTHORIZATION
            | header::RANGE
            | header::SET_COOKIE
            | header::TE
            | header::TRAILER
            | header::TRANSFER_ENCODING
            | header::UPGRADE
            | header::VIA
            | header::WWW_AUTHENTICATE
    ) && !name.as_str().starts_with("x-forwarded-")
        && name != "x-real-ip"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailers_are_taken_without_what_belongs_in_a_head() {
        let mut buffer =
            BytesMut::from("X-Sum: 1\r\nContent-Length: 5\r\nX-Forwarded-For: a\r\n\r\nnext");
        let trailers = take_trailers(&mut buffer, &mut 0).unwrap().unwrap();
        assert_eq!((trailers.len(), &trailers["x-sum"]), (1, &HeaderValue::from_static("1")));
        assert_eq!(buffer, "next");
        let none = take_trailers(&mut BytesMut::from("\r\n"), &mut 0).unwrap().unwrap();
        assert!(none.is_empty());
        assert!(take_trailers(&mut BytesMut::from("X-A: 1\r\n"), &mut 0).unwrap().is_none());
        for section in ["X A: 1\r\n\r\n", "X-A: 1\n\r\n", "X-A: 1\r\n\n", "\n\n", "X-A : 1\r\n\r\n"]
        {
            assert!(take_trailers(&mut BytesMut::from(section), &mut 0).is_err(), "{section:?}");
        }
    }

    #[test]
    fn a_connection_stays_open_as_its_version_and_its_fields_say() {
        let open = |version, fields: &[&'static str]| {
            let values = fields.iter().map(|value| HeaderValue::from_static(value));
            let headers = values.map(|value| (header::CONNECTION, value)).collect();
            stays_open(version, &headers)
        };
        assert!(open(Version::HTTP_11, &[]));
        assert!(!open(Version::HTTP_11, &["keep-alive", "x, Close"]));
        assert!(!open(Version::HTTP_10, &["x"]));
        assert!(open(Version::HTTP_10, &["Keep-Alive"]));
    }
}
