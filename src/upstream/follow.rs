//! Keeps an upstream's origins those that its names and services stand for.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use super::connect::Place;
use super::dns::{Address, Service, Target};
use super::origin::Spot;
use super::sources::{Member, Source};
use super::{OriginSettings, OriginUrl, Upstream};

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
            if let Some(known) = old.iter().filter(|member| member.source == source).find(is_it) {
                return known.clone();
            }
            let made = self.maker.endpoint(origin, address, &self.settings);
            Member::new(made, source, origin.weight)
        };
        let _in_force = self.replace(source, addresses.iter().map(endpoint).collect());
    }

    async fn follow_service(&self, source: usize, service: &Service, url: &OriginUrl) {
        let mut schedule = service.schedule().await;
        let mut targets = self.targets(source);
        let mut names: FuturesUnordered<_> = targets.values().map(keep_resolved).collect();
        loop {
            let asked = beside(&mut names, service.ask(&mut schedule)).await;
            let (answer, pause, resolver) = asked;
            if let Some(answer) = answer {
                let mut members = Vec::new();
                let mut now = HashMap::new();
                let mut first = None;
                for target in answer {
                    let key = (target.host.clone(), target.port);
                    let member = targets.remove(&key).unwrap_or_else(|| {
                        let member = self.target(source, url, &target);
                        names.push(keep_resolved(&member));
                        member
                    });
                    let (priority, weight) = (target.priority, target.weight);
                    let member = Member { priority, weight, ..member };
                    first.get_or_insert_with(|| (member.clone(), target.port));
                    members.push(member.clone());
                    now.insert(key, member);
                }
                let left = std::mem::replace(&mut targets, now);
                if !self.replace(source, members) {
                    // Whoever is in force now asks once more.
                    return;
                }
                for member in left.into_values() {
                    member.origin.found_by().inspect(|name| name.retire());
                }
                if let Some((first, port)) = first
                    && let Some(name) = first.origin.found_by()
                {
                    service.has_targets(targets.len(), name.clone(), port);
                }
            }
            schedule.pause(pause, resolver);
        }
    }

    /// The targets of a service that are origins already.
    fn targets(&self, source: usize) -> HashMap<(String, u16), Member> {
        let members = self.members.load();
        let target = |member: &Member| {
            let name = member.origin.found_by()?;
            Some(((name.host().to_owned(), member.origin.url().port), member.clone()))
        };
        members.iter().filter(|member| member.source == source).filter_map(target).collect()
    }

    /// A target of a service as an origin.
    fn target(&self, source: usize, url: &OriginUrl, target: &Target) -> Member {
        // Counted with the service: there is no end to how many targets may come
        // and go.
        let name = self.maker.name(&target.host, &url.host);
        let host = target.host.trim_end_matches('.').to_owned();
        let dialled = OriginUrl { host, port: target.port, service: false, ..url.clone() };
        let mut spot = Spot::of(&dialled, Place::Name(name));
        spot.asked_as = url.clone();
        Member::new(self.maker.make_new(spot, &self.settings), source, target.weight)
    }

    /// Puts these in the place of the origins that came from `source`; `false` if
    /// it is not for this upstream to say any more which there are.
    #[must_use]
    fn replace(&self, source: usize, new: Vec<Member>) -> bool {
        let one_at_a_time = self.publishing.lock();
        if self.life.is_over() {
            return false;
        }
        let old = self.members.load_full();
        let (theirs, others): (Vec<_>, Vec<_>) =
            old.iter().cloned().partition(|member| member.source == source);
        if theirs.len() == new.len() && theirs.iter().zip(&new).all(|(old, new)| old.is(new)) {
            return true;
        }
        self.order_those(&new);
        new.iter().for_each(|member| self.settle(member));
        let mut members = others;
        members.extend(new);
        members.sort_by_key(|member| (member.source, member.priority));
        self.members.store(Arc::new(members));
        self.publish_in(&one_at_a_time);
        drop(one_at_a_time);
        let members = self.members.load();
        for Member { origin, .. } in theirs {
            self.let_go_of(&origin, &members);
        }
        self.changes.send_modify(|changes| *changes = changes.wrapping_add(1));
        true
    }
}

/// Keeps a target's name resolved until it is retired.
fn keep_resolved(target: &Member) -> impl Future<Output = ()> + use<> {
    let origin = target.origin.clone();
    async move {
        if let Some(name) = origin.found_by() {
            name.follow(|_| origin.pool().sweep(Instant::now())).await;
        }
    }
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
