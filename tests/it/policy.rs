//! Who may ask, and how often; and what is done to the fields.

use crate::support::client::{Raw, ask, fields, get};
use crate::support::origin::Origin;
use crate::support::proxy::Setup;
use crate::support::websocket::HANDSHAKE;
use crate::support::within;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nServer: origin\r\n\
                  X-Powered-By: magic\r\nX-Gone: 1\r\n\r\nok";

/// The digest of `k1`.
const K1: &str = "sha256:6ab9f1eb8f7d3388f4f9d586f66e99fd54080df2c446f0e58668b09c08a16dd0";

fn setup(origin: &Origin, route: &str) -> Setup {
    Setup::new(format!(
        "[[upstream]]\nname = \"origin\"\norigins = [\"{origin}\"]\n\
         [[route]]\nname = \"all\"\nupstream = \"origin\"\n{route}\n"
    ))
}

fn with_key(origin: &Origin) -> Setup {
    setup(
        origin,
        &format!(
            "[route.api_key]\nidentity_header = \"X-Client\"\n\
             keys = [{{ name = \"alice\", key = \"{K1}\" }}]\n"
        ),
    )
}

#[tokio::test]
async fn a_key_lets_in_and_stays_out_of_the_origins_sight() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = with_key(&origin).start();
        let fields_sent = "X-API-Key: k1\r\nX-Client: root\r\nX_Client: root\r\n";
        assert_eq!(get(proxy.address, "/", fields_sent).await.status, 200);
        let request = origin.request();
        assert!(!request.contains("k1"), "{request}");
        assert_eq!(fields(&request, "x-client"), ["alice"]);
        assert!(!request.contains("root"), "{request}");
        assert!(proxy.log_lines(1).await[0].contains("identity=alice"));
    })
    .await;
}

#[tokio::test]
async fn an_identity_cannot_be_brought_along_to_a_route_without_keys() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = with_key(&origin)
            .and("[[route]]\nname = \"open\"\npath = \"/open\"\nupstream = \"origin\"\n")
            .start();
        let forged = "X-Client: root\r\nX_Client: root\r\n";
        assert_eq!(get(proxy.address, "/open", forged).await.status, 200);
        assert!(!origin.request().contains("root"), "{}", origin.request());
    })
    .await;
}

#[tokio::test]
async fn connection_cannot_take_the_identity_out() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = with_key(&origin).start();
        let tricks = "X-API-Key: k1\r\nConnection: x-client, x-forwarded-for, x-real-ip\r\n";
        get(proxy.address, "/", tricks).await;
        let request = origin.request();
        for kept in ["x-client", "x-forwarded-for", "x-real-ip"] {
            assert_eq!(fields(&request, kept).len(), 1, "{kept} in {request}");
        }
    })
    .await;
}

#[tokio::test]
async fn without_a_key_nothing_reaches_the_origin() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = with_key(&origin).start();
        for wrong in ["", "X-API-Key: k2\r\n", "X-API-Key: k1\r\nX-API-Key: k1\r\n"] {
            let answer = get(proxy.address, "/", wrong).await;
            assert_eq!(answer.status, 401, "{wrong:?}");
            assert!(answer.field("www-authenticate").unwrap().contains("x-api-key"));
        }
        assert!(origin.bytes().is_empty());
        let lines = proxy.log_lines(3).await;
        assert!(lines[0].contains("rejected=auth_missing"), "{lines:?}");
        assert!(lines[1].contains("rejected=auth_invalid"), "{lines:?}");
        assert!(!lines.concat().contains("k2"), "{lines:?}");
    })
    .await;
}

#[tokio::test]
async fn policy_holds_for_upgrade_requests_too() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = with_key(&origin).start();
        assert_eq!(get(proxy.address, "/", HANDSHAKE).await.status, 401);
        assert!(origin.bytes().is_empty());
    })
    .await;
}

#[tokio::test]
async fn the_rate_limit_comes_before_the_key() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = setup(
            &origin,
            &format!(
                "rate_limit = {{ rate = 1, per = \"1m\", burst = 2 }}\n\
                 [route.api_key]\nkeys = [{{ name = \"alice\", key = \"{K1}\" }}]\n"
            ),
        )
        .start();
        let mut statuses = Vec::new();
        for _ in 0..4 {
            statuses.push(get(proxy.address, "/", "").await.status);
        }
        assert_eq!(statuses, [401, 401, 429, 429]);
        let answer = get(proxy.address, "/", "X-API-Key: k1\r\n").await;
        assert_eq!(answer.status, 429);
        let wait: u64 = answer.field("retry-after").unwrap().parse().unwrap();
        assert!((1..=60).contains(&wait));
        assert!(origin.bytes().is_empty());
    })
    .await;
}

#[tokio::test]
async fn behind_a_trusted_proxy_each_client_has_its_own_bucket() {
    within(async {
        let origin = Origin::answering(OK).await;
        let limit = "rate_limit = { rate = 1, per = \"1m\", burst = 1 }";
        let proxy = setup(&origin, limit).server("trusted_proxies = [\"127.0.0.0/8\"]").start();
        let from = |client: &'static str| {
            let address = proxy.address;
            async move {
                let field = format!("X-Forwarded-For: 6.6.6.6, {client}\r\n");
                get(address, "/", &field).await.status
            }
        };
        assert_eq!(from("192.0.2.1").await, 200);
        assert_eq!(from("192.0.2.1").await, 429);
        assert_eq!(from("192.0.2.2").await, 200);
        assert!(proxy.log_lines(3).await[0].contains(" 192.0.2.1 "));
    })
    .await;
}

#[tokio::test]
async fn a_stranger_cannot_choose_its_bucket() {
    within(async {
        let origin = Origin::answering(OK).await;
        let limit = "rate_limit = { rate = 1, per = \"1m\", burst = 1 }";
        let proxy = setup(&origin, limit).start();
        let spoof =
            |n: u8| format!("X-Forwarded-For: 192.0.2.{n}\r\nForwarded: for=192.0.2.{n}\r\n");
        assert_eq!(get(proxy.address, "/", &spoof(1)).await.status, 200);
        assert_eq!(get(proxy.address, "/", &spoof(2)).await.status, 429);
    })
    .await;
}

#[tokio::test]
async fn fields_are_rewritten_both_ways() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = setup(
            &origin,
            "[route.headers.request]\nset = { X-Set = \"new\" }\nappend = { X-More = \"b\" }\n\
             remove = [\"X-Secret\"]\n\
             [route.headers.response]\nset = { X-Frame-Options = \"DENY\" }\n\
             remove = [\"X-Gone\"]\n",
        )
        .start();
        let sent = "X-Set: old\r\nX-More: a\r\nX-Secret: s\r\n";
        let answer = get(proxy.address, "/", sent).await;
        let request = origin.request();
        assert_eq!(fields(&request, "x-set"), ["new"]);
        assert_eq!(fields(&request, "x-more"), ["a", "b"]);
        assert!(fields(&request, "x-secret").is_empty());
        assert_eq!(answer.field("server"), Some("tollgate"));
        assert_eq!(answer.field("x-frame-options"), Some("DENY"));
        assert_eq!(answer.field("x-powered-by"), None);
        assert_eq!(answer.field("x-gone"), None);
    })
    .await;
}

#[tokio::test]
async fn the_operator_has_the_last_word_on_forwarded_fields() {
    within(async {
        let origin = Origin::answering(OK).await;
        let rewrite = "[route.headers.request]\nset = { X-Forwarded-Proto = \"https\" }\n\
                       remove = [\"X-Real-IP\"]\n";
        let proxy = setup(&origin, rewrite).start();
        get(proxy.address, "/", "").await;
        let request = origin.request();
        assert_eq!(fields(&request, "x-forwarded-proto"), ["https"]);
        assert!(fields(&request, "x-real-ip").is_empty(), "{request}");
    })
    .await;
}

#[tokio::test]
async fn connections_of_one_client_are_limited() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = Setup::forwarding_to(&origin).server("max_connections_per_client = 2").start();
        let request = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
        let mut first = Raw::connect(proxy.address).await;
        let mut second = Raw::connect(proxy.address).await;
        for client in [&mut first, &mut second] {
            client.send(request).await;
            assert_eq!(client.answer().await.status, 200);
        }
        let mut third = Raw::connect(proxy.address).await;
        third.try_send(request).await;
        assert!(third.read_to_end().await.is_empty());
        drop(first);
        crate::support::eventually("there is room again", async || {
            let mut next = Raw::connect(proxy.address).await;
            next.try_send(request).await;
            next.read_to_end_or("200 OK").await
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn more_exchanges_than_allowed_are_503() {
    within(async {
        let origin = Origin::scripted(|mut connection| async move {
            while connection.request().await.is_some() {}
        })
        .await;
        let proxy = Setup::forwarding_to(&origin).server("max_in_flight = 1").start();
        let mut first = Raw::connect(proxy.address).await;
        first.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        crate::support::eventually("the origin has it", async || !origin.requests().is_empty())
            .await;
        let answer = ask(proxy.address, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        assert_eq!(answer.status, 503);
        assert!(answer.field("retry-after").is_some());
    })
    .await;
}
