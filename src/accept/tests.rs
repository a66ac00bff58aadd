use super::*;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use http::{Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::body::Body;
use crate::budget::Budget;
use crate::context::Downstream;
use crate::drain;
use crate::observe::Metrics;
use crate::serve::Answers;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// Two workers on the runtime of the test; only the first accepts.
struct Pair {
    address: SocketAddr,
    permits: Permits,
    metrics: Metrics,
    drain: drain::Trigger,
    second: Member,
    _listeners: Listeners,
}

fn pair() -> Pair {
    let (drain, mut crew) = (drain::trigger(), Vec::new());
    let settings = ListenerSettings::new("test", SocketAddr::from(([127, 0, 0, 1], 0)));
    let (listeners, metrics) = bound(&settings, &drain);
    crew.extend(super::crew(2, &metrics));
    let (second, first) = (crew.pop().unwrap(), crew.pop().unwrap());
    listeners.enlist(vec![start(first, "first")]).unwrap();
    listeners.open();
    let (address, permits) = (listeners.addresses("test")[0], listeners.permits().clone());
    Pair { address, permits, metrics, drain, second, _listeners: listeners }
}

/// One listener, for one worker to accept from.
fn bound(settings: &ListenerSettings, drain: &drain::Trigger) -> (Listeners, Metrics) {
    let (permits, metrics) =
        (Permits::new(ConnectionLimits::default(), Budget::unlimited()), Metrics::default());
    let counts = metrics.clone();
    let shared = Shared { workers: 1, permits, metrics: counts, drain: drain.watcher() };
    let settings = std::slice::from_ref(settings);
    let bound = Listeners::bind(settings, vec![None], shared, &mut Inherited::default());
    (bound.unwrap(), metrics)
}

/// A worker that answers with its name.
fn start(member: Member, name: &'static str) -> Worker<impl Answers> {
    let answer = move |_: Request<Body>| async move {
        Ok::<_, Infallible>(Response::new(Body::from(bytes::Bytes::from_static(name.as_bytes()))))
    };
    Worker::start(member, tower::service_fn(answer))
}

async fn ask(address: SocketAddr) -> TcpStream {
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(GET).await.unwrap();
    client
}

/// The answer's head and body.
async fn answer(client: &mut TcpStream) -> String {
    let mut seen = Vec::new();
    while !(seen.ends_with(b"first") || seen.ends_with(b"second")) {
        assert_ne!(client.read_buf(&mut seen).await.unwrap(), 0, "ended early: {seen:?}");
    }
    String::from_utf8(seen).unwrap()
}

async fn until(what: &str, mut check: impl FnMut() -> bool) {
    for _ in 0..1_000 {
        if check() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it never came about that {what}");
}

#[tokio::test]
async fn a_worker_that_has_its_share_hands_the_next_connection_on() {
    let pair = pair();
    let _second = start(pair.second, "second");
    let mut clients = Vec::new();
    for expected in ["first", "second", "first", "second"] {
        let mut client = ask(pair.address).await;
        assert!(answer(&mut client).await.ends_with(expected));
        clients.push(client);
    }
    assert_eq!(pair.permits.open(), 4);
    drop(clients);
    until("no permit is out", || pair.permits.open() == 0).await;
    for worker in [0, 1] {
        assert_eq!(pair.metrics.worker_connections(worker).count(), 0);
    }
}

#[tokio::test]
async fn a_connection_on_its_way_when_the_drain_begins_is_answered() {
    let pair = pair();
    let mut first = ask(pair.address).await;
    answer(&mut first).await;
    let mut second = ask(pair.address).await;
    until("it is handed over", || pair.metrics.worker_connections(1).count() == 1).await;
    let watcher = pair.drain.watcher();
    let drained = tokio::spawn(pair.drain.drain(Duration::from_secs(10)));
    watcher.draining().await;
    let _second = start(pair.second, "second");
    assert!(answer(&mut second).await.ends_with("second"));
    assert_eq!(second.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(drained.await.unwrap().total(), 0);
    assert_eq!(pair.permits.open(), 0);
}

#[tokio::test]
async fn a_connection_that_is_never_taken_over_is_cut_and_counted() {
    let pair = pair();
    let mut first = ask(pair.address).await;
    answer(&mut first).await;
    let mut second = ask(pair.address).await;
    until("it is handed over", || pair.metrics.worker_connections(1).count() == 1).await;
    assert_eq!(pair.drain.drain(Duration::from_secs(1)).await.connections, 1);
    drop(pair.second);
    let mut rest = Vec::new();
    let _reset_or_end = second.read_to_end(&mut rest).await;
    assert!(rest.is_empty());
    until("no permit is out", || pair.permits.open() == 0).await;
}

#[tokio::test]
async fn the_connections_of_a_worker_that_has_ended_are_served_where_they_came() {
    let pair = pair();
    drop(pair.second);
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = ask(pair.address).await;
        assert!(answer(&mut client).await.ends_with("first"));
        clients.push(client);
    }
}

#[tokio::test]
async fn the_address_a_connection_came_to_is_known_behind_a_wildcard_too() {
    for there in ["127.0.0.1:0", "0.0.0.0:0"] {
        let settings = ListenerSettings::new("test", there.parse::<SocketAddr>().unwrap());
        let drain = drain::trigger();
        let (listeners, metrics) = bound(&settings, &drain);
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let service = tower::service_fn(move |request: Request<Body>| {
            let local = request.extensions().get::<Arc<Downstream>>().unwrap().local;
            tell.send(local).unwrap();
            async { Ok::<_, Infallible>(Response::new(Body::empty())) }
        });
        let only = crew(1, &metrics).remove(0);
        listeners.enlist(vec![Worker::start(only, service)]).unwrap();
        listeners.open();
        let port = listeners.addresses("test")[0].port();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let _client = ask(address).await;
        assert_eq!(told.recv().await.unwrap(), Some(address));
    }
}

#[test]
fn one_worker_counts_nothing() {
    let metrics = Metrics::default();
    assert_eq!(crew(1, &metrics).len(), 1);
    assert!(!metrics.render().contains("worker_connections{"));
}

#[test]
fn only_errors_that_time_mends_are_slept_on() {
    // EMFILE, ENFILE, ENOMEM, ENOBUFS have no kind of their own.
    for code in [24, 23, 12, 105] {
        assert!(is_exhaustion(&io::Error::from_raw_os_error(code)), "{code}");
    }
    for code in [103, 104, 4] {
        assert!(!is_exhaustion(&io::Error::from_raw_os_error(code)), "{code}");
    }
}
