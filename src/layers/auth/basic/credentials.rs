//! `Authorization: Basic …` (RFC 7617).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use zeroize::Zeroizing;

use super::hash::MAX_PASSWORD;
use super::htpasswd::MAX_USER;

/// The longest encoding of credentials that is taken apart.
const LONGEST: usize = (MAX_USER + 1 + MAX_PASSWORD).div_ceil(3) * 4;

/// What a request shows.
#[derive(Debug)]
pub(super) enum Shown {
    /// Nothing of this scheme.
    Nothing,
    /// What cannot be a name and a password, and why.
    Wrong(&'static str),
    Credentials(Credentials),
}

/// A name and a password, which are forgotten when they are dropped.
pub(super) struct Credentials {
    /// Both, with a colon between.
    both: Zeroizing<String>,
    colon: usize,
}

impl Credentials {
    pub(super) fn name(&self) -> &str {
        &self.both[..self.colon]
    }

    pub(super) fn password(&self) -> &[u8] {
        &self.both.as_bytes()[self.colon + 1..]
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(…)")
    }
}

/// The credentials of a request.
pub(super) fn shown(headers: &HeaderMap) -> Shown {
    let lines = headers.get_all(AUTHORIZATION);
    let Some(rest) = lines.iter().find_map(|line| behind_scheme(line.as_bytes())) else {
        return Shown::Nothing;
    };
    // Two who read the request may read two of them, whatever the others are.
    if lines.iter().nth(1).is_some() {
        return Shown::Wrong("auth_ambiguous");
    }
    decoded(rest.trim_ascii()).map_or(Shown::Wrong("auth_malformed"), Shown::Credentials)
}

/// RFC 9110 §11.4: the name of a scheme in any case, and spaces.
fn behind_scheme(line: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = line.split_at_checked(5)?;
    let is_basic = scheme.eq_ignore_ascii_case(b"basic");
    (is_basic && rest.first().is_none_or(|byte| *byte == b' ')).then_some(rest)
}

/// The name ends at the first colon, and neither has control characters (RFC 7617 §2).
fn decoded(encoded: &[u8]) -> Option<Credentials> {
    if encoded.len() > LONGEST {
        return None;
    }
    // With room for all from the start, none of it is left behind where it was before.
    let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST / 4 * 3));
    STANDARD.decode_vec(encoded, &mut bytes).ok()?;
    let both = Zeroizing::new(String::from_utf8(std::mem::take(&mut *bytes)).ok()?);
    let colon = both.find(':')?;
    let fits = colon <= MAX_USER && both.len() - colon - 1 <= MAX_PASSWORD;
    (fits && !both.chars().any(char::is_control)).then_some(Credentials { both, colon })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn shown_by(lines: &[&[u8]]) -> Result<(String, String), &'static str> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(AUTHORIZATION, HeaderValue::from_bytes(line).unwrap());
        }
        match shown(&headers) {
            Shown::Nothing => Err("nothing"),
            Shown::Wrong(why) => Err(why),
            Shown::Credentials(shown) => {
                Ok((shown.name().to_owned(), String::from_utf8(shown.password().to_vec()).unwrap()))
            }
        }
    }

    fn basic(both: impl AsRef<[u8]>) -> Vec<u8> {
        format!("Basic {}", STANDARD.encode(both)).into_bytes()
    }

    #[test]
    fn a_name_ends_at_the_first_colon() {
        // The examples of RFC 7617 §2 and §2.1.
        let shown = shown_by(&[b"Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="]);
        assert_eq!(shown, Ok(("Aladdin".into(), "open sesame".into())));
        assert_eq!(shown_by(&[b"bAsIc   dGVzdDoxMjPCow=="]), Ok(("test".into(), "123£".into())));
        assert_eq!(shown_by(&[&basic("a:b:c")]), Ok(("a".into(), "b:c".into())));
        assert_eq!(shown_by(&[&basic(":")]), Ok((String::new(), String::new())));
    }

    #[test]
    fn what_is_of_another_scheme_is_nothing_and_what_is_broken_is_wrong() {
        assert_eq!(shown_by(&[]), Err("nothing"));
        for line in ["Bearer abc", "Basi", "Basics abc", "", "basic\tabc"] {
            assert_eq!(shown_by(&[line.as_bytes()]), Err("nothing"), "{line}");
        }
        for line in [
            b"Basic".to_vec(),
            b"Basic ".to_vec(),
            b"Basic !!!".to_vec(),
            b"Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ".to_vec(),
            b"Basic QWxhZGRpbjpv cGVuIHNlc2FtZQ==".to_vec(),
            basic("no colon"),
            basic("a:b\n"),
            basic("a\0:b"),
            basic(b"a:\xff"),
            basic(format!("{}:b", "a".repeat(256))),
            basic(format!("a:{}", "b".repeat(1025))),
            basic("a".repeat(100_000)),
        ] {
            let told = String::from_utf8_lossy(&line).into_owned();
            assert_eq!(shown_by(&[&line]), Err("auth_malformed"), "{told}");
        }
        let twice = basic("a:b");
        assert_eq!(shown_by(&[&twice, &twice]), Err("auth_ambiguous"));
        assert_eq!(shown_by(&[b"Bearer abc", &twice]), Err("auth_ambiguous"));
        assert_eq!(shown_by(&[b"Bearer abc", b"Bearer abc"]), Err("nothing"));
        assert!(shown_by(&[&basic(format!("{}:{}", "a".repeat(255), "b".repeat(1024)))]).is_ok());
    }
}
