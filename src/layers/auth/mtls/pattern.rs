//! Patterns of names in certificates.
//!
//! A name is taken apart before it is compared, so that nothing in it passes for another
//! part of it: `CN=*,OU=ops` does not match the common name `x,OU=ops`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use crate::context::SubjectName;

/// What is longer matches nothing. Neither does a pattern have to be longer.
const LONGEST: usize = 2 * 1024;

/// The names of subjects or issuers: RFC 4514, the most specific part first, such as
/// `CN=*,OU=ops,O=Example`. In a value `*` stands for any characters; as a part of its
/// own, `**` stands for any number of parts. The names of attributes are in any case,
/// their values are not.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NamePattern {
    text: String,
    /// `None` for `**`.
    parts: Vec<Option<Vec<Attribute>>>,
}

/// One attribute of a name, or a pattern of one.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Attribute {
    name: String,
    value: Vec<Piece>,
}

/// Alternative names, such as `dns:*.clients.test`, `uri:spiffe://test/ns/*/sa/web`,
/// `email:*@clients.test` and `ip:10.0.0.0/8`. `*` stands for any characters within a
/// label of a host, a segment of a URI, or what is on one side of the `@`; `**` stands
/// for any characters at all.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SubjectNamePattern {
    text: String,
    of: Kind,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Kind {
    Dns(Vec<Piece>),
    Email(Vec<Piece>),
    Uri(Vec<Piece>),
    Ip(IpNet),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Piece {
    Byte(u8),
    /// `*`
    Within,
    /// `**`
    Any,
}

/// A pattern that is none.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct PatternError(String);

impl NamePattern {
    /// Whether a name as of RFC 4514 is one of these.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let Some(parts) = parts(name, literal) else { return false };
        // How much of the pattern may match what was looked at so far.
        let mut reached = vec![false; self.parts.len() + 1];
        reached[0] = true;
        skip_any(&self.parts, &mut reached);
        for part in &parts {
            let mut next = vec![false; reached.len()];
            for (at, pattern) in self.parts.iter().enumerate().filter(|(at, _)| reached[*at]) {
                match (pattern, part) {
                    (None, _) => next[at] = true,
                    (Some(pattern), Some(part)) => next[at + 1] |= is_part(pattern, part),
                    (Some(_), None) => {}
                }
            }
            skip_any(&self.parts, &mut next);
            reached = next;
        }
        reached.last().copied().unwrap_or_default()
    }
}

/// `**` may stand for nothing, too.
fn skip_any(parts: &[Option<Vec<Attribute>>], reached: &mut [bool]) {
    for (at, part) in parts.iter().enumerate() {
        if part.is_none() && reached[at] {
            reached[at + 1] = true;
        }
    }
}

fn is_part(pattern: &[Attribute], part: &[Attribute]) -> bool {
    pattern.len() == part.len()
        && pattern.iter().zip(part).all(|(pattern, attribute)| {
            let bytes: Vec<u8> = attribute.value.iter().filter_map(Piece::byte).collect();
            pattern.name == attribute.name && fits(&pattern.value, &bytes, None)
        })
}

impl FromStr for NamePattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let wrong = || {
            let message = "expected attributes with their values, the most specific first, such \
                           as `CN=web,O=Example`";
            PatternError(message.to_owned())
        };
        let parts = parts(text, wild).filter(|parts| !parts.is_empty()).ok_or_else(wrong)?;
        Ok(Self { text: text.to_owned(), parts })
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl SubjectNamePattern {
    /// Whether a name is one of these.
    #[must_use]
    pub fn matches(&self, name: &SubjectName) -> bool {
        match (&self.of, name) {
            (Kind::Dns(pattern), SubjectName::Dns(name)) => {
                fits(pattern, name.as_bytes(), Some(b'.'))
            }
            (Kind::Email(pattern), SubjectName::Email(name)) => {
                fits(pattern, name.as_bytes(), Some(b'@'))
            }
            (Kind::Uri(pattern), SubjectName::Uri(name)) => {
                fits(pattern, name.as_bytes(), Some(b'/'))
            }
            (Kind::Ip(network), SubjectName::Ip(address)) => network.contains(address),
            _ => false,
        }
    }
}

impl FromStr for SubjectNamePattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let wrong = |message: &str| Err(PatternError(message.to_owned()));
        let Some((kind, name)) = text.split_once(':') else {
            return wrong("expected its kind first: `dns:`, `uri:`, `email:` or `ip:`");
        };
        if name.is_empty() || name.len() > LONGEST {
            return wrong("there is no name, or one that is too long");
        }
        let of = match kind {
            "dns" => Kind::Dns(wild(name.to_ascii_lowercase().as_bytes())),
            "email" => Kind::Email(wild(name.as_bytes())),
            "uri" => Kind::Uri(wild(name.as_bytes())),
            "ip" => match name.parse::<IpAddr>().map(IpNet::from).or_else(|_| name.parse()) {
                Ok(network) => Kind::Ip(network),
                Err(_) => return wrong("expected an IP address or a network"),
            },
            _ => return wrong("expected one of the kinds `dns:`, `uri:`, `email:` and `ip:`"),
        };
        Ok(Self { text: text.to_owned(), of })
    }
}

impl fmt::Display for SubjectNamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Piece {
    fn byte(&self) -> Option<u8> {
        match self {
            Self::Byte(byte) => Some(*byte),
            Self::Within | Self::Any => None,
        }
    }
}

/// Takes a name apart at the commas and plus signs that are not part of a value. `None` if
/// that cannot be, or the name is too long.
fn parts(name: &str, read: fn(&[u8]) -> Vec<Piece>) -> Option<Vec<Option<Vec<Attribute>>>> {
    if name.len() > LONGEST {
        return None;
    }
    if name.is_empty() {
        return Some(Vec::new());
    }
    let of_one = |part: &str| {
        if part.trim_matches(' ') == "**" {
            return Some(None);
        }
        let attributes = split(part, b'+').map(|one| attribute(one, read));
        attributes.collect::<Option<Vec<_>>>().map(Some)
    };
    split(name, b',').map(of_one).collect()
}

fn attribute(text: &str, read: fn(&[u8]) -> Vec<Piece>) -> Option<Attribute> {
    let (name, value) = text.split_once('=')?;
    let name = name.trim_matches(' ');
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.') {
        return None;
    }
    // What belongs to the value is escaped at its ends, if it is this space: others are part
    // of it as they are.
    let value = value.trim_start_matches(' ');
    let trimmed = value.trim_end_matches(' ');
    let backslashes = trimmed.len() - trimmed.trim_end_matches('\\').len();
    let kept = if backslashes % 2 == 1 { value.get(..=trimmed.len()) } else { None };
    let mut pieces = Vec::new();
    let mut rest = kept.unwrap_or(trimmed).as_bytes();
    while let Some(at) = rest.iter().position(|byte| *byte == b'\\') {
        pieces.extend(read(&rest[..at]));
        let (byte, behind) = escaped(&rest[at + 1..])?;
        pieces.push(Piece::Byte(byte));
        rest = behind;
    }
    pieces.extend(read(rest));
    Some(Attribute { name: name.to_ascii_lowercase(), value: pieces })
}

/// RFC 4514 §2.4: behind a backslash a byte in hexadecimal, or a character as it is.
fn escaped(rest: &[u8]) -> Option<(u8, &[u8])> {
    let digit = |at: usize| char::from(*rest.get(at)?).to_digit(16);
    if let (Some(high), Some(low)) = (digit(0), digit(1)) {
        return Some((u8::try_from(high * 16 + low).ok()?, &rest[2..]));
    }
    rest.split_first().map(|(byte, behind)| (*byte, behind))
}

/// The pieces of text between separators that are not escaped.
fn split(text: &str, separator: u8) -> impl Iterator<Item = &str> {
    let mut is_escaped = false;
    text.split(move |character: char| {
        let before = std::mem::replace(&mut is_escaped, false);
        is_escaped = character == '\\' && !before;
        character == char::from(separator) && !before
    })
}

fn literal(bytes: &[u8]) -> Vec<Piece> {
    bytes.iter().copied().map(Piece::Byte).collect()
}

fn wild(bytes: &[u8]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for byte in bytes {
        match (byte, pieces.last_mut()) {
            (b'*', Some(last @ (Piece::Within | Piece::Any))) => *last = Piece::Any,
            (b'*', _) => pieces.push(Piece::Within),
            (byte, _) => pieces.push(Piece::Byte(*byte)),
        }
    }
    pieces
}

/// Whether all of the text fits the pattern. It takes as many steps as both are long,
/// multiplied.
fn fits(pattern: &[Piece], text: &[u8], separator: Option<u8>) -> bool {
    if text.len() > LONGEST {
        return false;
    }
    let skip = |reached: &mut [bool]| {
        for (at, piece) in pattern.iter().enumerate() {
            if reached[at] && piece.byte().is_none() {
                reached[at + 1] = true;
            }
        }
    };
    // How much of the pattern may fit what was looked at so far.
    let mut reached = vec![false; pattern.len() + 1];
    let mut next = reached.clone();
    reached[0] = true;
    skip(&mut reached);
    for byte in text {
        next.fill(false);
        for (at, piece) in pattern.iter().enumerate().filter(|(at, _)| reached[*at]) {
            match piece {
                Piece::Byte(expected) => next[at + 1] |= expected == byte,
                Piece::Within => next[at] |= Some(*byte) != separator,
                Piece::Any => next[at] = true,
            }
        }
        skip(&mut next);
        std::mem::swap(&mut reached, &mut next);
    }
    reached[pattern.len()]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(pattern: &str) -> NamePattern {
        pattern.parse().unwrap_or_else(|error| panic!("{pattern}: {error}"))
    }

    fn san(pattern: &str) -> SubjectNamePattern {
        pattern.parse().unwrap_or_else(|error| panic!("{pattern}: {error}"))
    }

    #[test]
    fn a_name_matches_part_by_part() {
        for (pattern, subject, matches) in [
            ("CN=web,O=Example", "CN=web,O=Example", true),
            ("cn=web , o=Example", "CN=web,O=Example", true),
            ("CN=web,O=Example", "CN=Web,O=Example", false),
            ("CN=web,O=Example", "CN=web,OU=ops,O=Example", false),
            ("CN=web,O=Example", "O=Example,CN=web", false),
            ("CN=*,O=Example", "CN=web,O=Example", true),
            ("CN=*,O=Example", "CN=,O=Example", true),
            ("CN=web-*-?,O=Example", "CN=web-1-?,O=Example", true),
            ("CN=web-*,O=Example", "CN=db-1,O=Example", false),
            ("CN=*", "CN=web,O=Example", false),
            ("CN=a+UID=*", "CN=a+UID=7", true),
            ("CN=a+UID=*", "CN=a,UID=7", false),
            ("CN=a", "CN=a+UID=7", false),
            ("**,O=Example", "CN=web,OU=a,O=Example", true),
            ("**,O=Example", "O=Example", true),
            ("**,O=Example", "O=Example,C=SE", false),
            ("CN=web,**,C=SE", "CN=web,C=SE", true),
            ("CN=web,**,C=SE", "CN=web,O=a,L=b,C=SE", true),
            ("CN=web,**,C=SE", "CN=web,O=a,L=b,C=NO", false),
            ("**", "", true),
            ("**", "CN=a,O=b", true),
            ("CN=a", "", false),
            ("2.5.4.3=#0C01FF", "2.5.4.3=#0C01FF", true),
            ("O=Example\\, Inc.", "O=Example\\, Inc.", true),
            ("O=Example\\2C Inc.", "O=Example\\, Inc.", true),
            ("CN=\\*", "CN=*", true),
            ("CN=\\*", "CN=a", false),
            ("CN=a\\ ", "CN=a\\ ", true),
            ("CN=a\\\\ ", "CN=a\\\\", true),
            ("CN=a", "CN=a\u{a0}", false),
            ("CN=a", "CN=\u{3000}a", false),
            ("CN=a", "CN=a\u{2003}", false),
            ("CN=a\u{a0}", "CN=a\u{a0}", true),
        ] {
            assert_eq!(name(pattern).matches(subject), matches, "{pattern} on {subject}");
        }
    }

    #[test]
    fn nothing_in_a_value_passes_for_another_part() {
        for subject in [
            "CN=x\\,OU=ops,O=Example",
            "CN=x\\,OU\\=ops\\,O=Example,O=Example",
            "CN=x\\2COU=ops,O=Example",
            "CN=x\\+OU=ops,O=Example",
            "CN=x\\\\\\,OU=ops,O=Example",
        ] {
            for pattern in ["CN=*,OU=ops,O=Example", "CN=*+OU=ops,O=Example", "**,OU=ops,**"] {
                assert!(!name(pattern).matches(subject), "{pattern} on {subject}");
            }
            assert!(name("CN=x*,O=Example").matches(subject), "{subject}");
        }
    }

    #[test]
    fn alternative_names_match_by_kind_and_segment() {
        let dns = |text: &str| SubjectName::Dns(text.into());
        let uri = |text: &str| SubjectName::Uri(text.into());
        for (pattern, name, matches) in [
            ("dns:a.test", dns("a.test"), true),
            ("dns:A.test", dns("a.test"), true),
            ("dns:*.clients.test", dns("web.clients.test"), true),
            ("dns:*.clients.test", dns("a.b.clients.test"), false),
            ("dns:*.clients.test", dns("clients.test"), false),
            ("dns:**.clients.test", dns("a.b.clients.test"), true),
            ("dns:*.clients.test", dns("evil.test/.clients.test"), false),
            ("dns:a.test", uri("a.test"), false),
            ("uri:spiffe://test/ns/*/sa/web", uri("spiffe://test/ns/a/sa/web"), true),
            ("uri:spiffe://test/ns/*/sa/web", uri("spiffe://test/ns/a/sa/x/sa/web"), false),
            ("uri:spiffe://test/**", uri("spiffe://test/ns/a/sa/web"), true),
            ("uri:spiffe://test/**", uri("spiffe://test.evil/ns"), false),
            ("email:*@clients.test", SubjectName::Email("a@clients.test".into()), true),
            ("email:*@clients.test", SubjectName::Email("a@b@clients.test".into()), false),
            ("ip:10.0.0.0/8", SubjectName::Ip([10, 1, 2, 3].into()), true),
            ("ip:10.0.0.1", SubjectName::Ip([10, 0, 0, 2].into()), false),
        ] {
            assert_eq!(san(pattern).matches(&name), matches, "{pattern} on {name}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for text in ["", "web", "CN", "=a", "CN=a,,O=b", "C N=a", "CN=a\\", "*,O=b", "**+CN=a"] {
            assert!(text.parse::<NamePattern>().is_err(), "{text}");
        }
        for text in ["", "a.test", "dns:", "tls:a", "ip:a", "ip:10.0.0.0/33"] {
            assert!(text.parse::<SubjectNamePattern>().is_err(), "{text}");
        }
        assert!(format!("CN={}", "a".repeat(LONGEST)).parse::<NamePattern>().is_err());
        assert!(!name("CN=*").matches(&format!("CN={}", "a".repeat(LONGEST))));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(pattern in "[A-C=,+*\\\\ 0é]{0,12}", text in "[A-C=,+*\\\\ 0é]{0,12}") {
            if let Ok(pattern) = pattern.parse::<NamePattern>() {
                let _ = pattern.matches(&text);
            }
        }

        #[test]
        fn wildcards_match_as_the_plainest_matcher_does(
            pattern in "[a.*]{0,6}", text in "[a.]{0,8}"
        ) {
            fn plain(pattern: &[Piece], text: &[u8]) -> bool {
                match pattern.split_first() {
                    None => text.is_empty(),
                    Some((Piece::Byte(byte), rest)) => {
                        text.first() == Some(byte) && plain(rest, &text[1..])
                    }
                    Some((star, rest)) => (0..=text.len()).any(|end| {
                        (*star == Piece::Any || !text[..end].contains(&b'.'))
                            && plain(rest, &text[end..])
                    }),
                }
            }
            let pattern = wild(pattern.as_bytes());
            let expected = plain(&pattern, text.as_bytes());
            prop_assert_eq!(fits(&pattern, text.as_bytes(), Some(b'.')), expected);
        }
    }
}
