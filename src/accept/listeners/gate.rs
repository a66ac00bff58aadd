//! One address, and who accepts from its sockets.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::Post;
use crate::accept::ListenAddress;
use crate::accept::bind::{Opened, Terms};
use crate::accept::inherited::Giver;
use crate::accept::rounds::{Acceptors, Rounds};
use crate::accept::sockets::{BoundSocket, ListenSocket};
use crate::accept::unix::SocketFile;
use crate::drain;

/// An address that is bound, whichever listener it belongs to.
#[derive(Debug)]
pub(super) struct Gate {
    pub(super) id: u64,
    /// As it stands in the settings.
    pub(super) asked: ListenAddress,
    pub(super) bound: ListenAddress,
    file: Option<Arc<SocketFile>>,
    giver: Option<Giver>,
    terms: Mutex<Terms>,
    branch: drain::Branch,
    sockets: Mutex<Vec<(usize, Held)>>,
}

/// A socket on its way to the worker that accepts from it.
#[derive(Debug)]
enum Held {
    Bound(BoundSocket),
    Attached(ListenSocket),
    /// It goes when the worker lets go of it.
    Open(Weak<ListenSocket>, Weak<()>),
}

impl Gate {
    pub(super) fn new(
        id: u64,
        asked: ListenAddress,
        opened: Opened,
        terms: Terms,
        branch: drain::Branch,
    ) -> Self {
        let Opened { address: bound, sockets, file, giver } = opened;
        let held = |(worker, socket)| (worker, Held::Bound(socket));
        let sockets = Mutex::new(sockets.into_iter().map(held).collect());
        Self { id, asked, bound, file, giver, terms: Mutex::new(terms), branch, sockets }
    }

    /// Has the workers' runtimes poll its sockets: all, or those that listen.
    pub(super) fn attach(&self, posts: &[Box<dyn Post>], all: bool) -> io::Result<()> {
        let backlog = self.terms.lock().backlog;
        let mut sockets = self.sockets.lock();
        for (worker, held) in std::mem::take(&mut *sockets) {
            let held = match (held, posts.get(worker)) {
                (Held::Bound(socket), Some(post)) if all || socket.listens() => {
                    let _there = post.runtime().enter();
                    Held::Attached(socket.attach(backlog)?)
                }
                (held, _) => held,
            };
            sockets.push((worker, held));
        }
        Ok(())
    }

    /// Has the workers accept from its sockets.
    pub(super) fn start(
        &self,
        posts: &[Box<dyn Post>],
        table: &Arc<ArcSwap<Acceptors>>,
        released: &CancellationToken,
    ) {
        if let Err(error) = self.attach(posts, true) {
            tracing::error!(address = %self.bound, %error, "a socket cannot be polled");
        }
        let mut sockets = self.sockets.lock();
        for (worker, held) in std::mem::take(&mut *sockets) {
            let held = match (held, posts.get(worker)) {
                (Held::Attached(socket), Some(post)) => {
                    if self.giver.is_some() {
                        self.set_backlog(&socket);
                    }
                    let socket = Arc::new(socket);
                    let open = Held::Open(Arc::downgrade(&socket), socket.until_closed());
                    self.take_file_over();
                    let drain = self.branch.watcher();
                    let (table, released) = (table.clone(), released.clone());
                    let place = (self.id, &self.asked);
                    if let Some(rounds) = Rounds::new(place, socket, table, drain, released) {
                        post.accept(rounds);
                    }
                    open
                }
                (held, _) => held,
            };
            sockets.push((worker, held));
        }
    }

    /// Whether a worker still accepts from one of its sockets, or is to.
    pub(super) fn is_open(&self) -> bool {
        self.sockets.lock().iter().any(|(_, held)| match held {
            Held::Open(_, closed) => closed.strong_count() > 0,
            Held::Bound(_) | Held::Attached(_) => true,
        })
    }

    /// Follows settings that may have changed.
    pub(super) fn follow(&self, terms: Terms) {
        let before = std::mem::replace(&mut *self.terms.lock(), terms);
        if before.backlog != terms.backlog {
            for (_, held) in &*self.sockets.lock() {
                if let Held::Open(socket, _) = held
                    && let Some(open) = socket.upgrade()
                {
                    self.set_backlog(&open);
                }
            }
        }
        if before.unix_mode != terms.unix_mode {
            self.set_mode(terms.unix_mode);
        }
    }

    fn set_backlog(&self, socket: &ListenSocket) {
        if let Err(error) = socket.set_backlog(self.terms.lock().backlog) {
            tracing::warn!(address = %self.bound, %error, "the backlog cannot be changed");
        }
    }

    /// What a predecessor has made is this process's, from when it accepts.
    fn take_file_over(&self) {
        if let (Some(file), Some(Giver::Predecessor)) = (&self.file, self.giver) {
            file.set_ours(true);
            self.set_mode(self.terms.lock().unix_mode);
        }
    }

    fn set_mode(&self, mode: u32) {
        if let Some(file) = self.file.as_ref().filter(|_| self.giver != Some(Giver::ServiceManager))
            && let Err(error) = file.set_mode(mode)
        {
            tracing::warn!(address = %self.bound, %error, "the mode of a socket cannot be changed");
        }
    }

    /// The file of a Unix socket that a service manager keeps.
    pub(super) fn kept_file(&self) -> Option<PathBuf> {
        match &self.bound {
            ListenAddress::Unix(path) if self.giver == Some(Giver::ServiceManager) => {
                Some(path.clone())
            }
            _ => None,
        }
    }

    /// Doubles of its sockets, for another process.
    pub(super) fn handles(&self) -> io::Result<Vec<OwnedFd>> {
        let sockets = self.sockets.lock();
        let handles = sockets.iter().filter_map(|(_, held)| match held {
            Held::Bound(socket) => socket.handle(),
            Held::Attached(socket) => socket.handle(),
            Held::Open(socket, _) => socket.upgrade().and_then(|socket| socket.handle()),
        });
        handles.collect()
    }

    /// Leaves the file of a Unix socket to another process.
    pub(super) fn leave_file(&self) {
        if let Some(file) = &self.file {
            file.set_ours(false);
        }
    }

    /// Takes what has come already, and nothing more; its connections end when
    /// they come to it.
    pub(super) fn end(&self) {
        if let Some(file) = &self.file {
            file.remove();
        }
        self.branch.end();
        self.sockets.lock().retain(|(_, held)| matches!(held, Held::Open(..)));
    }
}
