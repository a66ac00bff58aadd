//! Which origin is asked next.

mod hashed;
mod key;
mod round_robin;

use std::fmt::Debug;
use std::sync::Arc;

use http::Request;

pub use hashed::Hashed;
pub use round_robin::RoundRobin;

use crate::body::Body;
use crate::upstream::{Origin, Upstream};

/// Picks an origin for each request.
pub trait Balance: Debug + Send + Sync {
    /// What of a request its origin is picked by, as it comes to be forwarded: before
    /// anything is changed for an origin.
    fn key(&self, _request: &Request<Body>) -> u64 {
        0
    }

    /// The origin to ask for this key, or `None` if none is fit that is not in `tried`.
    fn pick(&self, key: u64, tried: &[Arc<Origin>]) -> Option<Arc<Origin>>;

    /// The upstream whose origins are picked.
    fn upstream(&self) -> &Arc<Upstream>;
}
