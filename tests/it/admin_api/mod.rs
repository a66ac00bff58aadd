//! The admin listener, and the commands that ask it.

mod command;
mod operated;

use operated::Operated;
use tollgate::layers::KeyDigest;

use crate::support::client::ask;
use crate::support::within;

fn post(path: &str, fields: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{fields}Content-Length: 0\r\n\r\n")
}

#[tokio::test]
async fn a_change_is_in_the_log_with_whoever_asked_and_the_token_is_not() {
    within(async {
        let proxy = Operated::start(Some(KeyDigest::of(b"hunter2")));
        let bearer = "Authorization: Bearer hunter2\r\n";
        assert_eq!(ask(proxy.address, post("/api/upgrade", bearer)).await.status, 200);
        proxy.refuse(tollgate::admin::Refused::Conflict("not now".to_owned()));
        assert_eq!(ask(proxy.address, post("/api/reload", bearer)).await.status, 409);
        let wrong = "Authorization: Bearer hunter3\r\n";
        assert_eq!(ask(proxy.address, post("/api/reload", wrong)).await.status, 401);
        let log = proxy.log();
        let line = |words: &str| {
            let line = log.lines().find(|line| line.contains(words));
            line.unwrap_or_else(|| panic!("no {words:?} in\n{log}"))
        };
        assert!(line("admin: upgrade").contains("peer=127.0.0.1:"), "{log}");
        assert!(line("admin, refused: reload").contains("why=not now"), "{log}");
        assert!(!log.contains("hunter"), "{log}");
    })
    .await;
}

#[tokio::test]
async fn a_reload_goes_on_when_whoever_asked_goes_away() {
    within(async {
        let proxy = Operated::start(None);
        let release = proxy.hold();
        let mut client = crate::support::client::Raw::connect(proxy.address).await;
        client.send(post("/api/reload", "")).await;
        crate::support::eventually("it is asked", async || !proxy.asked().is_empty()).await;
        drop(client);
        // The listener looks after its connections again before the reload ends.
        assert_eq!(ask(proxy.address, post("/api/reload/confirm", "")).await.status, 200);
        assert_eq!(proxy.finished(), 0);
        release.notify_one();
        crate::support::eventually("it is finished", async || proxy.finished() == 1).await;
    })
    .await;
}
