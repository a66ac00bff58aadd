//! What only another process can have.

use super::{api, ask, counts, reload, to};
use crate::support::client::{self, Raw};
use crate::support::origin::Origin;
use crate::support::proxy::{Running, Setup};
use crate::support::within;

/// The keys that the proxy says need a restart.
async fn needed(proxy: &Running) -> Vec<String> {
    let (_, status) = api(proxy.admin, "GET", "/api/status", "").await;
    let keys = status["needs_restart"].as_array().unwrap().iter();
    let word = |key: &serde_json::Value| key.as_str()?.split(' ').next().map(str::to_owned);
    let mut keys: Vec<String> = keys.filter_map(word).collect();
    keys.sort();
    keys
}

/// Has the setup in force, with another admin address.
async fn reload_with_admin(
    proxy: &Running,
    setup: &Setup,
    admin: &str,
) -> (u16, serde_json::Value) {
    let toml = setup.toml();
    let toml = toml.replacen("[admin]\naddress = \"127.0.0.1:0\"", &format!("[admin]\n{admin}"), 1);
    std::fs::write(proxy.dir.path().join("config.toml"), toml).unwrap();
    api(proxy.admin, "POST", "/api/reload", "").await
}

#[tokio::test]
async fn it_is_in_the_plan_and_the_status_and_what_runs_stays() {
    within(async {
        let (origin, two) = (Origin::named("one").await, Origin::named("two").await);
        let proxy = to(&origin).start();
        let mut client = Raw::connect(proxy.address).await;
        assert_eq!(ask(&mut client, "/").await.text(), "one");
        let sockets = proxy.listeners.handles().unwrap().len();
        let changed = |origin: &Origin| {
            to(origin)
                .server("workers = 3\nmemory_budget = \"100MiB\"")
                .and("[log]\nformat = \"json\"")
        };
        let keys = ["admin.address", "log.format", "server.memory_budget", "server.workers"];
        let other = "address = \"127.0.0.1:1\"";
        for _ in 0..2 {
            // The same again is the same again.
            let (status, told) = reload_with_admin(&proxy, &changed(&origin), other).await;
            assert_eq!((status, &told["generation"]), (200, &1.into()), "{told:#}");
            assert_eq!((&told["changed"], &told["applied"]), (&false.into(), &false.into()));
            let text = told["text"].as_str().unwrap();
            for key in keys {
                let marked = |line: &str| line.starts_with("! ") && line.contains(key);
                assert!(text.lines().any(marked), "no {key} in {text}");
            }
            assert_eq!(needed(&proxy).await, keys);
        }
        assert_eq!(proxy.listeners.handles().unwrap().len(), sockets);
        // Beside it, what can be in force is.
        let (_, told) = reload_with_admin(&proxy, &changed(&two), other).await;
        assert_eq!((&told["generation"], &told["changed"]), (&2.into(), &true.into()), "{told:#}");
        assert_eq!(ask(&mut client, "/").await.text(), "two");
        assert_eq!(needed(&proxy).await, keys);
        assert!(counts(proxy.admin, "tollgate_config_generation 2").await);
        // And back: nothing needs anything.
        assert_eq!(reload(&proxy, &to(&two)).await, Ok(2));
        assert!(needed(&proxy).await.is_empty());
        assert_eq!(ask(&mut client, "/").await.text(), "two");
    })
    .await;
}

#[tokio::test]
async fn an_admin_listener_that_is_to_go_keeps_its_token_until_it_does() {
    within(async {
        let origin = Origin::named("one").await;
        let dir = tempfile::TempDir::new().unwrap();
        let with_token =
            to(&origin).toml().replacen("[admin]", "[admin]\ntoken = \"file:token\"", 1);
        std::fs::write(dir.path().join("token"), "hunter2\n").unwrap();
        let proxy = to(&origin).start_in(dir);
        std::fs::write(proxy.dir.path().join("config.toml"), &with_token).unwrap();
        let post = |path: &str, fields: &str| {
            format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{fields}Content-Length: 0\r\n\r\n")
        };
        let plain = async |path: &str| client::ask(proxy.admin, post(path, "")).await.status;
        assert_eq!(plain("/api/reload").await, 200);
        assert_eq!(plain("/api/reload").await, 401);
        let off = with_token.replacen("[admin]", "[admin]\nenabled = false", 1);
        std::fs::write(proxy.dir.path().join("config.toml"), off).unwrap();
        let bearer = "Authorization: Bearer hunter2\r\n";
        let told = client::ask(proxy.admin, post("/api/reload", bearer)).await;
        assert_eq!(told.status, 200, "{}", told.text());
        assert!(told.text().contains("admin.enabled"), "{}", told.text());
        assert_eq!(plain("/api/reload").await, 401, "it is still there, and still guarded");
        let told = client::ask(proxy.admin, post("/api/reload?plan", bearer)).await;
        assert_eq!(told.status, 200, "{}", told.text());
    })
    .await;
}
