//! What stands in `deploy/` goes together with what Tollgate is. Its own tools look
//! at it in `deploy/test.sh`.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tollgate::accept::ListenAddress;
use tollgate::config::{Settings, load};

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The values of all lines that say `key: value`.
fn values<'a>(yaml: &'a str, key: &str) -> Vec<&'a str> {
    let lines = yaml.lines().map(|line| line.trim_start().trim_start_matches("- "));
    let values = lines.filter_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    values.map(str::trim).collect()
}

/// The configuration in Kubernetes' manifest.
fn settings() -> Settings {
    let manifest = file("kubernetes/configmap.yaml");
    let (_, block) = manifest.split_once("config.toml: |\n").unwrap();
    let lines = block.lines().map(|line| line.strip_prefix("    ").unwrap_or_default());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    std::fs::write(&path, lines.collect::<Vec<_>>().join("\n")).unwrap();
    load(&path).unwrap_or_else(|report| panic!("{report}"))
}

#[test]
fn kubernetes_waits_for_the_lame_duck_and_the_drain() {
    let server = settings().server;
    let deployment = file("kubernetes/deployment.yaml");
    let grace = values(&deployment, "terminationGracePeriodSeconds")[0].parse().unwrap();
    assert!(Duration::from_secs(grace) > server.lame_duck + server.drain_timeout);
    assert!(server.lame_duck > Duration::ZERO, "there is no preStop hook that would wait");
}

#[test]
fn kubernetes_asks_where_tollgate_listens() {
    let settings = settings();
    let deployment = file("kubernetes/deployment.yaml");
    let ListenAddress::Tcp(public) = settings.listeners[0].addresses[0] else { panic!() };
    let admin = settings.admin.unwrap().address;
    let ports: Vec<u16> =
        values(&deployment, "containerPort").iter().map(|port| port.parse().unwrap()).collect();
    assert_eq!(ports, [public.port(), admin.port()]);
    assert!(!public.ip().is_loopback() && !admin.ip().is_loopback());
    for path in ["/readyz", "/livez"] {
        assert!(deployment.contains(&format!("path: {path}, port: admin")), "{path}");
    }
}

#[test]
fn systemd_runs_commands_that_there_are() {
    let unit = file("systemd/tollgate.service");
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.toml");
    // Nobody listens at port 1 of this machine; and there is nothing to serve.
    std::fs::write(&config, "[admin]\naddress = \"127.0.0.1:1\"\n").unwrap();
    for (key, code) in [("ExecStart=", 78), ("ExecReload=", 69)] {
        let line = unit.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        let arguments = line.strip_prefix("/usr/local/bin/tollgate ").unwrap();
        let arguments = arguments.replace("/etc/tollgate/config.toml", config.to_str().unwrap());
        let output = Command::new(env!("CARGO_BIN_EXE_tollgate"))
            .args(arguments.split(' '))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments}: {said}");
    }
    assert!(unit.contains("RestartPreventExitStatus=78"), "what a wrong configuration exits with");
}
