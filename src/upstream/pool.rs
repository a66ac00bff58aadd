//! Connections to one origin that may carry the next request: idle ones of
//! HTTP/1.1, and those of HTTP/2 with room.
//!
//! A pool is divided into shards, one for each thread that asks, as far as the
//! count goes: a worker finds the connections that its own runtime drives, and
//! no lock is shared by all cores. A worker without an idle connection takes
//! one from its neighbours before it dials, so that an origin does not see
//! cores × connections. Those of HTTP/2 each worker has for itself, unless the
//! number of connections is limited.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::http1::Http1;
use super::http2::{self, Claim, Dialling};
use crate::proxy_protocol::Announced;
use crate::seat::seat;

/// The connections of one origin that may carry another request.
pub(super) struct Pool {
    shards: Box<[Shard]>,
    max_idle: usize,
    idle_timeout: Duration,
    /// Whether the origin speaks HTTP/2: then connections are shared, and one
    /// that is being made is worth waiting for.
    speaks: AtomicU8,
    /// Whether its origin has left the upstream: nothing is kept any more.
    retired: AtomicBool,
    /// Whether its origin is drained: nothing is kept for as long as it is.
    drained: Arc<AtomicBool>,
}

const UNKNOWN: u8 = 0;
const HTTP1: u8 = 1;
const HTTP2: u8 = 2;

#[derive(Default)]
struct Shard {
    idle: Mutex<Vec<Idle>>,
    http2: Arc<http2::Set>,
}

struct Idle {
    http1: Box<Http1>,
    since: Instant,
}

impl Pool {
    /// `http2` says which version the origin speaks, if that is known.
    pub(super) fn new(
        drained: Arc<AtomicBool>,
        max_idle: usize,
        idle_timeout: Duration,
        http2: Option<bool>,
    ) -> Self {
        let shards = std::thread::available_parallelism().map_or(1, usize::from).min(64);
        Self {
            shards: (0..shards).map(|_| Shard::default()).collect(),
            max_idle,
            idle_timeout,
            speaks: AtomicU8::new(http2.map_or(UNKNOWN, says)),
            retired: AtomicBool::new(false),
            drained,
        }
    }

    fn mine(&self) -> usize {
        seat() % self.shards.len()
    }

    /// An idle HTTP/1.1 connection, the most recently used first: it is the
    /// least likely to have been closed by the origin. Where the origin is told
    /// whose connection each is, one that was told the very same.
    pub(super) fn take(&self, announced: Option<Announced>, now: Instant) -> Option<Box<Http1>> {
        let mine = self.mine();
        let take = |shard: &Shard| shard.take(announced, now, self.idle_timeout);
        take(&self.shards[mine]).or_else(|| {
            let (before, after) = self.shards.split_at(mine);
            let mut http1 = after[1..].iter().chain(before).find_map(take)?;
            http1.settle_here();
            Some(http1)
        })
    }

    /// Keeps a connection that is ready for the next request.
    pub(super) fn put(&self, http1: Box<Http1>) {
        let _replaced;
        let mut idle = self.shards[self.mine()].idle.lock();
        // Looked at under the lock: whoever closes what must go comes before or
        // after.
        if http1.is_astray() || self.keeps_nothing() {
            return;
        }
        if idle.len() >= self.max_idle {
            if idle.is_empty() || http1.announced().is_none() {
                return;
            }
            // The client it is for is more likely to come again.
            _replaced = idle.remove(0);
        }
        idle.push(Idle { http1, since: Instant::now() });
    }

    /// Closes an idle connection, the one that has been so for the longest in its
    /// shard; `false` if there is none.
    pub(super) fn give_up_one(&self) -> bool {
        let (before, after) = self.shards.split_at(self.mine());
        after.iter().chain(before).any(|shard| {
            let mut idle = shard.idle.lock();
            let oldest = (!idle.is_empty()).then(|| idle.remove(0));
            drop(idle);
            oldest.is_some()
        })
    }

    /// Remembers what the origin has agreed to speak.
    pub(super) fn learn(&self, http2: bool) {
        self.speaks.store(says(http2), Ordering::Relaxed);
    }

    /// Whether a connection that is being made may carry more than one request.
    pub(super) fn may_share(&self) -> bool {
        self.speaks.load(Ordering::Relaxed) != HTTP1
    }

    /// Room on an HTTP/2 connection of this worker.
    pub(super) fn shared(&self, now: Instant) -> Option<http2::Lease> {
        if self.speaks.load(Ordering::Relaxed) != HTTP2 {
            return None;
        }
        self.shards[self.mine()].http2.lease(now, self.idle_timeout)
    }

    /// Room on an HTTP/2 connection of any worker.
    pub(super) fn shared_by_any(&self) -> Option<http2::Lease> {
        let now = Instant::now();
        self.shards.iter().find_map(|shard| shard.http2.lease(now, self.idle_timeout))
    }

    /// Room on an HTTP/2 connection of this worker, now or later.
    pub(super) fn claim(&self, most: usize) -> Claim {
        self.shards[self.mine()].http2.claim(most)
    }

    /// An HTTP/2 connection to be made, whatever there is.
    pub(super) fn dial(&self) -> Dialling {
        self.shards[self.mine()].http2.dial()
    }

    /// Keeps nothing any more: its origin has left the upstream.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
        self.clear();
    }

    /// Lets go of all connections; what is under way on them is finished first.
    pub(super) fn clear(&self) {
        for shard in &self.shards {
            let idle = std::mem::take(&mut *shard.idle.lock());
            drop(idle);
            shard.http2.clear();
        }
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    fn keeps_nothing(&self) -> bool {
        self.is_retired() || self.drained.load(Ordering::Acquire)
    }

    /// Closes what has been idle for too long, was closed by the origin, or leads
    /// to where its name does not point any more.
    pub(super) fn sweep(&self, now: Instant) {
        let timeout = if self.keeps_nothing() { Duration::ZERO } else { self.idle_timeout };
        for shard in &self.shards {
            let stale = |idle: &mut Idle| idle.is_stale(now, timeout);
            let mut idle = shard.idle.lock();
            let dropped: Vec<_> = idle.extract_if(.., stale).collect();
            for kept in idle.iter_mut() {
                kept.http1.rest();
            }
            drop(idle);
            drop(dropped);
            // What is still under way on one is finished first.
            shard.http2.sweep(now, timeout);
        }
    }
}

impl Shard {
    fn take(
        &self,
        announced: Option<Announced>,
        now: Instant,
        timeout: Duration,
    ) -> Option<Box<Http1>> {
        loop {
            let mut candidate = match announced {
                None => self.idle.lock().pop()?,
                Some(_) => {
                    let mut idle = self.idle.lock();
                    let same = |idle: &Idle| idle.http1.announced() == announced;
                    let at = idle.iter().rposition(same)?;
                    idle.remove(at)
                }
            };
            if !candidate.is_stale(now, timeout) {
                return Some(candidate.http1);
            }
        }
    }
}

impl Idle {
    fn is_stale(&mut self, now: Instant, timeout: Duration) -> bool {
        now.saturating_duration_since(self.since) >= timeout
            || self.http1.is_astray()
            || !self.http1.is_ready()
    }
}

fn says(http2: bool) -> u8 {
    if http2 { HTTP2 } else { HTTP1 }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("shards", &self.shards.len())
            .field("max_idle", &self.max_idle)
            .field("idle_timeout", &self.idle_timeout)
            .finish_non_exhaustive()
    }
}
