//! When a request is sent again, and when it must not be (RFC 9110 §9.2.2).

use crate::support::client::{Raw, ask, get};
use crate::support::origin::Origin;
use crate::support::proxy::Setup;
use crate::support::{Refusing, within};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Answers one request on each connection, reads the next, and hangs up.
async fn fickle() -> Origin {
    Origin::scripted(|mut connection| async move {
        if connection.request().await.is_some() {
            connection.write(OK).await;
            let _read = connection.request().await;
        }
    })
    .await
}

#[tokio::test]
async fn a_get_on_a_dead_pooled_connection_is_sent_once_more() {
    within(async {
        let origin = fickle().await;
        let proxy = Setup::forwarding_to(&origin).start();
        let mut client = Raw::connect(proxy.address).await;
        for _ in 0..2 {
            client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
            assert_eq!(client.answer().await.status, 200);
        }
        // The second was read by the origin twice: once on the old connection.
        assert_eq!((origin.connections(), origin.requests().len()), (2, 3));
    })
    .await;
}

#[tokio::test]
async fn a_post_that_the_origin_may_have_seen_is_not_sent_again() {
    within(async {
        let origin = fickle().await;
        let proxy = Setup::forwarding_to(&origin).start();
        let mut client = Raw::connect(proxy.address).await;
        let post = "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\n\r\nx";
        client.send(post).await;
        assert_eq!(client.answer().await.status, 200);
        client.send(post).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 502);
        assert_eq!(answer.field("proxy-status"), Some("tollgate; error=connection_terminated"));
        assert_eq!(origin.requests().len(), 2);
    })
    .await;
}

#[tokio::test]
async fn a_get_that_fails_on_a_fresh_connection_is_not_sent_again() {
    within(async {
        let origin = Origin::scripted(|mut connection| async move {
            let _read = connection.request().await;
        })
        .await;
        let proxy = Setup::forwarding_to(&origin).start();
        assert_eq!(get(proxy.address, "/", "").await.status, 502);
        assert_eq!(origin.requests().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_request_that_meets_a_refusal_moves_to_the_next_origin_even_a_post() {
    within(async {
        let alive = Origin::answering(OK).await;
        let dead = Refusing::new();
        let proxy = Setup::new(format!(
            "[[route]]\nname = \"all\"\nupstream = \"pair\"\n\
             [[upstream]]\nname = \"pair\"\norigins = [\"http://{dead}\", \"{alive}\"]\n"
        ))
        .start();
        for _ in 0..4 {
            let post = "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\n\r\nx";
            assert_eq!(ask(proxy.address, post).await.status, 200);
        }
        assert_eq!(alive.requests().len(), 4);
        let lines = proxy.log_lines(4).await;
        assert!(lines[0].contains("attempts=2"), "{lines:?}");
        assert!(!lines[1].contains("attempts="), "the dead one is set aside: {lines:?}");
    })
    .await;
}

#[tokio::test]
async fn no_more_origins_are_tried_than_allowed() {
    within(async {
        let alive = Origin::answering(OK).await;
        let (a, b) = (Refusing::new(), Refusing::new());
        let proxy = Setup::new(format!(
            "[[route]]\nname = \"all\"\nupstream = \"trio\"\n\
             [[upstream]]\nname = \"trio\"\nmax_attempts = 2\n\
             origins = [\"http://{a}\", \"http://{b}\", \"{alive}\"]\n\
             [upstream.passive]\nmax_failures = 9\n"
        ))
        .start();
        let answer = get(proxy.address, "/", "").await;
        assert_eq!(answer.status, 502);
        assert_eq!(answer.field("proxy-status"), Some("tollgate; error=connection_refused"));
        assert!(alive.requests().is_empty());
    })
    .await;
}

#[tokio::test]
async fn pooled_connections_are_used_again() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = Setup::forwarding_to(&origin).start();
        for _ in 0..10 {
            assert_eq!(get(proxy.address, "/", "").await.status, 200);
        }
        assert_eq!(origin.connections(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_connection_whose_answer_was_cut_short_is_not_used_again() {
    within(async {
        let origin = Origin::scripted(|mut connection| async move {
            while connection.request().await.is_some() {
                connection.write("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\nstart").await;
            }
        })
        .await;
        let proxy = Setup::forwarding_to(&origin).start();
        for connections in 1..=2 {
            let mut client = Raw::connect(proxy.address).await;
            client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
            client.read_until("start").await;
            drop(client);
            proxy.log_lines(connections).await;
            assert_eq!(origin.connections(), connections);
        }
    })
    .await;
}
