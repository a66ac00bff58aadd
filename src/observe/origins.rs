//! What is told of origins, and of the names by which they are found.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::metrics::{Label, Metrics};

/// What is counted of each origin and name, until it leaves.
#[derive(Default)]
pub(super) struct Origins {
    connects: Family<OriginResult, Counter>,
    probes: Family<OriginResult, Counter>,
    healthy: Family<Origin, Gauge>,
    drained: Family<Origin, Gauge>,
    resolutions: Family<NameResult, Counter>,
    addresses: Family<Name, Gauge>,
    /// All that ever came of a question: a few words.
    results: Mutex<BTreeSet<&'static str>>,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Origin {
    upstream: Label,
    origin: Label,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct OriginResult {
    upstream: Label,
    origin: Label,
    result: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Name {
    upstream: Label,
    name: Label,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct NameResult {
    upstream: Label,
    name: Label,
    result: &'static str,
}

/// Counts what becomes of one name of an upstream's origins.
#[derive(Clone, Debug)]
pub struct NameCounts {
    metrics: Metrics,
    upstream: Arc<str>,
    name: Arc<str>,
}

impl NameCounts {
    /// It was asked for: `ok`, or why there was no answer.
    pub fn resolved(&self, result: &'static str) {
        let labels = name_result(&self.upstream, &self.name, result);
        let origins = &self.metrics.0.origins;
        origins.results.lock().insert(result);
        origins.resolutions.get_or_create(&labels).inc();
    }

    /// It has so many addresses now, or as a service so many targets.
    pub fn addresses(&self, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let labels = name(&self.upstream, &self.name);
        self.metrics.0.origins.addresses.get_or_create(&labels).set(count);
    }
}

impl Origins {
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Connections made to origins, by result";
        registry.register("origin_connects", help, self.connects.clone());
        registry.register("probes", "Health probes, by result", self.probes.clone());
        let help = "Whether an origin is fit to be asked";
        registry.register("origin_healthy", help, self.healthy.clone());
        let help = "Whether an origin is asked by nobody because somebody said so";
        registry.register("origin_drained", help, self.drained.clone());
        let help = "Questions to name servers for the names of origins, by result";
        registry.register("dns_resolutions", help, self.resolutions.clone());
        let help = "Addresses that the name of an origin has; targets, of a service";
        registry.register("dns_addresses", help, self.addresses.clone());
    }
}

impl Metrics {
    /// A new connection to an origin was made (`ok`) or not.
    pub fn origin_connected(&self, upstream: &Arc<str>, name: &Arc<str>, ok: bool) {
        self.0.origins.connects.get_or_create(&origin_result(upstream, name, ok)).inc();
    }

    /// A probe of an origin ended.
    pub fn probe_finished(&self, upstream: &Arc<str>, name: &Arc<str>, ok: bool) {
        self.0.origins.probes.get_or_create(&origin_result(upstream, name, ok)).inc();
    }

    /// An origin is fit to be asked (`true`) or not.
    pub fn origin_healthy(&self, upstream: &Arc<str>, name: &Arc<str>, healthy: bool) {
        let labels = origin(upstream, name);
        self.0.origins.healthy.get_or_create(&labels).set(i64::from(healthy));
    }

    /// An origin was drained by hand, or not.
    pub fn origin_drained(&self, upstream: &Arc<str>, name: &Arc<str>, drained: bool) {
        let labels = origin(upstream, name);
        self.0.origins.drained.get_or_create(&labels).set(i64::from(drained));
    }

    /// An origin is not part of the upstream any more: what was counted of it is
    /// forgotten, for there is no end to how many may come and go.
    pub fn origin_left(&self, upstream: &Arc<str>, name: &Arc<str>) {
        let origins = &self.0.origins;
        for ok in [true, false] {
            let labels = origin_result(upstream, name, ok);
            origins.connects.remove(&labels);
            origins.probes.remove(&labels);
        }
        let labels = origin(upstream, name);
        origins.healthy.remove(&labels);
        origins.drained.remove(&labels);
    }

    /// What becomes of this name of an origin.
    #[must_use]
    pub fn name(&self, upstream: &Arc<str>, name: &str) -> NameCounts {
        NameCounts { metrics: self.clone(), upstream: upstream.clone(), name: name.into() }
    }

    /// No origin of the upstream is found by this name any more: what was counted
    /// of it is forgotten.
    pub fn name_left(&self, upstream: &Arc<str>, left: &str) {
        let (origins, left) = (&self.0.origins, left.into());
        for result in origins.results.lock().iter() {
            origins.resolutions.remove(&name_result(upstream, &left, result));
        }
        origins.addresses.remove(&name(upstream, &left));
    }
}

fn origin(upstream: &Arc<str>, name: &Arc<str>) -> Origin {
    Origin { upstream: Label(upstream.clone()), origin: Label(name.clone()) }
}

fn origin_result(upstream: &Arc<str>, name: &Arc<str>, ok: bool) -> OriginResult {
    let Origin { upstream, origin } = origin(upstream, name);
    OriginResult { upstream, origin, result: if ok { "ok" } else { "failed" } }
}

fn name(upstream: &Arc<str>, name: &Arc<str>) -> Name {
    Name { upstream: Label(upstream.clone()), name: Label(name.clone()) }
}

fn name_result(upstream: &Arc<str>, called: &Arc<str>, result: &'static str) -> NameResult {
    let Name { upstream, name } = name(upstream, called);
    NameResult { upstream, name, result }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(metrics: &Metrics) -> Vec<String> {
        let told = |line: &&str| line.contains("{upstream=");
        metrics.render().lines().filter(told).map(str::to_owned).collect()
    }

    #[test]
    fn what_is_told_of_an_origin_is_forgotten_when_it_leaves() {
        let (metrics, upstream) = (Metrics::default(), "api".into());
        let (first, second) = ("127.0.0.1:1".into(), "127.0.0.1:2".into());
        for origin in [&first, &second] {
            metrics.origin_healthy(&upstream, origin, false);
            metrics.origin_drained(&upstream, origin, true);
            metrics.origin_connected(&upstream, origin, false);
            metrics.probe_finished(&upstream, origin, true);
        }
        metrics.origin_left(&upstream, &first);
        let mut told = lines(&metrics);
        told.sort();
        let labels = "upstream=\"api\",origin=\"127.0.0.1:2\"";
        assert_eq!(
            told,
            [
                format!("tollgate_origin_connects_total{{{labels},result=\"failed\"}} 1"),
                format!("tollgate_origin_drained{{{labels}}} 1"),
                format!("tollgate_origin_healthy{{{labels}}} 0"),
                format!("tollgate_probes_total{{{labels},result=\"ok\"}} 1"),
            ]
        );
    }

    #[test]
    fn what_is_told_of_a_name_is_forgotten_when_it_leaves() {
        let (metrics, upstream) = (Metrics::default(), "api".into());
        let name = metrics.name(&upstream, "a.test");
        name.addresses(2);
        ["ok", "timeout"].into_iter().for_each(|result| name.resolved(result));
        assert_eq!(lines(&metrics).len(), 3);
        metrics.name_left(&upstream, "a.test");
        assert!(lines(&metrics).is_empty(), "{:?}", lines(&metrics));
    }
}
