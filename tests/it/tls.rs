//! TLS on both sides, and HTTP/2 over it.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tempfile::TempDir;

use crate::support::certs::{Authority, connect, server};
use crate::support::client::{Raw, fields, get};
use crate::support::origin::{Origin, serve_h2};
use crate::support::proxy::{Running, Setup};
use crate::support::websocket::HANDSHAKE;
use crate::support::within;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A proxy with certificates for `a.test` (the default), `b.test` and
/// `*.c.test`, in front of `origin`.
fn tls_proxy(origin: &Origin, authority: &Authority, more: &str) -> Running {
    let dir = TempDir::new().unwrap();
    authority.sign(dir.path(), "a", &["a.test"]);
    authority.sign(dir.path(), "b", &["b.test"]);
    authority.sign(dir.path(), "c", &["*.c.test"]);
    let file = |name| format!("{{ certificate = \"{name}.crt\", key = \"{name}.key\" }}");
    let certificates = [file("a"), file("b"), file("c")].join(", ");
    Setup::forwarding_to(origin)
        .listener(&format!("[listener.tls]\ncertificates = [{certificates}]\n{more}"))
        .start_in(dir)
}

#[tokio::test]
async fn http_1_and_2_are_served_as_agreed() {
    within(async {
        let origin = Origin::answering(OK).await;
        let authority = Authority::new();
        let proxy = tls_proxy(&origin, &authority, "");

        let stream = connect(proxy.address, authority.client(&["http/1.1"]), "a.test").await;
        let mut client = Raw::over(stream.unwrap());
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        assert_eq!(client.answer().await.status, 200);

        let stream = connect(proxy.address, authority.client(&["h2", "http/1.1"]), "a.test").await;
        let io = TokioIo::new(stream.unwrap());
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        let crumbs =
            Request::get("https://a.test/h2?x").header("cookie", "a=1").header("cookie", "b=2");
        let request = crumbs.body(Empty::<Bytes>::new()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!((response.status().as_u16(), response.version()), (200, http::Version::HTTP_2));
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "ok");

        let request = origin.requests().pop().unwrap();
        assert!(request.starts_with("GET /h2?x HTTP/1.1\r\n"), "{request}");
        assert_eq!(fields(&request, "host"), ["a.test"]);
        assert_eq!(fields(&request, "x-forwarded-proto"), ["https"]);
        assert_eq!(fields(&request, "cookie"), ["a=1; b=2"]);
        assert!(fields(&request, "via")[0].starts_with("2.0 tollgate"), "{request}");
    })
    .await;
}

#[tokio::test]
async fn a_connection_left_alone_for_a_moment_goes_on_where_it_was() {
    within(async {
        let origin = Origin::answering(OK).await;
        let authority = Authority::new();
        let secure = tls_proxy(&origin, &authority, "");
        let plain = Setup::forwarding_to(&origin).start();
        let stream = connect(secure.address, authority.client(&["http/1.1"]), "a.test").await;
        for mut client in [Raw::over(stream.unwrap()), Raw::connect(plain.address).await] {
            // More than was read when it woke up, and more than a TLS record.
            let body = "x".repeat(40 * 1024);
            let head = format!("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {}", body.len());
            for _ in 0..3 {
                client.send(format!("{head}\r\n\r\n{body}")).await;
                assert_eq!(client.answer().await.status, 200);
                assert!(origin.requests().pop().unwrap().ends_with(&body));
                // Long enough to be parked.
                tokio::time::sleep(std::time::Duration::from_millis(400)).await;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn the_certificate_follows_the_server_name() {
    within(async {
        let origin = Origin::answering(OK).await;
        let authority = Authority::new();
        let proxy = tls_proxy(&origin, &authority, "");
        for (name, fits) in [
            ("a.test", true),
            ("B.TEST", true),
            ("x.c.test", true),
            ("x.y.c.test", false),
            ("unknown.test", false),
        ] {
            let connected = connect(proxy.address, authority.client(&[]), name).await;
            assert_eq!(connected.is_ok(), fits, "{name}");
        }
    })
    .await;
}

#[tokio::test]
async fn tls_1_2_is_served_unless_1_3_is_the_least() {
    within(async {
        let origin = Origin::answering(OK).await;
        let authority = Authority::new();
        let old = || authority.client_of(&[], &[&rustls::version::TLS12]);
        let proxy = tls_proxy(&origin, &authority, "");
        assert!(connect(proxy.address, old(), "a.test").await.is_ok());
        let strict = tls_proxy(&origin, &authority, "min_version = \"1.3\"");
        assert!(connect(strict.address, old(), "a.test").await.is_err());
    })
    .await;
}

#[tokio::test]
async fn a_handshake_that_never_ends_is_cut_and_counted() {
    within(async {
        let origin = Origin::answering(OK).await;
        let authority = Authority::new();
        let proxy = tls_proxy(&origin, &authority, "handshake_timeout = \"100ms\"");
        let mut client = Raw::connect(proxy.address).await;
        client.send([0x16, 0x03, 0x01]).await;
        assert!(client.read_to_end().await.is_empty());
        let metrics = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let metrics = crate::support::client::ask(proxy.admin, metrics).await.text();
        let line =
            "tollgate_tls_handshake_failures_total{listener=\"public\",reason=\"timeout\"} 1";
        assert!(metrics.contains(line), "{metrics}");
    })
    .await;
}

#[tokio::test]
async fn a_host_that_the_connection_is_not_for_is_421() {
    within(async {
        let origin = Origin::answering(OK).await;
        let authority = Authority::new();
        let dir = TempDir::new().unwrap();
        authority.sign(dir.path(), "a", &["a.test"]);
        let proxy = Setup::new(format!(
            "[listener.tls]\ncertificates = [{{ certificate = \"a.crt\", key = \"a.key\" }}]\n\
             [[upstream]]\nname = \"origin\"\norigins = [\"{origin}\"]\n\
             [[route]]\nname = \"a\"\nhosts = [\"a.test\"]\nupstream = \"origin\"\n"
        ))
        .start_in(dir);
        let stream = connect(proxy.address, authority.client(&[]), "a.test").await.unwrap();
        let mut client = Raw::over(stream);
        client.send("GET / HTTP/1.1\r\nHost: elsewhere.test\r\n\r\n").await;
        assert_eq!(client.answer().await.status, 421);
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        assert_eq!(client.answer().await.status, 200);
    })
    .await;
}

/// An origin behind TLS, with a certificate for `origin.test`.
async fn tls_origin(authority: &Authority, dir: &TempDir, alpn: &'static [&'static str]) -> Origin {
    authority.sign(dir.path(), "origin", &["origin.test"]);
    let config = Arc::new(server(dir.path(), "origin", alpn));
    Origin::scripted(move |connection| {
        let acceptor = tokio_rustls::TlsAcceptor::from(config.clone());
        async move {
            let Ok(stream) = acceptor.accept(connection.stream).await else { return };
            if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                let answer = |request: &Request<hyper::body::Incoming>| {
                    Response::new(Full::from(format!("h2 {}", request.uri())))
                };
                serve_h2(stream, Arc::new(answer)).await;
            } else {
                let mut client = Raw::over(stream);
                let head = client.read_until("\r\n\r\n").await;
                let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\
                              Upgrade: websocket\r\n\r\nhello";
                let asked = !fields(&head, "upgrade").is_empty();
                client.send(if asked { switch } else { OK }).await;
            }
        }
    })
    .await
}

fn https(origin: &Origin, dir: TempDir, tls: &str) -> Running {
    let url = format!("https://{}", origin.address);
    Setup::forwarding_with(url, &format!("[upstream.tls]\n{tls}\n")).start_in(dir)
}

#[tokio::test]
async fn an_origins_certificate_must_verify() {
    within(async {
        let authority = Authority::new();
        let trusted = "ca = \"ca.pem\"\nserver_name = \"origin.test\"";
        for (tls, status) in [
            (trusted, 200),
            ("ca = \"ca.pem\"\nserver_name = \"other.test\"", 502),
            ("ca = \"ca.pem\"", 502),
            ("server_name = \"origin.test\"", 502),
            ("verify = false", 200),
        ] {
            let dir = TempDir::new().unwrap();
            authority.write(dir.path());
            let origin = tls_origin(&authority, &dir, &["http/1.1"]).await;
            let proxy = https(&origin, dir, tls);
            let answer = get(proxy.address, "/", "").await;
            assert_eq!(answer.status, status, "{tls}: {}", answer.text());
            if status == 502 {
                let reason = "tollgate; error=tls_certificate_error";
                assert_eq!(answer.field("proxy-status"), Some(reason), "{tls}");
                assert!(proxy.log_lines(1).await[0].contains("tls_certificate"), "{tls}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn an_origin_that_agrees_to_http_2_is_spoken_to_in_it() {
    within(async {
        let authority = Authority::new();
        let dir = TempDir::new().unwrap();
        authority.write(dir.path());
        let origin = tls_origin(&authority, &dir, &["h2", "http/1.1"]).await;
        let proxy = https(&origin, dir, "ca = \"ca.pem\"\nserver_name = \"origin.test\"");
        for _ in 0..3 {
            let answer = get(proxy.address, "/x", "").await;
            assert_eq!(answer.text(), "h2 https://a.test/x");
        }
        assert_eq!(origin.connections(), 1, "one connection carries all");
    })
    .await;
}

#[tokio::test]
async fn a_websocket_reaches_an_origin_that_prefers_http_2() {
    within(async {
        let authority = Authority::new();
        let dir = TempDir::new().unwrap();
        authority.write(dir.path());
        let origin = tls_origin(&authority, &dir, &["h2", "http/1.1"]).await;
        let proxy = https(&origin, dir, "ca = \"ca.pem\"\nserver_name = \"origin.test\"");
        assert_eq!(get(proxy.address, "/x", "").await.text(), "h2 https://a.test/x");
        let mut client = Raw::connect(proxy.address).await;
        client.send(format!("GET / HTTP/1.1\r\nHost: a.test\r\n{HANDSHAKE}\r\n")).await;
        assert_eq!(client.answer().await.status, 101);
        assert_eq!(client.read_exact(5).await, b"hello");
    })
    .await;
}

#[tokio::test]
async fn http_2_by_prior_knowledge_is_spoken_on_both_sides() {
    within(async {
        let origin = Origin::h2c(|request| {
            assert!(!request.headers().contains_key("host"));
            Response::new(Full::from(format!("{:?} {}", request.version(), request.uri())))
        })
        .await;
        let proxy = Setup::forwarding_to(&origin).start();
        assert_eq!(get(proxy.address, "/x", "").await.text(), "HTTP/2.0 http://a.test/x");

        let tcp = tokio::net::TcpStream::connect(proxy.address).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tcp))
                .await
                .unwrap();
        tokio::spawn(connection);
        let request = Request::get("http://a.test/y").body(Empty::<Bytes>::new()).unwrap();
        let body = sender.send_request(request).await.unwrap().into_body();
        assert_eq!(body.collect().await.unwrap().to_bytes(), "HTTP/2.0 http://a.test/y");
    })
    .await;
}

#[tokio::test]
async fn without_alpn_a_listener_for_http2_only_closes() {
    within(async {
        let dir = TempDir::new().unwrap();
        let authority = Authority::new();
        authority.sign(dir.path(), "a", &["a.test"]);
        let origin = Origin::named("origin").await;
        let proxy = Setup::forwarding_to(&origin)
            .listener(
                "protocols = [\"h2\"]\n[listener.tls]\n\
                 certificates = [{ certificate = \"a.crt\", key = \"a.key\" }]",
            )
            .start_in(dir);
        let stream = connect(proxy.address, authority.client(&[]), "a.test").await.unwrap();
        let mut client = Raw::over(stream);
        client.try_send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        assert!(client.read_to_end().await.is_empty());
        assert!(origin.requests().is_empty());
    })
    .await;
}
