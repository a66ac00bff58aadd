//! A segment: a file that is only appended to.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use rustix::buffer::spare_capacity;
use rustix::io::ReadWriteFlags;

use super::folder::{self, Name};
use super::format::{Extent, HEADER, Header, Kind, Place, SMALL, Span, sum, verified};
use super::index::{Known, Spot};

/// Where the first record stands.
pub(super) const START: u32 = 32;

const MAGIC: &[u8; 16] = b"tollgate segment";

/// How much is read at once where a segment is read through.
const WINDOW: u64 = 1024 * 1024;

/// The most that is read without another thread.
const AT_HAND: usize = 2 * SMALL;

/// Where bytes may have to come from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum From {
    /// From the kernel's memory only; else it is an error of the kind `WouldBlock`.
    Memory,
    Disk,
}

#[derive(Debug)]
pub(super) struct Segment {
    pub(super) number: u32,
    path: PathBuf,
    file: File,
    /// Up to where it has been written.
    size: AtomicU64,
    /// What the file of its contents takes.
    pub(super) beside: AtomicU64,
    /// The least stamp in it.
    oldest_stamp: AtomicU64,
    newest_stamp: AtomicU64,
    /// Nothing stands behind its end.
    sound: AtomicBool,
}

/// What was found in a segment that was read through.
#[derive(Debug, Default)]
pub(super) struct Scanned {
    pub(super) entries: Vec<Known>,
    /// Behind it stands nothing that is whole.
    pub(super) end: u64,
}

fn beginning(number: u32) -> [u8; START as usize] {
    let mut bytes = [0; START as usize];
    bytes[..16].copy_from_slice(MAGIC);
    bytes[16..20].copy_from_slice(&number.to_le_bytes());
    let sum = sum(&bytes[..20]);
    bytes[20..24].copy_from_slice(&sum.to_le_bytes());
    bytes
}

impl Segment {
    fn new(folder: &Path, number: u32, file: File, size: u64) -> Self {
        let path = Name::Segment(number).path(folder);
        let (size, beside) = (AtomicU64::new(size), AtomicU64::new(0));
        let (oldest_stamp, newest_stamp) = (AtomicU64::new(u64::MAX), AtomicU64::new(0));
        let sound = AtomicBool::new(true);
        Self { number, path, file, size, beside, oldest_stamp, newest_stamp, sound }
    }

    pub(super) fn create(folder: &Path, number: u32) -> io::Result<Self> {
        let path = Name::Segment(number).path(folder);
        let file = folder::create(&path)?;
        let segment = Self::new(folder, number, file, 0);
        if let Err(error) = segment.append(&beginning(number)) {
            segment.remove();
            return Err(error);
        }
        Ok(segment)
    }

    pub(super) fn open(folder: &Path, number: u32) -> io::Result<Self> {
        let path = Name::Segment(number).path(folder);
        let file = File::options().read(true).write(true).open(path)?;
        let size = file.metadata()?.len();
        let segment = Self::new(folder, number, file, size);
        let begins = u32::try_from(size).is_ok()
            && segment.bytes(0, START as usize)? == beginning(number)[..];
        if begins { Ok(segment) } else { Err(io::ErrorKind::InvalidData.into()) }
    }

    pub(super) fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// What its files take.
    pub(super) fn takes(&self) -> u64 {
        self.size() + self.beside.load(Ordering::Relaxed)
    }

    pub(super) fn oldest_stamp(&self) -> u64 {
        self.oldest_stamp.load(Ordering::Relaxed)
    }

    pub(super) fn newest_stamp(&self) -> u64 {
        self.newest_stamp.load(Ordering::Relaxed)
    }

    /// Remembers that a response with this stamp lies in it.
    pub(super) fn holds(&self, stamp: u64) {
        self.oldest_stamp.fetch_min(stamp, Ordering::Relaxed);
        self.newest_stamp.fetch_max(stamp, Ordering::Relaxed);
    }

    /// Only one thread does that. What could not be written whole is not there.
    pub(super) fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let size = self.size();
        match self.file.write_all_at(bytes, size) {
            Ok(()) => {
                self.size.store(size + bytes.len() as u64, Ordering::Release);
                Ok(())
            }
            Err(error) => {
                self.sound.store(self.cut(size).is_ok(), Ordering::Relaxed);
                Err(error)
            }
        }
    }

    pub(super) fn is_sound(&self) -> bool {
        self.sound.load(Ordering::Relaxed)
    }

    /// Cuts off what stands behind.
    pub(super) fn cut(&self, size: u64) -> io::Result<()> {
        self.file.set_len(size)?;
        self.size.store(size, Ordering::Release);
        Ok(())
    }

    fn bytes(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        // A length that was read somewhere is not believed before memory is taken for it.
        if offset.checked_add(length as u64).is_none_or(|end| end > self.size()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            let at = offset + bytes.len() as u64;
            match rustix::io::pread(&self.file, spare_capacity(&mut bytes), at) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        bytes.truncate(length);
        Ok(bytes.into())
    }

    /// The same if the kernel has it in memory, and if it is short enough for whoever has
    /// other things to do.
    fn bytes_at_hand(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        let later = || io::Error::from(io::ErrorKind::WouldBlock);
        if length > AT_HAND || offset.checked_add(length as u64).is_none_or(|end| end > self.size())
        {
            return Err(later());
        }
        let mut bytes = vec![0; length];
        let mut buffers = [IoSliceMut::new(&mut bytes)];
        let read = rustix::io::preadv2(&self.file, &mut buffers, offset, ReadWriteFlags::NOWAIT);
        // Not every file system can say so.
        if read.is_ok_and(|read| read == length) { Ok(bytes.into()) } else { Err(later()) }
    }

    /// A response, as far as it is read at once.
    pub(super) fn span(&self, spot: &Spot, from: From) -> io::Result<Span> {
        let (offset, length) = (spot.place.offset.into(), spot.length as usize);
        let bytes = match from {
            From::Memory => self.bytes_at_hand(offset, length)?,
            From::Disk => self.bytes(offset, length)?,
        };
        Span::decode(&bytes, spot.place).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// A part of a body.
    pub(super) fn chunk(&self, extent: &Extent) -> io::Result<Bytes> {
        let bytes = self.bytes(extent.place.offset.into(), HEADER + extent.length as usize)?;
        verified(&bytes, extent).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Reads it through from where a record begins, up to the first that is not whole.
    pub(super) fn scan(&self, from: u64, hash: impl Fn(&str) -> u64) -> Scanned {
        let mut scanned = Scanned { end: from, ..Scanned::default() };
        let mut window = Window { segment: self, start: 0, bytes: Bytes::new() };
        let mut before = None;
        while let Some((header, place, size)) = window.header(scanned.end) {
            scanned.end += size as u64;
            if header.kind == Kind::Chunk {
                before = Some(Extent { place, length: header.length, sum: header.sum });
                continue;
            }
            let whole = window.at(place.offset.into(), size);
            let Some(span) = whole.and_then(|bytes| Span::decode(&bytes, place)) else {
                scanned.end -= size as u64;
                break;
            };
            let commit = &span.commit;
            let mut spot =
                Spot { place, length: size_of_record(size), oldest: commit.oldest(place) };
            let along = before.take().filter(|extent: &Extent| {
                extent.length as usize <= SMALL && commit.extents == [*extent]
            });
            if let Some(Extent { place, length, .. }) = along {
                spot = Spot { place, length: spot.length + length + HEADER as u32, ..spot };
            }
            self.holds(commit.stamp);
            scanned.entries.push(Known { hash: hash(&commit.key), variant: commit.variant, spot });
        }
        scanned
    }

    /// Who reads it reads on.
    pub(super) fn remove(&self) {
        let _gone = std::fs::remove_file(&self.path);
        if let Some(folder) = self.path.parent() {
            let _gone = std::fs::remove_file(Name::Contents(self.number).path(folder));
        }
    }
}

/// No record is longer than a segment, whose places are of 32 bits.
#[allow(clippy::cast_possible_truncation, reason = "it has been compared with the segment")]
fn size_of_record(size: usize) -> u32 {
    size as u32
}

/// A part of a segment, of which several records are read.
struct Window<'s> {
    segment: &'s Segment,
    start: u64,
    bytes: Bytes,
}

impl Window<'_> {
    fn at(&mut self, offset: u64, length: usize) -> Option<Bytes> {
        let end = offset.checked_add(length as u64)?;
        let size = self.segment.size();
        (end <= size).then_some(())?;
        if offset < self.start || end > self.start + self.bytes.len() as u64 {
            let ahead = usize::try_from(WINDOW.min(size - offset)).ok()?;
            self.bytes = self.segment.bytes(offset, length.max(ahead)).ok()?;
            self.start = offset;
        }
        let from = usize::try_from(offset - self.start).ok()?;
        Some(self.bytes.slice(from..from + length))
    }

    /// The header of the record there, and the size of the record, which is not longer
    /// than the segment.
    fn header(&mut self, offset: u64) -> Option<(Header, Place, usize)> {
        let place = Place { segment: self.segment.number, offset: u32::try_from(offset).ok()? };
        let header = Header::decode(&self.at(offset, HEADER)?, place)?;
        let size = HEADER + header.length as usize;
        (offset + size as u64 <= self.segment.size()).then_some((header, place, size))
    }
}
