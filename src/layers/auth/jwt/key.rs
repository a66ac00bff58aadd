//! What signatures are checked by.
//!
//! A key is made for certain algorithms, and cannot be used by another: what a token
//! says of its algorithm only chooses among those. So a public key is never taken for a
//! secret, whatever a token asks for.

use aws_lc_rs::hmac;
use aws_lc_rs::rsa::PublicEncryptingKey;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519,
    ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
    RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384,
    RSA_PSS_2048_8192_SHA512, RsaParameters, VerificationAlgorithm,
};

use super::JwtAlgorithm;

/// How many keys without an identifier a token is tried by, at most.
const TRIED: usize = 4;

/// A key, made ready for its algorithms.
#[derive(Debug)]
pub(super) struct Key {
    /// What tokens call it.
    id: Option<Box<str>>,
    by_algorithm: Vec<(JwtAlgorithm, Verifying)>,
}

#[derive(Debug)]
enum Verifying {
    Secret(Box<hmac::Key>),
    Public(ParsedPublicKey),
}

/// Keys of one issuer.
#[derive(Debug, Default)]
pub(in crate::layers::auth) struct KeySet(Vec<Key>);

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JwtKeyError {
    /// An attacker could guess it, and then make tokens.
    #[error("{algorithm} needs a secret of at least {least} bytes, and this one has {length}")]
    Short {
        /// What it is to be used with.
        algorithm: JwtAlgorithm,
        /// How long it has to be (RFC 7518 §3.2).
        least: usize,
        /// How long it is.
        length: usize,
    },
    /// The key is of another kind.
    #[error("the key cannot be used with {0}")]
    Misfit(JwtAlgorithm),
    /// It is of no kind that is known.
    #[error("neither RSA of 2048 bits or more, nor P-256, P-384, P-521 or Ed25519")]
    Unknown,
}

/// The numbers of a public key, as they stand in a JSON Web Key.
pub(super) enum Numbers<'a> {
    /// Modulus and exponent.
    Rsa { n: &'a [u8], e: &'a [u8] },
    /// A point on the curve of this algorithm.
    Point { point: &'a [u8], on: JwtAlgorithm },
}

impl Key {
    /// A secret that both sides have.
    pub(super) fn secret(secret: &[u8], algorithms: &[JwtAlgorithm]) -> Result<Self, JwtKeyError> {
        let mut by_algorithm = Vec::with_capacity(algorithms.len());
        for &algorithm in algorithms {
            let hash = match algorithm {
                JwtAlgorithm::Hs384 => hmac::HMAC_SHA384,
                JwtAlgorithm::Hs512 => hmac::HMAC_SHA512,
                _ => hmac::HMAC_SHA256,
            };
            let least = algorithm.least_secret().ok_or(JwtKeyError::Misfit(algorithm))?;
            if secret.len() < least {
                return Err(JwtKeyError::Short { algorithm, least, length: secret.len() });
            }
            by_algorithm
                .push((algorithm, Verifying::Secret(Box::new(hmac::Key::new(hash, secret)))));
        }
        Ok(Self { id: None, by_algorithm })
    }

    /// A public key as it stands in certificates (RFC 5280 §4.1.2.7). Without `algorithms`
    /// it is used with that which fits it.
    pub(super) fn public(info: &[u8], algorithms: &[JwtAlgorithm]) -> Result<Self, JwtKeyError> {
        let fits = |algorithm| {
            let key = ParsedPublicKey::new(verification(algorithm)?, info).ok()?;
            // Of RSA the length is looked at when it is used only.
            let long_enough =
                rsa(algorithm).is_none() || PublicEncryptingKey::from_der(info).is_ok();
            long_enough.then_some((algorithm, Verifying::Public(key)))
        };
        let mut by_algorithm = Vec::new();
        for &algorithm in algorithms {
            by_algorithm.push(fits(algorithm).ok_or(JwtKeyError::Misfit(algorithm))?);
        }
        if algorithms.is_empty() {
            by_algorithm.extend(JwtAlgorithm::PUBLIC.into_iter().find_map(fits));
        }
        if by_algorithm.is_empty() {
            return Err(JwtKeyError::Unknown);
        }
        Ok(Self { id: None, by_algorithm })
    }

    /// A public key by its numbers, for those of these algorithms that fit it; `None`
    /// where none does.
    pub(super) fn numbers(
        id: Option<&str>,
        numbers: &Numbers<'_>,
        algorithms: &[JwtAlgorithm],
    ) -> Option<Self> {
        let fits = |&algorithm: &JwtAlgorithm| {
            let key = match numbers {
                Numbers::Rsa { n, e } => {
                    let components = aws_lc_rs::rsa::PublicKeyComponents { n, e };
                    components.to_parsed_public_key(rsa(algorithm)?).ok()?
                }
                Numbers::Point { point, on } if *on == algorithm => {
                    ParsedPublicKey::new(verification(algorithm)?, point).ok()?
                }
                Numbers::Point { .. } => return None,
            };
            Some((algorithm, Verifying::Public(key)))
        };
        let by_algorithm: Vec<_> = algorithms.iter().filter_map(fits).collect();
        (!by_algorithm.is_empty()).then(|| Self { id: id.map(Into::into), by_algorithm })
    }

    /// What it is used with.
    pub(super) fn algorithms(&self) -> impl Iterator<Item = JwtAlgorithm> + '_ {
        self.by_algorithm.iter().map(|(algorithm, _)| *algorithm)
    }

    fn by(&self, algorithm: JwtAlgorithm) -> Option<&Verifying> {
        self.by_algorithm.iter().find(|(one, _)| *one == algorithm).map(|(_, key)| key)
    }
}

impl Verifying {
    fn verify(&self, signed: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Secret(key) => hmac::verify(key, signed, signature).is_ok(),
            Self::Public(key) => key.verify_sig(signed, signature).is_ok(),
        }
    }
}

impl KeySet {
    pub(super) fn new(keys: Vec<Key>) -> Self {
        Self(keys)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether any key may be the one of a token that says so of it.
    pub(super) fn knows(&self, algorithm: JwtAlgorithm, id: Option<&str>) -> bool {
        self.candidates(algorithm, id).next().is_some()
    }

    /// Whether one of the keys made this signature.
    pub(super) fn verify(
        &self,
        algorithm: JwtAlgorithm,
        id: Option<&str>,
        signed: &[u8],
        signature: &[u8],
    ) -> bool {
        self.candidates(algorithm, id).any(|key| key.verify(signed, signature))
    }

    /// The keys that a token names, and then those that have no name; where it names none,
    /// any of the kind.
    fn candidates<'a>(
        &'a self,
        algorithm: JwtAlgorithm,
        id: Option<&'a str>,
    ) -> impl Iterator<Item = &'a Verifying> {
        let named = self.0.iter().filter(move |key| id.is_some() && key.id.as_deref() == id);
        let others = self.0.iter().filter(move |key| id.is_none() || key.id.is_none());
        named.chain(others).filter_map(move |key| key.by(algorithm)).take(TRIED)
    }
}

/// How a signature by a public key is checked.
fn verification(algorithm: JwtAlgorithm) -> Option<&'static dyn VerificationAlgorithm> {
    match algorithm {
        JwtAlgorithm::Es256 => Some(&ECDSA_P256_SHA256_FIXED),
        JwtAlgorithm::Es384 => Some(&ECDSA_P384_SHA384_FIXED),
        JwtAlgorithm::Es512 => Some(&ECDSA_P521_SHA512_FIXED),
        JwtAlgorithm::EdDsa => Some(&ED25519),
        other => rsa(other).map(|parameters| parameters as &dyn VerificationAlgorithm),
    }
}

fn rsa(algorithm: JwtAlgorithm) -> Option<&'static RsaParameters> {
    match algorithm {
        JwtAlgorithm::Rs256 => Some(&RSA_PKCS1_2048_8192_SHA256),
        JwtAlgorithm::Rs384 => Some(&RSA_PKCS1_2048_8192_SHA384),
        JwtAlgorithm::Rs512 => Some(&RSA_PKCS1_2048_8192_SHA512),
        JwtAlgorithm::Ps256 => Some(&RSA_PSS_2048_8192_SHA256),
        JwtAlgorithm::Ps384 => Some(&RSA_PSS_2048_8192_SHA384),
        JwtAlgorithm::Ps512 => Some(&RSA_PSS_2048_8192_SHA512),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Signer;
    use super::*;

    #[test]
    fn a_key_is_used_by_the_algorithms_that_it_was_made_for_and_no_other() {
        for algorithm in JwtAlgorithm::ALL {
            let signer = Signer::new(algorithm);
            let set = KeySet::new(vec![signer.key(&[algorithm])]);
            let signature = signer.sign(b"signed");
            for other in JwtAlgorithm::ALL {
                let right = set.verify(other, None, b"signed", &signature);
                assert_eq!(right, other == algorithm, "{algorithm} as {other}");
            }
            assert!(!set.verify(algorithm, None, b"signet", &signature), "{algorithm}");
            assert!(!set.verify(algorithm, None, b"signed", &signature[1..]), "{algorithm}");
            assert!(!set.verify(algorithm, None, b"signed", b""), "{algorithm}");
        }
    }

    #[test]
    fn a_public_key_is_no_secret_and_a_secret_is_long() {
        let info = Signer::new(JwtAlgorithm::Rs256).public().unwrap();
        for hs in [JwtAlgorithm::Hs256, JwtAlgorithm::Hs384, JwtAlgorithm::Hs512] {
            let error = Key::public(&info, &[hs]).unwrap_err();
            assert!(matches!(error, JwtKeyError::Misfit(one) if one == hs), "{error}");
        }
        let error = Key::secret(&[7; 31], &[JwtAlgorithm::Hs256]).unwrap_err();
        assert!(matches!(error, JwtKeyError::Short { least: 32, .. }), "{error}");
        let error = Key::secret(&[7; 64], &[JwtAlgorithm::Rs256]).unwrap_err();
        assert!(matches!(error, JwtKeyError::Misfit(_)), "{error}");
        let error = Key::public(b"no key", &[]).unwrap_err();
        assert!(matches!(error, JwtKeyError::Unknown), "{error}");
    }

    #[test]
    fn a_public_key_alone_tells_its_algorithm() {
        for algorithm in JwtAlgorithm::PUBLIC {
            let key = Key::public(&Signer::new(algorithm).public().unwrap(), &[]).unwrap();
            assert!(key.by(algorithm).is_some(), "{algorithm}");
            assert_eq!(key.by_algorithm.len(), 1);
        }
    }

    #[test]
    fn an_identifier_chooses_a_key_and_without_one_few_are_tried() {
        let signers: Vec<_> = (0..9).map(|_| Signer::new(JwtAlgorithm::Es256)).collect();
        let named = |index: usize, id: Option<&str>| {
            let mut key = signers[index].key(&[JwtAlgorithm::Es256]);
            key.id = id.map(Into::into);
            key
        };
        let set = KeySet::new(
            ["a", "b", "c", "d", "e"]
                .into_iter()
                .enumerate()
                .map(|(at, id)| named(at, Some(id)))
                .collect(),
        );
        let verify = |set: &KeySet, signer: usize, id| {
            set.verify(JwtAlgorithm::Es256, id, b"x", &signers[signer].sign(b"x"))
        };
        assert!(verify(&set, 4, Some("e")));
        assert!(!verify(&set, 4, Some("a")) && !verify(&set, 4, Some("E")));
        assert!(verify(&set, TRIED - 1, None) && !verify(&set, TRIED, None));
        assert!(!set.knows(JwtAlgorithm::Es256, Some("z")));
        assert!(!set.knows(JwtAlgorithm::Rs256, Some("a")));
        let nameless = KeySet::new(vec![named(8, None)]);
        assert!(verify(&nameless, 8, Some("any")));
        let last = (0..TRIED + 1).map(|at| named(at, (at == TRIED).then_some("e"))).collect();
        let last = KeySet::new(last);
        assert!(verify(&last, TRIED, Some("e")) && verify(&last, 0, Some("e")));
        assert!(!verify(&last, TRIED, Some("a")));
    }
}
