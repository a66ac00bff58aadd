//! Redis, or Valkey, that several instances share.
//!
//! One connection carries the commands of all threads, and is made anew by itself when it
//! is lost. Whoever asks while there is none is told so at once: nothing here makes a
//! request wait. What blocks in Redis needs a connection of its own
//! ([`Redis::dedicated`]).

#[cfg(feature = "redis")]
mod connect;
#[cfg(feature = "redis")]
mod keep;
mod settings;

pub use settings::{RedisPassword, RedisSettings, RedisUrl, RedisUrlError};

#[cfg(feature = "redis")]
pub use self::{
    connect::{Dedicated, RedisError, RedisSetupError},
    keep::{Pause, Redis},
};
#[cfg(feature = "redis")]
pub use ::redis::{Cmd, Value, cmd};
