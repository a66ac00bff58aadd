//! A service, and the targets that its SRV records give (RFC 2782).

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{MutexGuard, watch};

use super::name::Name;
use super::resolver::Resolver;
use super::{Fault, Schedule, pause_after};
use crate::error::{Error, Kind};
use crate::observe::NameCounts;

/// Where a service is offered.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(in crate::upstream) struct Target {
    /// The lowest is asked first.
    pub(in crate::upstream) priority: u16,
    /// Its name, in lower case.
    pub(in crate::upstream) host: String,
    pub(in crate::upstream) port: u16,
    /// Its share among those of its priority, 1 to 100.
    pub(in crate::upstream) weight: u32,
}

/// A service whose targets are asked for again and again.
#[derive(Debug)]
pub(in crate::upstream) struct Service {
    name: Box<str>,
    resolver: ArcSwap<Resolver>,
    counts: NameCounts,
    known: watch::Sender<Known>,
    schedule: tokio::sync::Mutex<Schedule>,
}

/// What is known of a service.
#[derive(Debug)]
enum Known {
    Nothing,
    /// It has targets, which are origins of their own; this is the first.
    Targets(Arc<Name>, u16),
    /// It has never resolved, the last time for this reason.
    Failure(Arc<str>),
}

impl Service {
    pub(in crate::upstream) fn new(
        name: &str,
        resolver: &Arc<Resolver>,
        counts: NameCounts,
    ) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            resolver: ArcSwap::new(resolver.clone()),
            counts,
            known: watch::Sender::new(Known::Nothing),
            schedule: tokio::sync::Mutex::default(),
        })
    }

    /// Waits for the first answer; gives the first target's name and port.
    pub(in crate::upstream) async fn first_target(&self) -> Result<(Arc<Name>, u16), Error> {
        let mut known = self.known.subscribe();
        let known = known.wait_for(|known| !matches!(known, Known::Nothing)).await;
        let reason = match known.as_deref() {
            Ok(Known::Targets(name, port)) => return Ok((name.clone(), *port)),
            Ok(Known::Failure(reason)) => reason,
            Ok(Known::Nothing) | Err(_) => "nothing is known of it",
        };
        let detail = format!("`{}` did not resolve: {reason}", self.name);
        Err(Error::new(Kind::DnsFailed).detail(detail))
    }

    /// Whether the first answer is still to come.
    pub(in crate::upstream) fn is_unknown(&self) -> bool {
        matches!(*self.known.borrow(), Known::Nothing)
    }

    /// Has it resolved by `resolver` from now on, if that goes about it in another
    /// way.
    pub(in crate::upstream) fn resolve_by(&self, resolver: &Arc<Resolver>) {
        if self.resolver.load().settings() != resolver.settings() {
            self.resolver.store(resolver.clone());
        }
    }

    /// The right to ask, which one has at a time.
    pub(in crate::upstream) async fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().await
    }

    /// Asks once it is time to; gives the targets, if there was an answer, and
    /// how long to wait until the next time after whom.
    pub(in crate::upstream) async fn ask(
        &self,
        schedule: &mut Schedule,
    ) -> (Option<Vec<Target>>, Duration, Arc<Resolver>) {
        let resolver = self.resolver.load_full();
        schedule.due(&resolver).await;
        match resolver.targets(&self.name).await {
            Ok(answer) => {
                self.counts.resolved("ok");
                if std::mem::take(&mut schedule.failures) > 0 {
                    tracing::info!(service = &*self.name, "the service resolves again");
                }
                (Some(answer.found), answer.ttl, resolver)
            }
            Err(fault) => {
                self.counts.resolved(fault.reason);
                schedule.failures += 1;
                (None, self.failed(&fault, schedule.failures), resolver)
            }
        }
    }

    /// So many targets are origins now; this is the name of the first, and its port.
    pub(in crate::upstream) fn has_targets(&self, count: usize, first: Arc<Name>, port: u16) {
        self.counts.addresses(count);
        self.known.send_replace(Known::Targets(first, port));
    }

    fn failed(&self, fault: &Fault, failures: u32) -> Duration {
        let retry_in = pause_after(failures, self.resolver.load().settings().negative_ttl);
        let (service, reason) = (&*self.name, &*fault.detail);
        let mut never = false;
        self.known.send_modify(|known| {
            never = !matches!(known, Known::Targets(..));
            if never {
                *known = Known::Failure(reason.into());
            }
        });
        match (failures, never) {
            (1, true) => tracing::error!(service, reason, "the service does not resolve"),
            (1, false) => {
                let message = "the service does not resolve; its last targets stay";
                tracing::warn!(service, reason, "{message}");
            }
            _ => tracing::debug!(service, reason, ?retry_in, "the service still does not resolve"),
        }
        retry_in
    }
}
