//! A connection's server name and the host that a request asks for (RFC 9110 §7.4).

use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tempfile::TempDir;

use crate::support::attack::echoing;
use crate::support::certs::{Authority, connect};
use crate::support::client::Raw;
use crate::support::origin::Origin;
use crate::support::proxy::{Running, Setup};
use crate::support::within;

/// Shows `a` (for a.test, c.test and 127.0.0.1) by default, `b` to b.test and
/// `w` to *.w.test. Of these x.w.test has a certificate of its own.
fn proxy(origin: &Origin, authority: &Authority) -> Running {
    let dir = TempDir::new().unwrap();
    authority.sign(dir.path(), "a", &["a.test", "c.test", "127.0.0.1"]);
    authority.sign(dir.path(), "b", &["b.test"]);
    authority.sign(dir.path(), "w", &["*.w.test"]);
    authority.sign(dir.path(), "x", &["x.w.test"]);
    let file = |name| format!("{{ certificate = \"{name}.crt\", key = \"{name}.key\" }}");
    let all = [file("a"), file("b"), file("w"), file("x")].join(", ");
    Setup::forwarding_to(origin)
        .listener(&format!("[listener.tls]\ncertificates = [{all}]\n"))
        .start_in(dir)
}

/// Server name, host asked for, status.
const CASES: [(&str, &str, u16); 27] = [
    ("a.test", "a.test", 200),
    ("a.test", "A.TEST", 200),
    ("A.test", "a.test", 200),
    ("a.test", "a.test.", 200),
    ("a.test", "a.test:8443", 200),
    // One certificate for both: a client may use one connection for them.
    ("a.test", "c.test", 200),
    ("c.test", "a.test", 200),
    ("y.w.test", "z.w.test", 200),
    // Hosts that no certificate names are the default certificate's.
    ("a.test", "other.test", 200),
    ("a.test", "127.0.0.1", 200),
    ("a.test", "[::1]:443", 200),
    // An address is no server name, so that none was sent.
    ("127.0.0.1", "a.test", 200),
    ("127.0.0.1", "b.test", 200),
    ("127.0.0.1", "127.0.0.1", 200),
    ("a.test", "b.test", 421),
    ("a.test", "B.TEST:443", 421),
    ("a.test", "b.test.", 421),
    ("b.test", "a.test", 421),
    ("b.test", "c.test", 421),
    ("b.test", "other.test", 421),
    ("b.test", "127.0.0.1", 421),
    ("b.test", "[::1]", 421),
    // The wildcard's certificate would do, but the host has one of its own.
    ("y.w.test", "x.w.test", 421),
    ("x.w.test", "y.w.test", 421),
    ("y.w.test", "w.test", 421),
    ("y.w.test", "z.y.w.test", 421),
    ("y.w.test", "a.test", 421),
];

#[tokio::test]
async fn a_host_with_another_certificate_is_421_over_http_1() {
    within(async {
        let (origin, authority) = (echoing().await, Authority::new());
        let proxy = proxy(&origin, &authority);
        for (name, host, status) in CASES {
            let stream = connect(proxy.address, authority.client(&[]), name).await.unwrap();
            let mut client = Raw::over(stream);
            let before = origin.requests().len();
            client.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
            assert_eq!(client.answer().await.status, status, "{name}, {host}");
            assert_eq!(
                origin.requests().len() - before,
                usize::from(status == 200),
                "{name}, {host}"
            );
            // The absolute target is what counts.
            client.send(format!("GET https://{host}/ HTTP/1.1\r\nHost: a.test\r\n\r\n")).await;
            assert_eq!(client.answer().await.status, status, "{name}, https://{host}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_host_with_another_certificate_is_421_over_http_2_and_only_its_stream_ends() {
    within(async {
        let (origin, authority) = (echoing().await, Authority::new());
        let proxy = proxy(&origin, &authority);
        for (name, host, status) in CASES {
            let stream =
                Box::pin(connect(proxy.address, authority.client(&["h2"]), name)).await.unwrap();
            let io = TokioIo::new(stream);
            let (mut sender, connection) =
                Box::pin(hyper::client::conn::http2::handshake(TokioExecutor::new(), io))
                    .await
                    .unwrap();
            tokio::spawn(connection);
            let mut ask = async |host: &str| {
                let request = http::Request::get(format!("https://{host}/"));
                let request = request.body(Empty::<Bytes>::new()).unwrap();
                sender.send_request(request).await.unwrap().status().as_u16()
            };
            assert_eq!(ask(host).await, status, "{name}, {host}");
            assert_eq!(ask(name).await, 200, "{name} after {host}");
        }
    })
    .await;
}

#[tokio::test]
async fn the_preface_of_http_2_is_no_request_of_http_1() {
    within(async {
        let (origin, authority) = (echoing().await, Authority::new());
        let proxy = proxy(&origin, &authority);
        let stream = connect(proxy.address, authority.client(&["http/1.1"]), "a.test").await;
        let mut client = Raw::over(stream.unwrap());
        client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        let answer = client.answer().await;
        assert!(matches!(answer.status, 400 | 505), "{}", answer.head);
        client.read_to_end().await;
        assert!(origin.bytes().is_empty());
    })
    .await;
}
