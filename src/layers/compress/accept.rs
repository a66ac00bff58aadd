//! `Accept-Encoding` (RFC 9110 §12.5.3): read, and written such that what means the
//! same to a route is the same.

use http::header::{self, HeaderMap, HeaderValue};

use super::ContentCoding;

const MOST: usize = ContentCoding::ALL.len();

/// What a client takes of what a route offers.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Accepted {
    /// The codings, the preferred one first, and how well each is liked: of two, the one
    /// with the smaller number is liked better.
    order: [Option<(ContentCoding, u8)>; MOST],
    /// It does not take the content as it is.
    pub(super) identity_refused: bool,
}

/// How much a client likes what it takes, in thousandths.
#[derive(Clone, Copy, Debug, Default)]
struct Weights {
    by_coding: [Option<u16>; MOST],
    identity: Option<u16>,
    rest: Option<u16>,
}

impl Accepted {
    /// What `headers` take of `offered`, whose order decides among equals.
    pub(super) fn of(headers: &HeaderMap, offered: &[ContentCoding]) -> Self {
        let mut weights = Weights::default();
        for line in headers.get_all(header::ACCEPT_ENCODING) {
            line.as_bytes().split(|byte| *byte == b',').for_each(|member| weights.take(member));
        }
        weights.choose(offered)
    }

    /// The codings, the preferred one first.
    pub(super) fn codings(&self) -> impl Iterator<Item = ContentCoding> + use<> {
        self.order.into_iter().flatten().map(|(coding, _)| coding)
    }

    /// Whether it takes any of them.
    pub(super) fn is_empty(&self) -> bool {
        self.order[0].is_none()
    }

    /// Has a request say this and nothing else.
    pub(super) fn write(&self, headers: &mut HeaderMap) {
        let mut text = Text::default();
        for (coding, rank) in self.order.iter().flatten() {
            text.member(coding.as_str().as_bytes());
            // There are not as many as tenths.
            match rank {
                0 => {}
                1 => text.push(b";q=0.9"),
                _ => text.push(b";q=0.8"),
            }
        }
        if self.identity_refused {
            text.member(b"identity;q=0");
        }
        let text = text.as_bytes();
        let mut lines = headers.get_all(header::ACCEPT_ENCODING).iter();
        let alike = match (lines.next(), lines.next()) {
            (Some(line), None) => !text.is_empty() && line.as_bytes() == text,
            _ => false,
        };
        if alike {
            return;
        }
        // RFC 9110 §12.5.3: where the field is not there, any coding will do.
        let value = match HeaderValue::from_bytes(text) {
            Ok(value) if !value.is_empty() => value,
            _ => HeaderValue::from_static("identity"),
        };
        headers.insert(header::ACCEPT_ENCODING, value);
    }
}

/// A field's value in the making: most requests say already what is to be said, and that
/// takes no memory.
struct Text {
    bytes: [u8; Self::LONGEST],
    length: usize,
}

impl Default for Text {
    fn default() -> Self {
        Self { bytes: [0; Self::LONGEST], length: 0 }
    }
}

impl Text {
    /// More than three codings with their weights, and `identity`.
    const LONGEST: usize = 64;

    fn member(&mut self, text: &[u8]) {
        if self.length > 0 {
            self.push(b", ");
        }
        self.push(text);
    }

    fn push(&mut self, text: &[u8]) {
        let end = self.length + text.len();
        if let Some(place) = self.bytes.get_mut(self.length..end) {
            place.copy_from_slice(text);
            self.length = end;
        }
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Weights {
    fn take(&mut self, member: &[u8]) {
        let mut parts = member.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let name = parts.next().unwrap_or_default();
        let weight = parts.find_map(weight).unwrap_or(1000);
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        let place = if is("*") {
            &mut self.rest
        } else if is("identity") {
            &mut self.identity
        } else {
            let known = ContentCoding::ALL.iter().position(|coding| is(coding.as_str()));
            // RFC 9110 §8.4.1.3.
            let known = known.or_else(|| is("x-gzip").then_some(ContentCoding::Gzip as usize));
            let Some(index) = known else { return };
            &mut self.by_coding[index]
        };
        // Of what is said twice the less holds.
        *place = Some(place.map_or(weight, |other| other.min(weight)));
    }

    fn choose(&self, offered: &[ContentCoding]) -> Accepted {
        let identity_refused = self.identity.or(self.rest) == Some(0);
        let least = self.identity.unwrap_or(0).max(1);
        let mut taken: [Option<(ContentCoding, u16)>; MOST] = [None; MOST];
        let mut count = 0;
        for &coding in offered {
            let weight = self.by_coding[coding as usize].or(self.rest).unwrap_or(0);
            // What is liked less than the content as it is, is never chosen.
            let known = taken.iter().flatten().any(|(other, _)| *other == coding);
            if weight >= least && !known && count < MOST {
                taken[count] = Some((coding, weight));
                count += 1;
            }
        }
        // A stable sort: the route's order stays among equals.
        taken[..count].sort_by_key(|taken| taken.map(|(_, weight)| std::cmp::Reverse(weight)));
        let (mut order, mut rank, mut before) = ([None; MOST], 0, None);
        for (place, (coding, weight)) in order.iter_mut().zip(taken.into_iter().flatten()) {
            if before.is_some_and(|before| before != weight) {
                rank += 1;
            }
            before = Some(weight);
            *place = Some((coding, rank));
        }
        Accepted { order, identity_refused }
    }
}

/// RFC 9110 §12.4.2: what a parameter says if it is a weight. What is none of the
/// grammar's is not taken.
fn weight(parameter: &[u8]) -> Option<u16> {
    let (name, value) = parameter.split_at_checked(1)?;
    if !name.eq_ignore_ascii_case(b"q") {
        return None;
    }
    let value = value.trim_ascii_start().strip_prefix(b"=")?.trim_ascii();
    let (whole, fraction) = match value.split_first() {
        Some((whole, [])) => (*whole, &[][..]),
        Some((whole, [b'.', fraction @ ..])) if fraction.len() <= 3 => (*whole, fraction),
        _ => return Some(0),
    };
    if !fraction.iter().all(u8::is_ascii_digit) || !matches!(whole, b'0' | b'1') {
        return Some(0);
    }
    let digits = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(3);
    let thousandths =
        digits.fold(u16::from(whole - b'0'), |n, digit| n * 10 + u16::from(digit - b'0'));
    Some(if thousandths <= 1000 { thousandths } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ContentCoding::{Brotli, Gzip, Zstd};

    fn request(lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::ACCEPT_ENCODING, line.parse().unwrap());
        }
        headers
    }

    fn canonical(lines: &[&str], offered: &[ContentCoding]) -> String {
        let mut headers = request(lines);
        Accepted::of(&headers, offered).write(&mut headers);
        let written = headers.get_all(header::ACCEPT_ENCODING).iter().collect::<Vec<_>>();
        assert_eq!(written.len(), 1);
        written[0].to_str().unwrap().to_owned()
    }

    #[test]
    fn rfc9110_s12_5_3_what_is_accepted_is_understood() {
        for (said, meant) in [
            ("", "identity"),
            ("gzip, deflate, br, zstd", "zstd, br, gzip"),
            ("gzip, deflate, br", "br, gzip"),
            ("GZIP", "gzip"),
            ("x-gzip", "gzip"),
            ("compress, gzip", "gzip"),
            ("compress;q=0.5, gzip;q=1.0", "gzip"),
            ("gzip;q=1.0, identity; q=0.5, *;q=0", "gzip"),
            ("gzip;q=0.8, br;q=1.0", "br, gzip;q=0.9"),
            ("gzip, br;q=0.2, zstd;q=0.1", "gzip, br;q=0.9, zstd;q=0.8"),
            ("gzip;q=0.5, br;q=0.5", "br, gzip"),
            ("br;q=0, gzip", "gzip"),
            ("br;q=0.000, gzip;q=0.001", "gzip"),
            ("*", "zstd, br, gzip"),
            ("*;q=0.5, gzip", "gzip, zstd;q=0.9, br;q=0.9"),
            ("*, br;q=0", "zstd, gzip"),
            ("*;q=0", "identity;q=0"),
            ("gzip, *;q=0", "gzip, identity;q=0"),
            ("identity", "identity"),
            ("identity;q=0", "identity;q=0"),
            ("identity;q=0, gzip", "gzip, identity;q=0"),
            ("identity, *;q=0", "identity"),
            ("identity, gzip;q=0.5", "identity"),
            ("identity;q=0.5, gzip;q=0.5, br;q=0.4", "gzip"),
            ("deflate", "identity"),
            ("gzip;q=abc", "identity"),
            ("gzip;q=1.5", "identity"),
            ("gzip;q=0.12345", "identity"),
            ("gzip ; Q = 0.5 , br", "br, gzip;q=0.9"),
            ("gzip;level=3;q=0", "identity"),
            ("gzip, gzip;q=0", "identity"),
            (",, gzip ,", "gzip"),
        ] {
            assert_eq!(canonical(&[said], &ContentCoding::ALL), meant, "{said}");
        }
    }

    #[test]
    fn several_lines_are_one_list_and_no_line_asks_for_no_coding() {
        assert_eq!(canonical(&["gzip;q=0.5", "br"], &ContentCoding::ALL), "br, gzip;q=0.9");
        assert_eq!(canonical(&[], &ContentCoding::ALL), "identity");
    }

    #[test]
    fn only_what_is_offered_is_left_in_the_order_of_the_offer() {
        let all = ["gzip, deflate, br, zstd"];
        assert_eq!(canonical(&all, &[Gzip, Brotli]), "gzip, br");
        assert_eq!(canonical(&all, &[Brotli, Zstd, Brotli]), "br, zstd");
        assert_eq!(canonical(&all, &[]), "identity");
    }

    #[test]
    fn what_was_written_is_read_alike() {
        for said in ["gzip, br;q=0.2, zstd;q=0.1", "*;q=0.5, gzip", "*;q=0", "br, *;q=0", "*"] {
            let once = canonical(&[said], &[Zstd, Gzip, Brotli]);
            assert_eq!(canonical(&[&once], &[Zstd, Gzip, Brotli]), once);
            let of = |text: &str| Accepted::of(&request(&[text]), &[Zstd, Gzip, Brotli]);
            assert_eq!(of(said), of(&once), "{said}");
        }
    }
}
