//! Real processes: each test starts this binary again, as what its part says.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::*;

/// Which part a process plays.
const PART: &str = "TOLLGATE_TEST_PART";

/// For what is to come to pass.
const PATIENCE: Duration = Duration::from_secs(30);

fn myself(part: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "handover::tests::another_process", "--ignored", "--nocapture"])
        .env(PART, part)
        .stdout(Stdio::null());
    command
}

async fn refused(command: Command, patience: Duration) -> UpgradeError {
    Successor::start(command, &[], Value::Null, patience).await.unwrap_err()
}

/// Not a test of its own: the other process of the tests below.
#[test]
#[ignore = "the other process of other tests"]
fn another_process() {
    // Somebody may run all tests that are to be ignored.
    let Ok(part) = std::env::var(PART) else { return };
    match &*part {
        "exits" => std::process::exit(3),
        "aborts" => std::process::abort(),
        "hangs" => std::thread::sleep(PATIENCE * 2),
        "speaks another version" => {
            let stdin = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
            let greeting = "{\"tollgate\":\"9.1.0\",\"handover\":9,\"mood\":\"good\"}\n";
            (&stdin).write_all(greeting.as_bytes()).unwrap();
            std::thread::sleep(PATIENCE);
        }
        "is first" => {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let error = runtime.block_on(refused(myself("exits"), PATIENCE));
            std::fs::write(std::env::var("TOLLGATE_TEST_FILE").unwrap(), error.to_string())
                .unwrap();
        }
        _ => play(&part),
    }
    std::process::exit(0);
}

/// The parts of those who were handed something.
fn play(part: &str) {
    let (predecessor, sockets, state) = match Predecessor::from_env() {
        Ok(given) => given.unwrap(),
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(78);
        }
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    match part {
        "fails" => predecessor.failed(state.as_str().unwrap()),
        "counts" => predecessor.failed(&sockets.len().to_string()),
        "tells what it has" => predecessor.failed(&belongings()),
        "never begins" => {
            let mut predecessor = predecessor;
            let _told = runtime.block_on(predecessor.ready());
            std::process::exit(4);
        }
        "serves" => serve(&runtime, predecessor, sockets, &state),
        "dies as a predecessor" => {
            let mut predecessor = predecessor;
            runtime.block_on(async {
                assert_eq!(predecessor.ready().await.unwrap(), Verdict::Go);
                predecessor.serving();
                let next = Successor::start(myself("serves"), &sockets, state, PATIENCE).await;
                std::mem::forget(next.unwrap());
            });
            std::process::abort();
        }
        other => panic!("no such part: {other}"),
    }
}

/// Answers one connection of each socket with what it was told, and what state it has.
fn serve(
    runtime: &tokio::runtime::Runtime,
    mut predecessor: Predecessor,
    sockets: Vec<OwnedFd>,
    state: &Value,
) {
    let verdict = runtime.block_on(predecessor.ready()).unwrap();
    predecessor.serving();
    let answer = format!("{verdict:?} {state} {}", std::process::id());
    for socket in sockets {
        let tcp = TcpListener::from(socket.try_clone().unwrap());
        if tcp.local_addr().is_ok() {
            tcp.accept().unwrap().0.write_all(answer.as_bytes()).unwrap();
        } else {
            let unix = UnixListener::from(socket);
            unix.accept().unwrap().0.write_all(answer.as_bytes()).unwrap();
        }
    }
}

fn belongings() -> String {
    let files: Vec<_> = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
        .collect();
    let set = |name| std::env::var(name).ok();
    json!({
        "files": files,
        "stdin": std::fs::read_link("/proc/self/fd/0").unwrap(),
        "removed": [set("LISTEN_FDS"), set("LISTEN_PID"), set("LISTEN_FDNAMES"), set("WATCHDOG_PID")],
        "kept": [set("NOTIFY_SOCKET"), set("WATCHDOG_USEC")],
    })
    .to_string()
}

/// Whether there is such a process, be it a zombie.
fn exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// Waits until there is no such process.
async fn gone(pid: u32) {
    let gone = async {
        while exists(pid) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
}

#[tokio::test]
async fn a_successor_answers_what_waits_at_the_sockets() {
    let folder = tempfile::tempdir().unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let unix = UnixListener::bind(folder.path().join("socket")).unwrap();
    let mut by_tcp = TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
    let mut by_unix = UnixStream::connect(folder.path().join("socket")).unwrap();
    let sockets = [OwnedFd::from(tcp), OwnedFd::from(unix)];
    let state = json!({ "weights": [1, 2] });
    let successor = Successor::start(myself("serves"), &sockets, state, PATIENCE).await.unwrap();
    let pid = successor.pid();
    successor.go().await.unwrap();
    drop(sockets);
    let expected = format!("Go {{\"weights\":[1,2]}} {pid}");
    for connection in [&mut by_tcp as &mut dyn std::io::Read, &mut by_unix] {
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, expected);
    }
    gone(pid).await;
}

#[tokio::test]
async fn a_successor_serves_alone_if_its_predecessor_dies() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let sockets = [OwnedFd::from(listener)];
    let middle = myself("dies as a predecessor");
    let middle = Successor::start(middle, &sockets, json!("as is"), PATIENCE).await.unwrap();
    middle.go().await.unwrap();
    drop(sockets);
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("Alone \"as is\" "), "{answer}");
}

#[tokio::test]
async fn more_sockets_than_a_message_carries_go_in_several() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let count = wire::BATCH + 7;
    let sockets: Vec<_> =
        (0..count).map(|_| OwnedFd::from(listener.try_clone().unwrap())).collect();
    let state = json!("x".repeat(300_000));
    match Successor::start(myself("counts"), &sockets, state, PATIENCE).await {
        Err(UpgradeError::Failed(text)) => assert_eq!(text, count.to_string()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_a_successor_says_of_its_failure_is_told_whole() {
    let report = "config.toml:3:1: error\n".repeat(20_000);
    let (command, state) = (myself("fails"), json!(report));
    match Successor::start(command, &[], state, PATIENCE).await {
        Err(UpgradeError::Failed(text)) => assert!(text == report, "{} bytes", text.len()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_successor_that_ends_is_told_by_its_status() {
    match refused(myself("exits"), PATIENCE).await {
        UpgradeError::Ended(status) => assert_eq!(status.code(), Some(3)),
        other => panic!("{other:?}"),
    }
    let error = refused(myself("aborts"), PATIENCE).await;
    assert!(error.to_string().contains("signal: 6"), "{error}");
}

#[tokio::test]
async fn a_successor_that_hangs_is_ended() {
    let folder = tempfile::tempdir().unwrap();
    let pid_file = folder.path().join("pid");
    let script = format!("echo $$ > {}; exec sleep 60", pid_file.display());
    let mut command = Command::new("sh");
    command.args(["-c", &script]);
    match refused(command, Duration::from_secs(3)).await {
        UpgradeError::TooSlow(patience) => assert_eq!(patience, Duration::from_secs(3)),
        other => panic!("{other:?}"),
    }
    let pid = std::fs::read_to_string(pid_file).unwrap();
    assert!(!exists(pid.trim().parse().unwrap()));
}

#[tokio::test]
async fn a_successor_that_ends_instead_of_beginning_is_told() {
    let successor =
        Successor::start(myself("never begins"), &[], Value::Null, PATIENCE).await.unwrap();
    match successor.go().await {
        Err(UpgradeError::Ended(status)) => assert_eq!(status.code(), Some(4)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn another_version_and_another_program_are_told_apart() {
    match refused(myself("speaks another version"), PATIENCE).await {
        UpgradeError::OtherProtocol { theirs: 9, version } => assert_eq!(version, "9.1.0"),
        other => panic!("{other:?}"),
    }
    let mut greeter = Command::new("sh");
    greeter.args(["-c", "echo hello >&0; exec sleep 60"]);
    match refused(greeter, PATIENCE).await {
        UpgradeError::Unintelligible(said) => assert_eq!(said, "hello"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_program_that_cannot_be_started_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tollgate");
    for expected in [std::io::ErrorKind::NotFound, std::io::ErrorKind::PermissionDenied] {
        match refused(Command::new(&file), PATIENCE).await {
            UpgradeError::CannotStart { program, cause } => {
                assert_eq!((program, cause.kind()), (file.clone(), expected));
            }
            other => panic!("{other:?}"),
        }
        std::fs::write(&file, "not executable").unwrap();
    }
}

#[tokio::test]
async fn a_successor_that_is_not_wanted_any_more_is_killed() {
    let successor = Successor::start(myself("serves"), &[], json!(1), PATIENCE).await.unwrap();
    let pid = successor.pid();
    assert!(exists(pid));
    drop(successor);
    gone(pid).await;
}

#[tokio::test]
async fn nothing_but_what_was_handed_over_is_inherited() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    let _open = std::fs::File::create(&secret).unwrap();
    let ours = TcpListener::bind("127.0.0.1:0").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let inode = |socket: &TcpListener| {
        let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(socket));
        std::fs::read_link(link).unwrap().to_str().unwrap().to_owned()
    };
    let (ours, handed) = (inode(&ours), (inode(&listener), OwnedFd::from(listener)));
    let mut command = myself("tells what it has");
    command.env("LISTEN_FDS", "1").env("LISTEN_PID", "1").env("LISTEN_FDNAMES", "http");
    command.env("WATCHDOG_PID", "1").env("WATCHDOG_USEC", "5").env("NOTIFY_SOCKET", "/notify");
    let told = Successor::start(command, &[handed.1], Value::Null, PATIENCE).await;
    let Err(UpgradeError::Failed(text)) = told else { panic!("{told:?}") };
    let belongings: Value = serde_json::from_str(&text).unwrap();
    let files = belongings["files"].as_array().unwrap();
    assert!(files.contains(&json!(handed.0)), "{files:?}");
    assert!(!files.contains(&json!(ours)), "{files:?}");
    assert!(!files.contains(&json!(secret)), "{files:?}");
    assert_eq!(belongings["stdin"], "/dev/null");
    assert_eq!(belongings["removed"], json!([null, null, null, null]));
    assert_eq!(belongings["kept"], json!(["/notify", "5"]));
}

#[test]
fn a_variable_that_was_passed_on_by_mistake_is_named() {
    let command = &mut myself("serves");
    let output = command.env(VARIABLE, "1").stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains("TOLLGATE_HANDOVER is set, but standard input is not"), "{said}");
}

#[test]
fn the_first_process_of_a_container_does_not_hand_over() {
    let folder = tempfile::tempdir().unwrap();
    let said = folder.path().join("said");
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc"]);
    if !command.arg("true").status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: this user may not make a name space of processes");
        return;
    }
    let program = myself("is first");
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc"]).arg(program.get_program());
    command.args(program.get_args()).env(PART, "is first").env("TOLLGATE_TEST_FILE", &said);
    assert!(command.stdout(Stdio::null()).status().unwrap().success());
    let said = std::fs::read_to_string(said).unwrap();
    assert!(said.contains("it is process 1, and the container ends with it"), "{said}");
}
