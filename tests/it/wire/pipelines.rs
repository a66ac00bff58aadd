//! Requests behind one another on one connection (RFC 9112 §9.3.2): each judged
//! alone, in order, and none after one whose end is in doubt.

use crate::support::attack::{Target, VIA};
use crate::support::within;

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n")
}

fn seen(paths: &[&str]) -> String {
    paths.iter().map(|path| format!("GET {path} HTTP/1.1\r\nhost: a.test\r\n{VIA}\r\n")).collect()
}

#[tokio::test]
async fn good_ones_are_answered_in_order() {
    within(async {
        let target = Target::new().await;
        let paths: Vec<String> = (0..50).map(|n| format!("/{n}")).collect();
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        let outcome = target.attack(paths.iter().map(|path| get(path)).collect::<String>()).await;
        let answers: Vec<String> = outcome.answers.iter().map(|answer| answer.text()).collect();
        assert_eq!(answers, paths);
        assert_eq!((outcome.origin_saw, outcome.closed), (seen(&paths), false));
    })
    .await;
}

/// Each between two good requests: the first is answered, the second never seen.
async fn hostile_in_the_middle(hostile: &[&str], statuses: &[u16]) {
    let target = Target::new().await;
    for hostile in hostile {
        let sent = format!("{}{hostile}{}", get("/first"), get("/last"));
        let outcome = target.attack(sent).await;
        let said = outcome.statuses();
        let fits = matches!(said[..], [200, status] if statuses.contains(&status));
        assert!(fits, "{hostile:?}: {outcome}");
        assert_eq!(outcome.answers[0].text(), "/first", "{hostile:?}");
        assert!(outcome.closed, "{hostile:?}: {outcome}");
        assert_eq!(outcome.origin_saw, seen(&["/first"]), "{hostile:?}");
    }
}

#[tokio::test]
async fn nothing_behind_a_malformed_one_is_read() {
    within(async {
        let hostile = [
            "GET /bad HTTP/1.1\r\n\r\n",
            "GET /bad HTTP/1.1\r\nHost: a.test\r\nHost: a.test\r\n\r\n",
            "GET /bad HTTP/1.1\r\nHost: a.test\r\nX : y\r\n\r\n",
            "GET /bad HTTP/1.1\r\nHost: a.test\r\nX: a\0b\r\n\r\n",
            "GET /bad HTTP/1.1\r\nHost: a.test\r\nX: y\r\n z\r\n\r\n",
            "GET /b ad HTTP/1.1\r\nHost: a.test\r\n\r\n",
            "nonsense\r\n\r\n",
            "POST /bad HTTP/1.1\r\nHost: a.test\r\nContent-Length: +5\r\n\r\nhello",
            "POST /bad HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
            "POST /bad HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: gzip\r\n\r\n0\r\n\r\n",
            "POST /bad HTTP/1.0\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ];
        hostile_in_the_middle(&hostile, &[400, 501]).await;
    })
    .await;
}

#[tokio::test]
async fn nothing_behind_an_ambiguous_one_is_read() {
    within(async {
        let hostile = [
            "POST /bad HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "POST /bad HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
            "GET /bad HTTP/1.1\nHost: a.test\n\n",
            "GET /bad#x HTTP/1.1\r\nHost: a.test\r\n\r\n",
            "GET  /bad HTTP/1.1\r\nHost: a.test\r\n\r\n",
            "GET /bad HTTP/1.2\r\nHost: a.test\r\n\r\n",
            "\r\n\r\n\r\nGET /bad HTTP/1.1\r\nHost: a.test\r\n\r\n",
        ];
        hostile_in_the_middle(&hostile, &[400, 501, 505]).await;
    })
    .await;
}

#[tokio::test]
async fn behind_one_that_is_refused_for_what_it_asks_the_next_is_answered() {
    within(async {
        let target = Target::new().await;
        let long = format!("/{}", "x".repeat(10_000));
        for (bad, status) in [("/a/../b", 400), ("/%00", 400), (&long, 414)] {
            let sent = format!("{}{}{}", get("/first"), get(bad), get("/last"));
            let outcome = target.attack(sent).await;
            assert_eq!(outcome.statuses(), [200, status, 200], "{bad}");
            assert_eq!(outcome.origin_saw, seen(&["/first", "/last"]), "{bad}");
        }
    })
    .await;
}

#[tokio::test]
async fn behind_the_last_of_a_connection_nothing_is_read() {
    within(async {
        let target = Target::new().await;
        for last in [
            "GET /close HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n",
            "GET /close HTTP/1.1\r\nHost: a.test\r\nConnection: x, Close\r\n\r\n",
            "GET /close HTTP/1.1\r\nHost: a.test\r\nConnection: keep-alive, close\r\n\r\n",
            "GET /close HTTP/1.0\r\nHost: a.test\r\n\r\n",
        ] {
            let outcome = target.attack(format!("{last}{}", get("/smuggled"))).await;
            assert_eq!((outcome.statuses(), outcome.closed), (vec![200], true), "{last:?}");
            assert!(!outcome.origin_saw.contains("smuggled"), "{last:?}: {outcome}");
        }
    })
    .await;
}
