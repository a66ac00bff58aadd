//! Login by OpenID Connect, for people with a browser.
//!
//! The way of a login: whoever has no session is sent to the identity provider
//! ([`login`]), with a cookie that holds what has to come back ([`pending`]). The provider
//! sends them to our callback with a code, which is exchanged for a token ([`provider`]);
//! the token is checked like any other, and what it says becomes a session ([`session`]) in
//! a cookie ([`seal`], [`site`]).

#[cfg(feature = "jwt")]
mod answer;
#[cfg(feature = "jwt")]
mod exchanges;
#[cfg(feature = "jwt")]
mod login;
#[cfg(feature = "jwt")]
mod pending;
#[cfg(feature = "jwt")]
mod provider;
#[cfg(feature = "jwt")]
mod scheme;
#[cfg(feature = "jwt")]
mod seal;
#[cfg(feature = "jwt")]
mod session;
mod settings;
#[cfg(feature = "jwt")]
mod site;

#[cfg(feature = "jwt")]
pub use scheme::OpenIdConnect;
pub use settings::OidcSettings;

#[cfg(feature = "jwt")]
use crate::{fetch::FetchSetupError, layers::JwtAlgorithm};

/// Settings that nobody can log in by.
#[cfg(feature = "jwt")]
#[derive(Debug, thiserror::Error)]
pub enum OidcSetupError {
    /// The provider's name is no URL.
    #[error("`{0}` is no URL of an identity provider")]
    Issuer(String),
    /// There is no secret for cookies, or an attacker could guess one.
    #[error("cookies are sealed by secrets of at least 32 bytes")]
    CookieSecret,
    /// Whoever can check such a token can make one.
    #[error("{0} goes by a secret; who somebody is, is signed by a key of the provider's")]
    Algorithm(JwtAlgorithm),
    /// Nothing can be fetched.
    #[error(transparent)]
    Fetch(#[from] FetchSetupError),
}
