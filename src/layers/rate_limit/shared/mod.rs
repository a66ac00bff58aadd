//! A limit that several instances share, by way of Redis.
//!
//! Redis has a bucket for each key, as one number: the time at which the bucket will be
//! full again (GCRA). One script looks at it and changes it, by Redis' own clock.
//!
//! | file | what it is about |
//! |---|---|
//! | `limiter` | what is known decides, and otherwise Redis |
//! | `table`, `entry` | what is known of each key here |
//! | `question`, `flight` | what Redis is asked, for all who wait for it |
//! | `script`, `gcra.lua` | what Redis is asked, and what it does |
//! | `rate` | a quota in whole numbers |
//! | `circuit`, `common` | whether Redis is waited for, by one limit and by all |
//! | `look` | whether it is of use again, though nobody asks for anything |
//! | `decision`, `settings` | what comes out, and what goes in |
//!
//! Most requests do not ask Redis. A key that is busy has a few tokens taken ahead, and
//! more of them the faster they go; and who was refused once is refused until the time that
//! Redis has named, for a bucket can only be full later than that, never earlier.

#[cfg(feature = "redis")]
mod circuit;
#[cfg(feature = "redis")]
mod common;
#[cfg(feature = "redis")]
mod decision;
#[cfg(feature = "redis")]
mod entry;
#[cfg(feature = "redis")]
mod flight;
#[cfg(feature = "redis")]
mod limiter;
#[cfg(feature = "redis")]
mod look;
#[cfg(feature = "redis")]
mod question;
#[cfg(feature = "redis")]
mod rate;
#[cfg(feature = "redis")]
mod script;
mod settings;
#[cfg(feature = "redis")]
mod table;

pub use settings::{OnFailure, SharedSettings};

#[cfg(feature = "redis")]
pub use self::{
    common::SharedLimits,
    decision::{Checked, DecidedBy, Deciding, Decision},
    limiter::SharedLimiter,
};
