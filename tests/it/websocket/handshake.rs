//! Only what asked as it should, and was answered as it should be, switches.

use crate::support::client::{Raw, ask, fields};
use crate::support::origin::Origin;
use crate::support::proxy::Setup;
use crate::support::websocket::{HANDSHAKE, connecting, h2_to, switched};
use crate::support::within;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const VERSION: &str = "Sec-WebSocket-Version: 13\r\n";

#[tokio::test]
async fn what_is_no_handshake_is_forwarded_as_a_plain_request() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = Setup::forwarding_to(&origin).start();
        let wish = "Connection: Upgrade, Sec-WebSocket-Key\r\nUpgrade: websocket\r\n";
        let get = "GET / HTTP/1.1\r\nHost: a.test\r\n";
        for request in [
            format!("{get}{wish}{VERSION}\r\n"),
            format!("{get}{wish}{VERSION}Sec-WebSocket-Key: short\r\n\r\n"),
            format!("{get}{wish}{VERSION}Sec-WebSocket-Key: dGhlIHNhbXBsZQ==\r\n\r\n"),
            format!("{get}{wish}{VERSION}{KEY}{KEY}\r\n"),
            format!("{get}{wish}{KEY}\r\n"),
            format!("{get}{wish}{KEY}Sec-WebSocket-Version: 8\r\n\r\n"),
            format!("{get}{wish}{KEY}Sec-WebSocket-Version: 13, 8\r\n\r\n"),
            format!("{get}{wish}{KEY}{VERSION}{VERSION}\r\n"),
            format!("{get}{wish}{KEY}{VERSION}Content-Length: 2\r\n\r\nhi"),
            format!(
                "{get}{wish}{KEY}{VERSION}Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
            ),
            format!("POST / HTTP/1.1\r\nHost: a.test\r\n{wish}{KEY}{VERSION}\r\n"),
            format!("HEAD / HTTP/1.1\r\nHost: a.test\r\n{wish}{KEY}{VERSION}\r\n"),
            format!("GET / HTTP/1.0\r\nHost: a.test\r\n{wish}{KEY}{VERSION}\r\n"),
        ] {
            let before = origin.requests().len();
            let mut client = Raw::connect(proxy.address).await;
            client.send(&request).await;
            let method = request.split(' ').next().unwrap();
            if method == "HEAD" {
                // The origin's script has sent a body that belongs to nothing.
                assert!(client.read_until("\r\n\r\n").await.contains(" 200 "), "{request}");
            } else {
                assert_eq!(client.answer_to(method).await.status, 200, "{request}");
            }
            let seen = &origin.requests()[before];
            assert!(fields(seen, "upgrade").is_empty(), "{seen}");
            assert!(fields(seen, "connection").is_empty(), "{seen}");
        }
    })
    .await;
}

/// What the proxy makes of an origin's answer to an upgrade, asked in either way.
async fn statuses(answer: impl Fn(&str) -> String + Clone + Send + Sync + 'static) -> [u16; 2] {
    let origin = Origin::scripted(move |mut connection| {
        let answer = answer.clone();
        async move {
            let Some(head) = connection.request().await else { return };
            connection.write(answer(&head)).await;
            connection.some().await;
        }
    })
    .await;
    let proxy = Setup::forwarding_to(&origin).start();
    let request = format!("GET / HTTP/1.1\r\nHost: a.test\r\n{HANDSHAKE}\r\n");
    let http1 = ask(proxy.address, request).await;
    let mut sender = h2_to(proxy.address).await;
    let http2 = sender.send_request(connecting("websocket")).await.unwrap();
    for (status, field) in [
        (http1.status, http1.field("proxy-status")),
        (http2.status().as_u16(), http2.headers().get("proxy-status").map(|v| v.to_str().unwrap())),
    ] {
        let expected = (status == 502).then_some("tollgate; error=http_upgrade_failed");
        assert_eq!(field, expected);
    }
    [http1.status, http2.status().as_u16()]
}

#[tokio::test]
async fn an_answer_that_does_not_switch_as_asked_does_not_switch() {
    within(async {
        let without = |what: &'static str| {
            move |head: &str| {
                let lines = switched(head, "");
                lines.split_inclusive("\r\n").filter(|line| !line.starts_with(what)).collect()
            }
        };
        assert_eq!(statuses(|head| switched(head, "")).await, [101, 200]);
        assert_eq!(statuses(without("Connection:")).await, [502, 502]);
        assert_eq!(statuses(without("Upgrade:")).await, [502, 502]);
        // Over HTTP/1.1 the client knows best what it asked for.
        assert_eq!(statuses(without("Sec-WebSocket-Accept:")).await, [101, 502]);
        let wrong = |head: &str| {
            switched(&head.replace("Sec-WebSocket-Key", "X"), "")
                .replace("Sec-WebSocket-Accept: ", "Sec-WebSocket-Accept: x")
        };
        assert_eq!(statuses(wrong).await, [101, 502]);
        let other = |head: &str| switched(head, "").replace("Upgrade: websocket", "Upgrade: chat");
        assert_eq!(statuses(other).await, [502, 502]);
        assert_eq!(statuses(|head| switched(head, "Upgrade: chat\r\n")).await, [502, 502]);
    })
    .await;
}

#[tokio::test]
async fn any_other_answer_is_passed_on_unless_it_would_open_the_tunnel() {
    within(async {
        let answer = |line: &'static str| {
            move |_: &str| format!("HTTP/1.1 {line}\r\nContent-Length: 2\r\n\r\nno")
        };
        for (line, status) in [
            ("302 Found\r\nLocation: /x", 302),
            ("401 Who", 401),
            ("403 No", 403),
            ("404 Not", 404),
            ("426 Other", 426),
            ("503 Later", 503),
        ] {
            assert_eq!(statuses(answer(line)).await, [status, status], "{line}");
        }
        assert_eq!(statuses(answer("200 OK")).await, [200, 502]);
        assert_eq!(statuses(answer("206 Some")).await, [206, 502]);
    })
    .await;
}
