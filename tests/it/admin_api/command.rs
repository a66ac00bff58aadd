//! `tollgate reload` and its like, as a user runs them.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;
use tollgate::admin::Refused;
use tollgate::layers::KeyDigest;

use super::operated::{Operated, PLAN};
use crate::support::Refusing;

/// What a command has come to.
struct Ran {
    code: i32,
    out: String,
    err: String,
}

fn run(dir: &Path, arguments: &[&str], token: Option<&str>) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.args(arguments).current_dir(dir).env_remove("TOLLGATE_ADMIN_TOKEN");
    if let Some(token) = token {
        command.env("TOLLGATE_ADMIN_TOKEN", token);
    }
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

/// A folder with a configuration that names this proxy's admin listener, and has
/// these lines besides.
fn configured(proxy: &Operated, admin: &str, rest: &str) -> TempDir {
    let dir = TempDir::new().unwrap();
    let text = format!("[admin]\naddress = \"{}\"\n{admin}\n{rest}\n", proxy.address);
    std::fs::write(dir.path().join("config.toml"), text).unwrap();
    dir
}

#[test]
fn a_reload_prints_the_plan_and_what_came_of_it() {
    let proxy = Operated::start(None);
    let dir = configured(&proxy, "", "");
    let planned = run(dir.path(), &["reload", "--plan"], None);
    assert_eq!((planned.code, &*planned.err), (0, ""));
    assert_eq!(planned.out, format!("{PLAN}This is what would change; nothing has.\n"));
    let reloaded = run(dir.path(), &["reload", "-c", "config.toml"], None);
    assert_eq!(reloaded.out, format!("{PLAN}Generation 4 is in force.\n"));
    let confirmed = run(dir.path(), &["reload", "--confirm", "1m 30s"], None);
    assert!(confirmed.out.contains("within 1m 30s: `tollgate confirm`"), "{}", confirmed.out);
    let out = |arguments: &[&str]| run(dir.path(), arguments, None).out;
    assert_eq!(out(&["confirm"]), "Generation 4 stays.\n");
    let back = out(&["rollback"]);
    assert!(back.starts_with("Rolled back: generation 4 is in force. The file still"), "{back}");
    assert!(out(&["upgrade"]).starts_with("Process 78 has taken over; "));
    assert_eq!(
        proxy.asked(),
        [
            "Reload { plan_only: true, confirm: None }",
            "Reload { plan_only: false, confirm: None }",
            "Reload { plan_only: false, confirm: Some(90s) }",
            "confirm",
            "roll back",
            "upgrade",
        ]
    );
}

#[test]
fn a_configuration_that_is_wrong_is_78_with_the_report_of_the_proxy() {
    const REPORT: &str = "error: config.toml:9:1: there is no such key\n\n1 problem in config.toml";
    let proxy = Operated::start(None);
    proxy.refuse(Refused::Invalid(REPORT.to_owned()));
    // Where the admin listener is has to be found in the file that is wrong.
    for rest in ["[server]\nwrokers = 2", "[server]\nworkers = = 2", "[[route]\nname = \"a"] {
        let dir = configured(&proxy, "", rest);
        for command in [&["reload"][..], &["reload", "--plan"], &["rollback"]] {
            let ran = run(dir.path(), command, None);
            assert_eq!((ran.code, &*ran.out), (78, ""), "{rest}");
            let stays = "Nothing has changed: the configuration in force stays.";
            assert_eq!(ran.err, format!("{REPORT}\n\n{stays}\n"), "{rest}");
        }
        // There it is not the configuration that is wrong.
        assert_eq!(run(dir.path(), &["log-level", "loud"], None).code, 1);
        assert_eq!(run(dir.path(), &["healthcheck"], None).out, "ready\n");
    }
}

#[test]
fn an_address_that_cannot_be_made_out_is_the_default_with_a_warning() {
    let proxy = Operated::start(None);
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("config.toml");
    std::fs::write(&path, "[admin]\naddress = 6190\n").unwrap();
    let address = proxy.address.to_string();
    let ran = run(dir.path(), &["confirm", "--address", &address], None);
    assert_eq!((ran.code, &*ran.err), (0, ""));
    let ran = run(dir.path(), &["confirm", "-c", "config.toml", "--address", &address], None);
    assert_eq!(ran.code, 0);
    assert!(ran.err.contains("warning: config.toml:2:11: `admin.address`"), "{}", ran.err);
    // Whatever may be at the default address meanwhile, it is that which is asked.
    std::fs::write(&path, "[admin]\nenabled = false\n").unwrap();
    let ran = run(dir.path(), &["confirm"], None);
    assert_eq!(ran.code, 69);
    assert!(ran.err.contains("--address"), "{}", ran.err);
}

#[test]
fn nobody_there_is_69_and_says_what_to_try() {
    let nobody = Refusing::new();
    let dir = TempDir::new().unwrap();
    let address = nobody.address.to_string();
    for command in ["reload", "confirm", "rollback", "upgrade", "status", "upstreams"] {
        let ran = run(dir.path(), &[command, "--address", &address], None);
        assert_eq!((ran.code, &*ran.out), (69, ""), "{command}");
        assert!(
            ran.err.contains(&address) && ran.err.contains("Is the proxy running?"),
            "{}",
            ran.err
        );
    }
    assert_eq!(run(dir.path(), &["healthcheck", "--address", &address], None).code, 1);
}

#[test]
fn a_refusal_is_1_with_the_reason() {
    let proxy = Operated::start(None);
    proxy.refuse(Refused::Conflict("another reload is under way".to_owned()));
    let dir = configured(&proxy, "", "");
    for command in ["reload", "confirm", "rollback", "upgrade"] {
        let ran = run(dir.path(), &[command], None);
        assert_eq!((ran.code, &*ran.out), (1, ""), "{command}");
        assert_eq!(ran.err, "tollgate: another reload is under way\n");
    }
    let ran = run(dir.path(), &["reload", "--json"], None);
    let problem: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((ran.code, &problem["code"]), (1, &"conflict".into()));
}

#[test]
fn the_token_comes_from_the_configuration_or_the_environment() {
    let proxy = Operated::start(Some(KeyDigest::of(b"hunter2")));
    let dir = configured(&proxy, "token = \"file:token\"", "[server]\nworkers = 0");
    std::fs::write(dir.path().join("token"), "hunter2\n").unwrap();
    assert_eq!(run(dir.path(), &["confirm"], None).code, 0);
    let digest = configured(&proxy, &format!("token = \"sha256:{}\"", "0".repeat(64)), "");
    let ran = run(digest.path(), &["confirm"], None);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("TOLLGATE_ADMIN_TOKEN"), "{}", ran.err);
    assert_eq!(run(digest.path(), &["confirm"], Some("hunter2")).code, 0);
    for wrong in ["hunter3", "hunter2\n3"] {
        let ran = run(dir.path(), &["confirm"], Some(wrong));
        assert_ne!(ran.code, 0);
        assert!(!ran.err.contains("hunter"), "{}", ran.err);
    }
}

#[test]
fn the_status_is_for_people_or_for_programs() {
    let proxy = Operated::start(None);
    let dir = configured(&proxy, "", "");
    let ran = run(dir.path(), &["status"], None);
    assert_eq!(
        ran.out,
        "tollgate 1.2.3, process 77: ready, up for 1h 1m 1s\n\
         configuration   /etc/tollgate/config.toml\n\
         generation      4, in force since 2027-01-15T08:00:00Z\n\
         last reload     failed (signal, 2027-01-15T08:00:00Z)\n\
         to be confirmed within 42 s, or it is rolled back\n\
         needs a restart server.workers, log.format\n\n\
         config.toml:3:1: `server.wrokers`: there is no such key\n"
    );
    let told: serde_json::Value =
        serde_json::from_str(&run(dir.path(), &["status", "--json"], None).out).unwrap();
    assert_eq!((&told["pid"], &told["state"]), (&77.into(), &"ready".into()));
}

#[test]
fn origins_and_the_log_are_changed_and_it_says_for_how_long() {
    let proxy = Operated::start(None);
    let dir = configured(&proxy, "", "");
    let origin = |arguments: &[&str]| {
        let all = [&["origin", "my api", "[::1]:80"], arguments].concat();
        run(dir.path(), &all, None)
    };
    let drained = origin(&["--drain"]).out;
    assert!(drained.starts_with("Origin [::1]:80 of my api: drained"), "{drained}");
    assert!(drained.contains("\nIt lasts until the next restart; a reload keeps it"), "{drained}");
    let shown = "[::1]:80: weight 3 (configured: 1), fit, drained, connections open: 2\n";
    assert_eq!(origin(&[]).out, shown);
    let all = run(dir.path(), &["upstreams"], None).out;
    assert!(all.starts_with("my api\n  127.0.0.1:80: ") && all.contains(shown), "{all}");
    for arguments in [&["--weight", "3", "--enable"][..], &["--reset-weight"]] {
        assert_eq!(origin(arguments).code, 0);
    }
    for wrong in [&["--drain", "--enable"][..], &["--weight", "3", "--reset-weight"]] {
        assert_eq!(origin(wrong).code, 2);
    }
    let level =
        |arguments: &[&str]| run(dir.path(), &[&["log-level"], arguments].concat(), None).out;
    assert_eq!(level(&[]), "info\n");
    assert!(level(&["info,tollgate::upstream=debug"]).contains("unless it changes log.level"));
    level(&["--reset"]);
    let asked = proxy.asked();
    assert_eq!(asked.len(), 6, "{asked:?}");
    for (asked, parts) in asked.iter().zip([
        &["my api [::1]:80", "\"drained\":true"][..],
        &["my api [::1]:80", "\"weight\":3", "\"drained\":false"],
        &["\"reset_weight\":true"],
        &["log level None"],
        &["log level Some(\"info,tollgate::upstream=debug\")"],
        &["log level None"],
    ]) {
        for part in parts {
            assert!(asked.contains(part), "no {part:?} in {asked:?}");
        }
    }
}
