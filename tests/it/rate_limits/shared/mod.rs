//! Limits that several instances share, by way of a real Redis.

mod faults;
mod limiter;
mod places;
mod proxies;
mod script;

use std::num::NonZeroU32;
use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;
use tollgate::layers::{SharedLimiter, SharedLimits, SharedSettings};
use tollgate::observe::SharedLimitCounts;
use tollgate::pace::Quota;
use tollgate::redis::{Redis as Client, RedisSettings};

/// One of several instances that share a limit.
pub struct Instance {
    pub limiter: SharedLimiter,
    pub counts: SharedLimitCounts,
    pub client: Client,
    pub limits: SharedLimits,
    _runs: AbortOnDropHandle<()>,
}

pub fn quota(requests: u32, per: Duration, burst: u32) -> Quota {
    let some = |number| NonZeroU32::new(number).unwrap();
    Quota::new(some(requests), per).burst(some(burst))
}

/// Waits for Redis for as long as it takes: what is tested is not how fast this machine is.
pub fn patient() -> SharedSettings {
    SharedSettings { deadline: Duration::from_secs(10), ..SharedSettings::default() }
}

impl Instance {
    pub async fn start(url: &str, quota: Quota, settings: &SharedSettings) -> Self {
        Self::start_with(RedisSettings::new(url.parse().unwrap()), quota, settings).await
    }

    pub async fn start_with(redis: RedisSettings, quota: Quota, settings: &SharedSettings) -> Self {
        let client = Client::new(&redis).unwrap();
        let runs = AbortOnDropHandle::new(tokio::spawn(client.clone().run()));
        client.connected().await;
        let counts = SharedLimitCounts::default();
        let limits = SharedLimits::new(client.clone());
        let limiter = SharedLimiter::new(&limits, "api/test", quota, settings, counts.clone());
        Self { limiter, counts, client, limits, _runs: runs }
    }

    pub async fn admits(&self, key: &[u8]) -> bool {
        self.limiter.check(key, 1).decided().await.admitted
    }
}
