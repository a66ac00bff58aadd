//! The head of a stored response as bytes, as it lies on disk.
//!
//! What is read may be anything: another version's, or what is left of a file. It is
//! then no head at all. Times are the clock's on the wall, for a process ends and its
//! clock with it; where that clock may have been set back, a response is validated
//! before it is used.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use bytes::{BufMut, Bytes, BytesMut};
use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;

use super::key::Selecting;
use super::policy::Freshness;
use super::store::Head;

/// Changes with whatever is written differently, or means something else.
const VERSION: u8 = 1;

const NO_CACHE: u8 = 1;
const NEVER_STALE: u8 = 2;
const CONDEMNED: u8 = 4;
const IMMUTABLE: u8 = 8;

/// A time on the wall, in milliseconds since 1970.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Wall(u64);

impl Wall {
    /// For what is written: not later than it is, as far as this process can tell.
    pub(super) fn to_write() -> Self {
        let (by_start, now) = clocks();
        Self(by_start.min(now))
    }

    /// For what is read: not earlier than it is, as far as this process can tell.
    pub(super) fn to_read() -> Self {
        let (by_start, now) = clocks();
        Self(by_start.max(now))
    }
}

/// The time by the clock that was read first and what has passed since, and by the clock
/// as it is now. They differ once it has been set.
fn clocks() -> (u64, u64) {
    static START: OnceLock<(Instant, SystemTime)> = OnceLock::new();
    let now = SystemTime::now();
    let (began, at) = *START.get_or_init(|| (Instant::now(), now));
    let by_start = at.checked_add(began.elapsed()).unwrap_or(now);
    (since_1970(by_start), since_1970(now))
}

fn since_1970(time: SystemTime) -> u64 {
    millis(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What is written of a head at this time.
pub(super) fn encode(head: &Head, now: Instant, wall: Wall) -> Bytes {
    let Head { id, status, headers, selecting, freshness, tags } = head;
    let Freshness {
        received: _,
        initial_age: _,
        lifetime,
        no_cache,
        never_stale,
        while_revalidate,
        if_error,
        immutable,
        condemned,
    } = freshness;
    let mut to = BytesMut::with_capacity(512);
    to.put_u8(VERSION);
    to.put_u64_le(*id);
    to.put_u16_le(status.as_u16());
    let flags = [
        (no_cache, NO_CACHE),
        (never_stale, NEVER_STALE),
        (condemned, CONDEMNED),
        (immutable, IMMUTABLE),
    ];
    to.put_u8(flags.iter().filter(|(is, _)| **is).map(|(_, flag)| flag).sum());
    to.put_u64_le(wall.0);
    // Of what is cut off none may make it fresher.
    to.put_u64_le(millis(freshness.age(now)).saturating_add(1));
    for time in [lifetime, while_revalidate, if_error] {
        to.put_u64_le(millis(*time));
    }
    put_count(&mut to, headers.len());
    for (name, value) in headers {
        put(&mut to, name.as_str().as_bytes());
        put(&mut to, value.as_bytes());
    }
    put_count(&mut to, selecting.parts().count());
    for (name, value) in selecting.parts() {
        put(&mut to, name.as_str().as_bytes());
        to.put_u8(u8::from(value.is_some()));
        put(&mut to, value.unwrap_or_default());
    }
    put_count(&mut to, tags.len());
    for tag in tags {
        put(&mut to, tag.as_bytes());
    }
    to.freeze()
}

/// The head that was written, if it is one, as it is at this time.
pub(super) fn decode(bytes: &[u8], now: Instant, wall: Wall) -> Option<Head> {
    let mut from = Reader(bytes);
    if from.byte()? != VERSION {
        return None;
    }
    let id = from.number()?;
    let status = StatusCode::from_u16(u16::from_le_bytes(from.array()?)).ok()?;
    let flags = from.byte()?;
    let written = from.number()?;
    let age = from.time()?;
    let (lifetime, while_revalidate, if_error) = (from.time()?, from.time()?, from.time()?);
    let mut headers = HeaderMap::new();
    for _ in 0..from.count()? {
        let name = HeaderName::from_bytes(from.bytes()?).ok()?;
        let value = HeaderValue::from_bytes(from.bytes()?).ok()?;
        headers.try_append(name, value).ok()?;
    }
    let mut parts = Vec::new();
    for _ in 0..from.count()? {
        let name = HeaderName::from_bytes(from.bytes()?).ok()?;
        let has_value = from.byte()? == 1;
        let value = from.bytes()?;
        parts.push((name, has_value.then(|| value.into())));
    }
    let mut tags = Vec::new();
    for _ in 0..from.count()? {
        tags.push(std::str::from_utf8(from.bytes()?).ok()?.into());
    }
    if !from.0.is_empty() {
        return None;
    }
    // What was written later than it is now: how old it is, nobody knows.
    let set_back = wall.0 < written;
    let freshness = Freshness {
        received: now,
        initial_age: age.saturating_add(Duration::from_millis(wall.0.saturating_sub(written))),
        lifetime,
        no_cache: flags & NO_CACHE != 0 || set_back,
        never_stale: flags & NEVER_STALE != 0 || set_back,
        while_revalidate,
        if_error,
        immutable: flags & IMMUTABLE != 0 && !set_back,
        condemned: flags & CONDEMNED != 0,
    };
    Some(Head { id, status, headers, selecting: Selecting::from_parts(parts), freshness, tags })
}

/// The same for now.
pub(super) fn to_disk(head: &Head) -> Bytes {
    encode(head, Instant::now(), Wall::to_write())
}

/// The same for now.
pub(super) fn from_disk(bytes: &[u8]) -> Option<Arc<Head>> {
    decode(bytes, Instant::now(), Wall::to_read()).map(Arc::new)
}

fn put_count(to: &mut BytesMut, count: usize) {
    to.put_u32_le(u32::try_from(count).unwrap_or(u32::MAX));
}

fn put(to: &mut BytesMut, bytes: &[u8]) {
    put_count(to, bytes.len());
    to.put_slice(bytes);
}

struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn take(&mut self, length: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn byte(&mut self) -> Option<u8> {
        Some(self.array::<1>()?[0])
    }

    fn number(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn time(&mut self) -> Option<Duration> {
        self.number().map(Duration::from_millis)
    }

    fn count(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn bytes(&mut self) -> Option<&'b [u8]> {
        let length = self.count()?;
        self.take(usize::try_from(length).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn heads() -> impl Strategy<Value = Head> {
        let fields = vec(("[a-z][a-z-]{0,12}", vec(b' '..=b'~', 0..20)), 0..8);
        let parts = vec(("[a-z]{1,8}", proptest::option::of(vec(any::<u8>(), 0..9))), 0..4);
        let times = proptest::array::uniform4(0_u64..1 << 42);
        (any::<u64>(), 100_u16..600, fields, parts, times, any::<[bool; 4]>(), vec(".{0,9}", 0..3))
            .prop_map(|(id, status, fields, parts, times, flags, tags)| {
                let mut headers = HeaderMap::new();
                for (name, value) in fields {
                    let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
                    headers.append(name, HeaderValue::from_bytes(&value).unwrap());
                }
                let part = |(name, value): (String, Option<Vec<u8>>)| {
                    (HeaderName::try_from(name).unwrap(), value.map(Into::into))
                };
                let [initial_age, lifetime, while_revalidate, if_error] =
                    times.map(Duration::from_millis);
                let [no_cache, never_stale, condemned, immutable] = flags;
                let freshness = Freshness {
                    received: Instant::now(),
                    initial_age,
                    lifetime,
                    no_cache,
                    never_stale,
                    while_revalidate,
                    if_error,
                    immutable,
                    condemned,
                };
                let selecting = Selecting::from_parts(parts.into_iter().map(part).collect());
                let status = StatusCode::from_u16(status).unwrap();
                let tags = tags.into_iter().map(Into::into).collect();
                Head { id, status, headers, selecting, freshness, tags }
            })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_as_it_was(head in heads(), passed in 0_u64..1 << 40) {
            let now = Instant::now();
            let bytes = encode(&head, now, Wall(1 << 40));
            let read = decode(&bytes, now, Wall((1 << 40) + passed)).unwrap();
            prop_assert_eq!((read.id, read.status), (head.id, head.status));
            prop_assert_eq!(&read.headers, &head.headers);
            prop_assert_eq!(&read.selecting, &head.selecting);
            prop_assert_eq!(&read.tags, &head.tags);
            let (was, is) = (&head.freshness, &read.freshness);
            prop_assert_eq!(is.lifetime, was.lifetime);
            prop_assert_eq!((is.while_revalidate, is.if_error), (was.while_revalidate, was.if_error));
            prop_assert_eq!(
                (is.no_cache, is.never_stale, is.condemned, is.immutable),
                (was.no_cache, was.never_stale, was.condemned, was.immutable)
            );
            let age = was.age(now) + Duration::from_millis(passed);
            prop_assert!(is.age(now) >= age && is.age(now) < age + Duration::from_millis(2));
        }

        #[test]
        fn a_clock_that_is_set_makes_nothing_fresher(
            head in heads(),
            written in 0_u64..1 << 41,
            read in 0_u64..1 << 41,
        ) {
            let now = Instant::now();
            let bytes = encode(&head, now, Wall(written));
            let later = decode(&bytes, now, Wall(read)).unwrap().freshness;
            prop_assert!(later.age(now) >= head.freshness.age(now));
            if read < written {
                prop_assert!(later.no_cache && !later.may_stand_in(now));
            }
        }

        #[test]
        fn whatever_is_cut_or_changed_is_another_head_or_none(
            head in heads(),
            cut in any::<proptest::sample::Index>(),
            with in any::<u8>(),
        ) {
            let (now, wall) = (Instant::now(), Wall(1 << 40));
            let bytes = encode(&head, now, wall);
            let at = cut.index(bytes.len());
            prop_assert!(decode(&bytes[..at], now, wall).is_none());
            let mut longer = bytes.to_vec();
            longer.push(with);
            prop_assert!(decode(&longer, now, wall).is_none());
            let mut changed = bytes.to_vec();
            changed[at] = with;
            let _no_panic = decode(&changed, now, wall);
        }

        #[test]
        fn arbitrary_bytes_are_read_without_a_panic(bytes in vec(any::<u8>(), 0..200)) {
            let mut versioned = vec![VERSION];
            versioned.extend(&bytes);
            for bytes in [bytes, versioned] {
                let _no_panic = decode(&bytes, Instant::now(), Wall(0));
            }
        }
    }
}
