//! The background work of the upstreams in force.

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
    kept: Mutex<Vec<Kept>>,
    /// Whether all the work has been started.
    started: AtomicBool,
    /// What it was started on, and goes on after a reload: whoever asks for that may
    /// have another.
    runtime: OnceLock<Handle>,
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
        Self {
            warm,
            kept: Mutex::new(kept.collect()),
            started: AtomicBool::new(false),
            runtime: OnceLock::new(),
        }
    }

    /// Starts the work that has not started, if there is a runtime to run it.
    pub(super) fn start(&self) {
        if self.started.load(Ordering::Relaxed) {
            return;
        }
        let Some(runtime) = self.runtime() else { return };
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

    /// Starts a task where the work goes on.
    pub(super) fn spawn(
        &self,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> Option<AbortOnDropHandle<()>> {
        Some(AbortOnDropHandle::new(self.runtime()?.spawn(task)))
    }

    /// The runtime of whoever started it first, or else of the caller.
    fn runtime(&self) -> Option<&Handle> {
        if self.runtime.get().is_none() {
            let _another_was_first = self.runtime.set(Handle::try_current().ok()?);
        }
        self.runtime.get()
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
        self.start();
    }
}
