//! What an exchange has until it is over.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Facts;
use crate::budget::Charge;

/// Something that matters by its drop.
pub type Guard = Box<dyn Any + Send + Sync>;

/// Whoever is told of the end of each exchange.
pub trait AtEnd: fmt::Debug + Send + Sync {
    /// The exchange is over. Called once.
    fn ended(&self, facts: &Facts);
}

/// Counts as one until it is dropped.
#[derive(Debug)]
pub struct Permit {
    count: Arc<AtomicUsize>,
    #[allow(dead_code, reason = "held for its drop")]
    charge: Charge,
}

impl Permit {
    /// Adds one to `count`, unless there are `max` already.
    #[must_use]
    pub fn acquire(count: &Arc<AtomicUsize>, max: usize) -> Option<Self> {
        let one_more = |open: usize| (open < max).then_some(open + 1);
        count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(Self { count: count.clone(), charge: Charge::default() })
    }

    /// Has it stand for memory as well.
    #[must_use]
    pub fn charged(mut self, charge: Charge) -> Self {
        self.charge = charge;
        self
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What an exchange has until it is over. Of each kind there is one at the most.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) at_end: Option<Arc<dyn AtEnd>>,
    pub(super) permit: Option<Permit>,
    pub(super) kept: Option<Guard>,
}

/// Puts a value in its place, or gives it back where there is one already.
pub(super) fn set<T>(place: &mut Option<T>, value: T) -> Result<(), T> {
    match place {
        Some(_) => Err(value),
        None => {
            *place = Some(value);
            Ok(())
        }
    }
}
