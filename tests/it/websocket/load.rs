//! Many at once, and sides that do not take what is sent to them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{SinkExt, StreamExt};
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::tungstenite::Message;

use crate::support::client::{Io, Raw};
use crate::support::origin::Origin;
use crate::support::proxy::Setup;
use crate::support::websocket::{
    Gate, HANDSHAKE, Over, closing, connecting, echo, extended, h2_to, stream, switching,
};
use crate::support::{eventually, within};

/// How many files this process may open.
fn files() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find(|line| line.starts_with("Max open files"));
    line.and_then(|line| line.split_whitespace().nth(3)?.parse().ok()).unwrap_or(1024)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_at_once() {
    within(async {
        // Each takes four files over HTTP/1.1, and two over HTTP/2.
        let each = if files() >= 5_000 { 500 } else { files() / 12 };
        assert!(each > 50, "the limit on open files is too low for this test");
        let (origin, _events) = echo().await;
        let gate = Gate::new(Over::Http1, Setup::forwarding_to(&origin));
        let mut sockets = Vec::new();
        for batch in 0..10 {
            let upgrades = (0..each / 10).map(|_| gate.socket());
            sockets.extend(join_all(upgrades).await);
            let sender = h2_to(gate.proxy.address).await;
            let streams = (0..each / 10).map(|_| {
                let mut sender = sender.clone();
                async move { extended(&mut sender, &[]).await.0 }
            });
            sockets.extend(join_all(streams).await);
            assert_eq!(sockets.len(), (batch + 1) * (each / 10) * 2);
        }
        println!("{} at once", sockets.len());
        let talk = sockets.iter_mut().enumerate().map(|(number, socket)| async move {
            for round in 0..3 {
                let message = Message::text(format!("{round} of {number}"));
                socket.send(message.clone()).await.unwrap();
                assert_eq!(socket.next().await.unwrap().unwrap(), message);
            }
        });
        join_all(talk).await;
        let count = sockets.len();
        let leave = sockets.into_iter().map(|mut socket| async {
            socket.close(None).await.unwrap();
            closing(socket).await
        });
        assert!(join_all(leave).await.iter().all(|close| close == "close"));
        let lines = gate.proxy.log_lines(count).await;
        assert!(lines.iter().all(|line| !line.contains("aborted")));
    })
    .await;
}

/// More than the buffers of two connections in the system can hold.
const MUCH: usize = 96 << 20;

/// Sends as much as is taken, up to [`MUCH`], and counts it.
async fn pour(mut into: impl Io, poured: Arc<AtomicUsize>) {
    let chunk = vec![0; 64 * 1024];
    while poured.load(Ordering::SeqCst) < MUCH {
        let Ok(taken) = into.write(&chunk).await else { return };
        let _flushed = into.flush().await;
        poured.fetch_add(taken, Ordering::SeqCst);
    }
}

/// Waits until no more is taken.
async fn stopped(poured: &AtomicUsize) -> usize {
    let mut before = usize::MAX;
    eventually("no more is taken", async || {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = poured.load(Ordering::SeqCst);
        std::mem::replace(&mut before, now) == now
    })
    .await;
    before
}

async fn raw(address: std::net::SocketAddr) -> Raw {
    let mut client = Raw::connect(address).await;
    client.send(format!("GET / HTTP/1.1\r\nHost: a.test\r\n{HANDSHAKE}\r\n")).await;
    assert_eq!(client.answer().await.status, 101);
    client
}

/// An origin that pours, and what it has poured.
async fn pouring() -> (Origin, Arc<AtomicUsize>) {
    let poured = Arc::new(AtomicUsize::new(0));
    let counted = poured.clone();
    let origin = switching(move |connection| pour(connection.stream, counted.clone())).await;
    (origin, poured)
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_origin() {
    within(async {
        for over in [Over::Http1, Over::Http2] {
            let (origin, poured) = pouring().await;
            let proxy = Setup::forwarding_to(&origin).start();
            let mut held: Vec<Box<dyn std::any::Any>> = Vec::new();
            if over == Over::Http1 {
                held.push(Box::new(raw(proxy.address).await));
            } else {
                let mut sender = h2_to(proxy.address).await;
                let mut response = sender.send_request(connecting("websocket")).await.unwrap();
                held.push(Box::new((stream(&mut response).await, sender)));
            }
            let poured = stopped(&poured).await;
            assert!(poured > 0 && poured < MUCH / 2, "{over:?}: {poured}");
            drop(held);
        }
    })
    .await;
}

#[tokio::test]
async fn an_origin_that_does_not_read_stops_the_client() {
    within(async {
        let origin = switching(|connection| async move {
            std::future::pending::<()>().await;
            drop(connection);
        })
        .await;
        let proxy = Setup::forwarding_to(&origin).start();
        let mut sender = h2_to(proxy.address).await;
        let mut response = sender.send_request(connecting("websocket")).await.unwrap();
        let poured = Arc::new(AtomicUsize::new(0));
        let pouring = tokio::spawn(pour(stream(&mut response).await, poured.clone()));
        let taken = stopped(&poured).await;
        assert!(taken > 0 && taken < MUCH / 2, "{taken}");
        pouring.abort();
    })
    .await;
}

#[tokio::test]
async fn who_leaves_everything_lying_is_cut_though_it_sends() {
    within(async {
        let (origin, poured) = pouring().await;
        let timeouts = "[upstream.timeouts]\nidle_tunnel = \"500ms\"";
        let proxy = Setup::forwarding_with(&origin, timeouts).start();
        let mut client = raw(proxy.address).await;
        eventually("the tunnel is cut", async || {
            client.try_send("x").await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            std::fs::read_to_string(proxy.dir.path().join("access.log"))
                .is_ok_and(|log| !log.is_empty())
        })
        .await;
        assert!(poured.load(Ordering::SeqCst) < MUCH / 2);
    })
    .await;
}
