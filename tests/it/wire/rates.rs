//! Clients that send or take so little at a time that no pause is ever too long.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use tokio::net::{TcpSocket, TcpStream};

use crate::support::client::Raw;
use crate::support::origin::Origin;
use crate::support::proxy::Setup;
use crate::support::within;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A proxy that lets nobody fall more than 300 ms behind 10 kB a second.
fn strict(origin: &Origin) -> Setup {
    Setup::forwarding_to(origin)
        .listener("min_response_rate = \"10KB/s\"\nresponse_rate_grace = \"300ms\"")
}

/// The same for requests.
fn strict_uploads(origin: &Origin) -> Setup {
    Setup::new(format!(
        "[[upstream]]\nname = \"origin\"\norigins = [\"{origin}\"]\n\
         [[route]]\nname = \"all\"\nupstream = \"origin\"\n\
         min_request_rate = \"10KB/s\"\nrequest_rate_grace = \"300ms\"\n"
    ))
}

/// Sends a byte at a time until the proxy has had enough, or `most` are sent.
async fn dribble(client: &mut Raw, most: usize) {
    for _ in 0..most {
        client.try_send("x").await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_body_that_comes_byte_by_byte_is_408_and_the_connection_ends() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = strict_uploads(&origin).start();
        let mut client = Raw::connect(proxy.address).await;
        client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1000\r\n\r\n").await;
        dribble(&mut client, 50).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 408, "{}", answer.head);
        assert_eq!(answer.field("connection"), Some("close"));
        assert!(origin.requests().is_empty());
    })
    .await;
}

#[tokio::test]
async fn over_http2_the_stream_is_answered_408() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = strict_uploads(&origin).start();
        let tcp = TcpStream::connect(proxy.address).await.unwrap();
        let (mut client, connection) = h2::client::handshake(tcp).await.unwrap();
        tokio::spawn(connection);
        let post = Request::post("http://a.test/").body(()).unwrap();
        let (response, mut body) = client.send_request(post, false).unwrap();
        let dribble = async {
            while body.send_data(Bytes::from_static(b"x"), false).is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            std::future::pending::<()>().await;
        };
        let response = tokio::select! {
            response = response => response.unwrap(),
            () = dribble => unreachable!(),
        };
        assert_eq!(response.status(), 408);
    })
    .await;
}

#[tokio::test]
async fn messages_of_grpc_may_be_few_and_far_between() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = strict_uploads(&origin).start();
        let mut client = Raw::connect(proxy.address).await;
        client
            .send(
                "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Type: application/grpc\r\n\
                 Content-Length: 30\r\n\r\n",
            )
            .await;
        dribble(&mut client, 30).await;
        assert_eq!(client.answer().await.status, 200);
    })
    .await;
}

#[tokio::test]
async fn a_client_that_waits_for_a_slow_origin_is_not_slow() {
    within(async {
        const LENGTH: usize = 16 << 20;
        let origin = Origin::scripted(|mut connection| async move {
            let Some(_head) = connection.head().await else { return };
            tokio::time::sleep(Duration::from_secs(1)).await;
            let mut length = 0;
            while length < LENGTH {
                length += connection.some().await.len();
            }
            connection.write(OK).await;
        })
        .await;
        let proxy = strict_uploads(&origin).start();
        let mut client = Raw::connect(proxy.address).await;
        let head = format!("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {LENGTH}\r\n\r\n");
        client.send(head).await;
        client.try_send(vec![b'x'; LENGTH]).await;
        assert_eq!(client.answer().await.status, 200);
    })
    .await;
}

/// An origin whose responses have no end.
async fn endless() -> Origin {
    Origin::scripted(|mut connection| async move {
        if connection.request().await.is_some() {
            connection.write("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").await;
            let large = vec![b'x'; 1 << 20];
            for _ in 0..1_000 {
                connection.write(&large).await;
            }
        }
    })
    .await
}

/// A client with room for little, that has asked for `/`.
async fn narrow(address: std::net::SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4 * 1024).unwrap();
    let stream = socket.connect(address).await.unwrap();
    stream.writable().await.unwrap();
    let request = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
    assert_eq!(stream.try_write(request).unwrap(), request.len());
    stream
}

/// Takes a little of what there is, again and again.
async fn sip(stream: &TcpStream) {
    let mut room = [0; 2 * 1024];
    loop {
        stream.readable().await.unwrap();
        if matches!(stream.try_read(&mut room), Ok(0)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_response_that_is_taken_too_slowly_is_cut() {
    within(async {
        let origin = endless().await;
        // Any client here is slow against this.
        let rate = "min_response_rate = \"100MB/s\"\nresponse_rate_grace = \"300ms\"";
        let proxy = Setup::forwarding_to(&origin).listener(rate).start();
        let stream = narrow(proxy.address).await;
        let line = tokio::select! {
            () = sip(&stream) => proxy.log_lines(1).await,
            lines = proxy.log_lines(1) => lines,
        };
        assert!(line[0].contains("aborted"), "{line:?}");
    })
    .await;
}

#[tokio::test]
async fn without_a_least_rate_only_a_client_that_takes_nothing_is_cut() {
    within(async {
        let origin = endless().await;
        let proxy = Setup::forwarding_to(&origin).listener("min_response_rate = \"off\"").start();
        let stream = narrow(proxy.address).await;
        let _still_at_it = tokio::time::timeout(Duration::from_secs(1), sip(&stream)).await;
        let log = std::fs::read_to_string(proxy.dir.path().join("access.log"));
        assert_eq!(log.unwrap_or_default(), "");
    })
    .await;
}

#[tokio::test]
async fn a_stream_whose_window_opens_byte_by_byte_ends_its_connection() {
    within(async {
        // Chunks of a byte: with each that is taken, the response has moved.
        let origin = Origin::scripted(|mut connection| async move {
            if connection.request().await.is_some() {
                connection.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
                connection.write("1\r\nx\r\n".repeat(10_000)).await;
                std::future::pending::<()>().await;
            }
        })
        .await;
        let proxy = strict(&origin).listener("send_timeout = \"1s\"").start();
        let tcp = TcpStream::connect(proxy.address).await.unwrap();
        let (mut client, connection) = h2::client::Builder::new()
            .initial_window_size(1)
            .handshake::<_, Bytes>(tcp)
            .await
            .unwrap();
        tokio::spawn(connection);
        let get = Request::get("http://a.test/").body(()).unwrap();
        let (response, _) = client.send_request(get, true).unwrap();
        let mut body = response.await.unwrap().into_body();
        let mut taken = 0;
        while let Some(Ok(data)) = body.data().await {
            taken += data.len();
            tokio::time::sleep(Duration::from_millis(20)).await;
            body.flow_control().release_capacity(data.len()).unwrap();
        }
        assert!((10..1_000).contains(&taken), "{taken}");
        let line = &proxy.log_lines(1).await[0];
        assert!(line.contains("aborted"), "{line}");
    })
    .await;
}
