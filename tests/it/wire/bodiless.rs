//! Responses that must not have a body (RFC 9110 §6.4.1), whoever made them, over both
//! versions of HTTP.

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::Full;
use tokio::net::TcpStream;

use crate::support::client::{Raw, get};
use crate::support::origin::Origin;
use crate::support::proxy::{Running, Setup};
use crate::support::{Refusing, within};

/// Who answers, by path.
const ROUTES: &str = r#"
[[auth]]
name = "keys"
[auth.api_key]
keys = [{ name = "a", key = "sha256:DIGEST" }]
[[auth]]
name = "elsewhere"
[auth.address]
allow = ["192.0.2.0/24"]
[[route]]
name = "key"
path = "/401"
respond = { status = 200 }
auth = "keys"
[[route]]
name = "address"
path = "/403"
respond = { status = 200 }
auth = "elsewhere"
[[route]]
name = "methods"
path = "/405"
methods = ["PUT"]
respond = { status = 200 }
[[route]]
name = "limit"
path = "/429"
respond = { status = 200 }
rate_limit = { rate = 1, per = "1d" }
[[route]]
name = "refusing"
path = "/502"
upstream = "refusing"
[[upstream]]
name = "refusing"
origins = ["http://REFUSING"]
[[route]]
name = "cached"
path = "/cached"
upstream = "h1"
cache = { honour_request_directives = true }
[[route]]
name = "h1"
path = "/h1"
upstream = "h1"
[[upstream]]
name = "h1"
origins = ["H1"]
[[route]]
name = "h2"
path = "/h2"
upstream = "h2"
[[upstream]]
name = "h2"
origins = ["H2"]
[[route]]
name = "text"
path = "/200"
respond = { status = 200, body = "text" }
[[route]]
name = "none"
path = "/204"
respond = { status = 204, body = "text" }
[[route]]
name = "same"
path = "/304"
respond = { status = 304, body = "text" }
"#;

/// A target, the value of `Cache-Control`, and the status.
type Case = (&'static str, &'static str, u16);

const CASES: [Case; 13] = [
    ("/401", "", 401),
    ("/403", "", 403),
    ("/nowhere", "", 404),
    ("/405", "", 405),
    ("/429", "", 429),
    ("/h1/%00", "", 400),
    ("/502", "", 502),
    ("/cached/x", "only-if-cached", 504),
    ("/cached", "", 200),
    ("/h1", "", 200),
    ("/h2", "", 200),
    ("/200", "", 200),
    ("/cached", "", 200),
];

struct World {
    _origins: [Origin; 2],
    _refusing: Refusing,
    proxy: Running,
}

impl World {
    async fn new() -> Self {
        let h1 = Origin::scripted(|mut connection| async move {
            while let Some(request) = connection.request().await {
                let body = if request.starts_with("HEAD") { "" } else { "text" };
                let head = "HTTP/1.1 200 OK\r\nCache-Control: max-age=99\r\nContent-Length: 4";
                connection.write(format!("{head}\r\n\r\n{body}")).await;
            }
        });
        let h1 = h1.await;
        let h2 = Origin::h2c(|request| {
            let text = if *request.method() == Method::HEAD { "" } else { "text" };
            let response = Response::builder().header("content-length", 4);
            response.body(Full::new(Bytes::from_static(text.as_bytes()))).unwrap()
        });
        let (h2, refusing) = (h2.await, Refusing::new());
        let routes = ROUTES
            .replace("DIGEST", &"0".repeat(64))
            .replace("REFUSING", &refusing.to_string())
            .replace("H1", &h1.to_string())
            .replace("H2", &h2.to_string());
        let proxy = Setup::new(routes).start();
        // All that there is for a day.
        assert_eq!(get(proxy.address, "/429", "").await.status, 200);
        Self { _origins: [h1, h2], _refusing: refusing, proxy }
    }

    /// The head of the answer over HTTP/2, by a client that takes nothing illegal, and what
    /// came behind it.
    async fn over_h2(&self, method: Method, (path, control, _): Case) -> (u16, HeaderMap, Bytes) {
        let stream = TcpStream::connect(self.proxy.address).await.unwrap();
        let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
        let connection = tokio::spawn(connection);
        let request = Request::builder().method(method).uri(format!("http://a.test{path}"));
        let request = request.header("cache-control", control).body(()).unwrap();
        let (response, _) = client.send_request(request, true).unwrap();
        let (head, mut body) = response.await.unwrap().into_parts();
        let mut bytes = Vec::new();
        while let Some(data) = body.data().await {
            let data = data.unwrap_or_else(|error| panic!("{path}: {error}"));
            body.flow_control().release_capacity(data.len()).unwrap();
            bytes.extend(data);
        }
        drop((client, body));
        connection.await.unwrap().unwrap_or_else(|error| panic!("{path}: {error}"));
        (head.status.as_u16(), head.headers, bytes.into())
    }

    /// The same over HTTP/1.1: all that came until the connection ended.
    async fn over_h1(&self, method: Method, (path, control, _): Case) -> String {
        let mut client = Raw::connect(self.proxy.address).await;
        let fields = format!("Cache-Control: {control}\r\nConnection: close");
        client.send(format!("{method} {path} HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n\r\n")).await;
        String::from_utf8(client.read_to_end().await).unwrap()
    }
}

#[tokio::test]
async fn an_answer_to_head_has_no_body_whoever_made_it() {
    within(async {
        let world = World::new().await;
        for case in CASES {
            let (path, _, expected) = case;
            let (status, headers, body) = world.over_h2(Method::HEAD, case).await;
            assert_eq!((status, &*body), (expected, &b""[..]), "{path}");
            // What GET says of its length, HEAD may say too.
            assert!(headers.contains_key("content-length"), "{path}: {headers:?}");
            let answer = world.over_h1(Method::HEAD, case).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {expected} ")), "{answer}");
            assert!(answer.ends_with("\r\n\r\n"), "{answer}");
            // The body comes where it is asked for, and is as long.
            let length = &headers["content-length"];
            let (status, headers, body) = world.over_h2(Method::GET, case).await;
            assert_eq!((status, &headers["content-length"]), (expected, length), "{path}");
            assert_eq!(body.len().to_string(), length.to_str().unwrap(), "{path}");
        }
        // Nobody has broken anything off.
        let lines = world.proxy.log_lines(1 + 3 * CASES.len()).await;
        assert!(lines.iter().all(|line| !line.contains("aborted")), "{lines:#?}");
    })
    .await;
}

#[tokio::test]
async fn a_status_that_has_no_body_is_sent_without_the_configured_one() {
    within(async {
        let world = World::new().await;
        for method in [Method::GET, Method::HEAD] {
            for (path, expected) in [("/204", 204), ("/304", 304)] {
                let case = (path, "", expected);
                let (status, headers, body) = world.over_h2(method.clone(), case).await;
                assert_eq!((status, &*body), (expected, &b""[..]), "{method} {path}");
                assert!(!headers.contains_key("content-length"), "{method} {path}: {headers:?}");
                let answer = world.over_h1(method.clone(), case).await.to_lowercase();
                assert!(answer.starts_with(&format!("http/1.1 {expected} ")), "{answer}");
                assert!(answer.ends_with("\r\n\r\n"), "{answer}");
                assert!(!answer.contains("content-length"), "{answer}");
            }
        }
        let lines = world.proxy.log_lines(9).await;
        assert!(lines.iter().all(|line| !line.contains("aborted")), "{lines:#?}");
    })
    .await;
}
