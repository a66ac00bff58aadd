//! What the shared limits of a process go by, and whether Redis is of use to one of them.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::circuit::{Circuit, Way};
use crate::redis::{Redis, RedisError};

/// Of a cluster each node is waited for or not by itself. Of more nodes than these some
/// share.
const NODES: usize = 16;

/// What the shared limits of a process go by. Cheap to clone: all clones are one.
#[derive(Clone, Debug)]
pub struct SharedLimits(Arc<Common>);

#[derive(Debug)]
struct Common {
    redis: Redis,
    circuits: Nodes,
    started: Instant,
}

/// A circuit for each node.
#[derive(Debug, Default)]
pub(super) struct Nodes([Circuit; NODES]);

/// The circuits that a limit goes by for a bucket. That a node cannot be reached is so for
/// all limits; that it does not answer in time is by the deadline of each, and what it
/// refuses may be about its keys alone.
pub(super) struct Circuits<'a> {
    all: &'a Circuit,
    own: &'a Circuit,
    limit: &'a str,
}

impl SharedLimits {
    /// Those that go by way of this Redis. [`Redis::run`] has to be running as well.
    #[must_use]
    pub fn new(redis: Redis) -> Self {
        Self(Arc::new(Common { redis, circuits: Nodes::default(), started: Instant::now() }))
    }

    /// Microseconds since it was made.
    pub(super) fn now(&self) -> i64 {
        i64::try_from(self.0.started.elapsed().as_micros()).unwrap_or(i64::MAX)
    }

    /// The Redis that they go by way of.
    pub(super) fn redis(&self) -> &Redis {
        &self.0.redis
    }

    /// The number of the circuit for a bucket; `None` if no node has it.
    pub(super) fn node(&self, bucket: &str) -> Option<usize> {
        self.0.redis.node_of(bucket.as_bytes()).map(|node| node % NODES)
    }

    /// The circuits of a limit of this name for the node that has the bucket; `None` if none
    /// has it.
    pub(super) fn circuits<'a>(
        &'a self,
        own: &'a Nodes,
        limit: &'a str,
        bucket: &str,
    ) -> Option<Circuits<'a>> {
        let node = self.node(bucket)?;
        Some(Circuits { all: &self.0.circuits.0[node], own: &own.0[node], limit })
    }
}

impl Nodes {
    /// The one of this number.
    pub(super) fn of(&self, node: usize) -> &Circuit {
        &self.0[node % NODES]
    }
}

impl Circuits<'_> {
    pub(super) fn way(&self, now: i64) -> Way {
        match self.all.way(micros(now)) {
            Way::Asks => self.own.way(micros(now)),
            way => way,
        }
    }

    /// Whether Redis is not waited for. Nobody's look is used up by asking this.
    pub(super) fn is_open(&self) -> bool {
        self.all.is_open() || self.own.is_open()
    }

    /// It has answered what was sent at a time, before the deadline or later.
    pub(super) fn answered(&self, sent: i64, now: i64, in_time: bool) {
        self.all.answered(micros(sent), micros(now), None);
        if in_time {
            self.own.answered(micros(sent), micros(now), Some(self.limit));
        }
    }

    /// It has not answered before the deadline. `true`: from now on it is not waited for.
    pub(super) fn late(&self, sent: i64, deadline: Duration, now: i64) -> bool {
        self.own.late(micros(sent), deadline, micros(now), Some(self.limit))
    }

    /// It has not done as it was told. `true`: from now on it is not waited for.
    pub(super) fn failed(&self, now: i64, error: &RedisError) -> bool {
        match error {
            RedisError::Unreachable | RedisError::Broken(_) | RedisError::TooLong(_) => {
                self.all.failed(micros(now), error, None)
            }
            RedisError::TimedOut(_) | RedisError::Refused(_) | RedisError::NoScript => {
                self.own.failed(micros(now), error, Some(self.limit))
            }
        }
    }
}

pub(super) fn micros(time: i64) -> u64 {
    u64::try_from(time).unwrap_or(0)
}
