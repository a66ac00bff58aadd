//! One origin: where it is, whether it is fit to be asked, its connections.

use std::fmt;
use std::sync::Arc;

use http::HeaderValue;
use http::uri::Authority;

use super::basis::Basis;
use super::connect::{Connector, Place};
use super::dns::{Address, Name};
use super::memory::Memory;
use super::pool::Pool;
use super::standing::Standing;
use super::tls::ClientTls;
use super::{OriginScheme, OriginUrl, Protocol, UpstreamH2, UpstreamSettings, UpstreamTimeouts};
use crate::budget::Charge;
use crate::context::Permit;
use crate::error::{Error, Kind, Resend};
use crate::observe::Metrics;

/// One server of an upstream.
pub struct Origin {
    upstream: Arc<str>,
    name: Arc<str>,
    url: OriginUrl,
    asked_as: OriginUrl,
    only_http2: bool,
    authority: Option<Authority>,
    host: Option<HeaderValue>,
    /// What of the settings all this comes from.
    basis: Basis,
    standing: Arc<Standing>,
    connector: Connector,
    pool: Pool,
    max_connections: Option<usize>,
    timeouts: UpstreamTimeouts,
    memory: Memory,
    h2: UpstreamH2,
    metrics: Metrics,
}

/// Where an origin is, and by which names it goes.
pub(super) struct Spot {
    /// What is dialled.
    pub(super) url: OriginUrl,
    /// Where that is.
    pub(super) place: Place,
    /// Its name in logs and metrics.
    pub(super) name: String,
    /// As whom it is asked: for `Host` and, without a port, for TLS.
    pub(super) asked_as: OriginUrl,
}

impl Origin {
    /// An origin at this spot, whose standing is `standing`.
    pub(super) fn new(
        upstream: &Arc<str>,
        spot: Spot,
        standing: Arc<Standing>,
        settings: &UpstreamSettings,
        tls: &ClientTls,
        metrics: &Metrics,
        memory: &Memory,
    ) -> Self {
        let Spot { url, place, name, asked_as } = spot;
        let authority = asked_as.authority();
        Self {
            upstream: upstream.clone(),
            name: name.into(),
            only_http2: match url.scheme {
                OriginScheme::H2c => true,
                OriginScheme::Https => settings.protocol == Protocol::Http2,
                OriginScheme::Http => false,
            },
            host: HeaderValue::try_from(authority.as_str()).ok(),
            authority: authority.parse().ok(),
            basis: Basis::of(&url, settings, tls),
            pool: Pool::new(
                standing.drained().clone(),
                settings.max_idle,
                settings.timeouts.pool_idle,
                match (url.scheme, settings.protocol) {
                    (OriginScheme::H2c, _) | (OriginScheme::Https, Protocol::Http2) => Some(true),
                    (OriginScheme::Http, _) | (OriginScheme::Https, Protocol::Http1) => Some(false),
                    (OriginScheme::Https, Protocol::Auto) => None,
                },
            ),
            connector: Connector::new(url.clone(), asked_as.domain(), place, tls, settings),
            url,
            asked_as,
            standing,
            max_connections: settings.max_connections,
            timeouts: settings.timeouts,
            memory: memory.clone(),
            h2: memory.limit(settings.h2),
            metrics: metrics.clone(),
        }
    }

    /// Its name in logs and metrics: `host:port`, or the URL of a Unix socket.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name, shared.
    #[must_use]
    pub fn shared_name(&self) -> &Arc<str> {
        &self.name
    }

    /// The upstream it belongs to.
    #[must_use]
    pub fn upstream(&self) -> &Arc<str> {
        &self.upstream
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> &OriginUrl {
        &self.url
    }

    /// How it stands: its health, and what was ordered about it.
    pub(super) fn standing(&self) -> &Arc<Standing> {
        &self.standing
    }

    /// What of the upstream's settings it depends on.
    pub(super) fn basis(&self) -> &Basis {
        &self.basis
    }

    /// Where it is, to set it up anew.
    pub(super) fn spot(&self) -> Spot {
        Spot {
            url: self.url.clone(),
            place: self.connector.place().clone(),
            name: self.name.to_string(),
            asked_as: self.asked_as.clone(),
        }
    }

    /// It has left the upstream. What is under way ends as it would have;
    /// connections are not kept.
    pub(super) fn retire(&self) {
        self.pool.retire();
    }

    /// Whether it has left the upstream.
    pub(super) fn is_retired(&self) -> bool {
        self.pool.is_retired()
    }

    /// The address of a name that it stands for, if it does for one.
    pub(super) fn stands_for(&self) -> Option<&Arc<Address>> {
        match self.connector.place() {
            Place::Address(address) => Some(address),
            Place::Literal(_) | Place::Unix(_) | Place::Name(_) | Place::Service(_) => None,
        }
    }

    /// The name that it is reached by, whatever addresses that has.
    pub(super) fn found_by(&self) -> Option<&Arc<Name>> {
        match self.connector.place() {
            Place::Name(name) => Some(name),
            Place::Literal(_) | Place::Unix(_) | Place::Address(_) | Place::Service(_) => None,
        }
    }

    /// Its authority, for `:authority`.
    #[must_use]
    pub fn authority(&self) -> Option<&Authority> {
        self.authority.as_ref()
    }

    /// Its authority as a field value, for `Host`.
    #[must_use]
    pub fn host(&self) -> Option<&HeaderValue> {
        self.host.as_ref()
    }

    /// Whether it is asked over TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.url.scheme == OriginScheme::Https
    }

    /// Whether it is never spoken to in HTTP/1.1.
    pub(super) fn speaks_only_http2(&self) -> bool {
        self.only_http2
    }

    pub(super) fn connector(&self) -> &Connector {
        &self.connector
    }

    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// A permit for one more connection.
    pub(super) fn permit(&self) -> Result<Permit, Error> {
        let max = self.max_connections.unwrap_or(usize::MAX);
        let full = || {
            let detail = format!("{} has its {max} connections", self.url);
            Error::new(Kind::Overloaded).detail(detail).resend(Resend::Safe)
        };
        Permit::acquire(self.standing.open(), max).ok_or_else(full)
    }

    pub(super) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The memory for one more connection.
    pub(super) fn charge(&self) -> Result<Charge, Error> {
        self.memory.for_connection(self.is_tls())
    }

    pub(super) fn timeouts(&self) -> &UpstreamTimeouts {
        &self.timeouts
    }

    pub(super) fn h2(&self) -> &UpstreamH2 {
        &self.h2
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Whether probes say that it is down.
    #[must_use]
    pub fn is_condemned(&self) -> bool {
        self.standing.is_condemned()
    }
}

impl Spot {
    /// What the settings say, where `place` is.
    pub(super) fn of(url: &OriginUrl, place: Place) -> Self {
        let host = &url.host;
        let name = match (url.service, host.contains(':')) {
            _ if url.unix.is_some() => url.to_string(),
            (true, _) => host.clone(),
            (false, true) => format!("[{host}]:{}", url.port),
            (false, false) => format!("{host}:{}", url.port),
        };
        Self { url: url.clone(), place, name, asked_as: url.clone() }
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origin")
            .field("url", &self.url)
            .field("standing", &self.standing)
            .finish_non_exhaustive()
    }
}
