//! The disk of the cache, which one process has at a time.

use std::time::Duration;

use super::control::Control;
use crate::layers::CacheDiskSettings;

/// How often it is tried whether the process before has let go of it.
const AGAIN: Duration = Duration::from_millis(100);

/// How long what is on its way to the disk may take when a process ends.
const LAST_WRITES: Duration = Duration::from_secs(5);

impl Control {
    /// Takes the disk as soon as the process before has let go of it; requests go by the
    /// memory alone meanwhile.
    pub(super) fn take_disk(&self) {
        let (in_force, _) = self.in_force();
        let Some(disk) = in_force.settings.cache.disk.clone() else { return };
        if self.0.common.cache.figures().disk.is_some() {
            return;
        }
        let control = self.clone();
        tokio::spawn(async move {
            let stopping = control.0.stopping.clone();
            tokio::select! {
                () = control.open_when_free(disk) => {}
                () = stopping.cancelled() => {}
            }
        });
    }

    async fn open_when_free(&self, disk: CacheDiskSettings) {
        let mut waits = false;
        loop {
            let (cache, settings) = (self.0.common.cache.clone(), disk.clone());
            let opened = tokio::task::spawn_blocking(move || cache.open_disk(&settings)).await;
            match opened {
                Ok(Ok(())) => {
                    tracing::info!(path = %disk.path.display(), "the cache has its disk");
                    return;
                }
                Ok(Err(error)) if error.is_locked() => {
                    if !std::mem::replace(&mut waits, true) {
                        tracing::info!(%error, "the cache is in memory only for now");
                    }
                }
                Ok(Err(error)) => {
                    tracing::error!(%error, "the cache is in memory only");
                    self.0.common.cache.expect_no_disk();
                    return;
                }
                // The runtime ends.
                Err(_) => return,
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Lets the successor have it. What is served from it goes on.
    pub(super) fn give_disk_up(&self) {
        let cache = self.0.common.cache.clone();
        tokio::spawn(async move { cache.close_disk().await });
    }

    /// Has everything written that is on its way there.
    pub(super) async fn close_disk(&self) {
        let closed = self.0.common.cache.close_disk();
        if tokio::time::timeout(LAST_WRITES, closed).await.is_err() {
            tracing::warn!("not all that was to be stored is on the cache's disk");
        }
    }
}
