//! Switching protocols.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use crate::support::client::{Raw, fields, get};
use crate::support::origin::Origin;
use crate::support::proxy::Setup;
use crate::support::websocket::HANDSHAKE;
use crate::support::{eventually, within};

/// Echoes WebSocket messages.
async fn echo() -> Origin {
    Origin::scripted(|connection| async move {
        let Ok(mut socket) = tokio_tungstenite::accept_async(connection.stream).await else {
            return;
        };
        while let Some(Ok(message)) = socket.next().await {
            if !message.is_close() && socket.send(message).await.is_err() {
                return;
            }
        }
    })
    .await
}

async fn websocket(address: std::net::SocketAddr) -> tokio_tungstenite::WebSocketStream<TcpStream> {
    let tcp = TcpStream::connect(address).await.unwrap();
    tokio_tungstenite::client_async("ws://a.test/ws", tcp).await.unwrap().0
}

#[tokio::test]
async fn a_websocket_passes_through() {
    within(async {
        let origin = echo().await;
        let proxy = Setup::forwarding_to(&origin).start();
        let mut socket = websocket(proxy.address).await;
        for size in [1, 1_000, 1_000_000] {
            let message = Message::text("x".repeat(size));
            socket.send(message.clone()).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap(), message);
        }
        socket.close(None).await.unwrap();
        while let Some(Ok(_)) = socket.next().await {}
        drop(socket);
        let line = &proxy.log_lines(1).await[0];
        assert!(line.contains(" 101 ") && !line.contains("aborted"), "{line}");
        let bytes = line.split(" in=").nth(1).unwrap().split(' ').next().unwrap();
        assert!(bytes.parse::<usize>().unwrap() > 1_001_001, "{line}");
    })
    .await;
}

#[tokio::test]
async fn an_origin_that_hangs_up_ends_the_tunnel() {
    within(async {
        let origin = Origin::scripted(|mut connection| async move {
            connection.head().await.unwrap();
            connection
                .write(
                    "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\
                     Upgrade: WebSocket\r\n\r\nhello",
                )
                .await;
        })
        .await;
        let proxy = Setup::forwarding_to(&origin).start();
        let mut client = Raw::connect(proxy.address).await;
        client.send(format!("GET / HTTP/1.1\r\nHost: a.test\r\n{HANDSHAKE}\r\n")).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 101);
        assert_eq!(answer.field("upgrade"), Some("websocket"));
        assert_eq!(client.read_to_end().await, b"hello");
    })
    .await;
}

#[tokio::test]
async fn a_protocol_that_the_route_does_not_allow_is_not_asked_for() {
    within(async {
        let origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        let proxy = Setup::forwarding_to(&origin).start();
        for token in ["h2c", "chat", "websocket, h2c"] {
            let asked = format!(
                "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: {token}\r\nHTTP2-Settings: x\r\n"
            );
            assert_eq!(get(proxy.address, "/", &asked).await.status, 200);
            let request = origin.requests().pop().unwrap();
            for gone in ["upgrade", "connection", "http2-settings"] {
                assert!(fields(&request, gone).is_empty(), "{token}: {request}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn another_protocol_passes_where_it_is_allowed() {
    within(async {
        let origin = Origin::scripted(|mut connection| async move {
            connection.head().await.unwrap();
            connection
                .write("HTTP/1.1 101 Yes\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\n")
                .await;
            let mut word = [0; 4];
            use tokio::io::AsyncReadExt;
            connection.stream.read_exact(&mut word).await.unwrap();
            connection.write(word).await;
        })
        .await;
        let proxy = Setup::new(format!(
            "[[upstream]]\nname = \"origin\"\norigins = [\"{origin}\"]\n\
             [[route]]\nname = \"all\"\nupstream = \"origin\"\nupgrades = [\"chat\"]\n"
        ))
        .start();
        let mut client = Raw::connect(proxy.address).await;
        client
            .send("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\n")
            .await;
        assert_eq!(client.answer().await.status, 101);
        client.send("ping").await;
        assert_eq!(client.read_exact(4).await, b"ping");
    })
    .await;
}

#[tokio::test]
async fn an_answer_of_another_protocol_is_502() {
    within(async {
        let origin = Origin::answering(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\n",
        )
        .await;
        let proxy = Setup::forwarding_to(&origin).start();
        let answer = get(proxy.address, "/", HANDSHAKE).await;
        assert_eq!(answer.status, 502);
        assert_eq!(answer.field("proxy-status"), Some("tollgate; error=http_upgrade_failed"));
    })
    .await;
}

#[tokio::test]
async fn a_tunnel_still_counts_as_connection_and_as_exchange() {
    within(async {
        let origin = echo().await;
        for limit in ["max_connections = 1", "max_in_flight = 1"] {
            let proxy = Setup::forwarding_to(&origin).server(limit).start();
            let mut socket = websocket(proxy.address).await;
            socket.send(Message::text("x")).await.unwrap();
            socket.next().await.unwrap().unwrap();
            let refused = async || {
                let mut other = Raw::connect(proxy.address).await;
                other.try_send("GET / HTTP/1.1\r\nHost: a.test\r\nX: y\r\n\r\n").await;
                !other.read_to_end_or("HTTP/1.1 ").await || other.answer().await.status == 503
            };
            assert!(refused().await, "{limit}");
            drop(socket);
            eventually("there is room again", async || !refused().await).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_silent_tunnel_is_cut_and_a_busy_one_is_not() {
    within(async {
        let origin = echo().await;
        let timeouts = "[upstream.timeouts]\nidle_tunnel = \"300ms\"";
        let proxy = Setup::forwarding_with(&origin, timeouts).start();
        let mut socket = websocket(proxy.address).await;
        for _ in 0..6 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            socket.send(Message::text("x")).await.unwrap();
            socket.next().await.unwrap().unwrap();
        }
        assert!(socket.next().await.is_none_or(|message| message.is_err()));
    })
    .await;
}
