use super::*;
use crate::body::Body;
use crate::context::Downstream;
use std::convert::Infallible;
use std::num::NonZeroU32;
use std::time::Duration;
use tower::ServiceExt;

fn limited(burst: u32) -> RateLimitSettings {
    let minute = crate::pace::Quota::new(NonZeroU32::MIN, Duration::from_secs(60));
    let burst = NonZeroU32::new(burst).unwrap();
    RateLimitSettings {
        exempt: vec!["198.51.100.0/24".parse().unwrap()],
        ..RateLimitSettings::new(minute.burst(burst), LimitKey::default())
    }
}

async fn ask(layer: &RateLimitLayer, peer: Option<&str>) -> Response<Body> {
    let service = layer.layer(tower::service_fn(|_: Request<()>| async {
        Ok::<_, Infallible>(Response::new(Body::empty()))
    }));
    let mut request = Request::new(());
    let peer = peer.map(|peer| peer.parse().unwrap());
    request.extensions_mut().insert(Arc::new(Downstream { peer, ..Downstream::default() }));
    service.oneshot(request).await.unwrap()
}

#[tokio::test]
async fn defect_1_the_port_is_no_part_of_the_key() {
    let layer = RateLimitLayer::new(&limited(1));
    assert_eq!(ask(&layer, Some("192.0.2.1:1000")).await.status(), 200);
    assert_eq!(ask(&layer, Some("192.0.2.1:2000")).await.status(), 429);
    assert_eq!(ask(&layer, Some("192.0.2.2:1000")).await.status(), 200);
}

#[tokio::test]
async fn defect_5_a_429_says_when_to_come_again() {
    let layer = RateLimitLayer::new(&limited(1));
    ask(&layer, Some("192.0.2.1:1")).await;
    let response = ask(&layer, Some("192.0.2.1:1")).await;
    let wait: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((59..=60).contains(&wait), "{wait}");
}

#[tokio::test]
async fn defect_7_clients_without_an_address_share_no_bucket() {
    let layer = RateLimitLayer::new(&limited(1));
    for _ in 0..5 {
        assert_eq!(ask(&layer, None).await.status(), 200);
    }
}

#[tokio::test]
async fn exempt_networks_are_not_counted() {
    let layer = RateLimitLayer::new(&limited(1));
    for _ in 0..5 {
        assert_eq!(ask(&layer, Some("198.51.100.7:1")).await.status(), 200);
    }
}

#[tokio::test]
async fn a_dry_run_counts_what_it_would_refuse_and_can_be_ended() {
    let metrics = crate::observe::Metrics::default();
    let settings = RateLimitSettings { dry_run: true, ..limited(1) };
    let limit = Limit::new(&settings).counting(metrics.rate_limit(&"api".into(), &settings.name));
    let layer = RateLimitLayer::of([limit.clone()]);
    for _ in 0..3 {
        assert_eq!(ask(&layer, Some("192.0.2.1:1")).await.status(), 200);
    }
    let has = |line: &str| {
        let text = metrics.render();
        assert!(text.lines().any(|one| one == line), "{line} in {text}");
    };
    has("tollgate_rate_limit_dry_run_total{route=\"api\",limit=\"address\"} 2");
    limit.set_dry_run(false);
    assert_eq!(ask(&layer, Some("192.0.2.1:1")).await.status(), 429);
    has("tollgate_rate_limited_total{route=\"api\",limit=\"address\"} 1");
    limit.set_dry_run(true);
    assert_eq!(ask(&layer, Some("192.0.2.1:1")).await.status(), 200);
}

#[tokio::test]
async fn a_successor_remembers_the_clients_unless_the_rate_is_another() {
    let limit = Limit::new(&limited(1));
    let layer = |limit: &Limit| RateLimitLayer::of([limit.clone()]);
    ask(&layer(&limit), Some("192.0.2.1:1")).await;
    let renewed = |settings: &RateLimitSettings| layer(&limit.renewed(settings));
    let exempts = RateLimitSettings { exempt: Vec::new(), ..limited(1) };
    assert_eq!(ask(&renewed(&exempts), Some("192.0.2.1:1")).await.status(), 429);
    assert_eq!(ask(&renewed(&limited(2)), Some("192.0.2.1:1")).await.status(), 200);
    let of_all = RateLimitSettings { key: LimitKeyPart::Route.into(), ..limited(1) };
    assert_eq!(ask(&renewed(&of_all), Some("192.0.2.1:1")).await.status(), 200);
    assert_eq!(ask(&layer(&limit), Some("192.0.2.1:1")).await.status(), 429);
}

#[test]
fn a_successor_keeps_the_dry_run_unless_the_settings_say_something_else_than_before() {
    let dry = |dry_run| RateLimitSettings { dry_run, ..limited(1) };
    let limit = Limit::new(&dry(false));
    limit.set_dry_run(true);
    let kept = limit.renewed(&dry(false));
    assert!(kept.is_dry_run());
    assert!(limit.renewed(&dry(true)).is_dry_run());
    let told = kept.renewed(&dry(true));
    told.set_dry_run(false);
    assert!(!told.renewed(&dry(true)).is_dry_run());
    assert!(!told.renewed(&dry(false)).is_dry_run());
    assert!(kept.is_dry_run(), "a successor does not change what it succeeds");
}

#[tokio::test]
async fn a_request_passes_if_all_limits_let_it() {
    let all = RateLimitSettings { key: LimitKeyPart::Route.into(), ..limited(3) };
    let layer = RateLimitLayer::of([Limit::new(&limited(2)), Limit::new(&all)]);
    let mut statuses = Vec::new();
    for client in ["192.0.2.1:1", "192.0.2.1:1", "192.0.2.1:1", "192.0.2.2:1", "192.0.2.3:1"] {
        statuses.push(ask(&layer, Some(client)).await.status().as_u16());
    }
    assert_eq!(statuses, [200, 200, 429, 200, 429]);
}

#[test]
fn who_switches_a_dry_run_means_the_limit_in_force_and_its_successor() {
    let limit = Limit::new(&limited(1));
    let successor = limit.renewed(&limited(1)).counting(crate::observe::RateLimitCounts::default());
    // It was built, and does not answer yet.
    limit.set_dry_run(true);
    assert!(successor.is_dry_run());
    let told = limit.renewed(&RateLimitSettings { dry_run: true, ..limited(1) });
    limit.set_dry_run(false);
    assert!(told.is_dry_run(), "the settings have had it otherwise");
}
