//! The algorithms that tokens are signed by (RFC 7518 §3, RFC 8037, RFC 9864).

use std::fmt;
use std::str::FromStr;

/// How a token is signed.
///
/// There is none for `none`, so no token can ask for it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum JwtAlgorithm {
    /// HMAC with SHA-256, by a secret that both sides have.
    Hs256,
    /// HMAC with SHA-384.
    Hs384,
    /// HMAC with SHA-512.
    Hs512,
    /// RSA (PKCS #1 v1.5) with SHA-256.
    Rs256,
    /// RSA (PKCS #1 v1.5) with SHA-384.
    Rs384,
    /// RSA (PKCS #1 v1.5) with SHA-512.
    Rs512,
    /// RSA (PSS) with SHA-256.
    Ps256,
    /// RSA (PSS) with SHA-384.
    Ps384,
    /// RSA (PSS) with SHA-512.
    Ps512,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// ECDSA on P-521 with SHA-512.
    Es512,
    /// Ed25519.
    EdDsa,
}

/// What a text is that names no algorithm.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected an algorithm such as \"RS256\", \"ES256\" or \"EdDSA\"")]
pub struct UnknownAlgorithm;

impl JwtAlgorithm {
    /// Every one.
    pub const ALL: [Self; 13] = [
        Self::Hs256,
        Self::Hs384,
        Self::Hs512,
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::Es256,
        Self::Es384,
        Self::Es512,
        Self::EdDsa,
    ];

    /// Those that a public key is used with unless told otherwise: one of each kind of key.
    pub const PUBLIC: [Self; 5] = [Self::Rs256, Self::Es256, Self::Es384, Self::Es512, Self::EdDsa];

    /// Its name in a token.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Hs384 => "HS384",
            Self::Hs512 => "HS512",
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
            Self::EdDsa => "EdDSA",
        }
    }

    /// How long a secret has to be that it is used with, in bytes (RFC 7518 §3.2).
    #[must_use]
    pub fn least_secret(self) -> Option<usize> {
        match self {
            Self::Hs256 => Some(32),
            Self::Hs384 => Some(48),
            Self::Hs512 => Some(64),
            _ => None,
        }
    }

    /// Whether whoever checks a token could also make one.
    #[must_use]
    pub fn is_symmetric(self) -> bool {
        self.least_secret().is_some()
    }
}

impl FromStr for JwtAlgorithm {
    type Err = UnknownAlgorithm;

    fn from_str(name: &str) -> Result<Self, UnknownAlgorithm> {
        // RFC 9864 says which curve it is.
        let name = if name == "Ed25519" { "EdDSA" } else { name };
        Self::ALL.into_iter().find(|one| one.as_str() == name).ok_or(UnknownAlgorithm)
    }
}

impl fmt::Display for JwtAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_read_by_its_own_name_only() {
        for one in JwtAlgorithm::ALL {
            assert_eq!(one.as_str().parse(), Ok(one));
        }
        assert_eq!("Ed25519".parse(), Ok(JwtAlgorithm::EdDsa));
        for name in ["none", "None", "NONE", "", "rs256", "RS256 ", "HS1", "ES256K", "Ed448"] {
            assert_eq!(name.parse::<JwtAlgorithm>(), Err(UnknownAlgorithm), "{name}");
        }
    }
}
