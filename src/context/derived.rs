//! What is worked out once for all requests of a connection.

use std::any::Any;
use std::sync::{Arc, OnceLock};

use http::HeaderValue;
use parking_lot::Mutex;

/// Of so many schemes a connection remembers what they made of it. There are more only
/// where many are configured, or where they were changed many times while it was open.
const REMEMBERED: usize = 8;

/// What every request of a connection has in common, worked out by the first
/// that needs it.
#[derive(Clone, Debug, Default)]
pub struct Derived {
    pub(super) peer: OnceLock<Option<HeaderValue>>,
    judged: OnceLock<Arc<Judgements>>,
}

/// By the number of whoever has judged, the latest at the end.
#[derive(Debug, Default)]
struct Judgements(Mutex<Vec<(u64, Arc<dyn Any + Send + Sync>)>>);

impl Derived {
    /// What whoever has this number makes of the connection, worked out the first time.
    /// Nobody else may have the number, and what is made of it must not change.
    pub fn once<T: Send + Sync + 'static>(&self, number: u64, judge: impl FnOnce() -> T) -> Arc<T> {
        let mut judged = self.judged.get_or_init(Arc::default).0.lock();
        let known = judged.iter().find(|(by, _)| *by == number).map(|(_, known)| known.clone());
        if let Some(Ok(known)) = known.map(Arc::downcast) {
            return known;
        }
        if judged.len() >= REMEMBERED {
            judged.remove(0);
        }
        let new = Arc::new(judge());
        judged.push((number, new.clone()));
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_not_worked_out_again_and_the_oldest_is_forgotten() {
        let derived = Derived::default();
        let ask = |number: u64, answer: u64| *derived.once(number, || answer);
        for number in 0..8 {
            assert_eq!(ask(number, number), number);
        }
        assert_eq!(ask(0, 100), 0);
        assert_eq!(ask(8, 8), 8);
        assert_eq!(ask(0, 100), 100);
        assert_eq!(ask(2, 100), 2);
        assert_eq!(derived.judged.get().unwrap().0.lock().len(), 8);
    }
}
