//! What a running proxy does by itself: it follows the files that it was made
//! from, and looks after its certificates.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::control::Control;
use crate::admin::{Refused, Reload};
use crate::observe::{ReloadResult, ReloadTrigger};
use crate::systemd::{self, Notifier};
use crate::tls::{self, TlsAcceptor};
use crate::watch::{Contents, Files};

/// Starts all of it, for as long as what this returns is held.
pub(super) fn start(
    control: &Control,
    contents: mpsc::UnboundedReceiver<Contents>,
) -> [AbortOnDropHandle<()>; 2] {
    let (metrics, watched) = (control.0.common.metrics.clone(), control.clone());
    let in_use = move || watched.in_force().0.acceptors();
    [
        AbortOnDropHandle::new(tokio::spawn(files(control.clone(), contents))),
        AbortOnDropHandle::new(tokio::spawn(tls::keep_watch(in_use, metrics))),
    ]
}

/// Tells the service manager that all is well for as long as every worker still
/// turns, if it waits for that.
pub(super) fn signs_of_life(
    control: &Control,
    notifier: &Notifier,
) -> Option<AbortOnDropHandle<()>> {
    let every = systemd::watchdog()?;
    let (inner, notifier) = (control.0.clone(), notifier.clone());
    Some(AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            if inner.listeners.pulse().await {
                notifier.alive();
            }
            tokio::time::sleep(every).await;
        }
    })))
}

/// Takes in what changes in the files that the configuration was made from. Runs
/// until dropped.
async fn files(control: Control, mut contents: mpsc::UnboundedReceiver<Contents>) {
    let Some(first) = contents.recv().await else { return };
    let mut files = Files::new(first);
    loop {
        tokio::select! {
            biased;
            Some(contents) = contents.recv() => files.follow(contents),
            () = control.0.again.notified() => {
                let missed = std::mem::take(&mut *control.0.missed.lock());
                control.files_changed(&missed).await;
            }
            changed = files.changed() => control.files_changed(&changed).await,
        }
    }
}

impl Control {
    /// Whether the last reload failed.
    fn has_failed(&self) -> bool {
        let shown = self.0.shown.lock();
        shown.last.as_ref().is_some_and(|last| last.result == ReloadResult::Failed)
    }

    /// Has the access log go on in the file that has its name now.
    pub(crate) async fn reopen_log(&self) {
        let (in_force, _) = self.in_force();
        let _panicked = tokio::task::spawn_blocking(move || in_force.reopen_log()).await;
    }

    /// These files hold something else now.
    async fn files_changed(&self, changed: &[PathBuf]) {
        let pairs: Vec<PathBuf> =
            self.in_force().0.acceptors().iter().flat_map(|(_, tls)| tls.files()).collect();
        let certificates_only = changed.iter().all(|path| pairs.contains(path));
        // A configuration that failed may have waited for just these.
        if (!certificates_only || self.has_failed()) && self.takes_in(changed).await {
            return;
        }
        // A certificate does not wait for a configuration that is refused.
        let set_aside = self.certificates_set_aside().await;
        let changed = changed.to_vec();
        let concerned =
            move |tls: &TlsAcceptor| tls.files().iter().any(|path| changed.contains(path));
        self.renew_certificates(set_aside, concerned).await;
    }

    /// Reads again those of the certificates in use that `concerned` says, and of those
    /// that a rollback would show, whatever becomes of the configuration.
    pub(super) async fn renew_certificates(
        &self,
        set_aside: Vec<(Arc<str>, TlsAcceptor)>,
        concerned: impl Fn(&TlsAcceptor) -> bool + Send + 'static,
    ) {
        let (acceptors, metrics) = (self.in_force().0.acceptors(), self.0.common.metrics.clone());
        let reload = move || {
            for (listener, tls) in acceptors.iter().filter(|(_, tls)| concerned(tls)) {
                // What fails is logged and counted where it does.
                let _told = tls::reload(listener, tls, &metrics);
            }
            for (_, tls) in set_aside.iter().filter(|(_, tls)| concerned(tls)) {
                // Nobody is shown these before a rollback, which says what it shows.
                let _untold = tls.reload();
            }
        };
        let _panicked = tokio::task::spawn_blocking(reload).await;
    }

    /// Reads the configuration again, if that is wanted, since these files changed;
    /// false if they are not looked at now.
    async fn takes_in(&self, changed: &[PathBuf]) -> bool {
        if !self.in_force().0.settings.server.reload_on_change {
            tracing::info!("files of the configuration changed; a reload takes that in");
            return false;
        }
        match self.reload_now(ReloadTrigger::File, Reload::default()).await {
            Err(Refused::Conflict(why)) => {
                tracing::warn!(why, "files of the configuration changed and are not taken in");
                self.0.missed.lock().extend_from_slice(changed);
                false
            }
            // What is wrong with a configuration is logged where it is found out, and
            // certificates do not wait for that.
            Ok(_) | Err(_) => true,
        }
    }
}

#[cfg(test)]
mod tests;
