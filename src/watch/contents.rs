//! What files hold, in a form that can be compared and tells nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// Files that are longer are told apart by length and time only.
const MOST_READ: u64 = 16 << 20;

/// What some files hold at one time.
///
/// It has to be noted *before* the files are read for use: what is written in
/// between then makes a difference, and is told of. The other way round it would
/// count as known although nobody has read it.
#[derive(Clone, Debug, Default)]
pub struct Contents(pub(super) BTreeMap<PathBuf, Content>);

/// What one file holds.
#[derive(Clone, Eq, PartialEq)]
pub(super) enum Content {
    /// It is not there, or cannot be read.
    Gone,
    /// Bytes with this digest.
    Digest([u8; 32]),
    /// Too much to be read.
    Long { length: u64, modified: Option<SystemTime> },
}

impl Contents {
    /// What these files hold now. A file that is not there is followed as well:
    /// that it appears is a change. Reads the files, and so may block.
    #[must_use]
    pub fn of(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        let mut contents = Self::default();
        contents.note(paths);
        contents
    }

    /// Notes more files, as soon as it is known which. What is noted already stays
    /// as it is. Reads the files, and so may block.
    pub fn note(&mut self, paths: impl IntoIterator<Item = PathBuf>) {
        for path in paths {
            self.0.entry(path).or_insert_with_key(|path| Content::of(path));
        }
    }

    /// Whether a file holds something else here than there. One that is not known on
    /// either side does not, nor does none.
    #[must_use]
    pub fn differ_in(&self, others: &Self, path: Option<&Path>) -> bool {
        let both = path.and_then(|path| Some((self.0.get(path)?, others.0.get(path)?)));
        both.is_some_and(|(here, there)| here != there)
    }

    /// Whose contents these are.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.0.keys().map(PathBuf::as_path)
    }
}

impl<I: IntoIterator<Item = PathBuf>> From<I> for Contents {
    fn from(paths: I) -> Self {
        Self::of(paths)
    }
}

impl Content {
    pub(super) fn of(path: &Path) -> Self {
        Self::read(path).unwrap_or(Self::Gone)
    }

    fn read(path: &Path) -> io::Result<Self> {
        // Opening what is no file, such as a pipe, could wait for ever.
        let metadata = std::fs::metadata(path)?;
        if !metadata.is_file() {
            return Ok(Self::Gone);
        }
        if metadata.len() > MOST_READ {
            return Ok(Self::Long { length: metadata.len(), modified: metadata.modified().ok() });
        }
        let mut digest = Sha256::new();
        let mut file = File::open(path)?.take(MOST_READ);
        // It may be a private key that passes through here.
        let mut buffer = Zeroizing::new(vec![0; 16 << 10]);
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(Self::Digest(digest.finalize().into())),
                read => digest.update(&buffer[..read]),
            }
        }
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A digest of little content would give it away.
        f.write_str(if *self == Self::Gone { "gone" } else { "…" })
    }
}
