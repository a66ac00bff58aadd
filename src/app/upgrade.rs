//! One process after the other: what a new binary takes over from the old.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::control::Control;
use super::generation::Generation;
use super::{BindError, Bound, BuildError, Common, Proxy, SetupError, Source};
use crate::accept::{Giver, Inherited};
use crate::admin::Refused;
use crate::config::LogSettings;
use crate::handover::{Predecessor, Program, Successor, UpgradeError, Verdict};
use crate::observe::LogLevel;
use crate::systemd::{self, Notifier};
use crate::tls::{TicketKeys, Tickets, TlsError};
use crate::upstream::OriginChange;
use crate::watch::Contents;

/// How long a successor may take until it is ready: to read its configuration,
/// certificates and all.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a process begins with that takes the place of another, or was given its
/// sockets by the service manager.
#[derive(Debug, Default)]
pub struct Beginning {
    predecessor: Option<Predecessor>,
    held_back: Option<HeldBack>,
    pub(super) program: Option<Program>,
    pub(super) notifier: Notifier,
    sockets: Inherited,
    pub(super) carried: Carried,
}

/// Resolves when it is to serve, or is not to.
struct HeldBack(Pin<Box<dyn Future<Output = bool> + Send>>);

impl fmt::Debug for HeldBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HeldBack")
    }
}

/// What is carried on besides sockets. A field that one of the two versions does not
/// know is left out.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Carried {
    pub(super) generation: u64,
    pub(super) tickets: Option<TicketKeys>,
    /// What somebody changed of origins at run time, by upstream.
    origins: HashMap<String, Vec<(String, OriginChange)>>,
    /// Origins that probes say are down, and why, by upstream.
    condemned: HashMap<String, Vec<(String, String)>>,
    /// Routes all of whose limits were switched, and how, by a version that knew no others.
    dry_runs: Vec<(String, bool)>,
    /// Limits that were switched, by route and name, and how.
    limits_dry: Vec<(String, String, bool)>,
    log_level: Option<String>,
    /// The files of Unix sockets that a service manager keeps.
    kept_files: Vec<PathBuf>,
}

impl Beginning {
    /// What the environment says of it. To be called first thing: sockets are known
    /// by numbers that anything opened could have.
    ///
    /// # Errors
    ///
    /// A predecessor or a service manager is named, and what it hands over cannot be
    /// used.
    pub fn from_env() -> std::io::Result<Self> {
        let program = Program::running()
            .inspect_err(|error| tracing::debug!(%error, "what runs is not known"))
            .ok();
        let notifier = Notifier::from_env();
        let Some((predecessor, sockets, state)) = Predecessor::from_env()? else {
            let sockets = Inherited::new(systemd::inherited()?, Giver::ServiceManager)?;
            return Ok(Self { program, notifier, sockets, ..Self::default() });
        };
        let taken = Inherited::new(sockets, Giver::Predecessor).and_then(|sockets| {
            let carried: Carried = serde_json::from_value(state)?;
            Ok((sockets.keeping(&carried.kept_files), carried))
        });
        match taken {
            Ok((sockets, carried)) => {
                let (predecessor, held_back) = (Some(predecessor), None);
                Ok(Self { predecessor, held_back, program, notifier, sockets, carried })
            }
            Err(error) => {
                predecessor.failed(&error.to_string());
                Err(error)
            }
        }
    }

    /// A beginning that waits: nobody accepts a connection before `go` has resolved,
    /// and nobody does at all if it says no. All else is under way by then.
    #[must_use]
    pub fn held_back(go: impl Future<Output = bool> + Send + 'static) -> Self {
        Self { held_back: Some(HeldBack(Box::pin(go))), ..Self::default() }
    }

    /// Builds the proxy that a configuration file describes, with what is carried on.
    /// `start_log` is told how to log as soon as that is known.
    ///
    /// # Errors
    ///
    /// As those of [`Proxy::from_config`].
    pub fn proxy(
        &self,
        path: &Path,
        start_log: impl FnOnce(&LogSettings) -> Arc<dyn LogLevel>,
    ) -> Result<Proxy, SetupError> {
        let (settings, source) = Source::read(path)?;
        let log = start_log(&settings.log);
        let proxy = match &self.carried.tickets {
            None if self.predecessor.is_none() => Proxy::build(settings)?,
            // The disk of the cache is the predecessor's until this process serves.
            None => Proxy::with_new_tickets(settings)?,
            Some(keys) => {
                let taken = Tickets::succeed(keys);
                let wrong = |error: TlsError| BuildError::new(vec![error.to_string()]);
                Proxy::with_tickets(settings, taken.map_err(wrong)?)?
            }
        };
        Ok(Proxy { source: Some(source), ..proxy.logging_by(log) })
    }

    /// Binds a proxy, to the sockets that are there already where there are some.
    ///
    /// # Errors
    ///
    /// The first address that cannot be bound.
    pub fn bind(&mut self, proxy: Proxy) -> Result<Bound, BindError> {
        proxy.bind_with(std::mem::take(&mut self.sockets))
    }

    /// Whether another process serves until this one does.
    pub(super) fn waits(&self) -> bool {
        self.held_back.is_some() || self.predecessor.is_some()
    }

    /// Waits until this process is to serve; no if it is to end instead.
    pub(super) async fn go(&mut self) -> bool {
        if let Some(HeldBack(go)) = self.held_back.take() {
            return go.await;
        }
        let Some(predecessor) = &mut self.predecessor else { return true };
        match predecessor.ready().await {
            Ok(Verdict::Go) => true,
            Ok(Verdict::Alone) => {
                tracing::warn!("the predecessor has died: taking over");
                true
            }
            Ok(Verdict::Abort) => {
                tracing::warn!("the predecessor serves on: ending");
                false
            }
            Err(error) => {
                tracing::error!(%error, "the predecessor cannot be understood: ending");
                false
            }
        }
    }

    /// This process serves.
    pub(super) fn serving(&mut self) {
        match self.predecessor.take() {
            // The service manager hears of this process from the one before, and has
            // that one's word that the service is ready.
            Some(predecessor) => predecessor.serving(),
            None => self.notifier.ready(),
        }
    }

    /// This process cannot serve; whoever waits for it is told why.
    pub fn failed(&mut self, why: &str) {
        if let Some(predecessor) = self.predecessor.take() {
            predecessor.failed(why);
        }
    }
}

impl Control {
    /// Has a successor, the binary that now is where this process's was, take over
    /// the sockets, and says which process that is. This one drains then.
    ///
    /// # Errors
    ///
    /// Why it did not come to that; this process serves on.
    pub async fn upgrade_now(&self) -> Result<u32, Refused> {
        let unchanging = self.unchanging().await?;
        // A successor would begin with it.
        if let Some(file) = &self.0.config {
            unchanging.is_not_rolled_back(&Contents::of([file.clone()]), file)?;
        }
        let Some(program) = self.0.program.get() else {
            let why = "this process cannot be followed by another of its kind";
            return Err(Refused::Unsupported(why.to_owned()));
        };
        tracing::info!(program = %program.path().display(), "upgrade: starting the successor");
        let done = tokio::select! {
            done = self.hand_over(program) => done,
            // The successor goes with it: nobody is to serve any more.
            () = self.0.stopping.cancelled() => {
                return Err(Refused::Conflict("this process is ending".to_owned()));
            }
        };
        drop(unchanging);
        match done {
            Ok(pid) => {
                tracing::info!(pid, "upgrade: the successor serves");
                Ok(pid)
            }
            Err(error) => {
                tracing::error!("upgrade: this process serves on: {error}");
                Err(match error {
                    UpgradeError::EndsContainer(_) => Refused::Conflict(error.to_string()),
                    error => Refused::Failed(error.to_string()),
                })
            }
        }
    }

    async fn hand_over(&self, program: &Program) -> Result<u32, UpgradeError> {
        let sockets = self.0.listeners.handles()?;
        let state = serde_json::to_value(self.carried()).map_err(std::io::Error::from)?;
        let successor = Successor::start(program.command(), &sockets, state, PATIENCE).await?;
        let pid = successor.pid();
        successor.go().await?;
        self.give_disk_up();
        if let Some(notifier) = self.0.notifier.get() {
            // The successor's first sign of life came too early to be believed.
            notifier.alive();
            notifier.main_pid(pid);
        }
        self.0.listeners.release();
        Ok(pid)
    }

    fn carried(&self) -> Carried {
        let (in_force, generation) = self.in_force();
        let upstreams = in_force.upstreams.iter();
        let origins = upstreams.clone().map(|(name, of)| (name.clone(), of.overrides()));
        let condemned = upstreams.map(|(name, of)| (name.clone(), of.condemned()));
        Carried {
            generation,
            tickets: Some(self.0.common.tickets.keys()),
            origins: origins.collect(),
            condemned: condemned.collect(),
            dry_runs: Vec::new(),
            limits_dry: in_force.dry_runs(),
            kept_files: self.0.listeners.kept_files(),
            log_level: self.0.common.log.as_ref().and_then(|log| log.get().by_operator()),
        }
    }
}

impl Carried {
    /// Has everything as it was in the process before, as far as it is there.
    pub(super) fn lay_over(&self, generation: &Generation, common: &Common) {
        for (name, changes) in &self.origins {
            if let Some(upstream) = generation.upstreams.get(name) {
                upstream.take_over(changes.iter().cloned());
            }
        }
        for (name, condemned) in &self.condemned {
            if let Some(upstream) = generation.upstreams.get(name) {
                upstream.take_for_down(condemned.iter().cloned());
            }
        }
        for (route, dry_run) in &self.dry_runs {
            generation.rate_limits(route).for_each(|limit| limit.set_dry_run(*dry_run));
        }
        for (route, name, dry_run) in &self.limits_dry {
            let mut named = generation.rate_limits(route);
            if let Some(limit) = named.find(|limit| *limit.settings().name == **name) {
                limit.set_dry_run(*dry_run);
            }
        }
        if let (Some(level), Some(log)) = (&self.log_level, &common.log)
            && let Err(error) = log.set(Some(level))
        {
            tracing::warn!(error, "the level of the log is not carried on");
        }
    }
}
