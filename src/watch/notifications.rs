//! Linux's inotify: which folders are watched, and what it says of them.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::chain::walk;

/// Names that come and go.
const NAMES: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    // Several paths may lead over one folder.
    .union(WatchFlags::MASK_ADD)
    .union(WatchFlags::ONLYDIR);

/// What is written into files.
const WRITES: WatchFlags = WatchFlags::MODIFY
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::EXCL_UNLINK)
    .union(WatchFlags::MASK_ADD);

/// So many are read before anybody else has a turn.
const AT_ONCE: usize = 1_000;

/// File systems whose files change elsewhere, of which inotify says nothing.
const REMOTE: [u32; 9] = [
    0x6969,      // NFS
    0x517b,      // SMB
    0xff53_4d42, // CIFS
    0xfe53_4d42, // SMB 2
    0x6573_5546, // FUSE, so virtiofs and what Docker Desktop mounts
    0x0102_1997, // 9P
    0x00c3_6400, // Ceph
    0x5346_414f, // AFS
    0x786f_4256, // VirtualBox's shared folders
];

/// The system's notifications.
#[derive(Clone, Debug)]
pub(super) struct Notifications(Arc<OwnedFd>);

/// What is watched, and for which names in it.
#[derive(Debug, Default)]
pub(super) struct Watches {
    names: HashMap<i32, HashSet<OsString>>,
    /// Why some change may go unnoticed.
    pub(super) blind: Option<String>,
}

/// What is under way in the watched files; one that is watched itself has no name.
#[derive(Debug, Default)]
pub(super) struct Writing(HashSet<(i32, OsString)>);

impl Notifications {
    pub(super) fn new() -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        Ok(Self(Arc::new(fd)))
    }

    /// Has the runtime wait for them.
    pub(super) fn wait_for(&self) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
        #[allow(
            deprecated,
            reason = "what replaces it is unsafe; this descriptor stays what it is"
        )]
        AsyncFd::with_interest(self.0.clone(), Interest::READABLE)
    }

    /// Watches every folder on the ways to these files. To watch a folder again is
    /// nothing, unless it is another one by now.
    pub(super) fn watch<'a>(&self, paths: impl IntoIterator<Item = &'a Path>) -> Watches {
        let (mut watches, mut folders) = (Watches::default(), HashMap::new());
        for path in paths {
            let end = walk(path, |step| {
                let flags = if step.last { NAMES | WRITES } else { NAMES };
                let watched = *folders
                    .entry((step.folder.to_owned(), step.last))
                    .or_insert_with(|| inotify::add_watch(&*self.0, step.folder, flags));
                match watched {
                    Ok(watch) => {
                        watches.names.entry(watch).or_default().insert(step.name.to_owned());
                    }
                    Err(error) => watches.cannot(step.folder, step.last, error),
                }
            });
            // A file that is mounted by itself, as containers have it, is in another
            // folder: what is written into it is not said of the one that it seems
            // to be in.
            if let Ok(watch) = inotify::add_watch(&*self.0, &end, WRITES) {
                watches.names.entry(watch).or_default();
            }
        }
        let holding = folders.keys().filter(|(_, last)| *last).map(|(folder, _)| folder);
        if let Some(folder) = holding.into_iter().find(|folder| is_remote(folder)) {
            let blind = format!("{} is on a file system of another machine", folder.display());
            watches.blind.get_or_insert(blind);
        }
        watches
    }

    /// Watches no longer what only the older of two sets has.
    pub(super) fn forget(&self, older: &Watches, newer: &Watches) {
        for watch in older.names.keys().filter(|watch| !newer.names.contains_key(watch)) {
            // If its folder is gone, so is the watch.
            let _gone = inotify::remove_watch(&*self.0, *watch);
        }
    }

    /// Takes what has come in: whether any of it is about the files, and whether
    /// there may be more.
    pub(super) fn take(
        &self,
        watches: &Watches,
        writing: &mut Writing,
    ) -> io::Result<(bool, bool)> {
        let mut buffer = [MaybeUninit::uninit(); 8 << 10];
        let mut reader = Reader::new(&*self.0, &mut buffer);
        let mut ours = false;
        for _ in 0..AT_ONCE {
            match reader.next() {
                Ok(event) => {
                    let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
                    ours |= watches.concerns(event.wd(), name, event.events());
                    if watches.has(event.wd(), name) {
                        writing.note(event.wd(), name.unwrap_or_default(), event.events());
                    }
                }
                Err(rustix::io::Errno::AGAIN) => return Ok((ours, false)),
                Err(error) => return Err(error.into()),
            }
        }
        Ok((ours, true))
    }
}

impl Watches {
    fn has(&self, watch: i32, name: Option<&OsStr>) -> bool {
        let names = self.names.get(&watch);
        names.is_some_and(|names| name.is_none_or(|name| names.contains(name)))
    }

    fn concerns(&self, watch: i32, name: Option<&OsStr>, events: ReadFlags) -> bool {
        events.contains(ReadFlags::QUEUE_OVERFLOW) || self.has(watch, name)
    }

    /// A folder cannot be watched. That matters where it holds the file or a link
    /// to it; of the folders above, the system often lets nobody see more than
    /// the way through.
    fn cannot(&mut self, folder: &Path, last: bool, error: rustix::io::Errno) {
        use rustix::io::Errno;
        match error {
            // What is not there yet is noticed from above.
            Errno::NOENT | Errno::NOTDIR => {}
            Errno::ACCESS if !last => {}
            Errno::NOSPC => {
                let limit = "the limit fs.inotify.max_user_watches is reached".to_owned();
                self.blind.get_or_insert(limit);
            }
            error => {
                let blind = format!("{} cannot be watched: {error}", folder.display());
                self.blind.get_or_insert(blind);
            }
        }
    }
}

impl Writing {
    /// Nobody is writing, as far as is known.
    pub(super) fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn forget(&mut self) {
        self.0.clear();
    }

    /// Forgets what is not watched any more, for nobody would say when it ends.
    pub(super) fn forget_others(&mut self, watches: &Watches) {
        self.0.retain(|(watch, name)| {
            watches.has(*watch, Some(name).filter(|n| !n.is_empty()).map(|n| &**n))
        });
    }

    fn note(&mut self, watch: i32, name: &OsStr, events: ReadFlags) {
        let file = (watch, name.to_owned());
        if events.contains(ReadFlags::MODIFY) {
            self.0.insert(file);
        } else if !events.contains(ReadFlags::ATTRIB) {
            // It was closed, or another one has its name.
            self.0.remove(&file);
        }
    }
}

fn is_remote(folder: &PathBuf) -> bool {
    rustix::fs::statfs(folder).is_ok_and(|system| {
        // The field's sign and width are the architecture's.
        REMOTE.contains(&((system.f_type as u64 & 0xffff_ffff) as u32))
    })
}
