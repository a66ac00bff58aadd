//! What a process cannot be asked for: the tasks that it has.
//!
//! A proxy in this process, whose probes, resolvers and watches run on a runtime
//! that can be asked.

use std::time::Duration;

use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tollgate::Proxy;
use tollgate::admin::Reload;
use tollgate::observe::ReloadTrigger;

use super::configs::{Broken, NAMES, Recipe};
use super::origins::Origin;
use super::world::Ports;
use crate::support::certs::Authority;

/// The fewest tasks that are seen in a while: a probe under way is one more.
async fn tasks(runtime: &Handle) -> usize {
    let mut least = usize::MAX;
    for _ in 0..100 {
        least = least.min(runtime.metrics().num_alive_tasks());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    least
}

#[tokio::test]
async fn tasks_end_with_what_they_were_for() {
    let dir = TempDir::new().unwrap();
    let over = watch::Sender::new(false);
    let mut origins = Vec::new();
    for name in NAMES {
        origins.push(Origin::named(name, over.subscribe()).await);
    }
    let recipe = Recipe {
        ports: Ports::free(),
        origins: std::array::from_fn(|origin| origins[origin].address),
        certificate: "a.crt",
        key: "a.key",
    };
    Authority::new().sign(dir.path(), "a", &["a.test"]);
    let path = dir.path().join("config.toml");
    std::fs::write(&path, recipe.toml(0)).unwrap();
    let bound = Proxy::from_config(&path).unwrap().bind().unwrap();
    let control = bound.control().clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let handle = runtime.handle().clone();
    let (stop, stopped) = oneshot::channel::<()>();
    let thread = std::thread::spawn(move || {
        let stopped = async {
            let _dropped = stopped.await;
        };
        runtime.block_on(bound.run(stopped)).unwrap()
    });
    // On the proxy's own runtime: what it starts stays there.
    let reload = async || {
        let control = control.clone();
        let reload = async move {
            control.reload_now(ReloadTrigger::Api, Reload::default()).await.map(|_| ())
        };
        handle.spawn(reload).await.unwrap()
    };
    let mut counts = Vec::new();
    // The shape of a configuration comes again after as many.
    for number in 0..=240 {
        std::fs::write(&path, recipe.toml(number)).unwrap();
        let reloaded = reload().await;
        assert!(reloaded.is_ok(), "{number}: {reloaded:?}");
        if number % 120 == 0 {
            counts.push(tasks(&handle).await);
        } else if number % 10 == 5 {
            std::fs::write(&path, recipe.broken(Broken::number(number / 10), number).0).unwrap();
            let refused = reload().await;
            assert!(refused.is_err(), "{number}: {refused:?}");
        }
    }
    println!("tasks after 0, 120 and 240 reloads: {counts:?}");
    drop(stop);
    assert_eq!(thread.join().unwrap().cut, 0);
    assert!(counts[0] > 5, "nothing is counted: {counts:?}");
    assert!(counts.iter().all(|count| *count <= counts[0]), "{counts:?}");
}
