//! Idle connections to one origin, ready to carry the next request.
//!
//! A pool is divided into shards, one for each thread that asks, as far as the
//! count goes: a worker finds the connections that its own runtime drives, and
//! no lock is shared by all cores. A worker without an idle connection takes
//! one from its neighbours before it dials, so that an origin does not see
//! cores × connections.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::client::conn::http2;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::http1::Http1;
use crate::body::Body;
use crate::proxy_protocol::Announced;
use crate::seat::seat;

/// The idle connections of one origin.
pub(super) struct Pool {
    shards: Box<[Shard]>,
    max_idle: usize,
    idle_timeout: Duration,
    /// Whether the origin spoke HTTP/2 the last time: then one connection
    /// carries all, and dialling is worth waiting in line for.
    http2: AtomicBool,
}

#[derive(Default)]
struct Shard {
    idle: Mutex<Vec<Idle>>,
    shared: Mutex<Shared>,
    dialling: tokio::sync::Mutex<()>,
}

/// The HTTP/2 connection that all share.
#[derive(Default)]
struct Shared {
    connection: Option<Http2>,
    used: Option<Instant>,
    generation: u64,
}

/// An HTTP/2 connection to send on.
#[derive(Clone)]
pub(super) struct Http2 {
    pub(super) sender: http2::SendRequest<Body>,
    /// Differs from that of every other connection of its shard.
    generation: u64,
}

struct Idle {
    http1: Box<Http1>,
    since: Instant,
}

impl Pool {
    pub(super) fn new(max_idle: usize, idle_timeout: Duration) -> Self {
        let shards = std::thread::available_parallelism().map_or(1, usize::from).min(64);
        Self {
            shards: (0..shards).map(|_| Shard::default()).collect(),
            max_idle,
            idle_timeout,
            http2: AtomicBool::new(false),
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

    /// The HTTP/2 connection that all share, if there is a live one.
    pub(super) fn shared(&self, now: Instant) -> Option<Http2> {
        if !self.http2.load(Ordering::Relaxed) {
            return None;
        }
        let mut shared = self.shards[self.mine()].shared.lock();
        if shared.is_stale(now, self.idle_timeout) {
            shared.connection = None;
        }
        shared.used = Some(now);
        shared.connection.clone()
    }

    /// Offers an HTTP/2 connection to all who come.
    pub(super) fn share(&self, sender: http2::SendRequest<Body>) -> Http2 {
        self.http2.store(true, Ordering::Relaxed);
        let mut shared = self.shards[self.mine()].shared.lock();
        shared.generation += 1;
        shared.used = Some(Instant::now());
        let connection = Http2 { sender, generation: shared.generation };
        shared.connection = Some(connection.clone());
        connection
    }

    /// Takes back a connection that should carry no new request; one that has
    /// taken its place stays.
    pub(super) fn unshare(&self, connection: &Http2) {
        let mut shared = self.shards[self.mine()].shared.lock();
        if shared.connection.as_ref().is_some_and(|c| c.generation == connection.generation) {
            shared.connection = None;
        }
    }

    /// A turn to dial, where one connection will serve all who wait.
    pub(super) async fn turn(&self) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        if self.http2.load(Ordering::Relaxed) {
            Some(self.shards[self.mine()].dialling.lock().await)
        } else {
            None
        }
    }

    /// Closes what has been idle for too long, or was closed by the origin.
    pub(super) fn sweep(&self, now: Instant) {
        let timeout = self.idle_timeout;
        for shard in &self.shards {
            let stale = |idle: &mut Idle| idle.is_stale(now, timeout);
            let mut idle = shard.idle.lock();
            let dropped: Vec<_> = idle.extract_if(.., stale).collect();
            for kept in idle.iter_mut() {
                kept.http1.rest();
            }
            drop(idle);
            drop(dropped);
            let mut shared = shard.shared.lock();
            if shared.is_stale(now, timeout) {
                // What is still under way on it is finished first.
                shared.connection = None;
            }
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

impl Shared {
    fn is_stale(&self, now: Instant, timeout: Duration) -> bool {
        let unused = self.used.is_none_or(|used| now.saturating_duration_since(used) >= timeout);
        self.connection.as_ref().is_some_and(|c| unused || c.sender.is_closed())
    }
}

impl Idle {
    fn is_stale(&mut self, now: Instant, timeout: Duration) -> bool {
        now.saturating_duration_since(self.since) >= timeout || !self.http1.is_ready()
    }
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
