//! An upstream in the place of another: what has kept its identity is shared.
//!
//! An origin of the new settings is that of the old ones if it has the same URL
//! and its addresses are found in the same way. If all that its connections
//! depend on is the same too (see [`Basis`]) it is the very same object, with its
//! connections and names. Otherwise it is set up anew, and its standing is shared:
//! health, orders, and the count of open connections.
//!
//! Nothing of the old upstream is changed until the new one has succeeded it. Both
//! are of one line then, and what is learnt of an origin is published in all of
//! the line that requests still have a hold of.

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::basis::Basis;
use super::memory::Memory;
use super::sources::{Maker, Member, Source};
use super::tls::ClientTls;
use super::{ClientTlsError, Origin, OriginSettings, Resolver, Upstream, UpstreamSettings};
use crate::budget::Budget;
use crate::observe::Metrics;

/// Where an upstream stands among those that it succeeds, or is succeeded by.
#[derive(Debug)]
pub(super) struct Life {
    this: Weak<Upstream>,
    line: Arc<Line>,
    /// Which upstream it was renewed from, if from any.
    before: Option<Weak<Upstream>>,
    /// Of each of its sources, which one of that upstream it goes on with.
    from: Vec<Option<usize>>,
    /// How many connections to shared origins were made ahead.
    pub(super) warmed: usize,
    /// Whether probes are what they were, so that the next is due when it was.
    pub(super) same_probes: bool,
    /// Whether it is in force, or was.
    pub(super) begun: CancellationToken,
    /// Whether another has succeeded it, or it was given up.
    succeeded: AtomicBool,
    /// The same, for those that wait for it.
    pub(super) over: CancellationToken,
}

/// Those that share origins, and have been in force. The last one is.
#[derive(Debug, Default)]
struct Line(Mutex<Vec<Weak<Upstream>>>);

impl Life {
    /// That of an upstream which comes after none.
    pub(super) fn first(this: &Weak<Upstream>) -> Self {
        let begun = CancellationToken::new();
        begun.cancel();
        Self {
            this: this.clone(),
            line: Arc::new(Line(Mutex::new(vec![this.clone()]))),
            before: None,
            from: Vec::new(),
            warmed: 0,
            same_probes: false,
            begun,
            succeeded: AtomicBool::new(false),
            over: CancellationToken::new(),
        }
    }

    fn after(
        old: &Arc<Upstream>,
        this: &Weak<Upstream>,
        settings: &UpstreamSettings,
        from: Vec<Option<usize>>,
    ) -> Self {
        Self {
            line: old.life.line.clone(),
            before: Some(Arc::downgrade(old)),
            from,
            warmed: old.settings.warm,
            same_probes: old.settings.health == settings.health,
            begun: CancellationToken::new(),
            ..Self::first(this)
        }
    }

    /// Those of the line that are still there, in their order.
    pub(super) fn line(&self) -> Vec<Arc<Upstream>> {
        self.line.0.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// Whether another is in force in its place, or none.
    pub(super) fn is_over(&self) -> bool {
        self.succeeded.load(Ordering::Acquire)
    }
}

impl Upstream {
    /// Sets up an upstream in the place of `old`. An origin with the same URL, whose
    /// addresses are found in the same way, stays the very same, with connections,
    /// names, health and orders, if nothing changes that its connections depend on;
    /// else it is set up anew, with the health, the orders and the count of open
    /// connections of before. Nothing of `old` changes, and nothing is told by
    /// metrics; to throw the new one away leaves no trace. Swap it in, then call
    /// [`succeed`](Self::succeed). To go back, renew once more: one that was
    /// succeeded does not come back. Under another name nothing is shared.
    ///
    /// # Errors
    ///
    /// The certificates to trust cannot be read.
    pub fn renewed(
        old: &Arc<Self>,
        settings: UpstreamSettings,
        resolver: Arc<Resolver>,
        metrics: Metrics,
        budget: Budget,
    ) -> Result<Arc<Self>, ClientTlsError> {
        if *settings.name != *old.name {
            return Self::with_resolver(settings, resolver, metrics, budget);
        }
        let (tls, memory) = (ClientTls::new(&settings)?, Memory::new(budget));
        let maker = Maker::new(&settings, tls, resolver, metrics, memory);
        let from = old.continued_by(&settings);
        let mut names = old.names_left_by(&from);
        let before = old.members.load();
        let (mut sources, mut members) = (Vec::new(), Vec::new());
        for (index, origin) in settings.origins.iter().enumerate() {
            if let Some(from) = from[index] {
                sources.push(old.sources[from].continued(origin));
                members.extend(heirs(&maker, &settings, index, origin, from, &before, &[]));
                continue;
            }
            let host = &origin.url.host;
            let name = names.iter().position(|name| name.host() == host);
            let (source, found) = match name.map(|at| names.swap_remove(at)) {
                Some(name) => maker.source_by(name, index, origin, &settings),
                None => {
                    let (source, member) = maker.source(index, origin, &settings);
                    (source, vec![member])
                }
            };
            sources.push(source);
            members.extend(found);
        }
        drop(before);
        let life =
            |this: &Weak<Self>, settings: &UpstreamSettings| Life::after(old, this, settings, from);
        Ok(Self::assemble(settings, maker, sources, members, life))
    }

    /// Whether it was renewed from another.
    #[must_use]
    pub fn is_renewed(&self) -> bool {
        self.life.before.is_some()
    }

    /// Takes the place of `old`, which this one was renewed from and which no new
    /// request is given to any more: publishes its rotation, has the work of
    /// `old` end and its own begin, and retires the origins that are not its own.
    /// What is under way on those ends as it would have; their idle connections
    /// are closed, and what was counted of them is forgotten.
    pub fn succeed(&self, old: &Self) {
        let mine = self.publishing.lock();
        let theirs = old.publishing.lock();
        let before = old.members.load_full();
        if self.life.before.as_ref().is_some_and(|known| known.ptr_eq(&old.life.this)) {
            self.catch_up(&before);
        }
        old.life.succeeded.store(true, Ordering::Release);
        {
            let mut line = self.life.line.0.lock();
            line.retain(|upstream| upstream.strong_count() > 0);
            line.push(self.life.this.clone());
        }
        for member in self.members.load().iter() {
            self.settle(member);
        }
        for source in &self.sources {
            source.resolve_by(self.maker.resolver());
        }
        self.orders.take_from(&old.orders);
        self.publish_in(&mine);
        drop((theirs, mine));
        old.life.over.cancel();
        self.life.begun.cancel();
        old.let_go(&before, Some(self));
        self.changes.send_modify(|changes| *changes = changes.wrapping_add(1));
    }

    /// There is no such upstream any more: its origins are retired, its work ends,
    /// and what was counted of it is forgotten.
    pub fn leave(&self) {
        let one_at_a_time = self.publishing.lock();
        self.life.succeeded.store(true, Ordering::Release);
        let before = self.members.load_full();
        drop(one_at_a_time);
        self.life.over.cancel();
        self.let_go(&before, None);
    }

    /// The one that is in force in its place, if another is.
    pub(super) fn successor(&self) -> Option<Arc<Self>> {
        if !self.life.is_over() {
            return None;
        }
        let last = self.life.line.0.lock().last()?.upgrade()?;
        (!std::ptr::eq(&raw const *last, self)).then_some(last)
    }

    /// Of each origin of `settings`, which of the sources it goes on with.
    fn continued_by(&self, settings: &UpstreamSettings) -> Vec<Option<usize>> {
        let mut free: Vec<bool> = vec![true; self.sources.len()];
        let mut continued = |origin: &OriginSettings| {
            let known = self.settings.origins.iter().zip(&self.sources).enumerate();
            let mut same = known.filter(|(_, (old, source))| {
                old.url == origin.url && source.is_kept_by(settings.each_address)
            });
            let (index, _) = same.find(|(index, _)| free[*index])?;
            free[index] = false;
            Some(index)
        };
        settings.origins.iter().map(&mut continued).collect()
    }

    /// The names of origins that none goes on with: another may have the same.
    fn names_left_by(&self, from: &[Option<usize>]) -> Vec<Arc<super::dns::Name>> {
        let left = |(index, source): (usize, &Source)| {
            if from.contains(&Some(index)) { None } else { source.name().cloned() }
        };
        self.sources.iter().enumerate().filter_map(left).collect()
    }

    /// Takes over what answers of name servers have changed since it was set up.
    fn catch_up(&self, before: &[Member]) {
        let made = self.members.load_full();
        let mut members = Vec::new();
        for (index, origin) in self.settings.origins.iter().enumerate() {
            match self.life.from[index] {
                Some(from) => {
                    let (maker, settings) = (&self.maker, &self.settings);
                    members.extend(heirs(maker, settings, index, origin, from, before, &made));
                }
                None => {
                    members.extend(made.iter().filter(|member| member.source == index).cloned());
                }
            }
        }
        self.members.store(Arc::new(members));
    }

    /// Has what was known and ordered of an origin go by the settings in force.
    pub(super) fn settle(&self, member: &Member) {
        let (standing, configured) = (member.origin.standing(), member.weight);
        if self.settings.health.is_none() {
            standing.is_not_probed();
        }
        if let Some(weight) = standing.forget_other_weight(configured) {
            let (upstream, origin) = (&*self.name, member.origin.name());
            let message = "the configured weight has changed and takes the place of the one set";
            tracing::info!(upstream, origin, weight, configured, "{message}");
        }
    }

    /// Retires what was this upstream's and is not `new`'s.
    fn let_go(&self, before: &[Member], new: Option<&Self>) {
        let after = new.map(|new| new.members.load_full()).unwrap_or_default();
        for Member { origin, .. } in before {
            self.let_go_of(origin, &after);
        }
        let names = |members: &[Member], sources: &[Source]| {
            let found_by = members.iter().filter_map(|member| member.origin.found_by());
            let names: Vec<_> =
                sources.iter().filter_map(Source::name).chain(found_by).cloned().collect();
            names
        };
        let sources = new.map_or(&[][..], |new| &new.sources);
        let kept = names(&after, sources);
        for name in names(before, &self.sources) {
            if !kept.iter().any(|kept| Arc::ptr_eq(kept, &name)) {
                name.retire();
            }
        }
        let hosts = |settings: &UpstreamSettings| -> HashSet<String> {
            settings.origins.iter().map(|origin| origin.url.host.clone()).collect()
        };
        let kept = new.map(|new| hosts(&new.settings)).unwrap_or_default();
        for host in hosts(&self.settings).difference(&kept) {
            self.metrics.name_left(&self.name, host);
        }
    }

    /// Retires `origin`, unless it is one of `after`; what was counted of it is
    /// forgotten unless one there has its name.
    pub(super) fn let_go_of(&self, origin: &Arc<Origin>, after: &[Member]) {
        if after.iter().any(|member| Arc::ptr_eq(&member.origin, origin)) {
            return;
        }
        origin.retire();
        if !after.iter().any(|member| member.origin.name() == origin.name()) {
            self.metrics.origin_left(&self.name, origin.shared_name());
        }
    }
}

/// What a source has for members that goes on with `from`. An origin that cannot
/// be shared is set up anew, or was and is among `made`.
fn heirs(
    maker: &Maker,
    settings: &UpstreamSettings,
    source: usize,
    origin: &OriginSettings,
    from: usize,
    before: &[Member],
    made: &[Member],
) -> Vec<Member> {
    let heir = |old: &Member| {
        let target = origin.url.service && old.origin.found_by().is_some();
        let weight = if target { old.weight } else { origin.weight };
        let basis = Basis::of(old.origin.url(), settings, maker.tls());
        let shared = *old.origin.basis() == basis;
        let origin = if shared {
            old.origin.clone()
        } else {
            let standing = old.origin.standing();
            let is_it = |member: &&Member| Arc::ptr_eq(member.origin.standing(), standing);
            let made = made.iter().find(is_it).map(|member| member.origin.clone());
            made.unwrap_or_else(|| maker.make(old.origin.spot(), standing.clone(), settings))
        };
        Member { origin, source, priority: old.priority, weight, shared }
    };
    before.iter().filter(|member| member.source == from).map(heir).collect()
}
