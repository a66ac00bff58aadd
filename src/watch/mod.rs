//! Tells when files hold something else than before.
//!
//! What is watched are folders, a file only beside: editors, configuration
//! management and Kubernetes all put another file, or another link, in the place of
//! the one there was. So every folder on the way to a file is watched, for the names that
//! the way leads over; a file of a `ConfigMap` is a link into `..data`, which is a link
//! that is replaced. What counts then is the content, not what happened to it.
//!
//! Where the system has no notifications, or may miss some, the files are looked
//! at every few seconds, and otherwise now and then: file systems of other machines
//! and stacked ones do not say all.

mod chain;
mod contents;
#[cfg(target_os = "linux")]
mod notifications;
#[cfg(not(target_os = "linux"))]
#[path = "no_notifications.rs"]
mod notifications;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use contents::Content;
pub use contents::Contents;
use notifications::{Notifications, Watches, Writing};

/// How long what is patient with what.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// Nothing happens to the files for as long, before they are looked at.
    quiet: Duration,
    /// The longest that a change is not told of, because more is happening, a file
    /// is still being written, or one is away.
    most: Duration,
    /// Between two looks where notifications do not work.
    blind: Duration,
    /// Between two looks where they do.
    watched: Duration,
}

impl Patience {
    const DEFAULT: Self = Self {
        quiet: Duration::from_millis(200),
        most: Duration::from_secs(2),
        blind: Duration::from_secs(5),
        watched: Duration::from_secs(30),
    };
}

/// A pause while only other files of the watched folders are written, so that a
/// log beside the configuration costs nothing: what is alike is one notification.
const FOREIGN: Duration = Duration::from_millis(50);

/// Files that are followed.
///
/// A change is told once, when it is over: nothing has happened for 200 ms and no
/// writer has a file open that it has begun to write, or else after 2 s. To touch a
/// file, or to replace it by its like, is no change. A file that goes away has the
/// 2 s to come back.
///
/// It has no thread and one file descriptor, which closes when it is dropped.
#[derive(Debug)]
pub struct Files {
    known: Contents,
    notifications: Option<Notifications>,
    /// The same, once a runtime waits for them.
    waiting: Option<AsyncFd<Arc<OwnedFd>>>,
    watches: Watches,
    writing: Writing,
    /// When the first thing happened of which it is not yet known what it changed.
    since: Option<Instant>,
    look_at: Instant,
    look: Option<JoinHandle<Look>>,
    /// Whether other files are followed than those that are being looked at.
    outdated: bool,
    /// Whether somebody was told that notifications do not work.
    blind: bool,
    patience: Patience,
}

/// What a look found.
#[derive(Debug)]
struct Look {
    watches: Watches,
    contents: BTreeMap<PathBuf, Content>,
}

impl Files {
    /// Follows these files, from the contents that they have now or that were noted
    /// earlier: see [`Files::follow`].
    #[must_use]
    pub fn new(files: impl Into<Contents>) -> Self {
        Self::with(files.into(), Notifications::new(), Patience::DEFAULT)
    }

    fn with(
        known: Contents,
        notifications: std::io::Result<Notifications>,
        patience: Patience,
    ) -> Self {
        let blind = notifications.is_err();
        if let Err(error) = &notifications {
            warn_blind(&format!("there are no notifications: {error}"), patience);
        }
        Self {
            known,
            notifications: notifications.ok(),
            waiting: None,
            watches: Watches::default(),
            writing: Writing::default(),
            since: None,
            look_at: Instant::now(),
            look: None,
            outdated: false,
            blind,
            patience,
        }
    }

    /// Follows these files from now on, and no others.
    ///
    /// Give it the [`Contents`] that were noted before the files were read: what has
    /// changed since then is told. With mere paths, what the files hold at this
    /// moment counts as known, and reading them may block.
    pub fn follow(&mut self, files: impl Into<Contents>) {
        self.known = files.into();
        self.since = None;
        self.look_at = Instant::now();
        self.outdated = true;
    }

    /// Waits until files hold something else than what was known or last told, and
    /// says which. Whoever reads them then finds at least what made it say so.
    ///
    /// Cancel safe: nothing is lost if it is dropped and called again. It has to be
    /// called within a runtime with its timers and sockets, always the same.
    pub async fn changed(&mut self) -> Vec<PathBuf> {
        loop {
            if let Some(look) = &mut self.look {
                let look = look.await;
                self.look = None;
                let changed = look.map_or_else(|_| Vec::new(), |look| self.compare(look));
                if !changed.is_empty() {
                    return changed;
                }
            }
            let now = Instant::now();
            if now >= self.look_at {
                self.begin_look(now);
                continue;
            }
            let look_at = self.look_at;
            tokio::select! {
                () = self.stirred() => self.stir(Instant::now()),
                () = sleep_until(look_at) => {}
            }
        }
    }

    /// Something happened that may have changed the files.
    fn stir(&mut self, now: Instant) {
        let since = *self.since.get_or_insert(now);
        self.look_at = (now + self.patience.quiet).min(since + self.patience.most);
    }

    /// Waits for a notification that is about the files.
    async fn stirred(&mut self) {
        loop {
            let (Some(waiting), Some(notifications)) = (&self.waiting, &self.notifications) else {
                return std::future::pending().await;
            };
            let taken = match waiting.readable().await {
                Err(error) => Err(error),
                Ok(mut ready) => {
                    let taken = notifications.take(&self.watches, &mut self.writing);
                    if matches!(taken, Ok((_, false))) {
                        ready.clear_ready();
                    }
                    taken
                }
            };
            match taken {
                Ok((true, _)) => return,
                Ok((false, _)) => sleep(FOREIGN).await,
                Err(error) => {
                    self.waiting = None;
                    self.notifications = None;
                    self.see(Some(&format!("notifications have failed: {error}")));
                    return;
                }
            }
        }
    }

    fn begin_look(&mut self, now: Instant) {
        if self.waiting.is_none()
            && let Some(notifications) = &self.notifications
        {
            match notifications.wait_for() {
                Ok(waiting) => self.waiting = Some(waiting),
                Err(error) => {
                    self.notifications = None;
                    self.see(Some(&format!("notifications cannot be waited for: {error}")));
                }
            }
        }
        self.outdated = false;
        self.look_at = now + self.interval();
        let notifications = self.notifications.clone();
        let paths: Vec<PathBuf> = self.known.0.keys().cloned().collect();
        // The files may be on a disk of another machine, which does not answer.
        self.look = Some(tokio::task::spawn_blocking(move || {
            // Watched first, so that what comes after the look is noticed.
            let watches = notifications.map_or_else(Watches::default, |notifications| {
                notifications.watch(paths.iter().map(PathBuf::as_path))
            });
            let read = |path: PathBuf| (Content::of(&path), path);
            let contents = paths.into_iter().map(read).map(|(content, path)| (path, content));
            Look { watches, contents: contents.collect() }
        }));
    }

    /// What is to be told after a look.
    fn compare(&mut self, look: Look) -> Vec<PathBuf> {
        let now = Instant::now();
        let before = std::mem::replace(&mut self.watches, look.watches);
        self.writing.forget_others(&self.watches);
        if let Some(notifications) = &self.notifications {
            notifications.forget(&before, &self.watches);
            let blind = self.watches.blind.take();
            self.see(blind.as_deref());
        }
        if self.outdated {
            self.look_at = now;
            return Vec::new();
        }
        let mut found = look.contents;
        found.retain(|path, content| self.known.0.get(path).is_some_and(|known| known != content));
        if found.is_empty() {
            self.since = None;
            self.look_at = now + self.interval();
            return Vec::new();
        }
        // What only a look has found may still be under way.
        let unsettled = self.since.is_none()
            || !self.writing.is_over()
            || found.values().any(|content| *content == Content::Gone);
        let since = *self.since.get_or_insert(now);
        if unsettled && now < since + self.patience.most {
            self.stir(now);
            return Vec::new();
        }
        self.since = None;
        self.writing.forget();
        self.look_at = now + self.interval();
        let changed = found.keys().cloned().collect();
        self.known.0.extend(found);
        changed
    }

    fn interval(&self) -> Duration {
        if self.blind { self.patience.blind } else { self.patience.watched }
    }

    /// Warns once when notifications cease to work.
    fn see(&mut self, blind: Option<&str>) {
        if let Some(reason) = blind.filter(|_| !self.blind) {
            warn_blind(reason, self.patience);
        }
        self.blind = blind.is_some();
    }
}

fn warn_blind(reason: &str, patience: Patience) {
    let every = patience.blind;
    tracing::warn!(reason, ?every, "changes of files may go unnoticed: looking at them regularly");
}
