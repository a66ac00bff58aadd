//! The background work of the upstreams in force.

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

use crate::upstream::Upstream;

/// The background work of a proxy's upstreams, for as long as it is held.
#[derive(Debug)]
pub(super) struct Keepers {
    /// Whether connections are made ahead.
    warm: bool,
    /// What goes on whichever upstreams there are, until it has been started.
    beside: Mutex<Vec<Beside>>,
    lasting: Mutex<Vec<AbortOnDropHandle<()>>>,
    kept: Mutex<Vec<Kept>>,
    /// Whether all the work has been started.
    started: AtomicBool,
    /// Where it was started. Whoever replaces upstreams of a proxy that listens may do
    /// so in a runtime that ends.
    runtime: OnceLock<Handle>,
}

/// What goes on for as long as a proxy is there.
pub(super) type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

struct Beside(Task);

impl fmt::Debug for Beside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Beside")
    }
}

#[derive(Debug)]
struct Kept {
    upstream: Arc<Upstream>,
    /// `None` before there is a runtime to run it.
    task: Option<AbortOnDropHandle<()>>,
}

impl Keepers {
    pub(super) fn new(upstreams: impl IntoIterator<Item = Arc<Upstream>>, warm: bool) -> Self {
        let kept = upstreams.into_iter().map(|upstream| Kept { upstream, task: None });
        let (kept, started) = (Mutex::new(kept.collect()), AtomicBool::new(false));
        let (beside, lasting) = (Mutex::default(), Mutex::default());
        Self { warm, beside, lasting, kept, started, runtime: OnceLock::new() }
    }

    /// Has this go on as well, whichever upstreams there are.
    pub(super) fn beside(self, tasks: impl IntoIterator<Item = Task>) -> Self {
        self.beside.lock().extend(tasks.into_iter().map(Beside));
        self
    }

    /// Starts the work that has not started, if there is a runtime to run it.
    pub(super) fn start(&self) {
        if self.started.load(Ordering::Relaxed) {
            return;
        }
        let Ok(current) = Handle::try_current() else { return };
        self.start_on(self.runtime.get_or_init(|| current));
    }

    fn start_on(&self, runtime: &Handle) {
        for Beside(task) in std::mem::take(&mut *self.beside.lock()) {
            self.lasting.lock().push(AbortOnDropHandle::new(runtime.spawn(task)));
        }
        let mut kept = self.kept.lock();
        for Kept { upstream, task } in &mut *kept {
            if task.is_none() {
                if self.warm {
                    runtime.spawn(upstream.clone().warm());
                }
                let keep = upstream.clone().keep();
                *task = Some(AbortOnDropHandle::new(runtime.spawn(keep)));
            }
        }
        self.started.store(true, Ordering::Relaxed);
    }

    /// Starts a task where the work goes on; where that has not begun, on the caller's
    /// runtime.
    pub(super) fn spawn(
        &self,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> Option<AbortOnDropHandle<()>> {
        let runtime = self.runtime.get().cloned().or_else(|| Handle::try_current().ok())?;
        Some(AbortOnDropHandle::new(runtime.spawn(task)))
    }

    /// Has these upstreams kept, and no others. The work for those that are kept
    /// already goes on.
    pub(super) fn replace(&self, upstreams: impl IntoIterator<Item = Arc<Upstream>>) {
        let mut kept = self.kept.lock();
        let mut old = std::mem::take(&mut *kept);
        *kept = upstreams
            .into_iter()
            .map(|upstream| {
                let known = old.iter().position(|kept| Arc::ptr_eq(&kept.upstream, &upstream));
                known.map_or_else(|| Kept { upstream, task: None }, |index| old.swap_remove(index))
            })
            .collect();
        self.started.store(false, Ordering::Relaxed);
        drop(kept);
        match self.runtime.get() {
            Some(runtime) if !self.warm => self.start_on(runtime),
            // It has not begun: nobody knows yet which runtime lasts.
            None if !self.warm => {}
            // A host's requests do it at the latest, in a runtime that is there.
            _ => self.start(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Budget;
    use crate::observe::Metrics;
    use crate::upstream::{OriginSettings, UpstreamSettings};

    fn upstream() -> Arc<Upstream> {
        let origin = OriginSettings::new("http://127.0.0.1:1".parse().unwrap());
        let settings = UpstreamSettings::new("test", vec![origin]);
        Upstream::new(settings, Metrics::default(), Budget::unlimited()).unwrap()
    }

    #[test]
    fn the_work_outlasts_the_runtime_of_whoever_replaces_upstreams() {
        let runtime =
            || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (lasts, ends) = (runtime(), runtime());
        let keepers = Keepers::new([upstream()], false);
        lasts.block_on(async { keepers.start() });
        ends.block_on(async { keepers.replace([upstream()]) });
        drop(ends);
        let finished = |kept: &Kept| kept.task.as_ref().unwrap().is_finished();
        assert!(!keepers.kept.lock().iter().any(finished));
    }

    #[test]
    fn nothing_begins_before_it_is_known_where() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let keepers = Keepers::new([upstream()], false);
        runtime.block_on(async { keepers.replace([upstream()]) });
        assert!(keepers.kept.lock().iter().all(|kept| kept.task.is_none()));
    }
}
