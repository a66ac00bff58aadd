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
