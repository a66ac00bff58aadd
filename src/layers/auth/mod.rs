//! Who may come in.

mod api_key;
mod cookies;
mod identity;
mod jwt;

pub use api_key::{ApiKeyAuth, ApiKeyLayer};
pub use identity::{StripIdentity, StripIdentityLayer};
