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
fn what_cannot_be_built_is_told_with_its_place_and_nothing_that_follows() {
    let dir = with_config(
        "[[listener]]\nname = \"public\"\naddress = \"127.0.0.1:0\"\n\
         [listener.tls]\ncertificates = [{ certificate = \"a.pem\", key = \"b.key\" }]\n\
         [listener.tls.client_auth]\nca = \"b.key\"\n\
         [[auth]]\nname = \"tokens\"\n[auth.jwt]\npublic_key = \"a.pub\"\nalgorithms = [\"RS256\"]\n\
         [[auth]]\nname = \"keys\"\n[auth.api_key]\nidentity_header = \"Cookie\"\n\
         keys = [{ name = \"a\", key = \"file:secret\" }]\n\
         [[auth]]\nname = \"users\"\n[auth.basic]\nidentity_header = \"X-User\"\nfile = \"users\"\n\
         [[route]]\nname = \"one\"\nrespond = {}\nauth = \"tokens\"\n\
         [[route]]\nname = \"two\"\npath = \"/two\"\nrespond = {}\nauth = \"keys\"\n\
         [[route]]\nname = \"three\"\npath = \"/three\"\nrespond = {}\nauth = \"users\"\n\
         rate_limit = { rate = 1, key = \"header:X-User\" }\n",
    );
    let (one, other) = (rcgen::KeyPair::generate().unwrap(), rcgen::KeyPair::generate().unwrap());
    let certificate = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
    let write = |file: &str, text: &str| std::fs::write(dir.path().join(file), text).unwrap();
    write("a.pem", &certificate.self_signed(&one).unwrap().pem());
    write("a.pub", &one.public_key_pem());
    write("b.key", &other.serialize_pem());
    write("secret", "hunter2");
    write(
        "users",
        &format!("ann:{}\n", "$2y$10$CCCCCCCCCCCCCCCCCCCCC.7uG0VCzI2bS7j6ymqJi9CdcdxiRTWNy"),
    );
    let output = tollgate(dir.path(), &["check"]);
    assert_eq!(output.status.code(), Some(78));
    let report = text(&output.stderr);
    for part in [
        "config.toml:1:1: listener `public`: ",
        "does not belong",
        "b.key holds no certificate",
        "config.toml:8:1: auth `tokens`: the key cannot be used with RS256",
        "config.toml:13:1: auth `keys`: the origin cannot be told who asks by `cookie`",
        "config.toml:32:1: route `three`: the rate limit",
    ] {
        assert!(report.contains(part), "no {part:?} in\n{report}");
    }
    assert!(!report.contains("there is no authenticator"), "{report}");
    assert_eq!(report.matches("config.toml:").count(), 4, "{report}");
}

#[test]
fn what_is_hardly_meant_is_warned_of_and_taken() {
    let dir = with_config(
        "[[listener]]\nname = \"public\"\naddress = \"127.0.0.1:0\"\n\
         [[auth]]\nname = \"tokens\"\n[auth.jwt]\njwks = \"http://id.example/keys\"\n\
         [[auth]]\nname = \"here\"\n[auth.jwt]\njwks = \"http://127.0.0.1:1/keys\"\n\
         [[auth]]\nname = \"users\"\n[auth.basic]\nfile = \"users\"\n\
         [[route]]\nname = \"all\"\nrespond = {}\nauth = { any = [\"here\", \"users\"] }\n",
    );
    std::fs::write(
        dir.path().join("users"),
        "ann:$2y$05$CCCCCCCCCCCCCCCCCCCCC.7uG0VCzI2bS7j6ymqJi9CdcdxiRTWNy\n\
         ben:$2y$10$CCCCCCCCCCCCCCCCCCCCC.7uG0VCzI2bS7j6ymqJi9CdcdxiRTWNy\n\
         eve:$2y$09$CCCCCCCCCCCCCCCCCCCCC.7uG0VCzI2bS7j6ymqJi9CdcdxiRTWNy\n",
    )
    .unwrap();
    let output = tollgate(dir.path(), &["check"]);
    let warnings = text(&output.stderr);
    assert!(output.status.success(), "{warnings}");
    let told: Vec<&str> = warnings.lines().collect();
    for (told, part) in told.iter().zip([
        "warning: config.toml:4:1: `auth[0]`: no route asks for `tokens`",
        "warning: config.toml:7:8: `auth[0].jwt.jwks`: the keys come by plain HTTP",
        "warning: config.toml:14:1: `auth[2].basic`: the passwords are hashed in different ways",
        "warning: config.toml:14:1: `auth[2].basic`: the password of `ann` and of 1 more",
    ]) {
        assert!(told.contains(part), "no {part:?} in\n{warnings}");
    }
    assert_eq!(told.len(), 4, "{warnings}");
}

#[test]
fn a_file_whose_last_key_is_revoked_is_taken_without_any() {
    let dir = with_config(
        "[[listener]]\nname = \"public\"\naddress = \"127.0.0.1:0\"\n\
         [[route]]\nname = \"all\"\nrespond = {}\napi_key = { file = \"keys.toml\" }\n",
    );
    let digest = "00".repeat(32);
    let key = format!("[[key]]\nname = \"ci\"\nkey = \"sha256:{digest}\"\n");
    std::fs::write(dir.path().join("keys.toml"), key).unwrap();
    let revoke = ["keys", "revoke", "--file", "keys.toml", "--name", "ci"];
    let revoked = tollgate(dir.path(), &revoke);
    assert!(revoked.status.success(), "{}", text(&revoked.stderr));
    let check = tollgate(dir.path(), &["check"]);
    assert!(check.status.success(), "{}", text(&check.stderr));
    assert!(text(&check.stderr).contains("keys.toml lets nobody in"), "{}", text(&check.stderr));
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

fn fed(dir: &Path, arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tollgate"))
        .args(arguments)
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One that refuses its arguments may be gone by now.
    let _gone = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

#[test]
fn a_password_is_hashed_as_asked_and_never_shown() {
    let dir = TempDir::new().unwrap();
    for (arguments, before, scheme) in [
        (&["hash-password"][..], "", "$argon2id$v=19$m=19456,t=2,p=1$"),
        (&["hash-password", "--bcrypt"], "", "$2b$12$"),
        (&["hash-password", "--user", "ann"], "ann:", "$argon2id$"),
    ] {
        let output = fed(dir.path(), arguments, "hunter2\r\nnot this\n");
        let line = text(&output.stdout);
        let hash = line.trim_end().strip_prefix(before).unwrap();
        assert!(hash.starts_with(scheme), "{line}");
        let hash: tollgate::layers::PasswordHash = hash.parse().unwrap();
        assert_eq!(hash.verify(b"hunter2"), Some(true), "{line}");
        assert!(!line.contains("hunter2") && output.stderr.is_empty());
    }
    let empty = fed(dir.path(), &["hash-password"], "\n");
    assert_eq!(empty.status.code(), Some(70));
    assert!(text(&empty.stderr).contains("the password is empty"));
    let long = fed(dir.path(), &["hash-password", "--bcrypt"], &"x".repeat(73));
    assert!(text(&long.stderr).contains("72"), "{}", text(&long.stderr));
    let user = fed(dir.path(), &["hash-password", "--user", "a:b"], "x\n");
    assert_eq!(user.status.code(), Some(2));
}

#[test]
fn at_a_terminal_a_password_is_asked_for_twice_and_not_shown() {
    use std::io::Read;
    use std::os::fd::OwnedFd;
    let ask = |typed: &[&str]| {
        let dir = TempDir::new().unwrap();
        let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY;
        let ours = rustix::pty::openpt(flags).unwrap();
        rustix::pty::grantpt(&ours).unwrap();
        rustix::pty::unlockpt(&ours).unwrap();
        let name = rustix::pty::ptsname(&ours, Vec::new()).unwrap();
        let theirs = || -> OwnedFd {
            // It is not to become the terminal of whoever runs the tests.
            let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY;
            rustix::fs::open(&name, flags, rustix::fs::Mode::empty()).unwrap()
        };
        let mut child = Command::new(env!("CARGO_BIN_EXE_tollgate"))
            .arg("hash-password")
            .current_dir(dir.path())
            .stdin(theirs())
            .stdout(Stdio::piped())
            .stderr(theirs())
            .spawn()
            .unwrap();
        let mut ours = std::fs::File::from(ours);
        let mut shown = String::new();
        for line in typed {
            // Only what is asked for is typed: what was there before is thrown away.
            while !shown.ends_with(": ") {
                let mut byte = [0];
                ours.read_exact(&mut byte).unwrap();
                shown.push(byte[0].into());
            }
            shown.push('\n');
            writeln!(ours, "{line}").unwrap();
        }
        let mut hash = String::new();
        child.stdout.take().unwrap().read_to_string(&mut hash).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(i32::from(hash.is_empty())));
        let mut rest = [0; 1024];
        let count = ours.read(&mut rest).unwrap_or(0);
        (hash, shown + &text(&rest[..count]))
    };
    let (hash, shown) = ask(&["hunter2", "hunter2"]);
    assert!(shown.starts_with("Password: \n"), "{shown}");
    assert!(!shown.contains("hunter2"), "{shown}");
    let hash: tollgate::layers::PasswordHash = hash.trim().parse().unwrap();
    assert_eq!(hash.verify(b"hunter2"), Some(true));
    let (hash, shown) = ask(&["hunter2", "hunter3"]);
    assert!(hash.is_empty() && shown.contains("two passwords"), "{shown}");
}

#[test]
fn a_key_is_made_listed_and_revoked() {
    use std::os::unix::fs::PermissionsExt;
    let dir = TempDir::new().unwrap();
    let keys = |arguments: &[&str]| tollgate(dir.path(), &[&["keys"], arguments].concat());
    let arguments = ["new", "--name", "ci \"x\"", "--expires", "90d", "--scope", "read"];
    let more = ["--scope", "write", "--rate", "50/10s", "--burst", "99", "--file", "keys.toml"];
    let made = keys(&[&arguments[..], &more].concat());
    assert!(made.status.success(), "{}", text(&made.stderr));
    let key = text(&made.stdout);
    let key = key.trim_end();
    assert_eq!(key.len(), 42, "{key}");
    let path = dir.path().join("keys.toml");
    let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(), 0o600);
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
    // What is there already stays, such as a remark, and so does the mode.
    let before = std::fs::read_to_string(&path).unwrap();
    assert!(!before.contains(key), "{before}");
    std::fs::write(&path, format!("{before}# mine")).unwrap();
    let other = keys(&["new", "--name", "other", "--file", "keys.toml"]);
    assert!(other.status.success(), "{}", text(&other.stderr));
    let after = std::fs::read_to_string(&path).unwrap();
    assert!(after.starts_with(&format!("{before}# mine\n")), "{after}");
    assert_eq!(mode(), 0o640);
    let list = text(&keys(&["list", "--file", "keys.toml"]).stdout);
    let lines: Vec<&str> = list.lines().collect();
    assert_eq!(lines.len(), 2, "{list}");
    for part in ["ci \"x\"", "expires 20", "scopes read write", "50/10s, 99 at once"] {
        assert!(lines[0].contains(part), "{part}: {list}");
    }
    let id = lines[0].split(' ').next().unwrap();
    assert!(text(&made.stderr).contains(id));
    // A configuration takes the file as it is.
    std::fs::write(
        dir.path().join("config.toml"),
        "[[listener]]\nname = \"a\"\naddress = \"127.0.0.1:0\"\n[[route]]\nname = \"all\"\n\
         respond = {}\n[route.api_key]\nfile = \"keys.toml\"\n",
    )
    .unwrap();
    let check = tollgate(dir.path(), &["check"]);
    assert!(check.status.success(), "{}", text(&check.stderr));
    assert_eq!(keys(&["revoke", "--file", "keys.toml", "--id", "none"]).status.code(), Some(1));
    let revoked = keys(&["revoke", "--file", "keys.toml", "--id", id]);
    assert!(revoked.status.success(), "{}", text(&revoked.stderr));
    let list = text(&keys(&["list", "--file", "keys.toml"]).stdout);
    assert!(list.contains("other") && !list.contains("ci"), "{list}");
    let last = keys(&["revoke", "--file", "keys.toml", "--name", "other"]);
    assert!(last.status.success(), "{}", text(&last.stderr));
    assert_eq!(text(&keys(&["list", "--file", "keys.toml"]).stdout), "");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "something is left behind");
}

#[test]
fn keys_that_are_made_at_once_are_all_there_and_a_broken_file_is_left_alone() {
    let dir = TempDir::new().unwrap();
    let made: Vec<_> = (0..8)
        .map(|number| {
            Command::new(env!("CARGO_BIN_EXE_tollgate"))
                .args(["keys", "new", "--file", "keys.toml", "--name", &format!("n{number}")])
                .current_dir(dir.path())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    for mut child in made {
        assert!(child.wait().unwrap().success());
    }
    let list = text(&tollgate(dir.path(), &["keys", "list", "--file", "keys.toml"]).stdout);
    assert_eq!(list.lines().count(), 8, "{list}");
    let broken = "[[key]]\nname = \"a\"\nkey = \"hunter2\"\n";
    std::fs::write(dir.path().join("keys.toml"), broken).unwrap();
    let output = tollgate(dir.path(), &["keys", "new", "--name", "b", "--file", "keys.toml"]);
    assert_eq!(output.status.code(), Some(78));
    let report = text(&output.stderr);
    assert!(report.contains("keys.toml:3:7") && !report.contains("hunter2"), "{report}");
    assert_eq!(std::fs::read_to_string(dir.path().join("keys.toml")).unwrap(), broken);
}

#[test]
fn a_key_without_a_file_is_printed_with_its_line() {
    let dir = TempDir::new().unwrap();
    let output = tollgate(dir.path(), &["keys", "new", "--name", "ci", "--expires", "2999-01-31"]);
    let printed = text(&output.stdout);
    let lines: Vec<&str> = printed.lines().collect();
    assert!(lines[1].starts_with("# tg_"), "{printed}");
    assert!(lines[2].contains("expires = 2999-01-31T00:00:00Z"), "{printed}");
    let config = format!(
        "[[listener]]\nname = \"a\"\naddress = \"127.0.0.1:0\"\n[[route]]\nname = \"all\"\n\
         respond = {{}}\n[route.api_key]\nkeys = [\n{printed}]\n"
    );
    std::fs::write(dir.path().join("config.toml"), config).unwrap();
    let check = tollgate(dir.path(), &["check"]);
    assert!(check.status.success(), "{}", text(&check.stderr));
    for wrong in [
        &["keys", "new"][..],
        &["keys", "new", "--name", "a\n"],
        &["keys", "new", "--name", "a", "--scope", "a b"],
        &["keys", "new", "--name", "a", "--burst", "5"],
        &["keys", "new", "--name", "a", "--expires", "2001-01-01"],
        &["keys", "new", "--name", "a", "--redis", "tollgate:"],
        &["keys", "revoke", "--file", "keys.toml"],
        &["keys", "revoke", "--file", "keys.toml", "--id", "a", "--name", "a"],
    ] {
        assert_eq!(tollgate(dir.path(), wrong).status.code(), Some(2), "{wrong:?}");
    }
    let output = tollgate(dir.path(), &["keys", "revoke", "--file", "keys.toml"]);
    assert!(text(&output.stderr).contains("--id <ID>|--name <NAME>"), "{}", text(&output.stderr));
}

#[test]
fn a_key_is_put_into_redis() {
    use crate::support::redis::Redis;
    let redis = Redis::start();
    let dir = with_config(&format!(
        "[redis]\nurl = \"{}\"\n[[listener]]\nname = \"a\"\naddress = \"127.0.0.1:0\"\n\
         [[route]]\nname = \"all\"\nrespond = {{}}\n",
        redis.url()
    ));
    // Nothing of the file is read but where Redis is.
    let config = dir.path().join("config.toml");
    let whole = std::fs::read_to_string(&config).unwrap();
    let more = "[route.api_key]\nkeys = [{ name = \"a\", key = \"env:NOBODY_HAS_THIS\" }]\n";
    std::fs::write(&config, format!("{whole}{more}")).unwrap();
    let arguments = ["keys", "new", "--name", "ci", "--rate", "5/m", "--redis", "t:keys"];
    let output = tollgate(dir.path(), &arguments);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let key = text(&output.stdout);
    let digest: String = <sha2::Sha256 as sha2::Digest>::digest(key.trim_end())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let record = redis.ask(["GET", &format!("t:keys:{digest}")]);
    assert!(record.contains(r#""name":"ci""#) && record.contains(r#""per":"1m""#), "{record}");
    // What would let nobody in is not handed out.
    let never = ["--name", "ci", "--rate", "1/1y", "--burst", "11", "--redis", "t:keys"];
    let output = tollgate(dir.path(), &[&["keys", "new"], &never[..]].concat());
    assert_eq!((output.status.code(), &*text(&output.stdout)), (Some(1), ""));
    assert!(text(&output.stderr).contains("ten years"), "{}", text(&output.stderr));
    assert!(redis.ask(["DBSIZE"]).contains(":1\r\n"));
    drop(redis);
    let output = tollgate(dir.path(), &arguments);
    assert_eq!(output.status.code(), Some(69), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "");
}
