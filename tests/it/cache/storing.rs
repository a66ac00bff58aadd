//! What is stored and for whom.

use super::{cached, counting, get, metrics, ok, origin, said, send};
use crate::support::client::{Raw, fields};
use crate::support::within;

const FRESH: &str = "Cache-Control: max-age=60\r\n";

#[tokio::test]
async fn a_fresh_response_answers_without_the_origin() {
    within(async {
        let origin = counting("Cache-Control: max-age=60\r\nServer: origin\r\nX-A: 1\r\n").await;
        let proxy = cached(&origin, "").start();
        let first = get(&proxy, "/x?y", "").await;
        assert_eq!((first.status, first.text().as_str()), (200, "body 0"));
        assert_eq!(said(&first), "tollgate; fwd=uri-miss; fwd-status=200; ttl=60; stored");
        assert_eq!(first.field("age"), None);
        let second = get(&proxy, "/x?y", "").await;
        assert_eq!((second.status, second.text().as_str()), (200, "body 0"));
        assert!(said(&second).starts_with("tollgate; hit; ttl="), "{}", said(&second));
        assert!(second.field("age").is_some() && second.field("date").is_some());
        assert_eq!(second.field("x-a"), Some("1"));
        assert_eq!(second.field("content-length"), Some("6"));
        // What the route does to responses is done to stored ones as well.
        assert_eq!(second.fields("server"), ["tollgate"]);
        assert_eq!(origin.requests().len(), 1);
        assert_eq!(get(&proxy, "/x?z", "").await.text(), "body 1");
        let metrics = metrics(&proxy).await;
        for line in [
            "tollgate_cache_requests_total{route=\"all\",outcome=\"hit\"} 1\n",
            "tollgate_cache_requests_total{route=\"all\",outcome=\"miss\"} 2\n",
            "tollgate_cache_objects 2\n",
        ] {
            assert!(metrics.contains(line), "{line} is not in\n{metrics}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_route_without_the_table_stores_nothing_and_says_nothing() {
    within(async {
        let origin = counting(FRESH).await;
        let proxy = crate::support::proxy::Setup::forwarding_to(&origin).start();
        for body in ["body 0", "body 1"] {
            let answer = get(&proxy, "/", "").await;
            assert_eq!((answer.text().as_str(), said(&answer).as_str()), (body, ""));
        }
    })
    .await;
}

#[tokio::test]
async fn chunked_and_empty_bodies_are_stored_as_well() {
    within(async {
        let origin = origin(|request, _| {
            if request.starts_with("GET /empty") {
                return ok(FRESH, "");
            }
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{FRESH}\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
        })
        .await;
        let proxy = cached(&origin, "").start();
        assert_eq!(get(&proxy, "/", "").await.text(), "abcde");
        let again = get(&proxy, "/", "").await;
        assert_eq!((again.text().as_str(), again.field("content-length")), ("abcde", Some("5")));
        for _ in 0..2 {
            assert_eq!(get(&proxy, "/empty", "").await.text(), "");
        }
        assert_eq!(origin.requests().len(), 2);
    })
    .await;
}

#[tokio::test]
async fn what_is_for_one_client_is_stored_for_nobody() {
    within(async {
        for (lines, asked, why) in [
            ("Cache-Control: private, max-age=60\r\n", "", "private"),
            ("Cache-Control: no-store\r\n", "", "no-store"),
            ("Cache-Control: max-age=60\r\nSet-Cookie: a=b\r\n", "", "set-cookie"),
            ("Cache-Control: max-age=60\r\nVary: *\r\n", "", "vary"),
            ("", "", "no-lifetime"),
            (FRESH, "Authorization: Basic eDp5\r\n", "authorization"),
            (FRESH, "Cookie: session=1\r\n", "cookie"),
            (FRESH, "Cache-Control: no-store\r\n", "request-no-store"),
        ] {
            let origin = counting(lines).await;
            let proxy = cached(&origin, "").start();
            for body in ["body 0", "body 1"] {
                let answer = get(&proxy, "/", asked).await;
                assert_eq!(answer.text(), body, "{why}");
                let expected = format!("fwd-status=200; detail={why}");
                assert!(said(&answer).ends_with(&expected), "{why}: {}", said(&answer));
            }
        }
    })
    .await;
}

#[tokio::test]
async fn what_the_origin_says_is_for_all_is_shared_without_cookies() {
    within(async {
        let origin = counting("Cache-Control: public, max-age=60\r\nSet-Cookie: a=b\r\n").await;
        let proxy = cached(&origin, "").start();
        let asked = "Authorization: Basic eDp5\r\nCookie: session=1\r\n";
        assert_eq!(get(&proxy, "/", asked).await.fields("set-cookie"), ["a=b"]);
        let other = get(&proxy, "/", "").await;
        assert_eq!(other.text(), "body 0");
        assert!(other.fields("set-cookie").is_empty());
    })
    .await;
}

#[tokio::test]
async fn who_is_let_in_by_a_key_has_credentials() {
    within(async {
        let origin = counting(FRESH).await;
        let key = "sha256:6ab9f1eb8f7d3388f4f9d586f66e99fd54080df2c446f0e58668b09c08a16dd0";
        let keys = format!("[route.api_key]\nkeys = [{{ name = \"alice\", key = \"{key}\" }}]\n");
        let proxy = cached(&origin, &keys).start();
        for body in ["body 0", "body 1"] {
            assert_eq!(get(&proxy, "/", "X-API-Key: k1\r\n").await.text(), body);
        }
        // And a stranger is turned away before anything is looked for.
        assert_eq!(get(&proxy, "/", "").await.status, 401);
    })
    .await;
}

#[tokio::test]
async fn credentials_that_the_operator_has_every_request_carry_are_nobodys() {
    within(async {
        let origin = counting(FRESH).await;
        let token = "[route.headers.request]\nset = { Authorization = \"Bearer x\" }\n";
        let proxy = cached(&origin, token).start();
        for _ in 0..2 {
            assert_eq!(get(&proxy, "/", "").await.text(), "body 0");
        }
    })
    .await;
}

#[tokio::test]
async fn each_variant_is_for_those_who_select_it() {
    within(async {
        let origin = origin(|request, _| {
            let language = fields(request, "accept-language").first().map_or("none", |it| *it);
            ok("Cache-Control: max-age=60\r\nVary: Accept-Language\r\n", language)
        })
        .await;
        let proxy = cached(&origin, "").start();
        for _ in 0..2 {
            assert_eq!(get(&proxy, "/", "Accept-Language: de\r\n").await.text(), "de");
            assert_eq!(get(&proxy, "/", "Accept-Language: en\r\n").await.text(), "en");
            assert_eq!(get(&proxy, "/", "").await.text(), "none");
        }
        assert_eq!(origin.requests().len(), 3);
        let miss = get(&proxy, "/", "Accept-Language: fr\r\n").await;
        assert!(said(&miss).contains("fwd=vary-miss"), "{}", said(&miss));
    })
    .await;
}

#[tokio::test]
async fn hosts_schemes_and_what_trusted_proxies_say_are_kept_apart() {
    within(async {
        let origin = origin(|request, _| {
            let said =
                fields(request, "x-forwarded-proto").join("") + &fields(request, "host").join("");
            ok(FRESH, &said)
        })
        .await;
        let proxy = cached(&origin, "").server("trusted_proxies = [\"127.0.0.0/8\"]").start();
        for _ in 0..2 {
            for proto in ["http", "https"] {
                let fields = format!("X-Forwarded-Proto: {proto}\r\n");
                assert_eq!(get(&proxy, "/", &fields).await.text(), format!("{proto}a.test"));
            }
            let other = "GET / HTTP/1.1\r\nHost: b.test\r\n\r\n";
            let answer = crate::support::client::ask(proxy.address, other).await;
            assert_eq!(answer.text(), "httpb.test");
        }
        assert_eq!(origin.requests().len(), 3);
    })
    .await;
}

#[tokio::test]
async fn a_stranger_cannot_have_something_stored_for_others() {
    within(async {
        // The origin believes whatever it is told.
        let origin = origin(|request, _| {
            let evil =
                if request.to_ascii_lowercase().contains("evil") { "poisoned" } else { "good" };
            ok(FRESH, evil)
        })
        .await;
        for fields in [
            "X-Forwarded-Host: evil.test\r\n",
            "X-Original-URL: /evil\r\n",
            "X-HTTP-Method-Override: evil\r\n",
            "Connection: X-Evil\r\nX-Evil: 1\r\n",
            "Content-Length: 4\r\n\r\nevil",
        ] {
            let proxy = cached(&origin, "").start();
            get(&proxy, "/", fields).await;
            let other = get(&proxy, "/", "").await;
            assert_eq!(other.text(), "good", "{fields}");
        }
    })
    .await;
}

#[tokio::test]
async fn the_key_can_leave_parameters_out_and_take_fields_in() {
    within(async {
        let origin = counting(FRESH).await;
        let key = "key = { ignore_query = [\"utm_*\"], headers = [\"X-Tenant\"] }";
        let proxy = cached(&origin, key).start();
        assert_eq!(get(&proxy, "/?a=1&utm_source=x", "").await.text(), "body 0");
        assert_eq!(get(&proxy, "/?a=1", "").await.text(), "body 0");
        assert_eq!(get(&proxy, "/?a=1", "X-Tenant: t\r\n").await.text(), "body 1");
    })
    .await;
}

#[tokio::test]
async fn head_and_ranges_are_answered_from_what_is_stored_whole() {
    within(async {
        let origin =
            origin(|_, _| ok("Cache-Control: max-age=60\r\nETag: \"v1\"\r\n", "0123456789")).await;
        let proxy = cached(&origin, "").start();
        get(&proxy, "/", "").await;
        let head = send(&proxy, "HEAD", "/", "").await;
        assert_eq!((head.status, head.field("content-length")), (200, Some("10")));
        let part = get(&proxy, "/", "Range: bytes=2-4\r\n").await;
        assert_eq!((part.status, part.text().as_str()), (206, "234"));
        assert_eq!(part.field("content-range"), Some("bytes 2-4/10"));
        let past = get(&proxy, "/", "Range: bytes=10-\r\n").await;
        assert_eq!((past.status, past.field("content-range")), (416, Some("bytes */10")));
        let many = get(&proxy, "/", "Range: bytes=0-0,2-2\r\n").await;
        assert_eq!((many.status, many.text().as_str()), (200, "0123456789"));
        let other = get(&proxy, "/", "Range: bytes=0-1\r\nIf-Range: \"v0\"\r\n").await;
        assert_eq!(other.status, 200);
        let known = get(&proxy, "/", "If-None-Match: \"v1\"\r\n").await;
        assert_eq!((known.status, known.field("etag")), (304, Some("\"v1\"")));
        assert_eq!(origin.requests().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn parts_are_passed_on_and_not_stored() {
    within(async {
        let origin = origin(|request, _| {
            if fields(request, "range").is_empty() {
                return ok(FRESH, "0123456789");
            }
            format!("HTTP/1.1 206 Partial Content\r\nContent-Length: 2\r\nContent-Range: bytes 0-1/10\r\n{FRESH}\r\n01")
        })
        .await;
        let proxy = cached(&origin, "").start();
        for _ in 0..2 {
            assert_eq!(get(&proxy, "/", "Range: bytes=0-1\r\n").await.status, 206);
        }
        assert_eq!(get(&proxy, "/", "").await.text(), "0123456789");
        assert_eq!(origin.requests().len(), 3);
    })
    .await;
}

#[tokio::test]
async fn a_change_invalidates_what_it_names() {
    within(async {
        let origin = origin(|request, count| {
            if request.starts_with("POST /fails") {
                return "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n".to_owned();
            }
            if request.starts_with("POST") {
                return ok("Location: /made\r\nContent-Location: http://b.test/other\r\n", "");
            }
            ok(FRESH, &format!("body {count}"))
        })
        .await;
        let proxy = cached(&origin, "").start();
        for path in ["/x", "/made", "/fails"] {
            get(&proxy, path, "").await;
        }
        assert_eq!(
            said(&send(&proxy, "POST", "/x", "").await),
            "tollgate; fwd=method; fwd-status=200"
        );
        send(&proxy, "POST", "/fails", "").await;
        assert_eq!(get(&proxy, "/x", "").await.text(), "body 5");
        assert_eq!(get(&proxy, "/made", "").await.text(), "body 6");
        assert_eq!(get(&proxy, "/fails", "").await.text(), "body 2");
    })
    .await;
}

#[tokio::test]
async fn what_is_too_long_is_passed_on_whole() {
    within(async {
        const LONG: usize = 3_000_000;
        let origin = origin(|request, _| {
            let body = "x".repeat(LONG);
            if request.starts_with("GET /announced") {
                return ok(FRESH, &body);
            }
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{FRESH}\r\n{LONG:x}\r\n{body}\r\n0\r\n\r\n")
        })
        .await;
        let proxy = cached(&origin, "max_object = \"10KiB\"").start();
        for path in ["/announced", "/chunked"] {
            for _ in 0..2 {
                assert_eq!(get(&proxy, path, "").await.body.len(), LONG, "{path}");
            }
        }
        assert_eq!(origin.requests().len(), 4);
    })
    .await;
}

#[tokio::test]
async fn a_body_that_breaks_off_is_not_stored() {
    within(async {
        let origin = crate::support::origin::Origin::scripted(|mut connection| async move {
            if connection.request().await.is_some() {
                let half = connection.number == 0;
                let body = if half { "ab" } else { "abcd" };
                let head =
                    "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nCache-Control: max-age=60\r\n\r\n";
                connection.write(format!("{head}{body}")).await;
            }
        })
        .await;
        let proxy = cached(&origin, "").start();
        let mut client = Raw::connect(proxy.address).await;
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        let all = String::from_utf8(client.read_to_end().await).unwrap();
        assert!(all.ends_with("\r\n\r\nab"), "{all}");
        assert_eq!(get(&proxy, "/", "").await.text(), "abcd");
        assert!(said(&get(&proxy, "/", "").await).contains("hit"));
    })
    .await;
}
