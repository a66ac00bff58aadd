//! The request path in force, which a reload replaces at once.
//!
//! Connections outlive configurations, so what they hold is not a gateway but
//! the way to the one in force. Every thread has a copy of its own under a lock
//! that nobody else wants, so that the cores do not count references together;
//! a request costs that lock and a look at a number. A request that has begun
//! keeps to the gateway it began with.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use http::{Request, Response};
use parking_lot::Mutex;
use tower::Service;

use super::compose::Gateway;
use crate::body::Body;
use crate::seat::seat;

/// Answers by the gateway in force. Cheap to clone; all clones follow the same
/// swaps.
#[derive(Clone)]
pub struct Live(Arc<Shared>);

struct Shared {
    current: ArcSwap<Numbered>,
    /// The number of `current`: what a copy is compared with.
    number: AtomicU64,
    copies: Box<[Copied]>,
}

#[derive(Clone)]
struct Numbered {
    number: u64,
    gateway: Gateway,
}

/// One thread's copy, on cache lines of its own.
#[repr(align(128))]
struct Copied(Mutex<Numbered>);

impl Live {
    pub(super) fn new(gateway: Gateway) -> Self {
        let first = Numbered { number: 0, gateway };
        // A host application has threads besides those that serve.
        let threads = 2 * std::thread::available_parallelism().map_or(1, usize::from).min(64);
        let copies = (0..threads).map(|_| Copied(Mutex::new(first.clone()))).collect();
        let current = ArcSwap::from_pointee(first);
        Self(Arc::new(Shared { current, number: AtomicU64::new(0), copies }))
    }

    /// Has every request that begins from now on take `gateway`. One swap at a
    /// time is the caller's to see to.
    pub(super) fn swap(&self, gateway: Gateway) {
        let shared = &*self.0;
        let number = shared.number.load(Ordering::Relaxed) + 1;
        let new = Numbered { number, gateway };
        shared.current.store(Arc::new(new.clone()));
        shared.number.store(number, Ordering::Release);
        // A thread that is not asked anything would keep what was replaced.
        for copy in &shared.copies {
            let replaced = std::mem::replace(&mut *copy.0.lock(), new.clone());
            drop(replaced);
        }
    }
}

impl Service<Request<Body>> for Live {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = <Gateway as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // The router is always ready, and so is all that stands before it.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let shared = &*self.0;
        let Some(mut copy) = shared.copies[seat() % shared.copies.len()].0.try_lock() else {
            // Two threads have one copy: whoever comes second does not wait.
            return shared.current.load().gateway.clone().call(request);
        };
        if copy.number != shared.number.load(Ordering::Acquire) {
            *copy = (**shared.current.load()).clone();
        }
        copy.gateway.call(request)
    }
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.0.number.load(Ordering::Relaxed);
        f.debug_struct("Live").field("number", &number).finish_non_exhaustive()
    }
}
