//! The threads that serve connections.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::accept;
use crate::app::live::Live;
use crate::observe::Metrics;
use crate::socket::end_of_turns;
use crate::upstream::Upstream;

type Started = (Vec<accept::Worker<Live>>, Vec<JoinHandle<()>>);

/// Starts as many, which run until `stop`.
pub(super) fn start(
    workers: usize,
    metrics: &Metrics,
    live: &Live,
    upstreams: &watch::Receiver<Vec<Arc<Upstream>>>,
    stop: &CancellationToken,
) -> io::Result<Started> {
    let (mut started, mut threads) = (Vec::new(), Vec::new());
    for (worker, member) in accept::crew(workers, metrics).into_iter().enumerate() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // What is spawned here runs on the thread.
        let there = runtime.enter();
        tokio::spawn(end_of_turns());
        tokio::spawn(warm(upstreams.clone()));
        started.push(accept::Worker::start(member, live.clone()));
        drop(there);
        let stop = stop.clone();
        let thread = std::thread::Builder::new().name(format!("worker-{worker}"));
        threads.push(thread.spawn(move || {
            runtime.block_on(stop.cancelled());
            // What a layer may have put on a thread of its own is not waited for.
            runtime.shutdown_background();
        })?);
    }
    Ok((started, threads))
}

/// Makes connections ahead, also to the upstreams that come with a reload.
async fn warm(mut upstreams: watch::Receiver<Vec<Arc<Upstream>>>) {
    let mut warming: Vec<(Arc<Upstream>, AbortOnDropHandle<()>)> = Vec::new();
    loop {
        let now = upstreams.borrow_and_update().clone();
        warming.retain(|(known, _)| now.iter().any(|upstream| Arc::ptr_eq(upstream, known)));
        for upstream in now {
            if !warming.iter().any(|(known, _)| Arc::ptr_eq(known, &upstream)) {
                let task = AbortOnDropHandle::new(tokio::spawn(upstream.clone().warm()));
                warming.push((upstream, task));
            }
        }
        if upstreams.changed().await.is_err() {
            return;
        }
    }
}

/// Waits for threads that were told to stop.
pub(super) async fn join(threads: Vec<JoinHandle<()>>) {
    let joined = tokio::task::spawn_blocking(move || {
        threads.into_iter().filter_map(|thread| thread.join().err()).count()
    });
    if joined.await.unwrap_or(1) > 0 {
        tracing::error!("a worker thread ended in a panic");
    }
}
