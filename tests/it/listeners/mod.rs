//! Listeners that come and go while the proxy runs.

mod drain;
mod handover;
mod leak;

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;

use futures_util::{SinkExt, StreamExt};
use http_body_util::Empty;
use tokio::net::{TcpStream, UnixStream};
use tokio_tungstenite::tungstenite::Message;
use tollgate::accept::{ConnectionLimits, ListenerSettings, Listeners};
use tollgate::tls::TlsAcceptor;

use crate::support::client::{Raw, get};
use crate::support::origin::Origin;
use crate::support::proxy::{Running, Setup};
use crate::support::websocket::{echo, extended, h2_to, upgrade};
use crate::support::{Refusing, eventually, within};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// Answers after a while.
async fn slow(millis: u64) -> Origin {
    Origin::scripted(move |mut connection| async move {
        while connection.request().await.is_some() {
            tokio::time::sleep(std::time::Duration::from_millis(millis)).await;
            connection.write(OK).await;
        }
    })
    .await
}

/// A listener at an address of the system's choice.
fn plain(name: &str) -> ListenerSettings {
    ListenerSettings::new(name, SocketAddr::from(([127, 0, 0, 1], 0)))
}

fn no_tls(settings: &[ListenerSettings]) -> Vec<Option<TlsAcceptor>> {
    settings.iter().map(|_| None).collect()
}

/// Has the proxy listen as `settings` say.
fn change(listeners: &Listeners, settings: &[ListenerSettings]) {
    listeners.commit(listeners.prepare(settings, no_tls(settings)).unwrap());
}

/// What tells the sockets that a proxy listens on from all others.
fn sockets(listeners: &Listeners) -> Vec<String> {
    let socket = |handle: std::os::fd::OwnedFd| {
        let fd = std::os::fd::AsRawFd::as_raw_fd(&handle);
        std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap().display().to_string()
    };
    let mut sockets: Vec<_> = listeners.handles().unwrap().into_iter().map(socket).collect();
    sockets.sort();
    sockets
}

async fn refused(address: SocketAddr) {
    eventually("nobody listens there", async || TcpStream::connect(address).await.is_err()).await;
}

async fn one_request(client: &mut Raw) -> Option<String> {
    client.send(GET).await;
    let answer = client.answer().await;
    assert_eq!(answer.status, 200);
    answer.field("connection").map(str::to_owned)
}

async fn started(origin: &Origin, workers: usize) -> Running {
    let proxy = Setup::forwarding_to(origin).server(&format!("workers = {workers}")).start();
    eventually("it serves", async || proxy.listeners.is_open()).await;
    proxy
}

#[tokio::test]
async fn a_listener_that_is_added_serves_and_one_that_is_removed_does_not() {
    for workers in [1, 3] {
        within(async {
            let origin = Origin::answering(OK).await;
            let proxy = started(&origin, workers).await;
            let mut kept = Raw::connect(proxy.address).await;
            assert_eq!(one_request(&mut kept).await, None);
            let before = sockets(&proxy.listeners);
            change(&proxy.listeners, &[plain("public"), plain("second")]);
            let second = proxy.listeners.addresses("second")[0];
            for _ in 0..10 {
                assert_eq!(get(second, "/", "").await.status, 200);
            }
            change(&proxy.listeners, &[plain("public")]);
            assert!(proxy.listeners.bound_to("second").is_none());
            refused(second).await;
            assert_eq!(sockets(&proxy.listeners), before);
            assert_eq!(one_request(&mut kept).await, None);
            assert_eq!(get(proxy.address, "/", "").await.status, 200);
            assert_eq!(proxy.stop().await.cut, 0);
        })
        .await;
    }
}

#[tokio::test]
async fn what_came_to_an_address_before_it_was_removed_is_answered_to_the_last() {
    within(async {
        let origin = slow(300).await;
        let proxy = started(&origin, 2).await;
        change(&proxy.listeners, &[plain("public"), plain("second")]);
        let second = proxy.listeners.addresses("second")[0];
        let mut idle = Raw::connect(second).await;
        assert_eq!(one_request(&mut idle).await, None);
        let mut clients = Vec::new();
        for _ in 0..100 {
            let mut client = Raw::connect(second).await;
            client.send(GET).await;
            clients.push(client);
        }
        change(&proxy.listeners, &[plain("public")]);
        for client in &mut clients {
            let answer = client.answer().await;
            assert_eq!((answer.status, answer.field("connection")), (200, Some("close")));
        }
        assert!(idle.read_to_end().await.is_empty());
        assert_eq!(proxy.stop().await.cut, 0);
    })
    .await;
}

#[tokio::test]
async fn http_2_and_websockets_from_a_removed_address_come_to_their_own_end() {
    within(async {
        let (origin, _events) = echo().await;
        let proxy = started(&origin, 1).await;
        change(&proxy.listeners, &[plain("public"), plain("second")]);
        let second = proxy.listeners.addresses("second")[0];
        let tcp = TcpStream::connect(second).await.unwrap();
        let (mut plain_socket, _) = upgrade(Box::new(tcp), &[]).await;
        let mut h2 = h2_to(second).await;
        let (mut h2_socket, _) = extended(&mut h2, &[]).await;
        change(&proxy.listeners, &[plain("public")]);
        refused(second).await;
        eventually("the client was told to go away", async || {
            let request = http::Request::get("http://a.test/").body(Empty::new()).unwrap();
            h2.send_request(request).await.is_err()
        })
        .await;
        for socket in [&mut plain_socket, &mut h2_socket] {
            for text in ["one", "two"] {
                socket.send(Message::text(text)).await.unwrap();
                assert_eq!(socket.next().await.unwrap().unwrap(), Message::text(text));
            }
            socket.close(None).await.unwrap();
            while let Some(Ok(message)) = socket.next().await {
                assert!(!matches!(message, Message::Close(Some(_))), "{message}");
            }
        }
        assert_eq!(proxy.stop().await.cut, 0);
    })
    .await;
}

#[tokio::test]
async fn an_address_keeps_its_sockets_under_another_name_and_in_another_listener() {
    for workers in [1, 3] {
        within(async {
            let origin = Origin::answering(OK).await;
            let proxy = started(&origin, workers).await;
            let mut unix = ListenerSettings::new("local", SocketAddr::from(([127, 0, 0, 1], 0)));
            let path = proxy.dir.path().join("moving.sock");
            unix.addresses = vec![tollgate::accept::ListenAddress::Unix(path.clone())];
            change(&proxy.listeners, &[plain("public"), unix.clone()]);
            let before = sockets(&proxy.listeners);
            let mut kept = Raw::connect(proxy.address).await;
            assert_eq!(one_request(&mut kept).await, None);
            // Both in one listener, of a third name.
            let mut both = plain("both");
            both.addresses.extend(unix.addresses.clone());
            both.unix_mode = 0o600;
            both.backlog = 77;
            change(&proxy.listeners, &[both]);
            assert_eq!(sockets(&proxy.listeners), before);
            assert_eq!(proxy.listeners.addresses("both"), [proxy.address]);
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            assert_eq!(one_request(&mut kept).await, None);
            assert_eq!(get(proxy.address, "/", "").await.status, 200);
            let mut local = Raw::over(UnixStream::connect(&path).await.unwrap());
            assert_eq!(one_request(&mut local).await, None);
            change(&proxy.listeners, &[plain("public")]);
            assert!(!path.exists());
            assert_eq!(proxy.listeners.addresses("public"), [proxy.address]);
            assert_eq!(proxy.stop().await.cut, 0);
        })
        .await;
    }
}

#[tokio::test]
async fn new_limits_are_for_new_connections_only() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = started(&origin, 2).await;
        let mut kept = Raw::connect(proxy.address).await;
        assert_eq!(one_request(&mut kept).await, None);
        let mut strict = plain("public");
        strict.serve.head.max_target = 16;
        change(&proxy.listeners, &[strict]);
        let long = "/a-target-of-more-than-16-bytes";
        for _ in 0..10 {
            assert_eq!(get(proxy.address, long, "").await.status, 414);
        }
        kept.send(format!("GET {long} HTTP/1.1\r\nHost: a.test\r\n\r\n")).await;
        let answer = kept.answer().await;
        assert_eq!((answer.status, answer.field("connection")), (200, None));
        change(&proxy.listeners, &[plain("public")]);
        assert_eq!(get(proxy.address, long, "").await.status, 200);
        assert_eq!(proxy.stop().await.cut, 0);
    })
    .await;
}

#[tokio::test]
async fn an_address_that_cannot_be_bound_changes_nothing() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = started(&origin, 2).await;
        let taken = Refusing::new();
        let (before, address) = (sockets(&proxy.listeners), taken.address);
        let path = proxy.dir.path().join("new.sock");
        let mut fresh = plain("fresh");
        fresh.addresses = vec![tollgate::accept::ListenAddress::Unix(path.clone())];
        let wrong = ListenerSettings::new("wrong", address);
        let settings = [fresh, wrong];
        let error = proxy.listeners.prepare(&settings, no_tls(&settings)).unwrap_err();
        assert_eq!((error.listener.as_str(), &error.address), ("wrong", &address.into()));
        assert!(error.cause.to_string().contains("another process"), "{}", error.cause);
        assert!(!path.exists());
        assert_eq!(sockets(&proxy.listeners), before);
        assert_eq!(get(proxy.address, "/", "").await.status, 200);
        // One that was prepared and is not wanted after all neither.
        let settings = [plain("other")];
        drop(proxy.listeners.prepare(&settings, no_tls(&settings)).unwrap());
        assert_eq!(sockets(&proxy.listeners), before);
        assert_eq!(get(proxy.address, "/", "").await.status, 200);
    })
    .await;
}

#[tokio::test]
async fn an_address_can_give_way_to_one_that_it_contains() {
    for workers in [1, 3] {
        within(async {
            let origin = Origin::answering(OK).await;
            let proxy = started(&origin, workers).await;
            let mut wide = plain("wide");
            wide.addresses = vec![SocketAddr::from(([0, 0, 0, 0], 0)).into()];
            change(&proxy.listeners, &[wide]);
            let port = proxy.listeners.addresses("wide")[0].port();
            let local = SocketAddr::from(([127, 0, 0, 1], port));
            let other = SocketAddr::from(([127, 0, 0, 2], port));
            assert_eq!(get(other, "/", "").await.status, 200);
            change(&proxy.listeners, &[ListenerSettings::new("narrow", local)]);
            refused(other).await;
            for _ in 0..10 {
                assert_eq!(get(local, "/", "").await.status, 200);
            }
            // And back at once, while the last may still be leaving.
            for _ in 0..10 {
                change(&proxy.listeners, &[plain("else")]);
                change(&proxy.listeners, &[ListenerSettings::new("narrow", local)]);
                assert_eq!(get(local, "/", "").await.status, 200);
            }
        })
        .await;
    }
}

#[tokio::test]
async fn what_a_restart_could_not_bind_is_not_bound_by_a_change() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = started(&origin, 1).await;
        let mut wide = plain("wide");
        wide.addresses = vec![SocketAddr::from(([0, 0, 0, 0], 0)).into()];
        change(&proxy.listeners, std::slice::from_ref(&wide));
        let port = proxy.listeners.addresses("wide")[0].port();
        let narrow = |name| ListenerSettings::new(name, SocketAddr::from(([127, 0, 0, 1], port)));
        // Beside one that stays, and beside one that comes with it.
        for both in [[wide, narrow("narrow")], [narrow("one"), narrow("other")]] {
            let refused = proxy.listeners.prepare(&both, no_tls(&both)).unwrap_err();
            let cause = refused.cause.to_string();
            assert!(cause.contains("overlaps with"), "{cause}");
        }
    })
    .await;
}

#[tokio::test]
async fn limits_on_connections_change_and_the_counts_stay() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = started(&origin, 2).await;
        let mut first = Raw::connect(proxy.address).await;
        assert_eq!(one_request(&mut first).await, None);
        let limits = ConnectionLimits { total: 10, per_client: 1, ..ConnectionLimits::default() };
        proxy.listeners.permits().set_limits(limits);
        let mut second = Raw::connect(proxy.address).await;
        assert!(second.read_to_end().await.is_empty());
        let limits = ConnectionLimits { per_client: 2, ..limits };
        proxy.listeners.permits().set_limits(limits);
        assert_eq!(get(proxy.address, "/", "").await.status, 200);
        assert_eq!(one_request(&mut first).await, None);
    })
    .await;
}

#[tokio::test]
async fn every_worker_answers_whether_it_turns() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = started(&origin, 3).await;
        assert!(proxy.listeners.pulse().await);
        let listeners = proxy.listeners.clone();
        assert_eq!(proxy.stop().await.cut, 0);
        assert!(!listeners.pulse().await);
    })
    .await;
}
