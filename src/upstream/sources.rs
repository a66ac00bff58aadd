//! Where an upstream's origins come from, and which there are at a moment.
//!
//! An origin of the settings is one origin for good, unless its name or its
//! service stands for several: then origins come and go with the answers of the
//! name servers. Before the first answer one that waits for it stands in for
//! them, so that requests which come early are not turned away.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use super::connect::Place;
use super::dns::{Address, Failures, Name, Resolver, Service, Target};
use super::memory::Memory;
use super::origin::{Origin, Spot};
use super::tls::ClientTls;
use super::{OriginSettings, OriginUrl, Upstream, UpstreamSettings};
use crate::observe::Metrics;

/// An origin of the settings.
#[derive(Debug)]
pub(super) enum Source {
    /// It has an address of its own.
    Literal,
    /// One origin, whatever addresses its name has.
    Name(Arc<Name>),
    /// As many as its name has addresses.
    EachAddress(Arc<Name>, OriginSettings),
    /// As many as the service has targets.
    Service(Arc<Service>, OriginUrl),
}

/// One origin there is now.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) origin: Arc<Origin>,
    /// Which origin of the settings it comes from.
    pub(super) source: usize,
    /// Only those of the lowest priority that are fit are asked.
    pub(super) priority: u16,
}

impl Source {
    /// Whether origins come and go.
    pub(super) fn has_changing_origins(&self) -> bool {
        matches!(self, Self::EachAddress(..) | Self::Service(..))
    }
}

/// What origins are made from.
#[derive(Debug)]
pub(super) struct Maker {
    upstream: Arc<str>,
    tls: ClientTls,
    resolver: Arc<Resolver>,
    metrics: Metrics,
    memory: Memory,
}

impl Maker {
    pub(super) fn new(
        settings: &UpstreamSettings,
        tls: ClientTls,
        resolver: Arc<Resolver>,
        metrics: Metrics,
        memory: Memory,
    ) -> Self {
        Self { upstream: settings.name.as_str().into(), tls, resolver, metrics, memory }
    }

    fn make(&self, spot: Spot, settings: &UpstreamSettings) -> Arc<Origin> {
        let Self { upstream, tls, metrics, memory, .. } = self;
        let origin = Origin::new(upstream, spot, settings, tls, metrics, memory);
        self.metrics.origin_healthy(&self.upstream, origin.shared_name(), true);
        Arc::new(origin)
    }

    /// A name that is counted as `counted_as`.
    fn name(&self, host: &str, counted_as: &str) -> Arc<Name> {
        let counts = self.metrics.name(&self.upstream, counted_as);
        Name::new(host, &self.resolver, counts)
    }

    /// An origin of the settings, and the member that it begins with.
    pub(super) fn source(
        &self,
        source: usize,
        origin: &OriginSettings,
        settings: &UpstreamSettings,
    ) -> (Source, Member) {
        let url = &origin.url;
        let (made, place) = if url.service {
            let counts = self.metrics.name(&self.upstream, &url.host);
            let service = Service::new(&url.host, &self.resolver, counts);
            (Source::Service(service.clone(), url.clone()), Place::Service(service))
        } else if let Some(path) = &url.unix {
            (Source::Literal, Place::Unix(path.clone()))
        } else if let Ok(ip) = url.host.parse() {
            (Source::Literal, Place::Literal(ip))
        } else {
            let name = self.name(&url.host, &url.host);
            let place = Place::Name(name.clone());
            match settings.each_address {
                true => (Source::EachAddress(name, origin.clone()), place),
                false => (Source::Name(name), place),
            }
        };
        let origin = self.make(Spot::of(url, place, origin.weight), settings);
        (made, Member { origin, source, priority: 0 })
    }
}

impl Upstream {
    /// Keeps up with what the names of the settings stand for. Runs until
    /// dropped.
    pub(super) async fn follow(&self) {
        let mut following: FuturesUnordered<_> =
            (0..self.sources.len()).map(|source| self.follow_one(source)).collect();
        while following.next().await.is_some() {}
    }

    async fn follow_one(&self, index: usize) {
        match &self.sources[index] {
            Source::Literal => {}
            Source::Name(name) => {
                name.follow(|addresses| {
                    name.counts().addresses(addresses.len());
                    self.sweep_now(index);
                })
                .await;
            }
            Source::EachAddress(name, origin) => {
                name.follow(|addresses| {
                    name.counts().addresses(addresses.len());
                    self.endpoints(index, origin, addresses);
                })
                .await;
            }
            Source::Service(service, url) => self.follow_service(index, service, url).await,
        }
    }

    /// Closes the idle connections to where a name does not point any more.
    fn sweep_now(&self, source: usize) {
        let now = Instant::now();
        for member in self.members.load().iter().filter(|member| member.source == source) {
            member.origin.pool().sweep(now);
        }
    }

    /// Makes each of these addresses an origin.
    fn endpoints(&self, source: usize, origin: &OriginSettings, addresses: &[Arc<Address>]) {
        let old = self.members.load_full();
        let endpoint = |address: &Arc<Address>| {
            let is_it = |member: &&Member| {
                member.origin.stands_for().is_some_and(|known| Arc::ptr_eq(known, address))
            };
            let known = old.iter().find(is_it).map(|member| member.origin.clone());
            let origin = known.unwrap_or_else(|| {
                let place = Place::Address(address.clone());
                let mut spot = Spot::of(&origin.url, place, origin.weight);
                spot.name = format!("{}/{}", spot.name, address.ip());
                self.maker.make(spot, &self.settings)
            });
            Member { origin, source, priority: 0 }
        };
        self.replace(source, addresses.iter().map(endpoint).collect());
    }

    async fn follow_service(&self, source: usize, service: &Service, url: &OriginUrl) {
        let mut targets: HashMap<(String, u16), (Arc<Name>, Arc<Origin>)> = HashMap::new();
        let mut names = FuturesUnordered::new();
        let mut failures = Failures::default();
        loop {
            let (answer, pause) = beside(&mut names, service.ask(&mut failures)).await;
            if let Some(answer) = answer {
                let mut members = Vec::new();
                let mut now = HashMap::new();
                let mut first = None;
                for target in answer {
                    let key = (target.host.clone(), target.port);
                    let (name, origin) = targets.remove(&key).unwrap_or_else(|| {
                        let (name, origin) = self.target(url, &target);
                        names.push(keep_resolved(name.clone(), origin.clone()));
                        (name, origin)
                    });
                    origin.set_weight(target.weight);
                    first.get_or_insert_with(|| (name.clone(), target.port));
                    let priority = target.priority;
                    members.push(Member { origin: origin.clone(), source, priority });
                    now.insert(key, (name, origin));
                }
                let left = std::mem::replace(&mut targets, now);
                self.replace(source, members);
                for (name, _) in left.into_values() {
                    name.retire();
                }
                if let Some((name, port)) = first {
                    service.has_targets(targets.len(), name, port);
                }
            }
            beside(&mut names, tokio::time::sleep(pause)).await;
        }
    }

    /// A target of a service as an origin.
    fn target(&self, url: &OriginUrl, target: &Target) -> (Arc<Name>, Arc<Origin>) {
        // Counted with the service: there is no end to how many targets may come
        // and go.
        let name = self.maker.name(&target.host, &url.host);
        let host = target.host.trim_end_matches('.').to_owned();
        let dialled = OriginUrl { host, port: target.port, service: false, ..url.clone() };
        let mut spot = Spot::of(&dialled, Place::Name(name.clone()), target.weight);
        spot.asked_as = url.clone();
        (name, self.maker.make(spot, &self.settings))
    }

    /// Puts these in the place of the origins that came from `source`.
    fn replace(&self, source: usize, new: Vec<Member>) {
        let one_at_a_time = self.publishing.lock();
        let old = self.members.load_full();
        let (theirs, others): (Vec<_>, Vec<_>) =
            old.iter().cloned().partition(|member| member.source == source);
        let mut members = others;
        members.extend(new);
        members.sort_by_key(|member| (member.source, member.priority));
        self.members.store(Arc::new(members));
        self.publish_in(&one_at_a_time);
        drop(one_at_a_time);
        let members = self.members.load();
        for Member { origin, .. } in theirs {
            if !members.iter().any(|member| Arc::ptr_eq(&member.origin, &origin)) {
                origin.retire();
            }
        }
        self.changes.send_modify(|changes| *changes = changes.wrapping_add(1));
    }
}

/// Keeps a target's name resolved until it is retired.
async fn keep_resolved(name: Arc<Name>, origin: Arc<Origin>) {
    name.follow(|_| origin.pool().sweep(Instant::now())).await;
}

/// Carries out `main`, and `others` meanwhile.
async fn beside<T>(
    others: &mut FuturesUnordered<impl Future<Output = ()>>,
    main: impl Future<Output = T>,
) -> T {
    tokio::pin!(main);
    loop {
        tokio::select! {
            biased;
            done = &mut main => return done,
            Some(()) = others.next(), if !others.is_empty() => {}
        }
    }
}

/// The origins to ask: of each origin of the settings those that are `fit`, and
/// of them those of the lowest priority only. `members` are in order.
pub(super) fn best(members: &[Member], fit: impl Fn(&Origin) -> bool) -> Vec<Arc<Origin>> {
    let mut best = Vec::new();
    for source in members.chunk_by(|a, b| a.source == b.source) {
        let mut priorities = source.chunk_by(|a, b| a.priority == b.priority);
        let fit = |member: &&Member| fit(&member.origin);
        if let Some(first) = priorities.find(|group| group.iter().any(|m| fit(&m))) {
            best.extend(first.iter().filter(fit).map(|member| member.origin.clone()));
        }
    }
    best
}
