//! JSON Web Tokens (RFC 7519), signed (RFC 7515).

mod algorithm;
#[cfg(feature = "jwt")]
mod believed;
#[cfg(feature = "jwt")]
mod claims;
#[cfg(feature = "jwt")]
mod grant;
#[cfg(feature = "jwt")]
mod jwk;
#[cfg(feature = "jwt")]
mod key;
#[cfg(feature = "jwt")]
mod place;
#[cfg(feature = "jwt")]
mod scheme;
mod settings;
#[cfg(test)]
#[cfg(feature = "jwt")]
pub(super) mod testing;
#[cfg(feature = "jwt")]
mod token;
#[cfg(feature = "jwt")]
mod verify;

pub use algorithm::{JwtAlgorithm, UnknownAlgorithm};
#[cfg(feature = "jwt")]
pub use key::JwtKeyError;
#[cfg(feature = "jwt")]
pub use scheme::JsonWebTokens;
pub use settings::{JwksSettings, JwtKeys, JwtPublicKey, JwtRules, JwtSettings, TokenPlace};

#[cfg(feature = "jwt")]
pub(super) use self::{
    claims::Claims,
    grant::{fields, name},
    jwk::read as jwks,
    key::KeySet,
    verify::{Checks, Fault, max_age},
};
#[cfg(feature = "jwt")]
use crate::fetch::FetchSetupError;

/// Settings that no token can be checked by.
#[cfg(feature = "jwt")]
#[derive(Debug, thiserror::Error)]
pub enum JwtSetupError {
    /// The key cannot be used.
    #[error(transparent)]
    Key(#[from] JwtKeyError),
    /// A secret that is published is none.
    #[error("{0} goes by a secret, and a set of keys is published")]
    PublishedSecret(JwtAlgorithm),
    /// Keys cannot be fetched.
    #[error(transparent)]
    Fetch(#[from] FetchSetupError),
}
