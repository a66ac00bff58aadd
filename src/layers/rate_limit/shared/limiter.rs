//! The limiter: what is known decides, and otherwise Redis.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::runtime::Handle;

use super::circuit::Way;
use super::common::{Circuits, Nodes, SharedLimits};
use super::decision::{Checked, DecidedBy, Deciding, Decision};
use super::entry::Entry;
use super::flight::{End, Flight};
use super::look;
use super::question::{Flying, Question, Waiting};
use super::rate::{Rate, Standing};
use super::script::{Taken, Wanted};
use super::table::Table;
use super::{OnFailure, SharedSettings};
use crate::observe::{SharedLimitCounts, SharedLimitError, SharedLimitOutcome};
use crate::pace::Quota;
use crate::redis::RedisError;

/// How many keys are remembered unless told otherwise.
const MOST_KEYS: usize = 1_000_000;

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
    /// What it counts by, in a word.
    key: String,
    pub(super) circuits: Nodes,
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
    pub(super) lease: u32,
}

/// What is to be done about a request.
enum Step {
    Decided(Decision),
    /// Redis was asked for it, or for so many tokens that it lacks.
    Leads(Arc<Flight>, u32),
    /// It waits for what another has asked for.
    Waits(Arc<Flight>, Waiting),
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
            key: String::new(),
            circuits: Nodes::default(),
            quota,
            rate: Rate::of(&quota),
            settings: settings.clone(),
            table: Table::new(MOST_KEYS),
            counts,
        }))
    }

    /// The same limit, by what `key` says in a word, which tells its buckets from those of
    /// another key: the same has to be said on all instances. No more than `max_keys` keys
    /// are remembered here, rounded up to what the tables hold; where there are more, those
    /// go that say least. Default: 1,000,000.
    ///
    /// Has to be said before it is used: it begins with nothing remembered.
    #[must_use]
    pub fn of_keys(&self, key: &str, max_keys: usize) -> Self {
        let Inner { limits, name, quota, rate, settings, counts, .. } = &*self.0;
        Self(Arc::new(Inner {
            limits: limits.clone(),
            name: name.clone(),
            key: key.to_owned(),
            circuits: Nodes::default(),
            quota: *quota,
            rate: *rate,
            settings: settings.clone(),
            table: Table::new(max_keys),
            counts: counts.clone(),
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
        sha.update((self.key.len() as u64).to_be_bytes());
        sha.update(&self.key);
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
                Step::Leads(flight, lacks) => {
                    return match flight.end().await {
                        End::Answered(taken) => answered(bucket, lacks, taken),
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
            let entry = shard.entry(bucket.digest, now);
            self.by_what_is_known(bucket, cost, entry, now, &mut question)
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
            Some(flight) if flight.is_late() => {
                Step::Decided(self.fallback(bucket, cost, entry, now))
            }
            Some(flight) => {
                let flight = flight.clone();
                entry.waits(cost);
                let waiting = Waiting { inner: self.clone(), digest: bucket.digest, cost };
                Step::Waits(flight, waiting)
            }
            None => self.asks(bucket, cost, entry, now, question),
        }
    }

    /// Has Redis asked, if it is any use.
    fn asks(
        self: &Arc<Self>,
        bucket: &Bucket,
        cost: u32,
        entry: &mut Entry,
        now: i64,
        question: &mut Option<Question>,
    ) -> Step {
        let way = self.way(bucket, now);
        let runtime = Handle::try_current().ok().filter(|_| way != Way::Closed);
        let Some(runtime) = runtime else {
            return Step::Decided(self.fallback(bucket, cost, entry, now));
        };
        // Whoever only looks takes nothing that may be of use to others.
        let paid = if way == Way::Looks { 0 } else { entry.left(now).min(cost) };
        let lacks = cost - paid;
        let ahead = entry.wants(bucket.lease, self.settings.lease_time, now);
        let want = ahead.max(lacks.saturating_add(entry.waiting())).min(bucket.rate.burst());
        entry.take(paid, now);
        let flying = self.flying(bucket, Some(&mut *entry), paid);
        let flight = flying.flight.clone();
        let wanted = Wanted { cost: lacks, want: want.max(lacks) };
        // Whoever looks is turned away where requests are: then nothing is spoken for.
        let turned_away = way == Way::Looks && self.settings.on_failure == OnFailure::Closed;
        let spoken_for = if turned_away { 0 } else { lacks };
        *question = Some(Question { runtime, flying, wanted, spoken_for });
        if way == Way::Looks {
            return Step::Decided(self.fallback(bucket, cost, entry, now));
        }
        Step::Leads(flight, lacks)
    }

    /// Takes more ahead while something is left, so that nobody has to wait for it.
    fn takes_more(
        self: &Arc<Self>,
        bucket: &Bucket,
        entry: &mut Entry,
        now: i64,
    ) -> Option<Question> {
        let runtime = Handle::try_current().ok()?;
        if !self.is_of_use(bucket) {
            return None;
        }
        let want = entry.wants(bucket.lease, self.settings.lease_time, now);
        let want = want.saturating_sub(entry.left(now));
        let wanted = (want > 0).then_some(Wanted { cost: 0, want })?;
        let flying = self.flying(bucket, Some(entry), 0);
        Some(Question { runtime, flying, wanted, spoken_for: 0 })
    }

    pub(super) fn flying(
        self: &Arc<Self>,
        bucket: &Bucket,
        entry: Option<&mut Entry>,
        paid: u32,
    ) -> Flying {
        let flight = Arc::new(Flight::default());
        if let Some(entry) = entry {
            entry.flight = Some(flight.clone());
        }
        Flying { inner: self.clone(), bucket: *bucket, flight, paid }
    }

    /// The circuits for a bucket of this name; `None` if no node has it.
    pub(super) fn circuits(&self, bucket: &str) -> Option<Circuits<'_>> {
        self.limits.circuits(&self.circuits, &self.name, bucket)
    }

    /// Whether Redis is to be asked about a bucket.
    fn way(self: &Arc<Self>, bucket: &Bucket, now: i64) -> Way {
        let name = self.name(bucket);
        let circuits = self.circuits(&name);
        if let Some(circuits) = &circuits
            && self.limits.redis().reaches(name.as_bytes())
        {
            let way = circuits.way(now);
            if way != Way::Asks {
                // The limit that looked may have gone with a reload.
                look::begin(self, bucket);
            }
            return way;
        }
        self.counts.failed(SharedLimitError::Unreachable);
        if let Some(circuits) = circuits {
            circuits.failed(now, &RedisError::Unreachable);
            look::begin(self, bucket);
        }
        Way::Closed
    }

    /// Whether Redis is there for more than to be looked at.
    fn is_of_use(&self, bucket: &Bucket) -> bool {
        let name = self.name(bucket);
        self.circuits(&name).is_some_and(|circuits| !circuits.is_open())
            && self.limits.redis().reaches(name.as_bytes())
    }

    fn without_redis(&self, bucket: &Bucket, cost: u32) -> Decision {
        let now = self.now();
        let mut shard = self.table.shard(bucket.digest);
        let entry = shard.entry(bucket.digest, now);
        self.fallback(bucket, cost, entry, now)
    }

    /// Decides without Redis.
    fn fallback(&self, bucket: &Bucket, cost: u32, entry: &mut Entry, now: i64) -> Decision {
        let zero = Duration::ZERO;
        match self.settings.on_failure {
            OnFailure::Open => {
                let (remaining, by) = (bucket.rate.burst(), DecidedBy::FailedOpen);
                Decision { admitted: true, remaining, wait: zero, reset: zero, by }
            }
            OnFailure::Closed => {
                let (admitted, remaining, by) = (false, 0, DecidedBy::FailedClosed);
                let wait = Duration::from_secs(1);
                Decision { admitted, remaining, wait, reset: zero, by }
            }
            OnFailure::Local => {
                let instances = self.settings.instances.get();
                let (admitted, standing) = entry.count_alone(&bucket.rate, instances, cost, now);
                let Standing { remaining, wait, reset } = standing;
                Decision { admitted, remaining, wait, reset, by: DecidedBy::Local }
            }
        }
    }

    fn charges(self: &Arc<Self>, bucket: &Bucket, cost: u32) {
        let (now, mut cost) = (self.now(), cost.min(bucket.rate.burst()));
        let runtime = {
            let mut shard = self.table.shard(bucket.digest);
            let entry = shard.entry(bucket.digest, now);
            let paid = entry.left(now).min(cost);
            entry.take(paid, now);
            cost -= paid;
            if cost == 0 {
                return;
            }
            let runtime = Handle::try_current().ok().filter(|_| self.is_of_use(bucket));
            if runtime.is_none() {
                let instances = self.settings.instances.get();
                entry.charge_alone(&bucket.rate, instances, cost, now);
            }
            runtime
        };
        if let Some(runtime) = runtime {
            let wanted = Wanted { cost: 0, want: cost };
            let flying = self.flying(bucket, None, 0);
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
