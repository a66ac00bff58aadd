//! How many connections an origin sees.

use crate::support::client::{Raw, get};
use crate::support::origin::Origin;
use crate::support::proxy::Setup;
use crate::support::{eventually, within};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Reads requests and never answers.
async fn mute() -> Origin {
    Origin::scripted(|mut connection| async move { while connection.request().await.is_some() {} })
        .await
}

fn pair(first: &Origin, second: &Origin, more: &str) -> Setup {
    Setup::new(format!(
        "[[route]]\nname = \"all\"\nupstream = \"pair\"\n\
         [[upstream]]\nname = \"pair\"\norigins = [\"{first}\", \"{second}\"]\n{more}\n"
    ))
}

#[tokio::test]
async fn an_origin_with_all_its_connections_is_passed_over_and_then_the_answer_is_503() {
    within(async {
        let (silent, quick) = (mute().await, Origin::answering(OK).await);
        let proxy = pair(&silent, &quick, "max_connections = 1").start();
        let mut waiting = Raw::connect(proxy.address).await;
        waiting.send("GET /waits HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        eventually("the silent origin is asked", async || silent.requests().len() == 1).await;
        for _ in 0..6 {
            assert_eq!(get(proxy.address, "/", "").await.status, 200);
        }
        assert_eq!((silent.connections(), quick.connections()), (1, 1));

        let alone = Setup::forwarding_with(&silent, "max_connections = 1").start();
        let mut waiting = Raw::connect(alone.address).await;
        waiting.send("GET /waits HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        eventually("the silent origin is asked again", async || silent.requests().len() == 2).await;
        let refused = get(alone.address, "/", "").await;
        assert_eq!(refused.status, 503);
        let reason = Some("tollgate; error=connection_limit_reached");
        assert_eq!(refused.field("proxy-status"), reason);
        // A client that goes away takes its connection along.
        drop(waiting);
        eventually("there is room again", async || {
            let mut next = Raw::connect(alone.address).await;
            next.send("GET /next HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            silent.requests().len() >= 3
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn connections_made_ahead_are_there_for_the_first_requests() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = Setup::forwarding_with(&origin, "warm = 3").start();
        eventually("three are made", async || origin.connections() == 3).await;
        assert!(origin.requests().is_empty());
        for _ in 0..3 {
            assert_eq!(get(proxy.address, "/", "").await.status, 200);
        }
        assert_eq!(origin.connections(), 3);
        assert!(!proxy.log_lines(3).await.iter().any(|line| line.contains("connect_ms")));
    })
    .await;
}
