//! What is under way when its route and its origin are taken away.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::Message;

use super::{BY_HAND, reload};
use crate::support::client::{self, Raw};
use crate::support::origin::Origin;
use crate::support::proxy::Setup;
use crate::support::websocket::{echo, extended, h2_to, upgrade};
use crate::support::{eventually, within};

/// Sends half of a response, and the rest when it may; counts connections that ended.
async fn halting(go: watch::Receiver<bool>, ended: Arc<AtomicUsize>) -> Origin {
    Origin::scripted(move |mut connection| {
        let (mut go, ended) = (go.clone(), ended.clone());
        async move {
            while connection.request().await.is_some() {
                let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n";
                connection.write(head).await;
                drop(go.wait_for(|go| *go).await);
                connection.write("4\r\nrest\r\n0\r\n\r\n").await;
            }
            ended.fetch_add(1, Ordering::SeqCst);
        }
    })
    .await
}

/// A route and an upstream of their own for each of these origins.
fn routes(origins: &[(&str, &Origin)]) -> Setup {
    let one = |(name, origin): &(&str, &Origin)| {
        format!(
            "[[upstream]]\nname = \"{name}\"\norigins = [\"{origin}\"]\n\
             [[route]]\nname = \"{name}\"\npath = \"/{name}\"\nupstream = \"{name}\"\n"
        )
    };
    Setup::new(origins.iter().map(one).collect::<String>()).server(BY_HAND)
}

/// Nothing of it is left.
fn gone() -> Setup {
    let route = "[[route]]\nname = \"gone\"\nrespond = { status = 410, body = \"gone\" }";
    Setup::new(route).server(BY_HAND)
}

#[tokio::test]
async fn downloads_and_uploads_come_to_their_end_without_their_route() {
    within(async {
        let (go, may) = watch::channel(false);
        let ended = Arc::new(AtomicUsize::new(0));
        let (down, up) = (halting(may, ended.clone()).await, Origin::named("taken").await);
        let proxy = routes(&[("down", &down), ("up", &up)]).start();
        let mut download = Raw::connect(proxy.address).await;
        download.send("GET /down HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        download.read_until("part\r\n").await;
        let mut uploads = Vec::new();
        for framing in ["Content-Length: 8", "Transfer-Encoding: chunked"] {
            let mut upload = Raw::connect(proxy.address).await;
            let chunked = framing.contains("chunked");
            let part = if chunked { "4\r\npart\r\n" } else { "part" };
            let rest = if chunked { "4\r\nrest\r\n0\r\n\r\n" } else { "rest" };
            upload
                .send(format!("POST /up HTTP/1.1\r\nHost: a.test\r\n{framing}\r\n\r\n{part}"))
                .await;
            uploads.push((upload, rest));
        }
        let has =
            |origin: &Origin| String::from_utf8_lossy(&origin.bytes()).matches("part").count() == 2;
        eventually("the origin has the first half of both", async || has(&up)).await;
        for generation in [2, 3] {
            // The second reload finds nothing of the first one's origins any more.
            let setup = gone().listener(&format!("max_fields = {generation}0"));
            assert_eq!(reload(&proxy, &setup).await, Ok(generation));
        }
        assert_eq!(client::get(proxy.address, "/down", "").await.status, 410);
        for (upload, rest) in &mut uploads {
            upload.send(rest).await;
            let answer = upload.answer().await;
            assert_eq!((answer.status, &*answer.text()), (200, "taken"));
            assert_eq!(super::ask(upload, "/up").await.status, 410);
        }
        assert!(up.requests().iter().all(|request| request.contains("rest")));
        assert_eq!(ended.load(Ordering::SeqCst), 0);
        go.send_replace(true);
        assert_eq!(download.read_until("0\r\n\r\n").await, "4\r\nrest\r\n0\r\n\r\n");
        assert_eq!(super::ask(&mut download, "/down").await.text(), "gone");
        eventually("the connection to the origin is closed", async || {
            ended.load(Ordering::SeqCst) == 1
        })
        .await;
        assert_eq!((down.connections(), down.requests().len()), (1, 1));
        assert_eq!(proxy.stop().await.cut, 0);
    })
    .await;
}

#[tokio::test]
async fn websockets_go_on_without_their_route() {
    within(async {
        let (origin, events) = echo().await;
        let setup = || {
            Setup::new(format!(
                "[[upstream]]\nname = \"ws\"\norigins = [\"{origin}\"]\n\
                 [[route]]\nname = \"ws\"\nupstream = \"ws\"\n"
            ))
            .server(BY_HAND)
        };
        let proxy = setup().start();
        let tcp = TcpStream::connect(proxy.address).await.unwrap();
        let (one, _) = upgrade(Box::new(tcp), &[]).await;
        let mut h2 = h2_to(proxy.address).await;
        let (two, _) = extended(&mut h2, &[]).await;
        let mut sockets = [one, two];
        for (generation, setup) in [gone(), setup(), gone()].into_iter().enumerate() {
            assert_eq!(reload(&proxy, &setup).await, Ok(generation as u64 + 2));
            for socket in &mut sockets {
                for text in ["one", &*"x".repeat(100_000)] {
                    socket.send(Message::text(text)).await.unwrap();
                    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text(text));
                }
                socket.send(Message::text("ping me")).await.unwrap();
                assert!(socket.next().await.unwrap().unwrap().is_ping());
            }
        }
        for socket in &mut sockets {
            socket.close(None).await.unwrap();
            while let Some(Ok(message)) = socket.next().await {
                assert!(!matches!(message, Message::Close(Some(_))), "{message}");
            }
        }
        drop(sockets);
        events.see("close").await;
        assert_eq!(origin.connections(), 2);
        assert_eq!(proxy.stop().await.cut, 0);
    })
    .await;
}

/// Sends a request on an HTTP/2 connection; with `more`, its body is still to come.
async fn start(
    h2: &mut h2::client::SendRequest<Bytes>,
    path: &str,
    more: bool,
) -> (h2::client::ResponseFuture, h2::SendStream<Bytes>) {
    *h2 = h2.clone().ready().await.unwrap();
    let request = http::Request::builder().uri(format!("http://a.test{path}"));
    let method = if more { "POST" } else { "GET" };
    h2.send_request(request.method(method).body(()).unwrap(), !more).unwrap()
}

/// What has come of a body, up to `text`.
async fn read_to(body: &mut h2::RecvStream, text: &str) {
    let mut read = Vec::new();
    while !read.ends_with(text.as_bytes()) {
        let bytes = body.data().await.unwrap().unwrap();
        body.flow_control().release_capacity(bytes.len()).unwrap();
        read.extend(bytes);
    }
}

#[tokio::test]
async fn streams_come_to_their_end_and_the_next_goes_by_the_new_configuration() {
    within(async {
        let (go, may) = watch::channel(false);
        let (down, up) = (halting(may, Arc::default()).await, Origin::named("taken").await);
        let proxy = routes(&[("down", &down), ("up", &up)]).start();
        let tcp = TcpStream::connect(proxy.address).await.unwrap();
        let (mut h2, connection) = h2::client::handshake(tcp).await.unwrap();
        let connection = tokio::spawn(connection);
        let mut downloads = Vec::new();
        for _ in 0..3 {
            let (response, _) = start(&mut h2, "/down", false).await;
            let mut body = response.await.unwrap().into_body();
            read_to(&mut body, "part").await;
            downloads.push(body);
        }
        let (taken, mut upload) = start(&mut h2, "/up", true).await;
        upload.send_data("part".into(), false).unwrap();
        let has = |origin: &Origin| String::from_utf8_lossy(&origin.bytes()).contains("part");
        eventually("the origin has the first half", async || has(&up)).await;
        assert_eq!(reload(&proxy, &gone()).await, Ok(2));
        for _ in 0..3 {
            let (response, _) = start(&mut h2, "/down", false).await;
            assert_eq!(response.await.unwrap().status(), 410);
        }
        upload.send_data("rest".into(), true).unwrap();
        let mut response = taken.await.unwrap();
        assert_eq!(response.status(), 200);
        read_to(response.body_mut(), "taken").await;
        go.send_replace(true);
        for body in &mut downloads {
            read_to(body, "rest").await;
            while let Some(more) = body.data().await {
                assert!(more.unwrap().is_empty());
            }
        }
        // Back again, on the same connection still.
        assert_eq!(reload(&proxy, &routes(&[("up", &up)])).await, Ok(3));
        let (response, _) = start(&mut h2, "/up", false).await;
        assert_eq!(response.await.unwrap().status(), 200);
        connection.abort();
        assert_eq!(proxy.stop().await.cut, 0);
    })
    .await;
}
