//! Puts the parts together: settings in, a running proxy out.
//!
//! `Proxy::build` checks and builds everything without touching a socket;
//! `bind` opens the listeners and says where; `run` serves until it is told to
//! stop, and then drains. [`Proxy::into_service`] takes the other way: the
//! same request path as a tower service, with no socket of its own.

mod admission;
mod bound;
mod builder;
mod changing;
mod compose;
mod confirm;
mod control;
#[cfg(feature = "cli")]
pub mod demo;
mod disk;
mod embed;
mod fleet;
mod follow;
mod generation;
mod keepers;
mod limits;
mod live;
mod operator;
mod router;
mod upgrade;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use bound::{BindError, Bound, Ended};
pub use builder::ProxyBuilder;
pub use compose::{Gateway, Optional, RouteStack};
pub use control::Control;
pub use embed::{ProxyFuture, ProxyService};
pub use live::Live;
pub use router::{Router, Terminus};
pub use upgrade::Beginning;

use crate::accept::Inherited;
use crate::budget::Budget;
use crate::config::{LoadError, Settings};
use crate::drain;
use crate::layers::{Cache, CacheDiskError, InFlightLayer};
use crate::observe::{LogLevel, Metrics};
use crate::tls::Tickets;
use crate::watch::Contents;
use generation::Generation;

/// A proxy, built and checked, that neither listens nor serves yet.
///
/// ```
/// # fn main() -> Result<(), tollgate::BuildError> {
/// use tollgate::Proxy;
///
/// let service = Proxy::builder()
///     .upstream("api", ["http://127.0.0.1:3000", "http://127.0.0.1:3001"])
///     .forward("/", "api")
///     .build()?
///     .into_service();
/// let app: axum::Router = axum::Router::new()
///     .route("/mine", axum::routing::get(|| async { "mine" }))
///     .fallback_service(service);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Proxy {
    first: Generation,
    common: Common,
    trigger: drain::Trigger,
    /// What it was built from, and is reloaded from.
    source: Option<Source>,
}

/// A configuration file.
#[derive(Debug)]
struct Source {
    path: PathBuf,
    /// What it and the files that it names held before they were read.
    contents: Contents,
}

/// What outlives every configuration.
#[derive(Clone, Debug)]
struct Common {
    metrics: Metrics,
    budget: Budget,
    /// What is stored of responses.
    cache: Cache,
    #[cfg(feature = "redis")]
    redis: Option<fleet::Shared>,
    in_flight: InFlightLayer,
    tickets: Tickets,
    drain: drain::Watcher,
    /// Whoever prints the operational log.
    log: Option<Arc<dyn LogLevel>>,
}

/// Settings that cannot be built: every problem found.
#[derive(Debug)]
pub struct BuildError {
    problems: Vec<String>,
}

/// A configuration that cannot become a proxy.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The file is wrong.
    #[error(transparent)]
    Config(#[from] LoadError),
    /// The file is well-formed, but what it names cannot be used.
    #[error(transparent)]
    Build(#[from] BuildError),
}

impl Proxy {
    /// Describes a proxy in code, to embed it.
    #[must_use]
    pub fn builder() -> ProxyBuilder {
        ProxyBuilder::default()
    }

    /// Builds a proxy from a configuration file.
    ///
    /// # Errors
    ///
    /// Every problem found in the file, with file, line and column; or every
    /// certificate and key that cannot be used.
    pub fn from_config(path: impl AsRef<Path>) -> Result<Self, SetupError> {
        let (settings, source) = Source::read(path.as_ref())?;
        Ok(Self { source: Some(source), ..Self::build(settings)? })
    }

    /// Builds a proxy: reads certificates, sets up upstreams and routes, and takes the
    /// folder of the cache, if it has a disk.
    ///
    /// # Errors
    ///
    /// Every problem found, at once.
    pub fn build(settings: Settings) -> Result<Self, BuildError> {
        let proxy = Self::with_new_tickets(settings)?;
        proxy.open_disk()?;
        Ok(proxy)
    }

    fn with_new_tickets(settings: Settings) -> Result<Self, BuildError> {
        let tickets = Tickets::new().map_err(|error| {
            BuildError::new(vec![format!("the system has no randomness for TLS: {error}")])
        })?;
        Self::with_tickets(settings, tickets)
    }

    /// Takes the folder of the cache, if there is to be one.
    fn open_disk(&self) -> Result<(), BuildError> {
        let Some(disk) = &self.settings().cache.disk else { return Ok(()) };
        let wrong = |error: CacheDiskError| BuildError::new(vec![error.to_string()]);
        self.common.cache.open_disk(disk).map_err(wrong)
    }

    /// The same without the cache's disk, which another process still has.
    fn with_tickets(settings: Settings, tickets: Tickets) -> Result<Self, BuildError> {
        let metrics = Metrics::default();
        let budget = settings.server.memory_budget.budget();
        metrics.watch_memory(&budget);
        let trigger = drain::trigger();
        let in_flight = InFlightLayer::new(settings.server.max_in_flight).within(budget.clone());
        let drain = trigger.watcher();
        let cache = Cache::new(settings.cache.memory);
        if settings.cache.disk.is_some() {
            cache.expect_disk();
        }
        metrics.watch_cache(Arc::new(cache.clone()));
        #[cfg(feature = "redis")]
        let redis = fleet::redis(&settings, &cache, &metrics)?;
        #[cfg(not(feature = "redis"))]
        fleet::none(&settings)?;
        let common = Common {
            metrics,
            budget,
            cache,
            #[cfg(feature = "redis")]
            redis,
            in_flight,
            tickets,
            drain,
            log: None,
        };
        let first = Generation::build(settings, &common, None)?;
        Ok(Self { first, common, trigger, source: None })
    }

    /// Lets the operator of the running proxy change the level of a log.
    #[must_use]
    pub fn logging_by(mut self, log: Arc<dyn LogLevel>) -> Self {
        self.common.log = Some(log);
        self
    }

    /// What it was built from.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.first.settings
    }

    /// The metrics of this proxy, to be shown by the host application.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.common.metrics
    }

    /// The memory that it takes from for what it carries.
    #[must_use]
    pub fn budget(&self) -> &Budget {
        &self.common.budget
    }

    /// The request path as a tower service, without listeners.
    #[must_use]
    pub fn into_service(self) -> ProxyService {
        ProxyService::new(self.first, self.common)
    }

    /// Binds every listener, and the admin listener.
    ///
    /// # Errors
    ///
    /// The first address that cannot be bound.
    pub fn bind(self) -> Result<Bound, BindError> {
        self.bind_with(Inherited::default())
    }

    /// The same, from sockets that another process has opened where there are some.
    /// Those that no listener is for are closed.
    ///
    /// # Errors
    ///
    /// The first address that cannot be bound.
    pub fn bind_with(self, inherited: Inherited) -> Result<Bound, BindError> {
        Bound::new(self, inherited)
    }
}

impl Source {
    /// Reads a configuration, once it is noted what the file holds: whoever follows
    /// the files then sees what changes from here on.
    fn read(path: &Path) -> Result<(Settings, Self), LoadError> {
        let mut contents = Contents::of([path.to_owned()]);
        let settings = crate::config::load(path)?;
        contents.note(settings.files());
        Ok((settings, Self { path: path.to_owned(), contents }))
    }
}

impl BuildError {
    pub(super) fn new(problems: Vec<String>) -> Self {
        Self { problems }
    }

    /// Every problem found, a sentence each.
    #[must_use]
    pub fn problems(&self) -> &[String] {
        &self.problems
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problems.join("\n"))
    }
}

impl std::error::Error for BuildError {}
