//! A response on its way from the disk.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use futures_util::stream::unfold;
use tokio::task::{JoinHandle, spawn_blocking};

use super::format::{Extent, Span};
use super::index::Known;
use super::purges::Verdict;
use super::segment::{From, Segment};
use super::{Found, Shared};

/// A stored body. Cheap to clone. It can be read for as long as it is there, whatever
/// happens to the store: keep it no longer than that, for it keeps the room on the disk.
#[derive(Clone, Debug)]
pub(in crate::layers::cache) struct OnDisk(Arc<Body>);

#[derive(Debug)]
struct Body {
    shared: Arc<Shared>,
    known: Known,
    /// How many purges there had been when it was found.
    stamp: u64,
    length: u64,
    parts: Vec<Part>,
    /// The whole, if it was read along.
    held: Option<Bytes>,
}

#[derive(Debug)]
struct Part {
    /// Where in the body it begins.
    start: u64,
    extent: Extent,
    /// None where the body is held.
    segment: Option<Arc<Segment>>,
}

/// Variants that are looked at without another thread.
const FEW: usize = 4;

/// Everything that is stored under a key, oldest first. None where it has to come from
/// further than it may.
pub(super) fn find(shared: &Arc<Shared>, key: &str, from: From) -> Option<Vec<Found>> {
    let stamp = shared.purges.count();
    let asked = shared.index.ask(shared.hash(key));
    if from == From::Memory && asked.len() > FEW {
        return None;
    }
    let mut all = Vec::with_capacity(asked.len());
    for known in asked {
        // Loaded after the index has been: else it might not have a new segment.
        let segments = shared.segments.load();
        // It may have been evicted meanwhile.
        let Some(segment) = segments.get(&known.spot.place.segment) else { continue };
        match segment.span(&known.spot, from) {
            Ok(span) if span.commit.variant == known.variant => {
                all.extend(found(shared, key, known, stamp, span));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
            _ => shared.lost(&known),
        }
    }
    Some(all)
}

fn found(shared: &Arc<Shared>, key: &str, known: Known, stamp: u64, span: Span) -> Option<Found> {
    let segments = shared.segments.load();
    let commit = span.commit;
    // Another key with the same hash.
    (*commit.key == *key).then_some(())?;
    let verdict = shared.purges.judge(known.hash, &commit);
    let length = commit.length();
    let mut start = 0;
    let parts = commit.extents.iter().map(|extent| {
        let segment = match span.body {
            Some(_) => None,
            None => Some(segments.get(&extent.place.segment)?.clone()),
        };
        let part = Part { start, extent: *extent, segment };
        start += u64::from(extent.length);
        Some(part)
    });
    let parts = parts.collect::<Option<Vec<_>>>().filter(|_| verdict != Verdict::Gone);
    let Some(parts) = parts else {
        shared.index.forget(&known);
        return None;
    };
    let body = Body { shared: shared.clone(), known, stamp, length, parts, held: span.body };
    let condemned = verdict == Verdict::Condemned;
    Some(Found { meta: commit.meta, condemned, body: OnDisk(Arc::new(body)) })
}

impl Body {
    fn part(&self, at: usize) -> io::Result<Bytes> {
        let Some(Part { extent, segment, .. }) = self.parts.get(at) else {
            return Ok(Bytes::new());
        };
        // What has no segment is held, in one part.
        let Some(segment) = segment else { return Ok(self.held.clone().unwrap_or_default()) };
        let read = segment.chunk(extent);
        if read.is_err() {
            self.shared.lost(&self.known);
        }
        read
    }
}

impl OnDisk {
    pub(super) fn known(&self) -> Known {
        self.0.known
    }

    pub(super) fn stamp(&self) -> u64 {
        self.0.stamp
    }

    pub(super) fn extents(&self) -> Vec<Extent> {
        self.0.parts.iter().map(|part| part.extent).collect()
    }

    /// In bytes.
    pub(in crate::layers::cache) fn length(&self) -> u64 {
        self.0.length
    }

    /// These bytes, in pieces each of which has been verified. While one is used, the next
    /// one is read. It ends with the first error.
    pub(in crate::layers::cache) fn read(
        &self,
        range: Range<u64>,
    ) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        let end = range.end.min(self.0.length);
        let range = range.start.min(end)..end;
        let at = self
            .0
            .parts
            .partition_point(|part| part.start + u64::from(part.extent.length) <= range.start);
        let pieces = Pieces { body: self.0.clone(), range, at, ahead: None };
        unfold(pieces, |mut pieces| async { Some((pieces.next().await?, pieces)) })
    }

    /// All of it, verified.
    pub(in crate::layers::cache) async fn whole(&self) -> io::Result<Bytes> {
        if let Some(held) = &self.0.held {
            return Ok(held.clone());
        }
        if self.0.parts.is_empty() {
            return Ok(Bytes::new());
        }
        let body = self.0.clone();
        let read = spawn_blocking(move || {
            if body.parts.len() == 1 {
                return body.part(0);
            }
            let length = usize::try_from(body.length).map_err(io::Error::other)?;
            let mut whole = BytesMut::with_capacity(length);
            for at in 0..body.parts.len() {
                whole.extend_from_slice(&body.part(at)?);
            }
            Ok(whole.freeze())
        });
        read.await.map_err(io::Error::other)?
    }
}

/// What is still to be read.
struct Pieces {
    body: Arc<Body>,
    range: Range<u64>,
    at: usize,
    ahead: Option<JoinHandle<io::Result<Bytes>>>,
}

impl Pieces {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        let start = self.body.parts.get(self.at)?.start;
        if let Some(held) = &self.body.held {
            self.at = usize::MAX;
            let within = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(held.len());
            return Some(Ok(held.slice(within(self.range.start)..within(self.range.end))));
        }
        (start < self.range.end).then_some(())?;
        let reading = self.ahead.take().unwrap_or_else(|| self.begin(self.at));
        let read = reading.await.map_err(io::Error::other).flatten();
        self.at += 1;
        let Ok(piece) = read else {
            self.at = usize::MAX;
            return Some(read);
        };
        if self.body.parts.get(self.at).is_some_and(|part| part.start < self.range.end) {
            self.ahead = Some(self.begin(self.at));
        }
        let within = |at: u64| at.saturating_sub(start).min(piece.len() as u64) as usize;
        Some(Ok(piece.slice(within(self.range.start)..within(self.range.end))))
    }

    fn begin(&self, at: usize) -> JoinHandle<io::Result<Bytes>> {
        let body = self.body.clone();
        spawn_blocking(move || body.part(at))
    }
}
