//! Extended CONNECT (RFC 8441) and its translation for an origin.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{Method, Request, StatusCode};
use http_body_util::Empty;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;

use crate::support::client::{Raw, fields};
use crate::support::origin::Origin;
use crate::support::proxy::Setup;
use crate::support::websocket::{
    Gate, Over, closing, connecting, echo, extended, h2_to, stream, switched, switching,
};
use crate::support::{eventually, within};

/// The digest of `k1`.
const K1: &str = "sha256:6ab9f1eb8f7d3388f4f9d586f66e99fd54080df2c446f0e58668b09c08a16dd0";

fn route(origin: &Origin, lines: &str) -> Setup {
    Setup::new(format!(
        "[[upstream]]\nname = \"origin\"\norigins = [\"{origin}\"]\n\
         [[route]]\nname = \"all\"\nupstream = \"origin\"\n{lines}\n"
    ))
}

async fn status(address: std::net::SocketAddr, request: Request<Empty<Bytes>>) -> StatusCode {
    h2_to(address).await.send_request(request).await.unwrap().status()
}

#[tokio::test]
async fn the_origin_is_asked_to_upgrade() {
    within(async {
        let origin = switching(|mut connection| async move {
            connection.write("hello").await;
            connection.some().await;
        })
        .await;
        let proxy = Setup::forwarding_to(&origin).start();
        let mut request = connecting("WebSocket");
        for (name, value) in [
            // There is none in an extended CONNECT; this one is nobody's.
            ("sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAA=="),
            ("sec-websocket-version", "13"),
            ("origin", "https://a.test"),
            ("cookie", "a=1"),
        ] {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        let mut sender = h2_to(proxy.address).await;
        let mut response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), 200);
        for gone in ["upgrade", "connection", "sec-websocket-accept", "content-length"] {
            assert!(!response.headers().contains_key(gone), "{gone}");
        }
        let mut word = [0; 5];
        stream(&mut response).await.read_exact(&mut word).await.unwrap();
        assert_eq!(&word, b"hello");

        let seen = origin.request();
        assert!(seen.starts_with("GET /ws?a=b HTTP/1.1\r\n"), "{seen}");
        for (name, value) in [
            ("host", "a.test"),
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("origin", "https://a.test"),
            ("cookie", "a=1"),
            ("x-forwarded-for", "127.0.0.1"),
        ] {
            assert_eq!(fields(&seen, name), [value], "{seen}");
        }
        assert!(fields(&seen, "via")[0].starts_with("2.0 "), "{seen}");
        assert!(!seen.contains("protocol"), "{seen}");
        let [key] = fields(&seen, "sec-websocket-key")[..] else { panic!("{seen}") };
        assert!(key.len() == 24 && key.ends_with("==") && !key.starts_with("AAAA"), "{seen}");
        for framing in ["content-length", "transfer-encoding"] {
            assert!(fields(&seen, framing).is_empty(), "{seen}");
        }
    })
    .await;
}

#[tokio::test]
async fn each_asks_with_a_key_of_its_own() {
    within(async {
        let origin = switching(|mut connection| async move {
            connection.some().await;
        })
        .await;
        let proxy = Setup::forwarding_to(&origin).start();
        let mut sender = h2_to(proxy.address).await;
        for _ in 0..2 {
            extended(&mut sender, &[]).await;
        }
        let seen = origin.requests();
        let key = |at: usize| fields(&seen[at], "sec-websocket-key")[0].to_owned();
        assert_ne!(key(0), key(1));
    })
    .await;
}

#[tokio::test]
async fn the_log_knows_the_tunnel_and_what_went_through_it() {
    within(async {
        let (origin, _events) = echo().await;
        let gate = Gate::new(Over::Http2, Setup::forwarding_to(&origin));
        let mut socket = gate.socket().await;
        socket.send(Message::text("x".repeat(1_000))).await.unwrap();
        socket.next().await.unwrap().unwrap();
        socket.close(None).await.unwrap();
        closing(socket).await;
        let line = &gate.proxy.log_lines(1).await[0];
        assert!(line.contains("CONNECT") && line.contains(" 200 "), "{line}");
        assert!(!line.contains("aborted"), "{line}");
        let bytes = line.split(" in=").nth(1).unwrap().split(' ').next().unwrap();
        assert!(bytes.parse::<usize>().unwrap() > 1_000, "{line}");
    })
    .await;
}

#[tokio::test]
async fn what_is_not_served_is_said_to_be_not() {
    within(async {
        let origin = switching(|_| async {}).await;
        let proxy = Setup::forwarding_to(&origin)
            .and(
                "[[route]]\nname = \"fixed\"\npath = \"/fixed\"\n\
                 respond = { body = \"hello\" }\n\
                 [[route]]\nname = \"moved\"\npath = \"/moved\"\n\
                 redirect = { to = \"https://b.test\" }\n",
            )
            .start();
        for protocol in ["chat", "connect-udp", "h2c", "websocket2", "web socket"] {
            assert_eq!(status(proxy.address, connecting(protocol)).await, 501, "{protocol}");
        }
        let mut plain = connecting("");
        plain.extensions_mut().clear();
        *plain.uri_mut() = "a.test:80".parse().unwrap();
        assert_eq!(status(proxy.address, plain).await, 405);
        let at = |path: &str| {
            let mut request = connecting("websocket");
            *request.uri_mut() = format!("http://a.test{path}").parse().unwrap();
            request
        };
        // A 200 would be a tunnel.
        assert_eq!(status(proxy.address, at("/fixed")).await, 501);
        assert_eq!(status(proxy.address, at("/moved")).await, 308);
        assert_eq!(status(proxy.address, at("/a/../b")).await, 400);

        let mut old = connecting("websocket");
        old.headers_mut().insert("sec-websocket-version", "8".parse().unwrap());
        let response = h2_to(proxy.address).await.send_request(old).await.unwrap();
        assert_eq!(response.status(), 400);
        assert_eq!(response.headers()["sec-websocket-version"], "13");
        assert!(origin.requests().is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_route_says_which_protocols_it_lets_through() {
    within(async {
        let origin = Origin::scripted(|mut connection| async move {
            let Some(head) = connection.request().await else { return };
            let chat = switched(&head, "").replace("Upgrade: websocket", "Upgrade: chat");
            connection.write(chat).await;
            connection.write("hello").await;
        })
        .await;
        let proxy = route(&origin, "upgrades = [\"chat\"]").start();
        assert_eq!(status(proxy.address, connecting("websocket")).await, 501);
        let mut sender = h2_to(proxy.address).await;
        let mut response = sender.send_request(connecting("chat")).await.unwrap();
        assert_eq!(response.status(), 200);
        let mut said = Vec::new();
        stream(&mut response).await.read_to_end(&mut said).await.unwrap();
        assert_eq!(said, b"hello");
        let seen = origin.request();
        assert_eq!(fields(&seen, "upgrade"), ["chat"]);
        assert!(fields(&seen, "sec-websocket-key").is_empty(), "{seen}");
    })
    .await;
}

#[tokio::test]
async fn every_policy_holds() {
    within(async {
        let origin = switching(|mut connection| async move {
            connection.some().await;
        })
        .await;
        let lines = format!(
            "rate_limit = {{ rate = 1, per = \"1m\", burst = 3 }}\nmax_request_body = 10\n\
             [route.api_key]\nidentity_header = \"X-Client\"\n\
             keys = [{{ name = \"alice\", key = \"{K1}\" }}]\n\
             [route.headers.request]\nset = {{ X-Set = \"1\" }}\nremove = [\"X-Gone\"]\n\
             [route.headers.response]\nset = {{ X-Too = \"2\" }}\n"
        );
        let proxy = route(&origin, &lines).start();
        let mut sender = h2_to(proxy.address).await;
        let without = sender.send_request(connecting("websocket")).await.unwrap();
        assert_eq!(without.status(), 401);
        assert!(without.headers().contains_key("www-authenticate"));
        assert!(origin.requests().is_empty());

        let with_key = || {
            let mut request = connecting("websocket");
            for (name, value) in
                [("x-api-key", "k1"), ("x-client", "root"), ("x-gone", "1"), ("x-set", "0")]
            {
                request.headers_mut().insert(name, value.parse().unwrap());
            }
            request
        };
        let mut response = sender.send_request(with_key()).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["x-too"], "2");
        assert!(response.headers().contains_key("x-request-id"));
        // The limit of a body is none of a tunnel.
        let mut tunnel = stream(&mut response).await;
        tunnel.write_all(&[b'x'; 100]).await.unwrap();
        let seen = origin.request();
        assert_eq!(fields(&seen, "x-client"), ["alice"]);
        assert_eq!(fields(&seen, "x-set"), ["1"]);
        assert_eq!(fields(&seen, "x-forwarded-proto"), ["http"]);
        for gone in ["x-gone", "x-api-key"] {
            assert!(fields(&seen, gone).is_empty(), "{seen}");
        }
        let other = sender.send_request(with_key()).await.unwrap();
        assert_eq!(other.status(), 200);
        let much = sender.send_request(with_key()).await.unwrap();
        assert_eq!(much.status(), 429);
        assert!(much.headers().contains_key("retry-after"));
        let lines = proxy.log_lines(2).await;
        assert!(lines[0].contains(" 401 ") && lines[1].contains(" 429 "), "{lines:?}");
    })
    .await;
}

#[tokio::test]
async fn a_tunnel_is_an_exchange_under_way() {
    within(async {
        let (origin, _events) = echo().await;
        let setup = Setup::forwarding_to(&origin)
            .server("max_in_flight = 1")
            .listener("keep_alive_timeout = \"200ms\"");
        let proxy = setup.start();
        let mut sender = h2_to(proxy.address).await;
        let (mut socket, _) = extended(&mut sender, &[]).await;
        assert_eq!(status(proxy.address, connecting("websocket")).await, 503);
        // Nothing but the tunnel keeps the connection open.
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_millis(150)).await;
            socket.send(Message::text("x")).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("x"));
        }
        assert!(sender.is_ready());
        socket.close(None).await.unwrap();
        closing(socket).await;
        eventually("there is room again", async || {
            // What asks in vain answers 200, and is not counted for long.
            status(proxy.address, connecting("websocket")).await == 200
        })
        .await;
        eventually("the connection is closed", async || sender.is_closed()).await;
    })
    .await;
}

#[tokio::test]
async fn a_listener_need_not_offer_it() {
    within(async {
        let origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        let setup = Setup::forwarding_to(&origin);
        let proxy = setup.listener("[listener.h2]\nextended_connect = false").start();
        let mut sender = h2_to(proxy.address).await;
        let error = sender.send_request(connecting("websocket")).await.unwrap_err();
        assert!(format!("{error:?}").contains("PROTOCOL_ERROR"), "{error:?}");
        let mut get = Request::new(Empty::<Bytes>::new());
        *get.uri_mut() = "http://a.test/".parse().unwrap();
        let answer = sender.send_request(get).await.unwrap();
        assert_eq!(answer.status(), 200, "only the stream was reset");
    })
    .await;
}

#[tokio::test]
async fn an_origin_that_cannot_switch_is_a_clear_fault() {
    within(async {
        let origin = Origin::h2c(|_| unreachable!("nothing is asked for")).await;
        let proxy = Setup::forwarding_to(&origin).start();
        let mut sender = h2_to(proxy.address).await;
        let response = sender.send_request(connecting("websocket")).await.unwrap();
        assert_eq!(response.status(), 502);
        assert_eq!(response.headers()["proxy-status"], "tollgate; error=http_upgrade_failed");
    })
    .await;
}

#[tokio::test]
async fn a_client_that_is_gone_ends_the_origins_connection() {
    within(async {
        let (origin, events) = echo().await;
        let proxy = Setup::forwarding_to(&origin).start();
        let mut sender = h2_to(proxy.address).await;
        let (mut socket, _) = extended(&mut sender, &[]).await;
        socket.send(Message::text("x")).await.unwrap();
        socket.next().await.unwrap().unwrap();
        drop(socket);
        events
            .see("broken: WebSocket protocol error: Connection reset without closing handshake")
            .await;
        let lines = proxy.log_lines(1).await;
        assert!(lines[0].contains("CONNECT"), "{lines:?}");
    })
    .await;
}

#[tokio::test]
async fn over_http_1_connect_stays_refused() {
    within(async {
        let origin = switching(|_| async {}).await;
        let proxy = Setup::forwarding_to(&origin).start();
        for request in [
            "CONNECT a.test:80 HTTP/1.1\r\nHost: a.test:80\r\nProtocol: websocket\r\n\r\n",
            "CONNECT a.test:80 HTTP/1.1\r\nHost: a.test:80\r\nConnection: upgrade\r\n\
             Upgrade: websocket\r\n\r\n",
        ] {
            let mut client = Raw::connect(proxy.address).await;
            client.send(request).await;
            assert_eq!(client.answer().await.status, 405);
        }
        assert!(origin.requests().is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_method_stays_what_it_is_without_a_protocol() {
    within(async {
        let origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        let proxy = Setup::forwarding_to(&origin).start();
        for method in [Method::GET, Method::POST] {
            let mut request = Request::new(Empty::<Bytes>::new());
            *request.method_mut() = method.clone();
            *request.uri_mut() = "http://a.test/".parse().unwrap();
            assert_eq!(status(proxy.address, request).await, 200);
            let seen = origin.requests().pop().unwrap();
            assert!(seen.starts_with(method.as_str()), "{seen}");
            assert!(fields(&seen, "upgrade").is_empty(), "{seen}");
        }
    })
    .await;
}
