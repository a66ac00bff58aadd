//! `Content-Digest` (RFC 9530): what ties a body to a signature over fields.

use aws_lc_rs::digest::{self, SHA256, SHA512};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue};
use sfv::ListEntry;

use super::component::Component;
use super::input::dictionary;

/// `Content-Digest`
pub const CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");

/// Whether what is signed of the field, if it is of it, says something of a body: all of it, or
/// a digest that is known here.
#[must_use]
pub fn ties(component: &Component) -> bool {
    match component {
        Component::Field(name) | Component::Bytes(name) => *name == CONTENT_DIGEST,
        Component::Member(name, key) => *name == CONTENT_DIGEST && known(key.as_str()).is_some(),
        _ => false,
    }
}

fn known(name: &str) -> Option<&'static digest::Algorithm> {
    match name {
        "sha-256" => Some(&SHA256),
        "sha-512" => Some(&SHA512),
        _ => None,
    }
}

/// Whether the field is there and every digest of it that is known here is the body's,
/// and there is one: `sha-256` or `sha-512`, no weaker ones.
#[must_use]
pub fn is_of(headers: &HeaderMap, body: &[u8]) -> bool {
    let Ok(digests) = dictionary(headers, &CONTENT_DIGEST) else { return false };
    let mut compared = 0;
    for (name, digest) in &digests {
        let Some(algorithm) = known(name.as_str()) else { continue };
        let ListEntry::Item(item) = digest else { return false };
        let Some(digest) = item.bare_item.as_byte_sequence() else { return false };
        if digest::digest(algorithm, body).as_ref() != digest {
            return false;
        }
        compared += 1;
    }
    compared > 0
}

/// The field for a body, with its `sha-256`.
#[must_use]
pub fn of(body: &[u8]) -> Option<HeaderValue> {
    let digest = STANDARD.encode(digest::digest(&SHA256, body));
    HeaderValue::try_from(format!("sha-256=:{digest}:")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = b"{\"hello\": \"world\"}";
    const SHORT: &str = "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:";
    const LONG: &str = "sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+\
                        AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:";

    fn check(lines: &[&str], body: &[u8]) -> bool {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(CONTENT_DIGEST, HeaderValue::from_str(line).unwrap());
        }
        is_of(&headers, body)
    }

    #[test]
    fn digests_are_those_of_the_rfcs() {
        assert!(check(&[SHORT], BODY));
        assert!(check(&[LONG], BODY));
        assert!(check(&[SHORT, LONG], BODY));
        assert_eq!(of(BODY).unwrap(), SHORT);
    }

    #[test]
    fn what_nobody_knows_ties_no_body() {
        let ties = |text: &str| ties(&text.parse().unwrap());
        for text in ["content-digest", "\"content-digest\";bs"] {
            assert!(ties(text), "{text}");
        }
        assert!(ties("\"content-digest\";key=\"sha-256\""));
        assert!(ties("\"content-digest\";key=\"sha-512\""));
        assert!(!ties("\"content-digest\";key=\"md5\""));
        assert!(!ties("\"x\";key=\"sha-256\""));
        assert!(!ties("@method"));
    }

    #[test]
    fn one_wrong_digest_is_enough() {
        assert!(!check(&[SHORT], b"{\"hello\": \"World\"}"));
        assert!(!check(&[LONG, "sha-256=:AAAA:"], BODY));
        assert!(!check(&["sha-256=\"X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=\""], BODY));
    }

    #[test]
    fn no_digest_that_is_known_is_none() {
        assert!(!check(&[], BODY));
        assert!(!check(&["md5=:Sd/dVLAcvNLSq16eXua5uQ==:"], BODY));
        assert!(!check(&["sha-256"], BODY));
        assert!(!check(&["sha-256=:"], BODY));
        assert!(check(&["md5=:AAAA:", SHORT], BODY));
    }
}
