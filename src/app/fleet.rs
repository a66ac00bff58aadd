//! What several instances share, and what goes on for it beside the requests.

use super::BuildError;
#[cfg(feature = "redis")]
use super::Common;
use super::keepers::Task;
use crate::config::Settings;
#[cfg(not(feature = "redis"))]
use crate::layers::AuthMeans;

/// Without Redis there is nothing to share.
#[cfg(not(feature = "redis"))]
pub(super) fn none(settings: &Settings) -> Result<(), BuildError> {
    if settings.redis.is_none() && settings.cache.fleet.is_none() {
        return Ok(());
    }
    let why = "this Tollgate was built without Redis (the feature `redis`)".to_owned();
    Err(BuildError::new(vec![why]))
}

#[cfg(not(feature = "redis"))]
impl super::Common {
    pub(super) fn beside(&self) -> Vec<Task> {
        Vec::new()
    }

    /// What schemes of authentication may need.
    pub(super) fn means(&self) -> AuthMeans {
        AuthMeans { metrics: self.metrics.clone() }
    }

    #[allow(clippy::unused_self, reason = "as where there is a Redis")]
    pub(super) fn log_in_as(&self, _settings: &Settings) {}
}

#[cfg(feature = "redis")]
pub(super) use shared::{Shared, redis};

#[cfg(feature = "redis")]
mod shared {
    use std::sync::Arc;

    use super::{BuildError, Common, Settings, Task};
    use crate::layers::{AuthMeans, Cache, Fleet, FleetPosition, SharedLimits};
    use crate::observe::Metrics;
    use crate::redis::Redis;

    /// What a process shares with others.
    #[derive(Clone, Debug)]
    pub(in crate::app) struct Shared {
        redis: Redis,
        /// What rate limits go by that are shared.
        limits: SharedLimits,
        /// How far the cache's disk has heard of purges.
        position: Option<FleetPosition>,
    }

    /// The Redis that the settings name, and the fleet that the cache is of.
    pub(in crate::app) fn redis(
        settings: &Settings,
        cache: &Cache,
        metrics: &Metrics,
    ) -> Result<Option<Shared>, BuildError> {
        let wrong = |why: String| BuildError::new(vec![why]);
        let Some(of_redis) = &settings.redis else {
            return match settings.cache.fleet {
                None => Ok(None),
                Some(_) => Err(wrong(
                    "the fleet of the cache goes by way of Redis, and there is none".to_owned(),
                )),
            };
        };
        let redis = Redis::new(of_redis).map_err(|error| wrong(error.to_string()))?;
        metrics.watch_redis(Arc::new(redis.clone()));
        let mut position = None;
        if let Some(of_fleet) = &settings.cache.fleet {
            let url = of_redis.at.to_string();
            position = settings.cache.disk.as_ref().map(|disk| {
                FleetPosition::new(disk.path.join("fleet-position"), &url, &of_fleet.stream)
            });
            let fleet = Fleet::new(of_fleet);
            metrics.watch_fleet(Arc::new(fleet.clone()));
            cache.join(&fleet);
        }
        let limits = SharedLimits::new(redis.clone());
        Ok(Some(Shared { redis, limits, position }))
    }

    impl Common {
        /// What rate limits go by that are shared, if there is a Redis.
        pub(in crate::app) fn shared_limits(&self) -> Option<&SharedLimits> {
            self.redis.as_ref().map(|shared| &shared.limits)
        }

        /// From now on Redis is asked as whom these settings say.
        pub(in crate::app) fn log_in_as(&self, settings: &Settings) {
            if let Some((shared, settings)) = self.redis.as_ref().zip(settings.redis.as_ref()) {
                shared.redis.log_in_as(settings);
            }
        }

        /// What goes on for all that, for as long as the proxy is there.
        pub(in crate::app) fn beside(&self) -> Vec<Task> {
            let Some(Shared { redis, limits: _, position }) = &self.redis else {
                return Vec::new();
            };
            let mut beside: Vec<Task> = vec![Box::pin(redis.clone().run())];
            if let Some(fleet) = self.cache.fleet() {
                let fleet = fleet.clone();
                let run = fleet.run(self.cache.clone(), redis.clone(), position.clone());
                beside.push(Box::pin(run));
            }
            beside
        }

        /// What schemes of authentication may need.
        pub(in crate::app) fn means(&self) -> AuthMeans {
            let redis = self.redis.as_ref().map(|shared| shared.redis.clone());
            AuthMeans { metrics: self.metrics.clone(), redis }
        }
    }
}
