//! A proxy that goes away says so, and lets the two sides finish.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::Message;

use crate::support::client::Raw;
use crate::support::origin::Origin;
use crate::support::proxy::{Running, Setup};
use crate::support::websocket::{ALL, Gate, HANDSHAKE, closing, echo, switching};
use crate::support::within;

/// Going Away, with no reason.
const GOING_AWAY: [u8; 4] = [0x88, 2, 0x03, 0xe9];

#[tokio::test]
async fn the_client_is_told_1001_and_its_answer_reaches_the_origin() {
    within(async {
        for over in ALL {
            let (origin, events) = echo().await;
            let mut gate =
                Gate::new(over, Setup::forwarding_to(&origin).server("drain_timeout = \"15s\""));
            let mut socket = gate.socket().await;
            socket.send(Message::text("x")).await.unwrap();
            socket.next().await.unwrap().unwrap();
            gate.proxy.begin_stop();
            assert_eq!(closing(socket).await, "close 1001 ");
            events.see("close 1001 ").await;
            events.see("end").await;
            assert_eq!(gate.proxy.ended().await.cut, 0, "{over:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn what_the_client_has_to_say_still_reaches_the_origin() {
    within(async {
        let (heard, mut hears) = tokio::sync::mpsc::unbounded_channel();
        let origin = switching(move |mut connection| {
            let heard = heard.clone();
            async move {
                loop {
                    let some = connection.some().await;
                    if some.is_empty() {
                        return;
                    }
                    heard.send(some).unwrap();
                }
            }
        })
        .await;
        let (mut proxy, mut client) = opened(&origin, "15s").await;
        proxy.begin_stop();
        assert_eq!(client.read_exact(4).await, GOING_AWAY);
        client.send("more, and then the end").await;
        let mut all = Vec::new();
        while all.len() < 22 {
            all.extend(hears.recv().await.unwrap());
        }
        assert_eq!(all, b"more, and then the end");
        drop(client);
        assert_eq!(proxy.ended().await.cut, 0);
    })
    .await;
}

async fn opened(origin: &Origin, drain_timeout: &str) -> (Running, Raw) {
    let drain = format!("drain_timeout = \"{drain_timeout}\"");
    let proxy = Setup::forwarding_to(origin).server(&drain).start();
    let mut client = Raw::connect(proxy.address).await;
    client.send(format!("GET / HTTP/1.1\r\nHost: a.test\r\n{HANDSHAKE}\r\n")).await;
    assert_eq!(client.answer().await.status, 101);
    (proxy, client)
}

/// Sends the next of these whenever the client has sent a byte, and then whatever
/// is told to it.
async fn sending(parts: &'static [&'static [u8]]) -> Origin {
    switching(move |mut connection| async move {
        for part in parts {
            connection.write(part).await;
            if connection.some().await.is_empty() {
                return;
            }
        }
        connection.some().await;
    })
    .await
}

#[tokio::test]
async fn a_frame_that_has_begun_comes_to_its_end_first() {
    within(async {
        let frame: &[&[u8]] = &[&[0x82, 10, 1, 2, 3], &[4, 5, 6, 7, 8, 9, 10, 0x82, 1, 1]];
        let origin = sending(frame).await;
        let (mut proxy, mut client) = opened(&origin, "15s").await;
        assert_eq!(client.read_exact(5).await, frame[0]);
        proxy.begin_stop();
        tokio::time::sleep(Duration::from_millis(100)).await;
        client.send("x").await;
        assert_eq!(client.read_exact(7).await, frame[1][..7]);
        // What comes after it would not be read by a client that knows the rules.
        assert_eq!(client.read_exact(4).await, GOING_AWAY);
        client.send("x").await;
        drop(client);
        assert_eq!(proxy.ended().await.cut, 0);
    })
    .await;
}

#[tokio::test]
async fn a_message_in_fragments_is_waited_for_but_not_for_ever() {
    within(async {
        let fragments: &[&[u8]] =
            &[&[0x02, 1, 1], &[0x89, 0], &[0x00, 1, 2], &[0x80, 1, 3], &[0x01, 1, 4], &[0x00, 0]];
        let origin = sending(fragments).await;
        let (mut proxy, mut client) = opened(&origin, "15s").await;
        client.read_exact(3).await;
        proxy.begin_stop();
        tokio::time::sleep(Duration::from_millis(100)).await;
        for fragment in &fragments[1..4] {
            client.send("x").await;
            assert_eq!(client.read_exact(fragment.len()).await, *fragment);
        }
        assert_eq!(client.read_exact(4).await, GOING_AWAY);
        drop(client);
        assert_eq!(proxy.ended().await.cut, 0);

        let origin = sending(&fragments[4..]).await;
        let (mut proxy, mut client) = opened(&origin, "15s").await;
        client.read_exact(3).await;
        proxy.begin_stop();
        // The rest of the message does not come.
        assert_eq!(client.read_exact(4).await, GOING_AWAY);
        drop(client);
        assert_eq!(proxy.ended().await.cut, 0);
    })
    .await;
}

#[tokio::test]
async fn who_does_not_go_is_cut_and_counted() {
    within(async {
        let origin = sending(&[&[0x82, 1, 1]]).await;
        let (mut proxy, mut client) = opened(&origin, "300ms").await;
        client.read_exact(3).await;
        proxy.begin_stop();
        assert_eq!(client.read_exact(4).await, GOING_AWAY);
        assert_eq!(proxy.ended().await.cut, 1);
        assert!(client.read_to_end().await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn nothing_is_put_after_the_origins_own_close_or_into_what_is_no_frame() {
    within(async {
        const CLOSE: &[&[u8]] = &[&[0x88, 2, 0x03, 0xe8]];
        for said in [CLOSE, &[b"no frames"]] {
            let origin = sending(said).await;
            let (mut proxy, mut client) = opened(&origin, "500ms").await;
            client.read_exact(said[0].len()).await;
            proxy.begin_stop();
            assert_eq!(proxy.ended().await.cut, 1);
            assert!(client.read_to_end().await.is_empty());
        }
    })
    .await;
}

#[tokio::test]
async fn other_protocols_are_not_spoken() {
    within(async {
        let origin = Origin::scripted(|mut connection| async move {
            connection.head().await.unwrap();
            connection
                .write("HTTP/1.1 101 Yes\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\n")
                .await;
            loop {
                let some = connection.some().await;
                if some.is_empty() {
                    return;
                }
                connection.write(some).await;
            }
        })
        .await;
        let mut proxy = Setup::new(format!(
            "[[upstream]]\nname = \"origin\"\norigins = [\"{origin}\"]\n\
             [[route]]\nname = \"all\"\nupstream = \"origin\"\nupgrades = [\"chat\"]\n"
        ))
        .server("drain_timeout = \"500ms\"")
        .start();
        let mut client = Raw::connect(proxy.address).await;
        client
            .send("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\n")
            .await;
        assert_eq!(client.answer().await.status, 101);
        proxy.begin_stop();
        tokio::time::sleep(Duration::from_millis(100)).await;
        client.send("still here").await;
        assert_eq!(client.read_exact(10).await, b"still here");
        assert_eq!(proxy.ended().await.cut, 1);
        assert!(client.read_to_end().await.is_empty());
    })
    .await;
}
