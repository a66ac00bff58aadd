//! Sets of public keys as issuers publish them (RFC 7517).

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use serde::Deserialize;
use serde_json::Value;

use super::JwtAlgorithm;
use super::key::{Key, KeySet, Numbers};
use super::token::KEY_ID_LIMIT;

/// How many keys of a set are looked at.
const MOST: usize = 64;

/// Why there is no set in what was published.
#[derive(Debug, thiserror::Error)]
pub(in crate::layers::auth) enum JwksError {
    #[error("it is no set of JSON Web Keys: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("none of its {0} keys can be used with the algorithms that are taken")]
    Useless(usize),
}

#[derive(Deserialize)]
struct Published {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    kid: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

/// Reads a set. Keys that are for something else, or that nothing here knows, are left
/// out; so are secrets, for what is published is none.
pub(in crate::layers::auth) fn read(
    json: &[u8],
    algorithms: &[JwtAlgorithm],
) -> Result<KeySet, JwksError> {
    let published: Published = serde_json::from_slice(json)?;
    let count = published.keys.len();
    if count > MOST {
        tracing::warn!(count, looked_at = MOST, "a set of JSON Web Keys holds too many");
    }
    let keys = published.keys.into_iter().take(MOST);
    let keys: Vec<Key> =
        keys.filter_map(|key| usable(&serde_json::from_value(key).ok()?, algorithms)).collect();
    if keys.is_empty() { Err(JwksError::Useless(count)) } else { Ok(KeySet::new(keys)) }
}

fn usable(jwk: &Jwk, algorithms: &[JwtAlgorithm]) -> Option<Key> {
    let to_sign = jwk.purpose.as_deref().is_none_or(|purpose| purpose == "sig");
    let to_verify = jwk.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == "verify"));
    let id = jwk.kid.as_deref();
    if !to_sign || !to_verify || id.is_some_and(|id| id.len() > KEY_ID_LIMIT) {
        return None;
    }
    // A key that says what it is for is used for nothing else.
    let only: Option<JwtAlgorithm> = match &jwk.alg {
        None => None,
        Some(name) => Some(name.parse().ok()?),
    };
    let algorithms: Vec<JwtAlgorithm> =
        algorithms.iter().copied().filter(|one| only.is_none_or(|only| only == *one)).collect();
    match jwk.kty.as_str() {
        "RSA" => {
            let (n, e) = (number(&jwk.n)?, number(&jwk.e)?);
            let n = n.strip_prefix(&[0]).unwrap_or(&n);
            // 2048 bits, of which the first is 1.
            if n.len() < 256 || n.first()? >> 7 == 0 && n.len() == 256 {
                return None;
            }
            Key::numbers(id, &Numbers::Rsa { n, e: &e }, &algorithms)
        }
        "EC" => {
            let (on, length) = match jwk.crv.as_deref()? {
                "P-256" => (JwtAlgorithm::Es256, 32),
                "P-384" => (JwtAlgorithm::Es384, 48),
                "P-521" => (JwtAlgorithm::Es512, 66),
                _ => return None,
            };
            let (x, y) = (number(&jwk.x)?, number(&jwk.y)?);
            if x.len() != length || y.len() != length {
                return None;
            }
            // Uncompressed (SEC 1 §2.3.3).
            let point = [&[4], &*x, &*y].concat();
            Key::numbers(id, &Numbers::Point { point: &point, on }, &algorithms)
        }
        "OKP" if jwk.crv.as_deref() == Some("Ed25519") => {
            let (point, on) = (number(&jwk.x)?, JwtAlgorithm::EdDsa);
            Key::numbers(id, &Numbers::Point { point: &point, on }, &algorithms)
        }
        _ => None,
    }
}

fn number(text: &Option<String>) -> Option<Vec<u8>> {
    BASE64_URL_SAFE_NO_PAD.decode(text.as_deref()?).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::Signer;
    use super::*;

    fn set(keys: &[Value], algorithms: &[JwtAlgorithm]) -> Result<KeySet, JwksError> {
        read(json!({ "keys": keys }).to_string().as_bytes(), algorithms)
    }

    fn with(mut key: Value, name: &str, value: impl Into<Value>) -> Value {
        key[name] = value.into();
        key
    }

    #[test]
    fn keys_of_every_kind_are_used() {
        for algorithm in JwtAlgorithm::ALL.into_iter().filter(|one| !one.is_symmetric()) {
            let signer = Signer::new(algorithm);
            let set = set(&[signer.jwk("a").unwrap()], &JwtAlgorithm::ALL).unwrap();
            assert!(set.verify(algorithm, Some("a"), b"x", &signer.sign(b"x")), "{algorithm}");
            assert!(!set.knows(JwtAlgorithm::Hs256, Some("a")));
        }
    }

    #[test]
    fn a_key_for_something_else_is_left_out() {
        let es256 = Signer::new(JwtAlgorithm::Es256).jwk("a").unwrap();
        let rs256 = Signer::new(JwtAlgorithm::Rs256).jwk("b").unwrap();
        let secret = json!({ "kty": "oct", "kid": "c", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0" });
        let useless = [
            with(es256.clone(), "use", "enc"),
            with(es256.clone(), "key_ops", json!(["sign"])),
            with(es256.clone(), "alg", "ES384"),
            with(es256.clone(), "alg", "none"),
            with(es256.clone(), "alg", "HS256"),
            with(es256.clone(), "crv", "P-384"),
            with(es256.clone(), "crv", "secp256k1"),
            with(es256.clone(), "x", "AAAA"),
            with(es256.clone(), "y", "!"),
            with(es256.clone(), "kid", "k".repeat(KEY_ID_LIMIT + 1)),
            with(es256.clone(), "kty", "RSA"),
            with(rs256.clone(), "n", "AQAB"),
            with(rs256.clone(), "e", ""),
            with(rs256.clone(), "n", json!(7)),
            secret,
            json!("key"),
            json!({}),
        ];
        for key in &useless {
            let error = set(std::slice::from_ref(key), &JwtAlgorithm::ALL).unwrap_err();
            assert!(matches!(error, JwksError::Useless(1)), "{key}");
        }
        let mut keys = useless.to_vec();
        keys.push(with(es256, "alg", "ES256"));
        assert_eq!(set(&keys, &JwtAlgorithm::ALL).unwrap().len(), 1);
        let pinned = set(&[rs256], &[JwtAlgorithm::Es256]).unwrap_err();
        assert!(matches!(pinned, JwksError::Useless(1)));
    }

    #[test]
    fn what_is_no_set_is_said_to_be_none() {
        for json in ["", "[]", "{}", "{\"keys\":{}}", "<html>"] {
            let error = read(json.as_bytes(), &JwtAlgorithm::ALL).unwrap_err();
            assert!(matches!(error, JwksError::Malformed(_)), "{json}: {error}");
        }
        assert!(matches!(set(&[], &JwtAlgorithm::ALL), Err(JwksError::Useless(0))));
    }

    #[test]
    fn of_too_many_keys_the_first_ones_are_used() {
        let key = Signer::new(JwtAlgorithm::EdDsa).jwk("a").unwrap();
        let keys = vec![key; MOST + 20];
        assert_eq!(set(&keys, &[JwtAlgorithm::EdDsa]).unwrap().len(), MOST);
    }
}
