//! gRPC through the proxy, with tonic on both ends.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream;
use tonic::{Code, Request, Status};

use crate::support::grpc::{Client, Service};
use crate::support::proxy::{Running, Setup};
use crate::support::{Refusing, certs, eventually, within};

async fn through(service: &Service, upstream: &str) -> (Running, Client) {
    let proxy = Setup::forwarding_with(service.url(), upstream).start();
    let client = Client::connect(proxy.address).await;
    (proxy, client)
}

/// A route with more lines in its table.
async fn with_route(service: &Service, route: &str) -> (Running, Client) {
    let proxy = Setup::new(format!(
        "[[upstream]]\nname = \"origin\"\norigins = [\"{}\"]\n\
         [[route]]\nname = \"all\"\nupstream = \"origin\"\n{route}\n",
        service.url()
    ))
    .start();
    let client = Client::connect(proxy.address).await;
    (proxy, client)
}

fn metadata(status: &Status, name: &str) -> String {
    let value = status.metadata().get(name);
    value.map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
}

async fn all_four_kinds(client: &Client) {
    let answer = client.ask("/t.T/Unary", "one", None).await.unwrap();
    assert_eq!(answer.into_inner(), "one");
    let three = stream::iter(["a", "bc", ""].map(Bytes::from));
    assert_eq!(client.up(three).await.unwrap().into_inner(), "3 of 3");
    let request = Request::new(Bytes::from("100"));
    let mut messages = client.down("/t.T/Down", request).await.unwrap().into_inner();
    for number in 0..100 {
        let message = messages.message().await.unwrap().unwrap();
        assert_eq!(message, number.to_string());
    }
    assert!(messages.message().await.unwrap().is_none());
    // Each is sent only when the one before has come back.
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let sent = stream::poll_fn(move |cx| receiver.poll_recv(cx));
    let mut messages = client.both(sent).await.unwrap().into_inner();
    for number in 0..20 {
        let message = Bytes::from(format!("message {number}"));
        sender.send(message.clone()).unwrap();
        assert_eq!(messages.message().await.unwrap().unwrap(), message);
    }
    drop(sender);
    assert!(messages.message().await.unwrap().is_none());
}

#[tokio::test]
async fn all_four_kinds_of_call_by_prior_knowledge() {
    within(async {
        let service = Service::h2c().await;
        let (_proxy, client) = through(&service, "").await;
        all_four_kinds(&client).await;
    })
    .await;
}

#[tokio::test]
async fn all_four_kinds_of_call_over_tls() {
    within(Box::pin(async {
        let dir = tempfile::TempDir::new().unwrap();
        let authority = certs::Authority::new();
        authority.write(dir.path());
        authority.sign(dir.path(), "origin", &["localhost"]);
        authority.sign(dir.path(), "proxy", &["a.test"]);
        let service = Service::tls(certs::server(dir.path(), "origin", &["h2"])).await;
        let url = format!("https://localhost:{}", service.origin.address.port());
        let proxy = Setup::forwarding_with(url, "[upstream.tls]\nca = \"ca.pem\"")
            .listener(
                "[listener.tls]\n\
                 certificates = [{ certificate = \"proxy.crt\", key = \"proxy.key\" }]",
            )
            .start_in(dir);
        let config = authority.client(&["h2"]);
        let stream = certs::connect(proxy.address, config, "a.test").await.unwrap();
        let client = Client::over(stream).await;
        all_four_kinds(&client).await;
    }))
    .await;
}

#[tokio::test]
async fn metadata_passes_both_ways_also_binary() {
    within(async {
        let service = Service::h2c().await;
        let (_proxy, client) = through(&service, "").await;
        let mut request = Request::new(Bytes::from("x"));
        request.metadata_mut().insert("x-echo", "text".parse().unwrap());
        let bytes = tonic::metadata::MetadataValue::from_bytes(&[0, 255, 10, 13, 44]);
        request.metadata_mut().insert_bin("x-echo-bin", bytes.clone());
        let answer = client.unary("/t.T/Unary", request).await.unwrap();
        assert_eq!(answer.metadata().get("x-echo").unwrap(), "text");
        let back = answer.metadata().get_bin("x-echo-bin").unwrap();
        assert_eq!(back.to_bytes().unwrap(), bytes.to_bytes().unwrap());
    })
    .await;
}

#[tokio::test]
async fn a_status_passes_in_the_head_and_behind_messages() {
    within(async {
        let service = Service::h2c().await;
        let (_proxy, client) = through(&service, "").await;
        let status = client.ask("/t.T/Fail", "", None).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "100 % käse"));
        assert_eq!(status.details(), b"\x08\x05");
        assert_eq!(metadata(&status, "x-why"), "because");
        let status = client.ask("/t.T/Nothing", "", None).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented);
        let request = Request::new(Bytes::from("2!"));
        let mut messages = client.down("/t.T/Down", request).await.unwrap().into_inner();
        assert_eq!(messages.message().await.unwrap().unwrap(), "0");
        assert_eq!(messages.message().await.unwrap().unwrap(), "1");
        let status = messages.message().await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::DataLoss, "after the messages"));
    })
    .await;
}

#[tokio::test]
async fn a_call_that_the_client_gives_up_is_cancelled_at_the_origin() {
    within(async {
        let service = Service::h2c().await;
        let (_proxy, client) = through(&service, "").await;
        let waiting = client.clone();
        let call = tokio::spawn(async move { waiting.ask("/t.T/Hang", "", None).await });
        eventually("the call is there", async || service.begun() == 1).await;
        call.abort();
        eventually("it is cancelled", async || service.over() == 1).await;

        let request = Request::new(Bytes::new());
        let mut messages = client.down("/t.T/HangMidway", request).await.unwrap().into_inner();
        assert_eq!(messages.message().await.unwrap().unwrap(), "first");
        assert_eq!(service.over(), 1);
        drop(messages);
        eventually("it is cancelled, too", async || service.over() == 2).await;
        // The connections are as good as before.
        assert_eq!(client.ask("/t.T/Unary", "x", None).await.unwrap().into_inner(), "x");
        assert_eq!(service.origin.connections(), 1);
    })
    .await;
}

#[tokio::test]
async fn large_messages_pass_whole() {
    within(async {
        let service = Service::h2c().await;
        let (_proxy, client) = through(&service, "").await;
        let large = Bytes::from((0..9_000_000_u32).map(|n| n as u8).collect::<Vec<_>>());
        let back = client.ask("/t.T/Unary", large.clone(), None).await.unwrap().into_inner();
        assert!(back == large, "{} bytes came back", back.len());
        let half = large.slice(..4_500_000);
        let count = client.up(stream::iter([half.clone(), half])).await.unwrap();
        assert_eq!(count.into_inner(), "2 of 9000000");
    })
    .await;
}

#[tokio::test]
async fn a_hundred_calls_at_once_share_a_connection() {
    within(async {
        let service = Service::h2c().await;
        let (_proxy, client) = through(&service, "").await;
        let calls = (0..100).map(|number| {
            let client = client.clone();
            async move {
                let message = Bytes::from(number.to_string());
                let back = client.ask("/t.T/Unary", message.clone(), None).await.unwrap();
                assert_eq!(back.into_inner(), message);
            }
        });
        join_all(calls).await;
        assert_eq!(service.origin.connections(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_deadline_that_passes_ends_the_call_on_both_sides() {
    within(async {
        let service = Service::h2c().await;
        let (proxy, client) = through(&service, "").await;
        let soon = Some(Duration::from_millis(150));
        let status = client.ask("/t.T/Hang", "", soon).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert_eq!(status.message(), "The deadline of the call has passed.");
        eventually("it is cancelled", async || service.over() == 1).await;
        assert!(proxy.log_lines(1).await[0].contains("deadline_exceeded"));

        let mut request = Request::new(Bytes::new());
        request.set_timeout(Duration::from_millis(300));
        let mut messages = client.down("/t.T/HangMidway", request).await.unwrap().into_inner();
        assert_eq!(messages.message().await.unwrap().unwrap(), "first");
        let status = messages.message().await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded);
        eventually("it is cancelled, too", async || service.over() == 2).await;

        let status = client.ask("/t.T/Hang", "", Some(Duration::ZERO)).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded);
        let answer = client.ask("/t.T/Unary", "in time", Some(Duration::from_secs(9))).await;
        assert_eq!(answer.unwrap().metadata().get("x-timeout").unwrap(), "9000000u");
    })
    .await;
}

#[tokio::test]
async fn a_deadline_is_no_further_away_than_the_route_allows() {
    within(async {
        let service = Service::h2c().await;
        let (_proxy, client) = with_route(&service, "[route.grpc]\nmax_timeout = \"200ms\"").await;
        let mut request = Request::new(Bytes::from("x"));
        request.metadata_mut().insert("grpc-timeout", "99999999H".parse().unwrap());
        let answer = client.unary("/t.T/Unary", request).await.unwrap();
        assert_eq!(answer.metadata().get("x-timeout").unwrap(), "200000u");
        let status = client.ask("/t.T/Hang", "", None).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded);

        let (_proxy, client) = through(&service, "").await;
        for (text, code) in [("99999999H", Code::Ok), ("5s", Code::Internal), ("", Code::Internal)]
        {
            let mut request = Request::new(Bytes::from("x"));
            request.metadata_mut().insert("grpc-timeout", text.parse().unwrap());
            let answered = client.unary("/t.T/Unary", request).await;
            assert_eq!(answered.map_or_else(|status| status.code(), |_| Code::Ok), code, "{text}");
        }
    })
    .await;
}

#[tokio::test]
async fn what_the_proxy_answers_itself_is_a_status() {
    within(async {
        let service = Service::h2c().await;
        let ask = async |client: &Client, message: &'static str| {
            let status = client.ask("/t.T/Unary", message, None).await.unwrap_err();
            assert!(status.message().ends_with('.'), "{}", status.message());
            status.code()
        };
        let proxy = Setup::new(format!(
            "[[upstream]]\nname = \"origin\"\norigins = [\"{}\"]\n\
             [[route]]\nname = \"only\"\npath = \"/only\"\nupstream = \"origin\"\n",
            service.url()
        ))
        .start();
        let client = Client::connect(proxy.address).await;
        assert_eq!(ask(&client, "").await, Code::Unimplemented);

        let keys = "[route.api_key]\nkeys = [{ name = \"a\", key = \"sha256:\
                    0000000000000000000000000000000000000000000000000000000000000000\" }]";
        let (_proxy, client) = with_route(&service, keys).await;
        assert_eq!(ask(&client, "").await, Code::Unauthenticated);

        let limit = "[route.rate_limit]\nrate = 1\nper = \"1h\"";
        let (_proxy, client) = with_route(&service, limit).await;
        client.ask("/t.T/Unary", "", None).await.unwrap();
        assert_eq!(ask(&client, "").await, Code::ResourceExhausted);

        let (_proxy, client) = with_route(&service, "max_request_body = 10").await;
        assert_eq!(ask(&client, "much more than ten").await, Code::ResourceExhausted);

        let nobody = Refusing::new();
        let proxy = Setup::forwarding_to(format!("h2c://{nobody}")).start();
        let client = Client::connect(proxy.address).await;
        assert_eq!(ask(&client, "").await, Code::Unavailable);

        let timeouts = "[upstream.timeouts]\nresponse_head = \"100ms\"";
        let (_proxy, client) = through(&service, timeouts).await;
        let status = client.ask("/t.T/Hang", "", None).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded);
    })
    .await;
}

#[tokio::test]
async fn an_origin_that_breaks_off_in_a_stream_is_a_status_too() {
    within(async {
        let origin = crate::support::origin::Origin::scripted(|connection| async move {
            let mut server = h2::server::handshake(connection.stream).await.unwrap();
            while let Some(Ok((_request, mut respond))) = server.accept().await {
                let head = http::Response::builder().header("content-type", "application/grpc");
                let mut body = respond.send_response(head.body(()).unwrap(), false).unwrap();
                let first = crate::support::grpc::message(b"first");
                body.send_data(first.into(), false).unwrap();
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    body.send_reset(h2::Reason::INTERNAL_ERROR);
                });
            }
        })
        .await;
        let proxy = Setup::forwarding_to(format!("h2c://{}", origin.address)).start();
        let client = Client::connect(proxy.address).await;
        let request = Request::new(Bytes::new());
        let mut messages = client.down("/t.T/Down", request).await.unwrap().into_inner();
        assert_eq!(messages.message().await.unwrap().unwrap(), "first");
        // The reason of the reset passes, too.
        let status = messages.message().await.unwrap_err();
        assert!(format!("{status:?}").contains("INTERNAL_ERROR"), "{status:?}");
    })
    .await;
}

#[tokio::test]
async fn a_client_may_send_all_before_it_reads_anything() {
    within(async {
        // More than all windows and buffers between the two ends hold.
        let service = Service::h2c().await;
        let (_proxy, client) = through(&service, "").await;
        let chunk = Bytes::from(vec![7; 1024 * 1024]);
        let (done, sent) = tokio::sync::oneshot::channel::<()>();
        let mut done = Some(done);
        let mut left = 24;
        let messages = stream::poll_fn(move |_| {
            if left == 0 {
                drop(done.take());
                return std::task::Poll::Ready(None);
            }
            left -= 1;
            std::task::Poll::Ready(Some(chunk.clone()))
        });
        let count = client.up(messages).await.unwrap().into_inner();
        assert_eq!(count, format!("24 of {}", 24 * 1024 * 1024));
        assert!(sent.await.is_err(), "the sender has come to its end");
    })
    .await;
}
