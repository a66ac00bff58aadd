//! Who may come in.
//!
//! A scheme ([`Authenticate`]) judges requests; a route's policy says which schemes are
//! asked and what comes of it; the layer ([`AuthLayer`]) carries that out, answers whom
//! nobody lets in, and does not listen to those who fail too often.

mod address;
mod api_key;
mod authenticate;
mod changes;
mod failures;
mod identity;
mod mtls;
mod policy;
mod service;
mod settings;

pub use address::Addresses;
pub use api_key::ApiKeys;
pub use authenticate::{Asked, Authenticate, Changes, Grant, Judging, Verdict};
pub use identity::{StripIdentity, StripIdentityLayer};
pub use mtls::{Mtls, MtlsName, MtlsSettings, NamePattern, PatternError, SubjectNamePattern};
pub use service::{Auth, AuthFuture, AuthLayer};
pub use settings::{
    AddressSettings, AuthSettings, AuthenticatorSettings, CustomScheme, SchemeSettings,
};
