//! Redis, or Valkey, that several instances share.
//!
//! | file | what it is about |
//! |---|---|
//! | `keep` | Redis as everybody has it, wherever it is |
//! | `link` | the connection to one node that all share, and what becomes of it |
//! | `sentinel` | who the master is |
//! | `cluster`, `slots` | several masters, and which has which keys |
//! | `connect` | one connection: TCP, TLS and authentication |
//! | `answers` | how long the answers are that come in |
//!
//! One connection to a node carries the commands of all threads, and is made anew by itself
//! when it is lost. Whoever asks while there is none is told so at once: nothing here makes
//! a request wait. What blocks in Redis needs a connection of its own
//! ([`Redis::dedicated_to`]). Every command is about one key, and a cluster has it carried
//! out where that is.

#[cfg(feature = "redis")]
mod answers;
#[cfg(feature = "redis")]
mod cluster;
#[cfg(feature = "redis")]
mod connect;
#[cfg(feature = "redis")]
mod keep;
#[cfg(feature = "redis")]
mod link;
#[cfg(feature = "redis")]
mod pause;
#[cfg(feature = "redis")]
mod sentinel;
mod settings;
#[cfg(feature = "redis")]
mod slots;

pub use settings::{
    RedisAt, RedisPassword, RedisSettings, RedisUrl, RedisUrlError, SentinelSettings,
};

#[cfg(feature = "redis")]
pub use self::{
    connect::{Dedicated, RedisError, RedisSetupError},
    keep::Redis,
    pause::Pause,
};
#[cfg(feature = "redis")]
pub use ::redis::{Cmd, Value, cmd};
