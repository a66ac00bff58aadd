//! Who may come in.
//!
//! A scheme ([`Authenticate`]) judges requests; a route's policy says which schemes are
//! asked and what comes of it; the layer ([`AuthLayer`]) carries that out, answers whom
//! nobody lets in, and does not listen to those who fail too often.

mod address;
mod api_key;
mod attempt;
mod authenticate;
mod basic;
mod changes;
mod cookies;
mod failures;
mod flights;
mod forward;
mod held;
mod identity;
mod jwt;
#[cfg(feature = "jwt")]
mod kept;
mod mtls;
mod oidc;
mod policy;
mod secret;
mod service;
mod settings;
mod shares;
mod signature;

pub use address::Addresses;
pub use api_key::{
    ApiKey, ApiKeySettings, ApiKeys, RedisKeySettings, check_key_name, check_key_prefix,
    check_scope,
};
pub use authenticate::{Asked, Authenticate, Changes, Grant, Judging, Verdict};
pub use basic::{
    Basic, BasicSettings, BasicUser, HtpasswdFault, MAX_PASSWORD, PasswordError, PasswordHash,
    PasswordHashError, PasswordScheme, check_user, parse_htpasswd,
};
pub use failures::FailureCount;
pub use forward::{DecisionCacheSettings, ForwardAuth, ForwardAuthSettings, KeyPart, ToldFields};
pub use identity::{StripIdentity, StripIdentityLayer};
#[cfg(feature = "jwt")]
pub use jwt::{JsonWebTokens, JwtKeyError, JwtSetupError};
pub use jwt::{
    JwksSettings, JwtAlgorithm, JwtKeys, JwtPublicKey, JwtRules, JwtSettings, TokenPlace,
    UnknownAlgorithm,
};
pub use mtls::{Mtls, MtlsName, MtlsSettings, NamePattern, PatternError, SubjectNamePattern};
pub use oidc::OidcSettings;
#[cfg(feature = "jwt")]
pub use oidc::{OidcSetupError, OpenIdConnect};
pub use policy::Authenticator;
pub use secret::SharedSecret;
pub use service::{Auth, AuthFuture, AuthLayer};
pub use settings::{
    AddressSettings, AuthMeans, AuthSettings, AuthenticatorSettings, CustomScheme, SchemeSettings,
};
pub use signature::{SignatureKey, SignatureSettings, Signatures};
