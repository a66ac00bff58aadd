//! Groups of origins, their health, and the connections to them.
//!
//! An [`Upstream`] publishes which of its origins are fit to be asked as one
//! immutable [`Rotation`]; requests read it without a lock, and whoever learns
//! something about an origin (a probe, a failed request) publishes the next.

mod client;
mod connect;
mod dns;
mod http1;
mod http2;
mod memory;
mod origin;
mod pool;
mod probe;
mod settings;
mod sources;
mod stream;
mod tls;
mod unix;
mod url;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, Guard};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

pub use client::{Failure, Reuse, Sent};
pub use dns::{AddressFamily, DnsSettings, Resolver};
#[cfg(fuzzing)]
pub(crate) use http1::fuzz;
pub use origin::{Origin, Verdict};
pub use settings::{
    HealthCheck, OriginSettings, PassiveHealth, Probe, Protocol, StatusRange, UpstreamH2,
    UpstreamSettings, UpstreamTimeouts, UpstreamTls,
};
pub use tls::ClientTlsError;
pub use url::{OriginScheme, OriginUrl};

use crate::budget::Budget;
use crate::observe::Metrics;
use memory::Memory;
use sources::{Maker, Member, Source, best};

/// A named group of origins that serve the same thing.
#[derive(Debug)]
pub struct Upstream {
    name: Arc<str>,
    /// What the settings name, each with its index.
    sources: Vec<Source>,
    /// The origins there are, fit or not, by source and priority.
    members: ArcSwap<Vec<Member>>,
    /// Tells that there are others.
    changes: watch::Sender<u64>,
    maker: Maker,
    settings: UpstreamSettings,
    rotation: ArcSwap<Rotation>,
    generation: AtomicU64,
    /// Makes publishing one step: two that learn something at the same time
    /// must not publish in the wrong order.
    publishing: Mutex<()>,
    /// The moment that the rotation is true of.
    looked_at: Mutex<Instant>,
    set_aside: Notify,
    metrics: Metrics,
}

/// The origins fit to be asked, at one moment.
#[derive(Debug)]
pub struct Rotation {
    /// Differs from that of every other rotation of the upstream.
    pub generation: u64,
    /// The origins, in the order of the configuration.
    pub origins: Vec<Arc<Origin>>,
}

impl Upstream {
    /// Sets up an upstream, whose connections take their memory from `budget`.
    /// Nothing is connected or probed yet.
    ///
    /// # Errors
    ///
    /// The certificates to trust cannot be read.
    pub fn new(
        settings: UpstreamSettings,
        metrics: Metrics,
        budget: Budget,
    ) -> Result<Arc<Self>, ClientTlsError> {
        Self::with_resolver(settings, Resolver::new(DnsSettings::default()), metrics, budget)
    }

    /// Sets up an upstream whose origins' names `resolver` resolves.
    ///
    /// # Errors
    ///
    /// The certificates to trust cannot be read.
    pub fn with_resolver(
        settings: UpstreamSettings,
        resolver: Arc<Resolver>,
        metrics: Metrics,
        budget: Budget,
    ) -> Result<Arc<Self>, ClientTlsError> {
        let name: Arc<str> = settings.name.as_str().into();
        let (tls, memory) = (tls::ClientTls::new(&settings)?, Memory::new(budget));
        let maker = Maker::new(&settings, tls, resolver, metrics.clone(), memory);
        let make = |(index, origin)| maker.source(index, origin, &settings);
        let (sources, members): (Vec<_>, Vec<_>) =
            settings.origins.iter().enumerate().map(make).unzip();
        let origins = members.iter().map(|member| member.origin.clone()).collect();
        let rotation = Rotation { generation: 0, origins };
        Ok(Arc::new(Self {
            name,
            sources,
            members: ArcSwap::from_pointee(members),
            changes: watch::Sender::new(0),
            maker,
            settings,
            rotation: ArcSwap::from_pointee(rotation),
            generation: AtomicU64::new(0),
            publishing: Mutex::new(()),
            looked_at: Mutex::new(Instant::now()),
            set_aside: Notify::new(),
            metrics,
        }))
    }

    /// The upstream's name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Every origin there is now, fit or not.
    #[must_use]
    pub fn origins(&self) -> Vec<Arc<Origin>> {
        self.members.load().iter().map(|member| member.origin.clone()).collect()
    }

    /// Tells whenever there are other origins.
    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// What it was told.
    #[must_use]
    pub fn settings(&self) -> &UpstreamSettings {
        &self.settings
    }

    /// The origins fit to be asked now.
    pub fn rotation(&self) -> Guard<Arc<Rotation>> {
        self.rotation.load()
    }

    /// Takes in what a request or a probe learnt of `origin`.
    pub fn report(&self, origin: &Origin, verdict: Verdict) {
        if origin.is_retired() {
            return;
        }
        let Some(change) = origin.judge(verdict, &self.settings) else { return };
        let (upstream, name) = (&*self.name, origin.name());
        match change {
            origin::Change::Up => tracing::info!(upstream, origin = name, "origin is back"),
            origin::Change::Down(reason) => {
                tracing::warn!(upstream, origin = name, reason, "origin is down");
            }
            origin::Change::SetAside(reason) => {
                tracing::warn!(
                    upstream,
                    origin = name,
                    reason,
                    seconds = self.settings.passive.set_aside.as_secs_f32(),
                    "origin is set aside"
                );
                self.set_aside.notify_one();
            }
        }
        self.publish();
    }

    /// Publishes the rotation anew from what is known of each origin.
    fn publish(&self) {
        self.publish_in(&self.publishing.lock());
    }

    fn publish_in(&self, _one_at_a_time: &MutexGuard<'_, ()>) {
        let now = Instant::now();
        *self.looked_at.lock() = now;
        let members = self.members.load();
        for Member { origin, .. } in members.iter() {
            let healthy = origin.is_fit(now);
            self.metrics.origin_healthy(&self.name, origin.shared_name(), healthy);
        }
        let mut fit = best(&members, |origin| origin.is_fit(now));
        if fit.is_empty() {
            // Being set aside is a guess from a few requests. When it would
            // leave nobody to ask, an origin that no probe has condemned is
            // still worth a try.
            fit = best(&members, |origin| !origin.is_condemned());
        }
        if fit.is_empty() {
            tracing::error!(upstream = &*self.name, "no origin is left: requests are answered 503");
        }
        let generation = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
        self.rotation.store(Arc::new(Rotation { generation, origins: fit }));
    }

    /// Keeps names resolved, probes the origins, brings back those set aside, and
    /// closes connections that idled too long. Runs until dropped.
    pub async fn keep(self: Arc<Self>) {
        let probes = async {
            match &self.settings.health {
                Some(check) => probe::run(&self, check).await,
                None => std::future::pending().await,
            }
        };
        tokio::join!(probes, self.bring_back(), self.sweep(), self.follow());
    }

    /// Makes the connections that the settings want made ahead, for the calling
    /// thread's requests, and again to each origin that appears. Runs until
    /// dropped if there can be such.
    pub async fn warm(self: Arc<Self>) {
        let count = self.settings.warm;
        if count == 0 {
            return;
        }
        let mut changes = self.changes();
        let mut known: Vec<Arc<Origin>> = Vec::new();
        loop {
            let origins = self.origins();
            let new = |origin: &&Arc<Origin>| !known.iter().any(|old| Arc::ptr_eq(old, origin));
            let new = origins.iter().filter(new).map(|origin| origin.warm(count));
            futures_util::future::join_all(new).await;
            known = origins;
            if !self.sources.iter().any(Source::has_changing_origins)
                || changes.changed().await.is_err()
            {
                return;
            }
        }
    }

    async fn bring_back(&self) {
        loop {
            // Whoever's time has passed since the rotation was published is in
            // the past by now, and still to be brought back.
            let now = *self.looked_at.lock();
            let members = self.members.load_full();
            let until = |member: &Member| member.origin.set_aside_until(now);
            let next = members.iter().filter_map(until).min();
            match next {
                // A timer's resolution is a millisecond: a little later, so
                // that the origin is past its time when it is looked at.
                Some(at) => tokio::select! {
                    () = tokio::time::sleep_until(at + std::time::Duration::from_millis(2)) => self.publish(),
                    () = self.set_aside.notified() => {}
                },
                None => self.set_aside.notified().await,
            }
        }
    }

    async fn sweep(&self) {
        let every = self.settings.timeouts.pool_idle.div_f32(2.0);
        loop {
            tokio::time::sleep(every.max(std::time::Duration::from_millis(100))).await;
            let now = Instant::now();
            for origin in self.origins() {
                origin.pool().sweep(now);
            }
        }
    }
}
