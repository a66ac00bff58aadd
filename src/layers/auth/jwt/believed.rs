//! Tokens that were believed: the same token is mostly shown again and again, and its
//! signature stays as good as it was.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use foldhash::fast::RandomState;
use moka::sync::Cache;

use super::key::KeySet;
use crate::layers::Grant;

/// What all of them take together, in bytes, about.
const MOST: u64 = 8 << 20;
/// What one takes besides its claims.
const EACH: usize = 512;
/// Claims take so many times what they have in the token.
const CLAIMS: usize = 4;
/// One that is not shown for so long is forgotten.
const IDLE: Duration = Duration::from_secs(600);

/// A token, by a digest: a copy of this memory lets nobody in.
type Mark = [u8; 32];

/// What was made of tokens that were believed.
pub(super) struct Believed(Cache<Mark, Entry, RandomState>);

#[derive(Clone)]
struct Entry {
    /// What it was checked by. With other keys it is checked again.
    keys: Arc<KeySet>,
    /// When the token is good, in seconds since 1970.
    times: Range<f64>,
    grant: Grant,
    weight: u32,
}

impl Believed {
    pub(super) fn new() -> Self {
        let cache = Cache::builder()
            .max_capacity(MOST)
            .weigher(|_: &Mark, entry: &Entry| entry.weight)
            .time_to_idle(IDLE);
        Self(cache.build_with_hasher(RandomState::default()))
    }

    /// What was made of this token, if it was believed by these keys and is good now.
    pub(super) fn get(&self, mark: &Mark, keys: &Arc<KeySet>, now: f64) -> Option<Grant> {
        let entry = self.0.get(mark)?;
        (Arc::ptr_eq(&entry.keys, keys) && entry.times.contains(&now)).then_some(entry.grant)
    }

    /// Remembers what was made of a token of this length.
    pub(super) fn put(
        &self,
        mark: Mark,
        length: usize,
        keys: Arc<KeySet>,
        times: Range<f64>,
        grant: Grant,
    ) {
        let weight = u32::try_from(length * CLAIMS + EACH).unwrap_or(u32::MAX);
        self.0.insert(mark, Entry { keys, times, grant, weight });
    }
}

/// What a token is known by.
pub(super) fn mark(token: &str) -> Mark {
    let mut mark = [0; 32];
    mark.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    mark
}

impl fmt::Debug for Believed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Believed").field(&self.0.entry_count()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Identity;

    #[test]
    fn a_token_is_known_by_its_keys_and_in_its_time_only() {
        let believed = Believed::new();
        let keys = Arc::new(KeySet::default());
        let grant = Grant::to(Identity::new("alice", "jwt"));
        believed.put(mark("token"), 5, keys.clone(), 10.0..20.0, grant);
        let name = |token, keys, now| {
            let grant: Grant = believed.get(&mark(token), keys, now)?;
            Some(grant.identity?.name.to_string())
        };
        let other_keys = Arc::new(KeySet::default());
        for (token, keys, now, known) in [
            ("token", &keys, 10.0, true),
            ("token", &keys, 19.9, true),
            ("token", &keys, 20.0, false),
            ("token", &keys, 9.9, false),
            ("tokem", &keys, 15.0, false),
            ("token", &other_keys, 15.0, false),
        ] {
            let expected = known.then(|| "alice".to_owned());
            assert_eq!(name(token, keys, now), expected, "{token} at {now}");
        }
    }

    #[test]
    fn no_more_is_remembered_than_there_is_room_for() {
        let believed = Believed::new();
        let keys = Arc::new(KeySet::default());
        let length = 8 * 1024;
        for number in 0..2000 {
            let mark = mark(&number.to_string());
            believed.put(mark, length, keys.clone(), 0.0..1.0, Grant::default());
        }
        believed.0.run_pending_tasks();
        assert!(believed.0.weighted_size() <= MOST, "{}", believed.0.weighted_size());
        assert!(believed.0.entry_count() > 100, "{}", believed.0.entry_count());
    }
}
