//! Where an upstream's origins come from, and which there are at a moment.
//!
//! An origin of the settings is one origin for good, unless its name or its
//! service stands for several: then origins come and go with the answers of the
//! name servers. Before the first answer one that waits for it stands in for
//! them, so that requests which come early are not turned away.

use std::sync::Arc;

use super::connect::Place;
use super::dns::{Address, Name, Resolver, Service};
use super::memory::Memory;
use super::origin::{Origin, Spot};
use super::standing::Standing;
use super::tls::ClientTls;
use super::{OriginSettings, OriginUrl, UpstreamSettings};
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
    /// Its share of the requests, by the settings or the record of its service.
    pub(super) weight: u32,
    /// Whether the upstream before has it, too.
    pub(super) shared: bool,
}

impl Member {
    pub(super) fn new(origin: Arc<Origin>, source: usize, weight: u32) -> Self {
        Self { origin, source, priority: 0, weight: weight.max(1), shared: false }
    }

    /// Whether nothing is different.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.origin, &other.origin)
            && (self.source, self.priority, self.weight)
                == (other.source, other.priority, other.weight)
    }
}

impl Source {
    /// Whether origins come and go.
    pub(super) fn has_changing_origins(&self) -> bool {
        matches!(self, Self::EachAddress(..) | Self::Service(..))
    }

    fn of(name: Arc<Name>, origin: &OriginSettings, settings: &UpstreamSettings) -> Self {
        match settings.each_address {
            true => Self::EachAddress(name, origin.clone()),
            false => Self::Name(name),
        }
    }

    /// Has its names resolved by `resolver`.
    pub(super) fn resolve_by(&self, resolver: &Arc<Resolver>) {
        match self {
            Self::Literal => {}
            Self::Name(name) | Self::EachAddress(name, _) => name.resolve_by(resolver),
            Self::Service(service, _) => service.resolve_by(resolver),
        }
    }

    /// Whether it finds origins as before where each address is one, or not.
    pub(super) fn is_kept_by(&self, each_address: bool) -> bool {
        match self {
            Self::Literal | Self::Service(..) => true,
            Self::Name(_) => !each_address,
            Self::EachAddress(..) => each_address,
        }
    }

    /// The same for other settings of the same URL.
    pub(super) fn continued(&self, origin: &OriginSettings) -> Self {
        match self {
            Self::Literal => Self::Literal,
            Self::Name(name) => Self::Name(name.clone()),
            Self::EachAddress(name, _) => Self::EachAddress(name.clone(), origin.clone()),
            Self::Service(service, _) => Self::Service(service.clone(), origin.url.clone()),
        }
    }

    /// The name that it goes by.
    pub(super) fn name(&self) -> Option<&Arc<Name>> {
        match self {
            Self::Name(name) | Self::EachAddress(name, _) => Some(name),
            Self::Literal | Self::Service(..) => None,
        }
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

    pub(super) fn tls(&self) -> &ClientTls {
        &self.tls
    }

    pub(super) fn resolver(&self) -> &Arc<Resolver> {
        &self.resolver
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(super) fn make(
        &self,
        spot: Spot,
        standing: Arc<Standing>,
        settings: &UpstreamSettings,
    ) -> Arc<Origin> {
        let Self { upstream, tls, metrics, memory, .. } = self;
        Arc::new(Origin::new(upstream, spot, standing, settings, tls, metrics, memory))
    }

    pub(super) fn make_new(&self, spot: Spot, settings: &UpstreamSettings) -> Arc<Origin> {
        self.make(spot, Arc::default(), settings)
    }

    /// A name that is counted as `counted_as`.
    pub(super) fn name(&self, host: &str, counted_as: &str) -> Arc<Name> {
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
            (Source::of(name, origin, settings), place)
        };
        let made_at = self.make_new(Spot::of(url, place), settings);
        (made, Member::new(made_at, source, origin.weight))
    }

    /// An origin of the settings whose name something is known of already, and the
    /// members that it begins with.
    pub(super) fn source_by(
        &self,
        name: Arc<Name>,
        source: usize,
        origin: &OriginSettings,
        settings: &UpstreamSettings,
    ) -> (Source, Vec<Member>) {
        let known = name.known().filter(|_| settings.each_address);
        let origins = match known {
            Some(known) => {
                known.iter().map(|address| self.endpoint(origin, address, settings)).collect()
            }
            None => {
                let place = Place::Name(name.clone());
                vec![self.make_new(Spot::of(&origin.url, place), settings)]
            }
        };
        let member = |made| Member::new(made, source, origin.weight);
        (Source::of(name, origin, settings), origins.into_iter().map(member).collect())
    }

    /// An address of a name as an origin.
    pub(super) fn endpoint(
        &self,
        origin: &OriginSettings,
        address: &Arc<Address>,
        settings: &UpstreamSettings,
    ) -> Arc<Origin> {
        let mut spot = Spot::of(&origin.url, Place::Address(address.clone()));
        spot.name = format!("{}/{}", spot.name, address.ip());
        self.make_new(spot, settings)
    }
}

/// The origins to ask, with their weights: of each origin of the settings those
/// that are `fit`, and of them those of the lowest priority only. `members` are in
/// order.
pub(super) fn best(members: &[Member], fit: impl Fn(&Standing) -> bool) -> Vec<(Arc<Origin>, u32)> {
    let mut best = Vec::new();
    for source in members.chunk_by(|a, b| a.source == b.source) {
        let mut priorities = source.chunk_by(|a, b| a.priority == b.priority);
        let fit = |member: &&Member| fit(member.origin.standing());
        if let Some(first) = priorities.find(|group| group.iter().any(|m| fit(&m))) {
            best.extend(first.iter().filter(fit).map(|member| {
                (member.origin.clone(), member.origin.standing().weight(member.weight))
            }));
        }
    }
    best
}
