//! One origin: where it is, whether it is fit to be asked, its connections.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use http::HeaderValue;
use http::uri::Authority;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::connect::{Connector, Place};
use super::dns::Address;
use super::memory::Memory;
use super::pool::Pool;
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
    weight: AtomicU32,
    only_http2: bool,
    authority: Option<Authority>,
    host: Option<HeaderValue>,
    health: Mutex<Health>,
    connector: Connector,
    pool: Pool,
    /// Connections that are open, if they are counted.
    open: Arc<AtomicUsize>,
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
    /// Its share of the requests.
    pub(super) weight: u32,
}

/// What is known of an origin's health.
#[derive(Debug, Default)]
struct Health {
    /// Condemned by probes.
    down: bool,
    /// Probes in a row that say the opposite of `down`.
    against: u32,
    /// Requests in a row that failed to reach it.
    failures: u32,
    /// Set aside by failed requests until then.
    set_aside: Option<Instant>,
    /// Whether any probe has ended yet.
    probed: bool,
}

/// What a probe or a request learnt of an origin.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// A probe succeeded.
    ProbeOk,
    /// A probe failed, for this reason.
    ProbeFailed(String),
    /// A request reached it.
    Reached,
    /// A request could not reach it, for this reason.
    Unreachable(String),
}

/// What a verdict changed.
#[derive(Debug)]
pub(super) enum Change {
    Up,
    Down(String),
    SetAside(String),
}

impl Origin {
    pub(super) fn new(
        upstream: &Arc<str>,
        spot: Spot,
        settings: &UpstreamSettings,
        tls: &ClientTls,
        metrics: &Metrics,
        memory: &Memory,
    ) -> Self {
        let Spot { url, place, name, asked_as, weight } = spot;
        let authority = asked_as.authority();
        Self {
            upstream: upstream.clone(),
            name: name.into(),
            weight: AtomicU32::new(weight.max(1)),
            only_http2: match url.scheme {
                OriginScheme::H2c => true,
                OriginScheme::Https => settings.protocol == Protocol::Http2,
                OriginScheme::Http => false,
            },
            host: HeaderValue::try_from(authority.as_str()).ok(),
            authority: authority.parse().ok(),
            health: Mutex::default(),
            pool: Pool::new(
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
            open: Arc::default(),
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

    /// Its share of the requests.
    #[must_use]
    pub fn weight(&self) -> u32 {
        self.weight.load(Ordering::Relaxed)
    }

    /// Gives it another share, from the next rotation on.
    pub(super) fn set_weight(&self, weight: u32) {
        self.weight.store(weight.max(1), Ordering::Relaxed);
    }

    /// It has left the upstream. What is under way ends as it would have;
    /// connections are not kept.
    pub(super) fn retire(&self) {
        self.pool.retire();
        self.metrics.origin_left(&self.upstream, &self.name);
    }

    /// Whether it has left the upstream.
    pub(super) fn is_retired(&self) -> bool {
        self.pool.is_retired()
    }

    /// The address of a name that it stands for, if it does for one.
    pub(super) fn stands_for(&self) -> Option<&Arc<Address>> {
        self.connector.address()
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

    /// A permit for one more connection; `None` where they are not counted.
    pub(super) fn permit(&self) -> Result<Option<Permit>, Error> {
        let Some(max) = self.max_connections else { return Ok(None) };
        let full = || {
            let detail = format!("{} has its {max} connections", self.url);
            Error::new(Kind::Overloaded).detail(detail).resend(Resend::Safe)
        };
        Permit::acquire(&self.open, max).map(Some).ok_or_else(full)
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

    /// Fit to be asked: neither condemned by probes nor set aside.
    pub(super) fn is_fit(&self, now: Instant) -> bool {
        let health = self.health.lock();
        !health.down && health.set_aside.is_none_or(|until| until <= now)
    }

    /// Whether probes say that it is down.
    #[must_use]
    pub fn is_condemned(&self) -> bool {
        self.health.lock().down
    }

    /// Until when it is set aside, if it is.
    pub(super) fn set_aside_until(&self, now: Instant) -> Option<Instant> {
        self.health.lock().set_aside.filter(|until| *until > now)
    }

    /// Takes in a verdict; tells if the rotation must be published anew.
    pub(super) fn judge(&self, verdict: Verdict, settings: &UpstreamSettings) -> Option<Change> {
        let mut health = self.health.lock();
        match verdict {
            Verdict::ProbeOk => {
                health.probed = true;
                let was_aside = health.set_aside.take().is_some();
                health.failures = 0;
                if !health.down {
                    health.against = 0;
                    return was_aside.then_some(Change::Up);
                }
                health.against += 1;
                let rise = settings.health.as_ref().map_or(1, |check| check.rise);
                (health.against >= rise).then(|| health.set_down(false, Change::Up))
            }
            Verdict::ProbeFailed(reason) => {
                let first = !std::mem::replace(&mut health.probed, true);
                if health.down {
                    health.against = 0;
                    return None;
                }
                health.against += 1;
                // An origin is trusted when the proxy starts; the first probe
                // alone says whether that was right.
                let fall = settings.health.as_ref().map_or(1, |check| check.fall);
                (first || health.against >= fall)
                    .then(|| health.set_down(true, Change::Down(reason)))
            }
            Verdict::Reached => {
                health.failures = 0;
                None
            }
            Verdict::Unreachable(reason) => {
                health.failures = health.failures.saturating_add(1);
                if health.down || health.failures < settings.passive.max_failures {
                    return None;
                }
                let aside: Duration = settings.passive.set_aside;
                let again = health.set_aside.is_some_and(|until| until > Instant::now());
                health.set_aside = Some(Instant::now() + aside);
                (!again).then_some(Change::SetAside(reason))
            }
        }
    }
}

impl Health {
    fn set_down(&mut self, down: bool, change: Change) -> Change {
        self.down = down;
        self.against = 0;
        change
    }
}

impl Spot {
    /// What the settings say, where `place` is.
    pub(super) fn of(url: &OriginUrl, place: Place, weight: u32) -> Self {
        let host = &url.host;
        let name = match (url.service, host.contains(':')) {
            _ if url.unix.is_some() => url.to_string(),
            (true, _) => host.clone(),
            (false, true) => format!("[{host}]:{}", url.port),
            (false, false) => format!("{host}:{}", url.port),
        };
        Self { url: url.clone(), place, name, asked_as: url.clone(), weight }
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origin")
            .field("url", &self.url)
            .field("weight", &self.weight())
            .field("health", &self.health)
            .finish_non_exhaustive()
    }
}
