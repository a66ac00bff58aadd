//! The PROXY protocol: who says whose connection it is, who is believed, and
//! that nothing else than a header is ever taken for one.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::certs::Authority;
use crate::support::client::{Raw, fields};
use crate::support::origin::Origin;
use crate::support::proxy::{Running, Setup};
use crate::support::{eventually, within};

pub const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
const CLOSE: &str = "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";

/// Believes what comes from 127.0.0.1, and nobody else.
const FROM: &str = "[listener.proxy_protocol]\nfrom = [\"127.0.0.1\"]\n";

const LINE: &[u8] = b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 443\r\n";

/// A header of version 2.
pub fn v2(command: u8, protocol: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, protocol][..], &length, block].concat()
}

/// 192.0.2.7:4711 to 192.0.2.1:443.
fn v2_four() -> Vec<u8> {
    v2(0x21, 0x11, &[192, 0, 2, 7, 192, 0, 2, 1, 0x12, 0x67, 1, 187])
}

/// `[2001:db8::7]:4711` to `[2001:db8::1]:443`, with TLVs behind.
fn v2_six() -> Vec<u8> {
    let address = |last| [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
    let tlvs = b"\x01\0\x02h2\x02\0\x06a.test";
    let ports = [0x12, 0x67, 1, 187];
    v2(0x21, 0x21, &[&address(7)[..], &address(1), &ports, tlvs].concat())
}

fn setup(origin: &Origin) -> Setup {
    Setup::forwarding_to(origin).json_log().listener(FROM)
}

async fn ask(address: SocketAddr, parts: &[&[u8]]) -> Raw {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut client = Raw::over(stream);
    for part in parts {
        client.try_send(part).await;
        if parts.len() > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    client
}

/// Connects from an address that is not believed.
async fn stranger(address: SocketAddr) -> Raw {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    Raw::over(socket.connect(address).await.unwrap())
}

async fn refused(proxy: &Running, reason: &str) -> u64 {
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let metrics = crate::support::client::ask(proxy.admin, request).await;
    let series = format!("connections_refused_total{{listener=\"public\",reason=\"{reason}\"}} ");
    let text = metrics.text();
    let count = text.lines().find_map(|line| line.split_once(&series));
    count.map_or(0, |(_, count)| count.parse().unwrap())
}

#[tokio::test]
async fn the_announced_client_is_the_client_for_everything() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = setup(&origin).start();
        let six = b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n".to_vec();
        let mapped = b"PROXY TCP6 ::ffff:192.0.2.7 ::ffff:192.0.2.1 4711 443\r\n".to_vec();
        let headers = [
            (LINE.to_vec(), "192.0.2.7", "192.0.2.7:4711"),
            (six, "2001:db8::7", "[2001:db8::7]:4711"),
            (mapped, "192.0.2.7", "[::ffff:192.0.2.7]:4711"),
            (v2_four(), "192.0.2.7", "192.0.2.7:4711"),
            (v2_six(), "2001:db8::7", "[2001:db8::7]:4711"),
        ];
        for (index, (header, client, peer)) in headers.iter().enumerate() {
            // What the client itself claims is not believed.
            let request = "GET / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n";
            let mut asked = ask(proxy.address, &[&[header, request.as_bytes()].concat()]).await;
            assert_eq!(asked.answer().await.status, 200);
            let request = origin.requests().pop().unwrap();
            assert_eq!(fields(&request, "x-forwarded-for"), [*client]);
            assert_eq!(fields(&request, "x-real-ip"), [*client]);
            let forwarded = fields(&request, "forwarded").concat();
            assert!(forwarded.contains(client), "{forwarded}");
            assert!(!request.contains("6.6.6.6"), "{request}");
            drop(asked);
            let line = proxy.log_lines(index + 1).await.pop().unwrap();
            assert!(line.contains(&format!("\"client\":\"{client}\"")), "{line}");
            assert!(line.contains(&format!("\"peer\":\"{peer}\"")), "{line}");
            assert!(line.contains("\"proxy\":\"127.0.0.1:"), "{line}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_connection_of_nobody_in_particular_is_the_proxys_own() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = setup(&origin).start();
        let headers = [
            b"PROXY UNKNOWN\r\n".to_vec(),
            b"PROXY UNKNOWN 192.0.2.7 192.0.2.1 4711 443\r\n".to_vec(),
            v2(0x20, 0x00, b""),
            v2(0x20, 0x11, &v2_four()[16..]),
            v2(0x21, 0x00, &v2_four()[16..]),
            v2(0x21, 0x12, &v2_four()[16..]),
            v2(0x21, 0x31, &[b'/'; 216]),
        ];
        for header in headers {
            let mut client = ask(proxy.address, &[&[&header, GET.as_bytes()].concat()]).await;
            assert_eq!(client.answer().await.status, 200);
            let request = origin.requests().pop().unwrap();
            assert_eq!(fields(&request, "x-forwarded-for"), ["127.0.0.1"], "{header:?}");
        }
        let lines = proxy.log_lines(7).await;
        assert!(!lines.iter().any(|line| line.contains("\"proxy\"")), "{lines:?}");
    })
    .await;
}

#[tokio::test]
async fn a_header_in_any_two_parts_is_whole_and_nothing_behind_it_is_lost() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = setup(&origin).start();
        let post = "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\n\r\nabcGET /next \
                    HTTP/1.1\r\nHost: a.test\r\n\r\n";
        for header in [LINE.to_vec(), v2_four(), v2_six()] {
            let bytes = [&header, post.as_bytes()].concat();
            for at in 1..header.len() + 2 {
                let mut client = ask(proxy.address, &[&bytes[..at], &bytes[at..]]).await;
                for path in ["/", "/next"] {
                    assert_eq!(client.answer().await.status, 200, "{path} {at}");
                }
            }
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            let mut client = ask(proxy.address, &single).await;
            assert_eq!(client.answer().await.status, 200);
            assert_eq!(client.answer().await.status, 200);
        }
        for pair in origin.requests().chunks(2) {
            assert!(pair[0].ends_with("\r\n\r\nabc"), "{pair:?}");
            assert!(pair[1].starts_with("GET /next "), "{pair:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn tls_and_http2_follow_a_header_in_the_same_segment() {
    within(async {
        let origin = Origin::answering(OK).await;
        let (authority, dir) = (Authority::new(), TempDir::new().unwrap());
        authority.sign(dir.path(), "a", &["a.test"]);
        let tls = "[listener.tls]\ncertificates = [{ certificate = \"a.crt\", key = \"a.key\" }]\n";
        let proxy = setup(&origin).listener(tls).start_in(dir);
        for split in [false, true] {
            // The client's bytes pass through here, the first of them behind the header.
            let (client, mut inner) = tokio::io::duplex(64 * 1024);
            let mut outer = TcpStream::connect(proxy.address).await.unwrap();
            outer.set_nodelay(true).unwrap();
            tokio::spawn(async move {
                let mut first = v2_six();
                inner.read_buf(&mut first).await.unwrap();
                let at = if split { 60 } else { first.len() };
                outer.write_all(&first[..at]).await.unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
                outer.write_all(&first[at..]).await.unwrap();
                let _ended = tokio::io::copy_bidirectional(&mut inner, &mut outer).await;
            });
            let config = std::sync::Arc::new(authority.client(&["h2"]));
            let name = ServerName::try_from("a.test").unwrap();
            let stream = tokio_rustls::TlsConnector::from(config).connect(name, client).await;
            let io = TokioIo::new(stream.unwrap());
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tokio::spawn(connection);
            let request = Request::get("https://a.test/").body(Empty::<Bytes>::new()).unwrap();
            let response = sender.send_request(request).await.unwrap();
            assert_eq!(response.status(), 200);
            response.into_body().collect().await.unwrap();
            let request = origin.requests().pop().unwrap();
            assert_eq!(fields(&request, "x-forwarded-for"), ["2001:db8::7"]);
            assert_eq!(fields(&request, "x-forwarded-proto"), ["https"]);
        }
    })
    .await;
}

#[tokio::test]
async fn http2_by_prior_knowledge_follows_a_header() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = setup(&origin).start();
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        stream.write_all(LINE).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .unwrap();
        tokio::spawn(connection);
        let request = Request::get("http://a.test/").body(Empty::<Bytes>::new()).unwrap();
        assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
        assert_eq!(fields(&origin.request(), "x-forwarded-for"), ["192.0.2.7"]);
    })
    .await;
}

#[tokio::test]
async fn a_stranger_announces_nobody() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = setup(&origin).start();
        for header in [LINE.to_vec(), b"PROXY UNKNOWN\r\n".to_vec(), v2_four(), v2(0x20, 0, b"")] {
            let mut client = stranger(proxy.address).await;
            client.try_send([&header, GET.as_bytes()].concat()).await;
            let answer = String::from_utf8(client.read_to_end().await).unwrap();
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer}");
            assert!(!answer.contains(" 200 "), "{answer}");
            if header.starts_with(b"PROXY") {
                assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
            }
        }
        assert!(origin.bytes().is_empty());
        let mut client = stranger(proxy.address).await;
        client.send(GET).await;
        assert_eq!(client.answer().await.status, 200);
        assert_eq!(fields(&origin.request(), "x-forwarded-for"), ["127.0.0.2"]);
    })
    .await;
}

#[tokio::test]
async fn without_configuration_a_header_is_no_request() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = Setup::forwarding_to(&origin).start();
        let mut client = ask(proxy.address, &[LINE, GET.as_bytes()]).await;
        let answer = String::from_utf8(client.read_to_end().await).unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert!(origin.bytes().is_empty());
    })
    .await;
}

#[tokio::test]
async fn what_is_no_header_is_closed_without_a_word_and_counted() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = setup(&origin).start();
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(100));
        let two = b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 443\n".to_vec();
        let checksum = [&v2_four()[16..], b"\x03\0\x04\0\0\0\0"].concat();
        for (header, reason) in [
            (b"".to_vec(), "missing"),
            (b"\x16\x03\x01\x02\0\x01".to_vec(), "missing"),
            (b"proxy UNKNOWN\r\n".to_vec(), "missing"),
            (b"\r\n\r\n\0\r\nQUIT\r".to_vec(), "missing"),
            (b"PROXY TCP4 192.0.2.7 192.0.2.1 4711\r\n".to_vec(), "malformed"),
            (b"PROXY TCP4 192.0.2.7 192.0.2.1 04711 443\r\n".to_vec(), "malformed"),
            (b"PROXY TCP4 2001:db8::7 2001:db8::1 4711 443\r\n".to_vec(), "malformed"),
            (b"PROXY UNIX /x /y\r\n".to_vec(), "malformed"),
            (v2(0x11, 0x11, &v2_four()[16..]), "malformed"),
            (v2(0x22, 0x11, &v2_four()[16..]), "malformed"),
            (v2(0x21, 0x41, &v2_four()[16..]), "malformed"),
            (v2(0x21, 0x21, &v2_four()[16..]), "malformed"),
            (v2(0x21, 0x11, &checksum), "malformed"),
            // It has no end within what a line may be.
            ([&two, &[b'x'; 100][..]].concat(), "oversize"),
            (long.into_bytes(), "oversize"),
            (v2(0x21, 0x11, &[0; 521]), "oversize"),
            (v2(0x20, 0x00, &[0; 65_535]), "oversize"),
        ] {
            let reason = format!("proxy_header_{reason}");
            let before = refused(&proxy, &reason).await;
            let mut client = ask(proxy.address, &[&[&header, GET.as_bytes()].concat()]).await;
            assert!(client.read_to_end().await.is_empty(), "{header:?}");
            assert_eq!(refused(&proxy, &reason).await, before + 1, "{reason}: {header:?}");
        }
        assert!(origin.bytes().is_empty());
        assert!(!proxy.dir.path().join("access.log").metadata().is_ok_and(|log| log.len() > 0));
    })
    .await;
}

#[tokio::test]
async fn a_header_has_a_deadline_and_an_end() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = setup(&origin).listener("timeout = \"200ms\"").start();
        for start in [&LINE[..20], b"PROXY", &v2_four()[..20], b"\r"] {
            let before = refused(&proxy, "proxy_header_timeout").await;
            let mut client = ask(proxy.address, &[start]).await;
            assert!(client.read_to_end().await.is_empty());
            assert_eq!(refused(&proxy, "proxy_header_timeout").await, before + 1);
            // One that ends on its own before that.
            let before = refused(&proxy, "proxy_header_truncated").await;
            drop(ask(proxy.address, &[start]).await);
            eventually("the end is noticed", async || {
                refused(&proxy, "proxy_header_truncated").await > before
            })
            .await;
        }
        // Nothing at all is what those send who look whether somebody listens.
        drop(ask(proxy.address, &[]).await);
        let silent = refused(&proxy, "proxy_header_timeout").await;
        let mut client = ask(proxy.address, &[]).await;
        assert!(client.read_to_end().await.is_empty());
        assert_eq!(refused(&proxy, "proxy_header_timeout").await, silent + 1);
        // The deadline is the header's, and not the request's.
        let mut client = ask(proxy.address, &[LINE]).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        client.send(GET).await;
        assert_eq!(client.answer().await.status, 200);
        assert!(origin.requests().len() == 1);
    })
    .await;
}

#[tokio::test]
async fn a_longer_header_passes_where_that_is_configured() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = setup(&origin).listener("max_header = \"64KiB\"").start();
        let block = [&v2_four()[16..], b"\xe0\x7f\xff", &[7; 0x7fff][..]].concat();
        let bytes = [&v2(0x21, 0x11, &block), GET.as_bytes()].concat();
        let mut client = ask(proxy.address, &[&bytes]).await;
        assert_eq!(client.answer().await.status, 200);
        assert_eq!(fields(&origin.request(), "x-forwarded-for"), ["192.0.2.7"]);
    })
    .await;
}

fn of(client: u8) -> Vec<u8> {
    format!("PROXY TCP4 192.0.2.{client} 192.0.2.1 4711 443\r\n").into_bytes()
}

#[tokio::test]
async fn limits_count_the_announced_client_and_not_the_proxy() {
    within(async {
        let origin = Origin::answering(OK).await;
        for workers in [1, 2] {
            let server = format!("workers = {workers}\nmax_connections_per_client = 1");
            let limited = "[route.rate_limit]\nrate = 1\nper = \"1h\"\nburst = 2\n";
            let proxy = Setup::new(format!(
                "[[upstream]]\nname = \"origin\"\norigins = [\"{origin}\"]\n\
                 [[route]]\nname = \"all\"\nupstream = \"origin\"\n{limited}"
            ))
            .listener(FROM)
            .server(&server)
            .start();
            // Those that have not said whose they are count for nobody.
            let _silent = [ask(proxy.address, &[]).await, ask(proxy.address, &[]).await];
            let mut first = ask(proxy.address, &[&of(1), GET.as_bytes()]).await;
            let mut second = ask(proxy.address, &[&of(2), GET.as_bytes()]).await;
            assert_eq!(first.answer().await.status, 200);
            assert_eq!(second.answer().await.status, 200);
            let mut again = ask(proxy.address, &[&of(1), GET.as_bytes()]).await;
            assert!(again.read_to_end().await.is_empty());
            assert_eq!(refused(&proxy, "limit_client").await, 1);
            drop(first);
            let mut first = loop {
                let mut first = ask(proxy.address, &[&of(1), GET.as_bytes()]).await;
                if first.read_to_end_or("ok").await {
                    break first;
                }
            };
            // The first has used up its burst; the second has not.
            first.read_until("ok").await;
            first.send(GET).await;
            assert_eq!(first.answer().await.status, 429);
            second.send(GET).await;
            assert_eq!(second.answer().await.status, 200);
        }
    })
    .await;
}

#[tokio::test]
async fn an_announced_proxy_is_trusted_by_its_own_address() {
    within(async {
        let origin = Origin::answering(OK).await;
        let trusted = "trusted_proxies = [\"192.0.2.2\"]";
        let proxy = setup(&origin).server(trusted).start();
        for (client, expected) in [(1, "192.0.2.1"), (2, "203.0.113.9, 192.0.2.2")] {
            let request = "GET / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n";
            let mut asked = ask(proxy.address, &[&of(client), request.as_bytes()]).await;
            assert_eq!(asked.answer().await.status, 200);
            let request = origin.requests().pop().unwrap();
            assert_eq!(fields(&request, "x-forwarded-for"), [expected]);
        }
    })
    .await;
}

#[tokio::test]
async fn every_worker_reads_headers_also_of_connections_that_were_handed_on() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = setup(&origin).server("workers = 3").start();
        let mut clients = Vec::new();
        for number in 0..60_u8 {
            // Before the header has come, it is on its way to another worker.
            let mut client = ask(proxy.address, &[]).await;
            client.send(&of(number)[..9]).await;
            clients.push(client);
        }
        for (number, client) in (0..60_u8).zip(&mut clients) {
            client.send([&of(number)[9..], GET.as_bytes()].concat()).await;
            assert_eq!(client.answer().await.status, 200);
            let request = origin.requests().pop().unwrap();
            assert_eq!(fields(&request, "x-forwarded-for"), [format!("192.0.2.{number}")]);
        }
    })
    .await;
}

#[tokio::test]
async fn a_drain_does_not_wait_for_headers_longer_than_they_may_take() {
    within(async {
        let origin = Origin::answering(OK).await;
        let mut proxy = setup(&origin).listener("timeout = \"2s\"").start();
        let mut served = ask(proxy.address, &[LINE, CLOSE.as_bytes()]).await;
        assert_eq!(served.answer().await.status, 200);
        let mut waiting = ask(proxy.address, &[&LINE[..9]]).await;
        let mut late = ask(proxy.address, &[&LINE[..9]]).await;
        proxy.begin_stop();
        late.send([&LINE[9..], CLOSE.as_bytes()].concat()).await;
        assert_eq!(late.answer().await.status, 200);
        assert!(waiting.read_to_end().await.is_empty());
        assert_eq!(proxy.ended().await.cut, 0);
    })
    .await;
}
