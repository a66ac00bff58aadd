//! The layers of the request path.

mod settings;

pub use settings::{
    ApiKey, ApiKeySettings, HeaderChanges, HeaderRewriteSettings, KeyDigest, RateLimitSettings,
    TrustSettings,
};
