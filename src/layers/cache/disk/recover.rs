//! What is in a folder: learned from the files of contents, and from the segments that
//! have none, which are read through. Where it is not sure what has been purged, nothing
//! that is stored is kept.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use super::folder::{Folder, Name};
use super::index::{Index, Known};
use super::journal::Journal;
use super::purges::Purges;
use super::segment::{START, Segment};
use super::writer::Active;
use super::{Layout, Segments, Shared, contents};

pub(super) fn recover(
    folder: &Folder,
    usable: bool,
    layout: Layout,
) -> io::Result<(Shared, Option<Active>)> {
    let journal = if usable { Journal::open(&folder.path)? } else { None };
    let (journal, purges) = match journal {
        Some(known) => known,
        None => (begin(folder)?, Vec::new()),
    };
    let purges = Purges::new(journal, &purges, folder.seed, layout.purges);
    let (index, mut segments) = (Index::new(), Segments::new());
    let mut last = None;
    for number in numbers(folder)? {
        let Some((segment, entries)) = load(folder, number)? else { continue };
        entries.iter().for_each(|known| index.put(known, false));
        purges.at_least(segment.newest_stamp());
        segments.insert(number, segment.clone());
        last = Some(Active::new(segment, entries));
    }
    shrink(&mut segments, &layout);
    index.retain(|number| segments.contains_key(&number));
    // The one that was being written is written on; it has its contents to itself.
    let there = |active: &Active| segments.contains_key(&active.segment.number);
    let active = last.filter(there);
    let path = folder.path.clone();
    Ok((Shared::new(path, folder.seed, layout, index, segments, purges), active))
}

/// Removes everything.
fn begin(folder: &Folder) -> io::Result<Journal> {
    let files = folder.files()?;
    if !files.is_empty() {
        tracing::warn!(folder = %folder.path.display(), "what was stored cannot be trusted");
    }
    for name in files {
        folder.remove(name)?;
    }
    Journal::create(&folder.path, 0, &[])
}

/// The numbers of all segments, in order. What belongs to none goes.
fn numbers(folder: &Folder) -> io::Result<BTreeSet<u32>> {
    let files = folder.files()?;
    let segment = |name: &Name| match name {
        Name::Segment(number) => Some(*number),
        _ => None,
    };
    let numbers: BTreeSet<u32> = files.iter().filter_map(segment).collect();
    for name in files {
        let idle = match name {
            Name::Unfinished => true,
            Name::Contents(number) => !numbers.contains(&number),
            _ => false,
        };
        if idle {
            folder.remove(name)?;
        }
    }
    Ok(numbers)
}

fn load(folder: &Folder, number: u32) -> io::Result<Option<(Arc<Segment>, Vec<Known>)>> {
    let segment = match Segment::open(&folder.path, number) {
        Ok(segment) => segment,
        // Whatever else it is may pass.
        Err(error) if !is_damage(&error) => return Err(error),
        Err(error) => {
            tracing::warn!(folder = %folder.path.display(), number, %error, "a segment is lost");
            folder.remove(Name::Segment(number))?;
            return Ok(None);
        }
    };
    let known = contents::read(&folder.path, &segment);
    let (mut entries, end) = known.unwrap_or_else(|| (Vec::new(), START.into()));
    if end < segment.size() {
        let scanned = segment.scan(end, |key| folder.seed.hash(key.as_bytes()));
        entries.extend(scanned.entries);
        if scanned.end < segment.size() {
            segment.cut(scanned.end)?;
        }
        // Without it, it is read through again the next time.
        let _written = contents::write(&folder.path, &segment, &entries);
    }
    Ok(Some((Arc::new(segment), entries)))
}

fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

/// There may be less room than there was.
fn shrink(segments: &mut Segments, layout: &Layout) {
    let mut takes: u64 = segments.values().map(|segment| segment.takes()).sum();
    // The last one grows.
    let last = segments.last_key_value().map_or(0, |(_, last)| last.takes());
    while takes + layout.segment.saturating_sub(last) > layout.segments {
        let Some((_, segment)) = segments.pop_first() else { return };
        takes -= segment.takes();
        segment.remove();
    }
}
