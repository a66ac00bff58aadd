//! Limits of one instance: what they cost, tell and remember.

use super::{K1, OK, behind, from, metrics};
use crate::reload::{BY_HAND, api, reload};
use crate::support::client::{Answer, ask, get};
use crate::support::origin::Origin;
use crate::support::proxy::Running;
use crate::support::within;

async fn start(route: &str) -> (Origin, Running) {
    let origin = Origin::answering(OK).await;
    let proxy = behind(&origin, route).start();
    (origin, proxy)
}

async fn method(proxy: &Running, method: &str) -> u16 {
    let request = format!("{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    ask(proxy.address, request).await.status
}

/// The parameters of a member of a list, such as `"a";q=1;w=2`.
fn parameters(answer: &Answer, field: &str, name: &str) -> Vec<(String, u64)> {
    let members = answer.fields(field).into_iter().flat_map(|line| line.split(','));
    let mut of_name = members.filter_map(|member| {
        let (item, parameters) = member.trim().split_once(';')?;
        (item == format!("\"{name}\"")).then_some(parameters)
    });
    let found = of_name.next().unwrap_or_else(|| panic!("no {name} in {field}: {}", answer.head));
    let pair = |parameter: &str| {
        let (key, value) = parameter.split_once('=').unwrap();
        (key.to_owned(), value.parse().unwrap())
    };
    found.split(';').map(pair).collect()
}

fn pairs(pairs: &[(&str, u64)]) -> Vec<(String, u64)> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), *value)).collect()
}

#[tokio::test]
async fn a_429_tells_the_policy_what_is_left_and_when_to_come_again() {
    within(async {
        let limit = "[route.rate_limit]\nrate = 2\nper = \"60s\"\n";
        let (_origin, proxy) = start(limit).await;
        let admitted = get(proxy.address, "/", "").await;
        assert_eq!(admitted.fields("ratelimit").len(), 0, "{}", admitted.head);
        get(proxy.address, "/", "").await;
        let refused = get(proxy.address, "/", "").await;
        assert_eq!(refused.status, 429);
        let wait: u64 = refused.field("retry-after").unwrap().parse().unwrap();
        assert!((28..=30).contains(&wait), "{wait}");
        let policy = parameters(&refused, "ratelimit-policy", "address");
        assert_eq!(policy, pairs(&[("q", 2), ("w", 60)]));
        let left = parameters(&refused, "ratelimit", "address");
        assert_eq!(left, pairs(&[("r", 0), ("t", wait)]));
        assert_eq!(refused.field("content-type"), Some("application/problem+json"));
        let problem: serde_json::Value = serde_json::from_slice(&refused.body).unwrap();
        assert_eq!((&problem["status"], &problem["code"]), (&429.into(), &"rate_limited".into()));
    })
    .await;
}

#[tokio::test]
async fn who_is_let_through_is_told_as_well_if_the_route_says_so() {
    within(async {
        let limits = "rate_limit_headers = true\n\
            [[route.rate_limit]]\nname = \"burst\"\nrate = 10\nper = \"10s\"\nburst = 5\n\
            [[route.rate_limit]]\nname = \"hourly\"\nrate = 100\nper = \"1h\"\nkey = \"route\"\n\
            [[route.rate_limit]]\nname = \"tried\"\nrate = 1\nper = \"1h\"\ndry_run = true\n";
        let (_origin, proxy) = start(limits).await;
        for left in [4, 3] {
            let answer = get(proxy.address, "/", "").await;
            assert_eq!(answer.status, 200);
            let policy = parameters(&answer, "ratelimit-policy", "burst");
            assert_eq!(policy, pairs(&[("q", 5), ("w", 5)]));
            let policy = parameters(&answer, "ratelimit-policy", "hourly");
            assert_eq!(policy, pairs(&[("q", 100), ("w", 3_600)]));
            assert_eq!(parameters(&answer, "ratelimit", "burst")[0], ("r".to_owned(), left));
            let hourly = parameters(&answer, "ratelimit", "hourly");
            assert_eq!(hourly[0], ("r".to_owned(), 95 + left), "{hourly:?}");
            // What is not enforced is not told.
            assert!(!answer.head.contains("tried"), "{}", answer.head);
        }
    })
    .await;
}

#[tokio::test]
async fn retry_after_is_never_0() {
    within(async {
        let (_origin, proxy) = start("rate_limit = { rate = 10, burst = 1 }").await;
        // Unless each of them takes a tenth of a second.
        for _ in 0..100 {
            let answer = get(proxy.address, "/", "").await;
            if answer.status == 429 {
                assert_eq!(answer.field("retry-after"), Some("1"));
                assert_eq!(parameters(&answer, "ratelimit", "address")[1].1, 1);
                return;
            }
        }
        panic!("nothing was refused");
    })
    .await;
}

#[tokio::test]
async fn a_request_counts_for_what_its_method_costs() {
    within(async {
        let limit = "[route.rate_limit]\nrate = 1\nper = \"1h\"\nburst = 10\ncost = 2\n\
            costs = [{ methods = [\"POST\", \"PUT\"], cost = 5 }, { methods = [\"HEAD\"], cost = 1 }]\n";
        let (_origin, proxy) = start(limit).await;
        assert_eq!(method(&proxy, "POST").await, 200);
        assert_eq!(method(&proxy, "DELETE").await, 200);
        assert_eq!(method(&proxy, "PUT").await, 429);
        assert_eq!(method(&proxy, "GET").await, 200);
        assert_eq!(method(&proxy, "GET").await, 429);
    })
    .await;
}

#[tokio::test]
async fn the_origin_says_what_a_request_has_cost() {
    within(async {
        let origin = Origin::scripted(|mut connection| async move {
            while let Some(request) = connection.request().await {
                let cost = request.split("/cost/").nth(1).unwrap_or("0");
                let cost = cost.split(' ').next().unwrap_or("0");
                let head =
                    format!("HTTP/1.1 200 OK\r\nX-Cost: {cost}\r\nContent-Length: 2\r\n\r\nok");
                connection.write(head).await;
            }
        })
        .await;
        let limit = "rate_limit_headers = true\n\
            [route.rate_limit]\nrate = 1\nper = \"1h\"\nburst = 20\ncost_header = \"X-Cost\"\n";
        let proxy = behind(&origin, limit).start();
        let left = async |cost: &str| {
            let answer = get(proxy.address, &format!("/cost/{cost}"), "").await;
            assert_eq!(answer.field("x-cost"), None, "the field is between the two");
            (answer.status == 200).then(|| parameters(&answer, "ratelimit", "address")[0].1)
        };
        // What is told is what was left when the request was let through.
        assert_eq!(left("5").await, Some(19));
        assert_eq!(left("1").await, Some(14));
        // Neither less than what was taken, nor nonsense, gives anything back.
        for nothing in ["0", "-7", "1.5", "many", "+3"] {
            assert!(left(nothing).await.is_some(), "{nothing}");
        }
        assert_eq!(left("1").await, Some(8));
        // More than there is takes what there is, and no more.
        assert_eq!(left("99999999999999999999").await, Some(7));
        assert_eq!(left("1").await, None);
    })
    .await;
}

#[tokio::test]
async fn the_field_with_the_cost_is_kept_if_the_limit_says_so() {
    within(async {
        let origin =
            Origin::answering("HTTP/1.1 200 OK\r\nX-Cost: 3\r\nContent-Length: 2\r\n\r\nok").await;
        let limit = "[route.rate_limit]\nrate = 1\nper = \"1h\"\nburst = 4\n\
            cost_header = \"X-Cost\"\nkeep_cost_header = true\n";
        let proxy = behind(&origin, limit).start();
        let answer = get(proxy.address, "/", "").await;
        assert_eq!((answer.status, answer.field("x-cost")), (200, Some("3")));
        assert_eq!(get(proxy.address, "/", "").await.status, 200);
        assert_eq!(get(proxy.address, "/", "").await.status, 429);
    })
    .await;
}

#[tokio::test]
async fn what_comes_from_the_cache_has_cost_the_origin_nothing() {
    within(async {
        let origin = Origin::answering(
            "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nX-Cost: 5\r\n\
             Content-Length: 2\r\n\r\nok",
        )
        .await;
        let limit = "cache = {}\n\
            [route.rate_limit]\nrate = 1\nper = \"1h\"\nburst = 10\ncost_header = \"X-Cost\"\n";
        let proxy = behind(&origin, limit).start();
        let mut statuses = Vec::new();
        for _ in 0..7 {
            statuses.push(get(proxy.address, "/", "").await.status);
        }
        // Five for the first, and one for each of the others.
        assert_eq!(statuses, [200, 200, 200, 200, 200, 200, 429]);
        assert_eq!(origin.requests().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn each_limit_is_counted_by_name_also_on_its_dry_run() {
    within(async {
        let limits = "[[route.rate_limit]]\nname = \"strict\"\nrate = 1\nper = \"1h\"\nburst = 2\n\
            [[route.rate_limit]]\nname = \"trial\"\nrate = 1\nper = \"1h\"\ndry_run = true\n";
        let (_origin, proxy) = start(limits).await;
        let mut statuses = Vec::new();
        for _ in 0..4 {
            statuses.push(from(&proxy, "192.0.2.1", "").await);
        }
        assert_eq!(statuses, [200, 200, 429, 429]);
        let log = proxy.log_lines(4).await;
        assert!(log[2].contains("rejected=rate_limited limit=strict"), "{}", log[2]);
        assert!(!log[1].contains("limit="), "{}", log[1]);
        let metrics = metrics(&proxy).await;
        for line in [
            "tollgate_rate_limited_total{route=\"all\",limit=\"strict\"} 2",
            "tollgate_rate_limited_total{route=\"all\",limit=\"trial\"} 0",
            "tollgate_rate_limit_dry_run_total{route=\"all\",limit=\"trial\"} 1",
        ] {
            assert!(metrics.contains(line), "no {line} in\n{metrics}");
        }
    })
    .await;
}

#[tokio::test]
async fn dry_runs_are_switched_for_one_limit_or_for_all() {
    within(async {
        let limits = "[[route.rate_limit]]\nname = \"a\"\nrate = 1\nper = \"1h\"\n\
            [[route.rate_limit]]\nname = \"b\"\nrate = 1\nper = \"1h\"\nkey = \"route\"\n";
        let (_origin, proxy) = start(limits).await;
        assert_eq!(from(&proxy, "192.0.2.1", "").await, 200);
        assert_eq!(from(&proxy, "192.0.2.1", "").await, 429);
        let switch =
            async |body: &str| api(proxy.admin, "PUT", "/api/routes/all/rate-limit", body).await;
        let (status, told) = switch("{\"dry_run\": true, \"limit\": \"a\"}").await;
        assert_eq!((status, &told["limit"]), (200, &"a".into()), "{told}");
        assert_eq!(from(&proxy, "192.0.2.1", "").await, 429);
        assert_eq!(switch("{\"dry_run\": true}").await.0, 200);
        assert_eq!(from(&proxy, "192.0.2.1", "").await, 200);
        assert_eq!(switch("{\"dry_run\": false, \"limit\": \"b\"}").await.0, 200);
        assert_eq!(from(&proxy, "192.0.2.1", "").await, 429);
        let (status, told) = switch("{\"dry_run\": true, \"limit\": \"c\"}").await;
        assert_eq!(status, 404, "{told}");
    })
    .await;
}

#[tokio::test]
async fn a_reload_keeps_the_counts_of_the_limits_that_stay_as_they_are() {
    within(async {
        let origin = Origin::answering(OK).await;
        let a = |burst: u32| {
            format!("[[route.rate_limit]]\nname = \"a\"\nrate = 1\nper = \"1h\"\nburst = {burst}\n")
        };
        let b = "[[route.rate_limit]]\nname = \"b\"\nrate = 1\nper = \"1h\"\nburst = 3\n\
                 key = \"header:X-Tenant\"\n";
        let tenant = "X-Tenant: acme\r\n";
        let setup = |limits: &str| behind(&origin, limits).server(BY_HAND);
        let proxy = setup(&format!("{}{b}", a(2))).start();
        assert_eq!(from(&proxy, "192.0.2.1", tenant).await, 200);
        assert_eq!(from(&proxy, "192.0.2.1", tenant).await, 200);
        assert_eq!(from(&proxy, "192.0.2.1", tenant).await, 429);
        // The other way around, and one of them is another.
        reload(&proxy, &setup(&format!("{b}{}", a(9)))).await.unwrap();
        assert_eq!(from(&proxy, "192.0.2.1", tenant).await, 200);
        assert_eq!(from(&proxy, "192.0.2.1", tenant).await, 429);
        // Another key is another limit, whatever it is called.
        let other = b.replace("X-Tenant", "X-Other");
        reload(&proxy, &setup(&format!("{other}{}", a(9)))).await.unwrap();
        assert_eq!(from(&proxy, "192.0.2.1", tenant).await, 200);
    })
    .await;
}

#[tokio::test]
async fn an_identity_keeps_to_the_quota_of_its_own() {
    within(async {
        let origin = Origin::answering(OK).await;
        let dir = tempfile::TempDir::new().unwrap();
        std::fs::write(dir.path().join("bob"), "k2").unwrap();
        let keys = format!(
            "[[auth]]\nname = \"keys\"\n[auth.api_key]\nkeys = [\
             {{ name = \"alice\", key = \"{K1}\", rate = 2, per = \"1h\" }}, \
             {{ name = \"bob\", key = \"file:bob\" }}]\n"
        );
        let limit = "[[route.rate_limit]]\nkey = \"identity\"\nrate = 1\nper = \"1h\"\nburst = 3\n";
        let route = format!(
            "auth = \"keys\"\n{limit}[[route]]\nname = \"free\"\npath = \"/free\"\n\
             upstream = \"origin\"\nauth = \"keys\"\n{keys}"
        );
        let proxy = behind(&origin, &route).start_in(dir);
        let statuses = async |path: &str, key: &str| {
            let mut statuses = Vec::new();
            for _ in 0..4 {
                let field = format!("X-API-Key: {key}\r\n");
                statuses.push(get(proxy.address, path, &field).await.status);
            }
            statuses
        };
        // In place of the limit's, and where there is no limit.
        assert_eq!(statuses("/", "k1").await, [200, 200, 429, 429]);
        assert_eq!(statuses("/", "k2").await, [200, 200, 200, 429]);
        assert_eq!(statuses("/free", "k1").await, [200, 200, 429, 429]);
        assert_eq!(statuses("/free", "k2").await, [200; 4]);
    })
    .await;
}
