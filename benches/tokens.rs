//! What it costs to check a token, by the algorithm that it is signed by.
//!
//! ```console
//! $ cargo bench --bench tokens
//! ```
//!
//! From the field of the request to who it is from: the first time that a token is shown
//! (`first`), and each time after it (`again`).

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

fn main() {
    divan::main();
}

/// Signs.
type Sign = dyn Fn(&[u8]) -> Result<Vec<u8>, Unspecified>;

/// What signs, and what that is checked by.
type Signer = Result<(Box<Sign>, JwtKeys), Unspecified>;

/// The field with a token of this number.
fn field(algorithm: &str, sign: &Sign, number: u64) -> HeaderValue {
    let head = format!("{{\"alg\":\"{algorithm}\",\"typ\":\"JWT\",\"kid\":\"k1\"}}");
    let claims = format!(
        r#"{{"iss":"https://id.example.com","aud":"orders","sub":"alice","jti":"{number}",
        "exp":4000000000,"scope":"orders:read orders:write","email":"alice@example.com"}}"#
    );
    let text = |json: &str| BASE64_URL_SAFE_NO_PAD.encode(json);
    let signed = format!("{}.{}", text(&head), text(&claims));
    let Ok(signature) = sign(signed.as_bytes()) else { panic!("nothing could be signed") };
    let signature = BASE64_URL_SAFE_NO_PAD.encode(signature);
    let Ok(field) = HeaderValue::try_from(format!("Bearer {signed}.{signature}")) else {
        panic!("a token is a field")
    };
    field
}

fn public<'a, K: AsDer<PublicKeyX509Der<'a>>>(key: &K) -> Result<JwtKeys, Unspecified> {
    Ok(JwtKeys::PublicKey(JwtPublicKey::of_info(key.as_der()?.as_ref())))
}

fn hs256() -> Signer {
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET);
    let keys = JwtKeys::Secret(SharedSecret::new(SECRET));
    Ok((Box::new(move |text| Ok(hmac::sign(&key, text).as_ref().to_vec())), keys))
}

fn rs256() -> Signer {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048)?;
    let keys = public(pair.public_key())?;
    let sign = move |text: &[u8]| {
        let mut signature = vec![0; pair.public_modulus_len()];
        pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text, &mut signature)?;
        Ok(signature)
    };
    Ok((Box::new(sign), keys))
}

fn es256() -> Signer {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?;
    let keys = public(pair.public_key())?;
    let sign = move |text: &[u8]| Ok(pair.sign(&SystemRandom::new(), text)?.as_ref().to_vec());
    Ok((Box::new(sign), keys))
}

fn eddsa() -> Signer {
    let pair = Ed25519KeyPair::generate()?;
    let keys = public(pair.public_key())?;
    Ok((Box::new(move |text| Ok(pair.sign(text).as_ref().to_vec())), keys))
}

/// The scheme, and what makes the field with another token each time.
fn scheme(algorithm: &str) -> (JsonWebTokens, impl FnMut() -> HeaderMap) {
    let signer = match algorithm {
        "HS256" => hs256(),
        "RS256" => rs256(),
        "ES256" => es256(),
        _ => eddsa(),
    };
    let Ok((sign, keys)) = signer else { panic!("no key could be made") };
    let mut settings = JwtSettings::new(keys);
    settings.rules.issuers = vec!["https://id.example.com".to_owned()];
    settings.rules.audiences = vec!["orders".to_owned()];
    let Ok(tokens) = JsonWebTokens::new(&settings) else { panic!("the settings are wrong") };
    let mut number = 0;
    let fields = move || {
        number += 1;
        HeaderMap::from_iter([(header::AUTHORIZATION, field(algorithm, &*sign, number))])
    };
    (tokens, fields)
}

fn judge(tokens: &JsonWebTokens, headers: &HeaderMap) -> Judging {
    tokens.judge(&Asked {
        method: &Method::GET,
        uri: &Uri::from_static("/"),
        version: Version::HTTP_11,
        headers,
        exchange: None,
        downstream: None,
        body: None,
    })
}

fn is_let_in(judged: &Judging) -> bool {
    matches!(judged, Judging::Now(Verdict::Granted(_)))
}

#[divan::bench(args = ["HS256", "RS256", "ES256", "EdDSA"])]
fn first(bencher: Bencher<'_, '_>, algorithm: &str) {
    let (tokens, fields) = scheme(algorithm);
    bencher
        .counter(ItemsCount::new(1_usize))
        .with_inputs(fields)
        .bench_local_refs(|headers| assert!(is_let_in(&judge(&tokens, headers))));
}

#[divan::bench(args = ["HS256", "RS256", "ES256", "EdDSA"])]
fn again(bencher: Bencher<'_, '_>, algorithm: &str) {
    let (tokens, mut fields) = scheme(algorithm);
    let headers = fields();
    assert!(is_let_in(&judge(&tokens, &headers)));
    bencher.counter(ItemsCount::new(1_usize)).bench(|| judge(&tokens, &headers));
}
