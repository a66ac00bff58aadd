//! A name, and the addresses that it has now.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::address::{Address, in_turn};
use super::records::Addresses;
use super::resolver::Resolver;
use super::{Fault, Schedule, pause_after};
use crate::error::{Error, Kind};
use crate::observe::NameCounts;

/// A name that is kept resolved for as long as it is followed.
#[derive(Debug)]
pub(in crate::upstream) struct Name {
    host: Box<str>,
    resolver: ArcSwap<Resolver>,
    counts: NameCounts,
    known: watch::Sender<Known>,
    schedule: tokio::sync::Mutex<Schedule>,
    /// Whose turn it is to be tried first.
    turn: AtomicUsize,
    retired: CancellationToken,
}

/// What is known of a name.
#[derive(Clone, Debug)]
enum Known {
    /// No answer has come yet.
    Nothing,
    /// These addresses, at least one.
    Addresses(Arc<[Arc<Address>]>),
    /// It has never resolved, the last time for this reason.
    Failure(Arc<str>),
}

impl Name {
    pub(in crate::upstream) fn new(
        host: &str,
        resolver: &Arc<Resolver>,
        counts: NameCounts,
    ) -> Arc<Self> {
        Arc::new(Self {
            host: host.into(),
            resolver: ArcSwap::new(resolver.clone()),
            counts,
            known: watch::Sender::new(Known::Nothing),
            schedule: tokio::sync::Mutex::default(),
            turn: AtomicUsize::new(RandomState::new().hash_one(host) as usize),
            retired: CancellationToken::new(),
        })
    }

    /// The addresses in the order in which a new connection tries them. Waits
    /// for the first answer, and for no other.
    pub(in crate::upstream) async fn addresses(&self) -> Result<Vec<Arc<Address>>, Error> {
        let mut known = self.known.subscribe();
        let known = known.wait_for(|known| !matches!(known, Known::Nothing)).await;
        let failed = |reason: &str| {
            Error::new(Kind::DnsFailed).detail(format!("`{}` did not resolve: {reason}", self.host))
        };
        match known.as_deref() {
            Ok(Known::Addresses(addresses)) => {
                let turn = self.turn.fetch_add(1, Ordering::Relaxed);
                let family = self.resolver.load().settings().family;
                Ok(in_turn(addresses, turn, family, Instant::now()))
            }
            Ok(Known::Failure(reason)) => Err(failed(reason)),
            Ok(Known::Nothing) | Err(_) => Err(failed("nothing is known of it")),
        }
    }

    pub(in crate::upstream) fn host(&self) -> &str {
        &self.host
    }

    /// The addresses that are known of it.
    pub(in crate::upstream) fn known(&self) -> Option<Arc<[Arc<Address>]>> {
        match &*self.known.borrow() {
            Known::Addresses(addresses) => Some(addresses.clone()),
            Known::Nothing | Known::Failure(_) => None,
        }
    }

    /// Has it resolved by `resolver` from now on, if that goes about it in another
    /// way.
    pub(in crate::upstream) fn resolve_by(&self, resolver: &Arc<Resolver>) {
        if self.resolver.load().settings() != resolver.settings() {
            self.resolver.store(resolver.clone());
        }
    }

    pub(in crate::upstream) fn counts(&self) -> &NameCounts {
        &self.counts
    }

    /// Whether the first answer is still to come.
    pub(in crate::upstream) fn is_unknown(&self) -> bool {
        matches!(*self.known.borrow(), Known::Nothing)
    }

    /// Keeps the name resolved until it is retired; tells of the addresses that
    /// are known, and of each other set. Of several who follow it one does, and
    /// the next when that one is dropped.
    pub(in crate::upstream) async fn follow(&self, mut moved: impl FnMut(&[Arc<Address>])) {
        let following = async {
            let mut schedule = self.schedule.lock().await;
            if let Some(addresses) = self.known() {
                moved(&addresses);
            }
            loop {
                let resolver = self.resolver.load_full();
                schedule.due(&resolver).await;
                let pause = match resolver.addresses(&self.host).await {
                    Ok(answer) => {
                        self.counts.resolved("ok");
                        if schedule.failures > 0 {
                            tracing::info!(name = &*self.host, "the name resolves again");
                        }
                        schedule.failures = 0;
                        if let Some(addresses) = self.take(&answer.found) {
                            moved(&addresses);
                        }
                        answer.ttl
                    }
                    Err(fault) => {
                        self.counts.resolved(fault.reason);
                        schedule.failures += 1;
                        self.failed(&fault, schedule.failures)
                    }
                };
                schedule.pause(pause, resolver);
            }
        };
        let _retired = self.retired.run_until_cancelled(following).await;
    }

    /// Nobody needs the name any more: its addresses are left, and it is not
    /// followed any further.
    pub(in crate::upstream) fn retire(&self) {
        self.retired.cancel();
        self.known.send_modify(|known| match known {
            Known::Addresses(addresses) => addresses.iter().for_each(|address| address.leave()),
            Known::Nothing => *known = Known::Failure("it is not used any more".into()),
            Known::Failure(_) => {}
        });
    }

    /// Takes in an answer; gives the addresses if they are not what they were.
    fn take(&self, answer: &Addresses) -> Option<Arc<[Arc<Address>]>> {
        let old = self.known().unwrap_or_default();
        let answered =
            |ip: IpAddr| !(if ip.is_ipv4() { answer.without_v4 } else { answer.without_v6 });
        let (kept, gone): (Vec<_>, Vec<_>) = old
            .iter()
            .cloned()
            .partition(|address| answer.ips.contains(&address.ip()) || !answered(address.ip()));
        let known = |ip: &IpAddr| kept.iter().any(|address| address.ip() == *ip);
        let new: Vec<_> = answer.ips.iter().filter(|ip| !known(ip)).copied().collect();
        if new.is_empty() && gone.is_empty() {
            return None;
        }
        self.tell(&new, &gone, &answer.refused, old.is_empty());
        let mut addresses = kept;
        addresses.extend(new.into_iter().map(Address::new));
        addresses.sort_by_key(|address| address.ip());
        let addresses: Arc<[Arc<Address>]> = addresses.into();
        self.known.send_replace(Known::Addresses(addresses.clone()));
        for address in gone {
            address.leave();
        }
        Some(addresses)
    }

    fn tell(
        &self,
        new: &[IpAddr],
        gone: &[Arc<Address>],
        refused: &[(IpAddr, &'static str)],
        first: bool,
    ) {
        let name = &*self.host;
        if first {
            tracing::debug!(name, addresses = ?new, "the name is resolved");
        } else {
            let gone: Vec<_> = gone.iter().map(|address| address.ip()).collect();
            tracing::info!(name, ?new, ?gone, "the name has other addresses");
        }
        if !refused.is_empty() {
            let message = "the name points at addresses that `dns.allow` does not name; \
                           they are left out";
            tracing::warn!(name, ?refused, "{message}");
        }
    }

    /// Takes in that there was no answer; gives the pause until the next try.
    fn failed(&self, fault: &Fault, failures: u32) -> Duration {
        let retry_in = pause_after(failures, self.resolver.load().settings().negative_ttl);
        let (name, reason) = (&*self.host, &*fault.detail);
        let mut never = false;
        self.known.send_modify(|known| {
            never = !matches!(known, Known::Addresses(_));
            if never {
                *known = Known::Failure(reason.into());
            }
        });
        match (failures, never) {
            (1, true) => tracing::error!(name, reason, "the name does not resolve"),
            (1, false) => {
                tracing::warn!(name, reason, "the name does not resolve; its last addresses stay");
            }
            _ => tracing::debug!(name, reason, ?retry_in, "the name still does not resolve"),
        }
        retry_in
    }
}
