//! Systems whose notifications are not used.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use tokio::io::unix::AsyncFd;

/// There are none.
#[derive(Clone, Debug)]
pub(super) enum Notifications {}

/// Nothing is watched.
#[derive(Debug, Default)]
pub(super) struct Watches {
    pub(super) blind: Option<String>,
}

/// Nobody is seen writing.
#[derive(Debug, Default)]
pub(super) struct Writing;

impl Notifications {
    pub(super) fn new() -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn wait_for(&self) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
        match *self {}
    }

    pub(super) fn watch<'a>(&self, _: impl IntoIterator<Item = &'a Path>) -> Watches {
        match *self {}
    }

    pub(super) fn forget(&self, _: &Watches, _: &Watches) {
        match *self {}
    }

    pub(super) fn take(&self, _: &Watches, _: &mut Writing) -> io::Result<(bool, bool)> {
        match *self {}
    }
}

impl Writing {
    pub(super) fn is_over(&self) -> bool {
        true
    }

    pub(super) fn forget(&mut self) {}

    pub(super) fn forget_others(&mut self, _: &Watches) {}
}
