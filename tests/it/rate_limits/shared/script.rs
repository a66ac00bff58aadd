//! What the script does in Redis, against buckets that are reckoned in whole numbers here.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::support::redis::Redis;

const SCRIPT: &str = include_str!("../../../../src/layers/rate_limit/shared/gcra.lua");

/// A bucket, in parts of a microsecond.
struct Model {
    requests: u128,
    micros: u128,
    burst: u128,
    full: u128,
}

/// The same by way of Redis, at times that are given.
struct Real<'a> {
    redis: &'a Redis,
    script: String,
}

#[derive(Debug)]
struct Ask {
    /// Microseconds after the one before.
    after: u64,
    cost: u32,
    more: u32,
}

impl Model {
    fn new(requests: u64, micros: u64, burst: u64) -> Self {
        let (a, b) = (requests, micros);
        let common = (1..=a.min(b).min(1_000_000)).rev().find(|of| a % of == 0 && b % of == 0);
        let common = u128::from(common.unwrap());
        let (requests, micros) = (u128::from(requests) / common, u128::from(micros) / common);
        Self { requests, micros, burst: burst.into(), full: 0 }
    }

    fn take(&mut self, now: u64, cost: u32, want: u32) -> (u128, u128, u128) {
        let now = u128::from(now) * self.requests;
        self.full = self.full.max(now);
        let free = (now + self.burst * self.micros - self.full) / self.micros;
        let taken = if free >= cost.into() { free.min(want.into()) } else { 0 };
        self.full += taken * self.micros;
        let left = self.full - now;
        (taken, left / self.requests, left % self.requests)
    }

    fn arguments(&self) -> [u128; 5] {
        let fill = self.burst * self.micros;
        let of = self.requests;
        [of, self.micros / of, self.micros % of, fill / of, fill % of]
    }
}

impl<'a> Real<'a> {
    fn new(redis: &'a Redis) -> Self {
        let at_a_time = SCRIPT.replace("redis.call('TIME')", "{ ARGV[8], ARGV[9] }");
        assert_ne!(at_a_time, SCRIPT);
        // Redis forgets by its own clock what is full by it.
        let script = at_a_time.replace("local left = ", "local left = 3600000 + ");
        assert_ne!(script, at_a_time);
        Self { redis, script }
    }

    fn take(&self, key: &str, model: &Model, now: u64, cost: u32, want: u32) -> Vec<u128> {
        let mut parts = vec!["EVAL".to_owned(), self.script.clone(), "1".into(), key.into()];
        parts.extend(model.arguments().map(|argument| argument.to_string()));
        parts.extend([cost.to_string(), want.to_string()]);
        parts.extend([(now / 1_000_000).to_string(), (now % 1_000_000).to_string()]);
        let answer = self.redis.ask(parts);
        let numbers = answer.lines().skip(1).map(|line| line.strip_prefix(':'));
        let numbers = numbers.map(|number| number.and_then(|number| number.parse().ok()));
        numbers.collect::<Option<_>>().unwrap_or_else(|| panic!("{answer}"))
    }
}

/// Requests, microseconds, burst.
fn quotas() -> impl Strategy<Value = (u64, u64, u64)> {
    let some = |most: u64| prop_oneof![1..=10_u64, 1..=1_000_u64, 1..=most];
    let times = prop_oneof![
        Just(1_u64),
        Just(1_000_000),
        Just(60_000_000),
        Just(86_400_000_000),
        1..=10_000_000_000_u64
    ];
    let quotas = (some(u32::MAX.into()), times, some(u32::MAX.into()));
    quotas.prop_filter("it is full again within 35 years", |(requests, micros, burst)| {
        u128::from(*micros) * u128::from(*burst) / u128::from(*requests) <= 1 << 50
    })
}

fn asks() -> impl Strategy<Value = Vec<(u64, u64, u64)>> {
    // How long after the one before, as a part of the time for a token; cost; more.
    prop::collection::vec((0..=3_000_u64, 1..=100_u64, 0..=100_u64), 1..40)
}

#[test]
fn buckets_are_exact() {
    let redis = Redis::start();
    let real = Real::new(&redis);
    let mut runner = TestRunner::new(Config { cases: 120, ..Config::default() });
    let number = std::cell::Cell::new(0);
    runner
        .run(&(quotas(), asks()), |((requests, micros, burst), asks)| {
            number.set(number.get() + 1);
            let (key, mut now) = (format!("bucket:{}", number.get()), 1_764_000_000_123_456_u64);
            let mut model = Model::new(requests, micros, burst);
            redis.ask(["DEL", &key]);
            for (after, cost, more) in asks {
                let token = (micros / requests).max(1);
                let ask = Ask {
                    after: token.saturating_mul(after) / 1_000,
                    cost: u32::try_from(cost * burst / 100).unwrap().max(1),
                    more: u32::try_from(more * burst / 100).unwrap(),
                };
                now += ask.after;
                let want = ask.cost.saturating_add(ask.more);
                let (taken, full, parts) = model.take(now, ask.cost, want);
                let told = real.take(&key, &model, now, ask.cost, want);
                prop_assert_eq!(&told, &[taken, full, parts], "{:?} at {}", ask, now);
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn neither_other_data_nor_a_clock_set_back_shuts_anybody_out() {
    let redis = Redis::start();
    let real = Real::new(&redis);
    let model = Model::new(10, 1_000_000, 20);
    let now = 1_764_000_000_000_000;
    for wrong in ["", "x", "1 2 3", "-1 0", "99999999999999999999 0", "1764000000000000 10"] {
        redis.ask(["SET", "k", wrong]);
        let taken = real.take("k", &model, now, 1, 5)[0];
        // What is too far in the future is as if it were empty.
        assert_eq!(taken, if wrong.starts_with("999") { 0 } else { 5 }, "{wrong}");
    }
    redis.ask(["DEL", "k"]);
    redis.ask(["RPUSH", "k", "a"]);
    assert_eq!(real.take("k", &model, now, 20, 20), [20, 2_000_000, 0]);
    // An hour back.
    let before = now - 3_600_000_000;
    assert_eq!(real.take("k", &model, before, 1, 1), [0, 2_000_000, 0]);
    redis.ask(["SET", "k", &format!("{now} 0")]);
    assert_eq!(real.take("k", &model, before, 0, 5)[0], 0);
    assert_eq!(real.take("k", &model, now - 100_000, 1, 5)[0], 5);
}
