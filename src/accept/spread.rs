//! Which worker serves a connection.
//!
//! With `SO_REUSEPORT` the kernel chooses by a hash of the addresses. That is
//! even over thousands of connections, but not over a dozen; and a dozen that
//! last, such as those of HTTP/2 clients, can keep one core busy beside an idle
//! one. So a worker that has its share hands a fresh connection to the one that
//! has the fewest, as long as it does not do so all the time.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::observe::{Metrics, OpenOnWorker, WorkerConnections};

/// How many connections a worker hands over in a second. Over the first few
/// hundred the count has to be made even; over more than that the hash is even
/// enough, and a connection for each request would cost more with every turn.
const HANDED_A_SECOND: u32 = 256;

/// One worker among several, as it sees the others.
#[derive(Debug)]
pub(super) struct Place<T> {
    here: usize,
    crew: Arc<[Peer<T>]>,
    handed: Mutex<Window>,
}

/// How many were handed over since a moment less than a second ago.
#[derive(Debug)]
struct Window {
    since: Instant,
    handed: u32,
}

#[derive(Debug)]
struct Peer<T> {
    connections: WorkerConnections,
    /// Bounded by the permits of what is sent.
    door: mpsc::UnboundedSender<T>,
}

/// What the others hand to a worker.
pub(super) type Arrivals<T> = mpsc::UnboundedReceiver<T>;

/// A place for each worker.
pub(super) fn places<T>(workers: usize, metrics: &Metrics) -> Vec<(Place<T>, Arrivals<T>)> {
    let (crew, arrivals): (Vec<_>, Vec<_>) = (0..workers)
        .map(|worker| {
            let (door, arrivals) = mpsc::unbounded_channel();
            (Peer { connections: metrics.worker_connections(worker), door }, arrivals)
        })
        .unzip();
    let crew: Arc<[_]> = crew.into();
    let place = |(here, arrivals)| {
        let handed = Mutex::new(Window { since: Instant::now(), handed: 0 });
        (Place { here, crew: crew.clone(), handed }, arrivals)
    };
    arrivals.into_iter().enumerate().map(place).collect()
}

impl<T> Place<T> {
    /// The worker that is to have one more connection, `None` for this one, and
    /// its count. `open` are all that there are, with the new one.
    pub(super) fn choose(&self, open: usize) -> (Option<usize>, OpenOnWorker) {
        let count = |worker: usize| self.crew[worker].connections.count();
        let share = open.div_ceil(self.crew.len());
        let own = count(self.here);
        let worker = if own < share || !self.may_hand() {
            self.here
        } else {
            let least = (0..self.crew.len()).min_by_key(|worker| count(*worker));
            least.filter(|worker| count(*worker) < own).unwrap_or(self.here)
        };
        ((worker != self.here).then_some(worker), self.crew[worker].connections.open())
    }

    /// Whether one more may be handed over in this second.
    fn may_hand(&self) -> bool {
        let mut window = self.handed.lock();
        let now = Instant::now();
        if now - window.since >= Duration::from_secs(1) {
            *window = Window { since: now, handed: 0 };
        }
        window.handed += 1;
        window.handed <= HANDED_A_SECOND
    }

    /// Hands something to another worker.
    ///
    /// # Errors
    ///
    /// That worker has ended; here it is back.
    pub(super) fn hand(&self, worker: usize, what: T) -> Result<(), T> {
        self.crew[worker].door.send(what).map_err(|error| error.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Opens connections, all accepted by the first worker, and gives the counts.
    fn spread(workers: usize, connections: usize) -> (Vec<usize>, Vec<OpenOnWorker>) {
        let places = places::<()>(workers, &Metrics::default());
        let here = &places[0].0;
        let open = (1..=connections).map(|open| here.choose(open).1).collect();
        (here.crew.iter().map(|peer| peer.connections.count()).collect(), open)
    }

    #[tokio::test(start_paused = true)]
    async fn a_few_connections_are_dealt_out_one_by_one() {
        assert_eq!(spread(2, 1).0, [1, 0]);
        assert_eq!(spread(2, 8).0, [4, 4]);
        assert_eq!(spread(4, 10).0, [3, 3, 2, 2]);
        assert_eq!(spread(2, 512).0, [256, 256]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_stays_where_it_came_but_for_a_few_a_second() {
        let places = places::<()>(2, &Metrics::default());
        let here = &places[0].0;
        let mut open: Vec<_> = (1..=2_000).map(|open| here.choose(open).1).collect();
        assert_eq!(here.crew[1].connections.count(), 256);
        tokio::time::advance(Duration::from_secs(1)).await;
        open.extend((2_001..=4_000).map(|open| here.choose(open).1));
        assert_eq!(here.crew[1].connections.count(), 512);
    }

    #[test]
    fn a_worker_with_less_than_its_share_keeps_what_it_accepts() {
        let places = places::<()>(2, &Metrics::default());
        let (first, second) = (&places[0].0, &places[1].0);
        let _open: Vec<_> = (1..=6).map(|open| first.choose(open).1).collect();
        let (to, seventh) = second.choose(7);
        assert_eq!(to, None);
        drop(seventh);
        assert_eq!(second.choose(7).0, None);
    }

    #[test]
    fn a_connection_that_is_over_makes_room_where_it_was() {
        let places = places::<()>(2, &Metrics::default());
        let here = &places[0].0;
        let (first, second) = (here.choose(1), here.choose(2));
        assert_eq!((first.0, second.0), (None, Some(1)));
        drop(first);
        let third = here.choose(2);
        assert_eq!(third.0, None);
        drop(second);
        assert_eq!(here.choose(2).0, Some(1));
    }

    #[test]
    fn what_a_worker_that_has_ended_is_handed_comes_back() {
        let mut places = places(2, &Metrics::default());
        places.pop();
        assert_eq!(places[0].0.hand(1, "this"), Err("this"));
    }
}
