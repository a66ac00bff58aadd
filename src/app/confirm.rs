//! Keeping a configuration, or going back to the one before it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::MutexGuard;
use tokio::time::Instant;

use super::changing::Changing;
use super::control::Control;
use crate::admin::{PendingConfirm, Refused, Reloaded};
use crate::observe::ReloadTrigger;
use crate::tls::TlsAcceptor;

/// How long it takes until a rollback that failed is tried again.
const ANOTHER_TRY: Duration = Duration::from_secs(5);

impl Control {
    /// Keeps a configuration that would be rolled back, and says which.
    ///
    /// # Errors
    ///
    /// [`Refused::Conflict`] if none waits to be confirmed.
    pub async fn keep(&self) -> Result<u64, Refused> {
        let mut changing = self.0.changing.lock().await;
        let Some((number, _)) = self.0.shown.lock().pending.take() else {
            return Err(Refused::Conflict("no configuration waits to be confirmed".to_owned()));
        };
        changing.timer = None;
        self.0.common.metrics.config_confirm_pending(false);
        tracing::info!(generation = number, "the configuration is confirmed");
        if !self.0.missed.lock().is_empty() {
            self.0.again.notify_one();
        }
        Ok(number)
    }

    /// Goes back to the configuration before the one in force.
    ///
    /// # Errors
    ///
    /// [`Refused::Conflict`] if there is none; [`Refused::Invalid`] if it cannot be
    /// used any more.
    pub async fn back(&self) -> Result<Reloaded, Refused> {
        let mut changing = self.0.changing.lock().await;
        if self.pending().is_none() {
            self.settle(&changing)?;
        }
        self.back_in(&mut changing).await
    }

    async fn back_in(&self, changing: &mut MutexGuard<'_, Changing>) -> Result<Reloaded, Refused> {
        let Some(before) = &changing.before else {
            return Err(Refused::Conflict("there is no configuration to go back to".to_owned()));
        };
        let _reloading = self.reloading();
        match self.prepare(before.settings.clone(), &before.tls).await {
            Ok(prepared) => {
                let done = self.commit(prepared, ReloadTrigger::Rollback, None, changing);
                changing.rolled_back();
                if let Some(file) = &self.0.config {
                    let message = "the file still holds what was rolled back: put it right, or a \
                                   restart brings that in force";
                    tracing::warn!(file = %file.display(), "{message}");
                }
                // What was rolled back is not to come back with some other file.
                let missed = |path: &PathBuf| self.0.missed.lock().contains(path);
                if self.0.config.as_ref().is_some_and(missed) {
                    self.0.again.notify_one();
                }
                Ok(done)
            }
            Err(unfit) => Err(self.refuse(&unfit, ReloadTrigger::Rollback)),
        }
    }

    /// Goes back because nobody confirmed `number`, as soon as it can.
    pub(super) async fn expire(self, number: u64) {
        loop {
            let mut changing = self.0.changing.lock().await;
            if self.0.shown.lock().pending.is_none_or(|(pending, _)| pending != number) {
                return;
            }
            tracing::warn!(generation = number, "nobody confirmed the configuration: rolling back");
            // This very task is the timer: it must not end itself half-way.
            if let Some(timer) = changing.timer.take() {
                let _runs_on = timer.detach();
            }
            if self.back_in(&mut changing).await.is_ok() {
                return;
            }
            // The failure has been told; what is in the way may go away.
            drop(changing);
            tokio::time::sleep(ANOTHER_TRY).await;
        }
    }

    /// What waits to be confirmed.
    pub(super) fn pending(&self) -> Option<PendingConfirm> {
        let (generation, at) = self.0.shown.lock().pending?;
        Some(PendingConfirm { generation, left: at.saturating_duration_since(Instant::now()) })
    }

    /// The certificates that a rollback would show.
    pub(super) async fn certificates_set_aside(&self) -> Vec<(Arc<str>, TlsAcceptor)> {
        self.0.changing.lock().await.certificates()
    }
}
