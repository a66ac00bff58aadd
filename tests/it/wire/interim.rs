//! What comes before a response: hints, and the call for a body (RFC 9110 §10.1.1,
//! §15.2).

use crate::support::client::{Raw, ask, get};
use crate::support::origin::Origin;
use crate::support::proxy::Setup;
use crate::support::{eventually, within};

#[tokio::test]
async fn interim_responses_of_the_origin_reach_a_client_of_http_1_1() {
    within(async {
        let origin = Origin::answering(
            "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nConnection: x\r\nKeep-Alive: y\r\n\r\n\
             HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        )
        .await;
        let proxy = Setup::forwarding_to(&origin).start();
        let mut client = Raw::connect(proxy.address).await;
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        let hints = client.answer().await;
        assert_eq!(hints.head, "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n");
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
        let old = ask(proxy.address, "GET / HTTP/1.0\r\nHost: a.test\r\n\r\n").await;
        assert_eq!((old.status, old.text().as_str()), (200, "ok"));
    })
    .await;
}

#[tokio::test]
async fn a_hint_is_not_held_back_until_the_response() {
    within(async {
        let origin = Origin::scripted(|mut connection| async move {
            connection.request().await;
            connection.write("HTTP/1.1 103 Early Hints\r\n\r\n").await;
            std::future::pending::<()>().await;
        })
        .await;
        let proxy = Setup::forwarding_to(&origin).start();
        assert_eq!(get(proxy.address, "/", "").await.status, 103);
    })
    .await;
}

/// A POST whose body is held back until the client is called.
const HELD: &str = "POST / HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\n\
                    Content-Length: 3\r\n\r\n";

#[tokio::test]
async fn a_body_is_called_for_when_the_origin_calls_for_it() {
    within(async {
        let (call, called) = tokio::sync::oneshot::channel::<()>();
        let called = std::sync::Arc::new(tokio::sync::Mutex::new(Some(called)));
        let origin = Origin::scripted(move |mut connection| {
            let called = called.clone();
            async move {
                let head = connection.head().await.unwrap();
                assert!(head.contains("\r\nexpect: 100-continue\r\n"), "{head}");
                let called = called.lock().await.take();
                called.unwrap().await.unwrap();
                connection.write("HTTP/1.1 100 Continue\r\n\r\n").await;
                assert_eq!(connection.some().await, b"abc");
                connection.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            }
        })
        .await;
        let proxy = Setup::forwarding_to(&origin).start();
        let mut client = Raw::connect(proxy.address).await;
        client.send(HELD).await;
        eventually("the origin has the head", async || origin.bytes().ends_with(b"\r\n\r\n")).await;
        call.send(()).unwrap();
        assert_eq!(client.answer().await.head, "HTTP/1.1 100 Continue\r\n\r\n");
        client.send("abc").await;
        assert_eq!(client.answer().await.status, 200);
    })
    .await;
}

#[tokio::test]
async fn a_body_that_the_origin_refuses_early_is_never_called_for() {
    within(async {
        let origin = Origin::scripted(|mut connection| async move {
            connection.head().await.unwrap();
            connection.write("HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nno").await;
            let rest = connection.some().await;
            assert!(rest.is_empty(), "{rest:?}");
        })
        .await;
        let proxy = Setup::forwarding_to(&origin).start();
        let mut client = Raw::connect(proxy.address).await;
        client.send(HELD).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.text().as_str()), (413, "no"));
        assert_eq!(answer.field("connection"), Some("close"));
        assert!(client.read_to_end().await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn an_origin_that_knows_no_expectation_gets_the_body_after_a_moment() {
    within(async {
        let origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        let proxy = Setup::forwarding_to(&origin).start();
        let mut client = Raw::connect(proxy.address).await;
        client.send(HELD).await;
        assert_eq!(client.answer().await.status, 100);
        client.send("abc").await;
        assert_eq!(client.answer().await.status, 200);
        // One that does not wait is not told.
        client.send(format!("{HELD}abc")).await;
        assert_eq!(client.answer().await.status, 200);
    })
    .await;
}

#[tokio::test]
async fn an_origin_that_answers_well_before_it_has_the_body_still_gets_it() {
    within(async {
        let origin = Origin::scripted(|mut connection| async move {
            connection.head().await.unwrap();
            connection.write("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n").await;
            let body = connection.some().await;
            connection.write(body).await;
        })
        .await;
        let proxy = Setup::forwarding_to(&origin).start();
        let mut client = Raw::connect(proxy.address).await;
        client.send(HELD).await;
        assert!(client.read_until("\r\n\r\n").await.starts_with("HTTP/1.1 200 "));
        client.send("abc").await;
        assert_eq!(client.read_until("abc").await, "abc");
    })
    .await;
}
