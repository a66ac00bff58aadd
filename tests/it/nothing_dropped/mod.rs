//! Nothing is dropped: a real proxy under load, while it is changed.
//!
//! `TOLLGATE_BINARY=target/release/tollgate cargo test --test it nothing_dropped::`
//! takes another binary than that of the tests, and `-- --ignored` goes on for
//! `TOLLGATE_ROUNDS` times as long (10 if it is not set).

pub mod admin;
mod changes;
mod configs;
mod files;
mod http1;
mod http2;
mod lasting;
mod load;
mod origins;
pub mod process;
mod tally;
mod tasks;
mod upgrades;
mod wire;
pub mod world;

use std::sync::atomic::Ordering;
use std::time::Duration;

use changes::Call;
use configs::Broken;
use files::Put;
use process::Holds;
use upgrades::Order;
use world::World;

/// How much more memory the process may have at rest after all changes than after
/// the first of them, in KiB. What is kept of a configuration by mistake comes
/// again with each; what allocators keep does not.
const SLACK: u64 = 8 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_nobody_touches_answers_everything() {
    let mut world = World::new().await;
    world.tally().phase("steady");
    world.load();
    world.load_long();
    world.load_short();
    tokio::time::sleep(Duration::from_secs(3)).await;
    world.end_load().await;
    world.verdict();
    world.everybody_was_there();
    world.process.stop().await;
}

/// What all of this would be worth if it could not fail.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_is_stopped_or_killed_is_seen_to_drop() {
    let mut world = World::new().await;
    world.tally().phase("steady");
    world.load();
    world.load_short();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.tally().failures(), 0, "{}", world.tally().report());
    world.tally().phase("stopped");
    world.shared.upgrading.store(true, Ordering::SeqCst);
    world.process.stop().await;
    world.process.start_another();
    world.ready().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let report = world.tally().report();
    assert!(report.contains("connecting: Connection refused"), "{report}");
    assert!(world.tally().events("told 1001") > 0, "{report}");
    world.tally().phase("killed");
    let lasting = ["h2", "h2 tls", "ws", "ws tls", "ws h2", "download", "upload"];
    let failures = |world: &World| lasting.map(|kind| world.tally().failures_of(kind));
    let before = failures(&world);
    world.process.signal("KILL");
    world.process.start_another();
    world.ready().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.end_load().await;
    println!("{}{}", world.tally().table(), world.tally().report());
    for ((kind, before), after) in lasting.iter().zip(before).zip(failures(&world)) {
        assert!(after > before, "{kind}: that it was cut was missed");
    }
}

/// Whoever finds an idle connection closed has lost nothing; whoever sends a request
/// on it in that moment has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_answers_what_is_sent_on_idle_connections() {
    let mut world = World::new().await;
    world.tally().phase("stopped again and again");
    world.load_busily();
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        world.process.stop().await;
        world.process.start_another();
        world.ready().await;
    }
    world.end_load().await;
    println!("{}", world.tally().table());
    // Nobody listened in between, which is not what this is about.
    let unreachable = world.tally().events("unreachable");
    assert_eq!(world.tally().failures(), unreachable, "{}", world.tally().report());
    assert!(world.tally().events("announced") > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_dropped() {
    prove(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes long"]
async fn nothing_is_dropped_for_long() {
    let rounds = std::env::var("TOLLGATE_ROUNDS").ok().and_then(|rounds| rounds.parse().ok());
    prove(rounds.unwrap_or(10)).await;
}

async fn prove(rounds: usize) {
    let mut world = World::new().await;
    world.tally().phase("steady");
    world.load();
    world.load_long();
    tokio::time::sleep(Duration::from_secs(1)).await;
    reloads(&mut world, "first reloads", 1..=20).await;
    let before = world.level().await;
    world.tally().note(&format!("then {before}"));
    for round in 0..rounds {
        let first = 21 + round * 80;
        reloads(&mut world, "reloads", first..=first + 79).await;
        certificates(&mut world).await;
    }
    back_to(&world, before).await;
    // They have lasted over all of it.
    world.end_long().await;
    world.load_short();
    for _ in 0..rounds {
        upgrades(&mut world).await;
    }
    assert!(world.process.only_one_left().await, "{}", world.tally().last_words());
    // What the first had is handed on, and nothing beside it.
    back_to(&world, before).await;
    world.end_load().await;
    world.ended_well(10 * rounds);
    world.everybody_was_there();
    world.verdict();
    world.process.stop().await;
}

/// Other configurations, and every fifth time one that cannot be.
async fn reloads(world: &mut World, phase: &str, numbers: std::ops::RangeInclusive<usize>) {
    world.tally().phase(phase);
    let count = numbers.clone().count();
    for number in numbers {
        world.reload(number, Put::number(number), Call::number(number)).await;
        if number % 5 == 0 {
            let turn = number / 5;
            world.reload_broken(Broken::number(turn), Put::number(turn), Call::number(turn)).await;
            // What is in force stands there again.
            let toml = world.recipe.toml(number);
            Put::Rename.write(world.path(), &[("config.toml", &toml)]);
        }
    }
    world.tally().note(&format!("{count} reloads, {} broken ones", count / 5));
}

/// Other certificates, and every fourth time one that cannot be.
async fn certificates(world: &mut World) {
    world.tally().phase("certificates");
    for number in 0..20 {
        let call = if number % 4 == 3 { Call::Signal } else { Call::Watch };
        world.certify(Put::number(number), call).await;
        if number % 4 == 1 {
            world.certify_broken(number / 4, Put::number(number / 4)).await;
        }
    }
    world.tally().note("20 certificates, 5 broken ones");
}

/// Waits until the process holds no more than before.
async fn back_to(world: &World, before: Holds) {
    world.tally().phase("rest");
    let after = world.at_rest(|holds| holds.is_within(before, SLACK)).await;
    let held = format!("before {before}; after {after}; {SLACK} KiB of slack");
    world.tally().note(&held);
    assert!(after.is_within(before, SLACK), "it holds more than before: {held}");
}

/// Other binaries, and some that cannot be.
async fn upgrades(world: &mut World) {
    world.tally().phase("upgrades");
    let before = world.tally().events("told 1001");
    for number in 0..10 {
        world.upgrade(Order::number(number)).await;
        match number {
            3 => world.upgrade_to_nothing().await,
            6 => world.upgrade_with_a_broken_configuration().await,
            _ => {}
        }
        // The load finds its way to the new one before it is replaced.
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let told = world.tally().events("told 1001") - before;
    world.tally().note(&format!("10 upgrades, 3 that failed, {told} WebSockets told to go"));
}
