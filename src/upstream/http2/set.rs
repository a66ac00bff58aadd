//! The HTTP/2 connections that one worker has to an origin.
//!
//! A request takes the first connection with room, so that those there are more
//! of than are needed fall idle and are closed. Where none has room a new one is
//! made. Requests that come meanwhile wait for it, as many as it will probably
//! carry; more than that make the next.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::connection::{Connection, Lease};
use crate::error::Kind;

/// The connections there are, and those that are being made.
#[derive(Default)]
pub(in crate::upstream) struct Set(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    connections: Vec<Arc<Connection>>,
    dials: Vec<Dial>,
    /// How many streams the last connection could carry.
    typical: Option<usize>,
    next: u64,
}

/// A connection that is being made.
struct Dial {
    id: u64,
    /// Requests that it is for.
    wanted: usize,
    outcome: watch::Receiver<Outcome>,
}

/// What came of a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::upstream) enum Outcome {
    /// It is not known yet.
    Open,
    /// It is there, and what it can carry is known.
    Settled,
    /// It could not be made.
    Failed(Kind),
}

/// The right and the duty to make a connection. Whoever waits for it looks
/// around anew when this is dropped.
pub(in crate::upstream) struct Dialling {
    set: Arc<Set>,
    id: u64,
    outcome: watch::Sender<Outcome>,
}

/// How a request comes by a connection.
pub(in crate::upstream) enum Claim {
    /// There is one with room.
    Lease(Lease),
    /// One is being made.
    Wait(watch::Receiver<Outcome>),
    /// It has to be made.
    Dial(Dialling),
}

impl Set {
    /// Room on a connection there is, unless it carried nothing for `timeout`.
    pub(in crate::upstream) fn lease(&self, now: Instant, timeout: Duration) -> Option<Lease> {
        self.0.lock().lease(|connection| connection.is_stale(now, timeout))
    }

    /// Room on a connection, now or later. `most` is how many streams one carries
    /// if nothing is known yet.
    pub(in crate::upstream) fn claim(self: &Arc<Self>, most: usize) -> Claim {
        let mut inner = self.0.lock();
        // Whoever comes here has looked for idle ones already.
        if let Some(lease) = inner.lease(|connection| connection.is_retired()) {
            return Claim::Lease(lease);
        }
        let carries = inner.typical.unwrap_or(most);
        if let Some(dial) = inner.dials.iter_mut().find(|dial| dial.wanted < carries) {
            dial.wanted += 1;
            return Claim::Wait(dial.outcome.clone());
        }
        Claim::Dial(self.enlist(&mut inner))
    }

    /// A connection to be made, whatever there is.
    pub(in crate::upstream) fn dial(self: &Arc<Self>) -> Dialling {
        self.enlist(&mut self.0.lock())
    }

    fn enlist(self: &Arc<Self>, inner: &mut Inner) -> Dialling {
        let (outcome, receiver) = watch::channel(Outcome::Open);
        let id = inner.next;
        inner.next += 1;
        inner.dials.push(Dial { id, wanted: 1, outcome: receiver });
        Dialling { set: self.clone(), id, outcome }
    }

    /// Lets go of what is broken, or carried nothing for `timeout`.
    pub(in crate::upstream) fn sweep(&self, now: Instant, timeout: Duration) {
        let stale = |connection: &mut Arc<Connection>| connection.is_stale(now, timeout);
        let dropped: Vec<_> = self.0.lock().connections.extract_if(.., stale).collect();
        drop(dropped);
    }
}

impl Inner {
    fn lease(&mut self, stale: impl Fn(&Connection) -> bool) -> Option<Lease> {
        let mut index = 0;
        while let Some(connection) = self.connections.get(index) {
            if !connection.has_room() {
                index += 1;
            } else if stale(connection) {
                // What is under way on it keeps it open.
                drop(self.connections.remove(index));
            } else if let Some(lease) = connection.lease() {
                return Some(lease);
            }
        }
        None
    }
}

impl Dialling {
    /// The connection is there.
    pub(super) fn connected(&self, connection: Arc<Connection>) {
        self.set.0.lock().connections.push(connection);
    }

    /// It carries `room` streams at once.
    pub(super) fn settled(self, room: usize) {
        self.set.0.lock().typical = Some(room.max(1));
        self.outcome.send_replace(Outcome::Settled);
    }

    /// It could not be made.
    pub(in crate::upstream) fn failed(self, kind: Kind) {
        self.outcome.send_replace(Outcome::Failed(kind));
    }
}

impl Drop for Dialling {
    fn drop(&mut self) {
        self.set.0.lock().dials.retain(|dial| dial.id != self.id);
    }
}

/// Waits for what comes of a connection; `Open` if nobody makes it any more.
pub(in crate::upstream) async fn outcome(mut outcome: watch::Receiver<Outcome>) -> Outcome {
    outcome
        .wait_for(|outcome| *outcome != Outcome::Open)
        .await
        .map_or(Outcome::Open, |known| *known)
}
