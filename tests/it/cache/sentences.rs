//! Sentences of RFC 9111 and its kin that are about what is on the wire; a test is named
//! after where its sentence stands.

use super::{cached, counting, get, ok, origin, said, send};
use crate::support::client::Raw;
use crate::support::origin::Origin;
use crate::support::within;

const FRESH: &str = "Cache-Control: max-age=60\r\n";

#[tokio::test]
async fn rfc9111_s3_an_interim_response_is_passed_on_and_not_stored() {
    within(async {
        const HINT: &str =
            "HTTP/1.1 103 Early Hints\r\nCache-Control: max-age=60\r\nLink: </a>\r\n\r\n";
        for (lines, asked) in [("Cache-Control: no-store\r\n", 2), (FRESH, 1)] {
            let origin =
                origin(move |_, count| format!("{HINT}{}", ok(lines, &format!("body {count}"))))
                    .await;
            let proxy = cached(&origin, "").start();
            for number in 0..2 {
                let mut client = Raw::connect(proxy.address).await;
                client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
                let mut answer = client.answer().await;
                // One from the origin, and none from what is stored.
                assert_eq!(answer.status == 103, number < asked, "{answer:?}");
                if answer.status == 103 {
                    assert_eq!(answer.fields("link"), ["</a>"]);
                    answer = client.answer().await;
                }
                assert_eq!(answer.status, 200);
                assert_eq!(answer.text(), format!("body {}", number.min(asked - 1)));
            }
            assert_eq!(origin.requests().len(), asked);
        }
    })
    .await;
}

#[tokio::test]
async fn rfc9111_s3_1_what_is_of_the_connection_is_not_stored_and_all_else_is() {
    within(async {
        let origin = counting(
            "Cache-Control: max-age=60\r\nConnection: X-Hop, keep-alive\r\nX-Hop: 1\r\n\
             Keep-Alive: timeout=9\r\nProxy-Authenticate: Basic\r\nX-Own: 1\r\nX-Own: 2\r\n",
        )
        .await;
        let proxy = cached(&origin, "").start();
        get(&proxy, "/", "").await;
        let stored = get(&proxy, "/", "").await;
        assert!(said(&stored).contains("; hit"), "{}", said(&stored));
        for name in ["x-hop", "proxy-authenticate"] {
            assert!(stored.fields(name).is_empty(), "{}", stored.head);
        }
        assert_ne!(stored.field("keep-alive"), Some("timeout=9"));
        assert_eq!(stored.fields("x-own"), ["1", "2"]);
    })
    .await;
}

#[tokio::test]
async fn rfc9111_s4_2_3_the_age_that_it_came_with_counts() {
    within(async {
        let origin = counting("Cache-Control: max-age=60\r\nAge: 50\r\n").await;
        let proxy = cached(&origin, "").start();
        let first = get(&proxy, "/", "").await;
        let second = get(&proxy, "/", "").await;
        for answer in [&first, &second] {
            let age: u64 = answer.field("age").unwrap().parse().unwrap();
            assert!((50..60).contains(&age), "{age}");
            assert_eq!(answer.fields("age").len(), 1);
        }
        assert!(said(&second).contains("; hit"), "{}", said(&second));
    })
    .await;
}

#[tokio::test]
async fn rfc9111_s4_2_4_and_s5_2_2_2_what_must_be_validated_is_never_used_without() {
    within(async {
        for forbids in ["must-revalidate", "proxy-revalidate", "s-maxage=1", "no-cache"] {
            let origin = Origin::scripted(move |mut connection| async move {
                // The first connection has one answer, the others have none.
                if connection.number == 0 {
                    connection.request().await;
                    let lines = format!(
                        "Cache-Control: max-age=10, stale-while-revalidate=60, \
                         stale-if-error=60, {forbids}\r\nAge: 11\r\nETag: \"a\"\r\n\
                         Connection: close\r\n"
                    );
                    connection.write(ok(&lines, "body")).await;
                }
            })
            .await;
            let proxy = cached(&origin, "stale_if_error = \"1m\"").start();
            assert_eq!(get(&proxy, "/", "").await.text(), "body");
            assert_eq!(get(&proxy, "/", "").await.status, 502, "{forbids}");
        }
    })
    .await;
}

#[tokio::test]
async fn rfc9111_s5_2_2_4_no_cache_is_stored_and_validated_before_each_use() {
    within(async {
        let origin = origin(|request, _| {
            if request.to_ascii_lowercase().contains("if-none-match: \"a\"") {
                return "HTTP/1.1 304 No\r\nETag: \"a\"\r\n\r\n".to_owned();
            }
            ok("Cache-Control: max-age=60, no-cache\r\nETag: \"a\"\r\n", "body")
        })
        .await;
        let proxy = cached(&origin, "").start();
        for number in 0..3 {
            let answer = get(&proxy, "/", "").await;
            assert_eq!((answer.status, answer.text().as_str()), (200, "body"));
            assert_eq!(said(&answer).contains("fwd-status=304"), number > 0, "{}", said(&answer));
        }
    })
    .await;
}

#[tokio::test]
async fn rfc9111_s4_3_2_a_date_that_is_none_or_older_than_what_is_stored_gets_it_whole() {
    within(async {
        let origin =
            counting("Cache-Control: max-age=60\r\nDate: Sun, 06 Nov 2050 08:49:37 GMT\r\n").await;
        let proxy = cached(&origin, "").start();
        get(&proxy, "/", "").await;
        // It has no Last-Modified: its Date counts.
        for (since, status) in [
            ("yesterday", 200),
            ("Sun, 06 Nov 2050 08:49:36 GMT", 200),
            ("Sun, 06 Nov 2050 08:49:37 GMT", 304),
            ("Sunday, 06-Nov-50 08:49:37 GMT", 304),
        ] {
            let answer = get(&proxy, "/", &format!("If-Modified-Since: {since}\r\n")).await;
            assert_eq!(answer.status, status, "{since}");
            assert!(said(&answer).contains("; hit"), "{}", said(&answer));
        }
    })
    .await;
}

#[tokio::test]
async fn rfc9111_s7_3_a_cookie_is_stored_where_the_route_says_so_and_only_there() {
    within(async {
        let lines = "Cache-Control: max-age=60\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\n";
        let origin = counting(lines).await;
        let proxy = cached(&origin, "store_set_cookie = true").start();
        for _ in 0..2 {
            let answer = get(&proxy, "/", "").await;
            assert_eq!(answer.text(), "body 0");
            assert_eq!(answer.fields("set-cookie"), ["a=b", "c=d"]);
        }
        // What others ask with is told apart from that.
        assert!(said(&get(&proxy, "/x", "Cookie: a=b\r\n").await).ends_with("detail=cookie"));
        let proxy = cached(&origin, "").start();
        assert!(said(&get(&proxy, "/", "").await).ends_with("detail=set-cookie"));
    })
    .await;
}

#[tokio::test]
async fn what_a_path_or_a_type_looks_like_has_nothing_stored() {
    within(async {
        let origin = counting("Content-Type: text/css\r\n").await;
        let proxy = cached(&origin, "").start();
        for path in ["/account/x.css", "/account%2fx.css", "/account/;x.css", "/account.js"] {
            let first = get(&proxy, path, "Cookie: session=1\r\n").await;
            let second = get(&proxy, path, "").await;
            assert_ne!(first.text(), second.text(), "{path}");
            assert!(said(&second).ends_with("detail=no-lifetime"), "{}", said(&second));
        }
    })
    .await;
}

#[tokio::test]
async fn rfc9110_s14_2_many_ranges_get_the_whole_and_one_too_far_gets_416() {
    within(async {
        let origin = origin(|_, _| ok(FRESH, "0123456789")).await;
        let proxy = cached(&origin, "").start();
        get(&proxy, "/", "").await;
        let many = (0..200).map(|_| "0-").collect::<Vec<_>>().join(",");
        for (range, status) in [
            (many.as_str(), 200),
            ("0-1,0-1", 200),
            ("5-2", 200),
            ("10-", 416),
            ("99999999999999999999-", 200),
            ("-0", 416),
            ("0-99999999999999999", 206),
        ] {
            let answer = get(&proxy, "/", &format!("Range: bytes={range}\r\n")).await;
            assert_eq!(answer.status, status, "{range}");
            assert!(said(&answer).contains("; hit"), "{}", said(&answer));
            assert!(answer.body.len() <= 10);
        }
        assert_eq!(origin.requests().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn rfc9110_s9_3_3_what_a_post_gets_is_no_get_of_anybodys() {
    within(async {
        let origin = counting("Cache-Control: max-age=60\r\nContent-Location: /\r\n").await;
        let proxy = cached(&origin, "").start();
        assert_eq!(send(&proxy, "POST", "/", "Content-Length: 0\r\n").await.text(), "body 0");
        assert_eq!(get(&proxy, "/", "").await.text(), "body 1");
    })
    .await;
}

#[tokio::test]
async fn rfc9213_s2_1_the_targeted_field_counts_and_both_are_passed_on() {
    within(async {
        let origin = counting("CDN-Cache-Control: max-age=60\r\nCache-Control: no-store\r\n").await;
        let proxy = cached(&origin, "").start();
        for _ in 0..2 {
            let answer = get(&proxy, "/", "").await;
            assert_eq!(answer.text(), "body 0");
            assert_eq!(answer.field("cdn-cache-control"), Some("max-age=60"));
            assert_eq!(answer.field("cache-control"), Some("no-store"));
        }
    })
    .await;
}

#[tokio::test]
async fn rfc8246_s2_what_does_not_change_is_not_validated_by_a_reload() {
    within(async {
        let origin = counting("Cache-Control: max-age=60, immutable\r\nAge: 5\r\n").await;
        let proxy = cached(&origin, "honour_request_directives = true").start();
        for (fields, body) in [
            ("", "body 0"),
            ("Cache-Control: max-age=0\r\n", "body 0"),
            ("Cache-Control: no-cache\r\n", "body 1"),
        ] {
            assert_eq!(get(&proxy, "/", fields).await.text(), body, "{fields}");
        }
    })
    .await;
}

#[tokio::test]
async fn rfc9211_s2_what_caches_nearer_to_the_origin_said_stands_first() {
    within(async {
        let origin = counting("Cache-Control: max-age=60\r\nCache-Status: inner; hit\r\n").await;
        let proxy = cached(&origin, "").start();
        get(&proxy, "/", "").await;
        let hit = get(&proxy, "/", "").await;
        let said = hit.fields("cache-status");
        assert_eq!(said[0], "inner; hit");
        assert!(said[1].starts_with("tollgate; hit; ttl="), "{said:?}");
        assert_eq!(said.len(), 2);
    })
    .await;
}
