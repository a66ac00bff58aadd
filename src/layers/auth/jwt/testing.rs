//! Signers for tests.

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
    ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
    RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaKeyPair,
};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use serde_json::{Value, json};

use super::JwtAlgorithm;
use super::key::Key;

/// Signs by one algorithm with a key of its own.
pub(in crate::layers::auth) struct Signer {
    algorithm: JwtAlgorithm,
    key: SigningKey,
}

enum SigningKey {
    Secret(Vec<u8>),
    Rsa(Box<RsaKeyPair>),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

impl Signer {
    pub(in crate::layers::auth) fn new(algorithm: JwtAlgorithm) -> Self {
        use JwtAlgorithm::{
            EdDsa, Es256, Es384, Es512, Hs256, Hs384, Hs512, Ps256, Ps384, Ps512, Rs256, Rs384,
            Rs512,
        };
        let ec = |curve| SigningKey::Ec(EcdsaKeyPair::generate(curve).unwrap());
        let key = match algorithm {
            Hs256 | Hs384 | Hs512 => SigningKey::Secret(vec![7; 64]),
            Rs256 | Rs384 | Rs512 | Ps256 | Ps384 | Ps512 => {
                SigningKey::Rsa(Box::new(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()))
            }
            Es256 => ec(&ECDSA_P256_SHA256_FIXED_SIGNING),
            Es384 => ec(&ECDSA_P384_SHA384_FIXED_SIGNING),
            Es512 => ec(&ECDSA_P521_SHA512_FIXED_SIGNING),
            EdDsa => SigningKey::Ed(Ed25519KeyPair::generate().unwrap()),
        };
        Self { algorithm, key }
    }

    /// Signs with this secret.
    pub(in crate::layers::auth) fn by_secret(algorithm: JwtAlgorithm, secret: Vec<u8>) -> Self {
        Self { algorithm, key: SigningKey::Secret(secret) }
    }

    /// Signs by another algorithm with the same key.
    pub(in crate::layers::auth) fn with_algorithm(self, algorithm: JwtAlgorithm) -> Self {
        Self { algorithm, ..self }
    }

    /// The private key: PKCS #1 of RSA, or else PKCS #8.
    pub(super) fn private(&self) -> Option<Vec<u8>> {
        use aws_lc_rs::encoding::{Pkcs8V1Der, Pkcs8V2Der};

        match &self.key {
            SigningKey::Secret(_) => None,
            SigningKey::Rsa(pair) => {
                let der: Pkcs8V1Der<'_> = pair.as_der().unwrap();
                Some(pkcs1(der.as_ref()).to_vec())
            }
            SigningKey::Ec(pair) => Some(pair.to_pkcs8v1().unwrap().as_ref().to_vec()),
            SigningKey::Ed(pair) => {
                let der: Pkcs8V2Der<'_> = pair.as_der().unwrap();
                Some(der.as_ref().to_vec())
            }
        }
    }

    /// The public key: PKCS #1 of RSA, or else the point.
    pub(super) fn public_raw(&self) -> Vec<u8> {
        match &self.key {
            SigningKey::Secret(secret) => secret.clone(),
            SigningKey::Rsa(pair) => pair.public_key().as_ref().to_vec(),
            SigningKey::Ec(pair) => pair.public_key().as_ref().to_vec(),
            SigningKey::Ed(pair) => pair.public_key().as_ref().to_vec(),
        }
    }

    /// The public key as certificates have it.
    pub(in crate::layers::auth) fn public(&self) -> Option<Vec<u8>> {
        let der: PublicKeyX509Der<'_> = match &self.key {
            SigningKey::Secret(_) => return None,
            SigningKey::Rsa(pair) => pair.public_key().as_der().unwrap(),
            SigningKey::Ec(pair) => pair.public_key().as_der().unwrap(),
            SigningKey::Ed(pair) => pair.public_key().as_der().unwrap(),
        };
        Some(der.as_ref().to_vec())
    }

    pub(super) fn key(&self, algorithms: &[JwtAlgorithm]) -> Key {
        match &self.key {
            SigningKey::Secret(secret) => Key::secret(secret, algorithms).unwrap(),
            _ => Key::public(&self.public().unwrap(), algorithms).unwrap(),
        }
    }

    /// The public key as issuers publish it.
    pub(in crate::layers::auth) fn jwk(&self, id: &str) -> Option<Value> {
        let text = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        match &self.key {
            SigningKey::Secret(_) => None,
            SigningKey::Rsa(pair) => {
                let (n, e) = numbers(pair.public_key().as_ref());
                Some(json!({ "kty": "RSA", "kid": id, "n": text(n), "e": text(e) }))
            }
            SigningKey::Ec(pair) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                let curve = ["P-256", "P-384", "P-521"][(x.len() - 32) / 16];
                Some(json!({ "kty": "EC", "kid": id, "crv": curve, "x": text(x), "y": text(y) }))
            }
            SigningKey::Ed(pair) => {
                let x = text(pair.public_key().as_ref());
                Some(json!({ "kty": "OKP", "kid": id, "crv": "Ed25519", "x": x }))
            }
        }
    }

    pub(in crate::layers::auth) fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.key {
            SigningKey::Secret(secret) => {
                let hash = match self.algorithm {
                    JwtAlgorithm::Hs384 => hmac::HMAC_SHA384,
                    JwtAlgorithm::Hs512 => hmac::HMAC_SHA512,
                    _ => hmac::HMAC_SHA256,
                };
                hmac::sign(&hmac::Key::new(hash, secret), message).as_ref().to_vec()
            }
            SigningKey::Rsa(pair) => {
                let padding: &'static dyn aws_lc_rs::signature::RsaEncoding = match self.algorithm {
                    JwtAlgorithm::Rs384 => &RSA_PKCS1_SHA384,
                    JwtAlgorithm::Rs512 => &RSA_PKCS1_SHA512,
                    JwtAlgorithm::Ps256 => &RSA_PSS_SHA256,
                    JwtAlgorithm::Ps384 => &RSA_PSS_SHA384,
                    JwtAlgorithm::Ps512 => &RSA_PSS_SHA512,
                    _ => &RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &random, message, &mut signature).unwrap();
                signature
            }
            SigningKey::Ec(pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            SigningKey::Ed(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }

    /// A token that says this.
    pub(in crate::layers::auth) fn token(&self, claims: &Value) -> String {
        self.token_with(&json!({ "alg": self.algorithm.as_str(), "typ": "JWT" }), claims)
    }

    /// A token with this head.
    pub(in crate::layers::auth) fn token_with(&self, head: &Value, claims: &Value) -> String {
        let text = |json: &Value| BASE64_URL_SAFE_NO_PAD.encode(json.to_string());
        let signed = format!("{}.{}", text(head), text(claims));
        let signature = BASE64_URL_SAFE_NO_PAD.encode(self.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }
}

/// Modulus and exponent of an `RSAPublicKey` (RFC 8017 §A.1.1) of 2048 bits.
fn numbers(der: &[u8]) -> (&[u8], &[u8]) {
    let n = &der[9..9 + 256];
    (n, &der[9 + 256 + 2..])
}

/// The `RSAPrivateKey` within a PKCS #8 of 2048 bits (RFC 8017 §A.1.2).
fn pkcs1(pkcs8: &[u8]) -> &[u8] {
    &pkcs8[26..]
}
