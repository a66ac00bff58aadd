//! What becomes of those who wait when the one who asks gets nothing that they may have;
//! and what is said where nothing could be had.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::{cached, get, ok, said};
use crate::support::client::{Answer, Raw};
use crate::support::origin::Origin;
use crate::support::proxy::Running;
use crate::support::{Refusing, eventually, within};

const FRESH: &str = "Cache-Control: max-age=60\r\n";

/// Answers what is asked for at `/` as `answer` says to the request and its number, from
/// 0, once `gate` lets it; and everything else at once.
async fn gated<F>(gate: &Arc<Semaphore>, answer: F) -> Origin
where
    F: Fn(&str, usize) -> String + Send + Sync + 'static,
{
    let (gate, answer) = (gate.clone(), Arc::new(answer));
    let number = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    Origin::scripted(move |mut connection| {
        let (gate, answer, number) = (gate.clone(), answer.clone(), number.clone());
        async move {
            while let Some(request) = connection.request().await {
                if !request.starts_with("GET / ") {
                    connection.write(ok("", "other")).await;
                    continue;
                }
                let number = number.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                gate.acquire().await.unwrap().forget();
                connection.write(answer(&request, number)).await;
            }
        }
    })
    .await
}

/// Has so many clients ask for `/` at once, each with these fields, and only then opens
/// the gate.
async fn all_at_once(
    proxy: &Running,
    gate: &Semaphore,
    fields: impl Fn(usize) -> String,
    count: usize,
) -> Vec<Answer> {
    let mut clients = Vec::new();
    for number in 0..count {
        let mut client = Raw::connect(proxy.address).await;
        client.send(format!("GET / HTTP/1.1\r\nHost: a.test\r\n{}\r\n", fields(number))).await;
        clients.push(client);
        if number == 0 {
            // It leads.
            get(proxy, "/other", "").await;
        }
    }
    eventually("all of them are in", async || {
        let open = format!("tollgate_connections_open{{listener=\"public\"}} {count}\n");
        super::metrics(proxy).await.contains(&open)
    })
    .await;
    // What was sent before this has been read before it.
    get(proxy, "/other", "").await;
    gate.add_permits(1000);
    let mut answers = Vec::new();
    for client in &mut clients {
        answers.push(client.answer().await);
    }
    answers
}

fn to_root(origin: &Origin) -> usize {
    origin.requests().iter().filter(|request| request.starts_with("GET / ")).count()
}

#[tokio::test]
async fn an_origin_that_fails_is_asked_twice_and_not_by_all_who_wait() {
    within(async {
        let gate = Arc::new(Semaphore::new(0));
        let origin = gated(&gate, |_, number| {
            format!(
                "HTTP/1.1 503 No\r\nRetry-After: 7\r\nX-Number: {number}\r\nContent-Length: 6\r\n\r\nsecret"
            )
        })
        .await;
        let proxy = cached(&origin, "collapse_wait = \"1m\"").start();
        let answers = all_at_once(&proxy, &gate, |_| String::new(), 50).await;
        assert_eq!(to_root(&origin), 2);
        let theirs = |answer: &&Answer| answer.field("x-number").is_some();
        assert_eq!(answers.iter().filter(theirs).count(), 2);
        for answer in answers.iter().filter(|answer| !theirs(answer)) {
            assert_eq!((answer.status, answer.field("retry-after")), (503, Some("7")));
            assert!(!answer.text().contains("secret"), "{}", answer.text());
            assert!(
                said(answer).ends_with("fwd-status=503; collapsed; detail=origin-failed"),
                "{}",
                said(answer)
            );
        }
        // And that is nobody's who comes later.
        assert_eq!(get(&proxy, "/", "").await.field("x-number"), Some("2"));
    })
    .await;
}

#[tokio::test]
async fn who_fails_alone_fails_nobody_who_waits() {
    within(async {
        let gate = Arc::new(Semaphore::new(0));
        let origin = gated(&gate, |_, number| match number {
            0 => "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n".to_owned(),
            _ => ok(FRESH, "body"),
        })
        .await;
        let proxy = cached(&origin, "collapse_wait = \"1m\"").start();
        let answers = all_at_once(&proxy, &gate, |_| String::new(), 50).await;
        assert_eq!(answers.iter().filter(|answer| answer.status == 500).count(), 1);
        assert_eq!(answers.iter().filter(|answer| answer.text() == "body").count(), 49);
        assert_eq!(to_root(&origin), 2);
    })
    .await;
}

#[tokio::test]
async fn a_leaders_private_answer_reaches_nobody_and_one_of_the_others_asks_for_the_rest() {
    within(async {
        let gate = Arc::new(Semaphore::new(0));
        let origin = gated(&gate, |request, number| {
            let whose =
                if request.to_ascii_lowercase().contains("cookie") { "mine" } else { "all" };
            ok(FRESH, &format!("{whose} {number}"))
        })
        .await;
        let proxy = cached(&origin, "collapse_wait = \"1m\"").start();
        let cookie = |number| (if number == 0 { "Cookie: a=b\r\n" } else { "" }).to_owned();
        let answers = all_at_once(&proxy, &gate, cookie, 50).await;
        assert_eq!(answers[0].text(), "mine 0");
        for answer in &answers[1..] {
            assert_eq!(answer.text(), "all 1");
        }
        assert_eq!(to_root(&origin), 2);
    })
    .await;
}

#[tokio::test]
async fn each_variant_is_asked_for_once_by_those_who_waited_for_another() {
    within(async {
        let gate = Arc::new(Semaphore::new(0));
        let origin = gated(&gate, |request, _| {
            let language = if request.to_ascii_lowercase().contains(": de") { "de" } else { "en" };
            ok("Cache-Control: max-age=60\r\nVary: Accept-Language\r\n", language)
        })
        .await;
        let proxy = cached(&origin, "collapse_wait = \"1m\"").start();
        let language = |number| ["de", "en"][number % 2];
        let fields = |number| format!("Accept-Language: {}\r\n", language(number));
        let answers = all_at_once(&proxy, &gate, fields, 50).await;
        for (number, answer) in answers.iter().enumerate() {
            assert_eq!(answer.text(), language(number));
        }
        assert_eq!(to_root(&origin), 2);
    })
    .await;
}

#[tokio::test]
async fn rfc9211_s2_an_error_of_our_own_says_why_the_origin_was_asked() {
    within(async {
        let refusing = Refusing::new();
        let proxy = super::Setup::new(format!(
            "[[upstream]]\nname = \"origin\"\norigins = [\"http://{refusing}\"]\n\
             [[route]]\nname = \"all\"\nupstream = \"origin\"\n[route.cache]\n"
        ))
        .start();
        let answer = get(&proxy, "/", "").await;
        assert_eq!(answer.status, 502);
        assert_eq!(said(&answer), "tollgate; fwd=uri-miss; detail=connect_refused");
        let answer = super::send(&proxy, "POST", "/", "Content-Length: 0\r\n").await;
        assert_eq!(said(&answer), "tollgate; fwd=method; detail=connect_refused");
        let lines = proxy.log_lines(2).await;
        assert!(lines[0].contains(" cache=miss "), "{lines:?}");
        assert!(lines[1].contains(" cache=pass "), "{lines:?}");
    })
    .await;
}

#[tokio::test]
async fn the_access_log_tells_what_the_cache_did() {
    within(async {
        let origin = super::counting(FRESH).await;
        let proxy = cached(&origin, "").json_log().start();
        for fields in ["", "", "Upgrade: x\r\n"] {
            get(&proxy, "/", fields).await;
        }
        let lines = proxy.log_lines(3).await;
        let outcome = |line: &String| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            line["cache"].as_str().unwrap().to_owned()
        };
        assert_eq!(lines.iter().map(outcome).collect::<Vec<_>>(), ["miss", "hit", "pass"]);
    })
    .await;
}

#[tokio::test]
async fn what_may_be_used_stale_is_shared_although_it_comes_stale() {
    within(async {
        let gate = Arc::new(Semaphore::new(0));
        let origin = gated(&gate, |_, number| {
            let lines = "Cache-Control: max-age=10, stale-while-revalidate=100\r\nAge: 11\r\n";
            ok(lines, &format!("body {number}"))
        })
        .await;
        let proxy = cached(&origin, "collapse_wait = \"1m\"").start();
        for answer in all_at_once(&proxy, &gate, |_| String::new(), 50).await {
            assert_eq!(answer.text(), "body 0");
        }
        assert!(to_root(&origin) <= 2, "the second is the revalidation");
    })
    .await;
}
