//! Who may come in.

mod api_key;
mod identity;

pub use api_key::{ApiKeyAuth, ApiKeyLayer};
pub use identity::{StripIdentity, StripIdentityLayer};
