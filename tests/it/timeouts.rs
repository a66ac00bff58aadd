//! Every phase has an end, and each its own answer.

use std::time::Duration;

use crate::support::client::{Raw, get};
use crate::support::origin::Origin;
use crate::support::proxy::Setup;
use crate::support::within;

/// Reads requests and never answers.
async fn mute() -> Origin {
    Origin::scripted(|mut connection| async move { while connection.request().await.is_some() {} })
        .await
}

#[tokio::test]
async fn an_origin_that_does_not_answer_is_504() {
    within(async {
        let origin = mute().await;
        let timeouts = "[upstream.timeouts]\nresponse_head = \"100ms\"";
        let proxy = Setup::forwarding_with(&origin, timeouts).start();
        let answer = get(proxy.address, "/", "").await;
        assert_eq!(answer.status, 504);
        assert_eq!(answer.field("proxy-status"), Some("tollgate; error=http_response_timeout"));
        assert!(proxy.log_lines(1).await[0].contains("no response head within 100ms"));
    })
    .await;
}

#[tokio::test]
async fn an_origin_that_does_not_accept_is_504() {
    within(async {
        // A full backlog: the kernel drops the SYN.
        let socket = socket2::Socket::new(
            socket2::Domain::IPV4,
            socket2::Type::STREAM,
            Some(socket2::Protocol::TCP),
        )
        .unwrap();
        let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
        socket.bind(&any.into()).unwrap();
        socket.listen(0).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let mut fill = Vec::new();
        for _ in 0..8 {
            let connect = tokio::net::TcpStream::connect(address);
            if let Ok(connected) = tokio::time::timeout(Duration::from_millis(100), connect).await {
                fill.push(connected);
            }
        }
        let timeouts = "[upstream.timeouts]\nconnect = \"100ms\"";
        let proxy = Setup::forwarding_with(format!("http://{address}"), timeouts).start();
        let answer = get(proxy.address, "/", "").await;
        assert_eq!(answer.status, 504);
        assert_eq!(answer.field("proxy-status"), Some("tollgate; error=connection_timeout"));
    })
    .await;
}

#[tokio::test]
async fn the_wait_for_the_answer_starts_when_the_request_is_sent() {
    within(async {
        let origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        let timeouts = "[upstream.timeouts]\nresponse_head = \"200ms\"";
        let proxy = Setup::forwarding_with(&origin, timeouts).start();
        let mut client = Raw::connect(proxy.address).await;
        client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\n").await;
        for byte in ["a", "b", "c", "d", "e"] {
            tokio::time::sleep(Duration::from_millis(150)).await;
            client.send(byte).await;
        }
        assert_eq!(client.answer().await.status, 200);
    })
    .await;
}

#[tokio::test]
async fn a_request_body_that_falls_silent_is_408() {
    within(async {
        let origin = mute().await;
        let proxy = Setup::new(format!(
            "[[upstream]]\nname = \"origin\"\norigins = [\"{origin}\"]\n\
             [[route]]\nname = \"all\"\nupstream = \"origin\"\nrequest_body_timeout = \"100ms\"\n"
        ))
        .start();
        let mut client = Raw::connect(proxy.address).await;
        client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nab").await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 408, "{}", answer.head);
        assert_eq!(answer.field("connection"), Some("close"));
        assert!(client.read_to_end().await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_response_body_that_falls_silent_is_cut_and_never_looks_complete() {
    within(async {
        let origin = Origin::scripted(|mut connection| async move {
            if connection.request().await.is_some() {
                let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n";
                connection.write(head).await;
                let _wait = connection.request().await;
            }
        })
        .await;
        let timeouts = "[upstream.timeouts]\nidle_body = \"100ms\"";
        let proxy = Setup::forwarding_with(&origin, timeouts).start();
        let mut client = Raw::connect(proxy.address).await;
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        client.read_until("part\r\n").await;
        assert_eq!(client.read_to_end().await, b"", "no last chunk may follow");
    })
    .await;
}

#[tokio::test]
async fn a_client_that_sends_nothing_or_half_a_head_is_cut() {
    within(async {
        let origin = mute().await;
        let proxy =
            Setup::forwarding_to(&origin).listener("request_head_timeout = \"100ms\"").start();
        for start in ["", "G", "GET / HTTP/1.1\r\nHost: a", "PRI * HTTP/2.0\r\n\r\nSM"] {
            let mut client = Raw::connect(proxy.address).await;
            client.send(start).await;
            client.read_to_end().await;
        }
        assert!(origin.bytes().is_empty());
    })
    .await;
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    within(async {
        let origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        let proxy =
            Setup::forwarding_to(&origin).listener("keep_alive_timeout = \"100ms\"").start();
        let mut client = Raw::connect(proxy.address).await;
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        assert_eq!(client.answer().await.status, 200);
        assert!(client.read_to_end().await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn idle_connections_to_an_origin_are_closed() {
    within(async {
        let origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        let timeouts = "[upstream.timeouts]\npool_idle = \"100ms\"";
        let proxy = Setup::forwarding_with(&origin, timeouts).start();
        get(proxy.address, "/", "").await;
        tokio::time::sleep(Duration::from_millis(150)).await;
        get(proxy.address, "/", "").await;
        assert_eq!(origin.connections(), 2);
    })
    .await;
}

#[tokio::test]
async fn a_client_that_takes_no_window_of_its_response_is_cut_though_it_answers_pings() {
    within(async {
        let origin = Origin::scripted(|mut connection| async move {
            while connection.request().await.is_some() {
                connection.write("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n").await;
                connection.write(vec![b'x'; 1_000_000]).await;
            }
        })
        .await;
        let proxy = Setup::forwarding_to(&origin).listener("send_timeout = \"200ms\"").start();
        let tcp = tokio::net::TcpStream::connect(proxy.address).await.unwrap();
        let (mut sender, connection) = h2::client::handshake(tcp).await.unwrap();
        // Driven, it answers every ping; the body is never asked for.
        let connection = tokio::spawn(connection);
        let request = http::Request::get("http://a.test/").body(()).unwrap();
        let (response, _) = sender.send_request(request, true).unwrap();
        let _untouched = response.await.unwrap();
        let _ended = connection.await.unwrap();
        let line = &proxy.log_lines(1).await[0];
        assert!(line.contains("aborted"), "{line}");
    })
    .await;
}
