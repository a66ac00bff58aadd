//! A token as it is sent: three parts in Base64 (RFC 7515 §3.1).

use std::borrow::Cow;

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny};

use super::JwtAlgorithm;

/// The longest identifier of a key, in bytes.
pub(super) const KEY_ID_LIMIT: usize = 256;

/// The longest signature, in bytes: that of an RSA key of 8192 bits.
const SIGNATURE_LIMIT: usize = 1024;

/// A token that was taken apart, and of which nothing was checked yet.
#[derive(Debug)]
pub(super) struct Token<'a> {
    pub(super) algorithm: JwtAlgorithm,
    /// What the token calls the key. Nothing is done with it but to compare it.
    pub(super) key_id: Option<Cow<'a, str>>,
    /// What the signature is over.
    pub(super) signed: &'a [u8],
    payload: &'a [u8],
    pub(super) signature: Vec<u8>,
}

/// What is read of a token's head. Where it says that a key is to be found (`jku`, `x5u`)
/// or brings one along (`jwk`, `x5c`), nobody looks.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    alg: Cow<'a, str>,
    #[serde(borrow, default)]
    kid: Option<Cow<'a, str>>,
    #[serde(default, deserialize_with = "is_there")]
    crit: bool,
}

fn is_there<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| true)
}

impl<'a> Token<'a> {
    /// Takes a token apart; `head` is where its head is decoded to.
    ///
    /// # Errors
    ///
    /// One word for the log.
    pub(super) fn read(text: &'a str, head: &'a mut Vec<u8>) -> Result<Self, &'static str> {
        let malformed = "jwt_malformed";
        let (signed, signature) = text.rsplit_once('.').ok_or(malformed)?;
        let (encoded, payload) = signed.split_once('.').ok_or(malformed)?;
        if payload.contains('.') || signature.len() > SIGNATURE_LIMIT / 3 * 4 + 4 {
            return Err(malformed);
        }
        BASE64_URL_SAFE_NO_PAD.decode_vec(encoded, head).map_err(|_| malformed)?;
        let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).map_err(|_| malformed)?;
        let head: &'a [u8] = head;
        // serde would take a list for an object as well.
        if head.first() != Some(&b'{') {
            return Err(malformed);
        }
        let head: Head<'a> = serde_json::from_slice(head).map_err(|_| malformed)?;
        // There is nothing critical that is understood here (RFC 7515 §4.1.11).
        if head.crit {
            return Err("jwt_critical");
        }
        if head.kid.as_ref().is_some_and(|id| id.len() > KEY_ID_LIMIT) {
            return Err(malformed);
        }
        Ok(Self {
            algorithm: head.alg.parse().map_err(|_| "jwt_algorithm")?,
            key_id: head.kid,
            signed: signed.as_bytes(),
            payload: payload.as_bytes(),
            signature,
        })
    }

    /// What the token says, in JSON.
    pub(super) fn payload(&self) -> Result<Vec<u8>, &'static str> {
        BASE64_URL_SAFE_NO_PAD.decode(self.payload).map_err(|_| "jwt_malformed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(head: &str) -> Result<JwtAlgorithm, &'static str> {
        let head = BASE64_URL_SAFE_NO_PAD.encode(head);
        whole(&format!("{head}.e30.AAAA"))
    }

    fn whole(text: &str) -> Result<JwtAlgorithm, &'static str> {
        Token::read(text, &mut Vec::new()).map(|token| token.algorithm)
    }

    #[test]
    fn only_algorithms_that_are_known_are_read() {
        assert_eq!(read(r#"{"alg":"ES256"}"#), Ok(JwtAlgorithm::Es256));
        for none in ["none", "None", "nOnE", "", "HS256\\u0000", "es256"] {
            assert_eq!(read(&format!("{{\"alg\":\"{none}\"}}")), Err("jwt_algorithm"), "{none}");
        }
        for head in [r#"{"alg":null}"#, r#"{"alg":["ES256"]}"#, r#"{"alg":7}"#, "{}"] {
            assert_eq!(read(head), Err("jwt_malformed"), "{head}");
        }
    }

    #[test]
    fn a_head_that_could_be_read_in_two_ways_is_refused() {
        for head in [
            r#"{"alg":"ES256","alg":"HS256"}"#,
            r#"{"alg":"ES256","kid":"a","kid":"b"}"#,
            r#"{"alg":"ES256"}{"alg":"HS256"}"#,
            r#"["ES256","a"]"#,
            r#" {"alg":"ES256"}"#,
            r#"{"alg":"ES256"}x"#,
            "\"ES256\"",
        ] {
            assert_eq!(read(head), Err("jwt_malformed"), "{head}");
        }
    }

    #[test]
    fn whatever_is_critical_is_not_understood() {
        for crit in ["[\"b64\"]", "[\"exp\"]", "[]", "null", "7"] {
            let head = format!("{{\"alg\":\"ES256\",\"crit\":{crit}}}");
            assert_eq!(read(&head), Err("jwt_critical"), "{crit}");
        }
    }

    #[test]
    fn keys_that_a_token_brings_along_are_not_looked_at() {
        let head = r#"{"alg":"ES256","jku":"http://127.0.0.1:1/","x5u":7,"jwk":{},"x5c":[null]}"#;
        assert_eq!(read(head), Ok(JwtAlgorithm::Es256));
    }

    #[test]
    fn the_identifier_of_a_key_is_text_of_bounded_length() {
        let head = |id: &str| format!("{{\"alg\":\"ES256\",\"kid\":{id}}}");
        assert!(read(&head("\"../../etc/passwd' OR 1=1\"")).is_ok());
        assert!(read(&head("null")).is_ok());
        for wrong in ["7", "[\"a\"]", "{}", &format!("\"{}\"", "k".repeat(KEY_ID_LIMIT + 1))] {
            assert_eq!(read(&head(wrong)), Err("jwt_malformed"), "{wrong}");
        }
    }

    #[test]
    fn a_token_has_three_parts_in_strict_base64() {
        let head = BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256"}"#);
        assert!(whole(&format!("{head}.e30.AAAA")).is_ok());
        for text in [
            String::new(),
            "..".to_owned(),
            head.clone(),
            format!("{head}.e30"),
            format!("{head}.e30.AAAA.AAAA"),
            format!("{head}.e30.AAAA.AAAA.AAAA"),
            format!("{head}=.e30.AAAA"),
            format!("{head}.e30.AA=="),
            format!("{head}.e30.AB"),
            format!("{head}.e30.A+/A"),
            format!("{head}.e30.{}", "A".repeat(1500)),
            format!(" {head}.e30.AAAA"),
        ] {
            assert_eq!(whole(&text), Err("jwt_malformed"), "{text}");
        }
    }
}
