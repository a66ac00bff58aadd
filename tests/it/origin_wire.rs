//! What an origin may do to a connection, byte by byte, and what it is sent.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::support::client::{Raw, ask, get};
use crate::support::origin::Origin;
use crate::support::proxy::{Running, Setup};
use crate::support::within;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// What a request asks for: the number that is its path, or nothing special.
fn number(request: &str) -> Option<usize> {
    request.split([' ', '/']).nth(2)?.parse().ok()
}

/// Answers `/0`, `/1` and so on with these bytes, and everything else with [`OK`].
async fn answering(responses: Vec<String>) -> Origin {
    let responses = Arc::new(responses);
    Origin::scripted(move |mut connection| {
        let responses = responses.clone();
        async move {
            while let Some(request) = connection.request().await {
                let asked = number(&request);
                connection.write(asked.map_or(OK, |asked| &responses[asked])).await;
            }
        }
    })
    .await
}

/// Whatever comes back for a path on a connection that is closed then.
async fn all_of(proxy: &Running, method: &str, path: usize) -> String {
    let mut client = Raw::connect(proxy.address).await;
    let request = format!("{method} /{path} HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n");
    client.send(request).await;
    String::from_utf8(client.read_to_end().await).unwrap()
}

/// Asks for something harmless; tells how many connections there have been.
async fn connections_after_ok(proxy: &Running, origin: &Origin) -> usize {
    let answer = get(proxy.address, "/ok", "").await;
    assert_eq!((answer.status, answer.text()), (200, "ok".to_owned()));
    origin.connections()
}

#[tokio::test]
async fn a_malformed_head_is_502_and_its_connection_is_not_used_again() {
    within(async {
        let long = "y".repeat(70_000);
        let responses: Vec<String> = [
            "\r\n\r\n",
            "hello\r\n\r\n",
            "HTTP/2.0 200 OK\r\n\r\n",
            "HTTP/1.1 2000 OK\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/1.1 099 OK\r\n\r\n",
            "ICY 200 OK\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX A: b\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX : b\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n: b\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n X: b\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: b\r\n folded\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nno colon\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n",
        ]
        .map(ToOwned::to_owned)
        .into_iter()
        .chain([
            format!("HTTP/1.1 200 OK\r\nX: {long}\r\nContent-Length: 0\r\n\r\n"),
            format!("HTTP/1.1 200 {long}"),
            format!("HTTP/1.1 200 OK\r\n{}Content-Length: 0\r\n\r\n", "X: y\r\n".repeat(200)),
        ])
        .collect();
        let origin = answering(responses.clone()).await;
        let proxy = Setup::forwarding_to(&origin).start();
        for (case, response) in responses.iter().enumerate() {
            let answer = get(proxy.address, &format!("/{case}"), "").await;
            let shown = &response[..response.len().min(100)];
            assert_eq!(answer.status, 502, "{shown:?}");
            assert!(!answer.head.to_ascii_lowercase().contains("\nx: "), "{}", answer.head);
            assert_eq!(connections_after_ok(&proxy, &origin).await, case + 2, "{shown:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_malformed_body_is_broken_off_and_its_connection_is_not_used_again() {
    within(async {
        let long = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(2_000));
        let bodies = [
            "x\r\n",
            "\r\n\r\n",
            ";x\r\n\r\n",
            "-1\r\na\r\n0\r\n\r\n",
            "0x1\r\na\r\n0\r\n\r\n",
            "1 1\r\na\r\n0\r\n\r\n",
            "1\na\n0\n\n",
            "1;x\ny\r\na\r\n0\r\n\r\n",
            "1;x\ry\r\na\r\n0\r\n\r\n",
            "1\r\nab\r\n0\r\n\r\n",
            "2\r\na\r\n0\r\n\r\n",
            "1\r\na0\r\n\r\n",
            "1\r\na\r\n\r\n\r\n",
            "1\r\na\r\n;\r\n\r\n",
            "10000000000000000\r\na",
            "0\r\nno colon\r\n\r\n",
            "0\r\nX: a\0b\r\n\r\n",
            &long,
        ];
        let responses: Vec<String> = bodies
            .map(|body| format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}"))
            .into();
        let origin = answering(responses.clone()).await;
        let proxy = Setup::forwarding_to(&origin).start();
        for (case, response) in responses.iter().enumerate() {
            let all = all_of(&proxy, "GET", case).await;
            let (head, body) = all.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with("HTTP/1.1 200 "), "{response:?}: {all:?}");
            assert!(!format!("\r\n{body}").contains("\r\n0\r\n"), "{response:?}: {all:?}");
            assert_eq!(connections_after_ok(&proxy, &origin).await, case + 2, "{response:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn what_follows_a_response_poisons_nothing() {
    within(async {
        let evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
        let cases = [
            ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok"),
            ("GET", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok"),
            ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
            ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n\r\n"),
            ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
            ("GET", "HTTP/1.1 204 No Content\r\n\r\n"),
            ("GET", "HTTP/1.1 204 No Content\r\nContent-Length: 43\r\n\r\n"),
            ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 43\r\n\r\n"),
            ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 43\r\n\r\n"),
            ("HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ];
        // At once, and when the connection lies in the pool already.
        for late in [false, true] {
            let gate = Arc::new((Semaphore::new(0), Semaphore::new(0)));
            let gates = gate.clone();
            let origin = Origin::scripted(move |mut connection| {
                let gate = gates.clone();
                async move {
                    connection.stream.set_nodelay(true).unwrap();
                    while let Some(request) = connection.request().await {
                        let Some(case) = number(&request) else {
                            connection.write(OK).await;
                            continue;
                        };
                        if late {
                            connection.write(cases[case].1).await;
                            gate.0.acquire().await.unwrap().forget();
                            connection.write(evil).await;
                        } else {
                            connection.write(format!("{}{evil}", cases[case].1)).await;
                        }
                        gate.1.add_permits(1);
                    }
                }
            })
            .await;
            let proxy = Setup::forwarding_to(&origin).start();
            for (case, (method, response)) in cases.iter().enumerate() {
                let all = all_of(&proxy, method, case).await;
                let body = all.split_once("\r\n\r\n").unwrap().1;
                assert!(!body.contains("evil"), "{response:?}: {all:?}");
                gate.0.add_permits(1);
                gate.1.acquire().await.unwrap().forget();
                let connections = connections_after_ok(&proxy, &origin).await;
                assert_eq!(connections, case + 2, "late: {late}, {response:?}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn interim_responses_are_passed_on_but_not_without_end() {
    within(async {
        let interim = "HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n";
        let some = format!("HTTP/1.1 100 Continue\r\n\r\n{}{OK}", interim.repeat(31));
        let many = format!("{}{OK}", interim.repeat(33));
        let origin = answering(vec![some, many, interim.repeat(100_000)]).await;
        let proxy = Setup::forwarding_to(&origin).start();
        let mut client = Raw::connect(proxy.address).await;
        client.send("GET /0 HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        for _ in 0..31 {
            assert_eq!(client.answer().await.status, 103);
        }
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.text()), (200, "ok".to_owned()));
        assert_eq!(answer.field("link"), None);
        for (case, connections) in [(1, 2), (2, 3)] {
            let old = format!("GET /{case} HTTP/1.0\r\nHost: a.test\r\n\r\n");
            assert_eq!(ask(proxy.address, old).await.status, 502);
            assert_eq!(connections_after_ok(&proxy, &origin).await, connections);
        }
    })
    .await;
}

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
                       3\r\nabc\r\n4;x=\"y\"\r\ndefg\r\n0\r\nX-Sum: 1\r\n\r\n";
const SIZED: &str = "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nabcdefg";

#[tokio::test]
async fn a_response_cut_anywhere_is_never_taken_for_whole() {
    within(async {
        for whole in [CHUNKED, SIZED] {
            let origin = Origin::scripted(move |mut connection| async move {
                let request = connection.request().await.unwrap_or_default();
                let cut = number(&request).unwrap_or(whole.len());
                connection.write(&whole[..cut]).await;
            })
            .await;
            let proxy = Setup::forwarding_to(&origin).start();
            let head = whole.find("\r\n\r\n").unwrap() + 4;
            for cut in 0..whole.len() {
                let all = all_of(&proxy, "GET", cut).await;
                let (answer, body) = all.split_once("\r\n\r\n").unwrap();
                let status = if cut < head { "HTTP/1.1 502 " } else { "HTTP/1.1 200 " };
                assert!(answer.starts_with(status), "{cut}: {all:?}");
                let is_whole = body.ends_with("abcdefg") && whole == SIZED;
                let ends = format!("\r\n{body}").contains("\r\n0\r\n");
                assert!(!is_whole && !ends, "{cut}: {all:?}");
            }
            assert!(all_of(&proxy, "GET", whole.len()).await.contains("defg"));
            assert_eq!(origin.connections(), whole.len() + 1);
        }
    })
    .await;
}

#[tokio::test]
async fn a_response_reads_the_same_wherever_it_is_split() {
    within(async {
        for whole in [CHUNKED, SIZED] {
            let whole = format!("HTTP/1.1 100 Continue\r\n\r\n{whole}");
            let length = whole.len();
            let origin = Origin::scripted(move |mut connection| {
                let whole = whole.clone();
                async move {
                    connection.stream.set_nodelay(true).unwrap();
                    while let Some(request) = connection.request().await {
                        let (first, second) = whole.split_at(number(&request).unwrap());
                        connection.write(first).await;
                        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                        connection.write(second).await;
                    }
                }
            })
            .await;
            let proxy = Setup::forwarding_to(&origin).start();
            let mut client = Raw::connect(proxy.address).await;
            for split in 0..length {
                let fields = "Host: a.test\r\nTE: trailers\r\nConnection: TE";
                client.send(format!("GET /{split} HTTP/1.1\r\n{fields}\r\n\r\n")).await;
                let answer = client.answer().await;
                assert_eq!((answer.status, answer.text()), (200, "abcdefg".to_owned()), "{split}");
                let trailers = if length > 100 { "x-sum: 1\r\n" } else { "" };
                assert_eq!(answer.trailers, trailers, "{split}");
            }
            assert_eq!(origin.connections(), 1);
        }
    })
    .await;
}
