//! What requests are counted by, and how nobody gets around it.

use super::{K1, OK, behind, from};
use crate::support::client::Raw;
use crate::support::origin::Origin;
use crate::support::proxy::Running;
use crate::support::within;

/// So many in an hour, by this key.
fn limit(burst: u32, more: &str) -> String {
    format!("[[route.rate_limit]]\nrate = 1\nper = \"1h\"\nburst = {burst}\n{more}\n")
}

async fn start(route: &str) -> (Origin, Running) {
    let origin = Origin::answering(OK).await;
    let proxy = behind(&origin, route).start();
    (origin, proxy)
}

#[tokio::test]
async fn a_client_is_its_network_in_whatever_form_its_address_comes() {
    within(async {
        let (_origin, proxy) = start(&limit(1, "")).await;
        assert_eq!(from(&proxy, "192.0.2.1", "").await, 200);
        for same in ["192.0.2.1", "::ffff:192.0.2.1", "[::ffff:c000:201]:81", "192.0.2.1:4000"] {
            assert_eq!(from(&proxy, same, "").await, 429, "{same}");
        }
        assert_eq!(from(&proxy, "2001:db8::1", "").await, 200);
        for same in ["2001:db8::2", "[2001:db8::3]:443", "2001:DB8:0:0:FFFF::1"] {
            assert_eq!(from(&proxy, same, "").await, 429, "{same}");
        }
        assert_eq!(from(&proxy, "2001:db8:0:1::1", "").await, 200);
        assert_eq!(from(&proxy, "192.0.2.2", "").await, 200);
    })
    .await;
}

#[tokio::test]
async fn prefixes_are_as_long_as_they_are_told() {
    within(async {
        let (_origin, proxy) = start(&limit(1, "ipv4_prefix = 24\nipv6_prefix = 48")).await;
        assert_eq!(from(&proxy, "192.0.2.1", "").await, 200);
        assert_eq!(from(&proxy, "192.0.2.200", "").await, 429);
        assert_eq!(from(&proxy, "192.0.3.1", "").await, 200);
        assert_eq!(from(&proxy, "2001:db8::1", "").await, 200);
        assert_eq!(from(&proxy, "2001:db8:0:ffff::1", "").await, 429);
        assert_eq!(from(&proxy, "2001:db8:1::1", "").await, 200);
    })
    .await;
}

#[tokio::test]
async fn forged_forwarded_fields_choose_no_bucket() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = behind(&origin, &limit(1, "")).start();
        // The right-most address that is no proxy's counts, whatever stands before it.
        assert_eq!(from(&proxy, "10.0.0.1, 192.0.2.1", "").await, 200);
        for forged in ["10.0.0.2, 192.0.2.1", "192.0.2.9, 10.0.0.3, 192.0.2.1, 127.0.0.1"] {
            assert_eq!(from(&proxy, forged, "").await, 429, "{forged}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_field_counts_the_same_however_it_is_written() {
    within(async {
        let (_origin, proxy) = start(&limit(1, "key = \"header:X-Tenant\"")).await;
        assert_eq!(from(&proxy, "192.0.2.1", "X-Tenant: acme\r\n").await, 200);
        for same in [
            "X-Tenant: acme\r\n",
            "x-tenant: ACME\r\n",
            "X-TENANT:   AcMe \t\r\n",
            "X-Tenant: %61cm%65\r\n",
            "X-Tenant: a c m e\r\n",
            "X-Tenant:\r\nX-Tenant: acme\r\n",
            "X-Tenant: acme,\r\n",
        ] {
            assert_eq!(from(&proxy, "192.0.2.77", same).await, 429, "{same:?}");
        }
        assert_eq!(from(&proxy, "192.0.2.1", "X-Tenant: other\r\n").await, 200);
        let long = format!("X-Tenant: {}\r\n", "x".repeat(8_000));
        assert_eq!(from(&proxy, "192.0.2.1", &long).await, 200);
        assert_eq!(from(&proxy, "192.0.2.1", &long.to_uppercase()).await, 429);
    })
    .await;
}

#[tokio::test]
async fn leaving_a_field_out_is_one_bucket_for_each_network() {
    within(async {
        let (_origin, proxy) = start(&limit(1, "key = \"header:X-Tenant\"")).await;
        assert_eq!(from(&proxy, "192.0.2.1", "").await, 200);
        for left_out in ["", "X-Tenant:\r\n", "X-Tenant: ,\r\n", "X_Tenant: a\r\n"] {
            assert_eq!(from(&proxy, "192.0.2.1", left_out).await, 429, "{left_out:?}");
        }
        // A stranger shares nothing with it, and has no name for it.
        assert_eq!(from(&proxy, "192.0.2.2", "").await, 200);
        assert_eq!(from(&proxy, "192.0.2.3", "X-Tenant: 192.0.2.4\r\n").await, 200);
        assert_eq!(from(&proxy, "192.0.2.4", "").await, 200);
    })
    .await;
}

#[tokio::test]
async fn a_limit_by_address_holds_whoever_changes_the_field() {
    within(async {
        let limits = limit(3, "key = \"header:X-Tenant\"") + &limit(5, "");
        let (_origin, proxy) = start(&limits).await;
        let mut statuses = Vec::new();
        for tenant in 0..8 {
            let field = format!("X-Tenant: {tenant}\r\n");
            statuses.push(from(&proxy, "192.0.2.1", &field).await);
        }
        assert_eq!(statuses, [200, 200, 200, 200, 200, 429, 429, 429]);
    })
    .await;
}

#[tokio::test]
async fn a_composite_key_is_as_many_buckets_as_its_parts_make() {
    within(async {
        let key = "key = [\"address\", \"header:X-Tenant\"]";
        let (_origin, proxy) = start(&limit(1, key)).await;
        for (client, tenant, status) in [
            ("192.0.2.1", "a", 200),
            ("192.0.2.1", "A", 429),
            ("192.0.2.1", "b", 200),
            ("192.0.2.2", "a", 200),
            ("::ffff:192.0.2.2", "a", 429),
        ] {
            let field = format!("X-Tenant: {tenant}\r\n");
            assert_eq!(from(&proxy, client, &field).await, status, "{client} {tenant}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_route_is_one_bucket_for_all() {
    within(async {
        let (_origin, proxy) = start(&limit(2, "key = \"route\"")).await;
        assert_eq!(from(&proxy, "192.0.2.1", "").await, 200);
        assert_eq!(from(&proxy, "192.0.2.2", "").await, 200);
        assert_eq!(from(&proxy, "192.0.2.3", "").await, 429);
    })
    .await;
}

fn keys() -> String {
    format!(
        "[route.api_key]\nkeys = [{{ name = \"alice\", key = \"{K1}\" }}, \
         {{ name = \"bob\", key = \"file:bob\" }}]\n"
    )
}

#[tokio::test]
async fn a_limit_by_identity_comes_behind_authentication_and_goes_by_who_it_is() {
    within(async {
        let origin = Origin::answering(OK).await;
        let dir = tempfile::TempDir::new().unwrap();
        std::fs::write(dir.path().join("bob"), "k2").unwrap();
        let route = limit(2, "key = \"identity\"") + &keys();
        let proxy = behind(&origin, &route).start_in(dir);
        // Those who are not let in are not counted.
        for _ in 0..4 {
            assert_eq!(from(&proxy, "192.0.2.9", "X-API-Key: wrong\r\n").await, 401);
        }
        let mut statuses = Vec::new();
        for (client, key) in [(1, "k1"), (2, "k1"), (3, "k1"), (3, "k2"), (1, "k1"), (4, "k2")] {
            let field = format!("X-API-Key: {key}\r\n");
            statuses.push(from(&proxy, &format!("192.0.2.{client}"), &field).await);
        }
        assert_eq!(statuses, [200, 200, 429, 200, 429, 200]);
        let lines = proxy.log_lines(10).await;
        let refused = lines.iter().filter(|line| line.contains("rejected=rate_limited"));
        assert!(refused.clone().all(|line| line.contains("identity=alice")), "{lines:?}");
        assert_eq!(refused.count(), 2);
    })
    .await;
}

#[tokio::test]
async fn a_limit_by_address_is_asked_before_authentication_wherever_it_stands() {
    within(async {
        let route =
            limit(9, "key = \"identity\"") + &limit(2, "") + &keys().replace("file:bob", K1);
        let (origin, proxy) = start(&route).await;
        let mut statuses = Vec::new();
        for _ in 0..3 {
            statuses.push(from(&proxy, "192.0.2.1", "").await);
        }
        assert_eq!(statuses, [401, 401, 429]);
        assert!(origin.bytes().is_empty());
    })
    .await;
}

#[tokio::test]
async fn many_keys_neither_fill_the_memory_nor_free_who_is_held_back() {
    within(async {
        let limits = limit(1, "key = \"header:X-Tenant\"\nmax_keys = 500");
        let (_origin, proxy) = start(&limits).await;
        let mut client = Raw::connect(proxy.address).await;
        let mut ask = async |tenant: &str| {
            let field = format!("X-Tenant: {tenant}");
            client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n")).await;
            client.answer().await.status
        };
        for tenant in 0..1_500 {
            // A newcomer is neither shut out nor forgotten at once.
            assert_eq!(ask(&format!("t{tenant}")).await, 200, "{tenant}");
            assert_eq!(ask(&format!("t{tenant}")).await, 429, "{tenant}");
        }
    })
    .await;
}

#[tokio::test]
async fn exempt_networks_are_told_in_any_form() {
    within(async {
        let limits = limit(1, "exempt = [\"192.0.2.0/28\", \"2001:db8::/32\"]");
        let (_origin, proxy) = start(&limits).await;
        for exempt in ["192.0.2.7", "::ffff:192.0.2.7", "2001:db8:9::1"] {
            for _ in 0..3 {
                assert_eq!(from(&proxy, exempt, "").await, 200, "{exempt}");
            }
        }
        assert_eq!(from(&proxy, "192.0.2.16", "").await, 200);
        assert_eq!(from(&proxy, "192.0.2.16", "").await, 429);
    })
    .await;
}
