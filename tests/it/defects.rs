//! Ten defects that a well-known tutorial proxy has, each shown to be absent
//! from this one, through a running proxy where it can be seen from outside.

use crate::support::client::{Raw, fields, get};
use crate::support::origin::Origin;
use crate::support::proxy::Setup;
use crate::support::{eventually, within};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn limited(origin: &Origin, limit: &str) -> Setup {
    Setup::new(format!(
        "[[upstream]]\nname = \"origin\"\norigins = [\"{origin}\"]\n\
         [[route]]\nname = \"all\"\nupstream = \"origin\"\nrate_limit = {limit}\n"
    ))
}

#[tokio::test]
async fn d01_a_client_is_its_address_and_not_its_connection() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = limited(&origin, "{ rate = 1, per = \"1h\", burst = 3 }").start();
        let mut statuses = Vec::new();
        for _ in 0..5 {
            statuses.push(get(proxy.address, "/", "").await.status);
        }
        assert_eq!(statuses, [200, 200, 200, 429, 429]);
    })
    .await;
}

#[tokio::test]
async fn d02_clients_that_are_gone_are_forgotten() {
    use std::sync::Arc;
    use tollgate::context::Downstream;
    use tollgate::layers::{RateLimitLayer, RateLimitSettings};
    use tower::{Layer, ServiceExt};

    let settings = RateLimitSettings::per_second(1_000_000.try_into().unwrap());
    let layer = RateLimitLayer::new(&settings);
    let ok =
        || async { Ok::<_, std::convert::Infallible>(http::Response::new(bytes::Bytes::new())) };
    for client in 0..200_000_u32 {
        let service = layer.layer(tower::service_fn(move |_: http::Request<()>| ok()));
        let mut request = http::Request::new(());
        let peer = (std::net::Ipv4Addr::from(client), 1).into();
        let downstream = Downstream { peer: Some(peer), ..Downstream::default() };
        request.extensions_mut().insert(Arc::new(downstream));
        service.oneshot(request).await.unwrap();
    }
    assert!(layer.keys() < 10_000, "{} clients are remembered", layer.keys());
}

#[tokio::test]
async fn d03_a_rate_below_one_a_second_refills() {
    within(async {
        let origin = Origin::answering(OK).await;
        // One in two seconds, asked four times a second: fractions must add up.
        let proxy = limited(&origin, "{ rate = 1, per = \"2s\", burst = 1 }").start();
        assert_eq!(get(proxy.address, "/", "").await.status, 200);
        assert_eq!(get(proxy.address, "/", "").await.status, 429);
        eventually("it refills although it is asked all the time", async || {
            tokio::time::sleep(std::time::Duration::from_millis(250)).await;
            get(proxy.address, "/", "").await.status == 200
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn d04_several_keys_each_with_a_name_and_none_in_the_clear() {
    within(async {
        let origin = Origin::answering(OK).await;
        let dir = tempfile::TempDir::new().unwrap();
        std::fs::write(dir.path().join("a.key"), "one\n").unwrap();
        std::fs::write(dir.path().join("b.key"), "two").unwrap();
        let proxy = Setup::forwarding_to(&origin)
            .and(
                "[[route]]\nname = \"keyed\"\npath = \"/k\"\nupstream = \"origin\"\n\
                 [route.api_key]\nheader = \"X-Token\"\nidentity_header = \"X-Who\"\n\
                 keys = [{ name = \"a\", key = \"file:a.key\" }, \
                 { name = \"b\", key = \"file:b.key\" }]\n",
            )
            .start_in(dir);
        for (key, name) in [("one", "a"), ("two", "b")] {
            let field = format!("X-Token: {key}\r\n");
            assert_eq!(get(proxy.address, "/k", &field).await.status, 200);
            assert_eq!(fields(&origin.requests().pop().unwrap(), "x-who"), [name]);
        }
        assert_eq!(get(proxy.address, "/k", "X-Token: three\r\n").await.status, 401);
        let plain = "[[route]]\nname = \"x\"\nrespond = {}\n[route.api_key]\n\
                     keys = [{ name = \"a\", key = \"hunter2\" }]\n";
        let error = tollgate::config::parse("x.toml".as_ref(), plain).unwrap_err();
        let problem = error.problems().iter().find(|p| p.key.ends_with("key")).unwrap();
        assert!(problem.hint.as_ref().unwrap().contains("sha256:"), "{problem:?}");
    })
    .await;
}

#[tokio::test]
async fn d05_a_429_says_when_and_a_401_says_how() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = limited(&origin, "{ rate = 1, per = \"1h\", burst = 1 }")
            .and(&format!(
                "[route.api_key]\nkeys = [{{ name = \"a\", key = \"sha256:{}\" }}]\n",
                "00".repeat(32)
            ))
            .start();
        assert!(get(proxy.address, "/", "").await.field("www-authenticate").is_some());
        let wait = get(proxy.address, "/", "").await;
        let wait: u64 = wait.field("retry-after").unwrap().parse().unwrap();
        assert!((3590..=3600).contains(&wait), "{wait}");
    })
    .await;
}

#[tokio::test]
async fn d06_clients_behind_one_trusted_proxy_do_not_share_a_bucket() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = limited(&origin, "{ rate = 1, per = \"1h\", burst = 1 }")
            .server("trusted_proxies = [\"127.0.0.1\"]")
            .start();
        for client in ["192.0.2.1", "192.0.2.2", "2001:db8::1"] {
            let field = format!("X-Forwarded-For: {client}\r\n");
            assert_eq!(get(proxy.address, "/", &field).await.status, 200, "{client}");
            assert_eq!(get(proxy.address, "/", &field).await.status, 429, "{client}");
        }
    })
    .await;
}

#[tokio::test]
async fn d07_a_client_without_an_address_shares_no_bucket() {
    use tollgate::layers::{RateLimitLayer, RateLimitSettings};
    use tower::{Layer, ServiceExt};

    let layer = RateLimitLayer::new(&RateLimitSettings::per_second(1.try_into().unwrap()));
    for _ in 0..3 {
        let service = layer.layer(tower::service_fn(|_: http::Request<()>| async {
            Ok::<_, std::convert::Infallible>(http::Response::new(bytes::Bytes::new()))
        }));
        assert_eq!(service.oneshot(http::Request::new(())).await.unwrap().status(), 200);
    }
}

#[tokio::test]
async fn d08_one_failed_probe_in_between_does_not_take_an_origin_out() {
    within(async {
        // Every third probe fails; three in a row never do.
        let origin = Origin::scripted(|mut connection| async move {
            let fails = connection.number % 3 == 2;
            while let Some(request) = connection.request().await {
                let probe = request.contains("tollgate-health-check");
                let sick = "HTTP/1.1 500 Sick\r\nContent-Length: 0\r\n\r\n";
                connection.write(if probe && fails { sick } else { OK }).await;
            }
        })
        .await;
        let health = "[upstream.health]\ninterval = \"5ms\"\ntimeout = \"1s\"\nfall = 3\n";
        let proxy = Setup::forwarding_with(&origin, health).start();
        eventually("it has been probed often", async || origin.connections() > 20).await;
        let healthy = format!(
            "tollgate_origin_healthy{{upstream=\"origin\",origin=\"{}\"}} 1",
            origin.address
        );
        let metrics = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let metrics = crate::support::client::ask(proxy.admin, metrics).await.text();
        assert!(metrics.contains(&healthy), "{metrics}");
        assert!(metrics.contains("result=\"failed\""), "{metrics}");
    })
    .await;
}

#[test]
fn d09_no_phase_is_without_a_timeout() {
    use tollgate::serve::ServeSettings;
    use tollgate::tls::TlsSettings;
    use tollgate::upstream::UpstreamTimeouts;
    let upstream = UpstreamTimeouts::default();
    let serve = ServeSettings::default();
    let timeouts = [
        upstream.connect,
        upstream.response_head,
        upstream.idle_body,
        upstream.pool_idle,
        serve.request_head_timeout,
        serve.keep_alive_timeout,
        serve.send_timeout,
        TlsSettings::new(Vec::new()).handshake_timeout,
    ];
    for timeout in timeouts {
        assert!((1..=120).contains(&timeout.as_secs()), "{timeout:?}");
    }
}

#[tokio::test]
async fn d10_the_origin_learns_host_client_and_way_and_no_lies() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = Setup::forwarding_to(&origin).start();
        let mut client = Raw::connect(proxy.address).await;
        client
            .send(
                "GET / HTTP/1.1\r\nHost: b.test\r\nX-Forwarded-For: 6.6.6.6\r\n\
                 X-Forwarded-Proto: https\r\nX_Forwarded_For: 6.6.6.6\r\n\
                 Forwarded: for=6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\n\r\n",
            )
            .await;
        client.answer().await;
        let request = origin.request();
        assert!(!request.contains("6.6.6.6"), "{request}");
        assert_eq!(fields(&request, "host"), ["b.test"]);
        assert_eq!(fields(&request, "x-forwarded-for"), ["127.0.0.1"]);
        assert_eq!(fields(&request, "x-forwarded-proto"), ["http"]);
        assert_eq!(fields(&request, "x-forwarded-host"), ["b.test"]);
        assert_eq!(fields(&request, "forwarded"), ["for=127.0.0.1;proto=http;host=\"b.test\""]);
        assert!(fields(&request, "via")[0].starts_with("1.1 tollgate"));
    })
    .await;
}
