//! The configuration in force, and how another takes its place.
//!
//! A reload is read, built and bound beside what runs; only when nothing can fail
//! any more does it come into force, for every request at once. One at a time.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::sync::{MutexGuard, Notify, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::changing::{Before, Changing};
use super::generation::Generation;
use super::keepers::Keepers;
use super::live::Live;
use super::upgrade::Beginning;
use super::{BindError, BuildError, Common, SetupError, Source};
use crate::accept::{Change, Listeners};
use crate::admin::{LastReload, PendingConfirm, Refused, Reload, Reloaded, Token};
use crate::config::{Plan, Settings};
use crate::handover::Program;
use crate::observe::{ReloadResult, ReloadTrigger};
use crate::systemd::Notifier;
use crate::tls::{self, TlsAcceptor};
use crate::upstream::Upstream;
use crate::watch::Contents;

/// A running proxy, for whoever changes it while it runs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Control(pub(super) Arc<Inner>);

/// What a running proxy is controlled by.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) common: Common,
    pub(super) listeners: Listeners,
    pub(super) config: Option<PathBuf>,
    pub(super) started: Instant,
    /// What an upgrade starts, if there can be one.
    pub(super) program: OnceLock<Program>,
    pub(super) notifier: OnceLock<Notifier>,
    /// What the admin listener asks for.
    pub(super) token: Token,
    /// Cancelled when the process is to end, and no other is to take its place.
    pub(super) stopping: CancellationToken,
    /// What is known without waiting for a reload that is under way.
    pub(super) shown: Mutex<Shown>,
    live: Live,
    keepers: Keepers,
    /// Held by whoever replaces the configuration.
    pub(super) changing: tokio::sync::Mutex<Changing>,
    /// Tells the workers which upstreams to make connections to ahead.
    upstreams: watch::Sender<Vec<Arc<Upstream>>>,
    /// Tells which files to follow.
    files: mpsc::UnboundedSender<Contents>,
    /// Files that changed while that could not be taken in.
    pub(super) missed: Mutex<Vec<PathBuf>>,
    /// Tells that it can be now.
    pub(super) again: Notify,
}

/// What everybody may know.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) in_force: Arc<Generation>,
    pub(super) number: u64,
    pub(super) since: SystemTime,
    pub(super) last: Option<LastReload>,
    pub(super) needs_restart: Vec<String>,
    /// Which generation is rolled back, and when.
    pub(super) pending: Option<(u64, Instant)>,
}

/// What those hear of who work for a running proxy.
#[derive(Debug)]
pub(super) struct Told {
    /// The upstreams to make connections to ahead.
    pub(super) upstreams: watch::Receiver<Vec<Arc<Upstream>>>,
    /// The files to follow.
    pub(super) files: mpsc::UnboundedReceiver<Contents>,
}

/// A configuration that has been built and bound, and can come into force.
pub(super) struct Prepared {
    generation: Generation,
    listeners: Change,
    plan: Plan,
}

/// Why a configuration cannot come into force.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unfit {
    #[error(transparent)]
    Setup(#[from] SetupError),
    #[error("{}: {}", .0, .0.cause)]
    Bind(#[from] BindError),
    #[error("building it ended in a panic")]
    Panic,
}

/// The service manager waits for the end of a reload, however it comes about.
pub(super) struct Reloading(Notifier);

impl Drop for Reloading {
    fn drop(&mut self) {
        self.0.ready();
    }
}

impl Unfit {
    /// Everything that is wrong, for whoever reads it elsewhere than in this process's
    /// terminal.
    fn report(&self) -> String {
        match self {
            Self::Setup(SetupError::Config(error)) => error.plain(),
            other => other.to_string(),
        }
    }
}

impl From<BuildError> for Unfit {
    fn from(error: BuildError) -> Self {
        Self::Setup(error.into())
    }
}

impl Control {
    pub(super) fn new(
        first: Generation,
        common: Common,
        listeners: Listeners,
        source: Option<Source>,
    ) -> (Self, Told) {
        let upstreams: Vec<_> = first.upstreams.values().cloned().collect();
        // Each worker has warmed connections of its own.
        let keepers = Keepers::new(upstreams.iter().cloned(), false).beside(common.beside());
        let (upstreams, to_workers) = watch::channel(upstreams);
        let (files, to_follower) = mpsc::unbounded_channel();
        // Certificates are followed also where nothing else comes from a file.
        let contents = source.as_ref().map(|source| source.contents.clone());
        let contents = contents.unwrap_or_else(|| Contents::of(first.settings.files()));
        let _nobody_yet = files.send(contents);
        let config = source.map(|source| source.path);
        let token = Token::new(first.settings.admin.as_ref().and_then(|admin| admin.token));
        let live = Live::new(first.gateway.clone());
        let shown = Shown {
            in_force: Arc::new(first),
            number: 1,
            since: SystemTime::now(),
            last: None,
            needs_restart: Vec::new(),
            pending: None,
        };
        let control = Self(Arc::new(Inner {
            common,
            listeners,
            config,
            started: Instant::now(),
            program: OnceLock::new(),
            notifier: OnceLock::new(),
            token,
            stopping: CancellationToken::new(),
            shown: Mutex::new(shown),
            live,
            keepers,
            changing: tokio::sync::Mutex::default(),
            upstreams,
            files,
            missed: Mutex::default(),
            again: Notify::new(),
        }));
        (control, Told { upstreams: to_workers, files: to_follower })
    }

    /// The path to the gateway in force, for connections.
    pub(super) fn live(&self) -> &Live {
        &self.0.live
    }

    /// Starts what goes on beside the requests.
    pub(super) fn start_keepers(&self) {
        self.0.keepers.start();
    }

    /// Waits until every origin that is probed has been, but not for long.
    pub(super) async fn probed(&self, at_most: Duration) {
        let (in_force, _) = self.in_force();
        let probed = in_force.upstreams.values().map(|upstream| upstream.probed());
        let _in_time = tokio::time::timeout(at_most, futures_util::future::join_all(probed)).await;
    }

    /// Takes over from a process before this one.
    pub(super) fn succeed(&self, beginning: &Beginning) {
        let Beginning { program, notifier, carried, .. } = beginning;
        // It is called once; whoever has a control already may have changed something.
        let _first = self.0.notifier.set(notifier.clone());
        if let Some(program) = program {
            let _first = self.0.program.set(program.clone());
        }
        let mut shown = self.0.shown.lock();
        shown.number = carried.generation.max(shown.number);
        self.0.common.metrics.config_generation(shown.number);
        carried.lay_over(&shown.in_force, &self.0.common);
    }

    /// What is in force, and which generation that is.
    pub(super) fn in_force(&self) -> (Arc<Generation>, u64) {
        let shown = self.0.shown.lock();
        (shown.in_force.clone(), shown.number)
    }

    /// Keeps others from changing anything, unless what was changed last waits to be
    /// confirmed.
    pub(super) async fn unchanging(&self) -> Result<MutexGuard<'_, Changing>, Refused> {
        let changing = self.0.changing.lock().await;
        self.settle(&changing)?;
        Ok(changing)
    }

    /// Keeps others from changing anything for the moment that a change at run time
    /// takes: one that comes while a successor is being built would be lost.
    pub(super) fn steady(&self) -> Result<impl Drop, Refused> {
        match self.0.changing.try_lock() {
            Ok(steady) if !self.0.listeners.is_released() => Ok(steady),
            _ => {
                let why = "a reload or an upgrade is under way: ask again when it is over";
                Err(Refused::Conflict(why.to_owned()))
            }
        }
    }

    /// Reads the configuration file again, and has what it says in force.
    ///
    /// # Errors
    ///
    /// [`Refused::Invalid`] with everything that is wrong with it,
    /// [`Refused::Conflict`] while one waits to be confirmed,
    /// [`Refused::Unsupported`] if the proxy was not built from a file. Everything
    /// stays as it was then.
    pub async fn reload_now(
        &self,
        trigger: ReloadTrigger,
        how: Reload,
    ) -> Result<Reloaded, Refused> {
        let Some(path) = self.0.config.clone() else {
            let why = "this proxy was not built from a file: there is nothing to read again";
            return Err(Refused::Unsupported(why.to_owned()));
        };
        let mut changing = self.0.changing.lock().await;
        self.settle(&changing)?;
        let _reloading = (!how.plan_only).then(|| self.reloading());
        // What the files hold is noted before they are read, so that a change in
        // between is seen.
        let (known, file) = (self.files(), path.clone());
        let read = tokio::task::spawn_blocking(move || {
            let mut contents = Contents::of(known);
            let settings = crate::config::load(&path);
            // What is missing may be on its way.
            contents.note(match &settings {
                Ok(settings) => settings.files(),
                Err(error) => error.sources().to_vec(),
            });
            (contents, settings)
        });
        let mut loaded = None;
        let prepared = match read.await {
            Ok((contents, settings)) => {
                // What is only planned is still to be taken in when it is looked for.
                if !how.plan_only {
                    let _nobody_follows = self.0.files.send(contents.clone());
                }
                // Whoever asks for it by the API may think better of it.
                if trigger != ReloadTrigger::Api {
                    changing.is_not_rolled_back(&contents, &file)?;
                }
                loaded = Some(contents);
                match settings {
                    Ok(settings) => self.prepare(settings, &[]).await,
                    Err(error) => Err(SetupError::from(error).into()),
                }
            }
            Err(_) => Err(Unfit::Panic),
        };
        match prepared {
            Ok(prepared) if how.plan_only => Ok(self.planned(&prepared)),
            Ok(prepared) => {
                let done = self.commit(prepared, trigger, how.confirm, &mut changing);
                (changing.loaded, changing.rolled_back) = (loaded, None);
                Ok(done)
            }
            Err(unfit) if how.plan_only => Err(Refused::Invalid(unfit.report())),
            Err(unfit) => {
                let refused = self.refuse(&unfit, trigger);
                // They may have been renewed, and a mistake in the configuration must
                // not have those in use expire.
                self.renew_certificates(changing.certificates(), |_| true).await;
                Err(refused)
            }
        }
    }

    /// Has these settings in force, for a proxy whose settings come from elsewhere.
    ///
    /// # Errors
    ///
    /// See [`Control::reload_now`].
    pub async fn reload_with(&self, settings: Settings) -> Result<Reloaded, Refused> {
        let mut changing = self.0.changing.lock().await;
        self.settle(&changing)?;
        // As in a reload from a file.
        let (known, new) = (self.files(), settings.files());
        let noted = move || Contents::of(known.into_iter().chain(new));
        let noted = tokio::task::spawn_blocking(noted).await;
        match self.prepare(settings, &[]).await {
            Ok(prepared) => {
                let done = self.commit(prepared, ReloadTrigger::Api, None, &mut changing);
                let _nobody_follows = noted.map(|contents| self.0.files.send(contents));
                Ok(done)
            }
            Err(unfit) => Err(self.refuse(&unfit, ReloadTrigger::Api)),
        }
    }

    /// Whether one configuration may follow the other now. One that a process which
    /// ends would bind addresses for is its successor's to have.
    pub(super) fn settle(&self, _one_at_a_time: &MutexGuard<'_, Changing>) -> Result<(), Refused> {
        if self.0.stopping.is_cancelled() || self.0.listeners.is_released() {
            return Err(Refused::Conflict("this process is ending".to_owned()));
        }
        match self.pending() {
            None => Ok(()),
            Some(PendingConfirm { generation, left }) => Err(Refused::Conflict(format!(
                "generation {generation} waits to be confirmed, and is rolled back in {} s: \
                 confirm it or roll it back first",
                left.as_secs()
            ))),
        }
    }

    /// Builds and binds what `settings` say, beside what runs. `tls` are listeners
    /// that are to have the certificates they had.
    pub(super) async fn prepare(
        &self,
        mut settings: Settings,
        tls: &[(Arc<str>, TlsAcceptor)],
    ) -> Result<Prepared, Unfit> {
        let old = self.0.shown.lock().in_force.clone();
        let mut plan = Plan::between(&old.settings, &settings);
        settings.keep_running(&old.settings);
        let (common, before, tls) = (self.0.common.clone(), old.clone(), tls.to_vec());
        let build = move || Generation::build_with(settings, &common, Some(&before), &tls);
        let generation = match tokio::task::spawn_blocking(build).await {
            Ok(built) => built?,
            Err(_) => return Err(Unfit::Panic),
        };
        plan.certificates(&old.certificates(), &generation.certificates());
        generation.trusts_others_than(&old).for_each(|upstream| plan.trusts_others(upstream));
        let acceptors = generation.tls.clone();
        let listeners = self.0.listeners.prepare(&generation.settings.listeners, acceptors)?;
        Ok(Prepared { generation, listeners, plan })
    }

    /// What would come of it.
    fn planned(&self, prepared: &Prepared) -> Reloaded {
        let Prepared { plan, .. } = prepared;
        Reloaded {
            generation: self.0.shown.lock().number,
            changed: plan.changes_anything(),
            plan: serde_json::to_value(plan).unwrap_or_default(),
            text: plan.to_string(),
            confirm_within: None,
        }
    }

    /// Has what was prepared in force. Nothing here can fail.
    pub(super) fn commit(
        &self,
        prepared: Prepared,
        trigger: ReloadTrigger,
        confirm: Option<Duration>,
        changing: &mut MutexGuard<'_, Changing>,
    ) -> Reloaded {
        let mut done = self.planned(&prepared);
        let Prepared { generation, listeners, plan } = prepared;
        let (new, old) = (Arc::new(generation), self.0.shown.lock().in_force.clone());
        let number = done.generation + u64::from(done.changed);
        let result = if done.changed { ReloadResult::Ok } else { ReloadResult::Unchanged };
        let trigger_name = trigger.as_str();
        tracing::info!(trigger = trigger_name, generation = number, "reload:\n{plan}");
        let server = &new.settings.server;
        self.0.listeners.permits().set_limits(server.connections);
        self.0.common.log_in_as(&new.settings);
        new.settings.log_warnings();
        self.0.token.set(new.settings.admin.as_ref().and_then(|admin| admin.token));
        // Listeners last: what comes in by a new one finds the routes it is for.
        self.0.live.swap(new.gateway.clone());
        new.succeed(&old, &self.0.keepers, &self.0.common.metrics);
        self.0.upstreams.send_replace(new.upstreams.values().cloned().collect());
        self.0.listeners.commit(listeners);
        if let Some(log) = &self.0.common.log {
            log.configure(&new.settings.log.level);
        }
        if done.changed {
            changing.before = Some(Before { settings: old.settings.clone(), tls: old.acceptors() });
        }
        changing.timer = None;
        // What the watch over the file was quicker to bring in force is meant as well.
        let is_new = done.changed || self.came_by_file(changing);
        let deadline = confirm.filter(|_| is_new).map(|within| {
            let control = self.clone();
            let expiry = async move {
                tokio::time::sleep(within).await;
                control.expire(number).await;
            };
            changing.timer = self.0.keepers.spawn(expiry);
            done.confirm_within = Some(within);
            tracing::warn!(generation = number, ?within, "to be confirmed, or it is rolled back");
            (number, Instant::now() + within)
        });
        done.generation = number;
        let metrics = &self.0.common.metrics;
        match trigger {
            // It has the certificates of before, whatever the files hold.
            ReloadTrigger::Rollback => tls::show(&new.acceptors(), metrics),
            _ => tls::taken_in(&new.acceptors(), metrics),
        }
        metrics.config_reloaded(trigger, result, number);
        metrics.config_confirm_pending(deadline.is_some());
        let mut shown = self.0.shown.lock();
        if done.changed {
            shown.since = SystemTime::now();
        }
        (shown.in_force, shown.number, shown.pending) = (new, number, deadline);
        shown.needs_restart = plan.needs_restart.iter().map(ToString::to_string).collect();
        shown.last = Some(LastReload { at: SystemTime::now(), trigger, result, report: None });
        done
    }

    /// Whether what is in force came by itself when its file changed, and can go back.
    fn came_by_file(&self, changing: &Changing) -> bool {
        let shown = self.0.shown.lock();
        let last = shown.last.as_ref().map(|last| (last.trigger, last.result));
        changing.before.is_some() && last == Some((ReloadTrigger::File, ReloadResult::Ok))
    }

    /// Says that what was read cannot come into force.
    pub(super) fn refuse(&self, unfit: &Unfit, trigger: ReloadTrigger) -> Refused {
        let report = unfit.report();
        let trigger_name = trigger.as_str();
        tracing::error!(trigger = trigger_name, "the configuration in force stays:\n{report}");
        let result = ReloadResult::Failed;
        let mut shown = self.0.shown.lock();
        self.0.common.metrics.config_reloaded(trigger, result, shown.number);
        let told = Some(report.clone());
        shown.last = Some(LastReload { at: SystemTime::now(), trigger, result, report: told });
        drop(shown);
        Refused::Invalid(report)
    }

    /// Tells the service manager of a reload, and of its end when this is dropped.
    pub(super) fn reloading(&self) -> Reloading {
        let notifier = self.0.notifier.get().cloned().unwrap_or_default();
        notifier.reloading();
        Reloading(notifier)
    }

    /// The files that the configuration in force was made from.
    fn files(&self) -> Vec<PathBuf> {
        let mut files = self.0.shown.lock().in_force.settings.files();
        files.extend(self.0.config.clone());
        files
    }
}
