//! All listeners of the process, which come and go while it runs.
//!
//! What is bound is an address, whichever listener it belongs to at the time. So
//! one that stays keeps its sockets, and what waits in them, through every change;
//! what is done with its connections stands in one table for all addresses, which
//! is replaced at once.

mod aside;
mod change;
mod gate;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

pub use aside::Aside;
pub use change::Change;

use super::rounds::{Acceptors, Rounds};
use super::sockets::ListenSocket;
use super::{BindError, Inherited, ListenAddress, ListenerSettings, Permits, Worker};
use crate::drain;
use crate::observe::Metrics;
use crate::serve::Answers;
use crate::tls::TlsAcceptor;
use gate::Gate;

/// The listeners of the process. Cheap to clone; all clones are the same.
#[derive(Clone, Debug)]
pub struct Listeners(Arc<Inner>);

/// What listeners share.
#[derive(Clone, Debug)]
pub struct Shared {
    /// How many threads accept.
    pub workers: usize,
    /// How many connections may be open, over all.
    pub permits: Permits,
    /// Where they are counted.
    pub metrics: Metrics,
    /// What ends them all.
    pub drain: drain::Watcher,
}

#[derive(Debug)]
struct Inner {
    shared: Shared,
    table: Arc<ArcSwap<Acceptors>>,
    /// Comes true when another process accepts.
    released: CancellationToken,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    listeners: Vec<Named>,
    /// Empty until they have begun, and when they have ended.
    posts: Vec<Box<dyn Post>>,
    /// Whether they accept.
    open: bool,
    /// What others accept from.
    asides: Vec<Weak<ListenSocket>>,
    /// Those that were removed, until their last call is over.
    leaving: Vec<Arc<Gate>>,
    /// Each address that is bound has a number of its own.
    last_id: u64,
}

/// A listener, and the addresses that are its.
#[derive(Clone, Debug)]
struct Named {
    name: String,
    gates: Vec<Arc<Gate>>,
    addresses: Vec<ListenAddress>,
}

/// A worker thread, as those see it who have no part in what it serves.
trait Post: fmt::Debug + Send + Sync {
    fn runtime(&self) -> &Handle;
    fn accept(&self, rounds: Rounds);
}

/// A worker's service need not be shared between threads.
struct At<S> {
    runtime: Handle,
    worker: Mutex<Worker<S>>,
}

impl<S: Answers> Post for At<S> {
    fn runtime(&self) -> &Handle {
        &self.runtime
    }

    fn accept(&self, rounds: Rounds) {
        let worker = self.worker.lock().clone();
        self.runtime.spawn(rounds.run(worker));
    }
}

impl<S> fmt::Debug for At<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("At").field("runtime", &self.runtime).finish_non_exhaustive()
    }
}

impl Listeners {
    /// Binds every address, or takes its sockets from `inherited`. Nobody accepts
    /// from them before [`Listeners::open`]. `tls` has one for each listener.
    ///
    /// # Errors
    ///
    /// The first address that cannot be bound.
    pub fn bind(
        settings: &[ListenerSettings],
        tls: Vec<Option<TlsAcceptor>>,
        shared: Shared,
        inherited: &mut Inherited,
    ) -> Result<Self, BindError> {
        let inner = Inner {
            shared,
            table: Arc::default(),
            released: CancellationToken::new(),
            state: Mutex::default(),
        };
        let listeners = Self(Arc::new(inner));
        let change = listeners.prepare_with(settings, tls, inherited)?;
        listeners.commit(change);
        Ok(listeners)
    }

    /// Has these workers, one for each thread, know what to accept from, and do so
    /// once [`Listeners::open`] is called.
    ///
    /// # Errors
    ///
    /// The system has nothing left to poll sockets with.
    pub fn enlist<S: Answers>(&self, workers: Vec<Worker<S>>) -> io::Result<()> {
        let post = |worker: Worker<S>| {
            let runtime = worker.runtime().clone();
            Box::new(At { runtime, worker: Mutex::new(worker) }) as Box<dyn Post>
        };
        let mut state = self.0.state.lock();
        state.posts = workers.into_iter().map(post).collect();
        // What does not listen yet would share in what comes to a predecessor.
        state.gates().try_for_each(|gate| gate.attach(&state.posts, false))
    }

    /// Has the workers accept from now on.
    pub fn open(&self) {
        let Inner { table, released, state, .. } = &*self.0;
        let mut state = state.lock();
        state.open = true;
        state.gates().for_each(|gate| gate.start(&state.posts, table, released));
    }

    /// Whether the workers accept.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.state.lock().open
    }

    /// Where a listener is bound; `None` if there is none of that name.
    #[must_use]
    pub fn bound_to(&self, name: &str) -> Option<Vec<ListenAddress>> {
        let state = self.0.state.lock();
        state.listeners.iter().find(|named| named.name == name).map(|named| named.addresses.clone())
    }

    /// The TCP addresses among those of [`Listeners::bound_to`].
    #[must_use]
    pub fn addresses(&self, name: &str) -> Vec<SocketAddr> {
        let tcp = |address| match address {
            ListenAddress::Tcp(address) => Some(address),
            ListenAddress::Unix(_) => None,
        };
        self.bound_to(name).unwrap_or_default().into_iter().filter_map(tcp).collect()
    }

    /// The permits that connections need; their limits can be changed.
    #[must_use]
    pub fn permits(&self) -> &Permits {
        &self.0.shared.permits
    }

    /// Doubles of all listening sockets, for a process that is to accept from them.
    ///
    /// # Errors
    ///
    /// The process has as many files open as it may have.
    pub fn handles(&self) -> io::Result<Vec<OwnedFd>> {
        let state = self.0.state.lock();
        let mut handles = Vec::new();
        for gate in state.gates() {
            handles.extend(gate.handles()?);
        }
        for aside in state.asides.iter().filter_map(Weak::upgrade) {
            handles.extend(aside.handle().transpose()?);
        }
        Ok(handles)
    }

    /// The files of Unix sockets that a service manager keeps.
    #[must_use]
    pub fn kept_files(&self) -> Vec<PathBuf> {
        let state = self.0.state.lock();
        state.gates().filter_map(|gate| gate.kept_file()).collect()
    }

    /// Another process has the sockets: nobody accepts here any more, and what
    /// waits in them is left to it, as are the files of Unix sockets.
    pub fn release(&self) {
        let state = self.0.state.lock();
        state.gates().for_each(|gate| gate.leave_file());
        self.0.released.cancel();
    }

    /// Whether another process has the sockets.
    #[must_use]
    pub fn is_released(&self) -> bool {
        self.0.released.is_cancelled()
    }

    /// Resolves once [`Listeners::release`] was called.
    pub async fn released(&self) {
        self.0.released.cancelled().await;
    }

    /// Asks every worker's thread whether it still turns, and waits for all the
    /// answers; false if one has ended, or none has begun.
    pub async fn pulse(&self) -> bool {
        let asked: Vec<_> = {
            let state = self.0.state.lock();
            state.posts.iter().map(|post| post.runtime().spawn(async {})).collect()
        };
        let mut alive = !asked.is_empty();
        for answer in asked {
            alive &= answer.await.is_ok();
        }
        alive
    }

    /// How many tasks the workers have, of connections and others.
    #[must_use]
    pub fn tasks(&self) -> usize {
        let state = self.0.state.lock();
        state.posts.iter().map(|post| post.runtime().metrics().num_alive_tasks()).sum()
    }

    /// Lets go of the workers, which have ended.
    pub fn close(&self) {
        let mut state = self.0.state.lock();
        state.open = false;
        let posts = std::mem::take(&mut state.posts);
        drop(state);
        drop(posts);
    }
}

impl State {
    fn gates(&self) -> impl Iterator<Item = &Arc<Gate>> {
        self.listeners.iter().flat_map(|named| &named.gates)
    }
}
