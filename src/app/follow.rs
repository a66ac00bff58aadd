//! What a running proxy does by itself: it follows the files that it was made
//! from, and looks after its certificates.

use std::path::PathBuf;

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

    /// These files hold something else now.
    async fn files_changed(&self, changed: &[PathBuf]) {
        let acceptors = self.in_force().0.acceptors();
        let pairs: Vec<PathBuf> = acceptors.iter().flat_map(|(_, tls)| tls.files()).collect();
        let certificates_only = changed.iter().all(|path| pairs.contains(path));
        let concerned = |tls: &TlsAcceptor| tls.files().iter().any(|path| changed.contains(path));
        // A configuration that failed may have waited for just these.
        if certificates_only && !self.has_failed() {
            self.renew_certificates(concerned).await;
        } else if !self.in_force().0.settings.server.reload_on_change {
            if !certificates_only {
                tracing::info!("files of the configuration changed; a reload takes that in");
            }
            self.renew_certificates(concerned).await;
        } else if let Err(Refused::Conflict(why)) =
            self.reload_now(ReloadTrigger::File, Reload::default()).await
        {
            // What is wrong with a configuration is logged where it is found out.
            tracing::warn!(why, "files of the configuration changed and are not taken in");
            self.renew_certificates(concerned).await;
        }
    }

    /// Reads again those of the certificates in use that `concerned` says, whatever
    /// becomes of the configuration.
    pub(super) async fn renew_certificates(&self, concerned: impl Fn(&TlsAcceptor) -> bool) {
        let mut acceptors = self.in_force().0.acceptors();
        acceptors.retain(|(_, tls)| concerned(tls));
        let metrics = self.0.common.metrics.clone();
        let reload = move || {
            for (listener, tls) in &acceptors {
                // What fails is logged and counted where it does.
                let _told = tls::reload(listener, tls, &metrics);
            }
        };
        let _panicked = tokio::task::spawn_blocking(reload).await;
    }
}
