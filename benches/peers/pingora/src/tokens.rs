//! A token bucket for each client address.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

const SHARDS: usize = 16;

/// A shard forgets full buckets when it has grown to this.
const MOST: usize = 4_096;

/// Buckets that fill at one rate, and hold what comes in one second.
pub struct TokenBuckets {
    rate: f64,
    hasher: RandomState,
    shards: [Mutex<HashMap<IpAddr, Bucket>>; SHARDS],
}

struct Bucket {
    tokens: f64,
    since: Instant,
}

impl TokenBuckets {
    /// So many requests a second for each address.
    pub fn new(rate: u32) -> Self {
        let shards = std::array::from_fn(|_| Mutex::new(HashMap::new()));
        Self { rate: rate.into(), hasher: RandomState::new(), shards }
    }

    /// Takes a token, if there is one.
    pub fn take(&self, client: IpAddr, now: Instant) -> bool {
        let shard = self.hasher.hash_one(client) as usize % SHARDS;
        let mut buckets = self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MOST {
            buckets.retain(|_, bucket| self.level(bucket, now) < self.rate);
        }
        let bucket = match buckets.entry(client) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(Bucket { tokens: self.rate, since: now }),
        };
        bucket.tokens = self.level(bucket, now);
        bucket.since = now;
        let has_one = bucket.tokens >= 1.0;
        if has_one {
            bucket.tokens -= 1.0;
        }
        has_one
    }

    fn level(&self, bucket: &Bucket, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(bucket.since).as_secs_f64();
        (bucket.tokens + passed * self.rate).min(self.rate)
    }
}
