//! What is fetched from elsewhere and kept fresh: one asks, all others have the answer.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::error::BoxError;
use crate::observe::FetchCounts;

/// How long nobody asks again after a failure; twice as long after each further one, up to
/// [`Pace::pause`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Where something is fetched from.
pub(in crate::layers::auth) trait Source:
    fmt::Debug + Send + Sync + 'static
{
    /// What is fetched.
    type Value: Send + Sync + 'static;

    /// Asks once, for as long as that may take.
    fn fetch(&self) -> impl Future<Output = Result<Fresh<Self::Value>, BoxError>> + Send;

    /// What it is, for the log.
    fn what(&self) -> &'static str;

    /// Where it is, for the log.
    fn place(&self) -> &str;
}

/// What came.
#[derive(Debug)]
pub(in crate::layers::auth) struct Fresh<T> {
    pub(in crate::layers::auth) value: T,
    /// For how long it is said to be good.
    pub(in crate::layers::auth) lifetime: Option<Duration>,
}

/// How often something is fetched.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::layers::auth) struct Pace {
    /// Again after so long, whatever the source says of it.
    pub(in crate::layers::auth) refresh: Duration,
    /// Not before so long has passed, whoever would like it.
    pub(in crate::layers::auth) pause: Duration,
    /// How long anybody waits for an answer.
    pub(in crate::layers::auth) patience: Duration,
}

/// Something that is fetched and kept fresh. Clones share it.
///
/// One task asks, on the runtime of whoever needs it first, and ends with the last clone.
/// While there is a value nobody waits for another but who is not served by it, and when none
/// comes the last one stays.
pub(in crate::layers::auth) struct Kept<S: Source> {
    inner: Arc<Inner<S>>,
    keeper: Arc<Mutex<Option<AbortOnDropHandle<()>>>>,
}

struct Inner<S: Source> {
    source: S,
    pace: Pace,
    counts: FetchCounts,
    state: ArcSwap<State<S::Value>>,
    /// How many times it was asked for, to the end.
    asked: watch::Sender<u64>,
    wanted: Notify,
    /// Whether a task keeps it.
    is_kept: AtomicBool,
    is_asking: AtomicBool,
}

struct State<T> {
    value: Option<Arc<T>>,
    /// When it was asked for last, and that had come to its end.
    ended: Option<Instant>,
    /// How often in a row nothing came.
    failures: u32,
    lifetime: Duration,
}

/// Notes that a task keeps no more, also if its runtime is gone.
struct Keeping<S: Source>(Arc<Inner<S>>);

impl<S: Source> Keeping<S> {
    async fn run(self) {
        self.0.keep().await;
    }
}

impl<S: Source> Drop for Keeping<S> {
    fn drop(&mut self) {
        self.0.is_asking.store(false, Ordering::Relaxed);
        self.0.is_kept.store(false, Ordering::Release);
    }
}

impl<S: Source> Kept<S> {
    pub(in crate::layers::auth) fn new(source: S, pace: Pace, counts: FetchCounts) -> Self {
        let state = State { value: None, ended: None, failures: 0, lifetime: pace.refresh };
        let inner = Inner {
            source,
            pace,
            counts,
            state: ArcSwap::from_pointee(state),
            asked: watch::Sender::new(0),
            wanted: Notify::new(),
            is_kept: AtomicBool::new(false),
            is_asking: AtomicBool::new(false),
        };
        Self { inner: Arc::new(inner), keeper: Arc::default() }
    }

    /// Where it is fetched from.
    #[cfg(test)]
    pub(in crate::layers::auth) fn source(&self) -> &S {
        &self.inner.source
    }

    /// What is there now. To be called on a runtime.
    pub(in crate::layers::auth) fn get(&self) -> Option<Arc<S::Value>> {
        if !self.inner.is_kept.load(Ordering::Acquire) {
            self.keep();
        }
        self.inner.state.load().value.clone()
    }

    /// Has it fetched for somebody who is not served by what there is, and waits; `None` if
    /// it is too early to ask again.
    pub(in crate::layers::auth) fn renewed(
        &self,
    ) -> Option<impl Future<Output = Option<Arc<S::Value>>> + Send + use<S>> {
        let mut asked = self.inner.asked.subscribe();
        let seen = *asked.borrow_and_update();
        let inner = &self.inner;
        let is_asking = inner.is_asking.load(Ordering::Acquire);
        if !is_asking && inner.state.load().is_too_early(inner.pace) {
            // An answer may just have come.
            if *asked.borrow() == seen {
                return None;
            }
        } else {
            inner.wanted.notify_one();
        }
        let (inner, patience) = (inner.clone(), inner.pace.patience);
        Some(async move {
            let next = asked.wait_for(|times| *times > seen);
            // It says nothing that is not in the state.
            let _ = tokio::time::timeout(patience, next).await;
            inner.state.load().value.clone()
        })
    }

    #[cold]
    fn keep(&self) {
        let mut keeper = self.keeper.lock();
        if self.inner.is_kept.load(Ordering::Acquire) {
            return;
        }
        self.inner.is_kept.store(true, Ordering::Release);
        let keeping = Keeping(self.inner.clone());
        *keeper = Some(AbortOnDropHandle::new(tokio::spawn(keeping.run())));
    }
}

impl<S: Source> Inner<S> {
    async fn keep(&self) {
        loop {
            let due = self.state.load().due(self.pace);
            let is_due = tokio::select! {
                () = tokio::time::sleep_until(due) => true,
                () = self.wanted.notified() => false,
            };
            // Somebody may have wanted it before the last answer had come.
            if is_due || !self.state.load().is_too_early(self.pace) {
                self.ask().await;
            }
        }
    }

    async fn ask(&self) {
        self.is_asking.store(true, Ordering::Release);
        let fetched = self.source.fetch().await;
        let before = self.state.load();
        let ended = Some(Instant::now());
        let after = match fetched {
            Ok(Fresh { value, lifetime }) => {
                self.counts.fetched();
                if before.failures > 0 {
                    let (what, from) = (self.source.what(), self.source.place());
                    tracing::info!(from, "{what} could be fetched again");
                }
                let Pace { refresh, pause, .. } = self.pace;
                let lifetime = lifetime.map_or(refresh, |said| said.max(pause).min(refresh));
                State { value: Some(Arc::new(value)), ended, failures: 0, lifetime }
            }
            Err(error) => {
                self.counts.failed();
                if before.failures == 0 {
                    let (what, from) = (self.source.what(), self.source.place());
                    let meanwhile = match before.value {
                        Some(_) => "those from before go on",
                        None => "until then there are none",
                    };
                    tracing::warn!(
                        from,
                        error,
                        "{what} cannot be fetched; it is tried again, and {meanwhile}"
                    );
                }
                let (value, failures) = (before.value.clone(), before.failures.saturating_add(1));
                State { value, ended, failures, lifetime: before.lifetime }
            }
        };
        drop(before);
        self.state.store(Arc::new(after));
        self.is_asking.store(false, Ordering::Release);
        self.asked.send_modify(|times| *times += 1);
    }
}

impl<T> State<T> {
    /// How long to wait after this many failures.
    fn wait(&self, pace: Pace) -> Duration {
        FIRST_PAUSE.saturating_mul(1 << self.failures.saturating_sub(1).min(16)).min(pace.pause)
    }

    /// When it is asked for by itself.
    fn due(&self, pace: Pace) -> Instant {
        match self.ended {
            None => Instant::now(),
            Some(ended) if self.failures > 0 => ended + self.wait(pace),
            Some(ended) => ended + self.lifetime,
        }
    }

    /// Whether nobody may have it asked for now.
    fn is_too_early(&self, pace: Pace) -> bool {
        let wait = if self.failures > 0 { self.wait(pace) } else { pace.pause };
        self.ended.is_some_and(|ended| ended.elapsed() < wait)
    }
}

impl<S: Source> Clone for Kept<S> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), keeper: self.keeper.clone() }
    }
}

impl<S: Source> fmt::Debug for Kept<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Kept").field(&self.inner.source).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const PACE: Pace = Pace {
        refresh: Duration::from_secs(600),
        pause: Duration::from_secs(30),
        patience: SECOND,
    };

    /// Counts how often it is asked, and answers with that, a while later.
    #[derive(Debug, Default)]
    struct Counting {
        asked: AtomicU32,
        is_down: AtomicBool,
        lifetime: Option<Duration>,
        takes: Duration,
    }

    impl Source for Counting {
        type Value = u32;

        async fn fetch(&self) -> Result<Fresh<u32>, BoxError> {
            let value = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
            tokio::time::sleep(self.takes).await;
            if self.is_down.load(Ordering::Relaxed) {
                return Err("down".into());
            }
            Ok(Fresh { value, lifetime: self.lifetime })
        }

        fn what(&self) -> &'static str {
            "a count"
        }

        fn place(&self) -> &str {
            "nowhere"
        }
    }

    fn kept(source: Counting) -> Kept<Counting> {
        Kept::new(source, PACE, FetchCounts::default())
    }

    fn asked(kept: &Kept<Counting>) -> u32 {
        kept.source().asked.load(Ordering::Relaxed)
    }

    fn down(kept: &Kept<Counting>, is_down: bool) {
        kept.source().is_down.store(is_down, Ordering::Relaxed);
    }

    async fn renewed(kept: &Kept<Counting>) -> Option<u32> {
        kept.renewed().unwrap().await.map(|value| *value)
    }

    #[tokio::test(start_paused = true)]
    async fn one_asks_for_all_who_wait() {
        let kept = kept(Counting { takes: SECOND / 2, ..Counting::default() });
        assert!(kept.get().is_none());
        let waiting: Vec<_> = (0..1000).map(|_| kept.renewed().unwrap()).collect();
        for value in futures_util::future::join_all(waiting).await {
            assert_eq!(value.as_deref(), Some(&1));
        }
        assert_eq!(asked(&kept), 1);
        assert_eq!(kept.get().as_deref(), Some(&1));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_has_it_asked_for_more_often_than_the_pause_allows() {
        let kept = kept(Counting::default());
        assert!(kept.get().is_none());
        assert_eq!(renewed(&kept).await, Some(1));
        for _ in 0..2900 {
            tokio::time::advance(SECOND / 100).await;
            tokio::task::yield_now().await;
            assert!(kept.renewed().is_none());
        }
        tokio::time::advance(SECOND * 2).await;
        assert_eq!(renewed(&kept).await, Some(2));
        assert!(kept.renewed().is_none());
        assert_eq!(asked(&kept), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_fetched_again_by_itself_and_nobody_waits() {
        let short = Counting { lifetime: Some(SECOND), takes: SECOND, ..Counting::default() };
        for (source, every) in [
            (Counting { takes: SECOND, ..Counting::default() }, PACE.refresh),
            // No shorter than the pause, whatever is said.
            (short, PACE.pause),
        ] {
            let pace = Pace { patience: SECOND * 9, ..PACE };
            let kept = Kept::new(source, pace, FetchCounts::default());
            assert!(kept.get().is_none());
            assert_eq!(renewed(&kept).await, Some(1));
            for expected in 1..4 {
                tokio::time::sleep(every - SECOND / 2).await;
                assert_eq!(kept.get().as_deref(), Some(&expected));
                tokio::time::sleep(SECOND * 2).await;
                assert_eq!(kept.get().as_deref(), Some(&(expected + 1)));
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_good_one_stays_while_none_comes() {
        let kept = kept(Counting::default());
        assert!(kept.get().is_none());
        assert_eq!(renewed(&kept).await, Some(1));
        down(&kept, true);
        tokio::time::sleep(SECOND * 3600).await;
        assert!(asked(&kept) > 100, "{}", asked(&kept));
        assert_eq!(kept.get().as_deref(), Some(&1));
        down(&kept, false);
        tokio::time::sleep(PACE.pause * 2).await;
        assert!(*kept.get().unwrap() > 100);
    }

    #[tokio::test(start_paused = true)]
    async fn while_there_never_was_one_it_is_asked_for_with_pauses() {
        let kept = kept(Counting { is_down: AtomicBool::new(true), ..Counting::default() });
        assert!(kept.get().is_none());
        assert_eq!(renewed(&kept).await, None);
        for _ in 0..10_000 {
            assert!(kept.get().is_none() && kept.renewed().is_none());
        }
        assert_eq!(asked(&kept), 1);
        tokio::time::sleep(SECOND * 60).await;
        assert!((5..10).contains(&asked(&kept)), "{}", asked(&kept));
        down(&kept, false);
        tokio::time::sleep(PACE.pause * 2).await;
        assert!(kept.get().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_does_not_wait_for_ever() {
        let kept = kept(Counting { takes: SECOND * 3600, ..Counting::default() });
        assert!(kept.get().is_none());
        let begin = Instant::now();
        assert_eq!(renewed(&kept).await, None);
        assert!(begin.elapsed() < SECOND * 2);
    }

    #[test]
    fn another_runtime_takes_over_from_one_that_is_gone() {
        let kept = kept(Counting::default());
        for expected in [1, 2] {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                kept.get();
                kept.inner.state.store(Arc::new(State {
                    value: None,
                    ended: None,
                    failures: 0,
                    lifetime: PACE.refresh,
                }));
                assert_eq!(renewed(&kept).await, Some(expected));
            });
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_clone_takes_the_task_along() {
        let first = kept(Counting::default());
        let second = first.clone();
        assert!(first.get().is_none());
        assert_eq!(renewed(&second).await, Some(1));
        let inner = Arc::downgrade(&first.inner);
        drop(first);
        tokio::time::sleep(SECOND).await;
        assert!(inner.upgrade().is_some());
        drop(second);
        tokio::time::sleep(SECOND).await;
        assert!(inner.upgrade().is_none());
    }
}
