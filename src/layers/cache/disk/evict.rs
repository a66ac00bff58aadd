//! What has to go: the oldest segment as a whole. What has been asked for since it was
//! written is written again, up to a share of a segment: with each new segment at most a
//! quarter of it.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Segments;
use super::format::{Commit, HEADER, SMALL};
use super::index::Known;
use super::purges::Verdict;
use super::segment::{From, Segment};
use super::writer::{Active, Writer};

impl Writer {
    /// Begins another segment, and makes room for it.
    pub(super) fn roll(&mut self) -> io::Result<()> {
        self.flush();
        self.seal();
        self.forget_gone();
        if self.lacking() > 0 && self.is_pinned() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let number = self.next;
        self.next = number.checked_add(1).ok_or(io::ErrorKind::StorageFull)?;
        let segment = Arc::new(Segment::create(&self.folder.path, number)?);
        self.change(|segments| segments.insert(number, segment.clone()));
        self.active = Some(Active::new(segment, Vec::new()));
        let mut left = self.shared.layout.rescued;
        while self.lacking() > 0 {
            let oldest = self.shared.segments.load().keys().next().copied();
            match oldest.filter(|oldest| *oldest != number && !self.is_pinned()) {
                Some(oldest) => self.evict(oldest, &mut left),
                None => {
                    self.active = None;
                    self.discard(number);
                    return Err(io::ErrorKind::StorageFull.into());
                }
            }
        }
        self.tidy();
        Ok(())
    }

    fn change<T>(&self, change: impl FnOnce(&mut Segments) -> T) {
        let mut segments = Segments::clone(&self.shared.segments.load());
        change(&mut segments);
        self.shared.segments.store(Arc::new(segments));
    }

    /// What all segments but the active one take.
    fn others(&self) -> u64 {
        let active = self.active.as_ref().map(|active| active.segment.number);
        let segments = self.shared.segments.load();
        let others = segments.values().filter(|segment| Some(segment.number) != active);
        others.map(|segment| segment.takes()).sum()
    }

    /// How much more has to be free for another whole segment.
    fn lacking(&self) -> u64 {
        let layout = &self.shared.layout;
        let pinned = self.shared.pinned.load(Ordering::Relaxed);
        (self.others() + pinned + layout.segment).saturating_sub(layout.segments)
    }

    /// Whether what is being read keeps so much room that evicting more is no use: nobody
    /// can empty the store by reading slowly.
    fn is_pinned(&self) -> bool {
        let pinned = self.shared.pinned.load(Ordering::Relaxed);
        pinned > 0 && self.others() < self.shared.layout.segments / 2
    }

    /// Forgets removed segments that nobody reads any more.
    pub(super) fn forget_gone(&mut self) {
        self.gone.retain(|(segment, _)| segment.strong_count() > 0);
        let pinned = self.gone.iter().map(|(_, takes)| takes).sum();
        self.shared.pinned.store(pinned, Ordering::Relaxed);
    }

    fn evict(&mut self, number: u32, left: &mut u64) {
        let going = self.shared.index.going_with(number);
        for (known, _) in going.iter().filter(|(_, asked)| *asked) {
            // What cannot be read goes.
            let _rescued = self.rescue(known, left);
        }
        self.flush();
        for (known, _) in &going {
            self.shared.index.forget(known);
        }
        self.remove(number);
    }

    /// Writes a response again.
    fn rescue(&mut self, known: &Known, left: &mut u64) -> io::Result<()> {
        let segments = self.shared.segments.load_full();
        let gone = || io::Error::from(io::ErrorKind::NotFound);
        let spot = &known.spot;
        if u64::from(spot.length) > *left || self.active.is_none() {
            return Ok(());
        }
        // What was purged after this is purged after it is written again.
        let stamp = self.shared.purges.count();
        let span = segments.get(&spot.place.segment).ok_or_else(gone)?.span(spot, From::Disk)?;
        let held = span.body.as_ref().map_or(0, |body| body.len() as u64);
        let takes = span.commit.length() + u64::from(spot.length) - held;
        let verdict = self.shared.purges.judge(known.hash, &span.commit);
        if takes > *left || verdict == Verdict::Gone {
            return Ok(());
        }
        let condemned = verdict == Verdict::Condemned;
        let old = span.commit.extents.clone();
        let mut commit = Commit { stamp, condemned, extents: Vec::new(), ..span.commit };
        let along = old.len() == 1 && old.iter().all(|extent| extent.length as usize <= SMALL);
        if along {
            let body: u32 = old.iter().map(|extent| extent.length).sum();
            self.room(HEADER + body as usize + commit.size(1))?;
        }
        let progress = Arc::default();
        for extent in &old {
            let body = match &span.body {
                Some(body) => body.clone(),
                None => segments.get(&extent.place.segment).ok_or_else(gone)?.chunk(extent)?,
            };
            commit.extents.push(self.chunk(&[body], &progress)?);
            if self.batch_is_full() {
                self.flush();
            }
            if self.active.is_none() {
                return Err(gone());
            }
        }
        *left = left.saturating_sub(takes);
        self.add(&commit, along, false)
    }

    fn remove(&mut self, number: u32) {
        let segment = self.shared.segments.load().get(&number).cloned();
        let Some(segment) = segment else { return };
        self.change(|segments| segments.remove(&number));
        segment.remove();
        let (there, takes) = (Arc::downgrade(&segment), segment.takes());
        drop(segment);
        // Who only looked something up is done with it at once.
        for _ in 0..5 {
            if there.strong_count() == 0 {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.gone.push((there, takes));
        self.forget_gone();
    }

    /// Removes a segment, and all that lies in it.
    pub(super) fn discard(&mut self, number: u32) {
        self.shared.index.retain(|segment| segment != number);
        self.remove(number);
    }

    /// Removes what lies in segments that hold nothing with this stamp.
    pub(super) fn clear(&mut self, stamp: u64) {
        self.flush();
        let segments = self.shared.segments.load_full();
        let old = segments.values().filter(|segment| segment.newest_stamp() < stamp);
        let old: BTreeSet<u32> = old.map(|segment| segment.number).collect();
        drop(segments);
        self.active.take_if(|active| old.contains(&active.segment.number));
        self.shared.index.retain(|number| !old.contains(&number));
        old.into_iter().for_each(|number| self.remove(number));
    }
}
