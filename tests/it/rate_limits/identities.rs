//! Limits on routes where it is known who asks: quotas of identities, and what strangers
//! cannot use up.

use super::{K1, OK, behind, from, metrics};
use crate::reload::{BY_HAND, api, reload};
use crate::support::client::get;
use crate::support::origin::Origin;
use crate::support::proxy::{Running, Setup};
use crate::support::within;

const KEY: &str = "X-API-Key: k1\r\n";

/// Alice has two in an hour for herself, whatever the limits of the route are.
fn alice(limits: &str) -> String {
    format!(
        "rate_limit_headers = true\n{limits}\n[route.api_key]\nidentity_header = \"X-Client\"\n\
         keys = [{{ name = \"alice\", key = \"{K1}\", rate = 2, per = \"1h\" }}]\n"
    )
}

async fn start(route: &str) -> (Origin, Running) {
    let origin = Origin::answering(OK).await;
    let proxy = behind(&origin, route).start();
    (origin, proxy)
}

/// Four times Alice, from addresses and with tenants that are others each time.
async fn four_of_alice(proxy: &Running) -> Vec<u16> {
    let mut statuses = Vec::new();
    for time in 0..4 {
        let fields = format!("{KEY}X-Tenant: {time}\r\n");
        statuses.push(from(proxy, &format!("192.0.2.{time}"), &fields).await);
    }
    statuses
}

#[tokio::test]
async fn a_quota_of_its_own_is_not_multiplied_by_what_else_is_counted_by() {
    within(async {
        for key in [
            "[\"identity\", \"header:X-Tenant\"]",
            "[\"identity\", \"address\"]",
            "[\"address\"]",
            "[\"route\", \"identity\"]",
        ] {
            let limit = format!("[[route.rate_limit]]\nkey = {key}\nrate = 9\nper = \"1h\"\n");
            let (_origin, proxy) = start(&alice(&limit)).await;
            assert_eq!(four_of_alice(&proxy).await, [200, 200, 429, 429], "{key}");
        }
    })
    .await;
}

#[tokio::test]
async fn neither_exemption_nor_dry_run_lift_a_quota_of_its_own() {
    within(async {
        for lifted in ["exempt = [\"192.0.2.0/24\"]", "dry_run = true"] {
            let limit = format!(
                "[route.rate_limit]\nkey = \"identity\"\nrate = 1\nper = \"1h\"\n{lifted}\n"
            );
            let (_origin, proxy) = start(&alice(&limit)).await;
            assert_eq!(four_of_alice(&proxy).await, [200, 200, 429, 429], "{lifted}");
            let told = "tollgate_rate_limited_total{route=\"all\",limit=\"identity\"} 2";
            assert!(metrics(&proxy).await.contains(told), "{lifted}");
        }
    })
    .await;
}

#[tokio::test]
async fn strangers_do_not_use_up_what_all_share() {
    within(async {
        let limit = "[route.rate_limit]\nkey = \"route\"\nrate = 1\nper = \"1h\"\n";
        let (origin, proxy) = start(&alice(limit)).await;
        for stranger in 0..5 {
            let client = format!("198.51.100.{stranger}");
            assert_eq!(from(&proxy, &client, "X-API-Key: wrong\r\n").await, 401);
        }
        assert!(origin.bytes().is_empty());
        assert_eq!(four_of_alice(&proxy).await, [200, 429, 429, 429]);
    })
    .await;
}

fn problem(setup: &Setup) -> Option<String> {
    let settings = tollgate::config::parse(std::path::Path::new("a"), &setup.toml()).unwrap();
    tollgate::Proxy::build(settings).err().map(|error| error.to_string())
}

#[test]
fn nobody_is_counted_by_a_field_that_authentication_sets() {
    let limit = |key: &str| format!("[route.rate_limit]\nkey = {key}\nrate = 1\n");
    let at_once = |key: &str| format!("[route.concurrency]\nkey = {key}\nmax = 1\n");
    // A route that asks nobody, beside one that does.
    let beside = |table: &str| {
        let other = "[[route]]\nname = \"open\"\npath = \"/open\"\nupstream = \"origin\"\n";
        alice("") + other + table
    };
    for (route, wrong) in [
        (alice(&limit("\"header:X-Client\"")), true),
        (alice(&limit("[\"address\", \"header:X_Client\"]")), true),
        (beside(&limit("\"header:X-Client\"")), true),
        (beside(&at_once("\"header:X-Client\"")), true),
        // It is there once it is known who asks.
        (alice(&limit("[\"identity\", \"header:X-Client\"]")), false),
        (alice(&at_once("\"header:X-Client\"")), false),
        (alice(&limit("\"header:X-Tenant\"")), false),
    ] {
        let setup = Setup::new(format!(
            "[[upstream]]\nname = \"origin\"\norigins = [\"http://127.0.0.1:1\"]\n\
             [[route]]\nname = \"all\"\nupstream = \"origin\"\n{route}"
        ));
        let problem = problem(&setup);
        assert_eq!(problem.is_some(), wrong, "{route}: {problem:?}");
        assert!(problem.is_none_or(|why| why.contains("would always be missing")), "{route}");
    }
}

#[test]
fn a_quota_that_is_not_back_in_ten_years_is_refused_wherever_it_stands() {
    let long = "rate = 1, per = \"1y\", burst = 11";
    for route in [
        alice("").replace("rate = 2, per = \"1h\"", long),
        format!(
            "auth = {{ any = [\"k\"], failures = {{ {long} }} }}\n\
             [[auth]]\nname = \"k\"\n[auth.api_key]\nkeys = [{{ name = \"a\", key = \"{K1}\" }}]\n"
        ),
    ] {
        let setup = Setup::new(format!("[[route]]\nname = \"all\"\nrespond = {{}}\n{route}"));
        let path = std::path::Path::new("a");
        let report = tollgate::config::parse(path, &setup.toml()).unwrap_err().to_string();
        assert!(report.contains("more than ten years"), "{report}");
        let fits = setup.toml().replace("burst = 11", "burst = 9");
        tollgate::config::parse(path, &fits).unwrap();
    }
}

const COSTLY: &str = "HTTP/1.1 200 OK\r\nX-Cost: 3\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test]
async fn who_is_not_counted_does_not_see_what_it_has_cost() {
    within(async {
        let origin = Origin::answering(COSTLY).await;
        let limit = "[route.rate_limit]\nrate = 9\ncost_header = \"X-Cost\"\n\
                     exempt = [\"127.0.0.0/8\"]\n";
        let proxy = behind(&origin, limit).start();
        let answer = get(proxy.address, "/", "").await;
        assert_eq!((answer.status, answer.field("x-cost")), (200, None));
    })
    .await;
}

#[tokio::test]
async fn limits_before_and_behind_authentication_are_both_told_the_cost() {
    within(async {
        let origin = Origin::answering(COSTLY).await;
        let limits = "[[route.rate_limit]]\nrate = 1\nper = \"1h\"\nburst = 4\n\
             cost_header = \"X-Cost\"\n[[route.rate_limit]]\nkey = \"route\"\nrate = 100\n\
             cost_header = \"X-Cost\"\n[route.api_key]\n";
        let keys = format!("keys = [{{ name = \"alice\", key = \"{K1}\" }}]\n");
        let proxy = behind(&origin, &format!("{limits}{keys}")).start();
        for status in [200, 200, 429] {
            let answer = get(proxy.address, "/", KEY).await;
            assert_eq!((answer.status, answer.field("x-cost")), (status, None));
        }
    })
    .await;
}

#[tokio::test]
async fn limits_that_are_gone_are_not_told_of_any_more() {
    within(async {
        let origin = Origin::answering(OK).await;
        let limit = "[[route.rate_limit]]\nname = \"NAME\"\nrate = 1\nper = \"1h\"\n";
        let (a, b) = (limit.replace("NAME", "a"), limit.replace("NAME", "b"));
        let setup = |limits: &str| behind(&origin, limits).server(BY_HAND);
        let proxy = setup(&format!("{a}{b}")).start();
        assert_eq!(from(&proxy, "192.0.2.1", "").await, 200);
        assert_eq!(from(&proxy, "192.0.2.1", "").await, 429);
        reload(&proxy, &setup(&a)).await.unwrap();
        let told = metrics(&proxy).await;
        let kept = "tollgate_rate_limited_total{route=\"all\",limit=\"a\"} 1";
        assert!(told.contains(kept) && !told.contains("limit=\"b\""), "{told}");
        let (status, told) =
            api(proxy.admin, "PUT", "/api/routes/all/rate-limit", "{\"dry_run\": true}").await;
        assert_eq!(status, 200, "{told}");
        assert_eq!(from(&proxy, "192.0.2.1", "").await, 200);
    })
    .await;
}
