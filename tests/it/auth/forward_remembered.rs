//! Decisions of another service that hold for more than one request (`[auth.forward.cache]`).

use std::time::Duration;

use super::forward::{OK, asking, by_token, service, started};
use crate::support::client::{Raw, ask, fields, get};
use crate::support::origin::Origin;
use crate::support::{eventually, within};

const REMEMBERED: &str =
    "[auth.forward.cache]\nkey = [\"header:authorization\", \"path\"]\nttl = \"1m\"\n";

#[tokio::test]
async fn a_decision_holds_for_requests_that_are_alike() {
    within(async {
        let (origin, service, proxy) = started(by_token, REMEMBERED).await;
        let alice = "Authorization: Bearer alice\r\n";
        for path in ["/a", "/a?x", "/a"] {
            assert_eq!(get(proxy.address, path, alice).await.status, 200);
        }
        assert_eq!(service.requests().len(), 1);
        assert_eq!(get(proxy.address, "/b", alice).await.status, 200);
        assert_eq!(get(proxy.address, "/a", "Authorization: Bearer bob\r\n").await.status, 200);
        assert_eq!(service.requests().len(), 3);
        let names: Vec<String> = origin
            .requests()
            .iter()
            .map(|request| fields(request, "x-auth-user").join(","))
            .collect();
        assert_eq!(names, ["alice", "alice", "alice", "alice", "bob"]);
        for _ in 0..2 {
            assert_eq!(get(proxy.address, "/a", "").await.status, 401);
        }
        assert_eq!(service.requests().len(), 5, "refusals are not remembered");
    })
    .await;
}

/// What the connection names is not there for anybody: neither for the service, nor for what
/// decisions are remembered by, nor for the origin.
#[tokio::test]
async fn a_decision_is_remembered_by_what_the_service_was_told() {
    within(async {
        let by_tenant = |request: &str| match &fields(request, "x-tenant")[..] {
            [] => by_token(request),
            _ => "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n".to_owned(),
        };
        let lines = "request_headers = \"*\"\n[auth.forward.cache]\n\
                     key = [\"header:authorization\", \"header:x-tenant\"]\nttl = \"1m\"\n";
        let (origin, service, proxy) = started(by_tenant, lines).await;
        let theirs = "Authorization: Bearer alice\r\nX-Tenant: victim\r\n";
        let hidden = format!("{theirs}Connection: X-Tenant\r\n");
        assert_eq!(get(proxy.address, "/", &hidden).await.status, 200);
        assert!(fields(&origin.request(), "x-tenant").is_empty(), "{}", origin.request());
        assert_eq!(get(proxy.address, "/", theirs).await.status, 403);
        assert_eq!(get(proxy.address, "/", "Authorization: Bearer alice\r\n").await.status, 200);
        assert_eq!(service.requests().len(), 2);
        assert_eq!(origin.requests().len(), 2);
    })
    .await;
}

/// Whoever goes away leaves a question behind that others may wait for.
#[tokio::test]
async fn no_more_is_asked_for_those_who_went_away_than_may_be() {
    within(async {
        let origin = Origin::answering(OK).await;
        let silent = Origin::scripted(|mut connection| async move {
            let _request = connection.request().await;
            std::future::pending::<()>().await;
        })
        .await;
        let lines = format!("timeout = \"1m\"\nmax_in_flight = 1\n{REMEMBERED}");
        let proxy = asking(&origin, &silent, &lines).start();
        let one = |n: u32| {
            let request =
                format!("GET / HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer {n}\r\n\r\n");
            Box::pin(ask(proxy.address, request))
        };
        let (first, _, waiting) = futures_util::future::select_all((0..5).map(one)).await;
        assert_eq!(first.status, 503);
        assert!(proxy.log_lines(1).await[0].contains("rejected=forward_overloaded"));
        drop(waiting);
        assert_eq!(one(5).await.status, 503);
        eventually("the service is asked", async || silent.requests().len() == 1).await;
    })
    .await;
}

#[tokio::test]
async fn what_the_service_does_not_want_remembered_is_not() {
    within(async {
        let no_store = |request: &str| {
            by_token(request).replace("X-Other: 1", "Cache-Control: private, no-store")
        };
        let (_origin, service, proxy) = started(no_store, REMEMBERED).await;
        // A cookie is for the one who gets it.
        let (_origin2, service2, proxy2) =
            started(by_token, &format!("set_cookies = true\n{REMEMBERED}")).await;
        for (service, proxy) in [(&service, &proxy), (&service2, &proxy2)] {
            for _ in 0..3 {
                let alice = get(proxy.address, "/", "Authorization: Bearer alice\r\n").await;
                assert_eq!(alice.status, 200);
            }
            assert_eq!(service.requests().len(), 3);
        }
    })
    .await;
}

#[tokio::test]
async fn refusals_are_remembered_for_as_long_as_it_is_said() {
    within(async {
        let lines = format!("{REMEMBERED}negative_ttl = \"1m\"\n");
        let (_origin, service, proxy) = started(by_token, &lines).await;
        for _ in 0..3 {
            let wrong = get(proxy.address, "/", "Authorization: Bearer wrong\r\n").await;
            assert_eq!((wrong.status, wrong.text()), (403, "no!".to_owned()));
        }
        assert_eq!(service.requests().len(), 1);
        // One who brings nothing may be another than the last, as far as anybody can tell.
        for _ in 0..2 {
            assert_eq!(get(proxy.address, "/", "").await.status, 401);
        }
        assert_eq!(service.requests().len(), 3);
    })
    .await;
}

#[tokio::test]
async fn however_many_wait_the_service_is_asked_once() {
    within(async {
        let origin = Origin::answering(OK).await;
        let service = Origin::scripted(|mut connection| async move {
            while let Some(request) = connection.request().await {
                tokio::time::sleep(Duration::from_millis(300)).await;
                connection.write(by_token(&request)).await;
            }
        })
        .await;
        let proxy = asking(&origin, &service, REMEMBERED).start();
        let alice = "GET /a HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer alice\r\n\r\n";
        // The one who asks goes away; the others get its answer all the same.
        let mut first = Raw::connect(proxy.address).await;
        first.send(alice).await;
        eventually("the service is asked", async || service.requests().len() == 1).await;
        drop(first);
        let others = (0..20).map(|_| ask(proxy.address, alice));
        for other in futures_util::future::join_all(others).await {
            assert_eq!(other.status, 200);
        }
        assert_eq!(service.requests().len(), 1);
    })
    .await;
}

/// The service may decide by more than what the configuration says: by a password where a
/// cookie was expected, or by the network.
#[tokio::test]
async fn what_lets_one_in_lets_no_stranger_in_who_sends_less() {
    within(async {
        let by_what_it_likes = |request: &str| {
            let is_near = fields(request, "x-forwarded-for") == ["10.0.0.7"];
            let name = match &fields(request, "authorization")[..] {
                [] if is_near => "near",
                [] => return by_token(request),
                _ => "basicuser",
            };
            format!("HTTP/1.1 200 OK\r\nX-Auth-User: {name}\r\nContent-Length: 0\r\n\r\n")
        };
        let lines = "[auth.forward.cache]\nttl = \"1m\"\nnegative_ttl = \"1m\"\n\
                     key = [\"cookie:session\", \"host\", \"path\", \"method\"]\n";
        let (origin, service) = (Origin::answering(OK).await, service(by_what_it_likes).await);
        let setup = asking(&origin, &service, lines);
        let proxy = setup.server("trusted_proxies = [\"127.0.0.1\"]").start();
        let from = async |client: &str, fields: &str| {
            let fields = format!("X-Forwarded-For: {client}\r\n{fields}");
            get(proxy.address, "/", &fields).await.status
        };
        let (basic, session) = ("Authorization: Basic YTpi\r\n", "Cookie: session=s1\r\n");
        for (client, fields, status) in [
            ("192.0.2.1", "", 401),
            ("192.0.2.1", basic, 200),
            ("192.0.2.1", "", 401),
            ("10.0.0.7", "", 200),
            ("192.0.2.1", "", 401),
            ("192.0.2.1", session, 401),
            ("192.0.2.1", &format!("{basic}{session}"), 200),
            ("192.0.2.1", session, 401),
        ] {
            assert_eq!(from(client, fields).await, status, "{client} {fields:?}");
        }
        assert_eq!(service.requests().len(), 7, "only the last was like another");
    })
    .await;
}
