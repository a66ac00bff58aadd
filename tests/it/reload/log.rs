//! The access log is moved away, or goes elsewhere.

use std::path::Path;

use tokio::net::TcpStream;
use tollgate::admin::{Refused, Reload};
use tollgate::observe::ReloadTrigger;

use super::process::Process;
use super::{ask, reload, to};
use crate::support::client::{Raw, get};
use crate::support::origin::Origin;
use crate::support::proxy::{Running, Setup};
use crate::support::websocket::{echo, upgrade};
use crate::support::{eventually, within};

fn lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// The setup, with the access log elsewhere.
async fn reload_logging_to(proxy: &Running, setup: &Setup, output: &str) -> Result<u64, Refused> {
    let toml = setup.toml().replace("output = \"access.log\"", &format!("output = \"{output}\""));
    std::fs::write(proxy.dir.path().join("config.toml"), toml).unwrap();
    let done = proxy.control.reload_now(ReloadTrigger::Api, Reload::default()).await?;
    Ok(done.generation)
}

#[tokio::test]
async fn a_file_that_was_moved_away_is_made_anew_and_no_line_is_lost() {
    const CLIENTS: usize = 4;
    within(async {
        let origin = Origin::named("one").await;
        let proxy = to(&origin).server("workers = 2").start();
        let path = |name: &str| proxy.dir.path().join(name);
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let mut clients = tokio::task::JoinSet::new();
        for number in 0..CLIENTS {
            let (mut client, stopped) = (Raw::connect(proxy.address).await, stopped.clone());
            clients.spawn(async move {
                let mut asked = 0;
                while !*stopped.borrow() {
                    assert_eq!(ask(&mut client, &format!("/{number}/{asked}")).await.status, 200);
                    asked += 1;
                }
                (number, asked)
            });
        }
        for round in 0..5 {
            std::fs::rename(path("access.log"), path(&format!("access.{round}"))).unwrap();
            // The configuration is the same, and still it is asked for.
            assert_eq!(reload(&proxy, &to(&origin).server("workers = 2")).await, Ok(1));
            assert!(path("access.log").exists());
            let marked = format!("/round/{round}");
            assert_eq!(get(proxy.address, &marked, "").await.status, 200);
            eventually("its line is in the new file", async || {
                lines(&path("access.log")).iter().any(|line| line.contains(&marked))
            })
            .await;
        }
        stop.send_replace(true);
        let mut expected = Vec::new();
        while let Some(asked) = clients.join_next().await {
            let (number, asked) = asked.unwrap();
            expected.extend((0..asked).map(|one| format!("/{number}/{one}")));
        }
        assert!(expected.len() > CLIENTS * 5, "there was load");
        expected.extend((0..5).map(|round| format!("/round/{round}")));
        expected.sort();
        let files = ["access.log", "access.0", "access.1", "access.2", "access.3", "access.4"];
        let files = files.map(path);
        let written = || {
            let all = files.iter().flat_map(|file| lines(file));
            let targets = all.filter_map(|line| {
                line.split([' ', '"']).find(|word| word.starts_with('/')).map(str::to_owned)
            });
            let mut targets: Vec<_> = targets.collect();
            targets.sort();
            targets
        };
        eventually("all lines are there", async || written().len() >= expected.len()).await;
        assert_eq!(written(), expected);
    })
    .await;
}

#[tokio::test]
async fn what_began_before_the_file_was_moved_is_in_the_new_one_when_it_ends() {
    within(async {
        let (origin, _events) = echo().await;
        let proxy = to(&origin).start();
        let tcp = TcpStream::connect(proxy.address).await.unwrap();
        let (mut socket, _) = upgrade(Box::new(tcp), &[]).await;
        let path = |name: &str| proxy.dir.path().join(name);
        std::fs::rename(path("access.log"), path("access.1")).unwrap();
        assert_eq!(reload(&proxy, &to(&origin)).await, Ok(1));
        socket.close(None).await.unwrap();
        drop(socket);
        eventually("its line is written", async || {
            !lines(&path("access.log")).is_empty() || !lines(&path("access.1")).is_empty()
        })
        .await;
        assert!(lines(&path("access.1")).is_empty(), "what was moved may be packed already");
    })
    .await;
}

#[tokio::test]
async fn a_file_that_was_moved_away_is_made_anew_whatever_becomes_of_the_configuration() {
    within(async {
        let fixed =
            |body: &str| format!("[[route]]\nname = \"all\"\nrespond = {{ body = \"{body}\" }}\n");
        let dir = tempfile::TempDir::new().unwrap();
        let process = Process::start(dir, "", &fixed("one")).await;
        let rotated = async |name: &str, how: &str| {
            std::fs::rename(process.path("access.log"), process.path(name)).unwrap();
            match how {
                "signal" => process.signal("HUP"),
                _ => assert_ne!(process.run(&["reload"]).await.code, Some(0)),
            }
            eventually("there is a new file", async || process.path("access.log").exists()).await;
            // Whoever opened it has told the log of it, and that waits no longer than a line.
            eventually("its lines are in the new file", async || {
                assert_eq!(get(process.public, "/", "").await.status, 200);
                !lines(&process.path("access.log")).is_empty()
            })
            .await;
        };
        process.write("", "nonsense");
        rotated("broken.1", "signal").await;
        rotated("broken.2", "command").await;
        process.write("", &fixed("two"));
        process.run(&["reload", "--confirm", "60s"]).await.ok();
        rotated("pending.1", "signal").await;
        rotated("pending.2", "command").await;
        process.run(&["rollback"]).await.ok();
        rotated("rolled-back", "signal").await;
    })
    .await;
}

#[tokio::test]
async fn it_goes_where_the_configuration_says_and_stays_if_it_cannot() {
    within(async {
        let origin = Origin::named("one").await;
        let proxy = to(&origin).start();
        let path = |name: &str| proxy.dir.path().join(name);
        let has = async |file: &str, count: usize| {
            eventually("the line is there", async || lines(&path(file)).len() == count).await;
        };
        let asked = async || assert_eq!(get(proxy.address, "/", "").await.status, 200);
        asked().await;
        has("access.log", 1).await;
        let refused = reload_logging_to(&proxy, &to(&origin), "none/such.log").await.unwrap_err();
        assert!(refused.to_string().contains("none/such.log"), "{refused}");
        asked().await;
        has("access.log", 2).await;
        assert_eq!(reload_logging_to(&proxy, &to(&origin), "other.log").await, Ok(2));
        asked().await;
        has("other.log", 1).await;
        assert_eq!(reload_logging_to(&proxy, &to(&origin), "off").await, Ok(3));
        asked().await;
        assert_eq!(reload(&proxy, &to(&origin).json_log()).await, Ok(4));
        asked().await;
        has("access.log", 3).await;
        assert!(lines(&path("access.log"))[2].starts_with('{'));
        assert_eq!(lines(&path("other.log")).len(), 1);
    })
    .await;
}
