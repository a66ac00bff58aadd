//! Ending without dropping anything: a trigger, its watchers, a deadline.
//!
//! Whoever holds a [`Watcher`] learns that work should end, and counts as
//! unfinished until its [`Watcher::busy`] guard is dropped. The [`Trigger`]
//! waits for them until a deadline and then cuts. A [`Branch`] can be ended alone.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use pin_project_lite::pin_project;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// Starts the drain, and waits for it.
#[derive(Debug)]
pub struct Trigger {
    watcher: Watcher,
}

/// A part that can end by itself, and ends with the whole at the latest.
#[derive(Debug)]
pub struct Branch {
    watcher: Watcher,
}

/// Learns of the drain. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Watcher(Arc<Watched>);

#[derive(Debug)]
struct Watched {
    draining: Flag,
    cut: Arc<Flag>,
    busy: Arc<Trackers>,
}

/// What is counted as unfinished.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Work {
    /// A loop that accepts connections.
    Accepting,
    /// A connection from a client.
    Connection,
    /// A tunnel, such as a WebSocket's. It outlasts the connection that it came
    /// on, except over HTTP/2, where both are counted.
    Tunnel,
}

/// How much is unfinished, by kind.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Left {
    /// Connections from clients.
    pub connections: usize,
    /// Tunnels, among them those of WebSockets.
    pub tunnels: usize,
}

#[derive(Debug, Default)]
struct Trackers {
    accepting: TaskTracker,
    connections: TaskTracker,
    tunnels: TaskTracker,
}

/// Something that comes true once.
#[derive(Debug, Default)]
struct Flag {
    token: CancellationToken,
    /// True before the token is cancelled: whoever reads false will be woken.
    raised: Arc<AtomicBool>,
    /// Those that are raised with it, so that a look at a branch is a look at one.
    branches: Mutex<Vec<Weak<AtomicBool>>>,
}

impl Flag {
    fn raise(&self) {
        let branches = self.branches.lock();
        self.raised.store(true, Ordering::Release);
        for branch in branches.iter().filter_map(Weak::upgrade) {
            branch.store(true, Ordering::Release);
        }
        drop(branches);
        self.token.cancel();
    }

    /// One that is raised with this one, or before.
    fn branch(&self) -> Self {
        let mut branches = self.branches.lock();
        let raised = Arc::new(AtomicBool::new(self.raised.load(Ordering::Acquire)));
        branches.retain(|branch| branch.strong_count() > 0);
        branches.push(Arc::downgrade(&raised));
        Self { token: self.token.child_token(), raised, branches: Mutex::default() }
    }

    fn signal(&self) -> Signal<'_> {
        Signal { raised: &self.raised, wait: self.token.cancelled(), waker: None }
    }
}

pin_project! {
    /// Resolves when work should end. A task that is busy with other things polls
    /// it again and again, which costs a look at a flag.
    #[derive(Debug)]
    pub struct Signal<'a> {
        raised: &'a AtomicBool,
        #[pin]
        wait: WaitForCancellationFuture<'a>,
        waker: Option<Waker>,
    }
}

impl Future for Signal<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let known = this.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if known && !this.raised.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        *this.waker = Some(cx.waker().clone());
        this.wait.poll(cx)
    }
}

/// Something unfinished that the drain waits for.
#[derive(Debug)]
pub struct Busy(#[allow(dead_code, reason = "held for its drop")] TaskTrackerToken);

/// Makes a trigger; its watchers come from [`Trigger::watcher`].
#[must_use]
pub fn trigger() -> Trigger {
    let (draining, cut, busy) = (Flag::default(), Arc::default(), Arc::default());
    Trigger { watcher: Watcher(Arc::new(Watched { draining, cut, busy })) }
}

impl Trigger {
    /// A watcher of this trigger.
    #[must_use]
    pub fn watcher(&self) -> Watcher {
        self.watcher.clone()
    }

    /// Tells every watcher to end, waits until all have or `deadline` has
    /// passed, then cuts what is left. Returns what was cut.
    pub async fn drain(self, deadline: Duration) -> Left {
        let Watched { draining, cut, busy } = &*self.watcher.0;
        draining.raise();
        if tokio::time::timeout(deadline, busy.wait()).await.is_ok() {
            return Left::default();
        }
        let left = self.watcher.left();
        cut.raise();
        left
    }
}

impl Branch {
    /// A watcher of this branch: it is told to end with the branch or with the
    /// whole, is cut with the whole, and counts as the whole's.
    #[must_use]
    pub fn watcher(&self) -> Watcher {
        self.watcher.clone()
    }

    /// Tells the watchers of this branch to end. Nobody waits for them or cuts
    /// them until the whole ends.
    pub fn end(&self) {
        self.watcher.0.draining.raise();
    }
}

impl Watcher {
    /// A watcher that is never told to end, for whoever has no life-cycle.
    #[must_use]
    pub fn never() -> Self {
        trigger().watcher()
    }

    /// A part of what this watches that can be ended alone.
    #[must_use]
    pub fn branch(&self) -> Branch {
        let Watched { draining, cut, busy } = &*self.0;
        let (draining, cut, busy) = (draining.branch(), cut.clone(), busy.clone());
        Branch { watcher: Self(Arc::new(Watched { draining, cut, busy })) }
    }

    /// Resolves when work should end.
    #[must_use]
    pub fn draining(&self) -> Signal<'_> {
        self.0.draining.signal()
    }

    /// Whether work should end.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.0.draining.raised.load(Ordering::Acquire)
    }

    /// Resolves when the deadline has passed and whatever is left must stop.
    #[must_use]
    pub fn cut(&self) -> Signal<'_> {
        self.0.cut.signal()
    }

    /// Counts the caller as unfinished until the guard is dropped. What follows
    /// from other work takes its guard before that gives up its own, and no kind
    /// follows from a later one.
    #[must_use]
    pub fn busy(&self, work: Work) -> Busy {
        Busy(self.0.busy.of(work).token())
    }

    /// How many guards of [`Watcher::busy`] are out, but for those that accept.
    #[must_use]
    pub fn left(&self) -> Left {
        let count = |work| self.0.busy.of(work).len();
        Left { connections: count(Work::Connection), tunnels: count(Work::Tunnel) }
    }
}

impl Trackers {
    fn of(&self, work: Work) -> &TaskTracker {
        match work {
            Work::Accepting => &self.accepting,
            Work::Connection => &self.connections,
            Work::Tunnel => &self.tunnels,
        }
    }

    /// Waits until none is left: one kind after the other, for none begins once
    /// the kinds before it are gone.
    async fn wait(&self) {
        for work in [Work::Accepting, Work::Connection, Work::Tunnel] {
            self.of(work).close();
            self.of(work).wait().await;
        }
    }
}

impl Left {
    /// All of them.
    #[must_use]
    pub const fn total(self) -> usize {
        self.connections + self.tunnels
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_drain_waits_for_the_busy_and_cuts_none_of_them() {
        for work in [Work::Accepting, Work::Connection, Work::Tunnel] {
            let trigger = trigger();
            let watcher = trigger.watcher();
            let busy = watcher.busy(work);
            let task = tokio::spawn(async move {
                watcher.draining().await;
                tokio::time::sleep(Duration::from_secs(3)).await;
                drop(busy);
            });
            let before = tokio::time::Instant::now();
            assert_eq!(trigger.drain(Duration::from_secs(5)).await, Left::default());
            assert_eq!(before.elapsed(), Duration::from_secs(3), "{work:?}");
            task.await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn past_the_deadline_the_rest_is_cut_and_counted_by_kind() {
        let trigger = trigger();
        let watcher = trigger.watcher();
        let branch = watcher.branch().watcher();
        let _busy = [
            watcher.busy(Work::Accepting),
            watcher.busy(Work::Connection),
            branch.busy(Work::Connection),
            watcher.busy(Work::Tunnel),
        ];
        let left = trigger.drain(Duration::from_secs(5)).await;
        assert_eq!((left, left.total()), (Left { connections: 2, tunnels: 1 }, 3));
        watcher.cut().await;
        branch.cut().await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_follows_from_other_work_is_waited_for_too() {
        let trigger = trigger();
        let watcher = trigger.watcher();
        let accepting = watcher.busy(Work::Accepting);
        tokio::spawn(async move {
            watcher.draining().await;
            let connection = watcher.busy(Work::Connection);
            drop(accepting);
            tokio::time::sleep(Duration::from_secs(1)).await;
            let _tunnel = watcher.busy(Work::Tunnel);
            drop(connection);
            tokio::time::sleep(Duration::from_secs(1)).await;
        });
        let before = tokio::time::Instant::now();
        assert_eq!(trigger.drain(Duration::from_secs(5)).await, Left::default());
        assert_eq!(before.elapsed(), Duration::from_secs(2));
    }

    #[tokio::test]
    async fn a_branch_ends_alone_and_with_the_whole() {
        let trigger = trigger();
        let (whole, one, other) =
            (trigger.watcher(), trigger.watcher().branch(), trigger.watcher().branch());
        let waits = tokio::spawn({
            let watcher = other.watcher();
            async move { watcher.draining().await }
        });
        one.end();
        one.watcher().draining().await;
        assert!(one.watcher().is_draining());
        assert!(!whole.is_draining() && !other.watcher().is_draining());
        drop(one);
        trigger.drain(Duration::from_secs(1)).await;
        assert!(other.watcher().is_draining());
        waits.await.unwrap();
        let late = whole.branch().watcher();
        assert!(late.is_draining());
        late.draining().await;
    }

    #[test]
    fn branches_that_are_gone_leave_nothing_behind() {
        let watcher = Watcher::never();
        for _ in 0..100 {
            drop(watcher.branch());
        }
        assert_eq!(watcher.0.draining.branches.lock().len(), 1);
    }
}
