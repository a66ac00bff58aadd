use std::path::Path;

use super::*;
use crate::config::parse;

/// A folder with the files `a` and `b`, a public key in each of `a.pem` and `b.pem`, and two
/// each of keys and users, which are alike.
fn files() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a", "b"] {
        let write = |kind: &str, text: &str| {
            std::fs::write(dir.path().join(format!("{kind}{name}")), text).unwrap();
        };
        write("", &format!("hunter2-{name}, and what makes it long enough"));
        let pem = rcgen::KeyPair::generate().unwrap().public_key_pem();
        std::fs::write(dir.path().join(format!("{name}.pem")), pem).unwrap();
        write("keys-", &format!("[[key]]\nname = \"b\"\nkey = \"sha256:{}\"", "5".repeat(64)));
        let hash = "$2y$05$CCCCCCCCCCCCCCCCCCCCC.7uG0VCzI2bS7j6ymqJi9CdcdxiRTWNy";
        write("users-", &format!("bob:{hash}"));
        write("hash-", &hash.replace("05", if name == "a" { "04" } else { "05" }));
    }
    dir
}

fn settings(dir: &Path, text: &str) -> Settings {
    parse(&dir.join("config.toml"), text).unwrap_or_else(|error| panic!("{error}"))
}

/// A line of `every_key.toml` that has another value.
struct Other {
    index: usize,
    /// What the plan should call the key.
    key: String,
}

/// The file with the first values, but the other one in this line; and which lines
/// have one.
fn every_key(other: Option<usize>) -> (String, Vec<Other>) {
    let (mut text, mut others, mut table) = (String::new(), Vec::new(), String::new());
    for (index, line) in include_str!("every_key.toml").lines().enumerate() {
        if let Some(name) = line.strip_prefix("[[").or_else(|| line.strip_prefix('[')) {
            let name = name.trim_end_matches(']');
            let below = name.split_once('.').map(|(_, below)| format!("{below}."));
            let first = name.split('.').next().unwrap_or(name);
            let once = ["server", "dns", "cache", "redis", "log", "access_log", "admin"];
            let once = once.contains(&first);
            table = if once { format!("{name}.") } else { below.unwrap_or_default() };
        }
        let (first, second) = line.split_once(" | ").unwrap_or((line, ""));
        if !second.is_empty() && !line.starts_with('#') {
            let (key, _) = first.split_once(" = ").unwrap();
            others.push(Other { index, key: format!("{table}{key}") });
        }
        match first.split_once(" = ") {
            Some((key, _)) if other == Some(index) => text += &format!("{key} = {second}\n"),
            _ => text += &format!("{first}\n"),
        }
    }
    (text, others)
}

/// Every key that a plan names.
fn named(plan: &Plan) -> Vec<String> {
    let Plan {
        listeners,
        certificates,
        upstreams,
        origins,
        authenticators,
        routes,
        settings,
        needs_restart,
    } = plan;
    let parts = [listeners, certificates, upstreams, origins, authenticators, routes];
    let within = parts
        .into_iter()
        .flat_map(|part| &part.changed)
        .flat_map(|item| item.changes.iter().map(|change| change.key.clone()));
    let tables = settings.iter().flat_map(|table| {
        table.changes.iter().map(|change| format!("{}.{}", table.name, change.key))
    });
    within.chain(tables).chain(needs_restart.iter().map(|change| change.key.clone())).collect()
}

#[test]
fn every_key_that_changes_is_called_what_the_file_calls_it() {
    let dir = files();
    let (text, others) = every_key(None);
    let before = settings(dir.path(), &text);
    assert!(Plan::between(&before, &before).is_empty());
    assert!(others.len() > 110, "{}", others.len());
    for Other { index, key } in others {
        let after = settings(dir.path(), &every_key(Some(index)).0);
        let plan = Plan::between(&before, &after);
        let mut named = named(&plan);
        // What only such a probe has comes with the type, and where it listens goes
        // with the admin listener.
        if key == "health.type" {
            named.truncate(1);
        }
        if key == "admin.enabled" {
            named.retain(|name| !["admin.address", "admin.token"].contains(&name.as_str()));
        }
        assert_eq!(named, [key], "{plan}");
    }
}

#[test]
fn defaults_that_are_written_down_change_nothing() {
    let dir = files();
    let text = "[[listener]]\nname = \"a\"\naddress = \"127.0.0.1:0\"\n\
                [[upstream]]\nname = \"a\"\norigins = [\"http://127.0.0.1:1\"]\n\
                [[route]]\nname = \"a\"\nupstream = \"a\"\n";
    let written = format!("[server]\ndrain_timeout = \"30s\"\n{text}upgrades = [\"websocket\"]\n");
    let plan = Plan::between(&settings(dir.path(), text), &settings(dir.path(), &written));
    assert!(plan.is_empty(), "{plan}");
    assert_eq!(plan.to_string(), "nothing changes");
    assert_eq!(plan.summary(), "nothing changes");
}

#[test]
fn what_is_left_running_is_what_needs_a_restart_and_nothing_else() {
    let dir = files();
    let (text, others) = every_key(None);
    let running = settings(dir.path(), &text);
    for Other { index, key } in others {
        let mut after = settings(dir.path(), &every_key(Some(index)).0);
        let before = Plan::between(&running, &after);
        after.keep_running(&running);
        let plan = Plan::between(&running, &after);
        assert!(plan.needs_restart.is_empty(), "{key}: {plan}");
        assert_eq!(plan.is_empty(), !before.needs_restart.is_empty(), "{key}: {plan}");
    }
}

const OLD: &str = r#"
[server]
workers = 2
trusted_proxies = ["10.0.0.0/8"]
[dns]
timeout = "2s"
[[listener]]
name = "public"
address = "0.0.0.0:443"
[listener.tls]
certificates = [{ certificate = "a", key = "a" }]
[[listener]]
name = "old"
address = "0.0.0.0:81"
[[upstream]]
name = "api"
origins = ["http://10.0.0.1:80", "http://10.0.0.2:80", "http://10.0.0.3:80"]
[[upstream]]
name = "web"
origins = ["http://10.0.1.1:80"]
[[upstream]]
name = "kept"
origins = ["http://10.0.2.1:80"]
[[route]]
name = "api"
path = "/api"
upstream = "api"
[route.rate_limit]
rate = 10
[route.headers.request]
set = { Authorization = "Bearer hunter2" }
[route.api_key]
keys = [{ name = "alice", key = "file:a" }, { name = "bob", key = "file:b" }]
[[route]]
name = "old"
path = "/old"
upstream = "web"
[[route]]
name = "all"
upstream = "web"
"#;

const NEW: &str = r#"
[server]
workers = 4
trusted_proxies = ["10.0.0.0/8", "192.168.0.0/16"]
[dns]
timeout = "3s"
[[listener]]
name = "public"
address = ["0.0.0.0:443", "[::]:443"]
backlog = 4096
[listener.tls]
certificates = [{ certificate = "a", key = "a" }, { certificate = "b", key = "b" }]
[[upstream]]
name = "api"
origins = ["http://10.0.0.1:80", { url = "http://10.0.0.2:80", weight = 3 }, "http://10.0.0.4:80"]
timeouts = { connect = "5s 500ms" }
[[upstream]]
name = "web"
origins = ["http://10.0.1.1:80", "http://10.0.1.2:80"]
[[upstream]]
name = "kept"
origins = ["http://10.0.2.1:80"]
[[upstream]]
name = "new"
origins = ["https://new.test"]
[[route]]
name = "api"
path = "/api"
upstream = "new"
[route.rate_limit]
rate = 20
[route.headers.request]
set = { Authorization = "Bearer hunter3" }
[route.api_key]
keys = [{ name = "alice", key = "file:b" }, { name = "carol", key = "file:a" }]
[[route]]
name = "all"
upstream = "web"
[[route]]
name = "docs"
path = "/docs"
redirect = { to = "https://docs.test" }
"#;

fn rich() -> Plan {
    let dir = files();
    // The golden text does not depend on where the folder is.
    let elsewhere = |text: &str| {
        let mut settings = settings(dir.path(), text);
        for one in settings.listeners.iter_mut().filter_map(|listener| listener.tls.as_mut()) {
            for one in &mut one.certificates {
                let name = one.certificate.file_name().unwrap();
                one.certificate = Path::new("/certs").join(name).with_extension("crt");
            }
        }
        settings
    };
    let mut plan = Plan::between(&elsewhere(OLD), &elsewhere(NEW));
    let certificate = |fingerprint: &str, not_after: &str| CertificateInUse {
        listener: "public".to_owned(),
        file: "/certs/a.crt".to_owned(),
        fingerprint: fingerprint.to_owned(),
        not_after: not_after.to_owned(),
    };
    let before = [certificate("3f2a41bb90c2d7e1", "2026-12-01")];
    plan.certificates(&before, &before);
    plan.certificates(&before, &[certificate("8c11aa0f2b3c4d5e", "2027-03-01")]);
    plan
}

#[test]
fn a_rich_plan_reads_well() {
    let text = rich().to_string();
    let expected = include_str!("rich.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config/plan/rich.txt");
        std::fs::write(path, format!("{text}\n")).unwrap();
        return;
    }
    assert_eq!(format!("{text}\n"), expected, "UPDATE_GOLDEN=1 takes the new one");
}

#[test]
fn nothing_secret_is_shown() {
    let plan = rich();
    let json = serde_json::to_string(&plan).unwrap();
    for text in [plan.to_string(), json, plan.summary()] {
        assert!(!text.contains("hunter") && !text.contains("Bearer"), "{text}");
    }
    assert!(!format!("{plan:?}").contains("hunter"));
}

#[test]
fn the_json_lists_things_by_kind() {
    let json = serde_json::to_value(rich()).unwrap();
    let names = |kind: &str, what: &str| -> Vec<String> {
        let items = json[kind][what].as_array().unwrap();
        items.iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("listeners", "removed"), ["old"]);
    assert_eq!(names("upstreams", "added"), ["new"]);
    assert_eq!(names("routes", "added"), ["docs"]);
    assert_eq!(names("origins", "removed"), ["http://10.0.0.3"]);
    assert_eq!(json["origins"]["added"][0]["of"], "api");
    assert_eq!(json["upstreams"]["kept"], 2);
    let change = serde_json::json!({
        "key": "timeouts.connect", "change": "value", "from": "5s", "to": "5s 500ms",
    });
    assert_eq!(json["upstreams"]["changed"][0]["changes"][0], change);
    assert_eq!(json["needs_restart"][0]["key"], "server.workers");
}

fn effects(change: impl FnOnce(&mut UpstreamSettings)) -> Vec<String> {
    let origins = ["http://10.0.0.1", "https://a.test", "h2c://10.0.0.3"];
    let origins = origins.map(|url| OriginSettings::new(url.parse().unwrap()));
    let upstream = UpstreamSettings::new("api", origins.to_vec());
    let mut old = Settings { upstreams: vec![upstream], ..Settings::default() };
    old.upstreams[0].health = Some(crate::upstream::HealthCheck::new(crate::upstream::Probe::Tcp));
    let mut new = old.clone();
    change(&mut new.upstreams[0]);
    Plan::between(&old, &new).upstreams.changed.remove(0).effects
}

#[test]
fn what_costs_connections_is_said_with_how_many() {
    let anew = |count: usize| {
        vec![format!("connections to {count} origins are made anew; health is kept")]
    };
    let second = std::time::Duration::from_secs(1);
    assert_eq!(effects(|upstream| upstream.timeouts.connect = second), anew(3));
    assert_eq!(effects(|upstream| upstream.h2.stream_window = 1 << 20), anew(2));
    let one = ["connections to 1 origin are made anew; its health is kept"];
    assert_eq!(effects(|upstream| upstream.tls.server_name = Some("b.test".into())), one);
    assert!(effects(|upstream| upstream.timeouts.idle_tunnel = second).is_empty());
    assert!(effects(|upstream| upstream.warm = 3).is_empty());
    assert_eq!(effects(|upstream| upstream.health = None).len(), 1);
}

#[test]
fn what_comes_and_goes_as_a_whole_is_said_in_one_line() {
    let dir = files();
    let base = "[[listener]]\nname = \"a\"\naddress = \"127.0.0.1:0\"\n\
                [[upstream]]\nname = \"a\"\norigins = [\"http://127.0.0.1:1\"]\n\
                [[route]]\nname = \"a\"\n";
    let forward =
        settings(dir.path(), &format!("{base}upstream = \"a\"\nrate_limit = {{ rate = 1 }}\n"));
    let respond = settings(dir.path(), &format!("{base}respond = {{ status = 204 }}\n"));
    let changes = |old: &Settings, new: &Settings| -> Vec<String> {
        let plan = Plan::between(old, new);
        plan.routes.changed[0].changes.iter().map(ToString::to_string).collect()
    };
    assert_eq!(
        changes(&forward, &respond),
        ["respond added", "upstream a -> none", "rate_limit removed"]
    );
    assert_eq!(
        changes(&respond, &forward),
        ["upstream none -> a", "rate_limit added", "respond removed"]
    );
}

#[test]
fn a_difference_that_no_key_tells_of_is_still_one() {
    let thing =
        |whole: u32| vec![Thing { name: "a".to_owned(), of: None, keys: Keys::default(), whole }];
    assert_eq!(part(thing(1), thing(1)).kept, 1);
    let part = part(thing(1), thing(2));
    assert_eq!(part.kept, 0);
    assert_eq!(part.changed[0].changes, [KeyChange::unnamed()]);
}

#[test]
fn one_that_is_there_twice_is_counted_twice() {
    let origin =
        |weight| OriginSettings { weight, ..OriginSettings::new("http://a".parse().unwrap()) };
    let with = |weights: &[u32]| {
        let origins = weights.iter().map(|weight| origin(*weight)).collect();
        let upstreams = vec![UpstreamSettings::new("api", origins)];
        Settings { upstreams, ..Settings::default() }
    };
    let plan = Plan::between(&with(&[1, 2]), &with(&[1]));
    assert_eq!((plan.origins.kept, plan.origins.removed.len()), (1, 1));
    let plan = Plan::between(&with(&[1, 1]), &with(&[1, 2]));
    assert_eq!((plan.origins.kept, plan.origins.changed.len()), (1, 1));
}
