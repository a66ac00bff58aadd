//! The list of purges, on disk. All its records are of one size, so that a record that was
//! written in part is told from one that is damaged. After a damaged one nothing that is
//! stored can be trusted not to have been purged.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::contents::replace;
use super::folder::Name;
use super::format::{Reader, sum};

/// What a record takes.
pub(super) const RECORD: usize = 32;

/// Stands in the place of a hash in the first record.
const MAGIC: u64 = u64::from_le_bytes(*b"purges 1");

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    /// Nothing: tells how many purges there have been.
    Count,
    All,
    Key,
    Tag,
    /// Of a URL, with this length.
    Prefix(u32),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Purge {
    pub(super) kind: Kind,
    pub(super) soft: bool,
    /// Which one it was. What has a lesser stamp is meant.
    pub(super) number: u64,
    /// Of the key, tag or prefix.
    pub(super) hash: u64,
}

#[derive(Debug)]
pub(super) struct Journal {
    folder: PathBuf,
    /// None once it could not be written.
    file: Option<Arc<File>>,
    size: u64,
}

impl Purge {
    fn encode(&self) -> [u8; RECORD] {
        let (kind, length) = match self.kind {
            Kind::Count => (0, 0),
            Kind::All => (1, 0),
            Kind::Key => (2, 0),
            Kind::Tag => (3, 0),
            Kind::Prefix(length) => (4, length),
        };
        let mut bytes = [0; RECORD];
        bytes[4] = kind;
        bytes[5] = self.soft.into();
        bytes[8..16].copy_from_slice(&self.number.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.hash.to_le_bytes());
        bytes[24..28].copy_from_slice(&length.to_le_bytes());
        let sum = sum(&bytes[4..]);
        bytes[..4].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        (reader.u32()? == sum(reader.0)).then_some(())?;
        let [kind, soft, ..] = *reader.take(4)? else { return None };
        let (number, hash, length) = (reader.u64()?, reader.u64()?, reader.u32()?);
        let kind = match kind {
            0 => Kind::Count,
            1 => Kind::All,
            2 => Kind::Key,
            3 => Kind::Tag,
            4 => Kind::Prefix(length),
            _ => return None,
        };
        Some(Self { kind, soft: soft != 0, number, hash })
    }

    fn count(number: u64) -> Self {
        Self { kind: Kind::Count, soft: false, number, hash: MAGIC }
    }
}

/// All records, or None if one of them is damaged, or the file is not there.
fn decode(bytes: &[u8]) -> Option<Vec<Purge>> {
    let purges: Option<Vec<_>> = bytes.chunks_exact(RECORD).map(Purge::decode).collect();
    let purges = purges?;
    let first = purges.first()?;
    (first.kind == Kind::Count && first.hash == MAGIC).then_some(purges)
}

impl Journal {
    /// What is in the folder, without a record that was written in part.
    pub(super) fn open(folder: &Path) -> io::Result<Option<(Self, Vec<Purge>)>> {
        let path = Name::Purges.path(folder);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some(purges) = decode(&bytes) else { return Ok(None) };
        let size = (purges.len() * RECORD) as u64;
        let file = File::options().write(true).open(&path)?;
        file.set_len(size)?;
        Ok(Some((Self { folder: folder.to_owned(), file: Some(Arc::new(file)), size }, purges)))
    }

    /// One with these purges and no others.
    pub(super) fn create(folder: &Path, count: u64, purges: &[Purge]) -> io::Result<Self> {
        let mut bytes = Purge::count(count).encode().to_vec();
        purges.iter().for_each(|purge| bytes.extend(purge.encode()));
        // One from before would not know what has been purged since.
        let file = replace(folder, Name::Purges, &bytes, true)?;
        let (folder, file, size) = (folder.to_owned(), Some(Arc::new(file)), bytes.len() as u64);
        Ok(Self { folder, file, size })
    }

    /// How many bytes it takes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn is_lost(&self) -> bool {
        self.file.is_none()
    }

    /// Nothing is written from now on.
    pub(super) fn close(&mut self) {
        self.file = None;
    }

    /// If it cannot be written, the file goes: without it, nothing that is stored is
    /// believed after a restart.
    pub(super) fn append(&mut self, purge: &Purge) -> io::Result<()> {
        let Some(file) = &self.file else { return Err(io::ErrorKind::NotFound.into()) };
        if let Err(error) = file.write_all_at(&purge.encode(), self.size) {
            self.file = None;
            let gone = fs::remove_file(Name::Purges.path(&self.folder));
            return Err(gone.err().unwrap_or(error));
        }
        self.size += RECORD as u64;
        Ok(())
    }

    /// To be synchronized with the disk.
    pub(super) fn file(&self) -> Option<Arc<File>> {
        self.file.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn purges() -> Vec<Purge> {
        let kinds = [Kind::All, Kind::Key, Kind::Tag, Kind::Prefix(40)];
        let purge = |(number, kind)| Purge { kind, soft: number == 2, number, hash: 77 };
        (1..).zip(kinds).map(purge).collect()
    }

    #[test]
    fn what_was_written_is_read_without_what_was_written_in_part() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Journal::open(folder.path()).unwrap().is_none());
        let mut journal = Journal::create(folder.path(), 0, &[]).unwrap();
        purges().iter().for_each(|purge| journal.append(purge).unwrap());
        let path = Name::Purges.path(folder.path());
        let whole = fs::read(&path).unwrap();
        assert_eq!(journal.size(), whole.len() as u64);
        for length in 0..=whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            let found = Journal::open(folder.path()).unwrap().map(|(_, purges)| purges);
            let expected = (length / RECORD).checked_sub(1).map(|count| {
                std::iter::once(Purge::count(0)).chain(purges().into_iter().take(count)).collect()
            });
            assert_eq!(found, expected, "{length}");
        }
    }

    #[test]
    fn a_changed_byte_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let _journal = Journal::create(folder.path(), 9, &purges()).unwrap();
        let whole = fs::read(Name::Purges.path(folder.path())).unwrap();
        assert!(decode(&whole).is_some());
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            assert_eq!(decode(&bytes), None);
        }
    }
}
