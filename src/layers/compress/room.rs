//! How much memory encoders take, of the whole process.

use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::budget::{Budget, Charge, Use};

/// What all encoders of the process may take together, in bytes.
const MOST: usize = 256 << 20;

static PROCESS: LazyLock<Room> = LazyLock::new(|| Room::new(MOST));

/// Memory for encoders. Clones are one.
#[derive(Clone, Debug)]
pub(super) struct Room(Arc<Counted>);

#[derive(Debug)]
struct Counted {
    taken: AtomicUsize,
    max: usize,
}

/// Memory that an encoder has until this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    of: Arc<Counted>,
    bytes: usize,
    #[allow(dead_code, reason = "held for its drop")]
    charge: Charge,
}

impl Room {
    pub(super) fn new(max: usize) -> Self {
        Self(Arc::new(Counted { taken: AtomicUsize::new(0), max }))
    }

    /// That of the process.
    pub(super) fn of_process() -> Self {
        PROCESS.clone()
    }

    /// Takes `bytes`, of the memory budget as well if there is one; `None` if they do
    /// not fit.
    pub(super) fn take(&self, bytes: usize, budget: Option<&Budget>) -> Option<Place> {
        let Counted { taken, max } = &*self.0;
        let more = |taken: usize| taken.checked_add(bytes).filter(|taken| taken <= max);
        taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        let mut place = Place { of: self.0.clone(), bytes, charge: Charge::default() };
        if let Some(budget) = budget {
            place.charge = budget.charge(bytes, Use::Buffer)?;
        }
        Some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.of.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_there_is_room_for_is_taken_and_it_is_given_back() {
        let room = Room::new(10);
        let first = room.take(6, None).unwrap();
        assert!(room.take(5, None).is_none());
        assert!(room.take(4, None).is_some());
        drop(first);
        assert!(room.take(10, None).is_some());
    }

    #[test]
    fn what_the_memory_budget_refuses_is_not_taken() {
        let (room, budget) = (Room::new(1 << 30), Budget::new(1 << 20));
        assert!(room.take(2 << 20, Some(&budget)).is_none());
        let place = room.take(1 << 16, Some(&budget)).unwrap();
        assert_eq!(budget.charged(), 1 << 16);
        drop(place);
        assert_eq!((budget.charged(), room.0.taken.load(Ordering::Relaxed)), (0, 0));
    }
}
