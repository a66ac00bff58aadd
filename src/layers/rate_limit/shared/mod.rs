//! A limit that several instances share, by way of Redis.
//!
//! Redis has a bucket for each key, as one number: the time at which the bucket will be
//! full again (GCRA). One script looks at it and changes it, by Redis' own clock.

#[cfg(feature = "redis")]
mod decision;
#[cfg(feature = "redis")]
mod limiter;
mod settings;

pub use settings::{OnFailure, SharedSettings};

#[cfg(feature = "redis")]
pub use self::{
    decision::{Checked, DecidedBy, Deciding, Decision},
    limiter::{SharedLimiter, SharedLimits},
};
