//! The limiter: what is known decides, and otherwise Redis.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::circuit::{Circuit, Way};
use super::decision::{Checked, DecidedBy, Deciding, Decision};
use super::flight::{End, Flight};
use super::question::{Flying, Question, Waiting};
use super::rate::{Rate, Standing};
use super::script::{Taken, Wanted};
use super::table::{Entry, Table};
use super::{OnFailure, SharedSettings};
use crate::observe::{SharedLimitCounts, SharedLimitError, SharedLimitOutcome};
use crate::pace::Quota;
use crate::redis::{Redis, RedisError};

/// Of a cluster each node is waited for or not by itself. Of more nodes than these some
/// share.
const CIRCUITS: usize = 16;

/// What the shared limits of a process go by. Cheap to clone: all clones are one.
#[derive(Clone, Debug)]
pub struct SharedLimits(Arc<Common>);

#[derive(Debug)]
struct Common {
    redis: Redis,
    circuits: [Circuit; CIRCUITS],
    started: Instant,
}

/// One limit that several instances share. Cheap to clone: all clones are one.
///
/// What it says is of all instances together, but for what each has taken ahead
/// ([`SharedSettings::lease`]). Has to be used within a tokio runtime: elsewhere it decides
/// without Redis.
#[derive(Clone)]
pub struct SharedLimiter(Arc<Inner>);

pub(super) struct Inner {
    pub(super) limits: SharedLimits,
    /// What the names of its buckets begin with.
    name: String,
    quota: Quota,
    rate: Rate,
    pub(super) settings: SharedSettings,
    pub(super) table: Table,
    pub(super) counts: SharedLimitCounts,
}

/// What one key is counted by.
#[derive(Clone, Copy)]
pub(super) struct Bucket {
    pub(super) rate: Rate,
    pub(super) digest: u128,
    /// The most that is taken ahead.
    lease: u32,
}

/// What is to be done about a request.
enum Step {
    Decided(Decision),
    /// Redis was asked for it.
    Leads(Arc<Flight>),
    /// It waits for what another has asked for.
    Waits(Arc<Flight>, Waiting),
}

impl SharedLimits {
    /// Those that go by way of this Redis. [`Redis::run`] has to be running as well.
    #[must_use]
    pub fn new(redis: Redis) -> Self {
        let circuits = Default::default();
        Self(Arc::new(Common { redis, circuits, started: Instant::now() }))
    }

    fn now(&self) -> i64 {
        i64::try_from(self.0.started.elapsed().as_micros()).unwrap_or(i64::MAX)
    }

    /// The Redis that they go by way of.
    pub(super) fn redis(&self) -> &Redis {
        &self.0.redis
    }

    pub(super) fn circuit(&self, bucket: &str) -> &Circuit {
        &self.0.circuits[self.0.redis.node_of(bucket.as_bytes()) % CIRCUITS]
    }
}

impl SharedLimiter {
    /// The limit of this name, which has to be the same on all instances, and no other's.
    #[must_use]
    pub fn new(
        limits: &SharedLimits,
        name: &str,
        quota: Quota,
        settings: &SharedSettings,
        counts: SharedLimitCounts,
    ) -> Self {
        Self(Arc::new(Inner {
            limits: limits.clone(),
            name: format!("{}:{name}", settings.prefix),
            quota,
            rate: Rate::of(&quota),
            settings: settings.clone(),
            table: Table::new(),
            counts,
        }))
    }

    /// Whether this key may pass at this cost. `key` has to be the same on all instances;
    /// only a digest of it is sent to Redis. A cost of 0 only looks, at what is known here.
    #[must_use]
    pub fn check(&self, key: &[u8], cost: u32) -> Checked {
        self.0.checks(self.0.bucket(self.0.rate, &self.0.quota, key), cost)
    }

    /// The same for a key that has a quota of its own.
    #[must_use]
    pub fn check_by(&self, quota: Quota, key: &[u8], cost: u32) -> Checked {
        self.0.checks(self.0.bucket(Rate::of(&quota), &quota, key), cost)
    }

    /// Takes what a request turned out to cost beyond what was asked for, or as much of it
    /// as there is.
    pub fn charge(&self, key: &[u8], cost: u32) {
        self.0.charges(&self.0.bucket(self.0.rate, &self.0.quota, key), cost);
    }

    /// The same for a key that has a quota of its own.
    pub fn charge_by(&self, quota: Quota, key: &[u8], cost: u32) {
        self.0.charges(&self.0.bucket(Rate::of(&quota), &quota, key), cost);
    }

    /// What it was told.
    #[must_use]
    pub fn settings(&self) -> &SharedSettings {
        &self.0.settings
    }

    /// How many keys are remembered here.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.0.table.len()
    }
}

impl Inner {
    pub(super) fn now(&self) -> i64 {
        self.limits.now()
    }

    fn bucket(&self, rate: Rate, quota: &Quota, key: &[u8]) -> Bucket {
        let mut sha = Sha256::new();
        sha.update(rate.digested());
        sha.update(key);
        let mut digest = [0; 16];
        digest.copy_from_slice(&sha.finalize()[..16]);
        let lease = self.settings.lease_of(quota).get();
        Bucket { rate, digest: u128::from_be_bytes(digest), lease }
    }

    /// What the bucket is called in Redis.
    pub(super) fn name(&self, bucket: &Bucket) -> String {
        format!("{}:{:032x}", self.name, bucket.digest)
    }

    fn checks(self: &Arc<Self>, bucket: Bucket, cost: u32) -> Checked {
        let step = match self.step(&bucket, cost) {
            Step::Decided(decision) => return Checked::Now(self.counted(decision)),
            step => step,
        };
        let inner = self.clone();
        Checked::Later(Deciding::new(async move {
            let decides = inner.decide(&bucket, cost, step);
            let decision = match tokio::time::timeout(inner.settings.deadline, decides).await {
                Ok(decision) => decision,
                Err(_) => inner.without_redis(&bucket, cost),
            };
            inner.counted(decision)
        }))
    }

    fn counted(&self, decision: Decision) -> Decision {
        self.counts.count(match decision.by {
            DecidedBy::Redis => SharedLimitOutcome::Redis,
            DecidedBy::Lease => SharedLimitOutcome::Lease,
            DecidedBy::Remembered => SharedLimitOutcome::Remembered,
            DecidedBy::FailedOpen => SharedLimitOutcome::Open,
            DecidedBy::FailedClosed => SharedLimitOutcome::Closed,
            DecidedBy::Local => SharedLimitOutcome::Local,
        });
        decision
    }

    async fn decide(self: &Arc<Self>, bucket: &Bucket, cost: u32, mut step: Step) -> Decision {
        loop {
            match step {
                Step::Decided(decision) => return decision,
                Step::Leads(flight) => {
                    return match flight.end().await {
                        End::Answered(taken) => answered(bucket, cost, taken),
                        End::Failed => self.without_redis(bucket, cost),
                    };
                }
                Step::Waits(flight, waiting) => {
                    let end = flight.end().await;
                    drop(waiting);
                    if matches!(end, End::Failed) {
                        return self.without_redis(bucket, cost);
                    }
                    step = self.step(bucket, cost);
                }
            }
        }
    }

    /// What is to be done; what Redis is to be asked is on its way.
    fn step(self: &Arc<Self>, bucket: &Bucket, cost: u32) -> Step {
        let (now, mut question) = (self.now(), None);
        let step = {
            let mut shard = self.table.shard(bucket.digest);
            match shard.entry(bucket.digest, now) {
                Some(entry) => self.by_what_is_known(bucket, cost, entry, now, &mut question),
                None => self.asks(bucket, cost, None, now, &mut question),
            }
        };
        // Not before the lock is let go of: a runtime that is ending drops it at once.
        if let Some(question) = question {
            question.ask();
        }
        step
    }

    fn by_what_is_known(
        self: &Arc<Self>,
        bucket: &Bucket,
        cost: u32,
        entry: &mut Entry,
        now: i64,
        question: &mut Option<Question>,
    ) -> Step {
        let rate = &bucket.rate;
        let decided = |entry: &Entry, admitted, by| {
            let Standing { remaining, wait, reset } = entry.standing(rate, cost, now);
            let wait = if admitted { Duration::ZERO } else { wait };
            Step::Decided(Decision { admitted, remaining, wait, reset, by })
        };
        if cost == 0 {
            return decided(entry, true, DecidedBy::Remembered);
        }
        if entry.take(cost, now) {
            if entry.runs_low(now) {
                *question = self.takes_more(bucket, entry, now);
            }
            return decided(entry, true, DecidedBy::Lease);
        }
        if cost > rate.burst() || entry.is_refused(rate, cost, now) {
            return decided(entry, false, DecidedBy::Remembered);
        }
        match &entry.flight {
            Some(flight) if flight.has_ended() => {
                Step::Decided(self.fallback(bucket, cost, Some(entry), now))
            }
            Some(flight) => {
                let flight = flight.clone();
                entry.waits(cost);
                let waiting = Waiting { inner: self.clone(), digest: bucket.digest, cost };
                Step::Waits(flight, waiting)
            }
            None => self.asks(bucket, cost, Some(entry), now, question),
        }
    }

    /// Has Redis asked, if it is any use.
    fn asks(
        self: &Arc<Self>,
        bucket: &Bucket,
        cost: u32,
        mut entry: Option<&mut Entry>,
        now: i64,
        question: &mut Option<Question>,
    ) -> Step {
        let way = self.way(bucket, now);
        let runtime = Handle::try_current().ok().filter(|_| way != Way::Closed);
        let Some(runtime) = runtime else {
            return Step::Decided(self.fallback(bucket, cost, entry, now));
        };
        let want = match &mut entry {
            None => cost,
            Some(entry) => {
                let ahead = entry.wants(bucket.lease, self.settings.lease_time, now);
                ahead.max(cost.saturating_add(entry.waiting())).min(bucket.rate.burst())
            }
        };
        let flying = self.flying(bucket, entry.as_deref_mut());
        let flight = flying.flight.clone();
        let wanted = Wanted { cost, want: want.max(cost) };
        // Whoever looks is turned away where requests are: then nothing is spoken for.
        let turned_away = way == Way::Looks && self.settings.on_failure == OnFailure::Closed;
        let spoken_for = if turned_away { 0 } else { cost };
        *question = Some(Question { runtime, flying, wanted, spoken_for });
        if way == Way::Looks {
            return Step::Decided(self.fallback(bucket, cost, entry, now));
        }
        Step::Leads(flight)
    }

    /// Takes more ahead while something is left, so that nobody has to wait for it.
    fn takes_more(
        self: &Arc<Self>,
        bucket: &Bucket,
        entry: &mut Entry,
        now: i64,
    ) -> Option<Question> {
        let runtime = Handle::try_current().ok()?;
        if self.way(bucket, now) != Way::Asks {
            return None;
        }
        let want = entry.wants(bucket.lease, self.settings.lease_time, now);
        let want = want.saturating_sub(entry.left(now));
        let wanted = (want > 0).then_some(Wanted { cost: 0, want })?;
        let flying = self.flying(bucket, Some(entry));
        Some(Question { runtime, flying, wanted, spoken_for: 0 })
    }

    fn flying(self: &Arc<Self>, bucket: &Bucket, entry: Option<&mut Entry>) -> Flying {
        let flight = Arc::new(Flight::default());
        if let Some(entry) = entry {
            entry.flight = Some(flight.clone());
        }
        Flying { inner: self.clone(), bucket: *bucket, flight }
    }

    /// Whether Redis is to be asked about a bucket.
    fn way(&self, bucket: &Bucket, now: i64) -> Way {
        let name = self.name(bucket);
        let circuit = self.limits.circuit(&name);
        if self.limits.0.redis.reaches(name.as_bytes()) {
            return circuit.way(micros(now));
        }
        self.counts.failed(SharedLimitError::Unreachable);
        circuit.failed(micros(now), &RedisError::Unreachable);
        Way::Closed
    }

    fn without_redis(&self, bucket: &Bucket, cost: u32) -> Decision {
        let now = self.now();
        let mut shard = self.table.shard(bucket.digest);
        let entry = shard.entry(bucket.digest, now);
        self.fallback(bucket, cost, entry, now)
    }

    /// Decides without Redis. Of a key that there is no room to remember nothing is counted.
    fn fallback(
        &self,
        bucket: &Bucket,
        cost: u32,
        entry: Option<&mut Entry>,
        now: i64,
    ) -> Decision {
        let burst = bucket.rate.burst();
        let zero = Duration::ZERO;
        let open = Decision {
            admitted: true,
            remaining: burst,
            wait: zero,
            reset: zero,
            by: DecidedBy::FailedOpen,
        };
        match (self.settings.on_failure, entry) {
            (OnFailure::Open, _) | (OnFailure::Local, None) => open,
            (OnFailure::Closed, _) => {
                let (admitted, remaining, by) = (false, 0, DecidedBy::FailedClosed);
                let wait = Duration::from_secs(1);
                Decision { admitted, remaining, wait, reset: zero, by }
            }
            (OnFailure::Local, Some(entry)) => {
                let instances = self.settings.instances.get();
                let (admitted, standing) = entry.count_alone(&bucket.rate, instances, cost, now);
                let Standing { remaining, wait, reset } = standing;
                Decision { admitted, remaining, wait, reset, by: DecidedBy::Local }
            }
        }
    }

    fn charges(self: &Arc<Self>, bucket: &Bucket, cost: u32) {
        let now = self.now();
        let mut cost = cost.min(bucket.rate.burst());
        if let Some(entry) = self.table.shard(bucket.digest).entry(bucket.digest, now) {
            let paid = entry.left(now).min(cost);
            entry.take(paid, now);
            cost -= paid;
            if cost > 0 && self.way(bucket, now) != Way::Asks {
                let instances = self.settings.instances.get();
                entry.charge_alone(&bucket.rate, instances, cost, now);
                return;
            }
        }
        let Ok(runtime) = Handle::try_current() else { return };
        if cost > 0 {
            let (wanted, flying) = (Wanted { cost: 0, want: cost }, self.flying(bucket, None));
            Question { runtime, flying, wanted, spoken_for: cost }.ask();
        }
    }
}

/// What Redis has decided.
fn answered(bucket: &Bucket, cost: u32, taken: Taken) -> Decision {
    let Taken { tokens, full, parts } = taken;
    let admitted = tokens >= cost;
    let Standing { remaining, wait, reset } = bucket.rate.standing(full, parts, cost);
    let ahead = tokens.saturating_sub(cost);
    let remaining = remaining.saturating_add(ahead).min(bucket.rate.burst());
    let wait = if admitted { Duration::ZERO } else { wait };
    Decision { admitted, remaining, wait, reset, by: DecidedBy::Redis }
}

pub(super) fn micros(time: i64) -> u64 {
    u64::try_from(time).unwrap_or(0)
}

impl fmt::Debug for SharedLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { name, quota, settings, .. } = &*self.0;
        f.debug_struct("SharedLimiter")
            .field("name", name)
            .field("quota", quota)
            .field("settings", settings)
            .finish_non_exhaustive()
    }
}
