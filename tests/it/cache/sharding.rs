//! Many machines that share one cache: each URL has one of them that stores it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::{get, origin, said};
use crate::support::client::{Answer, ask};
use crate::support::origin::Origin;
use crate::support::proxy::{Running, Setup};
use crate::support::{eventually, within};

/// Machines with a public listener, which sends each URL to the one that owns it, and an
/// inner one with the cache before the origin. `edge` is for the public route.
fn fleet(origin: &Origin, size: usize, edge: &str) -> Vec<Running> {
    let bound: Vec<_> =
        (0..size).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let inner: Vec<SocketAddr> = bound.iter().map(|one| one.local_addr().unwrap()).collect();
    drop(bound);
    let peers: Vec<String> = inner.iter().map(|address| format!("\"http://{address}\"")).collect();
    let peers = peers.join(", ");
    let machine = |address: &SocketAddr| {
        Setup::new(format!(
            "[[listener]]\nname = \"inner\"\naddress = \"{address}\"\n\
             [[upstream]]\nname = \"fleet\"\norigins = [{peers}]\n\
             [upstream.balance]\nhash = \"url\"\n\
             [[upstream]]\nname = \"origin\"\norigins = [\"{origin}\"]\n\
             [[route]]\nname = \"store\"\nlisteners = [\"inner\"]\nupstream = \"origin\"\n\
             [route.cache]\n\
             [[route]]\nname = \"edge\"\nlisteners = [\"public\"]\nupstream = \"fleet\"\n{edge}\n"
        ))
        .server("trusted_proxies = [\"127.0.0.0/8\"]")
        .start()
    };
    inner.iter().map(machine).collect()
}

/// How often the origin was asked for each path.
fn asked(origin: &Origin) -> BTreeMap<String, usize> {
    let mut asked = BTreeMap::new();
    for request in origin.requests() {
        let path = request.split(' ').nth(1).unwrap().to_owned();
        *asked.entry(path).or_default() += 1;
    }
    asked
}

async fn counting() -> Origin {
    origin(|request, count| {
        let path = request.split(' ').nth(1).unwrap();
        super::ok("Cache-Control: max-age=60\r\n", &format!("{path} {count}"))
    })
    .await
}

/// Asks every machine for every path; all of them have to say the same.
async fn ask_all(machines: &[Running], paths: usize) {
    for path in 0..paths {
        let path = format!("/{path}?q={path}");
        let mut first = None;
        for machine in machines {
            let answer = get(machine, &path, "").await;
            assert_eq!(answer.status, 200, "{path}: {}", answer.text());
            let text = answer.text();
            assert_eq!(*first.get_or_insert_with(|| text.clone()), text);
        }
    }
}

#[tokio::test]
async fn what_any_machine_is_asked_for_is_fetched_once_for_all_of_them() {
    within(async {
        let origin = counting().await;
        let machines = fleet(&origin, 3, "");
        ask_all(&machines, 30).await;
        let asked = asked(&origin);
        assert_eq!(asked.len(), 30);
        assert!(asked.values().all(|count| *count == 1), "{asked:?}");
        let mut stored = Vec::new();
        for machine in &machines {
            stored.push(objects(machine).await);
        }
        assert_eq!(stored.iter().sum::<u64>(), 30);
        assert!(stored.iter().all(|count| *count > 0), "{stored:?}");
    })
    .await;
}

async fn objects(machine: &Running) -> u64 {
    let answer = ask(machine.admin, "GET /api/cache HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let told: serde_json::Value = serde_json::from_str(&answer.text()).unwrap();
    told["objects"].as_u64().unwrap()
}

#[tokio::test]
async fn a_machine_that_dies_costs_its_share_and_nothing_else() {
    within(async {
        let origin = counting().await;
        let mut machines = fleet(&origin, 3, "");
        ask_all(&machines, 40).await;
        let lost = objects(&machines[2]).await as usize;
        assert!(lost > 0);
        machines.pop().unwrap().stop().await;
        ask_all(&machines, 40).await;
        let asked = asked(&origin);
        let again = asked.values().filter(|count| **count > 1).count();
        assert_eq!(again, lost, "{asked:?}");
        assert!(asked.values().all(|count| *count <= 2), "{asked:?}");
    })
    .await;
}

#[tokio::test]
async fn all_machines_at_once_make_one_request_of_the_origin() {
    within(async {
        let origin = Origin::scripted(|mut connection| async move {
            while connection.request().await.is_some() {
                // Long enough for all to come; nobody is let through early by it.
                tokio::time::sleep(std::time::Duration::from_millis(300)).await;
                connection.write(super::ok("Cache-Control: max-age=60\r\n", "slow")).await;
            }
        })
        .await;
        let machines = fleet(&origin, 3, "");
        let requests = (0..90).map(|at| get(&machines[at % 3], "/cold", ""));
        for answer in futures_util::future::join_all(requests).await {
            assert_eq!((answer.status, answer.text().as_str()), (200, "slow"));
        }
        assert_eq!(origin.requests().len(), 1);
    })
    .await;
}

fn age(answer: &Answer) -> u64 {
    answer.field("age").map_or(0, |age| age.parse().unwrap())
}

#[tokio::test]
async fn a_second_cache_at_the_edge_goes_on_counting_the_age() {
    within(async {
        let origin =
            origin(|_, _| super::ok("Cache-Control: max-age=60\r\nAge: 10\r\n", "hot")).await;
        let machines = fleet(&origin, 2, "[route.cache]");
        for machine in &machines {
            let first = get(machine, "/hot", "").await;
            assert!((10..20).contains(&age(&first)), "{}", age(&first));
        }
        for machine in &machines {
            let answer = get(machine, "/hot", "").await;
            assert!((10..20).contains(&age(&answer)), "{}", age(&answer));
            let said = said(&answer);
            // The one next to the origin comes first (RFC 9211 §2).
            let (inner, edge) = said.rsplit_once(", ").unwrap();
            assert!(inner.starts_with("tollgate; ") && edge.contains("hit; ttl="), "{said}");
            let ttl: u64 = edge.rsplit_once("ttl=").unwrap().1.parse().unwrap();
            assert!(ttl <= 50, "{said}");
        }
        assert_eq!(origin.requests().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_copy_at_the_edge_is_kept_for_no_longer_than_it_may_be() {
    within(async {
        let origin = origin(|_, _| {
            let lines = "Cache-Control: max-age=60\r\nAge: 10\r\nETag: \"v1\"\r\n";
            super::ok(lines, "hot")
        })
        .await;
        let machines = fleet(&origin, 2, "[route.cache]\nmax_ttl = \"2s\"");
        let ttl = |answer: &Answer| -> i64 {
            said(answer).rsplit_once("ttl=").unwrap().1.split(';').next().unwrap().parse().unwrap()
        };
        get(&machines[0], "/hot", "").await;
        let answer = get(&machines[0], "/hot", "").await;
        assert!((0..=2).contains(&ttl(&answer)), "{}", said(&answer));
        assert_eq!(answer.field("cache-control"), Some("max-age=60"));
        // Then the owner is asked, and says that it still holds.
        eventually("the copy is too old", async || {
            said(&get(&machines[0], "/hot", "").await).contains("fwd=stale; fwd-status=304")
        })
        .await;
        assert_eq!(origin.requests().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn what_is_purged_of_the_owner_is_gone_for_all() {
    within(async {
        let origin = counting().await;
        let machines = fleet(&origin, 3, "");
        ask_all(&machines, 1).await;
        let body = "{\"url\": \"http://a.test/0?q=0\"}";
        let mut purged = 0;
        for machine in &machines {
            let head = "Host: localhost\r\nContent-Type: application/json";
            let request = format!(
                "POST /api/cache/purge HTTP/1.1\r\n{head}\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            let told: serde_json::Value =
                serde_json::from_str(&ask(machine.admin, request).await.text()).unwrap();
            purged += told["purged"].as_u64().unwrap();
        }
        assert_eq!(purged, 1);
        ask_all(&machines, 1).await;
        assert_eq!(origin.requests().len(), 2);
    })
    .await;
}

#[tokio::test]
async fn a_public_listener_that_is_named_as_a_peer_is_a_loop_and_no_storm() {
    within(async {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let public = listener.local_addr().unwrap();
        drop(listener);
        let machine = Setup::new(format!(
            "[[listener]]\nname = \"second\"\naddress = \"{public}\"\n\
             [[upstream]]\nname = \"fleet\"\norigins = [\"http://{public}\"]\n\
             [upstream.balance]\nhash = \"url\"\n\
             [[route]]\nname = \"edge\"\nupstream = \"fleet\"\n"
        ))
        .start();
        assert_eq!(get(&machine, "/", "").await.status, 508);
    })
    .await;
}
