//! What one configuration becomes: built and checked beside the one in force,
//! from which it takes over whatever stayed the same.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;

use super::admission::{Authenticators, identity_fields, overlapping};
use super::compose::{self, Gateway, RouteStack};
use super::keepers::Keepers;
use super::limits::{self, Limits};
use super::router::{Entry, Place, Router, Tables, Terminus};
use super::{BuildError, Common};
use crate::accept::ListenAddress;
use crate::config::{CertificateInUse, RouteSettings, Settings};
use crate::forward::Forward;
use crate::layers::{AuthLayer, CacheLayer, CompressionLayer, ContentCoding, Limit};
use crate::observe::{AccessLog, LogOutput, Metrics, Opened};
use crate::route::{Action, Conflict, Reply, Table};
use crate::tls::TlsAcceptor;
use crate::upstream::{Resolver, Upstream, UpstreamSettings};
use crate::watch::Contents;

/// One configuration, built. Nothing of it has happened to the one in force.
#[derive(Debug)]
pub(super) struct Generation {
    pub(super) settings: Settings,
    pub(super) gateway: Gateway,
    pub(super) upstreams: HashMap<String, Arc<Upstream>>,
    /// One for each listener of the settings.
    pub(super) tls: Vec<Option<TlsAcceptor>>,
    authenticators: Authenticators,
    routes: HashMap<String, Built>,
    resolver: Arc<Resolver>,
    access_log: AccessLog,
    /// The file that the log of before goes on in, once this is in force.
    reopened: Mutex<Option<Opened>>,
    /// What the bundles hold that origins are trusted by: they may change under the
    /// same name.
    trusted: Contents,
}

/// A route, and what of it can outlive a change to the route.
#[derive(Clone, Debug)]
struct Built {
    entry: Entry<RouteStack>,
    limits: Limits,
    auth: Option<AuthLayer>,
    cache: Option<CacheLayer>,
}

impl Generation {
    /// Builds what `settings` say; of `old`, if there is one, it takes over what
    /// kept its identity.
    ///
    /// # Errors
    ///
    /// Every problem found, at once.
    pub(super) fn build(
        settings: Settings,
        common: &Common,
        old: Option<&Self>,
    ) -> Result<Self, BuildError> {
        Self::build_with(settings, common, old, &[])
    }

    /// The same, where some listeners are to have the certificates that they had.
    pub(super) fn build_with(
        settings: Settings,
        common: &Common,
        old: Option<&Self>,
        tls: &[(Arc<str>, TlsAcceptor)],
    ) -> Result<Self, BuildError> {
        let mut problems = Vec::new();
        let resolver = match old {
            Some(old) if old.settings.dns == settings.dns => old.resolver.clone(),
            _ => Resolver::new(settings.dns.clone()),
        };
        let bundles = settings.upstreams.iter().filter_map(|upstream| upstream.tls.ca.clone());
        let schemes = settings.authenticators.iter().filter_map(|one| one.scheme.ca());
        let trusted = Contents::of(bundles.chain(schemes.map(ToOwned::to_owned)));
        let before = old.map(|old| (&old.settings, &old.authenticators, &old.trusted));
        let means = common.means();
        let authenticators =
            Authenticators::build(&settings, &means, &trusted, before, &mut problems);
        let build = Build {
            settings: &settings,
            common,
            old,
            tls,
            resolver: &resolver,
            trusted: &trusted,
            authenticators: &authenticators,
        };
        let upstreams = build.upstreams(&mut problems);
        let tls = build.acceptors(&mut problems);
        let (access_log, reopened) = build.access_log(&mut problems);
        let routes = build.routes(&upstreams, &mut problems);
        let layers = routes.values().filter_map(|built| built.auth.as_ref());
        problems.extend(overlapping(layers.clone(), &authenticators, &settings));
        let told = identity_fields(layers);
        for route in &settings.routes {
            let auth = routes.get(&route.name).and_then(|built| built.auth.as_ref());
            let own = identity_fields(auth.into_iter());
            problems.extend(limits::blind(route, &settings, &told, &own));
        }
        let tables = tables(&settings, &routes, &mut problems);
        match tables {
            Some(tables) if problems.is_empty() => {
                let router = Router::new(tables);
                let layers = routes.values().filter_map(|built| built.auth.as_ref());
                let log = access_log.clone();
                let gateway = compose::gateway(&settings, router, layers, log, common);
                Ok(Self {
                    settings,
                    gateway,
                    upstreams,
                    tls,
                    authenticators,
                    routes,
                    resolver,
                    access_log,
                    reopened: Mutex::new(reopened),
                    trusted,
                })
            }
            _ => Err(BuildError::new(problems)),
        }
    }

    /// Has what was built take effect outside of the request path, once requests
    /// take it: the upstreams are kept, and origins that left `old` are let go.
    pub(super) fn succeed(&self, old: &Self, keepers: &Keepers, metrics: &Metrics) {
        metrics.routes_are(|name| self.routes.contains_key(name));
        metrics.rate_limits_are(|route, limit| {
            self.routes.get(route).is_some_and(|built| built.limits.has(limit))
        });
        for (name, before) in &old.upstreams {
            match self.upstreams.get(name) {
                Some(same) if Arc::ptr_eq(same, before) => {}
                Some(new) => new.succeed(before),
                None => before.leave(),
            }
        }
        if let Some(reopened) = self.reopened.lock().take() {
            self.access_log.go_on_in(reopened);
        }
        keepers.replace(self.upstreams.values().cloned());
    }

    /// Has the access log go on in the file that has its name now, whatever becomes of
    /// the configuration: what rotates logs asks for no more than that.
    pub(super) fn reopen_log(&self) {
        if !matches!(self.settings.access_log.output, LogOutput::File(_)) {
            return;
        }
        match Opened::by(&self.settings.access_log) {
            Ok(opened) => self.access_log.go_on_in(opened),
            Err(error) => tracing::error!(%error, "the access log stays in the file that it had"),
        }
    }

    /// The upstreams whose bundle of trusted certificates is another than it was,
    /// although its name is the same.
    pub(super) fn trusts_others_than<'a>(&'a self, old: &'a Self) -> impl Iterator<Item = &'a str> {
        let differs = |upstream: &&UpstreamSettings| {
            self.trusted.differ_in(&old.trusted, upstream.tls.ca.as_deref())
        };
        self.settings.upstreams.iter().filter(differs).map(|upstream| &*upstream.name)
    }

    fn acceptor(&self, listener: &str) -> Option<&TlsAcceptor> {
        let mut named = self.settings.listeners.iter().zip(&self.tls);
        named.find(|(settings, _)| settings.name == listener)?.1.as_ref()
    }

    /// The certificates in use, with the names of their listeners.
    pub(super) fn acceptors(&self) -> Vec<(Arc<str>, TlsAcceptor)> {
        let listeners = self.settings.listeners.iter().zip(&self.tls);
        listeners
            .filter_map(|(listener, tls)| Some((listener.name.as_str().into(), tls.clone()?)))
            .collect()
    }

    /// The certificates in use, as they are compared.
    pub(super) fn certificates(&self) -> Vec<CertificateInUse> {
        let of_one = |(listener, tls): (Arc<str>, TlsAcceptor)| {
            tls.in_use().into_iter().map(move |(file, fingerprint, not_after)| CertificateInUse {
                listener: listener.to_string(),
                file: file.display().to_string(),
                fingerprint,
                not_after,
            })
        };
        self.acceptors().into_iter().flat_map(of_one).collect()
    }

    /// Limits that do not do as they are configured, each with its route, and whether it is
    /// on a dry run.
    pub(super) fn dry_runs(&self) -> Vec<(String, String, bool)> {
        let limits = self
            .routes
            .iter()
            .flat_map(|(route, built)| built.limits.configured().map(move |limit| (route, limit)));
        let switched = limits.filter(|(_, limit)| limit.is_dry_run() != limit.settings().dry_run);
        let named = |(route, limit): (&String, &Limit)| {
            (route.clone(), limit.settings().name.to_string(), limit.is_dry_run())
        };
        switched.map(named).collect()
    }

    /// The rate limits that a route is configured to have.
    pub(super) fn rate_limits(&self, route: &str) -> impl Iterator<Item = &Limit> {
        self.routes.get(route).into_iter().flat_map(|built| built.limits.configured())
    }
}

/// The routes of each listener that a route names, and those of all others.
fn tables(
    settings: &Settings,
    routes: &HashMap<String, Built>,
    problems: &mut Vec<String>,
) -> Option<Tables<RouteStack>> {
    let named: BTreeSet<&String> =
        settings.routes.iter().flat_map(|route| &route.listeners).collect();
    for name in &named {
        if !settings.listeners.iter().any(|listener| listener.name == **name) {
            problems.push(format!("there is no listener `{name}` for a route to have"));
        }
    }
    let mut table = |listener: Option<&str>| {
        let (mut here, mut names) = (Vec::new(), Vec::new());
        for route in &settings.routes {
            let mut named = route.listeners.iter();
            let takes = route.listeners.is_empty() || named.any(|n| Some(n.as_str()) == listener);
            if let Some(built) = routes.get(&route.name).filter(|_| takes) {
                here.push((route.matches.clone(), built.entry.clone()));
                names.push(&route.name);
            }
        }
        match Table::build(here) {
            Ok(table) => Some(table),
            Err(Conflict { first, second, what }) => {
                let (first, second) = (names.get(first)?, names.get(second)?);
                let problem = format!("the routes `{first}` and `{second}` both take {what}");
                // On each of several listeners, perhaps.
                if !problems.contains(&problem) {
                    problems.push(problem);
                }
                None
            }
        }
    };
    let others = table(None);
    let of = |name: &String| Some((name.clone(), table(Some(name))?));
    let named = named.into_iter().map(of).collect::<Option<Vec<_>>>()?;
    let with_routes = settings.listeners.iter().filter(|_| !named.is_empty());
    let places = with_routes.flat_map(|listener| {
        let named = named.iter().position(|(name, _)| *name == listener.name);
        let place = move |address: &ListenAddress| Place {
            listener: listener.name.clone(),
            address: address.to_string(),
            named,
        };
        listener.addresses.iter().map(place)
    });
    let places = places.collect();
    Some(Tables { named, others: others?, places })
}

/// What a generation is built from.
struct Build<'a> {
    settings: &'a Settings,
    common: &'a Common,
    old: Option<&'a Generation>,
    tls: &'a [(Arc<str>, TlsAcceptor)],
    resolver: &'a Arc<Resolver>,
    trusted: &'a Contents,
    authenticators: &'a Authenticators,
}

impl Build<'_> {
    fn upstreams(&self, problems: &mut Vec<String>) -> HashMap<String, Arc<Upstream>> {
        let mut upstreams = HashMap::new();
        for upstream in &self.settings.upstreams {
            let name = &upstream.name;
            if upstream.origins.is_empty() {
                problems.push(format!("upstream `{name}` has no origin"));
            }
            let wrong = upstream.contradictions();
            problems.extend(wrong.into_iter().map(|wrong| format!("upstream `{name}`: {wrong}")));
            let Common { metrics, budget, .. } = self.common;
            let (resolver, metrics, budget) =
                (self.resolver.clone(), metrics.clone(), budget.clone());
            let built = match self.old.and_then(|old| Some((old, old.upstreams.get(name)?))) {
                Some((old, known))
                    if known.settings() == upstream
                        && Arc::ptr_eq(&old.resolver, self.resolver)
                        && !self.trusted.differ_in(&old.trusted, upstream.tls.ca.as_deref()) =>
                {
                    Ok(known.clone())
                }
                Some((_, known)) => {
                    Upstream::renewed(known, upstream.clone(), resolver, metrics, budget)
                }
                None => Upstream::with_resolver(upstream.clone(), resolver, metrics, budget),
            };
            match built {
                Ok(built) => {
                    if upstreams.insert(name.clone(), built).is_some() {
                        problems.push(format!("there are two upstreams named `{name}`"));
                    }
                }
                Err(error) => problems.push(error.to_string()),
            }
        }
        upstreams
    }

    fn acceptors(&self, problems: &mut Vec<String>) -> Vec<Option<TlsAcceptor>> {
        let mut acceptors = Vec::new();
        for listener in &self.settings.listeners {
            let Some(tls) = &listener.tls else {
                acceptors.push(None);
                continue;
            };
            let had = self
                .tls
                .iter()
                .find(|(name, had)| **name == *listener.name && had.settings() == tls);
            if let Some((_, had)) = had {
                acceptors.push(Some(had.clone()));
                continue;
            }
            let (http1, http2) = (listener.serve.http1, listener.serve.http2);
            let before = self.old.and_then(|old| old.acceptor(&listener.name));
            let built = match before {
                Some(before) => before.renewed(tls, http1, http2),
                None => TlsAcceptor::new(tls, http1, http2, &self.common.tickets),
            };
            match built {
                Ok(acceptor) => acceptors.push(Some(acceptor)),
                Err(error) => {
                    let named = self.settings.places.named("listener", &listener.name);
                    problems.push(format!("{named}: {error}"));
                }
            }
        }
        acceptors
    }

    /// A file is opened anew each time: what rotates logs may have moved it. Its thread
    /// stays, for exchanges that last keep to the log that they began with.
    fn access_log(&self, problems: &mut Vec<String>) -> (AccessLog, Option<Opened>) {
        let settings = &self.settings.access_log;
        let known = self.old.filter(|old| old.settings.access_log == *settings);
        let opened = match (known, &settings.output) {
            (Some(old), LogOutput::File(_)) => {
                Opened::by(settings).map(|opened| (old.access_log.clone(), Some(opened)))
            }
            (Some(old), _) => Ok((old.access_log.clone(), None)),
            (None, _) => AccessLog::open(settings).map(|log| (log, None)),
        };
        opened.unwrap_or_else(|error| {
            problems.push(format!("the access log cannot be opened: {error}"));
            (AccessLog::off(), None)
        })
    }

    fn routes(
        &self,
        upstreams: &HashMap<String, Arc<Upstream>>,
        problems: &mut Vec<String>,
    ) -> HashMap<String, Built> {
        let mut routes = HashMap::new();
        for route in &self.settings.routes {
            let built = match self.unchanged(route, upstreams) {
                Some(built) => Ok(built.clone()),
                None => self.route(route, upstreams),
            };
            match built {
                Ok(built) => {
                    if routes.insert(route.name.clone(), built).is_some() {
                        problems.push(format!("there are two routes named `{}`", route.name));
                    }
                }
                // Why not is told of what it asks for.
                Err(_) if self.authenticators.are_unfit_for(route, self.settings) => {}
                Err(problem) => {
                    let named = self.settings.places.named("route", &route.name);
                    problems.push(format!("{named}: {problem}"));
                }
            }
        }
        routes
    }

    /// The route as it was built before, if it would be built alike: its turns,
    /// its counts and all that its layers remember go on.
    fn unchanged(
        &self,
        route: &RouteSettings,
        upstreams: &HashMap<String, Arc<Upstream>>,
    ) -> Option<&Built> {
        let old = self.old?;
        let before = old.settings.routes.iter().find(|before| before.name == route.name)?;
        let same_upstream = match &route.action {
            Action::Forward(forward) => {
                let upstream = |of: &HashMap<_, Arc<_>>| of.get(&forward.upstream).map(Arc::as_ptr);
                upstream(upstreams) == upstream(&old.upstreams)
            }
            Action::Redirect(_) | Action::Respond(_) => true,
        };
        let same = before == route
            && old.settings.trust == self.settings.trust
            && same_upstream
            && self.authenticators.are_alike_for(route, &old.authenticators);
        same.then(|| old.routes.get(&route.name)).flatten()
    }

    fn route(
        &self,
        route: &RouteSettings,
        upstreams: &HashMap<String, Arc<Upstream>>,
    ) -> Result<Built, String> {
        let before = self.old.and_then(|old| old.routes.get(&route.name));
        let auth = self.authenticators.of_route(route, &self.common.means())?;
        let end = self.terminus(route, upstreams, auth.as_ref())?;
        let known = before.map(|before| &before.limits);
        let limits = Limits::build(route, self.common, known)?;
        let cache = self.cache(route);
        let compression = self.compression(route)?;
        let stack = compose::route(
            route,
            self.settings,
            &limits,
            auth.as_ref(),
            cache.as_ref(),
            compression.as_ref(),
            end,
        );
        let route = self.common.metrics.route(&route.name.as_str().into());
        Ok(Built { entry: Entry { route, stack }, limits, auth, cache })
    }

    /// What is stored goes on being used where the route does the same as before.
    fn cache(&self, route: &RouteSettings) -> Option<CacheLayer> {
        let mut settings = route.cache.clone()?;
        // What one request has cost is not what the next has.
        let costs = route.rate_limits.iter().filter_map(|limit| limit.cost.header.clone());
        settings.unstored = costs.collect();
        let known = self.old.and_then(|old| {
            let before = old.settings.routes.iter().find(|before| before.stores_alike(route))?;
            old.routes.get(&before.name)?.cache.as_ref()
        });
        let layer = match known {
            Some(known) => known.renewed(&route.name, &settings),
            None => {
                let meaning = route.origin_requests();
                CacheLayer::meaning(&self.common.cache, &route.name, &meaning, &settings)
            }
        };
        let counts = self.common.metrics.cache(&route.name.as_str().into());
        let written = route.headers.request.set.iter().map(|(name, _)| name.clone());
        Some(layer.counting(counts).vouching(written))
    }

    fn compression(&self, route: &RouteSettings) -> Result<Option<CompressionLayer>, String> {
        let Some(settings) = &route.compression else { return Ok(None) };
        if !ContentCoding::AVAILABLE {
            return Err("compression is not part of this build (feature `compression`)".to_owned());
        }
        let counts = self.common.metrics.compression(&route.name.as_str().into());
        let written = route.headers.request.set.iter().map(|(name, _)| name.clone());
        Ok(Some(CompressionLayer::new(settings).counting(counts).vouching(written)))
    }

    fn terminus(
        &self,
        route: &RouteSettings,
        upstreams: &HashMap<String, Arc<Upstream>>,
        auth: Option<&AuthLayer>,
    ) -> Result<Terminus, String> {
        let wrong = |error: http::Error| error.to_string();
        match &route.action {
            Action::Redirect(redirect) => Ok(Terminus::Reply(Reply::redirect(redirect.clone()))),
            Action::Respond(fixed) => Reply::fixed(fixed).map(Terminus::Reply).map_err(wrong),
            Action::Forward(action) => {
                let upstream = upstreams
                    .get(&action.upstream)
                    .ok_or_else(|| format!("there is no upstream `{}`", action.upstream))?;
                compose::forward(route, action, upstream.clone(), auth, self.common)
                    .map(|forward: Forward| Terminus::Forward(forward))
                    .map_err(wrong)
            }
        }
    }
}
