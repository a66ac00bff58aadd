//! gRPC-Web through the bridge: an origin by tonic, a client by hand.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::support::client::{Answer, Raw, ask};
use crate::support::grpc::{Service, message};
use crate::support::proxy::{Running, Setup};
use crate::support::within;

const BINARY: &str = "application/grpc-web+proto";
const TEXT: &str = "application/grpc-web-text+proto";

fn bridge(service: &Service, more: &str) -> Running {
    Setup::new(format!(
        "[[upstream]]\nname = \"origin\"\norigins = [\"{}\"]\n\
         [[route]]\nname = \"all\"\nupstream = \"origin\"\n{more}\n[route.grpc]\nweb = true\n",
        service.url()
    ))
    .start()
}

fn head(path: &str, content_type: &str, length: usize) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: a.test\r\nContent-Type: {content_type}\r\n\
         X-Grpc-Web: 1\r\nContent-Length: {length}\r\n\r\n"
    )
}

async fn call(proxy: &Running, path: &str, content_type: &str, body: &[u8]) -> Answer {
    let request = [head(path, content_type, body.len()).as_bytes(), body].concat();
    ask(proxy.address, request).await
}

/// The messages of a body, and the trailers behind them.
fn frames(mut body: &[u8]) -> (Vec<Vec<u8>>, String) {
    let mut messages = Vec::new();
    loop {
        let length = u32::from_be_bytes(body[1..5].try_into().unwrap()) as usize;
        let content = body[5..5 + length].to_vec();
        if body[0] == 0x80 {
            assert_eq!(body.len(), 5 + length, "the trailers are the last frame");
            return (messages, String::from_utf8(content).unwrap());
        }
        messages.push(content);
        body = &body[5 + length..];
    }
}

/// Base64 in which padding may stand anywhere.
fn decoded(text: &[u8]) -> Vec<u8> {
    text.chunks(4).flat_map(|group| BASE64_STANDARD.decode(group).unwrap()).collect()
}

#[tokio::test]
async fn a_call_in_binary() {
    within(async {
        let service = Service::h2c().await;
        let proxy = bridge(&service, "");
        let answer = call(&proxy, "/t.T/Unary", BINARY, &message(b"\0\xffmore")).await;
        assert_eq!((answer.status, answer.field("content-type")), (200, Some(BINARY)));
        assert!(!answer.head.contains("grpc-status"), "{}", answer.head);
        let (messages, trailers) = frames(&answer.body);
        assert_eq!(messages, [b"\0\xffmore"]);
        assert!(trailers.contains("grpc-status:0\r\n"), "{trailers}");
    })
    .await;
}

#[tokio::test]
async fn a_call_in_text_cut_anywhere() {
    within(async {
        let service = Service::h2c().await;
        let proxy = bridge(&service, "");
        let framed = message(b"hello, world");
        // In two parts, each padded.
        let (one, two) = framed.split_at(7);
        let text = BASE64_STANDARD.encode(one) + &BASE64_STANDARD.encode(two);
        let mut client = Raw::connect(proxy.address).await;
        client.send(head("/t.T/Unary", TEXT, text.len())).await;
        for byte in text.bytes() {
            client.send([byte]).await;
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.field("content-type")), (200, Some(TEXT)));
        let (messages, trailers) = frames(&decoded(&answer.body));
        assert_eq!(messages, [b"hello, world"]);
        assert!(trailers.contains("grpc-status:0\r\n"), "{trailers}");
    })
    .await;
}

#[tokio::test]
async fn a_stream_passes_as_it_comes() {
    within(async {
        let service = Service::h2c().await;
        let proxy = bridge(&service, "");
        for (content_type, first) in [
            (BINARY, b"\0\0\0\0\x05first".to_vec()),
            (TEXT, BASE64_STANDARD.encode(b"\0\0\0\0\x05first").into_bytes()),
        ] {
            let body = message(b"");
            let body =
                if content_type == TEXT { BASE64_STANDARD.encode(body).into_bytes() } else { body };
            let mut client = Raw::connect(proxy.address).await;
            let head = head("/t.T/HangMidway", content_type, body.len());
            client.send([head.as_bytes(), &body].concat()).await;
            // The origin sends no more than this, and does not end.
            let first = String::from_utf8(first).unwrap();
            assert!(client.read_to_end_or(&first).await, "{:?}", client.text());
        }
        let answer = call(&proxy, "/t.T/Down", BINARY, &message(b"3!")).await;
        let (messages, trailers) = frames(&answer.body);
        assert_eq!(messages, [b"0", b"1", b"2"]);
        assert!(trailers.contains("grpc-status:15\r\n"), "{trailers}");
        assert!(trailers.contains("grpc-message:after%20the%20messages\r\n"), "{trailers}");
    })
    .await;
}

#[tokio::test]
async fn a_status_without_a_message_is_a_frame_too() {
    within(async {
        let service = Service::h2c().await;
        let proxy = bridge(&service, "");
        for (content_type, body) in
            [(BINARY, message(b"")), (TEXT, BASE64_STANDARD.encode(message(b"")).into_bytes())]
        {
            let answer = call(&proxy, "/t.T/Fail", content_type, &body).await;
            assert_eq!((answer.status, answer.field("x-why")), (200, Some("because")));
            let body = if content_type == TEXT { decoded(&answer.body) } else { answer.body };
            let (messages, trailers) = frames(&body);
            assert!(messages.is_empty());
            for line in ["grpc-status:9\r\n", "grpc-status-details-bin:CAU", "grpc-message:100%20"]
            {
                assert!(trailers.contains(line), "{trailers}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn what_the_proxy_answers_itself_is_a_frame_as_well() {
    within(async {
        let service = Service::h2c().await;
        let keys = "api_key = { keys = [{ name = \"a\", key = \"sha256:\
                    0000000000000000000000000000000000000000000000000000000000000000\" }] }";
        let proxy = bridge(&service, keys);
        let status = |body: &[u8]| frames(body).1.lines().next().unwrap().to_owned();
        let answer = call(&proxy, "/t.T/Unary", BINARY, &message(b"")).await;
        assert_eq!((answer.status, status(&answer.body)), (200, "grpc-status:16".to_owned()));

        let proxy = bridge(&service, "max_request_body = 10");
        let answer = call(&proxy, "/t.T/Unary", BINARY, &message(b"too long")).await;
        assert_eq!(status(&answer.body), "grpc-status:8");
        let answer = call(&proxy, "/t.T/Unary", TEXT, b"not base64!!").await;
        assert_eq!(answer.field("content-type"), Some(TEXT));
        assert_eq!(status(&decoded(&answer.body)), "grpc-status:13");

        let proxy = bridge(&service, "");
        let request = message(b"");
        let mut head = head("/t.T/Hang", BINARY, request.len());
        head = head.replace("X-Grpc-Web: 1", "Grpc-Timeout: 100m");
        let answer = ask(proxy.address, [head.as_bytes(), &request].concat()).await;
        assert_eq!(status(&answer.body), "grpc-status:4");
    })
    .await;
}

#[tokio::test]
async fn a_call_over_http2() {
    within(async {
        let service = Service::h2c().await;
        let proxy = bridge(&service, "");
        let stream = tokio::net::TcpStream::connect(proxy.address).await.unwrap();
        let io = TokioIo::new(stream);
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        let request = http::Request::post("http://a.test/t.T/Unary")
            .header("content-type", "application/grpc-web")
            .body(Full::new(Bytes::from(message(b"over h2"))))
            .unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.headers()["content-type"], BINARY);
        let collected = answer.into_body().collect().await.unwrap();
        assert!(collected.trailers().is_none());
        let (messages, trailers) = frames(&collected.to_bytes());
        assert_eq!(messages, [b"over h2"]);
        assert!(trailers.contains("grpc-status:0"), "{trailers}");
    })
    .await;
}

#[tokio::test]
async fn without_the_bridge_it_is_the_origins_to_understand() {
    within(async {
        let service = Service::h2c().await;
        let proxy = Setup::forwarding_to(service.url()).start();
        let answer = call(&proxy, "/t.T/Unary", BINARY, &message(b"x")).await;
        // tonic alone does not speak it.
        assert_ne!(answer.field("content-type"), Some(BINARY), "{}", answer.head);
    })
    .await;
}
