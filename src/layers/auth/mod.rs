//! Who may come in.

mod api_key;
mod basic;
mod flights;
mod identity;

pub use basic::{
    BasicSettings, BasicUser, HtpasswdFault, MAX_PASSWORD, PasswordError, PasswordHash,
    PasswordHashError, PasswordScheme, check_user, parse_htpasswd,
};
pub use api_key::{ApiKeyAuth, ApiKeyLayer};
pub use identity::{StripIdentity, StripIdentityLayer};
