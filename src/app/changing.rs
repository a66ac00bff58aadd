//! What only whoever replaces the configuration knows.

use std::path::Path;
use std::sync::Arc;

use tokio_util::task::AbortOnDropHandle;

use crate::admin::Refused;
use crate::config::Settings;
use crate::tls::TlsAcceptor;
use crate::watch::Contents;

/// What only whoever replaces the configuration knows.
#[derive(Debug, Default)]
pub(super) struct Changing {
    /// The configuration before the one in force.
    pub(super) before: Option<Before>,
    /// Rolls back unless somebody confirms.
    pub(super) timer: Option<AbortOnDropHandle<()>>,
    /// What the file held that the configuration in force was read from.
    pub(super) loaded: Option<Contents>,
    /// What it held when that was rolled back.
    pub(super) rolled_back: Option<Contents>,
}

/// What it takes to go back: certificates as they were, since their files may be
/// the reason.
#[derive(Debug)]
pub(super) struct Before {
    pub(super) settings: Settings,
    pub(super) tls: Vec<(Arc<str>, TlsAcceptor)>,
}

impl Changing {
    /// The configuration in force was rolled back: it is not to come back by itself.
    pub(super) fn rolled_back(&mut self) {
        // Back and forth would be a surprise to whoever asks twice.
        self.before = None;
        self.rolled_back = self.loaded.take();
    }

    /// The certificates that a rollback would show.
    pub(super) fn certificates(&self) -> Vec<(Arc<str>, TlsAcceptor)> {
        self.before.as_ref().map_or_else(Vec::new, |before| before.tls.clone())
    }

    /// Whether the file holds something else than what was rolled back last.
    pub(super) fn is_not_rolled_back(&self, now: &Contents, file: &Path) -> Result<(), Refused> {
        match &self.rolled_back {
            Some(then) if !now.differ_in(then, Some(file)) => Err(Refused::Conflict(format!(
                "{} still holds what was rolled back: put it right, or have it in force all the \
                 same by `tollgate reload`",
                file.display()
            ))),
            _ => Ok(()),
        }
    }
}
