//! What is known of an origin, and what was ordered about it. Both outlive the
//! connections: an origin that is set up anew has the standing of the one before.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::UpstreamSettings;

/// An origin's health, the operator's orders, and its open connections.
#[derive(Debug, Default)]
pub(super) struct Standing {
    health: Mutex<Health>,
    weight: Mutex<Option<WeightOrder>>,
    /// Shared with the pools, which keep nothing meanwhile.
    drained: Arc<AtomicBool>,
    /// Connections that are open.
    open: Arc<AtomicUsize>,
}

/// What is known of an origin's health.
#[derive(Debug, Default)]
struct Health {
    /// Condemned by probes.
    down: bool,
    /// Why, the last time.
    reason: Option<Arc<str>>,
    /// Probes in a row that say the opposite of `down`.
    against: u32,
    /// Requests in a row that failed to reach it.
    failures: u32,
    /// Set aside by failed requests until then.
    set_aside: Option<Instant>,
    /// Whether any probe has ended yet.
    probed: bool,
    /// When the last probe ended.
    last_probe: Option<Instant>,
}

/// A weight in the place of the configured one.
#[derive(Clone, Copy, Debug)]
struct WeightOrder {
    weight: u32,
    /// What was configured when it was given; it holds for no longer.
    instead_of: u32,
}

/// What a probe or a request learnt of an origin.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// A probe succeeded.
    ProbeOk,
    /// A probe failed, for this reason.
    ProbeFailed(String),
    /// A request reached it.
    Reached,
    /// A request could not reach it, for this reason.
    Unreachable(String),
}

/// What a verdict changed.
#[derive(Debug)]
pub(super) enum Change {
    Up,
    Down(Arc<str>),
    SetAside(String),
}

impl Standing {
    /// Neither condemned by probes nor set aside.
    pub(super) fn is_fit(&self, now: Instant) -> bool {
        let health = self.health.lock();
        !health.down && health.set_aside.is_none_or(|until| until <= now)
    }

    /// Whether probes say that it is down.
    pub(super) fn is_condemned(&self) -> bool {
        self.health.lock().down
    }

    /// Why probes say, or last said, that it is down.
    pub(super) fn reason(&self) -> Option<Arc<str>> {
        self.health.lock().reason.clone()
    }

    /// Until when it is set aside, if it is.
    pub(super) fn set_aside_until(&self, now: Instant) -> Option<Instant> {
        self.health.lock().set_aside.filter(|until| *until > now)
    }

    /// When the last probe of it ended.
    pub(super) fn last_probe(&self) -> Option<Instant> {
        self.health.lock().last_probe
    }

    /// A probe of it has ended.
    pub(super) fn probe_ended(&self) {
        self.health.lock().last_probe = Some(Instant::now());
    }

    /// Probes of another process say that it is down.
    pub(super) fn condemn(&self, reason: &str) {
        let mut health = self.health.lock();
        (health.down, health.against, health.probed) = (true, 0, true);
        health.reason = Some(reason.into());
    }

    /// Nobody probes it any more, so what probes said is void.
    pub(super) fn is_not_probed(&self) {
        let mut health = self.health.lock();
        (health.down, health.against, health.probed, health.last_probe) = (false, 0, false, None);
    }

    /// Takes in a verdict; tells if the rotation must be published anew.
    pub(super) fn judge(&self, verdict: Verdict, settings: &UpstreamSettings) -> Option<Change> {
        let mut health = self.health.lock();
        match verdict {
            Verdict::ProbeOk => {
                health.probed = true;
                let was_aside = health.set_aside.take().is_some();
                health.failures = 0;
                if !health.down {
                    health.against = 0;
                    return was_aside.then_some(Change::Up);
                }
                health.against += 1;
                let rise = settings.health.as_ref().map_or(1, |check| check.rise);
                (health.against >= rise).then(|| health.set_down(false, Change::Up))
            }
            Verdict::ProbeFailed(reason) => {
                let first = !std::mem::replace(&mut health.probed, true);
                let reason: Arc<str> = reason.into();
                if health.down {
                    health.against = 0;
                    health.reason = Some(reason);
                    return None;
                }
                health.against += 1;
                // An origin is trusted when the proxy starts; the first probe
                // alone says whether that was right.
                let fall = settings.health.as_ref().map_or(1, |check| check.fall);
                (first || health.against >= fall).then(|| {
                    health.reason = Some(reason.clone());
                    health.set_down(true, Change::Down(reason))
                })
            }
            Verdict::Reached => {
                health.failures = 0;
                None
            }
            Verdict::Unreachable(reason) => {
                health.failures = health.failures.saturating_add(1);
                if health.down || health.failures < settings.passive.max_failures {
                    return None;
                }
                let aside: Duration = settings.passive.set_aside;
                let again = health.set_aside.is_some_and(|until| until > Instant::now());
                health.set_aside = Some(Instant::now() + aside);
                (!again).then_some(Change::SetAside(reason))
            }
        }
    }

    /// Its share of the requests where `configured` is what the settings say.
    pub(super) fn weight(&self, configured: u32) -> u32 {
        self.weight_ordered(configured).unwrap_or(configured)
    }

    /// The share that was ordered instead of `configured`.
    pub(super) fn weight_ordered(&self, configured: u32) -> Option<u32> {
        let order = (*self.weight.lock())?;
        (order.instead_of == configured).then_some(order.weight)
    }

    /// Gives it `weight` instead of `configured`; `None` takes that back.
    pub(super) fn order_weight(&self, weight: Option<u32>, configured: u32) {
        let order = |weight: u32| WeightOrder { weight, instead_of: configured };
        *self.weight.lock() = weight.map(order);
    }

    /// Lets go of a weight that was ordered instead of another than
    /// `configured`; gives it.
    pub(super) fn forget_other_weight(&self, configured: u32) -> Option<u32> {
        let mut weight = self.weight.lock();
        weight.take_if(|order| order.instead_of != configured).map(|order| order.weight)
    }

    /// Whether it is to be asked by nobody.
    pub(super) fn is_drained(&self) -> bool {
        self.drained.load(Ordering::Acquire)
    }

    /// Orders that it be asked by nobody, or again.
    pub(super) fn order_drained(&self, drained: bool) {
        self.drained.store(drained, Ordering::Release);
    }

    /// The same, for whoever keeps connections.
    pub(super) fn drained(&self) -> &Arc<AtomicBool> {
        &self.drained
    }

    /// The connections that are open.
    pub(super) fn open(&self) -> &Arc<AtomicUsize> {
        &self.open
    }
}

impl Health {
    fn set_down(&mut self, down: bool, change: Change) -> Change {
        self.down = down;
        self.against = 0;
        change
    }
}
