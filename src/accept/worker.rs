//! What a worker thread serves its connections with, and what it does with
//! those that are not for it.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::runtime::Handle;

use super::Acceptor;
use super::connection::{Admitted, Door, Handed};
use super::spread::{self, Arrivals, Place};
use crate::context::KeepOpen;
use crate::drain::Work;
use crate::observe::Metrics;
use crate::serve::Answers;
use crate::socket::Stream;

/// One worker: the service that answers on it, and its place among the others.
/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Worker<S> {
    service: S,
    runtime: Handle,
    /// `None` where there is one worker only.
    place: Option<Arc<Place<Handed>>>,
}

/// A place among several workers; of one only, none.
#[derive(Debug)]
pub struct Member(Option<(Place<Handed>, Arrivals<Handed>)>);

/// Places for these many workers, which spread connections evenly.
#[must_use]
pub fn crew(workers: usize, metrics: &Metrics) -> Vec<Member> {
    if workers < 2 {
        return vec![Member(None)];
    }
    spread::places(workers, metrics).into_iter().map(|place| Member(Some(place))).collect()
}

impl<S: Answers> Worker<S> {
    /// A worker on the current runtime, which from now on serves what others
    /// hand to it, also while the drain lasts.
    #[must_use]
    pub fn start(member: Member, service: S) -> Self {
        let (place, arrivals) = member.0.unzip();
        let worker = Self { service, runtime: Handle::current(), place: place.map(Arc::new) };
        if let Some(arrivals) = arrivals {
            tokio::spawn(worker.clone().take_over(arrivals));
        }
        worker
    }

    /// Where it serves.
    pub(super) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    async fn take_over(self, mut arrivals: Arrivals<Handed>) {
        while let Some(handed) = arrivals.recv().await {
            self.take(handed);
        }
    }

    fn take(&self, handed: Handed) {
        let door = handed.door.clone();
        match handed.attach() {
            Ok(admitted) => self.serve(admitted),
            Err(error) => door.lost(&error),
        }
    }

    fn serve(&self, admitted: Admitted) {
        admitted.start(self.service.clone());
    }

    /// Serves a connection that was just accepted, here or on another worker,
    /// unless its client has too many.
    pub(super) fn admit(&self, stream: Stream, peer: Option<SocketAddr>, door: &Arc<Door>) {
        let Acceptor { name, permits, metrics, connections, proxy_protocol, .. } = &door.acceptor;
        let introduced = proxy_protocol.as_ref().is_some_and(|settings| settings.expects(peer));
        // Of whom a proxy tells is not known yet, and it is not the proxy itself.
        let client = if introduced { None } else { peer };
        let permit = match permits.acquire(client.map(|client| client.ip()), door.acceptor.memory())
        {
            Ok(permit) => permit,
            Err(limit) => {
                metrics.connection_refused(name, limit.as_str());
                tracing::debug!(?peer, limit = limit.as_str(), "a connection was turned away");
                return;
            }
        };
        let gauge = connections.opened();
        let (door, busy) = (door.clone(), door.drain.busy(Work::Connection));
        let Some(place) = &self.place else {
            let open = KeepOpen::new(Arc::new((permit, gauge)));
            return self.serve(Admitted { stream, peer, introduced, door, open, busy });
        };
        let (other, count) = place.choose(permits.open());
        let open = KeepOpen::new(Arc::new((permit, gauge, count)));
        let admitted = Admitted { stream, peer, introduced, door, open, busy };
        match other {
            None => self.serve(admitted),
            Some(other) => self.hand_over(admitted, place, other),
        }
    }

    fn hand_over(&self, admitted: Admitted, place: &Place<Handed>, other: usize) {
        let door = admitted.door.clone();
        match admitted.detach() {
            Ok(handed) => {
                if let Err(back) = place.hand(other, handed) {
                    self.take(back);
                }
            }
            Err(error) => door.lost(&error),
        }
    }
}
