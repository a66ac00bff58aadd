//! What passes through, and how it ends.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::support::client::Raw;
use crate::support::proxy::Setup;
use crate::support::websocket::{
    ALL, Gate, HANDSHAKE, Over, closing, connecting, echo, h2_to, stream, switched, switching,
};
use crate::support::within;

#[tokio::test]
async fn messages_of_every_length_pass_unchanged() {
    within(async {
        let (origin, _events) = echo().await;
        for over in ALL {
            let gate = Gate::new(over, Setup::forwarding_to(&origin));
            let mut socket = gate.socket().await;
            for size in [0, 1, 125, 126, 65_535, 65_536, 200_000] {
                let bytes: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
                for message in [Message::binary(bytes), Message::text("é".repeat(size / 2))] {
                    socket.send(message.clone()).await.unwrap();
                    let back = socket.next().await.unwrap().unwrap();
                    assert!(back == message, "{over:?}: {size}");
                }
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_message_of_16_mib_passes_over_both_versions() {
    within(async {
        let (origin, _events) = echo().await;
        let bytes: Vec<u8> = (0..16_u32 << 20).map(|at| (at % 253) as u8).collect();
        let message = Message::binary(bytes);
        for over in [Over::Http1, Over::Http2] {
            let gate = Gate::new(over, Setup::forwarding_to(&origin));
            let mut socket = gate.socket().await;
            socket.send(message.clone()).await.unwrap();
            assert!(socket.next().await.unwrap().unwrap() == message, "{over:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn pings_pass_both_ways() {
    within(async {
        for over in ALL {
            let (origin, events) = echo().await;
            let gate = Gate::new(over, Setup::forwarding_to(&origin));
            let mut socket = gate.socket().await;
            socket.send(Message::Ping("hello".into())).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap(), Message::Pong("hello".into()));
            socket.send(Message::text("ping me")).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap(), Message::Ping("ping".into()));
            socket.flush().await.unwrap();
            events.see("pong ping").await;
        }
    })
    .await;
}

#[tokio::test]
async fn close_codes_pass_both_ways() {
    within(async {
        for over in [Over::Http1, Over::Http2] {
            for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011, 3000, 4000, 4999] {
                let (origin, events) = echo().await;
                let gate = Gate::new(over, Setup::forwarding_to(&origin));
                let mut socket = gate.socket().await;
                let frame = CloseFrame { code: u16::into(code), reason: "bye".into() };
                socket.close(Some(frame)).await.unwrap();
                assert_eq!(closing(socket).await, format!("close {code} bye"));
                events.see(&format!("close {code} bye")).await;

                let mut socket = gate.socket().await;
                socket.send(Message::text(format!("close {code}"))).await.unwrap();
                assert_eq!(closing(socket).await, format!("close {code} as asked"));
                events.see(&format!("close {code} as asked")).await;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_negotiated_is_between_the_two() {
    within(async {
        let compressed = [&[0xc1, 7][..], &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]].concat();
        let sent = compressed.clone();
        let origin = crate::support::origin::Origin::scripted(move |mut connection| {
            let sent = sent.clone();
            async move {
                let head = connection.request().await.unwrap();
                let more = "Sec-WebSocket-Protocol: chat.v2\r\n\
                            Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=15\r\n";
                connection.write(switched(&head, more)).await;
                connection.write(&sent).await;
                connection.some().await;
            }
        })
        .await;
        let asked = [
            ("sec-websocket-protocol", "chat.v1, chat.v2"),
            ("sec-websocket-extensions", "permessage-deflate; client_max_window_bits"),
        ];
        let proxy = Setup::forwarding_to(&origin).start();

        let mut client = Raw::connect(proxy.address).await;
        let more: String = asked.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        client.send(format!("GET / HTTP/1.1\r\nHost: a.test\r\n{HANDSHAKE}{more}\r\n")).await;
        let answer = client.answer().await;
        assert_eq!(answer.field("sec-websocket-protocol"), Some("chat.v2"));
        let extensions = "permessage-deflate; client_max_window_bits=15";
        assert_eq!(answer.field("sec-websocket-extensions"), Some(extensions));
        assert_eq!(answer.field("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        assert_eq!(client.read_exact(compressed.len()).await, compressed);

        let mut request = connecting("websocket");
        for (name, value) in asked {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        let mut sender = h2_to(proxy.address).await;
        let mut response = sender.send_request(request).await.unwrap();
        assert_eq!(response.headers()["sec-websocket-protocol"], "chat.v2");
        assert_eq!(response.headers()["sec-websocket-extensions"], extensions);
        let mut bytes = vec![0; compressed.len()];
        stream(&mut response).await.read_exact(&mut bytes).await.unwrap();
        assert_eq!(bytes, compressed);

        for request in origin.requests() {
            for (name, value) in asked {
                assert_eq!(crate::support::client::fields(&request, name), [value]);
            }
        }
    })
    .await;
}

/// Answers the client's last word after a while, longer than a tunnel may be
/// silent: in pieces that come sooner.
async fn slow_echo() -> crate::support::origin::Origin {
    switching(|mut connection| async move {
        let mut all = Vec::new();
        connection.stream.read_to_end(&mut all).await.unwrap();
        for piece in all.chunks(1) {
            tokio::time::sleep(Duration::from_millis(100)).await;
            connection.write(piece).await;
        }
    })
    .await
}

#[tokio::test]
async fn who_has_said_all_may_still_listen() {
    within(async {
        let origin = slow_echo().await;
        let timeouts = "[upstream.timeouts]\nidle_tunnel = \"300ms\"";
        let proxy = Setup::forwarding_with(&origin, timeouts).start();
        let mut client = TcpStream::connect(proxy.address).await.unwrap();
        let head = format!("GET / HTTP/1.1\r\nHost: a.test\r\n{HANDSHAKE}\r\nlast ");
        client.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(client.read_u8().await.unwrap());
        }
        assert!(answer.starts_with(b"HTTP/1.1 101 "));
        client.write_all(b"words").await.unwrap();
        client.shutdown().await.unwrap();
        let mut words = Vec::new();
        client.read_to_end(&mut words).await.unwrap();
        assert_eq!(words, b"last words");

        let mut sender = h2_to(proxy.address).await;
        let mut response = sender.send_request(connecting("websocket")).await.unwrap();
        let mut stream = stream(&mut response).await;
        stream.write_all(b"last words").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut words = Vec::new();
        stream.read_to_end(&mut words).await.unwrap();
        assert_eq!(words, b"last words");
        for line in proxy.log_lines(2).await {
            assert!(!line.contains("aborted"), "{line}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_silent_stream_is_ended_and_a_busy_one_is_not() {
    within(async {
        let (origin, events) = echo().await;
        let timeouts = "[upstream.timeouts]\nidle_tunnel = \"300ms\"";
        let gate = Gate::new(Over::Http2, Setup::forwarding_with(&origin, timeouts));
        let mut socket = gate.socket().await;
        for _ in 0..6 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            socket.send(Message::Ping("x".into())).await.unwrap();
            socket.next().await.unwrap().unwrap();
        }
        assert!(socket.next().await.is_none_or(|message| message.is_err()));
        events
            .see("broken: WebSocket protocol error: Connection reset without closing handshake")
            .await;
    })
    .await;
}
