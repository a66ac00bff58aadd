//! The end: not ready first, then a drain, then a cut that is counted.

use std::time::Duration;

use tollgate::Ended;

use super::{GET, OK, slow};
use crate::support::client::{Raw, ask, get};
use crate::support::origin::Origin;
use crate::support::proxy::Setup;
use crate::support::websocket::{HANDSHAKE, switched};
use crate::support::{eventually, within};

async fn ready(admin: std::net::SocketAddr) -> (u16, String) {
    let answer = ask(admin, "GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    (answer.status, answer.text())
}

#[tokio::test]
async fn a_lame_duck_is_not_ready_and_serves_as_before() {
    within(async {
        let origin = Origin::answering(OK).await;
        let server = "lame_duck = \"2s\"\ndrain_timeout = \"10s\"";
        let mut proxy = Setup::forwarding_to(&origin).server(server).start();
        let mut kept = Raw::connect(proxy.address).await;
        proxy.begin_stop();
        let not_ready = (503, "draining\n".to_owned());
        eventually("it is not ready", async || ready(proxy.admin).await == not_ready).await;
        for _ in 0..10 {
            kept.send(GET).await;
            let answer = kept.answer().await;
            assert_eq!((answer.status, answer.field("connection")), (200, None));
            let answer = get(proxy.address, "/", "").await;
            assert_eq!((answer.status, answer.field("connection")), (200, None));
        }
        assert!(kept.read_to_end().await.is_empty());
        assert_eq!(proxy.ended().await, Ended::default());
    })
    .await;
}

#[tokio::test]
async fn what_is_cut_is_counted_by_kind() {
    within(async {
        let origin = Origin::scripted(|mut connection| async move {
            let Some(head) = connection.request().await else { return };
            if head.contains("websocket") {
                connection.write(switched(&head, "")).await;
            }
            std::future::pending::<()>().await;
        })
        .await;
        let server = "workers = 2\ndrain_timeout = \"2s\"";
        let mut proxy = Setup::forwarding_to(&origin).server(server).start();
        let (mut asking, mut tunnels) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let mut client = Raw::connect(proxy.address).await;
            client.send(GET).await;
            asking.push(client);
        }
        for _ in 0..2 {
            let mut client = Raw::connect(proxy.address).await;
            client.send(format!("GET / HTTP/1.1\r\nHost: a.test\r\n{HANDSHAKE}\r\n")).await;
            assert_eq!(client.answer().await.status, 101);
            tunnels.push(client);
        }
        let mut idle = Raw::connect(proxy.address).await;
        eventually("the origin has them", async || origin.requests().len() == 5).await;
        proxy.begin_stop();
        assert!(idle.read_to_end().await.is_empty());
        assert_eq!(proxy.ended().await, Ended { cut: 5, connections: 3, tunnels: 2 });
    })
    .await;
}

#[tokio::test]
async fn a_drain_from_the_first_moment_on_drops_nothing() {
    // The threads have barely begun then.
    for _ in 0..20 {
        within(async {
            let origin = slow(20).await;
            let setup = Setup::forwarding_to(&origin).server("workers = 4");
            let toml = setup.toml();
            let dir = tempfile::TempDir::new().unwrap();
            let settings = tollgate::config::parse(&dir.path().join("config.toml"), &toml);
            let bound = tollgate::Proxy::build(settings.unwrap()).unwrap().bind().unwrap();
            let address = bound.addresses("public")[0];
            let mut clients = Vec::new();
            for _ in 0..20 {
                let mut client = Raw::connect(address).await;
                client.send(GET).await;
                clients.push(client);
            }
            let run = bound.run(async {});
            let answered = async {
                for client in &mut clients {
                    assert_eq!(client.answer().await.status, 200);
                }
            };
            let (ended, ()) = tokio::join!(run, answered);
            assert_eq!(ended.unwrap(), Ended::default());
        })
        .await;
    }
}

#[tokio::test]
async fn a_client_that_asks_again_and_again_is_answered_to_the_last() {
    for _ in 0..5 {
        within(async {
            let origin = Origin::answering(OK).await;
            let mut proxy = Setup::forwarding_to(&origin).server("workers = 2").start();
            let mut clients = tokio::task::JoinSet::new();
            for _ in 0..16 {
                let mut client = Raw::connect(proxy.address).await;
                clients.spawn(async move {
                    loop {
                        client.send(GET).await;
                        let answer = client.answer().await;
                        assert_eq!(answer.status, 200);
                        if answer.field("connection") == Some("close") {
                            return;
                        }
                    }
                });
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            proxy.begin_stop();
            while let Some(client) = clients.join_next().await {
                client.unwrap();
            }
            assert_eq!(proxy.ended().await, Ended::default());
        })
        .await;
    }
}

#[tokio::test]
async fn a_drain_that_lasts_says_what_is_left_and_a_cut_what_it_cut() {
    within(async {
        let origin = slow(60_000).await;
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let toml = format!(
            "[server]\nworkers = 1\ndrain_timeout = \"6s\"\n[admin]\nenabled = false\n\
             [log]\nformat = \"json\"\n\
             [[listener]]\nname = \"public\"\naddress = \"{address}\"\n\
             [[route]]\nname = \"all\"\nupstream = \"origin\"\n\
             [[upstream]]\nname = \"origin\"\norigins = [\"{origin}\"]\n"
        );
        let dir = tempfile::TempDir::new().unwrap();
        std::fs::write(dir.path().join("config.toml"), toml).unwrap();
        let proxy = tokio::process::Command::new(env!("CARGO_BIN_EXE_tollgate"))
            .arg("run")
            .current_dir(dir.path())
            .env_remove("RUST_LOG")
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let listens = async || tokio::net::TcpStream::connect(address).await.is_ok();
        eventually("it listens", listens).await;
        let mut client = Raw::connect(address).await;
        client.send(GET).await;
        eventually("the origin has it", async || !origin.requests().is_empty()).await;
        let pid = proxy.id().unwrap().to_string();
        let told = std::process::Command::new("kill").args(["-TERM", &pid]).status();
        assert!(told.unwrap().success());
        let ended = proxy.wait_with_output().await.unwrap();
        let log = String::from_utf8(ended.stderr).unwrap();
        let left = "\"connections\":1,\"tunnels\":0";
        let lines = |what: &str| {
            log.lines().filter(|line| line.contains(what) && line.contains(left)).count()
        };
        assert_eq!((lines("\"draining\""), lines("; cut\"")), (2, 1), "{log}");
    })
    .await;
}
