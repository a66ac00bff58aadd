//! Clients that take their time with a head, or never send one.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::attack::{Target, echoing};
use crate::support::client::{Raw, ask, get};
use crate::support::proxy::Setup;
use crate::support::{eventually, within};

const HASTY: &str = "request_head_timeout = \"300ms\"";

#[tokio::test]
async fn a_head_that_comes_byte_by_byte_is_cut_off() {
    within(async {
        let target = Target::with(HASTY, "").await;
        let mut client = Raw::connect(target.proxy.address).await;
        let head = format!("GET / HTTP/1.1\r\nHost: a.test\r\nX: {}", "y".repeat(10_000));
        // Each byte is no news: the time is that of the whole head.
        let sending = async {
            for byte in head.bytes() {
                client.try_send([byte]).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let _gone = tokio::time::timeout(Duration::from_secs(1), sending).await;
        let end = String::from_utf8(client.read_to_end().await).unwrap();
        assert!(end.is_empty() || end.starts_with("HTTP/1.1 408 "), "{end}");
        assert!(target.origin.bytes().is_empty());
        assert_eq!(get(target.proxy.address, "/x", "").await.text(), "/x");
    })
    .await;
}

#[tokio::test]
async fn a_half_head_is_answered_408() {
    within(async {
        let target = Target::with(HASTY, "").await;
        for start in ["G", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: a.test\r\nX: y"] {
            let mut client = Raw::connect(target.proxy.address).await;
            client.send(start).await;
            let answer = client.answer().await;
            assert_eq!(
                (answer.status, answer.field("connection")),
                (408, Some("close")),
                "{start}"
            );
            assert!(client.read_to_end().await.is_empty(), "{start}");
        }
        assert!(target.origin.bytes().is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_second_head_has_its_time_too() {
    within(async {
        let target = Target::with(HASTY, "").await;
        let mut client = Raw::connect(target.proxy.address).await;
        client.send("GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        assert_eq!(client.answer().await.text(), "/x");
        client.send("GET /y HTTP/1.1\r\nHo").await;
        let end = String::from_utf8(client.read_to_end().await).unwrap();
        assert!(end.is_empty() || end.starts_with("HTTP/1.1 408 "), "{end}");
        assert_eq!(target.origin.requests().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_thousand_slow_clients_leave_a_good_one_unharmed() {
    within(async {
        let origin = echoing().await;
        let proxy = Setup::forwarding_to(&origin)
            .server("max_connections_per_client = 2000")
            .listener("request_head_timeout = \"2s\"")
            .start();
        let mut slow = Vec::new();
        for n in 0..1_000 {
            let mut client = TcpStream::connect(proxy.address).await.unwrap();
            // Some never say a word, some stop within a head, some before its end.
            let start =
                ["", "G", "GET / HTTP/1.1\r\nHost: a.te", "GET / HTTP/1.1\r\nX: y\r\n"][n % 4];
            client.write_all(start.as_bytes()).await.unwrap();
            slow.push(client);
            if n % 100 == 99 {
                assert_eq!(get(proxy.address, "/x", "").await.text(), "/x");
            }
        }
        assert_eq!(get(proxy.address, "/x", "").await.text(), "/x");
        for mut client in slow {
            let mut end = Vec::new();
            // A reset ends it as well.
            let _ended = client.read_to_end(&mut end).await;
        }
        assert_eq!(origin.requests().len(), 11);
        eventually("their connections are counted out", async || {
            let metrics = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
            let text = ask(proxy.admin, metrics).await.text();
            let open = text.lines().find(|line| line.starts_with("tollgate_connections_open"));
            open.is_some_and(|line| line.ends_with(" 0") || line.ends_with(" 1"))
        })
        .await;
    })
    .await;
}
