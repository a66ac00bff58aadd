//! What stands in a segment, in a file beside it: a restart reads that, and not the
//! segment.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::atomic::Ordering;

use super::folder::{self, Name};
use super::format::{Place, Reader, sum};
use super::index::{Known, Spot};
use super::segment::Segment;

const MAGIC: &[u8; 16] = b"tollgate content";

/// What is there beside the entries.
pub(super) const FIXED: u64 = 16 + 4 + 8 + 8 + 8 + 4;

/// What an entry takes.
pub(super) const ENTRY: u64 = 28;

fn encode(segment: &Segment, entries: &[Known]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity((FIXED + ENTRY * entries.len() as u64) as usize);
    bytes.extend(MAGIC);
    bytes.extend(segment.number.to_le_bytes());
    bytes.extend(segment.size().to_le_bytes());
    bytes.extend(segment.oldest_stamp().to_le_bytes());
    bytes.extend(segment.newest_stamp().to_le_bytes());
    for Known { hash, variant, spot: Spot { place, length, oldest } } in entries {
        bytes.extend(hash.to_le_bytes());
        bytes.extend(variant.to_le_bytes());
        for number in [place.offset, *length, *oldest] {
            bytes.extend(number.to_le_bytes());
        }
    }
    let sum = sum(&bytes);
    bytes.extend(sum.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8], segment: &Segment) -> Option<(Vec<Known>, u64)> {
    let (bytes, sum_said) = bytes.split_last_chunk()?;
    (sum(bytes) == u32::from_le_bytes(*sum_said)).then_some(())?;
    let mut reader = Reader(bytes);
    (reader.take(16)? == MAGIC && reader.u32()? == segment.number).then_some(())?;
    let size = reader.u64()?;
    (size <= segment.size()).then_some(())?;
    let (oldest, newest) = (reader.u64()?, reader.u64()?);
    let mut entries = Vec::with_capacity(reader.0.len() / ENTRY as usize);
    while !reader.0.is_empty() {
        let (hash, variant) = (reader.u64()?, reader.u64()?);
        let place = Place { segment: segment.number, offset: reader.u32()? };
        let spot = Spot { place, length: reader.u32()?, oldest: reader.u32()? };
        entries.push(Known { hash, variant, spot });
    }
    if !entries.is_empty() {
        segment.holds(oldest);
        segment.holds(newest);
    }
    Some((entries, size))
}

/// Writes what stands in a segment, in the order in which it stands there.
pub(super) fn write(folder: &Path, segment: &Segment, entries: &[Known]) -> io::Result<()> {
    let bytes = encode(segment, entries);
    replace(folder, Name::Contents(segment.number), &bytes, false)?;
    segment.beside.store(bytes.len() as u64, Ordering::Relaxed);
    Ok(())
}

/// What is known, and up to where in the segment. None where all has to be learned from
/// the segment itself.
pub(super) fn read(folder: &Path, segment: &Segment) -> Option<(Vec<Known>, u64)> {
    let path = Name::Contents(segment.number).path(folder);
    // They are never longer than what they tell of.
    (fs::metadata(&path).ok()?.len() <= segment.size() + FIXED).then_some(())?;
    let bytes = fs::read(path).ok()?;
    segment.beside.store(bytes.len() as u64, Ordering::Relaxed);
    decode(&bytes, segment)
}

/// Gives a file new contents, or leaves it as it is. `synced`, it is whole and in its place
/// also after the machine has crashed.
pub(super) fn replace(folder: &Path, name: Name, bytes: &[u8], synced: bool) -> io::Result<File> {
    let unfinished = Name::Unfinished.path(folder);
    let _left = fs::remove_file(&unfinished);
    let written = folder::create(&unfinished).and_then(|mut file| {
        file.write_all(bytes)?;
        if synced {
            file.sync_all()?;
        }
        fs::rename(&unfinished, name.path(folder))?;
        if synced {
            // It is in its place by now. Not every file system synchronizes folders.
            let _synced = File::open(folder).and_then(|folder| folder.sync_all());
        }
        Ok(file)
    });
    if written.is_err() {
        let _left = fs::remove_file(&unfinished);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_unless_a_byte_is_another_or_the_segment_is() {
        let folder = tempfile::tempdir().unwrap();
        let segment = Segment::create(folder.path(), 3).unwrap();
        segment.append(&[0; 100]).unwrap();
        segment.holds(17);
        segment.holds(21);
        let entry = |offset| {
            let spot = Spot { place: Place { segment: 3, offset }, length: 9, oldest: 2 };
            Known { hash: 1 << 50, variant: u64::from(offset), spot }
        };
        let entries = [entry(32), entry(64)];
        write(folder.path(), &segment, &entries).unwrap();
        let again = Segment::open(folder.path(), 3).unwrap();
        assert_eq!(read(folder.path(), &again), Some((entries.to_vec(), 132)));
        assert_eq!((again.oldest_stamp(), again.newest_stamp()), (17, 21));
        assert_eq!(again.takes(), 132 + FIXED + 2 * ENTRY);
        let good = encode(&segment, &entries);
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 4;
            assert_eq!(decode(&bytes, &segment), None);
            assert_eq!(decode(&good[..at], &segment), None);
        }
        segment.append(b"more").unwrap();
        assert_eq!(read(folder.path(), &segment), Some((entries.to_vec(), 132)));
        segment.cut(131).unwrap();
        assert_eq!(read(folder.path(), &segment), None);
    }
}
