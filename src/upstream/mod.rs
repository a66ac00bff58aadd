//! Groups of origins, their health, and the connections to them.
//!
//! An [`Upstream`] publishes which of its origins are fit to be asked as one
//! immutable [`Rotation`]; requests read it without a lock, and whoever learns
//! something about an origin (a probe, a failed request) publishes the next.

mod basis;
mod client;
mod connect;
mod dns;
mod follow;
mod http1;
mod http2;
mod keep;
mod memory;
mod orders;
mod origin;
mod pool;
mod probe;
mod renewal;
mod settings;
mod sources;
mod standing;
mod stream;
mod tls;
mod unix;
mod url;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use arc_swap::{ArcSwap, Guard};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

pub use client::{Failure, Reuse, Sent};
pub use dns::{AddressFamily, DnsSettings, Resolver};
#[cfg(fuzzing)]
pub(crate) use http1::fuzz;
pub use orders::{NoSuchOrigin, OriginChange, OriginStatus, UpstreamStatus};
pub use origin::Origin;
pub use settings::{
    Balancing, HashBy, HealthCheck, OriginSettings, PassiveHealth, Probe, Protocol, StatusRange,
    UpstreamH2, UpstreamSettings, UpstreamTimeouts, UpstreamTls,
};
pub use standing::Verdict;
pub use tls::ClientTlsError;
pub use url::{OriginScheme, OriginUrl};

use crate::budget::Budget;
use crate::observe::Metrics;
use memory::Memory;
use orders::Orders;
use renewal::Life;
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
    /// Orders for origins that are still to appear.
    orders: Orders,
    life: Life,
    metrics: Metrics,
}

/// The origins fit to be asked, at one moment.
#[derive(Debug)]
pub struct Rotation {
    /// Differs from that of every other rotation of the upstream.
    pub generation: u64,
    /// The origins, in the order of the configuration.
    pub origins: Vec<Arc<Origin>>,
    /// The share of the requests that each of them has, relative to the others'.
    pub weights: Vec<u32>,
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
        let (tls, memory) = (tls::ClientTls::new(&settings)?, Memory::new(budget));
        let maker = Maker::new(&settings, tls, resolver, metrics, memory);
        let make = |(index, origin)| maker.source(index, origin, &settings);
        let (sources, members): (Vec<_>, Vec<_>) =
            settings.origins.iter().enumerate().map(make).unzip();
        Ok(Self::assemble(settings, maker, sources, members, |this, _| Life::first(this)))
    }

    fn assemble(
        settings: UpstreamSettings,
        maker: Maker,
        sources: Vec<Source>,
        members: Vec<Member>,
        life: impl FnOnce(&Weak<Self>, &UpstreamSettings) -> Life,
    ) -> Arc<Self> {
        let now = Instant::now();
        let rotation = Rotation::of(&members, 0, now);
        Arc::new_cyclic(|this| Self {
            life: life(this, &settings),
            name: settings.name.as_str().into(),
            sources,
            members: ArcSwap::from_pointee(members),
            changes: watch::Sender::new(0),
            metrics: maker.metrics().clone(),
            maker,
            settings,
            rotation: ArcSwap::from_pointee(rotation),
            generation: AtomicU64::new(0),
            publishing: Mutex::new(()),
            looked_at: Mutex::new(now),
            set_aside: Notify::new(),
            orders: Orders::default(),
        })
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
        // What a verdict means is for the settings in force to say.
        let in_force = self.successor();
        let settings = in_force.as_ref().map_or(&self.settings, |upstream| &upstream.settings);
        let Some(change) = origin.standing().judge(verdict, settings) else { return };
        let (upstream, name) = (&*self.name, origin.name());
        match change {
            standing::Change::Up => tracing::info!(upstream, origin = name, "origin is back"),
            standing::Change::Down(reason) => {
                tracing::warn!(upstream, origin = name, reason = &*reason, "origin is down");
            }
            standing::Change::SetAside(reason) => tracing::warn!(
                upstream,
                origin = name,
                reason,
                seconds = settings.passive.set_aside.as_secs_f32(),
                "origin is set aside"
            ),
        }
        self.spread();
    }

    /// Publishes anew from what is known of each origin, here and wherever else
    /// of this upstream's line there may be requests.
    fn spread(&self) {
        let line = self.life.line();
        for upstream in &line {
            upstream.publish();
        }
        if !line.iter().any(|upstream| std::ptr::eq(&raw const **upstream, self)) {
            self.publish();
        }
    }

    fn publish(&self) {
        self.publish_in(&self.publishing.lock());
        // An origin that is set aside is to be brought back.
        self.set_aside.notify_one();
    }

    fn publish_in(&self, one_at_a_time: &MutexGuard<'_, ()>) {
        let now = Instant::now();
        *self.looked_at.lock() = now;
        self.tell_in(one_at_a_time, now);
        let generation = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
        let rotation = Rotation::of(&self.members.load(), generation, now);
        if rotation.origins.is_empty() && !self.life.is_over() {
            tracing::error!(upstream = &*self.name, "no origin is left: requests are answered 503");
        }
        self.rotation.store(Arc::new(rotation));
    }

    /// Tells how the origins stand.
    fn tell(&self) {
        self.tell_in(&self.publishing.lock(), Instant::now());
    }

    fn tell_in(&self, _one_at_a_time: &MutexGuard<'_, ()>, now: Instant) {
        if self.life.is_over() {
            return;
        }
        for Member { origin, .. } in self.members.load().iter() {
            let (name, standing) = (origin.shared_name(), origin.standing());
            self.metrics.origin_healthy(&self.name, name, standing.is_fit(now));
            self.metrics.origin_drained(&self.name, name, standing.is_drained());
        }
    }
}

impl Rotation {
    fn of(members: &[Member], generation: u64, now: Instant) -> Self {
        let mut fit = best(members, |standing| !standing.is_drained() && standing.is_fit(now));
        if fit.is_empty() {
            // Being set aside is a guess from a few requests. When it would
            // leave nobody to ask, an origin that no probe has condemned is
            // still worth a try.
            fit = best(members, |standing| !standing.is_drained() && !standing.is_condemned());
        }
        let (origins, weights) = fit.into_iter().unzip();
        Self { generation, origins, weights }
    }
}
