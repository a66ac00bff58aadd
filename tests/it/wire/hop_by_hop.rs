//! Fields of one connection (RFC 9110 §7.6): they go no further, and take nothing
//! with them that the origin decides by.

use crate::support::attack::{Expect, Target, VIA, case, echoing};
use crate::support::client::{ask, fields, get};
use crate::support::origin::Origin;
use crate::support::proxy::Setup;
use crate::support::within;

#[tokio::test]
async fn what_connection_names_goes_no_further() {
    within(async {
        let seen = format!("GET / HTTP/1.1\r\nhost: a.test\r\n{VIA}\r\n");
        let many: String = (0..80).map(|n| format!("X-{n}: y\r\n")).collect();
        let names: Vec<String> = (0..80).map(|n| format!("x-{n}")).collect();
        let lines = [
            "Connection: x-a\r\nX-A: 1\r\n".to_owned(),
            "X-A: 1\r\nconnection:X-a\r\n".to_owned(),
            "Connection: keep-alive, X-A\r\nX-A: 1\r\nX-A: 2\r\n".to_owned(),
            "Connection: keep-alive\r\nX-A: 1\r\nConnection: ,, x-a ,\r\n".to_owned(),
            "Connection: \tx-a\t,keep-alive\r\nX-A: 1\r\n".to_owned(),
            "Connection: \"x-a\", (x), =, x-a\r\nX-A: 1\r\n".to_owned(),
            "Connection: keep-alive\r\nKeep-Alive: timeout=5, max=1000\r\n".to_owned(),
            "Proxy-Connection: keep-alive\r\n".to_owned(),
            "Proxy-Authorization: Basic eDp5\r\n".to_owned(),
            "Proxy-Authenticate: Basic\r\n".to_owned(),
            "TE: gzip, deflate\r\nConnection: TE\r\n".to_owned(),
            "TE: trailers;q=0\r\n".to_owned(),
            "Upgrade: foo/1\r\nConnection: upgrade\r\n".to_owned(),
            "HTTP2-Settings: AAMAAABk\r\n".to_owned(),
            format!("Connection: {}\r\n{many}", names.join(",")),
            format!("Connection: {}\r\n", ["x"; 20_000].join(",")),
        ];
        let target = Target::new().await;
        let cases = lines.iter().map(|lines| {
            let name: String = lines.escape_debug().take(60).collect();
            let sent = format!("GET / HTTP/1.1\r\nHost: a.test\r\n{lines}\r\n");
            case(name, sent, Expect::Forwarded(&seen))
        });
        target.check(cases).await;
    })
    .await;
}

#[tokio::test]
async fn connection_takes_nothing_away_that_the_origin_decides_by() {
    within(async {
        let origin = echoing().await;
        let proxy = Setup::forwarding_to(&origin)
            .and("[route.headers.request]\nset = { X-Set = \"1\" }\n")
            .start();
        let kept = [
            ("Authorization", "Basic eDp5"), ("Cookie", "a=b"), ("Content-Type", "text/plain"),
            ("Content-Encoding", "identity"), ("Range", "bytes=0-1"), ("X-Set", "1"),
        ];
        let added = [
            "Host", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP",
            "Forwarded", "X-Request-Id", "Content-Length",
        ];
        let lines: String = kept.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        for spelt in [str::to_owned, str::to_ascii_lowercase, str::to_ascii_uppercase] {
            for (name, _) in kept.iter().chain(&added.map(|name| (name, ""))) {
                let connection = format!("Connection: close, {}\r\n", spelt(name));
                let request = format!(
                    "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n{lines}{connection}\r\nhi"
                );
                assert_eq!(ask(proxy.address, request).await.status, 200);
                let request = origin.requests().pop().unwrap();
                for (name, value) in kept {
                    assert_eq!(fields(&request, name), [value], "{connection}: {request}");
                }
                for name in added {
                    assert_eq!(fields(&request, name).len(), 1, "{name}, {connection}: {request}");
                }
                assert!(request.ends_with("\r\n\r\nhi"), "{connection}: {request}");
                assert!(fields(&request, "connection").is_empty(), "{request}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn what_an_origin_says_of_its_connection_stops_here() {
    within(async {
        let origin = Origin::answering(
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: x-a, Content-Length, content-type\r\n\
             X-A: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nUpgrade: h2c\r\n\
             Proxy-Authenticate: Basic\r\nContent-Type: text/plain\r\nX-B: 2\r\n\r\nok",
        )
        .await;
        let proxy = Setup::forwarding_to(&origin).start();
        let answer = get(proxy.address, "/", "").await;
        assert_eq!((answer.status, answer.text()), (200, "ok".to_owned()));
        let gone =
            ["x-a", "keep-alive", "proxy-connection", "upgrade", "proxy-authenticate", "connection"];
        for name in gone {
            assert_eq!(answer.field(name), None, "{}", answer.head);
        }
        let kept = [("x-b", "2"), ("content-type", "text/plain"), ("content-length", "2")];
        for (name, value) in kept {
            assert_eq!(answer.fields(name), [value], "{}", answer.head);
        }
    })
    .await;
}

#[tokio::test]
async fn a_request_that_has_been_here_is_not_sent_round_again() {
    within(async {
        let origin = echoing().await;
        let proxy = Setup::forwarding_to(&origin).start();
        get(proxy.address, "/", "").await;
        let via = fields(&origin.requests()[0], "via")[0].to_owned();
        let name = via.split(' ').nth(1).unwrap().to_owned();
        let before = origin.bytes().len();
        let long = "1.1 x, ".repeat(1_400);
        for line in [
            via.clone(),
            format!("1.1 first, {via}, 1.1 last"),
            format!("2.0 {name}"),
            format!("HTTP/1.1   {name}  (a comment)"),
            format!("1.1\t{name}"),
            format!("1.1 x\r\nVia: {via}"),
            format!("{long}{via}"),
        ] {
            let shown: String = line.chars().rev().take(60).collect();
            let answer = get(proxy.address, "/", &format!("Via: {line}\r\n")).await;
            assert_eq!(answer.status, 508, "{shown}");
            let reason = "tollgate; error=proxy_loop_detected";
            assert_eq!(answer.field("proxy-status"), Some(reason), "{shown}");
        }
        assert_eq!(origin.bytes().len(), before);
        for line in ["1.1 tollgate", "1.1 tollgate-00", "x", "", "1.1 a, 2.0 b (tollgate)"] {
            assert_eq!(get(proxy.address, "/", &format!("Via: {line}\r\n")).await.status, 200);
        }
    })
    .await;
}
