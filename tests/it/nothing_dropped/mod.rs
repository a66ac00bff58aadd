//! Nothing is dropped: a real proxy under load, while it is changed.

mod admin;
mod configs;
mod http1;
mod http2;
mod lasting;
mod load;
mod origins;
mod process;
mod tally;
mod wire;
mod world;

use std::sync::atomic::Ordering;
use std::time::Duration;

use world::World;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_nobody_touches_answers_everything() {
    let mut world = World::new().await;
    world.tally().phase("steady");
    world.load();
    world.load_long();
    world.load_short();
    tokio::time::sleep(Duration::from_secs(6)).await;
    world.end_load().await;
    let holds = world.process.holds();
    world.tally().note(&holds.to_string());
    world.verdict();
    for kind in ["h1", "h1 tls", "h1 new", "h1 tls new", "h2", "h2 tls", "ws", "ws tls", "ws h2"] {
        assert!(world.tally().answered_by(kind) > 0, "{kind}");
    }
    for kind in ["download", "download long", "upload", "upload long"] {
        assert!(world.tally().answered_by(kind) > 0, "{kind}");
    }
    world.process.stop().await;
}

/// What all of this would be worth if it could not fail.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_is_stopped_and_started_again_is_seen_to_drop() {
    let mut world = World::new().await;
    world.tally().phase("steady");
    world.load();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(world.tally().failures(), 0, "{}", world.tally().report());
    world.tally().phase("stopped");
    world.shared.upgrading.store(true, Ordering::SeqCst);
    world.process.stop().await;
    world.tally().phase("started again");
    world.process.start_another();
    world.ready().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.end_load().await;
    println!("{}", world.tally().table());
    let report = world.tally().report();
    println!("{report}");
    assert!(report.contains("connecting: Connection refused"), "{report}");
    assert!(world.tally().events("told 1001") > 0, "{report}");
}
