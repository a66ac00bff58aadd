//! A store as a whole, in folders of its own.

mod damage;
mod eviction;
mod killed;
mod measured;
mod purging;
mod storing;
mod together;

use std::fs;
use std::ops::Range;
use std::path::Path;

use futures_util::{StreamExt as _, TryStreamExt as _};
use tempfile::TempDir;

use super::*;

const MIB: u64 = 1024 * 1024;

/// Opens it, also while a process that another test is starting still has a copy of the lock.
fn open(folder: &Path, capacity: u64) -> Disk {
    let settings = DiskSettings { folder: folder.to_owned(), capacity };
    loop {
        match Disk::open(&settings) {
            Err(OpenError::Locked(_)) => std::thread::yield_now(),
            opened => return opened.unwrap(),
        }
    }
}

fn fresh(capacity: u64) -> (TempDir, Disk) {
    let folder = tempfile::tempdir().unwrap();
    let disk = open(folder.path(), capacity);
    (folder, disk)
}

/// Bytes that are those of no other number.
fn content(number: u64, length: usize) -> Bytes {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend((state >> 16).to_le_bytes());
    }
    bytes.truncate(length);
    bytes.into()
}

fn key(number: u64) -> String {
    format!("site\t1\nhttp://a.test/{}/{number}", number % 10)
}

fn meta(number: u64) -> Bytes {
    format!("meta of {number}").into()
}

impl Disk {
    /// Waits until what was given is written.
    async fn settled(&self) {
        let (done, settled) = oneshot::channel();
        self.jobs.send(Job::Settle(done)).unwrap();
        settled.await.unwrap();
    }

    fn put(&self, key: &str, variant: u64, meta: Bytes, body: Bytes) {
        let mut writing = self.begin(key, variant, &[]).unwrap();
        assert!(writing.push(body));
        writing.finish(meta);
    }

    /// Stores content under its number, and waits.
    async fn keep(&self, number: u64, length: usize) {
        self.put(&key(number), 0, meta(number), content(number, length));
        self.settled().await;
    }

    /// Meta and body of all that is found.
    async fn all(&self, key: &str) -> Vec<(Bytes, Bytes)> {
        let mut all = Vec::new();
        for found in self.find(key).await {
            if let Ok(body) = found.body.whole().await {
                all.push((found.meta, body));
            }
        }
        all
    }

    /// Whether it is found; if so it is what was stored.
    async fn has(&self, number: u64, length: usize) -> bool {
        let all = self.all(&key(number)).await;
        for found in &all {
            assert!(*found == (meta(number), content(number, length)), "{number} is another");
        }
        !all.is_empty()
    }
}

async fn pieces(body: &OnDisk, range: Range<u64>) -> io::Result<Vec<u8>> {
    let pieces: Vec<Bytes> = body.read(range).try_collect().await?;
    Ok(pieces.concat())
}

/// What all files of a folder take.
fn taken(folder: &Path) -> u64 {
    let files = fs::read_dir(folder).unwrap();
    // One may go meanwhile.
    files.map(|file| file.unwrap().metadata().map_or(0, |data| data.len())).sum()
}

/// Of a folder, those whose names begin so, in order.
fn files(folder: &Path, beginning: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let named = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with(beginning);
    let mut files: Vec<_> = files.filter(named).collect();
    files.sort();
    files
}
