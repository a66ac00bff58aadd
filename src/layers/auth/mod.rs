//! Who may come in.
//!
//! A scheme ([`Authenticate`]) judges requests; a route's policy says which schemes are
//! asked and what comes of it; the layer ([`AuthLayer`]) carries that out, answers whom
//! nobody lets in, and does not listen to those who fail too often.

mod address;
mod api_key;
mod authenticate;
mod changes;
mod cookies;
mod failures;
mod identity;
mod jwt;
mod policy;
mod service;
mod settings;

pub use address::Addresses;
pub use api_key::ApiKeys;
pub use authenticate::{Asked, Authenticate, Changes, Grant, Judging, Verdict};
pub use identity::{StripIdentity, StripIdentityLayer};
pub use service::{Auth, AuthFuture, AuthLayer};
pub use settings::{
    AddressSettings, AuthMeans, AuthSettings, AuthenticatorSettings, CustomScheme, SchemeSettings,
};
