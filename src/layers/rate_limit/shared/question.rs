//! What Redis is asked, in a task of its own: whoever asked may be gone before it answers,
//! and others may wait for it.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use super::common::micros;
use super::entry::Answer;
use super::flight::{End, Flight};
use super::limiter::{Bucket, Inner};
use super::look;
use super::script::{self, Wanted};
use crate::observe::SharedLimitError;
use crate::redis::RedisError;

/// Somebody who waits for tokens that another has asked for, until it is dropped.
pub(super) struct Waiting {
    pub(super) inner: Arc<Inner>,
    pub(super) digest: u128,
    pub(super) cost: u32,
}

/// A question under way. When it is dropped it is over, however that came.
pub(super) struct Flying {
    pub(super) inner: Arc<Inner>,
    pub(super) bucket: Bucket,
    pub(super) flight: Arc<Flight>,
    /// So many of what was taken ahead are put to what it is to bring, and back if it brings
    /// nothing.
    pub(super) paid: u32,
}

/// What Redis is to be asked.
pub(super) struct Question {
    pub(super) runtime: Handle,
    pub(super) flying: Flying,
    pub(super) wanted: Wanted,
    /// How many of the tokens are not taken ahead.
    pub(super) spoken_for: u32,
}

impl Question {
    pub(super) fn ask(self) {
        let Self { runtime, flying, wanted, spoken_for } = self;
        runtime.spawn(flying.fly(wanted, spoken_for));
    }
}

impl Flying {
    /// Asks Redis, and tells those who wait what it answers.
    pub(super) async fn fly(mut self, wanted: Wanted, spoken_for: u32) {
        let (inner, bucket, flight) = (self.inner.clone(), self.bucket, self.flight.clone());
        let name = inner.name(&bucket);
        let circuits = inner.circuits(&name);
        let sent = inner.now();
        let asked = script::take(inner.limits.redis(), &name, &bucket.rate, wanted);
        tokio::pin!(asked);
        let deadline = inner.settings.deadline;
        let in_time = tokio::time::timeout(deadline, &mut asked).await;
        let is_late = in_time.is_err();
        let answer = match in_time {
            Ok(answer) => answer,
            Err(_) => {
                inner.counts.failed(SharedLimitError::Late);
                if let Some(circuits) = &circuits
                    && circuits.late(sent, deadline, inner.now())
                {
                    look::begin(&inner, &bucket);
                }
                flight.is_to_be_late();
                asked.await
            }
        };
        let now = inner.now();
        let is_answer = !matches!(&answer, Err(error) if kind(error) != SharedLimitError::Refused);
        if let Some(circuits) = circuits {
            if is_answer {
                circuits.answered(sent, now, !is_late && answer.is_ok());
            }
            if let Err(error) = &answer
                && circuits.failed(now, error)
            {
                look::begin(&inner, &bucket);
            }
        }
        match answer {
            Ok(taken) => {
                inner.counts.answered(Duration::from_micros(micros(now - sent)));
                if let Some(entry) = inner.table.shard(bucket.digest).known(bucket.digest) {
                    if taken.tokens < wanted.cost {
                        entry.give_back(self.paid, now);
                    }
                    let ahead = taken.tokens.saturating_sub(spoken_for);
                    let answer = Answer { taken: taken.tokens, ahead, full: taken.full };
                    entry.settle(&bucket.rate, &answer, sent, inner.settings.lease_time, now);
                    entry.flight.take_if(|under_way| Arc::ptr_eq(under_way, &flight));
                }
                self.paid = 0;
                flight.ends(End::Answered(taken));
            }
            Err(error) => inner.counts.failed(kind(&error)),
        }
    }
}

fn kind(error: &RedisError) -> SharedLimitError {
    match error {
        RedisError::Unreachable => SharedLimitError::Unreachable,
        RedisError::TimedOut(_) => SharedLimitError::TimedOut,
        RedisError::Refused(_) | RedisError::NoScript => SharedLimitError::Refused,
        RedisError::Broken(_) | RedisError::TooLong(_) => SharedLimitError::Broken,
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(entry) = self.inner.table.shard(self.digest).known(self.digest) {
            entry.waits_no_more(self.cost);
        }
    }
}

impl Drop for Flying {
    fn drop(&mut self) {
        let (digest, now) = (self.bucket.digest, self.inner.now());
        if let Some(entry) = self.inner.table.shard(digest).known(digest) {
            entry.give_back(self.paid, now);
            entry.flight.take_if(|under_way| Arc::ptr_eq(under_way, &self.flight));
        }
        self.flight.ends(End::Failed);
    }
}
