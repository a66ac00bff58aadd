//! Who asks for the same thing at the same time gets one answer.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

/// What is under way, by key. Whoever asks for what is under way waits for it.
///
/// What began goes on to its end, whoever stops waiting.
pub(super) struct Flights<K, V> {
    under_way: Arc<UnderWay<K, V>>,
    most: usize,
}

type UnderWay<K, V> = Mutex<HashMap<K, watch::Receiver<Option<V>>>>;

/// Something is no longer under way once this is dropped.
struct Landing<K: Eq + Hash, V> {
    under_way: Arc<UnderWay<K, V>>,
    key: K,
}

impl<K: Eq + Hash, V> Drop for Landing<K, V> {
    fn drop(&mut self) {
        self.under_way.lock().remove(&self.key);
    }
}

impl<K, V> Flights<K, V>
where
    K: Clone + Eq + Hash + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Up to `most` at once.
    pub(super) fn up_to(most: usize) -> Self {
        Self { under_way: Arc::default(), most }
    }

    /// What comes of `key`: of what is under way for it, or else of `begin`. `None` if too
    /// much is under way, if `begin` does not, or if it came to nothing.
    pub(super) async fn fetch<F>(&self, key: K, begin: impl FnOnce() -> Option<F>) -> Option<V>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut arrival = self.join(key, begin)?;
        arrival.wait_for(Option::is_some).await.ok()?.clone()
    }

    fn join<F>(
        &self,
        key: K,
        begin: impl FnOnce() -> Option<F>,
    ) -> Option<watch::Receiver<Option<V>>>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut under_way = self.under_way.lock();
        if let Some(arrival) = under_way.get(&key) {
            return Some(arrival.clone());
        }
        if under_way.len() >= self.most {
            return None;
        }
        let flight = begin()?;
        let (tell, arrival) = watch::channel(None);
        under_way.insert(key.clone(), arrival.clone());
        let landing = Landing { under_way: self.under_way.clone(), key };
        tokio::spawn(async move {
            let value = flight.await;
            drop(landing);
            tell.send_replace(Some(value));
        });
        Some(arrival)
    }
}

impl<K, V> fmt::Debug for Flights<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let under_way = self.under_way.lock().len();
        f.debug_struct("Flights").field("under_way", &under_way).field("most", &self.most).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Ready;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[tokio::test]
    async fn one_flight_serves_all_who_ask_and_the_next_is_another() {
        let flights = Flights::up_to(2);
        let begun = AtomicU32::new(0);
        let fetch = |key: u32| {
            flights.fetch(key, || {
                let number = begun.fetch_add(1, Ordering::Relaxed);
                Some(async move {
                    tokio::task::yield_now().await;
                    number
                })
            })
        };
        let (a, b, c, d) = tokio::join!(fetch(1), fetch(1), fetch(2), fetch(3));
        assert_eq!((a, b, c, d), (Some(0), Some(0), Some(1), None));
        assert_eq!(fetch(1).await, Some(2));
    }

    #[tokio::test]
    async fn a_flight_goes_on_without_who_began_it_and_one_that_panics_ends() {
        let flights = Arc::new(Flights::up_to(1));
        let (release, released) = tokio::sync::oneshot::channel::<()>();
        let first = tokio::spawn({
            let flights = flights.clone();
            async move { flights.fetch(1, || Some(async move { released.await.is_ok() })).await }
        });
        tokio::task::yield_now().await;
        first.abort();
        assert!(first.await.is_err());
        let second = tokio::spawn({
            let flights = flights.clone();
            async move {
                flights
                    .fetch(1, || -> Option<Ready<bool>> { unreachable!("it is under way") })
                    .await
            }
        });
        tokio::task::yield_now().await;
        release.send(()).unwrap();
        assert_eq!(second.await.unwrap(), Some(true));
        assert_eq!(flights.fetch(1, || Some(async { panic!("on purpose") })).await, None);
        assert_eq!(flights.fetch(1, || None::<Ready<bool>>).await, None);
        assert_eq!(flights.fetch(1, || Some(async { true })).await, Some(true));
    }
}
