//! What is stale is validated, or used all the same where that is allowed.

use super::{cached, counting, get, ok, origin, said};
use crate::support::client::fields;
use crate::support::origin::Origin;
use crate::support::{eventually, within};

/// Stale when it comes.
const STALE: &str = "Cache-Control: max-age=10\r\nAge: 11\r\nETag: \"v1\"\r\n";

#[tokio::test]
async fn a_stale_response_that_still_holds_is_as_good_as_new() {
    within(async {
        let origin = origin(|request, count| {
            if fields(request, "if-none-match") == ["\"v1\""] {
                return "HTTP/1.1 304 Not Modified\r\nETag: \"v1\"\r\nX-New: 1\r\n\
                        Cache-Control: max-age=60\r\n\r\n"
                    .to_owned();
            }
            ok(STALE, &format!("body {count}"))
        })
        .await;
        let proxy = cached(&origin, "").start();
        assert_eq!(get(&proxy, "/", "").await.text(), "body 0");
        let second = get(&proxy, "/", "").await;
        assert_eq!((second.status, second.text().as_str()), (200, "body 0"));
        assert_eq!(said(&second), "tollgate; fwd=stale; fwd-status=304; ttl=60; stored");
        let third = get(&proxy, "/", "").await;
        assert!(said(&third).contains("; hit"), "{}", said(&third));
        assert_eq!((third.field("x-new"), third.field("etag")), (Some("1"), Some("\"v1\"")));
        assert_eq!(origin.requests().len(), 2);
    })
    .await;
}

#[tokio::test]
async fn a_clients_own_condition_is_answered_from_what_was_validated() {
    within(async {
        let origin = origin(|request, _| {
            if fields(request, "if-none-match") == ["\"v1\""] {
                return "HTTP/1.1 304 Not Modified\r\nETag: \"v1\"\r\n\r\n".to_owned();
            }
            ok(STALE, "body")
        })
        .await;
        let proxy = cached(&origin, "").start();
        get(&proxy, "/", "").await;
        assert_eq!(get(&proxy, "/", "If-None-Match: \"other\"\r\n").await.text(), "body");
        assert_eq!(get(&proxy, "/", "If-None-Match: \"v1\"\r\n").await.status, 304);
    })
    .await;
}

#[tokio::test]
async fn a_304_about_something_else_is_asked_for_again_whole() {
    within(async {
        let origin = origin(|request, count| {
            if fields(request, "if-none-match").is_empty() {
                return ok(STALE, &format!("body {count}"));
            }
            "HTTP/1.1 304 Not Modified\r\nETag: \"v9\"\r\n\r\n".to_owned()
        })
        .await;
        let proxy = cached(&origin, "").start();
        get(&proxy, "/", "").await;
        let second = get(&proxy, "/", "").await;
        assert_eq!((second.status, second.text().as_str()), (200, "body 2"));
    })
    .await;
}

#[tokio::test]
async fn what_has_changed_takes_the_place_of_what_was_stored() {
    within(async {
        let origin = origin(|_, count| {
            let lines = if count == 0 { STALE } else { "Cache-Control: max-age=60\r\n" };
            ok(lines, &format!("body {count}"))
        })
        .await;
        let proxy = cached(&origin, "").start();
        for body in ["body 0", "body 1", "body 1"] {
            assert_eq!(get(&proxy, "/", "").await.text(), body);
        }
    })
    .await;
}

#[tokio::test]
async fn it_is_served_while_one_request_revalidates_it() {
    within(async {
        let origin = origin(|_, count| {
            let lines = match count {
                0 => "Cache-Control: max-age=10, stale-while-revalidate=100\r\nAge: 11\r\n",
                _ => "Cache-Control: max-age=60\r\n",
            };
            if count > 0 {
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
            ok(lines, &format!("body {count}"))
        })
        .await;
        let proxy = cached(&origin, "").start();
        get(&proxy, "/", "").await;
        for _ in 0..5 {
            let stale = get(&proxy, "/", "").await;
            if stale.text() == "body 1" {
                break;
            }
            assert_eq!(stale.text(), "body 0");
            assert!(said(&stale).starts_with("tollgate; hit; ttl=-1"), "{}", said(&stale));
        }
        eventually("it is revalidated", async || get(&proxy, "/", "").await.text() == "body 1")
            .await;
        assert_eq!(origin.requests().len(), 2);
    })
    .await;
}

#[tokio::test]
async fn it_stands_in_for_an_origin_that_fails() {
    within(async {
        let origin = origin(|_, count| match count {
            0 => ok("Cache-Control: max-age=10, stale-if-error=100\r\nAge: 11\r\n", "body 0"),
            _ => "HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nno".to_owned(),
        })
        .await;
        let proxy = cached(&origin, "").start();
        get(&proxy, "/", "").await;
        let stale = get(&proxy, "/", "").await;
        assert_eq!((stale.status, stale.text().as_str()), (200, "body 0"));
        assert!(said(&stale).contains("fwd=stale; fwd-status=503"), "{}", said(&stale));
    })
    .await;
}

#[tokio::test]
async fn it_stands_in_for_an_origin_that_cannot_be_reached() {
    within(async {
        let origin = Origin::scripted(|mut connection| async move {
            // The first connection has one answer, the others have none.
            if connection.number == 0 {
                connection.request().await;
                let lines = "Cache-Control: max-age=10\r\nAge: 11\r\nConnection: close\r\n";
                connection.write(ok(lines, "body")).await;
            }
        })
        .await;
        let proxy = cached(&origin, "stale_if_error = \"1m\"").start();
        get(&proxy, "/", "").await;
        let stale = get(&proxy, "/", "").await;
        assert_eq!((stale.status, stale.text().as_str()), (200, "body"));
        assert!(said(&stale).contains("fwd=stale; ttl=-1; detail="), "{}", said(&stale));
        assert_eq!(get(&proxy, "/other", "").await.status, 502);
    })
    .await;
}

#[tokio::test]
async fn without_leave_nothing_stands_in() {
    within(async {
        let origin = origin(|_, count| match count {
            0 => ok(STALE, "body 0"),
            _ => "HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nno".to_owned(),
        })
        .await;
        let proxy = cached(&origin, "").start();
        get(&proxy, "/", "").await;
        assert_eq!(get(&proxy, "/", "").await.status, 503);
        // A failure does not take the place of what is stored.
        assert!(said(&get(&proxy, "/", "").await).contains("fwd=stale"));
    })
    .await;
}

#[tokio::test]
async fn a_clients_directives_count_only_where_the_route_says_so() {
    within(async {
        let origin = counting("Cache-Control: max-age=60\r\n").await;
        let deaf = cached(&origin, "").start();
        get(&deaf, "/", "").await;
        for fields in ["Cache-Control: no-cache\r\n", "Pragma: no-cache\r\n"] {
            assert_eq!(get(&deaf, "/", fields).await.text(), "body 0");
        }
        let hears = cached(&origin, "honour_request_directives = true").start();
        let only = get(&hears, "/", "Cache-Control: only-if-cached\r\n").await;
        assert_eq!(only.status, 504);
        assert_eq!(get(&hears, "/", "").await.text(), "body 1");
        assert_eq!(get(&hears, "/", "Cache-Control: only-if-cached\r\n").await.text(), "body 1");
        assert_eq!(get(&hears, "/", "Cache-Control: no-cache\r\n").await.text(), "body 2");
        assert_eq!(get(&hears, "/", "Pragma: no-cache\r\n").await.text(), "body 3");
    })
    .await;
}

#[tokio::test]
async fn rfc9111_s4_3_5_a_head_renews_what_it_is_about() {
    within(async {
        let origin = origin(|request, count| {
            if request.starts_with("HEAD") {
                return ok("Cache-Control: max-age=60\r\nETag: \"v1\"\r\nX-New: 1\r\n", "body 0")
                    .replace("body 0", "");
            }
            ok(STALE, &format!("body {count}"))
        })
        .await;
        let proxy = cached(&origin, "").start();
        get(&proxy, "/", "").await;
        let head = super::send(&proxy, "HEAD", "/", "").await;
        assert_eq!(said(&head), "tollgate; fwd=stale; fwd-status=200; detail=head");
        let renewed = get(&proxy, "/", "").await;
        assert!(said(&renewed).contains("; hit"), "{}", said(&renewed));
        assert_eq!((renewed.text().as_str(), renewed.field("x-new")), ("body 0", Some("1")));
        assert_eq!(origin.requests().len(), 2);
    })
    .await;
}

#[tokio::test]
async fn rfc9111_s4_3_5_a_head_about_something_else_makes_it_stale() {
    within(async {
        for differs in ["ETag: \"v2\"\r\nContent-Length: 6\r\n", "Content-Length: 7\r\n"] {
            let origin = origin(move |request, count| {
                if request.starts_with("HEAD") {
                    return format!(
                        "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\n{differs}\r\n"
                    );
                }
                let lines = "Cache-Control: max-age=10, stale-while-revalidate=60\r\n\
                             Age: 11\r\nETag: \"v1\"\r\n";
                ok(lines, &format!("body {count}"))
            })
            .await;
            let proxy = cached(&origin, "honour_request_directives = true").start();
            get(&proxy, "/", "").await;
            super::send(&proxy, "HEAD", "/", "Cache-Control: no-cache\r\n").await;
            assert_eq!(origin.requests().len(), 2);
            let stale = get(&proxy, "/", "").await;
            assert!(said(&stale).contains("; fwd=stale"), "{}", said(&stale));
            assert_eq!(origin.requests().len(), 3);
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_for_whoever_sends_a_head_does_not_renew_what_is_for_all() {
    within(async {
        let origin = origin(|request, count| {
            if request.starts_with("HEAD") {
                return "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nX-New: 1\r\n\
                        Content-Length: 6\r\n\r\n"
                    .to_owned();
            }
            ok(STALE, &format!("body {count}"))
        })
        .await;
        let proxy = cached(&origin, "").start();
        get(&proxy, "/", "").await;
        super::send(&proxy, "HEAD", "/", "Cookie: a=b\r\n").await;
        let next = get(&proxy, "/", "").await;
        assert!(said(&next).contains("fwd=stale"), "{}", said(&next));
    })
    .await;
}

#[tokio::test]
async fn a_revalidation_in_the_background_is_nobodys_in_particular() {
    within(async {
        let origin = origin(|_, count| {
            let lines = match count {
                0 => "Cache-Control: max-age=10, stale-while-revalidate=100\r\nAge: 11\r\n",
                _ => "Cache-Control: max-age=60\r\n",
            };
            ok(lines, &format!("body {count}"))
        })
        .await;
        let proxy = cached(&origin, "").start();
        get(&proxy, "/", "").await;
        let own = "Cookie: a=b\r\nAuthorization: Basic eDp5\r\nRange: bytes=0-0\r\n\
                   If-Match: \"x\"\r\nCache-Control: no-store\r\n";
        assert_eq!(get(&proxy, "/", own).await.text(), "b");
        eventually("it is renewed", async || get(&proxy, "/", "").await.text() == "body 1").await;
        let asked = &origin.requests()[1];
        for name in ["cookie", "authorization", "range", "if-match", "cache-control"] {
            assert!(fields(asked, name).is_empty(), "{asked}");
        }
    })
    .await;
}

#[tokio::test]
async fn what_was_said_to_be_for_all_is_revalidated_as_it_was_asked_for() {
    within(async {
        let origin = origin(|_, count| {
            let lines = match count {
                0 => "Cache-Control: public, max-age=10, stale-while-revalidate=100\r\nAge: 11\r\n",
                _ => "Cache-Control: public, max-age=60\r\n",
            };
            ok(lines, &format!("body {count}"))
        })
        .await;
        let proxy = cached(&origin, "").start();
        let own = "Authorization: Basic eDp5\r\n";
        get(&proxy, "/", own).await;
        get(&proxy, "/", own).await;
        eventually("it is renewed", async || get(&proxy, "/", own).await.text() == "body 1").await;
        assert_eq!(fields(&origin.requests()[1], "authorization"), ["Basic eDp5"]);
    })
    .await;
}

#[tokio::test]
async fn rfc9111_s4_3_2_a_condition_that_the_origin_judges_goes_to_it() {
    within(async {
        let origin = origin(|request, count| {
            if fields(request, "if-match").is_empty() {
                return ok("Cache-Control: max-age=60\r\n", &format!("body {count}"));
            }
            "HTTP/1.1 412 No\r\nCache-Control: max-age=60\r\nContent-Length: 0\r\n\r\n".to_owned()
        })
        .await;
        let proxy = cached(&origin, "").start();
        let failed = get(&proxy, "/", "If-Match: \"x\"\r\n").await;
        assert_eq!(failed.status, 412);
        assert!(said(&failed).ends_with("detail=condition"), "{}", said(&failed));
        assert_eq!(get(&proxy, "/", "").await.text(), "body 1", "nothing is stored of it");
    })
    .await;
}

#[tokio::test]
async fn what_a_304_says_to_one_client_is_not_told_to_others() {
    within(async {
        let origin = origin(|request, count| {
            if fields(request, "if-none-match") == ["\"v1\""] {
                return "HTTP/1.1 304 Not Modified\r\nETag: \"v1\"\r\nX-Account: alice\r\n\
                        Cache-Control: max-age=60\r\n\r\n"
                    .to_owned();
            }
            let lines = format!("{STALE}X-Account: nobody\r\n");
            ok(&lines, &format!("body {count}"))
        })
        .await;
        let proxy = cached(&origin, "").start();
        get(&proxy, "/", "").await;
        let own = get(&proxy, "/", "Cookie: a=b\r\n").await;
        assert_eq!((own.status, own.fields("x-account")), (200, vec!["alice"]));
        let other = get(&proxy, "/", "").await;
        assert!(said(&other).contains("; hit"), "{}", said(&other));
        assert_eq!(other.fields("x-account"), ["nobody"]);
    })
    .await;
}

#[tokio::test]
async fn a_failure_in_the_background_does_not_take_the_place_of_what_may_be_used() {
    within(async {
        let origin = origin(|_, count| match count {
            0 => ok("Cache-Control: max-age=10, stale-while-revalidate=60\r\nAge: 11\r\n", "body"),
            _ => "HTTP/1.1 503 No\r\nCache-Control: max-age=60\r\nContent-Length: 0\r\n\r\n"
                .to_owned(),
        })
        .await;
        let proxy = cached(&origin, "").start();
        for _ in 0..5 {
            assert_eq!(get(&proxy, "/", "").await.text(), "body");
        }
        eventually("it is asked again and again", async || {
            assert_eq!(get(&proxy, "/", "").await.text(), "body");
            origin.requests().len() > 2
        })
        .await;
    })
    .await;
}
