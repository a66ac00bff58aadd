//! The command, as a user runs it.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

fn tollgate(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tollgate"))
        .args(arguments)
        .current_dir(dir)
        .env_remove("RUST_LOG")
        .output()
        .unwrap()
}

fn with_config(toml: &str) -> TempDir {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("config.toml"), toml).unwrap();
    dir
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A free port; nobody else on this machine is likely to take it meanwhile.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn a_broken_configuration_is_78_with_every_place_and_binds_nothing() {
    let port = free_port();
    let dir = with_config(&format!(
        "[[listener]]\nname = \"public\"\naddress = \"127.0.0.1:{port}\"\nbcklog = 5\n\
         [[upstream]]\nname = \"api\"\norigins = [\"127.0.0.1:1\"]\n\
         [[route]]\nname = \"all\"\nupstream = \"apii\"\n"
    ));
    for command in ["check", "run"] {
        let output = tollgate(dir.path(), &[command, "-c", "config.toml"]);
        assert_eq!(output.status.code(), Some(78), "{command}");
        let report = text(&output.stderr);
        for part in [
            "config.toml:4:1",
            "`backlog`",
            "config.toml:7:12",
            "a scheme is missing",
            "config.toml:10:12",
            "did you mean `api`?",
            "3 problems in config.toml",
        ] {
            assert!(report.contains(part), "no {part:?} in\n{report}");
        }
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
    }
}

#[test]
fn a_missing_file_and_a_broken_certificate_are_78_too() {
    let dir = TempDir::new().unwrap();
    let output = tollgate(dir.path(), &["check", "-c", "none.toml"]);
    assert_eq!(output.status.code(), Some(78));
    assert!(text(&output.stderr).contains("none.toml"));
    let dir = with_config(
        "[[listener]]\nname = \"public\"\naddress = \"127.0.0.1:0\"\n\
         [listener.tls]\ncertificates = [{ certificate = \"a.pem\", key = \"a.pem\" }]\n\
         [[route]]\nname = \"all\"\nrespond = {}\n",
    );
    std::fs::write(dir.path().join("a.pem"), "no certificate").unwrap();
    let output = tollgate(dir.path(), &["check"]);
    assert_eq!(output.status.code(), Some(78));
    assert!(text(&output.stderr).contains("holds no certificate"), "{}", text(&output.stderr));
}

#[test]
fn a_sound_configuration_is_ok_and_help_and_version_answer() {
    let dir = with_config(
        "[[listener]]\nname = \"public\"\naddress = \"127.0.0.1:0\"\n\
         [[route]]\nname = \"all\"\nrespond = {}\n",
    );
    let output = tollgate(dir.path(), &["check"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(
        text(&output.stdout),
        "config.toml: ok: 1 listener, 0 upstreams (0 origins), 1 route\n"
    );
    let version = tollgate(dir.path(), &["--version"]);
    assert_eq!(text(&version.stdout), format!("tollgate {}\n", env!("CARGO_PKG_VERSION")));
    assert!(text(&tollgate(dir.path(), &["--help"]).stdout).contains("tollgate demo"));
    assert_eq!(tollgate(dir.path(), &["nonsense"]).status.code(), Some(2));
}

#[test]
fn an_address_that_is_taken_is_69_and_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let dir = with_config(&format!(
        "[[listener]]\nname = \"public\"\naddress = \"{address}\"\n\
         [[route]]\nname = \"all\"\nrespond = {{}}\n[admin]\nenabled = false\n"
    ));
    let output = tollgate(dir.path(), &["run"]);
    assert_eq!(output.status.code(), Some(69));
    let message = text(&output.stderr);
    assert!(message.contains(&address.to_string()), "{message}");
    assert!(message.contains("another process"), "{message}");
}

#[test]
fn a_key_is_hashed_as_sha256() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tollgate"))
        .arg("hash-key")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"secret123\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let digest = "fcf730b6d95236ecd3c9fc2d92d7b6b2bb061514961aec041d6c7a7192f592e4";
    assert_eq!(text(&output.stdout), format!("key = \"sha256:{digest}\"\n"));
    assert!(include_str!("../../config.toml").contains(digest), "the sample has the demo key");
}

/// A running command that is ended with the test.
struct Child(std::process::Child);

impl Drop for Child {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

impl Child {
    fn terminate(&self) {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    }

    fn exit_code(&mut self) -> Option<i32> {
        let until = SystemTime::now() + Duration::from_secs(10);
        while SystemTime::now() < until {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it did not end");
    }
}

#[test]
fn the_demo_serves_and_its_health_can_be_asked_for() {
    let (public, admin, one, two) = (free_port(), free_port(), free_port(), free_port());
    let sample = include_str!("../../config.toml")
        .replace("0.0.0.0:6188", &format!("127.0.0.1:{public}"))
        .replace("127.0.0.1:6190", &format!("127.0.0.1:{admin}"))
        .replace("127.0.0.1:6201", &format!("127.0.0.1:{one}"))
        .replace("127.0.0.1:6202", &format!("127.0.0.1:{two}"));
    let dir = with_config(&sample);
    let mut demo = Child(
        Command::new(env!("CARGO_BIN_EXE_tollgate"))
            .arg("demo")
            .current_dir(dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let healthy = || tollgate(dir.path(), &["healthcheck"]).status.code();
    let until = SystemTime::now() + Duration::from_secs(10);
    while healthy() != Some(0) {
        assert!(SystemTime::now() < until, "the demo never got ready");
        std::thread::sleep(Duration::from_millis(20));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(crate::support::within(demo_answers(dir.path(), public)));
    demo.terminate();
    assert_eq!(demo.exit_code(), Some(0));
    assert_eq!(healthy(), Some(1));
}

/// Asks as the printed lines do: with the key, without, and too often.
async fn demo_answers(dir: &Path, port: u16) {
    use crate::support::certs::connect;
    use crate::support::client::Raw;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;

    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(dir.join("certs/demo.crt")).unwrap()).unwrap();
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let config = rustls::ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let address = ([127, 0, 0, 1], port).into();
    let mut client = Raw::over(connect(address, config, "localhost").await.unwrap());
    let mut ask = async |fields: &str| {
        client.send(format!("GET / HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n")).await;
        client.answer().await
    };
    let key = "X-API-Key: secret123\r\n";
    let mut origins = Vec::new();
    for _ in 0..2 {
        let answer = ask(key).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.field("server"), Some("tollgate"));
        assert_eq!(answer.field("x-powered-by"), None);
        let about: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(about["headers"]["x-client"], "demo");
        assert!(about["headers"].get("x-api-key").is_none());
        origins.push(about["origin"].as_str().unwrap().to_owned());
    }
    origins.sort();
    assert_eq!(origins, ["origin-1", "origin-2"]);
    assert_eq!(ask("").await.status, 401);
    let mut statuses = Vec::new();
    for _ in 0..40 {
        statuses.push(ask(key).await.status);
    }
    assert!(statuses.contains(&429), "{statuses:?}");
}
