//! Who may come in.

mod api_key;

pub use api_key::{ApiKeyAuth, ApiKeyLayer};
