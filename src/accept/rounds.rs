//! Accepting from one socket, over and over.

use std::collections::HashMap;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::connection::Door;
use super::sockets::ListenSocket;
use super::{Acceptor, ListenAddress, Worker, is_exhaustion};
use crate::drain::{self, Busy, Work};
use crate::serve::Answers;

/// How long the loop sleeps when the system has nothing left to accept with.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// What is done with the connections of each address, by the address's number.
pub(super) type Acceptors = HashMap<u64, Arc<Acceptor>>;

/// A socket to accept from, and what is to be done with what comes.
#[derive(Debug)]
pub(super) struct Rounds {
    socket: Arc<ListenSocket>,
    door: Entrance,
    drain: drain::Watcher,
    /// Comes true when another process accepts from here.
    released: CancellationToken,
    /// The drain waits for the last call. Held from the start, which is before
    /// anybody runs this.
    _accepting: Busy,
}

/// The door of one address, as it stands in the table of all.
#[derive(Debug)]
struct Entrance {
    address: u64,
    table: Arc<ArcSwap<Acceptors>>,
    seen: Arc<Acceptors>,
    door: Arc<Door>,
}

impl Rounds {
    /// `None` if nothing is to be done with what comes to this address.
    pub(super) fn new(
        (address, asked): (u64, &ListenAddress),
        socket: Arc<ListenSocket>,
        table: Arc<ArcSwap<Acceptors>>,
        drain: drain::Watcher,
        released: CancellationToken,
    ) -> Option<Self> {
        let seen = table.load_full();
        let (asked, local) = (asked.to_string(), socket.local_addr());
        let door = Arc::new(Door::new(seen.get(&address)?, &asked, local, drain.clone()));
        let door = Entrance { address, table, seen, door };
        let _accepting = drain.busy(Work::Accepting);
        Some(Self { socket, door, drain, released, _accepting })
    }

    /// Accepts connections until the drain begins, and has `worker` serve each in a
    /// task of its own, or hand it to another. Never fails: an error is logged,
    /// waited out if waiting helps, and gone past.
    pub(super) async fn run<S: Answers>(self, worker: Worker<S>) {
        let Self { socket, mut door, drain, released, _accepting } = self;
        let mut complaints = Complaints::default();
        let (mut drained, mut handed) = (pin!(drain.draining()), pin!(released.cancelled()));
        loop {
            let accepted = tokio::select! {
                // In this order the ends are looked at once a batch: tokio stops a
                // task that has accepted much.
                biased;
                accepted = socket.accept() => accepted,
                () = &mut handed => return,
                () = &mut drained => break,
            };
            match accepted {
                Ok((stream, peer)) => worker.admit(stream, peer, door.now()),
                Err(error) => {
                    let Acceptor { name, metrics, .. } = &door.now().acceptor;
                    metrics.accept_failed(name);
                    complaints.hear(name, &error);
                    if is_exhaustion(&error) {
                        tokio::time::sleep(EXHAUSTED_PAUSE).await;
                    }
                }
            }
        }
        let door = door.now();
        if let Err(error) = socket.last_call(|stream, peer| worker.admit(stream, peer, door)) {
            tracing::debug!(%error, "the last call ended early");
        }
    }
}

impl Entrance {
    /// The door of a connection that comes now. One that has changed is made anew,
    /// for connections that are open keep what they came by.
    fn now(&mut self) -> &Arc<Door> {
        let table = self.table.load();
        if !Arc::ptr_eq(&table, &self.seen) {
            // An address that has left it keeps what it had, to its last call.
            if let Some(acceptor) = table.get(&self.address) {
                self.door = Arc::new(self.door.with(acceptor));
            }
            self.seen = arc_swap::Guard::into_inner(table);
        }
        &self.door
    }
}

/// Logs the errors of a loop, at most one a second.
#[derive(Default)]
struct Complaints {
    last: Option<Instant>,
    unsaid: u64,
}

impl Complaints {
    fn hear(&mut self, listener: &str, error: &io::Error) {
        let now = Instant::now();
        if self.last.is_some_and(|last| now - last < Duration::from_secs(1)) {
            self.unsaid += 1;
            return;
        }
        let unsaid = std::mem::take(&mut self.unsaid);
        tracing::error!(listener, %error, unsaid, "cannot accept a connection");
        self.last = Some(now);
    }
}
