//! Describing a proxy in code.

use super::{BuildError, Proxy};
use crate::config::{RouteSettings, Settings};
use crate::layers::{AuthenticatorSettings, SchemeSettings, TrustSettings};
use crate::observe::{AccessLogSettings, LogOutput};
use crate::route::{Action, ForwardAction, Match, PathPattern};
use crate::upstream::{DnsSettings, OriginSettings, UpstreamSettings};

/// Describes a proxy step by step; what is wrong is said by
/// [`ProxyBuilder::build`], all at once.
///
/// An embedded proxy writes no access log unless it is told to: the host
/// application has a log of its own.
#[derive(Clone, Debug)]
pub struct ProxyBuilder {
    settings: Settings,
    problems: Vec<String>,
}

impl Default for ProxyBuilder {
    fn default() -> Self {
        let access_log = AccessLogSettings { output: LogOutput::Off, ..Default::default() };
        let settings = Settings { access_log, admin: None, ..Settings::default() };
        Self { settings, problems: Vec::new() }
    }
}

impl ProxyBuilder {
    /// Adds an upstream of these origins, such as `http://127.0.0.1:3000`, with
    /// every default.
    #[must_use]
    pub fn upstream<O: AsRef<str>>(
        mut self,
        name: &str,
        origins: impl IntoIterator<Item = O>,
    ) -> Self {
        let mut parsed = Vec::new();
        for origin in origins {
            match origin.as_ref().parse() {
                Ok(url) => parsed.push(OriginSettings::new(url)),
                Err(problem) => self
                    .problems
                    .push(format!("upstream `{name}`: origin `{}`: {problem}", origin.as_ref())),
            }
        }
        self.upstream_with(UpstreamSettings::new(name, parsed))
    }

    /// Adds an upstream.
    #[must_use]
    pub fn upstream_with(mut self, upstream: UpstreamSettings) -> Self {
        self.settings.upstreams.push(upstream);
        self
    }

    /// Forwards every path from `prefix` down to `upstream`, with every default.
    #[must_use]
    pub fn forward(self, prefix: &str, upstream: &str) -> Self {
        let matches = Match { path: PathPattern::Prefix(prefix.to_owned()), ..Match::default() };
        let action = Action::Forward(ForwardAction::new(upstream));
        self.route(RouteSettings::new(prefix, matches, action))
    }

    /// Adds a way of telling who asks, for routes to ask for by this name
    /// ([`RouteSettings::auth`]).
    #[must_use]
    pub fn authenticator(mut self, name: &str, scheme: SchemeSettings) -> Self {
        let name = name.to_owned();
        self.settings.authenticators.push(AuthenticatorSettings { name, scheme });
        self
    }

    /// Adds a route.
    #[must_use]
    pub fn route(mut self, route: RouteSettings) -> Self {
        self.settings.routes.push(route);
        self
    }

    /// Says how the names of origins are resolved.
    #[must_use]
    pub fn dns(mut self, dns: DnsSettings) -> Self {
        self.settings.dns = dns;
        self
    }

    /// Says who is believed about where requests come from.
    #[must_use]
    pub fn trust(mut self, trust: TrustSettings) -> Self {
        self.settings.trust = trust;
        self
    }

    /// Writes an access log.
    #[must_use]
    pub fn access_log(mut self, access_log: AccessLogSettings) -> Self {
        self.settings.access_log = access_log;
        self
    }

    /// What was described, for [`ProxyService::reload`](super::ProxyService::reload).
    ///
    /// # Errors
    ///
    /// Every origin that is no URL.
    pub fn settings(self) -> Result<Settings, BuildError> {
        if self.problems.is_empty() {
            Ok(self.settings)
        } else {
            Err(BuildError::new(self.problems))
        }
    }

    /// Builds the proxy.
    ///
    /// # Errors
    ///
    /// Every problem found, at once.
    pub fn build(self) -> Result<Proxy, BuildError> {
        match Proxy::build(self.settings) {
            Ok(proxy) if self.problems.is_empty() => Ok(proxy),
            Ok(_) => Err(BuildError::new(self.problems)),
            Err(error) => {
                let more = error.problems().iter().cloned();
                Err(BuildError::new(self.problems.into_iter().chain(more).collect()))
            }
        }
    }
}
