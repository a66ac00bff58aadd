//! Puts the parts together: settings in, a running proxy out.
//!
//! `Proxy::build` checks and builds everything without touching a socket;
//! `bind` opens the listeners and says where; `run` serves until it is told to
//! stop, and then drains. [`Proxy::into_service`] takes the other way: the
//! same request path as a tower service, with no socket of its own.

mod bound;
mod builder;
mod compose;
#[cfg(feature = "cli")]
pub mod demo;
mod embed;
mod router;

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

pub use bound::{BindError, Bound, Ended, Ending};
pub use builder::ProxyBuilder;
pub use compose::{Gateway, Optional, RouteStack};
pub use embed::{ProxyFuture, ProxyService};
pub use router::{Router, Terminus};

use crate::accept::Inherited;
use crate::budget::Budget;
use crate::config::{LoadError, Settings};
use crate::drain;
use crate::forward::Forward;
use crate::observe::{AccessLog, Metrics};
use crate::route::{Action, Reply, Table};
use crate::tls::TlsAcceptor;
use crate::upstream::{Resolver, Upstream};
use router::Entry;

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
    settings: Settings,
    gateway: Gateway,
    upstreams: Vec<Arc<Upstream>>,
    /// One for each listener of the settings.
    tls: Vec<Option<TlsAcceptor>>,
    metrics: Metrics,
    budget: Budget,
    drain: drain::Trigger,
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
        Ok(Self::build(crate::config::load(path.as_ref())?)?)
    }

    /// Builds a proxy: reads certificates, sets up upstreams and routes.
    ///
    /// # Errors
    ///
    /// Every problem found, at once.
    pub fn build(settings: Settings) -> Result<Self, BuildError> {
        let mut problems = Vec::new();
        let metrics = Metrics::default();
        let budget = settings.server.memory_budget.budget();
        metrics.watch_memory(&budget);
        let drain = drain::trigger();
        let upstreams = upstreams(&settings, &metrics, &budget, &mut problems);
        let tls = acceptors(&settings, &mut problems);
        let access_log = AccessLog::open(&settings.access_log).unwrap_or_else(|error| {
            problems.push(format!("the access log cannot be opened: {error}"));
            AccessLog::off()
        });
        let parts = Parts { settings: &settings, upstreams: &upstreams, metrics: &metrics };
        let router = parts.router(&drain.watcher(), &mut problems);
        match router {
            Some(router) if problems.is_empty() => Ok(Self {
                gateway: compose::gateway(
                    &settings,
                    router,
                    access_log,
                    metrics.clone(),
                    budget.clone(),
                ),
                upstreams: upstreams.into_values().collect(),
                settings,
                tls,
                metrics,
                budget,
                drain,
            }),
            _ => Err(BuildError { problems }),
        }
    }

    /// What it was built from.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The metrics of this proxy, to be shown by the host application.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The memory that it takes from for what it carries.
    #[must_use]
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// The request path as a tower service, without listeners.
    #[must_use]
    pub fn into_service(self) -> ProxyService {
        ProxyService::new(self.gateway, self.upstreams)
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

/// What routes are built from.
struct Parts<'a> {
    settings: &'a Settings,
    upstreams: &'a HashMap<String, Arc<Upstream>>,
    metrics: &'a Metrics,
}

impl Parts<'_> {
    fn router(
        &self,
        drain: &drain::Watcher,
        problems: &mut Vec<String>,
    ) -> Option<Router<RouteStack>> {
        let mut entries = Vec::new();
        for route in &self.settings.routes {
            match self.terminus(route, drain) {
                Ok(end) => {
                    let stack = compose::route(route, self.settings, end);
                    let route_of_name = self.metrics.route(&route.name.as_str().into());
                    let entry = Entry { route: route_of_name, stack };
                    entries.push((route.matches.clone(), entry));
                }
                Err(problem) => problems.push(format!("route `{}`: {problem}", route.name)),
            }
        }
        Table::build(entries)
            .map(Router::new)
            .map_err(|conflict| problems.push(conflict.to_string()))
            .ok()
    }

    fn terminus(
        &self,
        route: &crate::config::RouteSettings,
        drain: &drain::Watcher,
    ) -> Result<Terminus, String> {
        let wrong = |error: http::Error| error.to_string();
        match &route.action {
            Action::Redirect(redirect) => Ok(Terminus::Reply(Reply::redirect(redirect.clone()))),
            Action::Respond(fixed) => Reply::fixed(fixed).map(Terminus::Reply).map_err(wrong),
            Action::Forward(action) => {
                let upstream = self
                    .upstreams
                    .get(&action.upstream)
                    .ok_or_else(|| format!("there is no upstream `{}`", action.upstream))?;
                let (metrics, drain) = (self.metrics.clone(), drain.clone());
                compose::forward(route, action, upstream.clone(), metrics, drain)
                    .map(|forward: Forward| Terminus::Forward(forward))
                    .map_err(wrong)
            }
        }
    }
}

fn upstreams(
    settings: &Settings,
    metrics: &Metrics,
    budget: &Budget,
    problems: &mut Vec<String>,
) -> HashMap<String, Arc<Upstream>> {
    let resolver = Resolver::new(settings.dns.clone());
    let mut upstreams = HashMap::new();
    for upstream in &settings.upstreams {
        if upstream.origins.is_empty() {
            problems.push(format!("upstream `{}` has no origin", upstream.name));
        }
        let name = &upstream.name;
        let wrong = upstream.contradictions();
        problems.extend(wrong.into_iter().map(|wrong| format!("upstream `{name}`: {wrong}")));
        let built = Upstream::with_resolver(
            upstream.clone(),
            resolver.clone(),
            metrics.clone(),
            budget.clone(),
        );
        match built {
            Ok(built) => {
                if upstreams.insert(upstream.name.clone(), built).is_some() {
                    problems.push(format!("there are two upstreams named `{}`", upstream.name));
                }
            }
            Err(error) => problems.push(error.to_string()),
        }
    }
    upstreams
}

fn acceptors(settings: &Settings, problems: &mut Vec<String>) -> Vec<Option<TlsAcceptor>> {
    let mut acceptors = Vec::new();
    for listener in &settings.listeners {
        let Some(tls) = &listener.tls else {
            acceptors.push(None);
            continue;
        };
        match TlsAcceptor::new(tls, listener.serve.http1, listener.serve.http2) {
            Ok(acceptor) => acceptors.push(Some(acceptor)),
            Err(error) => problems.push(format!("listener `{}`: {error}", listener.name)),
        }
    }
    acceptors
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
