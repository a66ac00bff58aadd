//! How a limit is shared.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::pace::Quota;

/// How a limit is shared by several instances.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SharedSettings {
    /// The most that is taken ahead of what a key has asked for, so that a busy key does
    /// not ask Redis for each request. `None`: a fiftieth of the burst, at least 1. What
    /// each instance has taken ahead is what the limit is inexact by. 1 takes nothing
    /// ahead.
    pub lease: Option<NonZeroU32>,
    /// What was taken ahead and is not used by then is lost. Default 1 s.
    pub lease_time: Duration,
    /// How long a request waits for Redis. Default 5 ms.
    pub deadline: Duration,
    /// What is done without an answer of Redis.
    pub on_failure: OnFailure,
    /// By how many instances [`OnFailure::Local`] divides the quota. Default 1: each lets
    /// through as many as the whole limit does.
    pub instances: NonZeroU32,
    /// What the keys in Redis begin with. Default `tollgate:limit`.
    pub prefix: String,
}

/// What becomes of a request about which Redis has not said anything in time.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum OnFailure {
    /// It is let through.
    Open,
    /// It is turned away, as one that cannot be served now (503).
    Closed,
    /// This instance counts by itself.
    #[default]
    Local,
}

impl SharedSettings {
    /// The most that is taken ahead for a key with this quota.
    #[must_use]
    pub fn lease_of(&self, quota: &Quota) -> NonZeroU32 {
        let share = NonZeroU32::new(quota.burst.get() / 50).unwrap_or(NonZeroU32::MIN);
        self.lease.unwrap_or(share).min(quota.burst)
    }
}

impl Default for SharedSettings {
    fn default() -> Self {
        Self {
            lease: None,
            lease_time: Duration::from_secs(1),
            deadline: Duration::from_millis(5),
            on_failure: OnFailure::default(),
            instances: NonZeroU32::MIN,
            prefix: "tollgate:limit".to_owned(),
        }
    }
}
