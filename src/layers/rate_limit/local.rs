//! The limiter of one process: governor's GCRA, one cell for each client.
//!
//! A cell that has been idle for as long as it takes to refill says nothing
//! any more, and is evicted: by whoever comes along when the table has grown
//! by half since the last time, or has not been looked through for a minute. One
//! request in [`SAMPLE`] finds out whether it has, which the others need not.
//! So memory is bounded by the clients that asked within that time, each once.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use governor::RateLimiter;
use governor::clock::{Clock, DefaultClock, Reference};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::DashMapStateStore;

use super::RateLimitSettings;
use crate::context::client_network;
use crate::pace::Quota;
use crate::seat::seat;

/// Below this many clients the table is not worth looking through.
const FEW: usize = 1_024;

/// How long an idle cell may stay at the most, in nanoseconds.
const LOOK_EVERY: u64 = 60_000_000_000;

/// Of so many requests that one worker has, one finds out whether to evict.
const SAMPLE: usize = 32;

/// Counts requests by client.
#[derive(Debug)]
pub(super) struct Limiter<C: Clock = DefaultClock> {
    limiter: RateLimiter<u64, DashMapStateStore<u64>, C, NoOpMiddleware<C::Instant>>,
    clock: C,
    started: C::Instant,
    /// Requests of each worker.
    asked: Box<[Asked]>,
    evicting: AtomicBool,
    /// Requests since the table was last looked through, to the nearest sample.
    since: AtomicUsize,
    /// After this many it is looked through again.
    patience: AtomicUsize,
    looked_at: AtomicU64,
}

impl Limiter {
    pub(super) fn new(settings: &RateLimitSettings) -> Self {
        Self::with_clock(settings, DefaultClock::default())
    }
}

impl<C: Clock + Clone> Limiter<C> {
    fn with_clock(settings: &RateLimitSettings, clock: C) -> Self {
        Self {
            limiter: RateLimiter::new(
                governor_quota(Quota {
                    requests: settings.rate,
                    per: settings.per,
                    burst: settings.burst,
                }),
                DashMapStateStore::default(),
                clock.clone(),
            ),
            started: clock.now(),
            clock,
            asked: asked(),
            evicting: AtomicBool::new(false),
            since: AtomicUsize::new(0),
            patience: AtomicUsize::new(FEW),
            looked_at: AtomicU64::new(0),
        }
    }

    /// Lets a request of `client` through, or says how long it should wait.
    pub(super) fn check(&self, client: IpAddr) -> Result<(), Duration> {
        let outcome = self.limiter.check_key(&cell(client));
        let asked = &self.asked[seat() % self.asked.len()].0;
        if (asked.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(SAMPLE) {
            self.evict_if_due();
        }
        outcome.map_err(|not_until| not_until.wait_time_from(self.clock.now()))
    }

    fn evict_if_due(&self) {
        let elapsed: u64 = self.clock.now().duration_since(self.started).as_u64();
        let asked = self.since.fetch_add(SAMPLE, Ordering::Relaxed) + SAMPLE;
        let late = elapsed.saturating_sub(self.looked_at.load(Ordering::Relaxed)) > LOOK_EVERY;
        if !late && asked < self.patience.load(Ordering::Relaxed) {
            return;
        }
        if self.evicting.swap(true, Ordering::Acquire) {
            return;
        }
        self.limiter.retain_recent();
        self.limiter.shrink_to_fit();
        self.since.store(0, Ordering::Relaxed);
        self.patience.store(FEW.max(self.limiter.len() / 2), Ordering::Relaxed);
        self.looked_at.store(elapsed, Ordering::Relaxed);
        self.evicting.store(false, Ordering::Release);
    }

    /// How many clients are remembered.
    pub(super) fn clients(&self) -> usize {
        self.limiter.len()
    }
}

/// What a client is counted by: the prefix of an IPv6 address, or an IPv4 address
/// as a prefix that nobody has (`0000::/8` is reserved, RFC 4291 §2.4). One small
/// number takes half the room in the table that an address of either kind does.
/// The hash stays one that is made to withstand those who choose what is hashed:
/// a client may have many addresses to choose from.
fn cell(client: IpAddr) -> u64 {
    const V4: u64 = 1 << 32;
    match client_network(client) {
        IpAddr::V4(v4) => V4 | u64::from(v4.to_bits()),
        IpAddr::V6(v6) => {
            let [a, b, c, d, e, f, g, h, ..] = v6.octets();
            u64::from_be_bytes([a, b, c, d, e, f, g, h])
        }
    }
}

/// How often one worker asked, on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Asked(AtomicUsize);

/// A count for each worker.
fn asked() -> Box<[Asked]> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(64);
    (0..workers).map(|_| Asked::default()).collect()
}

/// One cell back every `per / requests`, whole fractions kept, `burst` at most.
pub(in crate::layers) fn governor_quota(quota: Quota) -> governor::Quota {
    let Quota { requests, per, burst } = quota;
    let each = (per / requests.get()).max(Duration::from_nanos(1));
    // The period is at least a nanosecond, the only thing that is refused.
    governor::Quota::with_period(each)
        .unwrap_or_else(|| governor::Quota::per_second(requests))
        .allow_burst(burst)
}

#[cfg(test)]
mod tests {
    use super::*;
    use governor::clock::FakeRelativeClock;
    use std::num::NonZeroU32;

    fn limiter(rate: u32, per: u64, burst: u32) -> (Limiter<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        let settings = RateLimitSettings {
            rate: NonZeroU32::new(rate).unwrap(),
            per: Duration::from_secs(per),
            burst: NonZeroU32::new(burst).unwrap(),
            exempt: Vec::new(),
            dry_run: false,
        };
        (Limiter::with_clock(&settings, clock.clone()), clock)
    }

    fn client(number: u32) -> IpAddr {
        IpAddr::from(number.to_be_bytes())
    }

    #[test]
    fn defect_3_a_rate_below_one_a_second_refills_and_keeps_fractions() {
        let (limiter, clock) = limiter(1, 10, 1);
        assert!(limiter.check(client(1)).is_ok());
        for _ in 0..3 {
            clock.advance(Duration::from_secs(3));
            assert!(limiter.check(client(1)).is_err());
        }
        clock.advance(Duration::from_secs(1));
        assert!(limiter.check(client(1)).is_ok());
    }

    #[test]
    fn a_burst_is_let_through_and_then_the_rate_holds() {
        let (limiter, clock) = limiter(10, 1, 20);
        let admitted = |tries: u32| (0..tries).filter(|_| limiter.check(client(1)).is_ok()).count();
        assert_eq!(admitted(30), 20);
        let wait = limiter.check(client(1)).unwrap_err();
        assert!(wait > Duration::ZERO && wait <= Duration::from_millis(100), "{wait:?}");
        clock.advance(Duration::from_secs(1));
        assert_eq!(admitted(30), 10);
    }

    #[test]
    fn defect_2_idle_clients_are_evicted() {
        let (limiter, clock) = limiter(10, 1, 20);
        for number in 0..10_000 {
            let _ = limiter.check(client(number));
        }
        assert_eq!(limiter.clients(), 10_000);
        clock.advance(Duration::from_secs(61));
        for _ in 0..SAMPLE {
            let _ = limiter.check(client(1));
        }
        assert_eq!(limiter.clients(), 1);
    }

    #[test]
    fn a_flood_of_clients_is_evicted_as_it_goes() {
        let (limiter, clock) = limiter(10, 1, 1);
        for number in 0..100_000 {
            let _ = limiter.check(client(number));
            clock.advance(Duration::from_millis(1));
        }
        assert!(limiter.clients() < 5_000, "{}", limiter.clients());
    }

    #[test]
    fn cells_of_different_clients_differ() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let clients = [
            "0.0.0.0",
            "1.2.3.4",
            "255.255.255.255",
            "::1",
            "2001:db8::",
            "2001:db8:0:1::",
            "ffff::",
        ];
        for (index, one) in clients.iter().enumerate() {
            for other in &clients[index + 1..] {
                assert_ne!(cell(address(one)), cell(address(other)), "{one} {other}");
            }
        }
    }

    #[test]
    fn an_ipv6_client_cannot_rotate_through_its_64() {
        let (limiter, _clock) = limiter(1, 60, 1);
        assert!(limiter.check("2001:db8::1".parse().unwrap()).is_ok());
        assert!(limiter.check("2001:db8::2".parse().unwrap()).is_err());
        assert!(limiter.check("2001:db8:0:1::1".parse().unwrap()).is_ok());
        assert!(limiter.check("192.0.2.1".parse().unwrap()).is_ok());
        assert!(limiter.check("::ffff:192.0.2.1".parse().unwrap()).is_err());
    }
}
