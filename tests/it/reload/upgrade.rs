//! One process after the other, with what it was told.

use std::os::unix::fs::MetadataExt;

use futures_util::{SinkExt, StreamExt};
use rustls::HandshakeKind;
use tempfile::TempDir;
use tokio::net::{TcpStream, UnixStream};
use tokio_tungstenite::tungstenite::Message;

use super::lame_duck::routes;
use super::process::{Process, free_address, runs, signal};
use super::{api, ask};
use crate::support::certs::{Authority, connect};
use crate::support::client::{Raw, get};
use crate::support::origin::Origin;
use crate::support::websocket::{closing, echo, upgrade};
use crate::support::{eventually, within};

/// Two origins, and listeners of each kind.
fn everything(one: &Origin, two: &Origin, tls: std::net::SocketAddr) -> String {
    format!(
        "[[listener]]\nname = \"local\"\naddress = \"unix:proxy.sock\"\n\
         [[listener]]\nname = \"secure\"\naddress = \"{tls}\"\n[listener.tls]\n\
         certificates = [{{ certificate = \"a.crt\", key = \"a.key\" }}]\n\
         [[route]]\nname = \"all\"\nupstream = \"group\"\n\
         rate_limit = {{ rate = 1, per = \"1h\", burst = 1 }}\n\
         [[upstream]]\nname = \"group\"\norigins = [\"{one}\", \"{two}\"]\n"
    )
}

async fn handshake(address: std::net::SocketAddr, config: &rustls::ClientConfig) -> HandshakeKind {
    let stream = connect(address, config.clone(), "a.test").await.unwrap();
    let kind = stream.get_ref().1.handshake_kind().unwrap();
    // The tickets come with the answer at the latest.
    assert_eq!(ask(&mut Raw::over(stream), "/").await.status, 200);
    kind
}

#[tokio::test]
async fn a_successor_has_the_sockets_and_what_was_changed_by_hand() {
    within(async {
        let (one, two) = (Origin::named("one").await, Origin::named("two").await);
        let (authority, dir, tls) = (Authority::new(), TempDir::new().unwrap(), free_address());
        authority.sign(dir.path(), "a", &["a.test"]);
        let rest = everything(&one, &two, tls);
        let mut process = Process::start(dir, "", &rest).await;
        process.write("max_in_flight = 9", &rest);
        process.run(&["reload"]).await.ok();
        process.run(&["origin", "group", &one.to_string(), "--drain", "--weight", "4"]).await.ok();
        process.run(&["log-level", "debug"]).await.ok();
        let limit = "/api/routes/all/rate-limit";
        assert_eq!(api(process.admin, "PUT", limit, "{\"dry_run\": true}").await.0, 200);
        let client = authority.client(&["http/1.1"]);
        assert_ne!(handshake(tls, &client).await, HandshakeKind::Resumed);
        let file = std::fs::metadata(process.path("proxy.sock")).unwrap().ino();
        let mut kept = Raw::connect(process.public).await;
        assert_eq!(ask(&mut kept, "/").await.text(), "two");

        // By a signal, then by the command.
        for round in 0..2 {
            if round == 0 {
                process.signal("USR2");
            } else {
                let old = process.pid();
                let said = process.run(&["upgrade"]).await.ok();
                assert!(
                    said.contains(&format!("has taken over; process {old} finishes")),
                    "{said}"
                );
            }
            let (old, new) = process.succeeded().await;
            let status = process.status().await;
            assert_eq!((&status["pid"], &status["generation"]), (&new.into(), &2.into()));
            assert_eq!(status["state"], "ready");
            for _ in 0..4 {
                let answer = get(process.public, "/", "").await;
                assert_eq!((answer.status, &*answer.text()), (200, "two"));
            }
            let mut local =
                Raw::over(UnixStream::connect(process.path("proxy.sock")).await.unwrap());
            assert_eq!(ask(&mut local, "/").await.status, 200);
            assert_eq!(std::fs::metadata(process.path("proxy.sock")).unwrap().ino(), file);
            assert_eq!(handshake(tls, &client).await, HandshakeKind::Resumed);
            let shown = process.run(&["upstreams"]).await.ok();
            assert!(shown.contains("weight 4 (configured: 1), fit, drained"), "{shown}");
            assert_eq!(process.run(&["log-level"]).await.ok(), "debug\n");
            if round == 0 {
                // An idle connection of the old process is closed, and the process ends.
                assert!(kept.read_to_end().await.is_empty());
                assert_eq!(process.first_ended().await, Some(0));
            }
            eventually("the old one is gone", async || !runs(old, process.dir.path())).await;
        }
        // It still is what it was told to be, and can be told otherwise.
        process.run(&["origin", "group", &one.to_string(), "--enable"]).await.ok();
        process.write("max_in_flight = 8", &rest);
        assert!(process.run(&["reload"]).await.ok().ends_with("Generation 3 is in force.\n"));
        process.signal("TERM");
        let last = process.pid();
        eventually("it ends", async || !runs(last, process.dir.path())).await;
        assert!(!process.path("proxy.sock").exists());
    })
    .await;
}

#[tokio::test]
async fn websockets_are_told_to_come_again_and_a_slow_answer_is_finished() {
    within(async {
        let (origin, _events) = echo().await;
        let slow = Origin::scripted(|mut connection| async move {
            while connection.request().await.is_some() {
                tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
                connection.write("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow").await;
            }
        })
        .await;
        let rest = format!(
            "{}[[route]]\nname = \"slow\"\npath = \"/slow\"\nupstream = \"slow\"\n\
             [[upstream]]\nname = \"slow\"\norigins = [\"{slow}\"]\n",
            routes(&origin)
        );
        // Whoever takes over is there at once: there is no lame duck to wait for.
        let mut process =
            Process::start(TempDir::new().unwrap(), "lame_duck = \"1h\"", &rest).await;
        let tcp = TcpStream::connect(process.public).await.unwrap();
        let (mut socket, _) = upgrade(Box::new(tcp), &[]).await;
        let mut asking = Raw::connect(process.public).await;
        asking.send("GET /slow HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        eventually("the origin has it", async || !slow.requests().is_empty()).await;
        socket.send(Message::text("before")).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("before"));
        process.run(&["upgrade"]).await.ok();
        process.succeeded().await;
        assert!(closing(socket).await.starts_with("close 1001"));
        let answer = asking.answer().await;
        assert_eq!((&*answer.text(), answer.field("connection")), ("slow", Some("close")));
        assert_eq!(process.first_ended().await, Some(0));
        let tcp = TcpStream::connect(process.public).await.unwrap();
        let (mut socket, _) = upgrade(Box::new(tcp), &[]).await;
        socket.send(Message::text("after")).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("after"));
    })
    .await;
}

#[tokio::test]
async fn a_configuration_that_is_broken_leaves_the_old_process_and_its_report_is_told() {
    within(async {
        let (origin, _events) = echo().await;
        let mut process = Process::start(TempDir::new().unwrap(), "", &routes(&origin)).await;
        let mut kept = Raw::connect(process.public).await;
        assert_eq!(ask(&mut kept, "/").await.text(), "yes");
        process.write("drain_timout = \"1s\"", &routes("127.0.0.1"));
        let ran = process.run(&["upgrade"]).await;
        assert_eq!((ran.code, &*ran.out), (Some(1), ""), "{ran:?}");
        let (status, told) = api(process.admin, "POST", "/api/upgrade", "").await;
        assert_eq!(status, 500, "{told:#}");
        let told = told["detail"].as_str().unwrap().to_owned();
        process.signal("USR2");
        eventually("the signal's failure is logged", async || {
            process.log().matches("this process serves on").count() == 3
        })
        .await;
        for part in ["config.toml:4:1", "`drain_timeout`", "a scheme is missing", "2 problems in"] {
            for (said, what) in [(&told, "API"), (&ran.err, "command"), (&process.log(), "log")] {
                assert!(said.contains(part), "no {part:?} for the {what} in {said}");
            }
        }
        assert!(!told.contains('\u{1b}') && !ran.err.contains('\u{1b}'), "{told:?}");
        assert!(process.started_by(process.pid()).is_empty());
        assert_eq!(process.status().await["pid"], process.pid());
        assert_eq!(ask(&mut kept, "/").await.text(), "yes");
        assert_eq!(get(process.public, "/", "").await.text(), "yes");
        // Mended, it goes well.
        process.write("", &routes(&origin));
        process.run(&["upgrade"]).await.ok();
        process.succeeded().await;
        assert_eq!(get(process.public, "/", "").await.text(), "yes");
    })
    .await;
}

/// A process whose successor reads a secret that does not come: it is started, and
/// never ready.
async fn with_a_hanging_successor() -> (Process, Origin, u32) {
    let (origin, _events) = echo().await;
    let process = Process::start(TempDir::new().unwrap(), "", &routes(&origin)).await;
    let made = std::process::Command::new("mkfifo").arg(process.path("fifo")).status();
    assert!(made.unwrap().success());
    let key = "[[route]]\nname = \"guarded\"\npath = \"/guarded\"\nrespond = {}\n\
               [route.api_key]\nkeys = [{ name = \"ci\", key = \"file:fifo\" }]\n";
    process.write("", &format!("{}{key}", routes(&origin)));
    process.signal("USR2");
    let mut started = Vec::new();
    eventually("a successor is started", async || {
        started = process.started_by(process.pid());
        !started.is_empty()
    })
    .await;
    (process, origin, started[0])
}

#[tokio::test]
async fn to_be_ended_during_an_upgrade_is_the_end_of_both() {
    within(async {
        let (mut process, _origin, successor) = with_a_hanging_successor().await;
        assert_eq!(get(process.public, "/", "").await.text(), "yes");
        process.signal("TERM");
        assert_eq!(process.first_ended().await, Some(0));
        eventually("the successor is gone", async || !runs(successor, process.dir.path())).await;
        assert!(TcpStream::connect(process.public).await.is_err());
    })
    .await;
}

#[tokio::test]
async fn a_successor_that_dies_leaves_the_old_process() {
    within(async {
        let (mut process, origin, successor) = with_a_hanging_successor().await;
        // Nothing else is changed meanwhile, and nobody is told otherwise.
        assert_eq!(process.status().await["state"], "ready");
        signal(successor, "KILL");
        eventually("it is logged", async || {
            process.log().contains("this process serves on: the new process ended before")
        })
        .await;
        assert_eq!(process.status().await["pid"], process.pid());
        assert_eq!(get(process.public, "/", "").await.text(), "yes");
        process.write("max_in_flight = 7", &routes(&origin));
        assert!(process.run(&["reload"]).await.ok().ends_with("Generation 2 is in force.\n"));
        process.run(&["upgrade"]).await.ok();
        process.succeeded().await;
        assert_eq!(process.first_ended().await, Some(0));
    })
    .await;
}

#[tokio::test]
async fn the_old_process_may_be_killed_once_another_serves() {
    within(async {
        let (origin, _events) = echo().await;
        let silent = Origin::scripted(|mut connection| async move {
            while connection.request().await.is_some() {}
        })
        .await;
        let rest = format!(
            "{}[[route]]\nname = \"silent\"\npath = \"/silent\"\nupstream = \"silent\"\n\
             [[upstream]]\nname = \"silent\"\norigins = [\"{silent}\"]\n",
            routes(&origin)
        );
        let mut process = Process::start(TempDir::new().unwrap(), "", &rest).await;
        // It has something to wait for.
        let mut asking = Raw::connect(process.public).await;
        asking.send("GET /silent HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        eventually("the origin has it", async || !silent.requests().is_empty()).await;
        process.run(&["upgrade"]).await.ok();
        let (old, new) = process.succeeded().await;
        signal(old, "KILL");
        assert_eq!(process.first_ended().await, None);
        assert!(asking.read_to_end().await.is_empty());
        for _ in 0..20 {
            assert_eq!(get(process.public, "/", "").await.text(), "yes");
        }
        assert_eq!(process.status().await["pid"], new);
        process.run(&["upgrade"]).await.ok();
        process.succeeded().await;
        assert_eq!(get(process.public, "/", "").await.text(), "yes");
    })
    .await;
}
