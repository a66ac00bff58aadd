//! Which origin is asked, and which is not.

use std::collections::HashMap;

use crate::support::client::get;
use crate::support::origin::Origin;
use crate::support::proxy::Setup;
use crate::support::{Refusing, eventually, within};

async fn spread(address: std::net::SocketAddr, requests: usize) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for _ in 0..requests {
        let answer = get(address, "/", "").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        *counts.entry(answer.text()).or_default() += 1;
    }
    counts
}

fn upstream(origins: &str, more: &str) -> Setup {
    Setup::new(format!(
        "[[route]]\nname = \"all\"\nupstream = \"group\"\n\
         [[upstream]]\nname = \"group\"\norigins = [{origins}]\n{more}\n"
    ))
}

#[tokio::test]
async fn requests_are_shared_by_weight_exactly() {
    within(async {
        let (a, b) = (Origin::named("a").await, Origin::named("b").await);
        let origins = format!("{{ url = \"{a}\", weight = 3 }}, \"{b}\"");
        let proxy = upstream(&origins, "").start();
        let counts = spread(proxy.address, 40).await;
        assert_eq!((counts["a"], counts["b"]), (30, 10));
    })
    .await;
}

const FAST_PROBES: &str =
    "[upstream.health]\ninterval = \"20ms\"\ntimeout = \"200ms\"\nrise = 2\nfall = 2\n";

#[tokio::test]
async fn an_origin_that_goes_down_gets_nothing_until_it_is_back() {
    within(async {
        let (a, b) = (Origin::named("a").await, Origin::named("b").await);
        let address = a.address;
        let proxy = upstream(&format!("\"{a}\", \"{b}\""), FAST_PROBES).start();
        assert_eq!(spread(proxy.address, 4).await.len(), 2);
        drop(a);
        eventually("the probes notice", async || {
            metric(
                &proxy,
                &format!("tollgate_origin_healthy{{upstream=\"group\",origin=\"{address}\"}} 0"),
            )
            .await
        })
        .await;
        assert_eq!(spread(proxy.address, 20).await["b"], 20);
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let _back = Origin::named_on(listener, "a");
        eventually("it is back", async || spread(proxy.address, 4).await.len() == 2).await;
    })
    .await;
}

#[tokio::test]
async fn an_unexpected_status_is_not_healthy() {
    within(async {
        let sick =
            Origin::answering("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n")
                .await;
        let well = Origin::named("well").await;
        let origins = format!("\"{sick}\", \"{well}\"");
        let proxy = upstream(&origins, FAST_PROBES).start();
        eventually("the probes notice", async || {
            let a = get(proxy.address, "/", "").await.status;
            let b = get(proxy.address, "/", "").await.status;
            (a, b) == (200, 200)
        })
        .await;
        let is_probe = |request: &String| request.contains("tollgate-health-check");
        let probe = sick.requests().into_iter().find(is_probe).unwrap();
        assert!(probe.starts_with("GET / HTTP/1.1\r\n"), "{probe}");
    })
    .await;
}

#[tokio::test]
async fn tcp_probes_only_connect() {
    within(async {
        let origin = Origin::named("a").await;
        let probes = "[upstream.health]\ntype = \"tcp\"\ninterval = \"20ms\"\n";
        let proxy = upstream(&format!("\"{origin}\""), probes).start();
        eventually("it is probed", async || origin.connections() > 1).await;
        assert_eq!(get(proxy.address, "/", "").await.status, 200);
        assert_eq!(origin.requests().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn with_every_origin_down_the_answer_is_503_and_the_log_says_why() {
    within(async {
        let gone = Refusing::new();
        let proxy = upstream(&format!("\"http://{gone}\""), FAST_PROBES).start();
        eventually("it is 503", async || get(proxy.address, "/", "").await.status == 503).await;
        let answer = get(proxy.address, "/", "").await;
        assert!(answer.field("retry-after").is_some());
        assert_eq!(answer.field("proxy-status"), Some("tollgate; error=destination_unavailable"));
        let lines = proxy.log_lines(2).await;
        assert!(lines.last().unwrap().contains("no origin of `group`"), "{lines:?}");
    })
    .await;
}

#[tokio::test]
async fn an_origin_that_refuses_is_set_aside_and_tried_again_later() {
    within(async {
        let (a, b) = (Origin::named("a").await, Origin::named("b").await);
        let address = a.address;
        drop(a);
        let origins = format!("\"http://{address}\", \"{b}\"");
        let proxy = upstream(&origins, "[upstream.passive]\nset_aside = \"300ms\"\n").start();
        assert_eq!(spread(proxy.address, 6).await["b"], 6);
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let _back = Origin::named_on(listener, "a");
        eventually("it is asked again", async || spread(proxy.address, 2).await.len() == 2).await;
    })
    .await;
}

async fn metric(proxy: &crate::support::proxy::Running, line: &str) -> bool {
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let text = crate::support::client::ask(proxy.admin, request).await.text();
    text.lines().any(|l| l == line)
}

#[tokio::test]
async fn requests_at_the_same_time_all_find_the_origin_that_is_left() {
    within(async {
        let alive = Origin::named("alive").await;
        let (a, b) = (Refusing::new(), Refusing::new());
        let proxy = Setup::new(format!(
            "[[route]]\nname = \"all\"\nupstream = \"trio\"\n\
             [[upstream]]\nname = \"trio\"\n\
             origins = [\"http://{a}\", \"{alive}\", \"http://{b}\"]\n\
             [upstream.passive]\nmax_failures = 1000\n"
        ))
        .server("workers = 2")
        .start();
        let all = (0..200).map(|_| get(proxy.address, "/", ""));
        for answer in futures_util::future::join_all(all).await {
            assert_eq!((answer.status, answer.text()), (200, "alive".to_owned()));
        }
    })
    .await;
}

#[tokio::test]
async fn an_origin_that_was_set_aside_comes_back() {
    within(async {
        let refusing = Refusing::new();
        let alive = Origin::named("alive").await;
        let proxy = Setup::new(format!(
            "[[route]]\nname = \"all\"\nupstream = \"pair\"\n\
             [[upstream]]\nname = \"pair\"\norigins = [\"http://{refusing}\", \"{alive}\"]\n\
             [upstream.passive]\nset_aside = \"100ms\"\n"
        ))
        .start();
        for _ in 0..20 {
            assert_eq!(get(proxy.address, "/", "").await.text(), "alive");
            tokio::time::sleep(std::time::Duration::from_millis(23)).await;
        }
        let _back = Origin::named_on(refusing.accepting(), "back");
        eventually("it is asked again", async || {
            get(proxy.address, "/", "").await.text() == "back"
        })
        .await;
    })
    .await;
}

/// What each of these paths is answered with.
async fn answers(address: std::net::SocketAddr, paths: std::ops::Range<usize>) -> Vec<String> {
    let mut answers = Vec::new();
    for path in paths {
        answers.push(get(address, &format!("/{path}?q"), "").await.text());
    }
    answers
}

const BY_URL: &str = "[upstream.balance]\nhash = \"url\"\n";

#[tokio::test]
async fn by_the_hash_of_its_url_a_request_goes_to_the_same_origin_from_every_proxy() {
    within(async {
        let (a, b, c) =
            (Origin::named("a").await, Origin::named("b").await, Origin::named("c").await);
        let one = upstream(&format!("\"{a}\", \"{b}\", \"{c}\""), BY_URL).start();
        let other = upstream(&format!("\"{c}\", \"{a}\", \"{b}\""), BY_URL).start();
        let first = answers(one.address, 0..40).await;
        assert_eq!(first, answers(one.address, 0..40).await);
        assert_eq!(first, answers(other.address, 0..40).await);
        for name in ["a", "b", "c"] {
            assert!(first.iter().any(|answer| answer == name), "{name} has nothing");
        }
    })
    .await;
}

#[tokio::test]
async fn where_an_origin_cannot_be_reached_only_its_share_goes_elsewhere() {
    within(async {
        let (a, b) = (Origin::named("a").await, Origin::named("b").await);
        let gone = Refusing::new();
        let with = format!("\"{a}\", \"{b}\", \"http://{gone}\"");
        let proxy = upstream(&with, BY_URL).start();
        let without = upstream(&format!("\"{a}\", \"{b}\""), BY_URL).start();
        // Also while it has not been set aside: a request that goes on goes where all do.
        let expected = answers(without.address, 0..30).await;
        assert_eq!(answers(proxy.address, 0..30).await, expected);
    })
    .await;
}

#[tokio::test]
async fn a_client_or_a_field_can_be_what_is_hashed() {
    within(async {
        let (a, b) = (Origin::named("a").await, Origin::named("b").await);
        let origins = format!("\"{a}\", \"{b}\"");
        let by_client = upstream(&origins, "[upstream.balance]\nhash = \"client\"").start();
        assert_eq!(spread(by_client.address, 20).await.len(), 1);
        let by_field = upstream(&origins, "balance = { hash = \"header:X-Tenant\" }").start();
        assert_eq!(spread(by_field.address, 40).await.len(), 2);
        let tenant = async |name: usize| {
            get(by_field.address, "/", &format!("X-Tenant: {name}\r\n")).await.text()
        };
        let first = tenant(1).await;
        assert_eq!(tenant(1).await, first);
        let mut name = 2;
        while tenant(name).await == first {
            name += 1;
        }
    })
    .await;
}
