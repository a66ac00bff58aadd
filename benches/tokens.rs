//! What it costs to check a token, by the algorithm that it is signed by.
//!
//! ```console
//! $ cargo bench --bench tokens
//! ```
//!
//! From the field of the request to who it is from: nothing of a token is remembered.

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
    RsaKeyPair,
};
use aws_lc_rs::{error::Unspecified, hmac};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use divan::Bencher;
use divan::counter::ItemsCount;
use http::{HeaderMap, HeaderValue, Method, Uri, Version, header};
use tollgate::layers::{
    Asked, Authenticate, JsonWebTokens, Judging, JwtKeys, JwtPublicKey, JwtSettings, SharedSecret,
    Verdict,
};

const SECRET: &[u8; 32] = &[7; 32];

const CLAIMS: &str = r#"{"iss":"https://id.example.com","aud":"orders","sub":"alice",
    "exp":4000000000,"scope":"orders:read orders:write","email":"alice@example.com"}"#;

fn main() {
    divan::main();
}

/// A token, and what it is checked by.
type Signed = Result<(String, JwtKeys), Unspecified>;

fn signed(
    algorithm: &str,
    sign: impl FnOnce(&[u8]) -> Result<Vec<u8>, Unspecified>,
) -> Result<String, Unspecified> {
    let head = format!("{{\"alg\":\"{algorithm}\",\"typ\":\"JWT\",\"kid\":\"k1\"}}");
    let text = |json: &str| BASE64_URL_SAFE_NO_PAD.encode(json);
    let signed = format!("{}.{}", text(&head), text(CLAIMS));
    let signature = BASE64_URL_SAFE_NO_PAD.encode(sign(signed.as_bytes())?);
    Ok(format!("{signed}.{signature}"))
}

fn public<'a, K: AsDer<PublicKeyX509Der<'a>>>(key: &K) -> Result<JwtKeys, Unspecified> {
    Ok(JwtKeys::PublicKey(JwtPublicKey::of_info(key.as_der()?.as_ref())))
}

fn hs256() -> Signed {
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET);
    let token = signed("HS256", |text| Ok(hmac::sign(&key, text).as_ref().to_vec()))?;
    Ok((token, JwtKeys::Secret(SharedSecret::new(SECRET))))
}

fn rs256() -> Signed {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048)?;
    let token = signed("RS256", |text| {
        let mut signature = vec![0; pair.public_modulus_len()];
        pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text, &mut signature)?;
        Ok(signature)
    })?;
    Ok((token, public(pair.public_key())?))
}

fn es256() -> Signed {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?;
    let sign = |text: &[u8]| Ok(pair.sign(&SystemRandom::new(), text)?.as_ref().to_vec());
    let token = signed("ES256", sign)?;
    Ok((token, public(pair.public_key())?))
}

fn eddsa() -> Signed {
    let pair = Ed25519KeyPair::generate()?;
    let token = signed("EdDSA", |text| Ok(pair.sign(text).as_ref().to_vec()))?;
    Ok((token, public(pair.public_key())?))
}

#[divan::bench(args = ["HS256", "RS256", "ES256", "EdDSA"])]
fn token(bencher: Bencher<'_, '_>, algorithm: &str) {
    let made = match algorithm {
        "HS256" => hs256(),
        "RS256" => rs256(),
        "ES256" => es256(),
        _ => eddsa(),
    };
    let Ok((token, keys)) = made else { panic!("no key could be made") };
    let mut settings = JwtSettings::new(keys);
    settings.rules.issuers = vec!["https://id.example.com".to_owned()];
    settings.rules.audiences = vec!["orders".to_owned()];
    let Ok(tokens) = JsonWebTokens::new(&settings) else { panic!("the settings are wrong") };
    let mut headers = HeaderMap::new();
    let Ok(value) = HeaderValue::try_from(format!("Bearer {token}")) else { return };
    headers.insert(header::AUTHORIZATION, value);
    let asked = Asked {
        method: &Method::GET,
        uri: &Uri::from_static("/"),
        version: Version::HTTP_11,
        headers: &headers,
        exchange: None,
        downstream: None,
        body: None,
    };
    let judged = tokens.judge(&asked);
    assert!(matches!(judged, Judging::Now(Verdict::Granted(_))), "{judged:?}");
    bencher.counter(ItemsCount::new(1_usize)).bench(|| tokens.judge(&asked));
}
