//! Upstreams that are renewed without a proxy around them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Request;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::*;
use crate::body::Body;
use crate::upstream::{
    AddressFamily, DnsSettings, HealthCheck, OriginChange, Probe, Reuse, Verdict,
};

fn settings(origins: &[(&str, u32)]) -> UpstreamSettings {
    let origin =
        |(url, weight): &(&str, u32)| OriginSettings { url: url.parse().unwrap(), weight: *weight };
    UpstreamSettings::new("test", origins.iter().map(origin).collect())
}

fn fresh(settings: UpstreamSettings) -> Arc<Upstream> {
    Upstream::new(settings, Metrics::default(), Budget::unlimited()).unwrap()
}

/// One that is to succeed `old`, and has not yet.
fn renewed(old: &Arc<Upstream>, settings: UpstreamSettings) -> Arc<Upstream> {
    let (resolver, metrics) = (old.maker.resolver().clone(), old.metrics.clone());
    Upstream::renewed(old, settings, resolver, metrics, Budget::unlimited()).unwrap()
}

fn succeeded(old: &Arc<Upstream>, settings: UpstreamSettings) -> Arc<Upstream> {
    let new = renewed(old, settings);
    new.succeed(old);
    new
}

/// The ports in the rotation, with their weights.
fn rotation(upstream: &Upstream) -> Vec<(u16, u32)> {
    let rotation = upstream.rotation();
    let ports = rotation.origins.iter().map(|origin| origin.url().port);
    ports.zip(rotation.weights.iter().copied()).collect()
}

fn condemn(upstream: &Upstream, index: usize) {
    upstream.report(&upstream.origins()[index], Verdict::ProbeFailed("it is broken".into()));
}

const A: &str = "http://127.0.0.1:1";
const B: &str = "http://127.0.0.1:2";
const C: &str = "http://127.0.0.1:3";

fn drain() -> OriginChange {
    OriginChange { drained: Some(true), ..OriginChange::default() }
}

fn weigh(weight: u32) -> OriginChange {
    OriginChange { weight: Some(weight), ..OriginChange::default() }
}

#[test]
fn an_origin_is_the_same_whatever_changes_around_it() {
    let old = fresh(settings(&[(A, 1), (B, 1)]));
    let mut changed = settings(&[(C, 1), (B, 7)]);
    changed.health = Some(HealthCheck::new(Probe::Tcp));
    changed.passive.max_failures = 9;
    changed.max_attempts = 9;
    changed.warm = 2;
    let new = succeeded(&old, changed);
    assert_eq!(rotation(&new), [(3, 1), (2, 7)]);
    assert!(Arc::ptr_eq(&new.origins()[1], &old.origins()[1]));
    assert!(!new.origins()[1].is_retired());
    assert!(old.origins()[0].is_retired(), "it has left");
}

#[tokio::test]
async fn nothing_is_left_of_those_before() {
    let first = fresh(settings(&[(A, 1), (B, 1)]));
    let (gone, origin) = (Arc::downgrade(&first), Arc::downgrade(&first.origins()[1]));
    let mut keeping = tokio::spawn(first.clone().keep());
    let mut upstream = first;
    for round in 1..=50 {
        let mut changed = settings(&[(A, round), (C, 1)]);
        changed.max_idle = round as usize;
        let new = succeeded(&upstream, changed);
        keeping.await.unwrap();
        keeping = tokio::spawn(new.clone().keep());
        upstream = new;
    }
    assert!(gone.upgrade().is_none() && origin.upgrade().is_none());
    assert_eq!(upstream.life.line().len(), 1);
    assert_eq!(upstream.life.line.0.lock().len(), 2, "the one before was there until now");
    assert_eq!(Arc::strong_count(&upstream.origins()[0].standing().clone()), 2);
    keeping.abort();
}

#[test]
fn one_set_up_anew_has_the_standing_of_the_one_before() {
    let mut limited = settings(&[(A, 1), (B, 1), (C, 1)]);
    limited.max_connections = Some(1);
    limited.health = Some(HealthCheck::new(Probe::Tcp));
    let old = fresh(limited.clone());
    condemn(&old, 0);
    old.report(&old.origins()[1], Verdict::Unreachable("test".into()));
    old.set_origin("127.0.0.1:3", &OriginChange { weight: Some(5), ..drain() }).unwrap();
    let open = old.origins()[0].permit().unwrap();

    limited.timeouts.connect = Duration::from_secs(1);
    let new = succeeded(&old, limited);
    for (old, new) in old.origins().iter().zip(new.origins()) {
        assert!(!Arc::ptr_eq(old, &new));
        assert!(old.is_retired() && !new.is_retired());
    }
    let status = new.status().origins;
    assert!(status[0].condemned && !status[0].healthy);
    assert_eq!(status[0].reason.as_deref(), Some("it is broken"));
    assert_eq!(status[0].open_connections, 1);
    assert!(new.origins()[0].permit().is_err(), "the connection of before counts");
    drop(open);
    assert!(new.origins()[0].permit().is_ok());
    assert!(status[1].set_aside_for_ms.is_some_and(|left| left > 0));
    assert!(status[2].drained && status[2].weight == 5 && status[2].configured_weight == 1);
}

#[test]
fn a_renewal_that_is_thrown_away_leaves_no_trace() {
    let old = fresh(settings(&[(A, 1), (B, 1)]));
    old.set_origin("127.0.0.1:1", &weigh(9)).unwrap();
    condemn(&old, 1);
    let (told, generation) = (old.metrics.render(), old.rotation().generation);
    let mut other = settings(&[(A, 3), (C, 2)]);
    other.timeouts.connect = Duration::from_secs(1);
    for changed in [settings(&[(A, 3), (C, 2)]), other] {
        let new = renewed(&old, changed);
        assert_eq!(rotation(&new), [(1, 3), (3, 2)]);
        drop(new);
        assert_eq!(old.metrics.render(), told);
        assert_eq!(old.rotation().generation, generation);
        assert_eq!(rotation(&old), [(1, 9)]);
        assert!(old.origins().iter().all(|origin| !origin.is_retired()));
    }
}

#[test]
fn what_was_counted_goes_with_the_origin_and_only_then() {
    let old = fresh(settings(&[(A, 1), (B, 1)]));
    for origin in old.origins() {
        old.metrics.origin_connected(old.name(), origin.shared_name(), true);
    }
    let told = |upstream: &Upstream, port: u16| {
        let label = format!("origin=\"127.0.0.1:{port}\"");
        let text = upstream.metrics.render();
        text.lines().filter(|line| line.contains(&label)).count()
    };
    let mut other = settings(&[(A, 1)]);
    other.max_idle = 1;
    let new = succeeded(&old, other);
    assert_eq!(
        told(&new, 1),
        3,
        "it was set up anew, and is still there: {}",
        new.metrics.render()
    );
    assert_eq!(told(&new, 2), 0);
    // Whoever still has a hold of the old one brings nothing back.
    old.report(&old.origins()[1], Verdict::Unreachable("test".into()));
    old.publish();
    assert_eq!(told(&new, 2), 0);
    new.leave();
    assert_eq!(told(&new, 1), 0);
    assert!(new.origins()[0].is_retired());
}

#[test]
fn what_an_exchange_learns_is_known_wherever_there_are_requests() {
    let old = fresh(settings(&[(A, 1), (B, 1)]));
    let middle = succeeded(&old, settings(&[(A, 1), (B, 1)]));
    drop(middle);
    let middle = renewed(&old, settings(&[(A, 1), (B, 1)]));
    // Swapped in, but it has not succeeded yet.
    middle.report(&middle.origins()[0], Verdict::Unreachable("test".into()));
    assert_eq!((rotation(&middle), rotation(&old)), (vec![(2, 1)], vec![(2, 1)]));
    middle.succeed(&old);
    middle.report(&middle.origins()[0], Verdict::ProbeOk);
    let new = succeeded(&middle, settings(&[(B, 1), (A, 1), (C, 1)]));
    assert_eq!(rotation(&new), [(2, 1), (1, 1), (3, 1)]);
    old.report(&old.origins()[0], Verdict::Unreachable("test".into()));
    assert_eq!(rotation(&new), [(2, 1), (3, 1)]);
    assert_eq!(rotation(&middle), [(2, 1)]);
    assert_eq!(rotation(&old), [(2, 1)]);
    new.set_origin("127.0.0.1:2", &drain()).unwrap();
    assert_eq!(rotation(&new), [(3, 1)]);
    assert_eq!(rotation(&old), [(1, 1)], "set aside is better than nobody");
}

#[test]
fn a_verdict_means_what_the_settings_in_force_say() {
    let old = fresh(settings(&[(A, 1), (B, 1)]));
    let mut patient = settings(&[(A, 1), (B, 1)]);
    patient.passive.max_failures = 2;
    let new = succeeded(&old, patient);
    let unreachable = || old.report(&old.origins()[0], Verdict::Unreachable("test".into()));
    unreachable();
    assert_eq!(rotation(&new), [(1, 1), (2, 1)]);
    unreachable();
    assert_eq!(rotation(&new), [(2, 1)]);
}

#[test]
fn the_first_probe_after_a_renewal_is_not_the_first() {
    let mut probed = settings(&[(A, 1), (B, 1)]);
    probed.health = Some(HealthCheck::new(Probe::Tcp));
    let old = fresh(probed.clone());
    old.report(&old.origins()[0], Verdict::ProbeOk);
    probed.timeouts.connect = Duration::from_secs(1);
    let new = succeeded(&old, probed);
    condemn(&new, 0);
    assert_eq!(rotation(&new), [(1, 1), (2, 1)], "one failure of three");
    condemn(&new, 1);
    assert_eq!(rotation(&new), [(1, 1)], "that was the first");
}

#[test]
fn without_probes_nothing_that_they_said_holds() {
    let mut probed = settings(&[(A, 1), (B, 1)]);
    probed.health = Some(HealthCheck::new(Probe::Tcp));
    let old = fresh(probed);
    condemn(&old, 0);
    let new = renewed(&old, settings(&[(A, 1), (B, 1)]));
    assert_eq!(rotation(&old), [(2, 1)]);
    new.succeed(&old);
    assert_eq!(rotation(&new), [(1, 1), (2, 1)]);
}

#[test]
fn a_weight_set_by_hand_holds_until_another_is_configured() {
    let old = fresh(settings(&[(A, 1), (B, 1)]));
    old.set_origin("127.0.0.1:1", &weigh(9)).unwrap();
    old.set_origin(B, &drain()).unwrap();
    let new = succeeded(&old, settings(&[(A, 1), (B, 1), (C, 1)]));
    assert_eq!(rotation(&new), [(1, 9), (3, 1)]);
    let new = succeeded(&new, settings(&[(A, 2), (B, 4)]));
    assert_eq!(rotation(&new), [(1, 2)], "and drained is what stays so");
    let new = succeeded(&new, settings(&[(A, 1), (B, 1)]));
    assert_eq!(rotation(&new), [(1, 1)], "it was given up for good");
    // One that leaves and comes back is another.
    let new = succeeded(&new, settings(&[(A, 1)]));
    let new = succeeded(&new, settings(&[(A, 1), (B, 1)]));
    assert_eq!(rotation(&new), [(1, 1), (2, 1)]);
}

#[test]
fn renewed_under_another_name_it_is_another() {
    let old = fresh(settings(&[(A, 1)]));
    let other = UpstreamSettings { name: "other".into(), ..settings(&[(A, 1)]) };
    let new = renewed(&old, other);
    assert!(!new.is_renewed());
    assert!(!Arc::ptr_eq(&new.origins()[0], &old.origins()[0]));
}

/// Answers whatever comes; the body only when it is told to go on, if `/slow` is
/// asked for.
struct Server {
    url: String,
    accepted: Arc<AtomicUsize>,
    go_on: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (accepted, go_on) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let (count, wait) = (accepted.clone(), go_on.clone());
        let task = tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(Self::answer(socket, wait.clone()));
            }
        });
        Self { url, accepted, go_on, task }
    }

    async fn answer(mut socket: TcpStream, wait: Arc<Notify>) {
        let mut buffer = [0; 1024];
        while let Ok(read) = socket.read(&mut buffer).await
            && read > 0
        {
            let head = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n";
            socket.write_all(head).await.unwrap();
            if buffer.starts_with(b"GET /slow ") {
                wait.notified().await;
            }
            socket.write_all(b"ok").await.unwrap();
        }
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn get(origin: &Arc<Origin>, path: &str) -> http::Response<Body> {
    let request = Request::builder().uri(path).header("host", "a.test").body(Body::empty());
    let mut slot = Some(request.unwrap());
    let sent = origin.send(&mut slot, Reuse::Any, None, Instant::now(), None).await;
    sent.unwrap().response
}

async fn read(response: http::Response<Body>) -> bytes::Bytes {
    response.into_body().collect().await.unwrap().to_bytes()
}

async fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn open(upstream: &Upstream, index: usize) -> usize {
    upstream.status().origins[index].open_connections
}

#[tokio::test]
async fn connections_stay_with_what_stays_and_no_others_are_kept() {
    let server = Server::start().await;
    let url = &*server.url;
    let old = fresh(settings(&[(url, 1)]));
    read(get(&old.origins()[0], "/").await).await;
    let same = succeeded(&old, settings(&[(url, 2), (A, 1)]));
    read(get(&same.origins()[0], "/").await).await;
    assert_eq!((server.accepted(), open(&same, 0)), (1, 1));

    // One that is under way when its origin is set up anew ends, and is not kept.
    let under_way = get(&same.origins()[0], "/slow").await;
    let mut other = settings(&[(url, 2)]);
    other.max_idle = 3;
    let new = succeeded(&same, other);
    assert_eq!(open(&new, 0), 1);
    server.go_on.notify_one();
    assert_eq!(read(under_way).await, "ok");
    eventually("the connection is closed", || open(&new, 0) == 0).await;
    read(get(&new.origins()[0], "/").await).await;
    assert_eq!((server.accepted(), open(&new, 0)), (2, 1));
}

#[tokio::test]
async fn a_drained_origin_ends_what_it_has_and_keeps_nothing() {
    let server = Server::start().await;
    let upstream = fresh(settings(&[(&server.url, 1), (A, 1)]));
    let origin = upstream.origins()[0].clone();
    let under_way = get(&origin, "/slow").await;
    read(get(&origin, "/").await).await;
    assert_eq!(open(&upstream, 0), 2);
    let status = upstream.set_origin(&server.url, &drain()).unwrap();
    assert!(status.drained && status.healthy, "{status:?}");
    assert_eq!(open(&upstream, 0), 1, "the idle one is closed");
    server.go_on.notify_one();
    assert_eq!(read(under_way).await, "ok");
    eventually("the other is closed, too", || open(&upstream, 0) == 0).await;

    // Nobody is asked rather than one that is drained.
    condemn(&upstream, 1);
    assert_eq!(rotation(&upstream), []);
    let told = upstream.metrics.render();
    let name = origin.name();
    let line = format!("tollgate_origin_drained{{upstream=\"test\",origin=\"{name}\"}} 1");
    assert!(told.contains(&line), "{told}");

    let enable = OriginChange { drained: Some(false), ..OriginChange::default() };
    upstream.set_origin(name, &enable).unwrap();
    assert_eq!(rotation(&upstream).len(), 1);
    read(get(&origin, "/").await).await;
    assert_eq!(open(&upstream, 0), 1, "and connections are kept again");
}

#[tokio::test]
async fn only_what_is_new_is_warmed() {
    let (first, second) = (Server::start().await, Server::start().await);
    let warmed = |origins: &[(&str, u32)], warm| UpstreamSettings { warm, ..settings(origins) };
    let old = fresh(warmed(&[(&first.url, 1)], 2));
    old.clone().warm().await;
    let accepted = || (first.accepted(), second.accepted());
    eventually("the first is warm", || accepted() == (2, 0)).await;
    let new = succeeded(&old, warmed(&[(&first.url, 1), (&second.url, 1)], 2));
    new.clone().warm().await;
    eventually("the second is warm", || accepted().1 == 2).await;
    assert_eq!(accepted(), (2, 2));
    let more = succeeded(&new, warmed(&[(&first.url, 1), (&second.url, 1)], 3));
    more.warm().await;
    eventually("there is one more of each", || accepted() == (3, 3)).await;
}

#[tokio::test]
async fn a_known_origin_is_probed_when_its_next_probe_is_due() {
    let (first, second) = (Server::start().await, Server::start().await);
    let probed = |origins: &[(&str, u32)]| {
        let probe = Probe::get("/".parse().unwrap());
        let check = HealthCheck { interval: Duration::from_secs(3_600), ..HealthCheck::new(probe) };
        UpstreamSettings { health: Some(check), ..settings(origins) }
    };
    let is_probed = |upstream: &Upstream, index: usize| {
        upstream.origins()[index].standing().last_probe().is_some()
    };
    let accepted = || (first.accepted(), second.accepted());
    let old = fresh(probed(&[(&first.url, 1)]));
    let keeping = tokio::spawn(old.clone().keep());
    eventually("the first is probed", || is_probed(&old, 0)).await;
    let both = [(&*first.url, 1), (&*second.url, 1)];
    let new = succeeded(&old, probed(&both));
    keeping.await.unwrap();
    let keeping = tokio::spawn(new.clone().keep());
    eventually("the second is probed", || is_probed(&new, 1)).await;
    assert_eq!(accepted(), (1, 1));

    // Another check does not wait.
    let mut other = probed(&both);
    other.health.as_mut().unwrap().rise = 7;
    let newer = succeeded(&new, other);
    keeping.await.unwrap();
    let keeping = tokio::spawn(newer.keep());
    eventually("both are probed", || accepted() == (2, 2)).await;
    keeping.abort();
}

#[tokio::test]
async fn one_set_aside_comes_back_after_a_renewal() {
    let mut short = settings(&[(A, 1), (B, 1)]);
    short.passive.set_aside = Duration::from_millis(50);
    let old = fresh(short.clone());
    old.report(&old.origins()[0], Verdict::Unreachable("test".into()));
    let new = succeeded(&old, short);
    assert_eq!(rotation(&new), [(2, 1)]);
    let keeping = tokio::spawn(new.clone().keep());
    eventually("it is back", || rotation(&new) == [(1, 1), (2, 1)]).await;
    keeping.abort();
}

/// An upstream whose origin is `localhost`, which the hosts file knows.
fn by_name(each_address: bool) -> UpstreamSettings {
    UpstreamSettings { each_address, ..settings(&[("http://localhost:1", 1)]) }
}

fn with_names(settings: UpstreamSettings) -> Arc<Upstream> {
    let dns = DnsSettings {
        family: AddressFamily::Ipv4,
        allow: vec!["127.0.0.0/8".parse().unwrap()],
        ..DnsSettings::default()
    };
    let (metrics, budget) = (Metrics::default(), Budget::unlimited());
    Upstream::with_resolver(settings, Resolver::new(dns), metrics, budget).unwrap()
}

#[tokio::test]
async fn what_a_name_stands_for_is_known_at_once() {
    let old = with_names(by_name(true));
    let keeping = tokio::spawn(old.clone().keep());
    eventually("it resolves", || old.origins()[0].stands_for().is_some()).await;
    old.report(&old.origins()[0], Verdict::Unreachable("test".into()));

    let same = succeeded(&old, UpstreamSettings { warm: 1, ..by_name(true) });
    assert!(Arc::ptr_eq(&same.origins()[0], &old.origins()[0]));
    keeping.await.unwrap();

    let mut other = by_name(true);
    other.max_idle = 1;
    let other = succeeded(&same, other);
    let (before, after) = (&same.origins()[0], &other.origins()[0]);
    assert!(Arc::ptr_eq(before.stands_for().unwrap(), after.stands_for().unwrap()));
    assert!(other.status().origins[0].set_aside_for_ms.is_some());
    assert!(!after.stands_for().unwrap().is_gone());

    // As one origin for all addresses, and back again.
    let one = succeeded(&other, by_name(false));
    assert!(one.origins()[0].found_by().unwrap().known().is_some());
    let each = succeeded(&one, by_name(true));
    assert!(each.origins()[0].stands_for().is_some_and(|address| !address.is_gone()));

    let name = each.sources[0].name().unwrap().clone();
    let none = succeeded(&each, settings(&[(A, 1)]));
    assert!(name.known().unwrap().iter().all(|address| address.is_gone()));
    assert!(!none.metrics.render().contains("localhost"), "{}", none.metrics.render());
}
