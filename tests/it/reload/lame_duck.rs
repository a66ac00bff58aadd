//! The end of a process, as load balancers and clients see it.

use futures_util::{SinkExt, StreamExt};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use super::ask;
use super::process::Process;
use crate::support::client::{self, Raw, get};
use crate::support::websocket::{closing, echo, upgrade};
use crate::support::{eventually, within};

/// A fixed answer, and WebSockets below `/ws`.
pub fn routes(websockets: impl std::fmt::Display) -> String {
    format!(
        "[[route]]\nname = \"fixed\"\nrespond = {{ body = \"yes\" }}\n\
         [[route]]\nname = \"ws\"\npath = \"/ws\"\nupstream = \"ws\"\n\
         [[upstream]]\nname = \"ws\"\norigins = [\"{websockets}\"]\n"
    )
}

#[tokio::test]
async fn a_lame_duck_is_not_ready_then_drains_and_says_goodbye() {
    within(async {
        let (origin, events) = echo().await;
        let server = "lame_duck = \"1500ms\"\ndrain_timeout = \"10s\"";
        let dir = TempDir::new().unwrap();
        let mut process = Process::start(dir, server, &routes(&origin)).await;
        let mut kept = Raw::connect(process.public).await;
        assert_eq!(ask(&mut kept, "/").await.text(), "yes");
        let tcp = TcpStream::connect(process.public).await.unwrap();
        let (mut socket, _) = upgrade(Box::new(tcp), &[]).await;
        process.signal("TERM");
        let ready = "GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n";
        eventually("it is not ready", async || {
            client::ask(process.admin, ready).await.status == 503
        })
        .await;
        // All else goes on: new connections, requests, messages, and what operators ask.
        assert_eq!(process.phase().await.as_deref(), Some("draining"));
        let answer = ask(&mut kept, "/").await;
        assert_eq!((answer.status, answer.field("connection")), (200, None));
        let answer = get(process.public, "/", "").await;
        assert_eq!((answer.status, answer.field("connection")), (200, None));
        socket.send(Message::text("still")).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("still"));
        // Nobody is to begin anything new with a process that ends.
        let refused = process.run(&["upgrade"]).await;
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(closing(socket).await.starts_with("close 1001"));
        events.see("close 1001 ").await;
        assert!(kept.read_to_end().await.is_empty());
        assert_eq!(process.first_ended().await, Some(0));
        assert!(TcpStream::connect(process.public).await.is_err());
        let log = process.log();
        assert!(log.contains("ended") && log.contains("cut=0"), "{log}");
    })
    .await;
}

#[tokio::test]
async fn a_second_signal_does_not_wait_for_the_lame_duck() {
    within(async {
        let (origin, _events) = echo().await;
        let dir = TempDir::new().unwrap();
        let server = "lame_duck = \"1h\"";
        let mut process = Process::start(dir, server, &routes(&origin)).await;
        process.signal("TERM");
        eventually("it is ending", async || process.phase().await.as_deref() != Some("ready"))
            .await;
        process.signal("TERM");
        assert_eq!(process.first_ended().await, Some(130));
    })
    .await;
}
