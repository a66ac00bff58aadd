//! The PROXY protocol towards origins: each connection says whose it is, and
//! carries nobody else's requests.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::proxy_protocol::{OK, v2};
use crate::support::certs::{Authority, server};
use crate::support::client::{Raw, get};
use crate::support::origin::{Connection, Origin};
use crate::support::proxy::{Running, Setup};
use crate::support::{Refusing, eventually, within};

const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// Puts the header of each connection down, and then answers its requests.
struct Told {
    origin: Origin,
    /// One for each connection.
    headers: Arc<Mutex<Vec<Vec<u8>>>>,
}

type Reading<'c> = std::pin::Pin<Box<dyn Future<Output = Vec<u8>> + Send + 'c>>;

impl Told {
    async fn v2() -> Self {
        Self::with(|connection| Box::pin(header_v2(connection))).await
    }

    async fn v1() -> Self {
        Self::with(|connection| {
            Box::pin(async move {
                let mut line = Vec::new();
                while !line.ends_with(b"\r\n") {
                    line.push(connection.stream.read_u8().await.unwrap());
                }
                line
            })
        })
        .await
    }

    async fn with(read: for<'c> fn(&'c mut Connection) -> Reading<'c>) -> Self {
        let headers = Arc::new(Mutex::new(Vec::new()));
        let shared = headers.clone();
        let origin = Origin::scripted(move |mut connection| {
            let shared = shared.clone();
            async move {
                let header = read(&mut connection).await;
                shared.lock().push(header);
                while let Some(request) = connection.request().await {
                    if request.contains("Upgrade: websocket")
                        || request.contains("upgrade: websocket")
                    {
                        let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\
                                      Upgrade: websocket\r\n\r\nhello";
                        connection.write(switch).await;
                        continue;
                    }
                    connection.write(OK).await;
                }
            }
        })
        .await;
        Self { origin, headers }
    }

    fn headers(&self) -> Vec<Vec<u8>> {
        self.headers.lock().clone()
    }
}

async fn header_v2(connection: &mut Connection) -> Vec<u8> {
    let mut header = vec![0; 16];
    if connection.stream.read_exact(&mut header).await.is_err() {
        return Vec::new();
    }
    let block = usize::from(u16::from_be_bytes([header[14], header[15]]));
    header.resize(16 + block, 0);
    connection.stream.read_exact(&mut header[16..]).await.unwrap();
    header
}

fn four(client: SocketAddr, local: SocketAddr) -> Vec<u8> {
    let (SocketAddr::V4(client), SocketAddr::V4(local)) = (client, local) else { panic!() };
    let addresses = [client.ip().octets(), local.ip().octets()].concat();
    let ports = [client.port().to_be_bytes(), local.port().to_be_bytes()].concat();
    v2(0x21, 0x11, &[addresses, ports].concat())
}

async fn connect(proxy: &Running) -> (Raw, SocketAddr) {
    let stream = TcpStream::connect(proxy.address).await.unwrap();
    let address = stream.local_addr().unwrap();
    (Raw::over(stream), address)
}

#[tokio::test]
async fn the_origin_is_told_exactly_who_connected_and_where() {
    within(async {
        let (one, two) = (Told::v1().await, Told::v2().await);
        for (told, version) in [(&one, "v1"), (&two, "v2")] {
            let upstream = format!("proxy_protocol = \"{version}\"");
            let proxy = Setup::forwarding_with(&told.origin, &upstream).start();
            let (mut client, address) = connect(&proxy).await;
            for _ in 0..3 {
                client.send(GET).await;
                assert_eq!(client.answer().await.status, 200);
            }
            // One connection, one header, and the requests right behind it.
            let expected = match version {
                "v1" => format!(
                    "PROXY TCP4 {} {} {} {}\r\n",
                    address.ip(),
                    proxy.address.ip(),
                    address.port(),
                    proxy.address.port()
                )
                .into_bytes(),
                _ => four(address, proxy.address),
            };
            assert_eq!(told.headers(), [expected]);
            assert_eq!(told.origin.requests().len(), 3);
            let request = &told.origin.requests()[0];
            assert!(request.starts_with("GET / HTTP/1.1\r\n"), "{request}");
        }
    })
    .await;
}

#[tokio::test]
async fn two_clients_never_share_a_connection() {
    within(async {
        let told = Told::v2().await;
        for workers in [1, 3] {
            let before = told.headers().len();
            let server = format!("workers = {workers}");
            let proxy = Setup::forwarding_with(&told.origin, "proxy_protocol = \"v2\"")
                .server(&server)
                .start();
            let mut clients = Vec::new();
            for _ in 0..8 {
                clients.push(connect(&proxy).await);
            }
            for round in 0..4 {
                for (client, _) in &mut clients {
                    client.send(format!("GET /{round} HTTP/1.1\r\nHost: a.test\r\n\r\n")).await;
                    assert_eq!(client.answer().await.status, 200);
                }
            }
            let mut headers = told.headers().split_off(before);
            let mut expected: Vec<_> =
                clients.iter().map(|(_, address)| four(*address, proxy.address)).collect();
            headers.sort();
            expected.sort();
            assert_eq!(headers, expected);
        }
    })
    .await;
}

#[tokio::test]
async fn what_a_proxy_announced_is_announced_on() {
    within(async {
        let told = Told::v2().await;
        let proxy = Setup::forwarding_with(&told.origin, "proxy_protocol = \"v2\"")
            .listener("[listener.proxy_protocol]\nfrom = [\"127.0.0.1\"]")
            .start();
        for line in [
            "PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.1 4711 443\r\n",
            "PROXY TCP6 ::ffff:192.0.2.7 ::ffff:192.0.2.1 4711 443\r\n",
        ] {
            let (mut client, _) = connect(&proxy).await;
            client.send(format!("{line}{GET}")).await;
            assert_eq!(client.answer().await.status, 200);
        }
        let address = |last| [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
        let six = [&address(7)[..], &address(1), &[0x12, 0x67, 1, 187]].concat();
        let four = v2(0x21, 0x11, &[192, 0, 2, 7, 192, 0, 2, 1, 0x12, 0x67, 1, 187]);
        // The same client of the same port shares what it has.
        assert_eq!(told.headers(), [v2(0x21, 0x21, &six), four]);
    })
    .await;
}

#[tokio::test]
async fn a_client_that_a_trusted_proxy_vouches_for_has_no_port() {
    within(async {
        let told = Told::v1().await;
        let proxy = Setup::forwarding_with(&told.origin, "proxy_protocol = \"v1\"")
            .server("trusted_proxies = [\"127.0.0.1\"]")
            .start();
        let port = proxy.address.port();
        for (client, lines) in [("192.0.2.7", 1), ("192.0.2.8", 2), ("192.0.2.7", 2)] {
            let fields = format!("X-Forwarded-For: {client}\r\n");
            assert_eq!(get(proxy.address, "/", &fields).await.status, 200);
            assert_eq!(told.headers().len(), lines);
        }
        let expected = [7, 8].map(|client| {
            format!("PROXY TCP4 192.0.2.{client} 127.0.0.1 0 {port}\r\n").into_bytes()
        });
        assert_eq!(told.headers(), expected);
        // IPv6 beside IPv4: both are written as IPv6.
        get(proxy.address, "/", "X-Forwarded-For: 2001:db8::9\r\n").await;
        let expected = format!("PROXY TCP6 2001:db8::9 ::ffff:7f00:1 0 {port}\r\n");
        assert_eq!(told.headers()[2], expected.as_bytes());
    })
    .await;
}

#[tokio::test]
async fn a_connection_on_which_nobody_asks_is_our_own() {
    within(async {
        let told = Told::v2().await;
        let health = "proxy_protocol = \"v2\"\n[upstream.health]\ninterval = \"20ms\"";
        let proxy = Setup::forwarding_with(&told.origin, health).start();
        eventually("it is probed", async || told.headers().len() >= 2).await;
        assert!(told.headers().iter().all(|header| *header == v2(0x20, 0, b"")));
        assert!(told.origin.requests()[0].contains("tollgate-health-check"));
        let (mut client, address) = connect(&proxy).await;
        client.send(GET).await;
        assert_eq!(client.answer().await.status, 200);
        assert!(told.headers().contains(&four(address, proxy.address)));
    })
    .await;
}

#[tokio::test]
async fn tls_with_the_origin_begins_behind_the_header() {
    within(async {
        let (authority, dir) = (Authority::new(), TempDir::new().unwrap());
        authority.sign(dir.path(), "o", &["localhost"]);
        authority.write(dir.path());
        let config = Arc::new(server(dir.path(), "o", &["h2", "http/1.1"]));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let shared = seen.clone();
        let origin = Origin::scripted(move |mut connection| {
            let (config, shared) = (config.clone(), shared.clone());
            async move {
                let header = header_v2(&mut connection).await;
                let acceptor = tokio_rustls::TlsAcceptor::from(config);
                let mut stream = acceptor.accept(connection.stream).await.unwrap();
                let alpn = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
                shared.lock().push((header, alpn));
                let mut read = Vec::new();
                while stream.read_buf(&mut read).await.unwrap_or(0) > 0 {
                    if read.ends_with(b"\r\n\r\n") {
                        stream.write_all(OK.as_bytes()).await.unwrap();
                        stream.flush().await.unwrap();
                    }
                }
            }
        })
        .await;
        let url = format!("https://localhost:{}", origin.address.port());
        let upstream = "proxy_protocol = \"v2\"\n[upstream.tls]\nca = \"ca.pem\"";
        let proxy = Setup::forwarding_with(url, upstream).start_in(dir);
        let (mut client, address) = connect(&proxy).await;
        client.send(GET).await;
        assert_eq!(client.answer().await.status, 200);
        // HTTP/2 is not offered: it would be one connection for all clients.
        let expected = (four(address, proxy.address), Some(b"http/1.1".to_vec()));
        assert_eq!(*seen.lock(), [expected]);
    })
    .await;
}

#[tokio::test]
async fn idle_connections_of_others_make_room_for_a_client() {
    within(async {
        let told = Told::v2().await;
        for more in ["max_connections = 2", "max_idle = 2"] {
            let upstream = format!("proxy_protocol = \"v2\"\n{more}");
            let proxy =
                Setup::forwarding_with(&told.origin, &upstream).server("workers = 2").start();
            let before = told.headers().len();
            for _ in 0..6 {
                let (mut client, _) = connect(&proxy).await;
                client.send(GET).await;
                assert_eq!(client.answer().await.status, 200, "{more}");
                client.send(GET).await;
                assert_eq!(client.answer().await.status, 200, "{more}");
            }
            // The second request of each found the connection of the first.
            assert_eq!(told.headers().len(), before + 6);
        }
    })
    .await;
}

#[tokio::test]
async fn a_fresh_connection_in_the_place_of_a_dead_one_says_it_anew() {
    within(async {
        let headers = Arc::new(Mutex::new(Vec::new()));
        let shared = headers.clone();
        // Each connection answers one request and is closed by the next.
        let origin = Origin::scripted(move |mut connection| {
            let shared = shared.clone();
            async move {
                let header = header_v2(&mut connection).await;
                shared.lock().push(header);
                connection.request().await;
                connection.write(OK).await;
                connection.request().await;
            }
        })
        .await;
        let refusing = Refusing::new();
        let proxy = Setup::new(format!(
            "[[route]]\nname = \"all\"\nupstream = \"both\"\n[[upstream]]\nname = \"both\"\n\
             origins = [\"http://{refusing}\", \"{origin}\"]\nproxy_protocol = \"v2\"\n"
        ))
        .start();
        let (mut client, address) = connect(&proxy).await;
        for _ in 0..3 {
            client.send(GET).await;
            assert_eq!(client.answer().await.status, 200);
        }
        let expected = four(address, proxy.address);
        assert_eq!(*headers.lock(), [expected.clone(), expected.clone(), expected]);
    })
    .await;
}

#[tokio::test]
async fn a_tunnel_says_whose_it_is() {
    within(async {
        let told = Told::v2().await;
        let proxy = Setup::forwarding_with(&told.origin, "proxy_protocol = \"v2\"").start();
        let (mut client, address) = connect(&proxy).await;
        client
            .send(
                "GET /ws HTTP/1.1\r\nHost: a.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            )
            .await;
        let switched = client.read_until("hello").await;
        assert!(switched.starts_with("HTTP/1.1 101 "), "{switched}");
        assert_eq!(told.headers(), [four(address, proxy.address)]);
    })
    .await;
}

#[test]
fn http2_and_connections_made_ahead_are_refused() {
    let error = |origin: &str, more: &str| {
        let toml = format!(
            "[[listener]]\nname = \"a\"\naddress = \"127.0.0.1:0\"\n[[route]]\nname = \"all\"\n\
             upstream = \"o\"\n[[upstream]]\nname = \"o\"\norigins = [\"{origin}\"]\n\
             proxy_protocol = \"v2\"\n{more}\n"
        );
        let parsed = tollgate::config::parse("x.toml".as_ref(), &toml);
        parsed.map_or_else(|error| error.problems()[0].message.clone(), |_| "none".to_owned())
    };
    assert_eq!(error("http://127.0.0.1:1", ""), "none");
    assert_eq!(error("https://127.0.0.1:1", ""), "none");
    assert!(error("h2c://127.0.0.1:1", "").contains("HTTP/2 shares"));
    assert!(error("https://127.0.0.1:1", "protocol = \"http2\"").contains("HTTP/2 shares"));
    assert!(error("http://127.0.0.1:1", "warm = 1").contains("known ahead"));
    // The same said in code.
    let url = "h2c://127.0.0.1:1".parse().unwrap();
    let origins = vec![tollgate::upstream::OriginSettings::new(url)];
    let mut upstream = tollgate::upstream::UpstreamSettings::new("o", origins);
    upstream.proxy_protocol = Some(tollgate::proxy_protocol::Version::V2);
    let built = tollgate::Proxy::builder().upstream_with(upstream).forward("/", "o").build();
    assert!(built.unwrap_err().to_string().contains("HTTP/2 shares"));
}
