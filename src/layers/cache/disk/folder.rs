//! The folder: whose it is, who may use it, and the names in it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{BuildHasher, DefaultHasher, Hasher, RandomState};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::OpenError;
use super::format::Reader;

/// Tells that the folder is a cache's, and by which seed it hashes; who has locked it has
/// the folder.
const IDENTITY: &str = "tollgate-cache";

const MAGIC: &[u8; 16] = b"tollgate cache 1";

/// What the identity takes.
pub(super) const SIZE: usize = 48;

/// A file of the folder.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Name {
    Identity,
    Purges,
    Segment(u32),
    /// What stands in a segment.
    Contents(u32),
    /// Has not got its name yet.
    Unfinished,
}

/// Hashes keys and tags, in a way that nobody outside can foresee and that stays the same
/// for as long as the folder is there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seed([u8; 16]);

/// Locked for as long as it is there.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) path: PathBuf,
    pub(super) seed: Seed,
    _lock: File,
}

impl Name {
    fn of(text: &str) -> Option<Self> {
        let number = |text: &str| match text.len() {
            8 => u32::from_str_radix(text, 16).ok(),
            _ => None,
        };
        match text.split_once('-') {
            _ if text == IDENTITY => Some(Self::Identity),
            _ if text == "purges" => Some(Self::Purges),
            Some(("segment", text)) => number(text).map(Self::Segment),
            Some(("contents", text)) => number(text).map(Self::Contents),
            _ if text == "unfinished" => Some(Self::Unfinished),
            _ => None,
        }
    }

    pub(super) fn path(self, folder: &Path) -> PathBuf {
        folder.join(match self {
            Self::Identity => IDENTITY.to_owned(),
            Self::Purges => "purges".to_owned(),
            Self::Segment(number) => format!("segment-{number:08x}"),
            Self::Contents(number) => format!("contents-{number:08x}"),
            Self::Unfinished => "unfinished".to_owned(),
        })
    }
}

impl Seed {
    fn random() -> Self {
        let mut seed = [0; 16];
        for half in seed.chunks_exact_mut(8) {
            half.copy_from_slice(&RandomState::new().build_hasher().finish().to_le_bytes());
        }
        Self(seed)
    }

    pub(super) fn hash(self, bytes: &[u8]) -> u64 {
        let mut hasher = DefaultHasher::new();
        hasher.write(&self.0);
        hasher.write(bytes);
        hasher.finish()
    }

    fn encode(self) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        bytes[..16].copy_from_slice(MAGIC);
        bytes[16..32].copy_from_slice(&self.0);
        // Another version of Tollgate may hash otherwise.
        bytes[32..40].copy_from_slice(&self.hash(MAGIC).to_le_bytes());
        let sum = super::format::sum(&bytes[..40]);
        bytes[40..44].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        reader.take(16)?;
        let seed = Self(reader.take(16)?.try_into().ok()?);
        (seed.encode() == bytes).then_some(seed)
    }
}

/// One that only its owner can read: what is stored is somebody's.
pub(super) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

impl Folder {
    /// Takes a folder, and says whether what is in it can be used.
    pub(super) fn take(path: &Path) -> Result<(Self, bool), OpenError> {
        let failed = |source| OpenError::Io { path: path.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        let identity = Name::Identity.path(path);
        if !identity.is_file() && !is_empty(path).map_err(failed)? {
            return Err(OpenError::Foreign(path.to_owned()));
        }
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut lock = options.open(&identity).map_err(failed)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(OpenError::Locked(path.to_owned())),
            Err(error) => return Err(failed(error.into())),
        }
        let mut bytes = Vec::new();
        (&mut lock).take(1024).read_to_end(&mut bytes).map_err(failed)?;
        if !MAGIC.starts_with(&bytes[..bytes.len().min(16)]) {
            return Err(OpenError::Foreign(path.to_owned()));
        }
        let known = Seed::decode(&bytes);
        let seed = known.unwrap_or_else(Seed::random);
        if known.is_none() {
            lock.set_len(SIZE as u64).map_err(failed)?;
            lock.write_all_at(&seed.encode(), 0).map_err(failed)?;
        }
        Ok((Self { path: path.to_owned(), seed, _lock: lock }, known.is_some()))
    }

    /// The files that are the cache's, without its identity.
    pub(super) fn files(&self) -> io::Result<Vec<Name>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            files.extend(name.to_str().and_then(Name::of).filter(|name| *name != Name::Identity));
        }
        Ok(files)
    }

    pub(super) fn remove(&self, name: Name) -> io::Result<()> {
        fs::remove_file(name.path(&self.path))
    }
}

fn is_empty(folder: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(folder)? {
        // A file system of its own has this folder in it.
        if entry?.file_name() != "lost+found" {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_owner_at_a_time_and_keeps_its_seed() {
        let folder = tempfile::tempdir().unwrap();
        let (first, known) = Folder::take(folder.path()).unwrap();
        assert!(!known);
        assert!(matches!(Folder::take(folder.path()), Err(OpenError::Locked(_))));
        let hash = first.seed.hash(b"x");
        drop(first);
        let (second, known) = Folder::take(folder.path()).unwrap();
        assert!(known && second.seed.hash(b"x") == hash);
    }

    #[test]
    fn a_folder_with_something_else_in_it_is_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("photo.jpg"), "x").unwrap();
        assert!(matches!(Folder::take(folder.path()), Err(OpenError::Foreign(_))));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(IDENTITY), "a diary").unwrap();
        assert!(matches!(Folder::take(folder.path()), Err(OpenError::Foreign(_))));
        assert_eq!(fs::read(folder.path().join(IDENTITY)).unwrap(), b"a diary");
    }

    #[test]
    fn a_seed_that_cannot_be_trusted_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        drop(Folder::take(folder.path()).unwrap());
        let path = folder.path().join(IDENTITY);
        let good = fs::read(&path).unwrap();
        for at in 16..SIZE {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            fs::write(&path, &bytes).unwrap();
            assert!(!Folder::take(folder.path()).unwrap().1, "{at}");
        }
        for length in 0..SIZE {
            fs::write(&path, &good[..length]).unwrap();
            assert!(!Folder::take(folder.path()).unwrap().1, "{length}");
        }
    }
}
