//! How far the stream was read, kept over a restart.
//!
//! A cache that outlives the process has to hear of what was purged meanwhile. How far it
//! had heard stands in a small file beside it. It is written once the purges are carried
//! out: what it is behind is only carried out twice.

use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::message::Id;
use crate::hex::hex;

/// More than a file of ours ever has.
const LONGEST: u64 = 1 << 10;

/// Where it is kept how far a stream was read.
#[derive(Clone, Debug)]
pub struct FleetPosition {
    file: PathBuf,
    /// Which stream of which Redis: a position in one says nothing of another.
    of: String,
}

impl FleetPosition {
    /// In this file, for the stream of this name in the Redis of this URL.
    #[must_use]
    pub fn new(file: impl Into<PathBuf>, url: &str, stream: &str) -> Self {
        let mut digest = Sha256::new();
        for part in [url, stream] {
            digest.update(part.len().to_be_bytes());
            digest.update(part);
        }
        Self { file: file.into(), of: hex(&digest.finalize()[..16]) }
    }

    /// How far it was read; `None` if that is not known. Blocks.
    pub(super) fn load(&self) -> Option<Id> {
        if std::fs::metadata(&self.file).ok()?.len() > LONGEST {
            return None;
        }
        let text = std::fs::read_to_string(&self.file).ok()?;
        let mut words = text.strip_suffix('\n')?.split(' ');
        let (version, of, id) = (words.next()?, words.next()?, words.next()?);
        let sound = version == "1" && of == self.of && words.next().is_none();
        sound.then(|| Id::read(id.as_bytes())).flatten()
    }

    /// Notes how far it was read, in one step. Blocks.
    pub(super) fn save(&self, id: Id) -> io::Result<()> {
        let beside = self.beside();
        std::fs::write(&beside, format!("1 {} {id}\n", self.of))?;
        std::fs::rename(&beside, &self.file)
    }

    fn beside(&self) -> PathBuf {
        let mut name = self.file.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        self.file.parent().unwrap_or_else(|| Path::new("")).join(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_known_again_of_the_same_stream_only() {
        let dir = tempfile::tempdir().unwrap();
        let at = |url, stream| FleetPosition::new(dir.path().join("position"), url, stream);
        let position = at("redis://a", "x");
        assert_eq!(position.load(), None);
        let id = Id::read(b"17-3").unwrap();
        position.save(id).unwrap();
        assert_eq!(position.load(), Some(id));
        assert_eq!(at("redis://b", "x").load(), None);
        assert_eq!(at("redis://a", "y").load(), None);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_garbled_file_is_no_position() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("position");
        let position = FleetPosition::new(&file, "redis://a", "x");
        position.save(Id::read(b"17-3").unwrap()).unwrap();
        let sound = std::fs::read_to_string(&file).unwrap();
        let long = " ".repeat(4_096);
        for garbled in
            ["", "\n", &sound[..sound.len() - 2], &format!("{sound}x"), &long, "2 x 1-1\n"]
        {
            std::fs::write(&file, garbled).unwrap();
            assert_eq!(position.load(), None, "{garbled}");
        }
    }
}
