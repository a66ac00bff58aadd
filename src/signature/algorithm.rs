//! The algorithms of RFC 9421 §3.3, and keys that are each for one of them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use aws_lc_rs::signature::{
    self, EcdsaKeyPair, Ed25519KeyPair, ParsedPublicKey, RsaEncoding, RsaKeyPair,
    VerificationAlgorithm,
};
use aws_lc_rs::{digest, hmac, rand};

/// A signature algorithm. A key is for one of them: nothing in a message chooses.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Algorithm {
    /// `hmac-sha256` (RFC 9421 §3.3.3): a secret that both sides have.
    HmacSha256,
    /// `ed25519` (RFC 9421 §3.3.6).
    Ed25519,
    /// `ecdsa-p256-sha256` (RFC 9421 §3.3.4).
    EcdsaP256Sha256,
    /// `rsa-pss-sha512` (RFC 9421 §3.3.1), with keys of 2,048 bits or more.
    RsaPssSha512,
    /// `rsa-v1_5-sha256` (RFC 9421 §3.3.2), with keys of 2,048 bits or more.
    RsaV15Sha256,
}

/// A key that signatures are verified by.
#[derive(Clone)]
pub struct VerifyingKey(Arc<Verifying>);

struct Verifying {
    algorithm: Algorithm,
    key: Verifier,
    fingerprint: Fingerprint,
}

enum Verifier {
    Secret(Box<hmac::Key>),
    Public(ParsedPublicKey),
}

/// A key that messages are signed by.
#[derive(Clone)]
pub struct SigningKey(Arc<Signing>);

struct Signing {
    algorithm: Algorithm,
    key: Signer,
    fingerprint: Fingerprint,
}

enum Signer {
    Secret(Box<hmac::Key>),
    Ed25519(Ed25519KeyPair),
    Ecdsa(EcdsaKeyPair),
    Rsa(RsaKeyPair, &'static dyn RsaEncoding),
}

/// What keys are compared by.
#[derive(Clone, Copy, Eq, PartialEq)]
struct Fingerprint([u8; 32]);

/// A key that is none of its algorithm's.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum KeyRejected {
    /// The algorithm has a secret, and this is no secret; or the other way around.
    #[error("`{0}` is not for a key of this kind")]
    Kind(Algorithm),
    /// The secret can be guessed.
    #[error("a secret needs at least {MIN_SECRET} bytes")]
    TooShort,
    /// The key cannot be read, or is one of another algorithm.
    #[error("this is no key for `{0}`: {1}")]
    Invalid(Algorithm, String),
}

impl KeyRejected {
    fn invalid(algorithm: Algorithm, error: &aws_lc_rs::error::KeyRejected) -> Self {
        let why = match error.to_string() {
            kind if kind == "WrongAlgorithm" => "it is of another kind".to_owned(),
            text if text == "InvalidEncoding" => "it cannot be read".to_owned(),
            short if short == "TooSmall" => "it is too short".to_owned(),
            other => other,
        };
        Self::Invalid(algorithm, why)
    }
}

/// The least bytes of a secret.
const MIN_SECRET: usize = 16;

impl Algorithm {
    /// Every algorithm.
    pub const ALL: [Self; 5] = [
        Self::HmacSha256,
        Self::Ed25519,
        Self::EcdsaP256Sha256,
        Self::RsaPssSha512,
        Self::RsaV15Sha256,
    ];

    /// Its registered name (RFC 9421 §6.2).
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HmacSha256 => "hmac-sha256",
            Self::Ed25519 => "ed25519",
            Self::EcdsaP256Sha256 => "ecdsa-p256-sha256",
            Self::RsaPssSha512 => "rsa-pss-sha512",
            Self::RsaV15Sha256 => "rsa-v1_5-sha256",
        }
    }

    /// Whether both sides have the same key.
    #[must_use]
    pub const fn is_symmetric(self) -> bool {
        matches!(self, Self::HmacSha256)
    }

    fn public(self) -> Option<&'static dyn VerificationAlgorithm> {
        Some(match self {
            Self::HmacSha256 => return None,
            Self::Ed25519 => &signature::ED25519,
            Self::EcdsaP256Sha256 => &signature::ECDSA_P256_SHA256_FIXED,
            Self::RsaPssSha512 => &signature::RSA_PSS_2048_8192_SHA512,
            Self::RsaV15Sha256 => &signature::RSA_PKCS1_2048_8192_SHA256,
        })
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Algorithm {
    type Err = UnknownAlgorithm;

    fn from_str(text: &str) -> Result<Self, UnknownAlgorithm> {
        let named = Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == text);
        named.ok_or(UnknownAlgorithm)
    }
}

/// No such algorithm is known here.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("no such algorithm is known here")]
pub struct UnknownAlgorithm;

impl Fingerprint {
    fn of(algorithm: Algorithm, key: &[u8]) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(algorithm.as_str().as_bytes());
        context.update(&[0]);
        context.update(key);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(context.finish().as_ref());
        Self(bytes)
    }
}

impl VerifyingKey {
    /// A secret, for [`Algorithm::HmacSha256`].
    ///
    /// # Errors
    ///
    /// It is too short.
    pub fn secret(secret: &[u8]) -> Result<Self, KeyRejected> {
        let algorithm = Algorithm::HmacSha256;
        let key = Verifier::Secret(Box::new(hmac_key(secret)?));
        let fingerprint = Fingerprint::of(algorithm, secret);
        Ok(Self(Arc::new(Verifying { algorithm, key, fingerprint })))
    }

    /// A public key, as the DER of a `SubjectPublicKeyInfo` (RFC 5280 §4.1).
    ///
    /// # Errors
    ///
    /// It is no key of that algorithm.
    pub fn public(algorithm: Algorithm, der: &[u8]) -> Result<Self, KeyRejected> {
        let verification = algorithm.public().ok_or(KeyRejected::Kind(algorithm))?;
        let key = ParsedPublicKey::new(verification, der)
            .map_err(|error| KeyRejected::invalid(algorithm, &error))?;
        let key = Verifier::Public(key);
        let fingerprint = Fingerprint::of(algorithm, der);
        Ok(Self(Arc::new(Verifying { algorithm, key, fingerprint })))
    }

    /// What it is for.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.0.algorithm
    }

    /// What tells it from other keys, and nothing of what it is.
    #[must_use]
    pub fn fingerprint(&self) -> &[u8] {
        &self.0.fingerprint.0
    }

    /// Whether `signature` is this key's, of `base`. A secret's is compared in
    /// constant time.
    #[must_use]
    pub fn verifies(&self, base: &[u8], signature: &[u8]) -> bool {
        match &self.0.key {
            Verifier::Secret(key) => hmac::verify(key, base, signature).is_ok(),
            Verifier::Public(key) => key.verify_sig(base, signature).is_ok(),
        }
    }
}

impl SigningKey {
    /// A secret, for [`Algorithm::HmacSha256`].
    ///
    /// # Errors
    ///
    /// It is too short.
    pub fn secret(secret: &[u8]) -> Result<Self, KeyRejected> {
        let algorithm = Algorithm::HmacSha256;
        let key = Signer::Secret(Box::new(hmac_key(secret)?));
        let fingerprint = Fingerprint::of(algorithm, secret);
        Ok(Self(Arc::new(Signing { algorithm, key, fingerprint })))
    }

    /// A private key, as the DER of PKCS #8, PKCS #1 (RSA) or SEC 1 (ECDSA).
    ///
    /// # Errors
    ///
    /// It is no key of that algorithm.
    pub fn private(algorithm: Algorithm, der: &[u8]) -> Result<Self, KeyRejected> {
        let invalid =
            |error: aws_lc_rs::error::KeyRejected| KeyRejected::invalid(algorithm, &error);
        let rsa = || {
            let key = RsaKeyPair::from_pkcs8(der).or_else(|_| RsaKeyPair::from_der(der));
            key.map_err(invalid)
        };
        let key = match algorithm {
            Algorithm::HmacSha256 => return Err(KeyRejected::Kind(algorithm)),
            Algorithm::Ed25519 => {
                let key = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der);
                Signer::Ed25519(key.map_err(invalid)?)
            }
            Algorithm::EcdsaP256Sha256 => {
                let with = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
                let key = EcdsaKeyPair::from_private_key_der(with, der);
                Signer::Ecdsa(key.map_err(invalid)?)
            }
            Algorithm::RsaPssSha512 => Signer::Rsa(rsa()?, &signature::RSA_PSS_SHA512),
            Algorithm::RsaV15Sha256 => Signer::Rsa(rsa()?, &signature::RSA_PKCS1_SHA256),
        };
        let fingerprint = Fingerprint::of(algorithm, der);
        Ok(Self(Arc::new(Signing { algorithm, key, fingerprint })))
    }

    /// What it is for.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.0.algorithm
    }

    /// What tells it from other keys, and nothing of what it is.
    #[must_use]
    pub fn fingerprint(&self) -> &[u8] {
        &self.0.fingerprint.0
    }

    /// Signs `base`; `None` if the system has no random numbers.
    pub(super) fn sign(&self, base: &[u8]) -> Option<Vec<u8>> {
        match &self.0.key {
            Signer::Secret(key) => Some(hmac::sign(key, base).as_ref().to_vec()),
            Signer::Ed25519(key) => Some(key.sign(base).as_ref().to_vec()),
            Signer::Ecdsa(key) => {
                let signature = key.sign(&rand::SystemRandom::new(), base).ok()?;
                Some(signature.as_ref().to_vec())
            }
            Signer::Rsa(key, encoding) => {
                let mut signature = vec![0; key.public_modulus_len()];
                let random = rand::SystemRandom::new();
                key.sign(*encoding, &random, base, &mut signature).ok()?;
                Some(signature)
            }
        }
    }
}

fn hmac_key(secret: &[u8]) -> Result<hmac::Key, KeyRejected> {
    if secret.len() < MIN_SECRET {
        return Err(KeyRejected::TooShort);
    }
    Ok(hmac::Key::new(hmac::HMAC_SHA256, secret))
}

impl PartialEq for VerifyingKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.fingerprint == other.0.fingerprint
    }
}

impl PartialEq for SigningKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.fingerprint == other.0.fingerprint
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifyingKey").field("algorithm", &self.0.algorithm).finish_non_exhaustive()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("algorithm", &self.0.algorithm).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_registry_and_no_others() {
        for algorithm in Algorithm::ALL {
            assert_eq!(algorithm.as_str().parse(), Ok(algorithm));
        }
        for other in ["none", "HMAC-SHA256", "hs256", "rsa-sha1", ""] {
            assert_eq!(other.parse::<Algorithm>(), Err(UnknownAlgorithm), "{other}");
        }
    }

    #[test]
    fn a_public_key_is_no_secret_and_a_secret_no_public_key() {
        let secret = [7; 32];
        let refused = VerifyingKey::public(Algorithm::HmacSha256, &secret).unwrap_err();
        assert_eq!(refused, KeyRejected::Kind(Algorithm::HmacSha256));
        // 32 bytes are a raw Ed25519 key, but no point of another curve.
        for algorithm in [Algorithm::EcdsaP256Sha256, Algorithm::RsaPssSha512] {
            assert!(VerifyingKey::public(algorithm, &secret).is_err(), "{algorithm}");
        }
        assert_eq!(VerifyingKey::secret(b"guessable").unwrap_err(), KeyRejected::TooShort);
    }

    #[test]
    fn keys_are_told_apart_and_show_nothing() {
        let [one, other] = [[1; 32], [2; 32]].map(|secret| SigningKey::secret(&secret).unwrap());
        assert_ne!(one, other);
        assert_eq!(one, SigningKey::secret(&[1; 32]).unwrap());
        assert_eq!(format!("{one:?}"), "SigningKey { algorithm: HmacSha256, .. }");
    }

    #[test]
    fn what_a_private_key_signs_its_public_key_verifies() {
        use aws_lc_rs::signature::KeyPair as _;
        let pair = EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let der = pair.to_pkcs8v1().unwrap();
        let signing = SigningKey::private(Algorithm::EcdsaP256Sha256, der.as_ref()).unwrap();
        let public = pair.public_key().as_ref();
        let verifying = VerifyingKey::public(Algorithm::EcdsaP256Sha256, public).unwrap();
        let signature = signing.sign(b"base").unwrap();
        assert!(verifying.verifies(b"base", &signature));
        assert!(!verifying.verifies(b"bass", &signature));
        assert!(!verifying.verifies(b"base", &signature[1..]));
        assert!(!verifying.verifies(b"base", b""));
        assert!(SigningKey::private(Algorithm::Ed25519, der.as_ref()).is_err());
    }
}
