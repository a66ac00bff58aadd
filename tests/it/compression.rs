//! Responses that are compressed on their way, and those that are not: a real proxy
//! before real origins, and what comes out is decoded.

use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tempfile::TempDir;

use crate::support::certs::{self, Authority};
use crate::support::client::{Answer, Raw, ask};
use crate::support::grpc::{Client, Service};
use crate::support::origin::Origin;
use crate::support::proxy::{Running, Setup};
use crate::support::{eventually, within};

/// One route that compresses, with more lines in its table.
fn compressed(origin: impl std::fmt::Display, lines: &str) -> Setup {
    Setup::new(format!(
        "[[upstream]]\nname = \"origin\"\norigins = [\"{origin}\"]\n\
         [[route]]\nname = \"all\"\nupstream = \"origin\"\n{lines}\n[route.compression]\n"
    ))
}

/// The same with a cache above.
fn cached(origin: &Origin) -> Setup {
    compressed(origin, "cache = {}")
}

/// Text that is worth it.
fn page() -> String {
    (0..500).map(|line| format!("This is line {line} of a page with lines.\n")).collect()
}

fn ok(lines: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nContent-Type: text/html\r\n{lines}\r\n{body}",
        body.len()
    )
}

/// Answers as `answer` says to each request.
async fn origin<F>(answer: F) -> Origin
where
    F: Fn(&str) -> String + Send + Sync + 'static,
{
    let answer = Arc::new(answer);
    Origin::scripted(move |mut connection| {
        let answer = answer.clone();
        async move {
            while let Some(request) = connection.request().await {
                connection.write(answer(&request)).await;
            }
        }
    })
    .await
}

/// Answers with the page, and with these lines in its head.
async fn pages(lines: &'static str) -> Origin {
    origin(move |_| ok(lines, &page())).await
}

/// Answers 304 where the tag `"v1"` is known, by weak comparison, and else with the page.
async fn tagged(lines: &'static str) -> Origin {
    origin(move |request| {
        let known = request.lines().any(|line| {
            line.to_ascii_lowercase().starts_with("if-none-match") && line.contains("\"v1\"")
        });
        let head = format!("ETag: \"v1\"\r\nAccept-Ranges: bytes\r\n{lines}");
        if known { format!("HTTP/1.1 304 Not Modified\r\n{head}\r\n") } else { ok(&head, &page()) }
    })
    .await
}

async fn send(proxy: &Running, method: &str, fields: &str) -> Answer {
    let request = format!("{method} / HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n");
    let mut client = Raw::connect(proxy.address).await;
    client.send(request).await;
    client.answer_to(method).await
}

async fn get(proxy: &Running, accept: &str, fields: &str) -> Answer {
    send(proxy, "GET", &format!("Accept-Encoding: {accept}\r\n{fields}")).await
}

fn decode(coding: &str, bytes: &[u8]) -> String {
    let mut content = String::new();
    match coding {
        "zstd" => zstd::stream::read::Decoder::new(bytes).unwrap().read_to_string(&mut content),
        "br" => brotli::Decompressor::new(bytes, 4096).read_to_string(&mut content),
        "gzip" => flate2::read::GzDecoder::new(bytes).read_to_string(&mut content),
        other => panic!("{other}"),
    }
    .unwrap();
    content
}

/// What a response says, once its coding is taken away.
fn content(answer: &Answer) -> String {
    match answer.field("content-encoding") {
        Some(coding) => decode(coding, &answer.body),
        None => answer.text(),
    }
}

fn coding(answer: &Answer) -> &str {
    answer.field("content-encoding").unwrap_or("none")
}

async fn metrics(proxy: &Running) -> String {
    ask(proxy.admin, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").await.text()
}

/// Whether somebody sent an `Accept-Encoding` of this value; `""` for none.
fn accepted(request: &str) -> String {
    let line = request.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("accept-encoding").then(|| value.trim().to_owned())
    });
    line.unwrap_or_default()
}

#[tokio::test]
async fn each_coding_is_what_it_says_and_the_client_chooses() {
    within(async {
        let origin = pages("ETag: \"v1\"\r\nAccept-Ranges: bytes\r\n").await;
        let proxy = compressed(&origin, "").start();
        for (accept, expected) in [
            ("gzip, deflate, br, zstd", "zstd"),
            ("gzip, deflate, br", "br"),
            ("gzip", "gzip"),
            ("gzip, br;q=0.5", "gzip"),
            ("*;q=0.1, zstd;q=0", "br"),
        ] {
            let answer = get(&proxy, accept, "").await;
            assert_eq!((answer.status, coding(&answer)), (200, expected), "{accept}");
            assert_eq!(content(&answer), page());
            assert!(answer.body.len() < page().len() / 5);
            assert_eq!(answer.field("etag"), Some("W/\"v1\""));
            assert_eq!(answer.field("vary"), Some("Accept-Encoding"));
            assert_eq!(answer.field("content-length"), None);
            assert_eq!(answer.field("accept-ranges"), None);
        }
        for accept in ["", "identity", "deflate", "gzip;q=0"] {
            let answer = get(&proxy, accept, "").await;
            assert_eq!((coding(&answer), answer.text()), ("none", page()), "{accept}");
            assert_eq!(answer.field("etag"), Some("\"v1\""));
            assert_eq!(answer.field("vary"), Some("Accept-Encoding"));
            assert_eq!(answer.field("accept-ranges"), Some("bytes"));
        }
        let told = metrics(&proxy).await;
        for (outcome, count) in [("br", 2), ("gzip", 2), ("zstd", 1), ("not-accepted", 4)] {
            let line = format!(
                "tollgate_compression_responses_total{{route=\"all\",outcome=\"{outcome}\"}} {count}\n"
            );
            assert!(told.contains(&line), "{line}");
        }
        let taken = 5 * page().len();
        assert!(told.contains(&format!("tollgate_compression_input_bytes_total{{route=\"all\"}} {taken}\n")));
    })
    .await;
}

#[tokio::test]
async fn the_same_over_tls_and_http2() {
    within(async {
        let origin = pages("").await;
        let (dir, authority) = (TempDir::new().unwrap(), Authority::new());
        authority.sign(dir.path(), "a", &["a.test"]);
        let proxy = compressed(&origin, "")
            .listener(
                "[listener.tls]\ncertificates = [{ certificate = \"a.crt\", key = \"a.key\" }]",
            )
            .start_in(dir);
        let stream =
            certs::connect(proxy.address, authority.client(&["h2"]), "a.test").await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .unwrap();
        tokio::spawn(connection);
        for coding in ["zstd", "br", "gzip"] {
            let request = http::Request::get("https://a.test/")
                .header("accept-encoding", coding)
                .body(Empty::<Bytes>::new())
                .unwrap();
            let response = sender.send_request(request).await.unwrap();
            assert_eq!(response.headers()["content-encoding"], coding);
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(decode(coding, &body), page());
        }
    })
    .await;
}

#[tokio::test]
async fn the_origin_is_told_what_the_route_offers_in_one_way() {
    within(async {
        let origin = pages("").await;
        let proxy = compressed(&origin, "").and("codings = [\"br\", \"gzip\"]").start();
        for (said, told) in [
            ("gzip, deflate, br, zstd", "br, gzip"),
            ("br;q=0.8, gzip;q=0.8", "br, gzip"),
            ("GZIP;q=1.0, br;q=0.3", "gzip, br;q=0.9"),
            ("deflate", "identity"),
            ("", "identity"),
            ("gzip, identity;q=0", "gzip, identity;q=0"),
        ] {
            get(&proxy, said, "").await;
            assert_eq!(accepted(origin.requests().last().unwrap()), told, "{said}");
        }
        get(&proxy, "gzip", "Range: bytes=0-3\r\n").await;
        assert_eq!(accepted(origin.requests().last().unwrap()), "identity");
    })
    .await;
}

#[tokio::test]
async fn with_a_cache_each_variant_is_asked_for_and_compressed_once() {
    within(async {
        let origin = pages("Cache-Control: max-age=60\r\nETag: \"v1\"\r\n").await;
        let proxy = cached(&origin).start();
        let mut bodies: Vec<(String, Vec<u8>)> = Vec::new();
        for accept in [
            "gzip, deflate, br, zstd",
            "zstd, br, gzip",
            "gzip, br",
            "br, gzip, deflate",
            "gzip",
            "gzip, x-other",
            "",
            "identity",
        ] {
            let answer = get(&proxy, accept, "").await;
            assert_eq!(content(&answer), page());
            bodies.push((coding(&answer).to_owned(), answer.body));
        }
        let codings: Vec<&str> = bodies.iter().map(|(coding, _)| coding.as_str()).collect();
        assert_eq!(codings, ["zstd", "zstd", "br", "br", "gzip", "gzip", "none", "none"]);
        // A hit has the very bytes that were stored.
        assert!(bodies.chunks(2).all(|pair| pair[0].1 == pair[1].1));
        assert_eq!(origin.requests().len(), 4);
        let told = metrics(&proxy).await;
        assert!(
            told.contains(
                "tollgate_compression_responses_total{route=\"all\",outcome=\"zstd\"} 1\n"
            )
        );
        assert!(told.contains("tollgate_cache_requests_total{route=\"all\",outcome=\"hit\"} 4\n"));
        // A hit knows how long it is.
        let answer = get(&proxy, "gzip", "").await;
        assert_eq!(answer.field("content-length"), Some(&*answer.body.len().to_string()));
        assert_eq!(answer.field("etag"), Some("W/\"v1\""));
    })
    .await;
}

#[tokio::test]
async fn what_does_not_vary_is_stored_once_for_all() {
    within(async {
        let origin = origin(|_| {
            "HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 3\r\n\
             Cache-Control: max-age=60\r\n\r\npng"
                .to_owned()
        })
        .await;
        let proxy = cached(&origin).start();
        for accept in ["gzip", "br", ""] {
            let answer = get(&proxy, accept, "").await;
            assert_eq!((coding(&answer), answer.field("vary")), ("none", None));
        }
        assert_eq!(origin.requests().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_weak_tag_is_known_again_without_a_cache() {
    within(async {
        let origin = tagged("").await;
        let proxy = compressed(&origin, "").start();
        let tag = get(&proxy, "gzip", "").await.field("etag").unwrap().to_owned();
        let answer = get(&proxy, "gzip", &format!("If-None-Match: {tag}\r\n")).await;
        // The tag of a 304 is that of the 200 (RFC 9110 §15.4.5).
        assert_eq!((answer.status, answer.field("etag")), (304, Some("W/\"v1\"")));
        assert_eq!(answer.field("vary"), Some("Accept-Encoding"));
        assert_eq!(answer.field("accept-ranges"), None);
        let strong = get(&proxy, "gzip", "If-None-Match: \"v1\"\r\n").await;
        assert_eq!((strong.status, strong.field("etag")), (304, Some("\"v1\"")));
    })
    .await;
}

#[tokio::test]
async fn a_weak_tag_is_known_again_with_a_cache_and_stays_weak() {
    within(async {
        let origin = tagged("Cache-Control: max-age=60\r\n").await;
        let proxy = cached(&origin).start();
        get(&proxy, "gzip", "").await;
        let answer = get(&proxy, "gzip", "If-None-Match: W/\"v1\"\r\n").await;
        assert_eq!((answer.status, answer.field("etag")), (304, Some("W/\"v1\"")));
        assert_eq!(origin.requests().len(), 1);
    })
    .await;
    within(async {
        // Each use is validated.
        let origin = tagged("Cache-Control: public, no-cache\r\n").await;
        let proxy = cached(&origin).start();
        for _ in 0..3 {
            let answer = get(&proxy, "gzip", "").await;
            assert_eq!((answer.status, coding(&answer)), (200, "gzip"));
            assert_eq!(content(&answer), page());
            assert_eq!(answer.field("etag"), Some("W/\"v1\""));
            assert_eq!(answer.field("accept-ranges"), None);
        }
        let requests = origin.requests();
        assert_eq!(requests.len(), 3);
        assert!(requests[2].contains("W/\"v1\""));
        let told = metrics(&proxy).await;
        assert!(
            told.contains(
                "tollgate_compression_responses_total{route=\"all\",outcome=\"gzip\"} 1\n"
            )
        );
    })
    .await;
}

#[tokio::test]
async fn conditions_that_need_a_strong_tag_never_hold_by_a_weak_one() {
    within(async {
        let origin = tagged("Cache-Control: max-age=60\r\n").await;
        let proxy = cached(&origin).start();
        get(&proxy, "gzip", "").await;
        get(&proxy, "", "").await;
        // RFC 9110 §13.1.5: not the part, but the whole.
        let ranged = "Range: bytes=0-3\r\n";
        let answer = get(&proxy, "gzip", &format!("{ranged}If-Range: W/\"v1\"\r\n")).await;
        assert_eq!((answer.status, coding(&answer)), (200, "none"));
        let answer = get(&proxy, "gzip", &format!("{ranged}If-Range: \"v1\"\r\n")).await;
        assert_eq!((answer.status, answer.text().as_str()), (206, "This"));
        // What the client says goes to the origin as it is, which compares (§13.1.1).
        send(&proxy, "PUT", "If-Match: W/\"v1\"\r\nContent-Length: 0\r\n").await;
        assert!(origin.requests().last().unwrap().contains("W/\"v1\""));
    })
    .await;
}

#[tokio::test]
async fn parts_are_of_the_content_as_it_is() {
    within(async {
        let origin = origin(|request| {
            if request.to_ascii_lowercase().contains("\r\nrange:") {
                "HTTP/1.1 206 Partial Content\r\nContent-Type: text/html\r\nContent-Length: 4\r\n\
                 Content-Range: bytes 0-3/25000\r\n\r\nThis"
                    .to_owned()
            } else {
                ok("Cache-Control: max-age=60\r\n", &page())
            }
        })
        .await;
        for proxy in [compressed(&origin, "").start(), cached(&origin).start()] {
            get(&proxy, "gzip", "").await;
            let answer = get(&proxy, "gzip", "Range: bytes=0-3\r\n").await;
            assert_eq!((answer.status, coding(&answer)), (206, "none"));
            assert_eq!(answer.text(), "This");
        }
    })
    .await;
}

#[tokio::test]
async fn what_an_origin_has_compressed_is_passed_on_and_never_for_everybody() {
    within(async {
        let origin = Origin::scripted(|mut connection| async move {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            std::io::Write::write_all(&mut encoder, b"made before").unwrap();
            let packed = encoder.finish().unwrap();
            while let Some(request) = connection.request().await {
                // It says nothing of `Vary`.
                let fields = "Content-Type: text/html\r\nCache-Control: max-age=60\r\n";
                let (coding, body) = if accepted(&request).contains("gzip") {
                    ("Content-Encoding: gzip\r\n", packed.clone())
                } else {
                    ("", b"made before".to_vec())
                };
                let length = body.len();
                let head =
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nETag: \"z\"\r\n");
                connection
                    .write([format!("{head}{fields}{coding}\r\n").as_bytes(), &body].concat())
                    .await;
            }
        })
        .await;
        let proxy = cached(&origin).and("min_length = 1").start();
        for _ in 0..2 {
            let answer = get(&proxy, "gzip, zstd", "").await;
            assert_eq!((coding(&answer), content(&answer).as_str()), ("gzip", "made before"));
            assert_eq!(answer.field("etag"), Some("\"z\""));
            assert_eq!(answer.field("vary"), Some("Accept-Encoding"));
            let answer = get(&proxy, "", "").await;
            assert_eq!((coding(&answer), answer.text().as_str()), ("none", "made before"));
        }
        assert_eq!(origin.requests().len(), 2);
    })
    .await;
}

#[tokio::test]
async fn what_comes_slowly_is_not_held_back() {
    within(async {
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        let open = gate.clone();
        let origin = Origin::scripted(move |mut connection| {
            let gate = open.clone();
            async move {
                while connection.request().await.is_some() {
                    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\
                                Transfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n";
                    connection.write(head).await;
                    gate.acquire().await.unwrap().forget();
                    connection.write("6\r\nsecond\r\n0\r\n\r\n").await;
                }
            }
        })
        .await;
        let proxy = compressed(&origin, "").start();
        for coding in ["zstd", "br", "gzip"] {
            let mut client = Raw::connect(proxy.address).await;
            let head =
                format!("GET / HTTP/1.1\r\nHost: a.test\r\nAccept-Encoding: {coding}\r\n\r\n");
            client.send(head).await;
            assert!(client.read_until("\r\n\r\n").await.contains(coding));
            // The origin sends the rest only once the first part is here.
            let mut seen = Vec::new();
            while readable(coding, &seen) != "first" {
                let size = client.read_until("\r\n").await;
                let size = usize::from_str_radix(size.trim(), 16).unwrap();
                seen.extend(client.read_exact(size).await);
                client.read_exact(2).await;
            }
            gate.add_permits(1);
            loop {
                let size = client.read_until("\r\n").await;
                let size = usize::from_str_radix(size.trim(), 16).unwrap();
                if size == 0 {
                    break;
                }
                seen.extend(client.read_exact(size).await);
                client.read_exact(2).await;
            }
            assert_eq!(decode(coding, &seen), "firstsecond");
        }
    })
    .await;
}

/// What can be read of a coding that has not come to its end.
fn readable(coding: &str, bytes: &[u8]) -> String {
    let mut reader: Box<dyn std::io::Read + '_> = match coding {
        "zstd" => Box::new(zstd::stream::read::Decoder::new(bytes).unwrap()),
        "br" => Box::new(brotli::Decompressor::new(bytes, 4096)),
        _ => Box::new(flate2::read::GzDecoder::new(bytes)),
    };
    let (mut content, mut chunk) = (Vec::new(), [0; 4096]);
    while let Ok(count @ 1..) = reader.read(&mut chunk) {
        content.extend_from_slice(&chunk[..count]);
    }
    String::from_utf8(content).unwrap()
}

#[tokio::test]
async fn events_pass_one_by_one_as_they_are() {
    within(async {
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        let open = gate.clone();
        let origin = Origin::scripted(move |mut connection| {
            let gate = open.clone();
            async move {
                connection.request().await;
                connection
                    .write("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
                    .await;
                gate.acquire().await.unwrap().forget();
                connection.write("data: 2\n\n").await;
            }
        })
        .await;
        let proxy = compressed(&origin, "").and("types = [\"text/*\"]").start();
        let mut client = Raw::connect(proxy.address).await;
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\nAccept-Encoding: gzip\r\n\r\n").await;
        let head = client.read_until("\r\n\r\n").await.to_ascii_lowercase();
        assert!(!head.contains("content-encoding"));
        client.read_until("data: 1\n\n").await;
        gate.add_permits(1);
        client.read_until("data: 2\n\n").await;
    })
    .await;
}

#[tokio::test]
async fn calls_of_grpc_pass_as_they_are() {
    within(async {
        let service = Service::h2c().await;
        let proxy =
            compressed(service.url(), "").and("types = [\"application/*\", \"+proto\"]").start();
        let client = Client::connect(proxy.address).await;
        let answer = client.ask("/t.T/Unary", "one", None).await.unwrap();
        assert!(answer.metadata().get("content-encoding").is_none());
        assert!(answer.metadata().get("vary").is_none());
        assert_eq!(answer.into_inner(), "one");
    })
    .await;
}

#[tokio::test]
async fn the_head_of_a_head_is_that_of_the_get_or_says_less() {
    within(async {
        let origin = Origin::scripted(|mut connection| async move {
            while let Some(request) = connection.request().await {
                let answer = ok("ETag: \"v1\"\r\n", &page());
                let (head, body) = answer.split_once("\r\n\r\n").unwrap();
                let head = format!("{head}\r\n\r\n");
                let is_head = request.starts_with("HEAD");
                let unknown = request.contains("/unknown");
                let head = if unknown && is_head {
                    let lines = head.split_inclusive("\r\n");
                    lines.filter(|line| !line.starts_with("Content-Length")).collect()
                } else {
                    head
                };
                connection.write(head).await;
                if !is_head {
                    connection.write(body).await;
                }
            }
        })
        .await;
        let proxy = compressed(&origin, "").start();
        let lines = |answer: &Answer| {
            let mut lines: Vec<String> = answer
                .head
                .lines()
                .map(str::to_ascii_lowercase)
                .filter(|line| {
                    let own = ["date", "transfer-encoding", "x-request-id"];
                    !own.iter().any(|name| line.starts_with(name))
                })
                .collect();
            lines.sort();
            lines
        };
        for accept in ["gzip", ""] {
            let fields = format!("Accept-Encoding: {accept}\r\n");
            let head = send(&proxy, "HEAD", &fields).await;
            assert_eq!(lines(&head), lines(&send(&proxy, "GET", &fields).await), "{accept}");
        }
        let mut client = Raw::connect(proxy.address).await;
        client
            .send("HEAD /unknown HTTP/1.1\r\nHost: a.test\r\nAccept-Encoding: gzip\r\n\r\n")
            .await;
        let answer = client.answer_to("HEAD").await;
        assert_eq!((coding(&answer), answer.field("content-length")), ("none", None));
        assert_eq!(answer.field("etag"), Some("W/\"v1\""));
        assert_eq!(answer.field("vary"), Some("Accept-Encoding"));
    })
    .await;
}

#[tokio::test]
async fn what_is_not_to_be_changed_is_not() {
    within(async {
        for lines in ["Cache-Control: no-transform\r\n", "Content-Range: bytes 0-9/25000\r\n"] {
            let origin = pages(lines).await;
            let proxy = compressed(&origin, "").start();
            let answer = get(&proxy, "gzip", "").await;
            assert_eq!((coding(&answer), answer.text()), ("none", page()), "{lines}");
        }
        for answer in [
            "HTTP/1.1 204 No Content\r\nContent-Type: text/html\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 5\r\n\r\nshort",
            "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 0\r\n\r\n",
        ] {
            let origin = Origin::answering(answer).await;
            let proxy = compressed(&origin, "").start();
            let answer = get(&proxy, "gzip", "").await;
            assert_eq!((coding(&answer), answer.field("vary")), ("none", None));
        }
    })
    .await;
}

#[tokio::test]
async fn secrets_are_not_compressed_unless_the_route_says_so() {
    within(async {
        let private = pages("Cache-Control: private\r\n").await;
        let public = pages("Cache-Control: public, max-age=0\r\n").await;
        let cookie = pages("Set-Cookie: a=b\r\n").await;
        let key = "api_key = { keys = [{ name = \"a\", key = \"file:key\" }] }";
        let cases = [
            (&private, "", "Cookie: a=b\r\n", "none"),
            (&private, "", "Authorization: Basic eA==\r\n", "none"),
            (&private, "", "", "gzip"),
            (&private, key, "X-API-Key: secret-of-some-length\r\n", "none"),
            (&public, "", "Cookie: a=b\r\n", "gzip"),
            (&public, key, "X-API-Key: secret-of-some-length\r\n", "gzip"),
            (&cookie, "", "", "none"),
        ];
        for (origin, route, fields, expected) in cases {
            for (line, expected) in [("", expected), ("with_credentials = true", "gzip")] {
                let dir = TempDir::new().unwrap();
                std::fs::write(dir.path().join("key"), "secret-of-some-length").unwrap();
                let proxy = compressed(origin, route).and(line).start_in(dir);
                let answer = get(&proxy, "gzip", fields).await;
                assert_eq!(coding(&answer), expected, "{route} {fields} {line}");
                assert_eq!(content(&answer), page());
                assert_eq!(answer.field("vary"), Some("Accept-Encoding"));
            }
        }
    })
    .await;
}

#[tokio::test]
async fn an_origin_that_breaks_off_ends_the_answer_as_broken_off() {
    within(async {
        let origin = Origin::scripted(|mut connection| async move {
            connection.request().await;
            let whole = ok("", &page());
            connection.write(&whole[..whole.len() / 2]).await;
        })
        .await;
        let proxy = compressed(&origin, "").start();
        let mut client = Raw::connect(proxy.address).await;
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\nAccept-Encoding: gzip\r\n\r\n").await;
        let all = client.read_to_end().await;
        assert!(all.starts_with(b"HTTP/1.1 200"));
        assert!(!all.ends_with(b"0\r\n\r\n"), "it looks whole");
    })
    .await;
}

#[tokio::test]
async fn a_reload_that_changes_the_codings_begins_the_cache_anew() {
    within(async {
        let origin = pages("Cache-Control: max-age=60\r\n").await;
        let proxy = cached(&origin).server("reload_on_change = false").start();
        assert_eq!(coding(&get(&proxy, "gzip, br", "").await), "br");
        let setup = cached(&origin).server("reload_on_change = false").and("codings = [\"gzip\"]");
        proxy.write(&setup);
        let answer = ask(
            proxy.admin,
            "POST /api/reload HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: 2\r\n\r\n{}",
        )
        .await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(coding(&get(&proxy, "gzip, br", "").await), "gzip");
        assert_eq!(origin.requests().len(), 2);
    })
    .await;
}

#[tokio::test]
async fn many_clients_get_what_was_compressed_for_one_while_it_comes() {
    within(async {
        let compressed_times = Arc::new(AtomicUsize::new(0));
        let origin = {
            let asked = compressed_times.clone();
            origin(move |_| {
                asked.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(std::time::Duration::from_millis(50));
                ok("Cache-Control: max-age=60\r\n", &page())
            })
            .await
        };
        let proxy = Arc::new(cached(&origin).server("workers = 2").start());
        let all: Vec<_> = (0..50)
            .map(|_| {
                let proxy = proxy.clone();
                tokio::spawn(async move { content(&get(&proxy, "br", "").await) })
            })
            .collect();
        for one in all {
            assert_eq!(one.await.unwrap(), page());
        }
        assert_eq!(compressed_times.load(Ordering::SeqCst), 1);
        eventually("it is counted", async || {
            metrics(&proxy)
                .await
                .contains("tollgate_compression_responses_total{route=\"all\",outcome=\"br\"} 1\n")
        })
        .await;
    })
    .await;
}
