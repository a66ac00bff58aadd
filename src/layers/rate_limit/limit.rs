//! One limit: what it counts, and where.

use std::hash::RandomState;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue, Method};

use super::asker::Asker;
use super::decision::{Checked, Decision};
use super::fields;
use super::key::LimitKeyPart;
use super::local::Limiter;
use super::quotas::Quotas;
use super::settings::{CostSettings, RateLimitSettings};
#[cfg(feature = "redis")]
use super::shared::SharedLimiter;
use crate::observe::RateLimitCounts;
use crate::pace::Quota;

/// One rate limit, with what it remembers. Cheap to clone; all clones count together.
#[derive(Clone, Debug)]
pub struct Limit(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: RateLimitSettings,
    /// What is remembered outlives this limit, where another takes its place that counts
    /// alike.
    memory: Memory,
    #[cfg(feature = "redis")]
    shared: Option<SharedLimiter>,
    policy: Option<HeaderValue>,
    /// One with the limits that this one took the place of, or that take its place: who
    /// switches it means whichever is in force.
    dry_run: Arc<AtomicBool>,
    counts: RateLimitCounts,
    warned: AtomicBool,
}

#[derive(Clone, Debug)]
struct Memory {
    /// `None` counts those alone who have a quota of their own.
    limiter: Option<Arc<Limiter>>,
    /// Where those are counted who have a quota of their own, if the key is the identity.
    quotas: Option<Arc<Quotas>>,
    /// What keys are hashed with that are no numbers: nobody outside can tell which of
    /// them share a number.
    random: RandomState,
}

/// Whom a request counts for.
#[derive(Clone, Debug)]
pub(super) struct Key {
    at: At,
    /// The quota of its own.
    own: Option<Quota>,
}

#[derive(Clone, Debug)]
enum At {
    Number(u64),
    #[cfg(feature = "redis")]
    Bytes(Vec<u8>),
}

impl Memory {
    fn new(settings: &RateLimitSettings) -> Self {
        let quotas = || Arc::new(Quotas::new(settings.max_keys));
        Self {
            limiter: Some(Arc::new(Limiter::new(settings.quota(), settings.max_keys))),
            quotas: settings.key.is_identity().then(quotas),
            random: RandomState::new(),
        }
    }
}

impl Limit {
    /// A limit as told, by this process alone.
    #[must_use]
    pub fn new(settings: &RateLimitSettings) -> Self {
        Self::with(settings, Memory::new(settings))
    }

    /// Holds identities to the quota that they have of their own, and all others to none.
    #[must_use]
    pub fn of_identities() -> Self {
        // The quota itself is nobody's.
        let nobodys = Quota::new(NonZeroU32::MIN, Duration::from_secs(1));
        let settings = RateLimitSettings::new(nobodys, LimitKeyPart::Identity.into());
        let memory = Memory { limiter: None, ..Memory::new(&settings) };
        Self::with(&settings, memory)
    }

    /// Whether it is of those whose quota is that of identities alone.
    #[must_use]
    pub fn is_of_identities(&self) -> bool {
        self.0.memory.limiter.is_none()
    }

    fn with(settings: &RateLimitSettings, memory: Memory) -> Self {
        Self(Arc::new(Inner {
            settings: settings.clone(),
            memory,
            #[cfg(feature = "redis")]
            shared: None,
            policy: fields::policy(&settings.name, settings.quota()),
            dry_run: Arc::new(AtomicBool::new(settings.dry_run)),
            counts: RateLimitCounts::default(),
            warned: AtomicBool::new(false),
        }))
    }

    /// The same limit, changed; this one is not.
    fn changed(&self, change: impl FnOnce(&mut Inner)) -> Self {
        let Inner { settings, memory, policy, dry_run, counts, .. } = &*self.0;
        let mut inner = Inner {
            settings: settings.clone(),
            memory: memory.clone(),
            #[cfg(feature = "redis")]
            shared: self.0.shared.clone(),
            policy: policy.clone(),
            dry_run: dry_run.clone(),
            counts: counts.clone(),
            warned: AtomicBool::new(false),
        };
        change(&mut inner);
        Self(Arc::new(inner))
    }

    /// Counts here what it refuses.
    #[must_use]
    pub fn counting(&self, counts: RateLimitCounts) -> Self {
        self.changed(|limit| limit.counts = counts)
    }

    /// Counts there, together with other instances.
    #[cfg(feature = "redis")]
    #[must_use]
    pub fn sharing(&self, shared: SharedLimiter) -> Self {
        self.changed(|limit| limit.shared = Some(shared))
    }

    /// A limit that takes the place of this one, with other settings. Keys are remembered
    /// unless they or their quota are others. Both are on a dry run or neither is, whichever
    /// is told to be, unless the settings say something else than they did: then that holds
    /// for the new one, and this one is not changed by it.
    #[must_use]
    pub fn renewed(&self, settings: &RateLimitSettings) -> Self {
        let old = &self.0.settings;
        let kept = old.counts_like(settings);
        let said = old.dry_run != settings.dry_run;
        self.changed(|limit| {
            if said {
                limit.dry_run = Arc::new(AtomicBool::new(settings.dry_run));
            }
            if !kept {
                limit.memory = Memory::new(settings);
                #[cfg(feature = "redis")]
                {
                    limit.shared = None;
                }
            }
            limit.settings = settings.clone();
            limit.policy = fields::policy(&settings.name, settings.quota());
        })
    }

    /// From now on lets through what it would refuse (`true`), or refuses it.
    pub fn set_dry_run(&self, dry_run: bool) {
        self.0.dry_run.store(dry_run, Ordering::Relaxed);
    }

    /// Whether it lets through what it would refuse.
    #[must_use]
    pub fn is_dry_run(&self) -> bool {
        self.0.dry_run.load(Ordering::Relaxed)
    }

    /// What it was told.
    #[must_use]
    pub fn settings(&self) -> &RateLimitSettings {
        &self.0.settings
    }

    /// How many keys this process remembers at the moment.
    #[must_use]
    pub fn keys(&self) -> usize {
        let Memory { limiter, quotas, .. } = &self.0.memory;
        let limiter = limiter.as_ref().map_or(0, |limiter| limiter.keys());
        limiter + quotas.as_ref().map_or(0, |quotas| quotas.keys())
    }

    /// Whom a request counts for; `None`: for nobody, and it may pass.
    pub(super) fn key(&self, asker: &Asker<'_>) -> Option<Key> {
        let Inner { settings: RateLimitSettings { key, exempt, .. }, memory, .. } = &*self.0;
        let is_exempt = |client| exempt.iter().any(|network| network.contains(&client));
        // What an identity was given for itself is not what this limit exempts anybody from.
        let own = memory.quotas.as_ref().and_then(|_| asker.own_quota());
        if own.is_none() && (memory.limiter.is_none() || asker.client().is_some_and(is_exempt)) {
            return None;
        }
        let at = match self.is_shared() {
            #[cfg(feature = "redis")]
            true => key.bytes(asker).map(At::Bytes),
            _ => key.number(asker, &memory.random).map(At::Number),
        };
        if at.is_none() && !self.0.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "a request without a client address is not rate-limited; an embedded proxy \
                 needs `into_make_service_with_connect_info::<SocketAddr>()`, a Unix socket \
                 a proxy that says whose requests it passes on"
            );
        }
        Some(Key { at: at?, own })
    }

    /// Whether it counts together with other instances.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        #[cfg(feature = "redis")]
        return self.0.shared.is_some();
        #[cfg(not(feature = "redis"))]
        return false;
    }

    /// What a request with this method counts for.
    pub(super) fn cost(&self, method: &Method, key: &Key) -> NonZeroU32 {
        self.0.settings.cost.of(method).min(self.quota(key).burst)
    }

    /// How often whoever has this key may ask.
    fn quota(&self, key: &Key) -> Quota {
        key.own.unwrap_or_else(|| self.0.settings.quota())
    }

    /// Whether a request of this key may pass, if it counts for `cost`.
    pub(super) fn check(&self, key: &Key, cost: NonZeroU32) -> Checked {
        match &key.at {
            At::Number(number) => Checked::Now(self.locally(key, *number, cost)),
            #[cfg(feature = "redis")]
            At::Bytes(bytes) => match &self.0.shared {
                Some(shared) => shared.check_by(self.quota(key), bytes, cost.get()).into(),
                None => Checked::Now(Decision::PASS),
            },
        }
    }

    /// Takes what a request of this key has cost beyond what it was let through for.
    pub(super) fn charge(&self, key: &Key, cost: u32) {
        match &key.at {
            At::Number(number) => {
                super::local::drain(cost, self.quota(key), |cost| self.locally(key, *number, cost));
            }
            #[cfg(feature = "redis")]
            At::Bytes(bytes) => {
                if let Some(shared) = &self.0.shared {
                    shared.charge_by(self.quota(key), bytes, cost);
                }
            }
        }
    }

    fn locally(&self, key: &Key, number: u64, cost: NonZeroU32) -> Decision {
        let Memory { limiter, quotas, .. } = &self.0.memory;
        match (key.own, quotas, limiter) {
            (Some(own), Some(quotas), _) => quotas.check(own, number, cost),
            (_, _, Some(limiter)) => limiter.check(number, cost),
            // A key of those that nobody counts is not made.
            _ => Decision::PASS,
        }
    }

    /// Whether a request passes about which this was decided.
    pub(super) fn admits(&self, key: &Key, decision: &Decision, asker: &Asker<'_>) -> bool {
        if decision.admitted {
            return true;
        }
        if self.holds(key) {
            // What nobody could count was not too much.
            if decision.counted {
                self.0.counts.refused();
            }
            return false;
        }
        if decision.counted {
            self.0.counts.would_refuse();
        }
        let (route, limit) = (self.0.counts.route(), &*self.0.settings.name);
        let client = asker.client().map(tracing::field::display);
        tracing::debug!(route, limit, client, "the rate limit would refuse this request");
        true
    }

    /// Whether it refuses whoever has this key what is too much. A quota of its own is no
    /// affair of a dry run of the limit.
    pub(super) fn holds(&self, key: &Key) -> bool {
        key.own.is_some() || !self.is_dry_run()
    }

    /// The field that says what a request has cost, and whether clients get to see it.
    pub(super) fn cost_header(&self) -> Option<(&HeaderName, bool)> {
        let CostSettings { header, keep_header, .. } = &self.0.settings.cost;
        Some((header.as_ref()?, *keep_header))
    }

    /// Tells of itself, and how this key stands with it.
    pub(super) fn tell(&self, headers: &mut HeaderMap, key: &Key, decision: &Decision) {
        if !decision.counted {
            return;
        }
        let name = &*self.0.settings.name;
        let policy = match key.own {
            None => self.0.policy.clone(),
            Some(own) => fields::policy(name, own),
        };
        fields::tell(headers, name, policy, decision);
    }
}
