//! What a rate limit remembers over reloads.

use super::{BY_HAND, api, reload};
use crate::support::client::{Raw, get};
use crate::support::origin::Origin;
use crate::support::proxy::{Running, Setup};
use crate::support::within;

const TWO: &str = "rate = 1, per = \"1h\", burst = 2";
const THREE: &str = "rate = 1, per = \"1h\", burst = 3";

/// One limited route, with these lines beside its limit and after it.
fn limited(origin: &Origin, limit: &str, more: &str) -> Setup {
    let upstream = format!("[[upstream]]\nname = \"origin\"\norigins = [\"{origin}\"]\n");
    let route = "[[route]]\nname = \"all\"\nupstream = \"origin\"\n";
    Setup::new(format!("{upstream}{route}rate_limit = {{ {limit} }}\n{more}\n")).server(BY_HAND)
}

async fn statuses(proxy: &Running, count: usize) -> Vec<u16> {
    let mut client = Raw::connect(proxy.address).await;
    let mut statuses = Vec::new();
    for _ in 0..count {
        statuses.push(super::ask(&mut client, "/").await.status);
    }
    statuses
}

async fn switch(proxy: &Running, dry_run: bool) {
    let body = format!("{{\"dry_run\": {dry_run}}}");
    let (status, told) = api(proxy.admin, "PUT", "/api/routes/all/rate-limit", &body).await;
    assert_eq!((status, &told["dry_run"]), (200, &dry_run.into()), "{told}");
    assert!(told["persists"].is_string(), "{told}");
}

#[tokio::test]
async fn what_was_asked_counts_on_while_all_else_changes() {
    within(async {
        let (origin, other) = (Origin::named("one").await, Origin::named("two").await);
        let proxy = limited(&origin, TWO, "").start();
        assert_eq!(statuses(&proxy, 1).await, [200]);
        let another = "[[route]]\nname = \"fixed\"\npath = \"/fixed\"\nrespond = {}";
        let mut generation = 1;
        for (number, changed) in [
            limited(&origin, TWO, "request_body_timeout = \"7s\""),
            limited(&origin, TWO, another),
            limited(&other, TWO, "max_request_body = \"1MiB\""),
            limited(&other, TWO, "").server("trusted_proxies = [\"192.0.2.0/24\"]"),
            limited(&other, &format!("{TWO}, exempt = [\"192.0.2.0/24\"]"), ""),
        ]
        .into_iter()
        .enumerate()
        {
            generation += 1;
            assert_eq!(reload(&proxy, &changed).await, Ok(generation));
            let expected: &[u16] = if number == 0 { &[200, 429] } else { &[429] };
            assert_eq!(statuses(&proxy, expected.len()).await, expected, "{number}");
        }
        // A route without a limit has forgotten it.
        let without = Setup::forwarding_to(&other).server(BY_HAND);
        reload(&proxy, &without).await.unwrap();
        assert_eq!(statuses(&proxy, 4).await, [200; 4]);
        reload(&proxy, &limited(&other, TWO, "nonsense")).await.unwrap_err();
        assert_eq!(statuses(&proxy, 4).await, [200; 4]);
        reload(&proxy, &limited(&other, TWO, "")).await.unwrap();
        assert_eq!(statuses(&proxy, 3).await, [200, 200, 429]);
    })
    .await;
}

#[tokio::test]
async fn another_rate_counts_anew_and_what_is_refused_does_not() {
    within(async {
        let origin = Origin::named("one").await;
        let proxy = limited(&origin, TWO, "").start();
        assert_eq!(statuses(&proxy, 3).await, [200, 200, 429]);
        // Neither a plan nor what cannot come into force has the counts begin anew.
        reload(&proxy, &limited(&origin, THREE, "nonsense")).await.unwrap_err();
        assert_eq!(statuses(&proxy, 1).await, [429]);
        proxy.write(&limited(&origin, THREE, ""));
        let (status, told) = api(proxy.admin, "POST", "/api/reload?plan", "").await;
        assert_eq!((status, &told["changed"]), (200, &true.into()), "{told}");
        let text = told["text"].as_str().unwrap();
        assert!(text.contains("the counts of its rate limit start anew"), "{text}");
        assert_eq!(statuses(&proxy, 1).await, [429]);
        reload(&proxy, &limited(&origin, THREE, "")).await.unwrap();
        assert_eq!(statuses(&proxy, 4).await, [200, 200, 200, 429]);
    })
    .await;
}

#[tokio::test]
async fn a_dry_run_that_was_switched_lasts_until_the_configuration_says_otherwise() {
    within(async {
        let origin = Origin::named("one").await;
        let proxy = limited(&origin, TWO, "").start();
        assert_eq!(statuses(&proxy, 3).await, [200, 200, 429]);
        switch(&proxy, true).await;
        assert_eq!(statuses(&proxy, 2).await, [200, 200]);
        for changed in [
            limited(&origin, TWO, "").and("[log]\nlevel = \"warn\""),
            limited(&origin, TWO, "request_body_timeout = \"7s\""),
            limited(&origin, &format!("{TWO}, exempt = [\"192.0.2.0/24\"]"), ""),
            limited(&origin, TWO, ""),
        ] {
            reload(&proxy, &changed).await.unwrap();
            assert_eq!(statuses(&proxy, 2).await, [200, 200]);
        }
        // The configuration says what has been in force already, and then it does not.
        let dry = format!("{TWO}, dry_run = true");
        reload(&proxy, &limited(&origin, &dry, "")).await.unwrap();
        assert_eq!(statuses(&proxy, 2).await, [200, 200]);
        reload(&proxy, &limited(&origin, TWO, "")).await.unwrap();
        assert_eq!(statuses(&proxy, 1).await, [429]);
        // Switched off by hand where it is configured.
        reload(&proxy, &limited(&origin, &dry, "")).await.unwrap();
        assert_eq!(get(proxy.address, "/", "").await.status, 200);
        switch(&proxy, false).await;
        assert_eq!(statuses(&proxy, 1).await, [429]);
        reload(&proxy, &limited(&origin, &dry, "max_request_body = \"1MiB\"")).await.unwrap();
        assert_eq!(statuses(&proxy, 1).await, [429]);
    })
    .await;
}
