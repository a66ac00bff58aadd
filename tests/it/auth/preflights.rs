//! CORS preflights past routes that ask who it is (`preflights`).

use super::{K1, guarded};
use crate::support::client::{ask, fields, get};
use crate::support::origin::Origin;
use crate::support::within;

const KEY: &str = "X-API-Key: k1\r\n";

fn scheme() -> String {
    format!(
        "[[auth]]\nname = \"partners\"\n[auth.api_key]\nidentity_header = \"X-Client\"\n\
         bearer = true\nquery = \"key\"\nkeys = [{{ name = \"alice\", key = \"{K1}\" }}]\n"
    )
}

fn preflight(fields: &str) -> String {
    format!(
        "OPTIONS /a?key=k1&b=c HTTP/1.1\r\nHost: a.test\r\nOrigin: https://app.test\r\n\
         Access-Control-Request-Method: PUT\r\n{fields}\r\n"
    )
}

#[tokio::test]
async fn a_preflight_is_the_origins_to_answer_where_that_is_asked_for() {
    within(async {
        let origin = Origin::named("one").await;
        let route = "auth = { any = [\"partners\"], preflights = true }";
        let proxy = guarded(&origin, &scheme(), route).start();
        let sent = "X_Client: root\r\nX-Client: root\r\nX-API-Key: k1\r\n\
                    Authorization: Bearer k1\r\nCookie: session=k1\r\n\
                    X-HTTP-Method-Override: PUT\r\n";
        assert_eq!(ask(proxy.address, preflight(sent)).await.status, 200);
        let request = origin.request();
        assert!(request.starts_with("OPTIONS /a?b=c HTTP/1.1\r\n"), "{request}");
        assert_eq!(fields(&request, "origin"), ["https://app.test"]);
        assert_eq!(fields(&request, "access-control-request-method"), ["PUT"]);
        for word in ["root", "k1", "override", "x-client"] {
            assert!(!request.to_ascii_lowercase().contains(word), "{word}: {request}");
        }
        let lines = proxy.log_lines(1).await;
        assert!(!lines[0].contains("identity=") && !lines[0].contains("rejected="), "{lines:?}");
    })
    .await;
}

#[tokio::test]
async fn what_is_more_than_a_preflight_has_to_say_who_it_is() {
    within(async {
        let origin = Origin::named("one").await;
        let route = "auth = { any = [\"partners\"], preflights = true }";
        let proxy = guarded(&origin, &scheme(), route).start();
        let without =
            |what: &str| preflight("").replace(what, "X-Nothing: ").replace("key=k1&", "");
        let with_body = preflight("Content-Length: 2\r\n").replace("key=k1&", "") + "hi";
        for request in [
            without("Origin: "),
            without("Access-Control-Request-Method: "),
            preflight("").replace("OPTIONS", "PUT").replace("key=k1&", ""),
            with_body,
        ] {
            assert_eq!(ask(proxy.address, &request).await.status, 401, "{request}");
        }
        assert!(origin.bytes().is_empty());
        assert_eq!(get(proxy.address, "/", KEY).await.status, 200);
    })
    .await;
}

#[tokio::test]
async fn a_preflight_comes_from_where_all_have_to_come_from() {
    within(async {
        let origin = Origin::named("one").await;
        let auth =
            scheme() + "[[auth]]\nname = \"office\"\n[auth.address]\nallow = [\"10.0.0.0/8\"]\n";
        let route = "auth = { all = [\"office\"], any = [\"partners\"], preflights = true }";
        let trusting = "trusted_proxies = [\"127.0.0.1\"]";
        let proxy = guarded(&origin, &auth, route).server(trusting).start();
        for (client, status) in [("192.0.2.1", 403), ("10.1.1.1", 200)] {
            let from = format!("X-Forwarded-For: {client}\r\n");
            assert_eq!(ask(proxy.address, preflight(&from)).await.status, status, "{client}");
        }
        assert_eq!(origin.requests().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn where_nobody_asks_for_it_a_preflight_is_a_request_like_all_others() {
    within(async {
        let origin = Origin::named("one").await;
        let proxy = guarded(&origin, &scheme(), "auth = \"partners\"").start();
        let stranger = preflight("").replace("key=k1&", "");
        assert_eq!(ask(proxy.address, stranger).await.status, 401);
        assert!(origin.bytes().is_empty());
    })
    .await;
}
