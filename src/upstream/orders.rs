//! What an operator may see of an upstream, and change while it runs.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Upstream;
use super::sources::Member;

/// How an upstream is.
#[derive(Clone, Debug, Serialize)]
pub struct UpstreamStatus {
    /// Its name.
    pub name: String,
    /// Its origins, in the order of the configuration.
    pub origins: Vec<OriginStatus>,
}

/// How an origin is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OriginStatus {
    /// Its name in logs and metrics.
    pub name: String,
    /// Where it is.
    pub url: String,
    /// Its share of the requests, relative to the others'.
    pub weight: u32,
    /// What the configuration says that to be, or the record of a service.
    pub configured_weight: u32,
    /// Whether it is asked by nobody, because somebody said so.
    pub drained: bool,
    /// Whether it is fit to be asked: neither condemned by probes nor set aside.
    pub healthy: bool,
    /// Whether probes say that it is down.
    pub condemned: bool,
    /// Why they do, or did the last time.
    pub reason: Option<String>,
    /// For how many milliseconds it is still set aside, because requests failed to
    /// reach it.
    pub set_aside_for_ms: Option<u64>,
    /// Connections to it that are open, idle ones and tunnels included; not those
    /// of probes.
    pub open_connections: usize,
}

/// What is to be changed of an origin. What is not said stays.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct OriginChange {
    /// Its share of the requests, in the place of the configured one. 1 to 1,000.
    /// It holds until it is reset, or a renewal or a service's record changes the
    /// configured one.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "weight")]
    pub weight: Option<u32>,
    /// Whether it gets its configured share again. A `weight` beside it counts.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub reset_weight: bool,
    /// Whether it is asked by no new exchange, not even if there is no other.
    /// It holds until it is taken back, or the origin leaves. What is under way,
    /// tunnels included, goes on; idle connections are closed. Probes go on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drained: Option<bool>,
}

/// An upstream has no such origin.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("upstream `{upstream}` has no origin `{origin}`; it has {}", known.join(", "))]
pub struct NoSuchOrigin {
    /// The upstream.
    pub upstream: String,
    /// What was asked for.
    pub origin: String,
    /// The names of those it has.
    pub known: Vec<String>,
}

/// Orders by the names of origins that name servers may still tell of.
#[derive(Debug, Default)]
pub(super) struct Orders(Mutex<BTreeMap<String, OriginChange>>);

impl Upstream {
    /// How it is now.
    #[must_use]
    pub fn status(&self) -> UpstreamStatus {
        let now = Instant::now();
        let members = self.members.load();
        let origins = members.iter().map(|member| OriginStatus::of(member, now)).collect();
        UpstreamStatus { name: self.name.to_string(), origins }
    }

    /// Changes an origin, which goes by its name or its URL; where several do, all
    /// of them, and the status is that of the first. The change is in force when
    /// this returns. It outlives a renewal, and is lost with the process unless
    /// its [`overrides`](Self::overrides) are handed on.
    ///
    /// # Errors
    ///
    /// There is no such origin.
    pub fn set_origin(
        &self,
        origin: &str,
        change: &OriginChange,
    ) -> Result<OriginStatus, NoSuchOrigin> {
        let in_force = self.successor();
        let upstream = in_force.as_deref().unwrap_or(self);
        let members = upstream.members.load_full();
        let is_it = |member: &&Member| {
            member.origin.name() == origin || member.origin.url().to_string() == origin
        };
        let these: Vec<&Member> = members.iter().filter(is_it).collect();
        let Some(first) = these.first() else {
            let known = members.iter().map(|member| member.origin.name().to_owned()).collect();
            let (upstream, origin) = (self.name.to_string(), origin.to_owned());
            return Err(NoSuchOrigin { upstream, origin, known });
        };
        for member in &these {
            upstream.order(member, change);
        }
        upstream.spread();
        // Not before: a request would take what is closed here for a failure.
        for member in these.iter().filter(|member| member.origin.standing().is_drained()) {
            member.origin.pool().clear();
        }
        Ok(OriginStatus::of(first, Instant::now()))
    }

    /// What was changed of its origins, by their names, for another process to
    /// [take over](Self::take_over).
    #[must_use]
    pub fn overrides(&self) -> Vec<(String, OriginChange)> {
        let mut overrides = self.orders.0.lock().clone();
        for Member { origin, weight, .. } in self.members.load().iter() {
            let standing = origin.standing();
            let weight = standing.weight_ordered(*weight);
            let drained = standing.is_drained().then_some(true);
            if weight.is_some() || drained.is_some() {
                let change = OriginChange { weight, reset_weight: false, drained };
                overrides.insert(origin.name().to_owned(), change);
            }
        }
        overrides.into_iter().collect()
    }

    /// The origins that probes say are down, and why.
    #[must_use]
    pub fn condemned(&self) -> Vec<(String, String)> {
        let members = self.members.load();
        let down = members.iter().filter(|member| member.origin.is_condemned()).map(|member| {
            let reason = member.origin.standing().reason();
            (member.origin.name().to_owned(), reason.as_deref().unwrap_or_default().to_owned())
        });
        down.collect()
    }

    /// Takes the word of another process's probes that these are down, until its own
    /// say otherwise. Without a health check nobody ever would, and they are asked.
    pub fn take_for_down(&self, condemned: impl IntoIterator<Item = (String, String)>) {
        if self.settings.health.is_none() {
            return;
        }
        let members = self.members.load_full();
        for (name, reason) in condemned {
            let mut named = members.iter().filter(|member| member.origin.name() == name);
            named.by_ref().for_each(|member| member.origin.standing().condemn(&reason));
        }
        self.publish();
    }

    /// Makes these changes, which another process had been told of. Those to
    /// origins that are not there are made if name servers tell of them.
    pub fn take_over(&self, overrides: impl IntoIterator<Item = (String, OriginChange)>) {
        let changes = self.sources.iter().any(super::Source::has_changing_origins);
        for (origin, change) in overrides {
            if self.set_origin(&origin, &change).is_err() && changes {
                self.orders.0.lock().insert(origin, change);
            }
        }
    }

    /// Carries out what was ordered of origins before they were there.
    pub(super) fn order_those(&self, new: &[Member]) {
        let mut orders = self.orders.0.lock();
        if orders.is_empty() {
            return;
        }
        for member in new {
            if let Some(change) = orders.remove(member.origin.name()) {
                self.order(member, &change);
            }
        }
    }

    fn order(&self, member: &Member, change: &OriginChange) {
        let (standing, configured) = (member.origin.standing(), member.weight);
        if change.weight.is_some() || change.reset_weight {
            standing.order_weight(change.weight.map(|weight| weight.clamp(1, 1_000)), configured);
        }
        if let Some(drained) = change.drained {
            standing.order_drained(drained);
        }
        let (weight, drained) = (standing.weight(configured), standing.is_drained());
        let (upstream, origin) = (&*self.name, member.origin.name());
        tracing::info!(
            upstream,
            origin,
            weight,
            configured,
            drained,
            "an origin was changed by hand"
        );
    }
}

impl Orders {
    /// Has those of `other` as well.
    pub(super) fn take_from(&self, other: &Self) {
        self.0.lock().append(&mut other.0.lock());
    }
}

impl OriginStatus {
    fn of(member: &Member, now: Instant) -> Self {
        let (origin, configured_weight) = (&member.origin, member.weight);
        let standing = origin.standing();
        let left = standing.set_aside_until(now).map(|until| until.saturating_duration_since(now));
        Self {
            name: origin.name().to_owned(),
            url: origin.url().to_string(),
            weight: standing.weight(configured_weight),
            configured_weight,
            drained: standing.is_drained(),
            healthy: standing.is_fit(now),
            condemned: standing.is_condemned(),
            reason: standing.reason().map(|reason| reason.to_string()),
            set_aside_for_ms: left.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
            open_connections: standing.open().load(std::sync::atomic::Ordering::Relaxed),
        }
    }
}

/// A weight that is one.
fn weight<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    let weight: Option<u32> = Option::deserialize(from)?;
    match weight {
        Some(weight) if !(1..=1_000).contains(&weight) => {
            Err(serde::de::Error::custom(format!("a weight is 1 to 1000, not {weight}")))
        }
        _ => Ok(weight),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Budget;
    use crate::observe::Metrics;
    use crate::upstream::{HealthCheck, OriginSettings, Probe, UpstreamSettings, Verdict};

    #[test]
    fn a_change_says_what_it_changes_and_nothing_else() {
        let read = |text: &str| serde_json::from_str::<OriginChange>(text);
        let change = read(r#"{"weight": 5, "drained": false}"#).unwrap();
        let expected = OriginChange { weight: Some(5), reset_weight: false, drained: Some(false) };
        assert_eq!(change, expected);
        let written = serde_json::to_string(&change).unwrap();
        assert_eq!(written, r#"{"weight":5,"drained":false}"#);
        assert_eq!(read("{}").unwrap(), OriginChange::default());
        for wrong in [r#"{"wieght": 5}"#, r#"{"weight": 0}"#, r#"{"weight": 1001}"#] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn who_asks_for_another_origin_is_told_which_there_are() {
        let origins = ["http://127.0.0.1:1", "http://127.0.0.1:1", "http://127.0.0.1:2"];
        let origins = origins.map(|url| OriginSettings::new(url.parse().unwrap()));
        let settings = UpstreamSettings::new("api", origins.into());
        let upstream = Upstream::new(settings, Metrics::default(), Budget::unlimited()).unwrap();
        let weigh = OriginChange { weight: Some(7), ..OriginChange::default() };
        let unknown = upstream.set_origin("127.0.0.1:3", &weigh).unwrap_err().to_string();
        let expected = "upstream `api` has no origin `127.0.0.1:3`; \
                        it has 127.0.0.1:1, 127.0.0.1:1, 127.0.0.1:2";
        assert_eq!(unknown, expected);
        upstream.set_origin("127.0.0.1:1", &weigh).unwrap();
        assert_eq!(upstream.rotation().weights, [7, 7, 1]);
        let reset = OriginChange { reset_weight: true, ..OriginChange::default() };
        let status = upstream.set_origin("http://127.0.0.1:1", &reset).unwrap();
        assert_eq!((status.weight, status.configured_weight), (1, 1));
        assert!(upstream.overrides().is_empty());
    }

    #[test]
    fn another_process_is_believed_about_what_is_down_where_probes_can_say_otherwise() {
        let settings = |probed: bool| {
            let origins = ["http://127.0.0.1:1", "http://127.0.0.1:2"];
            let origins = origins.map(|url| OriginSettings::new(url.parse().unwrap()));
            let mut settings = UpstreamSettings::new("api", origins.into());
            settings.health = probed.then(|| HealthCheck::new(Probe::Tcp));
            settings
        };
        let fresh = |probed| {
            Upstream::new(settings(probed), Metrics::default(), Budget::unlimited()).unwrap()
        };
        let asked = |upstream: &Upstream| {
            let rotation = upstream.rotation();
            rotation.origins.iter().map(|origin| origin.url().port).collect::<Vec<_>>()
        };
        let (before, after) = (fresh(true), fresh(true));
        before.report(&before.origins()[0], Verdict::ProbeFailed("it is broken".into()));
        after.take_for_down(before.condemned());
        assert_eq!(asked(&after), [2]);
        assert_eq!(after.status().origins[0].reason.as_deref(), Some("it is broken"));
        // Its own probes bring the origin back as they would any other.
        for _ in 0..2 {
            after.report(&after.origins()[0], Verdict::ProbeOk);
        }
        assert_eq!(asked(&after), [1, 2]);

        let unprobed = fresh(false);
        unprobed.take_for_down(before.condemned());
        assert_eq!(asked(&unprobed), [1, 2]);
    }
}
