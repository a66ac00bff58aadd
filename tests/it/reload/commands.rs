//! A real process, and the commands and the API that it is operated by.

use tempfile::TempDir;

use super::api;
use super::process::Process;
use crate::support::client::get;
use crate::support::origin::Origin;
use crate::support::{eventually, within};

fn to(origins: &[&Origin]) -> String {
    let urls: Vec<_> = origins.iter().map(|origin| format!("\"{origin}\"")).collect();
    format!(
        "[[route]]\nname = \"all\"\nupstream = \"group\"\nrate_limit = {{ rate = 1000 }}\n\
         [[upstream]]\nname = \"group\"\norigins = [{}]\n",
        urls.join(", ")
    )
}

async fn start(rest: &str) -> Process {
    Process::start(TempDir::new().unwrap(), "", rest).await
}

async fn text(process: &Process, path: &str) -> String {
    get(process.public, path, "").await.text()
}

/// The origins that answer, in their order.
async fn asked(process: &Process) -> Vec<String> {
    let mut names = Vec::new();
    for _ in 0..8 {
        names.push(text(process, "/").await);
    }
    names.sort();
    names.dedup();
    names
}

#[tokio::test]
async fn a_plan_a_reload_and_a_report_are_printed() {
    within(async {
        let (one, two) = (Origin::named("one").await, Origin::named("two").await);
        let process = start(&to(&[&one])).await;
        let status = process.run(&["status"]).await.ok();
        let first = format!(", process {}: ready, up for ", process.pid());
        assert!(status.lines().next().unwrap().contains(&first), "{status}");
        assert!(status.contains("\ngeneration      1, in force since 20"), "{status}");
        assert!(status.contains("\nconfiguration   "), "{status}");
        let status = process.run(&["status", "--json"]).await.ok();
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        assert_eq!((&status["state"], &status["pid"]), (&"ready".into(), &process.pid().into()));

        process.write("", &to(&[&two]));
        let plan = process.run(&["reload", "--plan", "-c", "config.toml"]).await.ok();
        for part in [format!("+ origin {two}"), format!("- origin {one}")] {
            assert!(plan.contains(&part), "no {part:?} in {plan}");
        }
        assert!(plan.ends_with("This is what would change; nothing has.\n"), "{plan}");
        assert_eq!(text(&process, "/").await, "one");
        let done = process.run(&["reload"]).await.ok();
        assert!(done.ends_with("Generation 2 is in force.\n"), "{done}");
        assert!(done.starts_with(plan.lines().next().unwrap()), "{done}");
        assert_eq!(text(&process, "/").await, "two");
        let again = process.run(&["reload"]).await.ok();
        assert!(again.ends_with("Nothing has changed: generation 2 stays.\n"), "{again}");
        let told = process.run(&["reload", "--json"]).await.ok();
        let told: serde_json::Value = serde_json::from_str(&told).unwrap();
        assert_eq!((&told["generation"], &told["applied"]), (&2.into(), &false.into()));

        let broken = to(&[&one]).replace("upstream = \"group\"", "upstream = \"grp\"\nhots = []");
        process.write("drain_timout = \"1s\"", &broken);
        for command in [&["reload", "--plan"][..], &["reload"]] {
            let ran = process.run(command).await;
            assert_eq!((ran.code, &*ran.out), (Some(78), ""), "{ran:?}");
            for part in ["config.toml:4:1", "drain_timeout", "there is no upstream `grp`", ".hots`"]
            {
                assert!(ran.err.contains(part), "no {part:?} in {}", ran.err);
            }
            assert!(ran.err.contains("3 problems in "), "{}", ran.err);
            assert!(!ran.err.contains('\u{1b}'), "{:?}", ran.err);
        }
        let status = process.run(&["status"]).await.ok();
        assert!(status.contains("\nlast reload     failed (api, "), "{status}");
        assert!(status.contains("config.toml:4:1") && status.contains("generation      2"));
        let log = process.log();
        assert!(log.contains("there is no upstream `grp`"), "{log}");
        assert_eq!(text(&process, "/").await, "two");

        process.write("", &to(&[&one]));
        process.signal("HUP");
        eventually("the signal is heard", async || text(&process, "/").await == "one").await;
        let last = process.status().await["last_reload"].clone();
        assert_eq!((&last["trigger"], &last["result"]), (&"signal".into(), &"ok".into()));
    })
    .await;
}

#[tokio::test]
async fn what_is_to_be_confirmed_is_confirmed_or_rolled_back() {
    within(async {
        let (one, two) = (Origin::named("one").await, Origin::named("two").await);
        let process = start(&to(&[&one])).await;
        for command in ["confirm", "rollback"] {
            let ran = process.run(&[command]).await;
            assert_eq!((ran.code, &*ran.out), (Some(1), ""), "{ran:?}");
        }
        process.write("", &to(&[&two]));
        let done = process.run(&["reload", "--confirm", "60s"]).await.ok();
        assert!(done.contains("rolled back unless it is confirmed within 1m"), "{done}");
        let refused = process.run(&["reload"]).await;
        assert_eq!(refused.code, Some(1));
        assert!(refused.err.contains("waits to be confirmed"), "{}", refused.err);
        let status = process.run(&["status"]).await.ok();
        assert!(status.contains("\nto be confirmed within "), "{status}");
        let refused = process.run(&["upgrade"]).await;
        assert!(refused.err.contains("waits to be confirmed"), "{refused:?}");
        assert_eq!(process.run(&["confirm"]).await.ok(), "Generation 2 stays.\n");
        let back = process.run(&["rollback"]).await.ok();
        assert!(back.starts_with("Rolled back: generation 3 is in force. The file"), "{back}");
        // What was rolled back does not come back by itself.
        let refused = process.run(&["upgrade"]).await;
        assert!(refused.err.contains("still holds what was rolled back"), "{refused:?}");
        assert_eq!(text(&process, "/").await, "one");
        assert_eq!(process.run(&["rollback"]).await.code, Some(1));
        process.run(&["reload", "--confirm", "1s"]).await.ok();
        eventually("nobody confirmed", async || process.status().await["generation"] == 5).await;
        assert_eq!(text(&process, "/").await, "one");
        let status = process.run(&["status"]).await.ok();
        assert!(status.contains("\nlast reload     ok (rollback, "), "{status}");
    })
    .await;
}

#[tokio::test]
async fn what_is_changed_at_run_time_is_in_force_at_once_and_outlives_reloads() {
    within(async {
        let (one, two) = (Origin::named("one").await, Origin::named("two").await);
        let process = start(&to(&[&one, &two])).await;
        assert_eq!(asked(&process).await, ["one", "two"]);
        let name = one.to_string();
        let drained = process.run(&["origin", "group", &name, "--drain"]).await.ok();
        assert!(drained.contains(": drained, it gets nothing new.\nIt lasts "), "{drained}");
        assert_eq!(asked(&process).await, ["two"]);
        process.write("max_in_flight = 7", &to(&[&one, &two]));
        process.run(&["reload"]).await.ok();
        assert_eq!(asked(&process).await, ["two"]);
        let shown = process.run(&["upstreams"]).await.ok();
        assert!(shown.contains(", drained"), "{shown}");

        // The same over HTTP.
        let encoded = name.replace(':', "%3A").replace('/', "%2F");
        let path = format!("/api/upstreams/group/origins/{encoded}");
        let patch = async |body: &str| api(process.admin, "PATCH", &path, body).await;
        let (status, told) = patch("{\"drained\": false, \"weight\": 3}").await;
        assert_eq!((status, &told["origin"]["weight"]), (200, &3.into()), "{told:#}");
        assert_eq!(told["origin"]["configured_weight"], 1);
        assert_eq!(asked(&process).await, ["one", "two"]);
        for (body, expected) in [
            ("{\"wieght\": 3}", 400),
            ("{\"weight\": 3, \"reset_weight\": true}", 400),
            ("{}", 400),
            ("weight", 400),
        ] {
            let (status, told) = patch(body).await;
            assert_eq!(status, expected, "{body}: {told:#}");
        }
        let unknown = "/api/upstreams/group/origins/none";
        let (status, told) = api(process.admin, "PATCH", unknown, "{\"weight\": 1}").await;
        assert_eq!(status, 404);
        assert!(told["detail"].as_str().unwrap().contains("none"), "{told:#}");
        let ran = process.run(&["origin", "grp", &name]).await;
        assert_eq!(ran.code, Some(1));
        assert!(ran.err.contains("there is no upstream `grp`"), "{}", ran.err);
    })
    .await;
}

#[tokio::test]
async fn the_log_level_and_dry_runs_are_changed_at_run_time() {
    within(async {
        let (one, two) = (Origin::named("one").await, Origin::named("two").await);
        let process = start(&to(&[&one, &two])).await;
        let (status, told) =
            api(process.admin, "PUT", "/api/log-level", "{\"level\": \"debug\"}").await;
        assert_eq!((status, &told["level"]), (200, &"debug".into()), "{told:#}");
        assert_eq!(process.run(&["log-level"]).await.ok(), "debug\n");
        let dry = "[[route]]\nname = \"dry\"\npath = \"/dry\"\nupstream = \"group\"\n\
                   rate_limit = { rate = 1, per = \"1h\", burst = 1, dry_run = true }\n";
        process.write("max_in_flight = 8", &format!("{dry}{}", to(&[&one, &two])));
        process.run(&["reload"]).await.ok();
        for _ in 0..2 {
            assert_eq!(get(process.public, "/dry", "").await.status, 200);
        }
        eventually("it says more", async || process.log().contains("DEBUG")).await;
        process.write("max_in_flight = 8", &to(&[&one, &two]));
        process.run(&["reload"]).await.ok();
        assert_eq!(process.run(&["log-level"]).await.ok(), "debug\n");
        let wrong = process.run(&["log-level", "loud"]).await;
        assert_eq!(wrong.code, Some(1), "{wrong:?}");
        process.run(&["log-level", "--reset"]).await.ok();
        assert_eq!(process.run(&["log-level"]).await.ok(), "info\n");
        process.write("", &format!("[log]\nlevel = \"warn\"\n{}", to(&[&one, &two])));
        process.run(&["log-level", "debug"]).await.ok();
        process.run(&["reload"]).await.ok();
        assert_eq!(process.run(&["log-level"]).await.ok(), "warn\n");

        let limit = "/api/routes/all/rate-limit";
        let (status, told) = api(process.admin, "PUT", limit, "{\"dry_run\": true}").await;
        assert_eq!((status, &told["dry_run"]), (200, &true.into()), "{told:#}");
        let unknown = "/api/routes/none/rate-limit";
        assert_eq!(api(process.admin, "PUT", unknown, "{\"dry_run\": true}").await.0, 404);
        assert_eq!(api(process.admin, "PUT", limit, "{}").await.0, 400);
        assert_eq!(api(process.admin, "GET", "/api/reload", "").await.0, 405);
    })
    .await;
}

#[tokio::test]
async fn a_proxy_that_is_not_there_is_said_to_be_unreachable() {
    within(async {
        let mut process = start("[[route]]\nname = \"all\"\nrespond = {}").await;
        process.signal("TERM");
        assert_eq!(process.first_ended().await, Some(0));
        for command in ["status", "reload", "confirm", "rollback", "upgrade", "log-level"] {
            let ran = process.run(&[command]).await;
            assert_eq!((ran.code, &*ran.out), (Some(69), ""), "{command}: {ran:?}");
            assert!(ran.err.contains(&process.admin.to_string()), "{command}: {ran:?}");
        }
    })
    .await;
}
