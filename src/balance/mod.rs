//! Which origin is asked next.

mod round_robin;

use std::fmt::Debug;
use std::sync::Arc;

pub use round_robin::RoundRobin;

use crate::upstream::{Origin, Upstream};

/// Picks an origin for each request.
pub trait Balance: Debug + Send + Sync {
    /// The origin to ask, or `None` if none is fit that is not in `tried`.
    fn pick(&self, tried: &[Arc<Origin>]) -> Option<Arc<Origin>>;

    /// The upstream whose origins are picked.
    fn upstream(&self) -> &Arc<Upstream>;
}
