//! Unix sockets, to be connected to and to connect to.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use crate::support::certs::{Authority, server};
use crate::support::client::{Io, Raw, fields, get};
use crate::support::origin::{Origin, serve_h2};
use crate::support::proxy::{Running, Setup};
use crate::support::{eventually, within};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
const LOCAL: &str = "[[listener]]\nname = \"local\"\naddress = \"unix:local.sock\"\n";

fn local(proxy: &Running) -> PathBuf {
    proxy.dir.path().join("local.sock")
}

async fn connect(path: &Path) -> Raw {
    Raw::over(UnixStream::connect(path).await.unwrap())
}

async fn ask(path: &Path, request: &str) -> crate::support::client::Answer {
    let mut client = connect(path).await;
    client.send(request).await;
    client.answer().await
}

#[tokio::test]
async fn a_client_on_a_unix_socket_is_served_and_has_no_address() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = Setup::forwarding_to(&origin).json_log().and(LOCAL).start();
        let mut client = connect(&local(&proxy)).await;
        for _ in 0..2 {
            client
                .send(
                    "GET / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: 6.6.6.6\r\n\
                     X-Real-IP: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n\r\n",
                )
                .await;
            assert_eq!(client.answer().await.status, 200);
        }
        let request = origin.requests().pop().unwrap();
        assert!(!request.contains("6.6.6.6"), "{request}");
        assert!(fields(&request, "x-forwarded-for").is_empty(), "{request}");
        assert_eq!(fields(&request, "x-forwarded-proto"), ["http"]);
        assert_eq!(fields(&request, "x-forwarded-host"), ["a.test"]);
        let line = proxy.log_lines(2).await.pop().unwrap();
        assert!(line.contains("\"listener\":\"local\""), "{line}");
        assert!(!line.contains("\"client\"") && !line.contains("\"peer\""), "{line}");
        // The listener beside it goes on as ever.
        assert_eq!(get(proxy.address, "/", "").await.status, 200);
    })
    .await;
}

#[tokio::test]
async fn http2_and_tls_work_over_a_unix_socket() {
    within(async {
        let origin = Origin::answering(OK).await;
        let (authority, dir) = (Authority::new(), TempDir::new().unwrap());
        authority.sign(dir.path(), "a", &["a.test"]);
        let tls = "[[listener]]\nname = \"tls\"\naddress = \"unix:tls.sock\"\n[listener.tls]\n\
                   certificates = [{ certificate = \"a.crt\", key = \"a.key\" }]\n";
        let proxy = Setup::forwarding_to(&origin).and(LOCAL).and(tls).start_in(dir);
        let plain = UnixStream::connect(local(&proxy)).await.unwrap();
        let stream = UnixStream::connect(proxy.dir.path().join("tls.sock")).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(authority.client(&["h2"])));
        let name = ServerName::try_from("a.test").unwrap();
        let secure = connector.connect(name, stream).await.unwrap();
        let streams: [(&str, Box<dyn Io>); 2] =
            [("http", Box::new(plain)), ("https", Box::new(secure))];
        for (scheme, stream) in streams {
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                    .await
                    .unwrap();
            tokio::spawn(connection);
            let url = format!("{scheme}://a.test/");
            let request = Request::get(url).body(Empty::<Bytes>::new()).unwrap();
            assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
            let request = origin.requests().pop().unwrap();
            assert_eq!(fields(&request, "x-forwarded-proto"), [scheme]);
        }
    })
    .await;
}

#[tokio::test]
async fn limits_by_address_do_not_apply_and_that_of_all_does() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = Setup::new(format!(
            "[[upstream]]\nname = \"origin\"\norigins = [\"{origin}\"]\n\
             [[route]]\nname = \"all\"\nupstream = \"origin\"\n\
             [route.rate_limit]\nrate = 1\nper = \"1h\"\n"
        ))
        .server("max_connections_per_client = 1\nmax_connections = 4")
        .and(LOCAL)
        .start();
        let mut clients = Vec::new();
        for _ in 0..4 {
            let mut client = connect(&local(&proxy)).await;
            client.send(GET).await;
            assert_eq!(client.answer().await.status, 200);
            clients.push(client);
        }
        let mut one_too_many = connect(&local(&proxy)).await;
        one_too_many.try_send(GET).await;
        assert!(one_too_many.read_to_end().await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_proxy_behind_a_unix_socket_is_believed_where_it_is_named() {
    within(async {
        let origin = Origin::answering(OK).await;
        let introduced = "[[listener]]\nname = \"introduced\"\naddress = \"unix:pp.sock\"\n\
                          [listener.proxy_protocol]\nfrom = [\"unix\"]\n";
        let proxy = Setup::forwarding_to(&origin)
            .server("trusted_proxies = [\"unix\"]")
            .and(LOCAL)
            .and(introduced)
            .start();
        let request = "GET / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: 6.6.6.6, 192.0.2.7\r\n\
                       X-Forwarded-Proto: https\r\n\r\n";
        assert_eq!(ask(&local(&proxy), request).await.status, 200);
        let seen = origin.requests().pop().unwrap();
        assert_eq!(fields(&seen, "x-forwarded-for"), ["6.6.6.6, 192.0.2.7"]);
        assert_eq!(fields(&seen, "x-real-ip"), ["192.0.2.7"]);
        assert_eq!(fields(&seen, "x-forwarded-proto"), ["https"]);
        // Whoever connects over TCP is a stranger all the same.
        get(proxy.address, "/", "X-Forwarded-For: 6.6.6.6\r\n").await;
        let seen = origin.requests().pop().unwrap();
        assert_eq!(fields(&seen, "x-forwarded-for"), ["127.0.0.1"]);

        let path = proxy.dir.path().join("pp.sock");
        let line = "PROXY TCP4 192.0.2.9 192.0.2.1 4711 443\r\n";
        assert_eq!(ask(&path, &format!("{line}{request}")).await.status, 200);
        let seen = origin.requests().pop().unwrap();
        assert_eq!(fields(&seen, "x-forwarded-for"), ["192.0.2.9"]);
        let mut client = connect(&path).await;
        client.try_send(GET).await;
        assert!(client.read_to_end().await.is_empty());
        let lines = proxy.log_lines(3).await;
        assert!(lines[0].contains(" 192.0.2.7 \"GET"), "{lines:?}");
        assert!(lines[2].contains(" 192.0.2.9 \"GET"), "{lines:?}");
    })
    .await;
}

#[tokio::test]
async fn the_file_has_its_mode_and_goes_when_the_proxy_stops() {
    within(async {
        let origin = Origin::answering(OK).await;
        let with_mode = format!("{LOCAL}unix_mode = \"0600\"\n");
        for (listener, mode, workers) in [(LOCAL, 0o660, 1), (&*with_mode, 0o600, 3)] {
            let workers = format!("workers = {workers}");
            let mut proxy = Setup::forwarding_to(&origin).server(&workers).and(listener).start();
            let path = local(&proxy);
            let file = std::fs::metadata(&path).unwrap();
            assert!(file.file_type().is_socket());
            assert_eq!(file.permissions().mode() & 0o7777, mode);
            assert_eq!(ask(&path, GET).await.status, 200);
            let mut clients = Vec::new();
            for _ in 0..20 {
                let mut client = connect(&path).await;
                client.send(GET).await;
                clients.push(client);
            }
            // What has connected is answered, also if nobody had accepted it yet.
            proxy.begin_stop();
            for client in &mut clients {
                assert_eq!(client.answer().await.status, 200);
            }
            assert_eq!(proxy.ended().await.cut, 0);
            assert!(!path.exists());
        }
    })
    .await;
}

fn bind_error(dir: &Path) -> String {
    let toml =
        format!("[admin]\nenabled = false\n{LOCAL}[[route]]\nname = \"all\"\nrespond = {{}}\n");
    let settings = tollgate::config::parse(&dir.join("x.toml"), &toml).unwrap();
    match tollgate::Proxy::build(settings).unwrap().bind() {
        Ok(_) => "bound".to_owned(),
        Err(error) => format!("{error}: {}", error.cause),
    }
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_nothing_else_is() {
    within(async {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("local.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        assert_eq!(bind_error(dir.path()), "bound");
        assert!(!path.exists());

        let proxy = Setup::new("[[route]]\nname = \"all\"\nrespond = {}\n").and(LOCAL).start();
        let error = bind_error(proxy.dir.path());
        assert!(error.contains("another process listens there"), "{error}");
        assert!(error.contains("unix:/") && error.contains("local.sock"), "{error}");
        assert_eq!(ask(&local(&proxy), GET).await.status, 200);

        std::fs::write(&path, "precious").unwrap();
        let error = bind_error(dir.path());
        assert!(error.contains("no socket"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    })
    .await;
}

/// What an origin on a Unix socket has seen of the requests.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<String>>>);

/// Answers over a Unix socket, with what it was sent after the head.
fn unix_origin(path: &Path) -> Seen {
    let (listener, seen) = (UnixListener::bind(path).unwrap(), Seen::default());
    let shared = seen.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let seen = shared.clone();
            tokio::spawn(async move {
                let mut read = Vec::new();
                while stream.read_buf(&mut read).await.unwrap_or(0) > 0 {
                    let Some(end) = read.windows(4).position(|at| at == b"\r\n\r\n") else {
                        continue;
                    };
                    let head = String::from_utf8_lossy(&read[..end + 4]).into_owned();
                    let length =
                        fields(&head, "content-length").first().map_or(0, |n| n.parse().unwrap());
                    while read.len() < end + 4 + length {
                        stream.read_buf(&mut read).await.unwrap();
                    }
                    let body = read.split_off(end + 4);
                    read.clear();
                    seen.0.lock().push(head);
                    let head =
                        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", length.max(2));
                    stream.write_all(head.as_bytes()).await.unwrap();
                    let body = if length == 0 { b"ok".to_vec() } else { body };
                    stream.write_all(&body).await.unwrap();
                }
            });
        }
    });
    seen
}

fn forwarding(url: &str, more: &str) -> Setup {
    Setup::new(format!(
        "[[upstream]]\nname = \"origin\"\norigins = [\"{url}\"]\n{more}\n\
         [[route]]\nname = \"all\"\nupstream = \"origin\"\n"
    ))
}

#[tokio::test]
async fn an_origin_on_a_unix_socket_is_asked_by_its_path() {
    within(async {
        let dir = TempDir::new().unwrap();
        let seen = unix_origin(&dir.path().join("app.sock"));
        let proxy = forwarding("unix:app.sock", "").json_log().start_in(dir);
        let mut client = Raw::connect(proxy.address).await;
        for _ in 0..2 {
            client.send(GET).await;
            assert_eq!(client.answer().await.text(), "ok");
        }
        // Bytes enough that neither side takes them all at once.
        let body = vec![b'x'; 8 << 20];
        let head =
            format!("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {}\r\n\r\n", body.len());
        client.send([head.as_bytes(), &body].concat()).await;
        assert_eq!(client.answer().await.body.len(), body.len());
        assert_eq!(fields(&seen.0.lock()[0], "host"), ["a.test"]);
        let lines = proxy.log_lines(3).await;
        assert!(lines[0].contains("app.sock\""), "{lines:?}");
        // The second and the third found the connection of the first.
        let connected = lines.iter().filter(|line| line.contains("connect_ms")).count();
        assert_eq!(connected, 1, "{lines:?}");
    })
    .await;
}

#[tokio::test]
async fn its_own_name_is_localhost() {
    within(async {
        let dir = TempDir::new().unwrap();
        let seen = unix_origin(&dir.path().join("app.sock"));
        let proxy = forwarding("unix:app.sock", "").and("host = \"origin\"").start_in(dir);
        assert_eq!(get(proxy.address, "/", "").await.status, 200);
        assert_eq!(fields(&seen.0.lock()[0], "host"), ["localhost"]);
    })
    .await;
}

#[tokio::test]
async fn an_origin_on_a_unix_socket_speaks_http2_and_tls() {
    within(async {
        let (authority, dir) = (Authority::new(), TempDir::new().unwrap());
        authority.sign(dir.path(), "o", &["localhost"]);
        authority.write(dir.path());
        let config = Arc::new(server(dir.path(), "o", &["h2"]));
        for secure in [false, true] {
            let name = if secure { "tls.sock" } else { "h2.sock" };
            let listener = UnixListener::bind(dir.path().join(name)).unwrap();
            let config = secure.then(|| config.clone());
            tokio::spawn(async move {
                let answer = Arc::new(|request: &Request<hyper::body::Incoming>| {
                    let seen = format!("{:?} {}", request.version(), request.uri());
                    Response::new(Full::new(Bytes::from(seen)))
                });
                while let Ok((stream, _)) = listener.accept().await {
                    match &config {
                        None => drop(tokio::spawn(serve_h2(stream, answer.clone()))),
                        Some(config) => {
                            let acceptor = tokio_rustls::TlsAcceptor::from(config.clone());
                            let stream = acceptor.accept(stream).await.unwrap();
                            tokio::spawn(serve_h2(stream, answer.clone()));
                        }
                    }
                }
            });
        }
        let proxy = Setup::new(
            "[[upstream]]\nname = \"h2\"\norigins = [\"h2c+unix:h2.sock\"]\n\
             [[upstream]]\nname = \"tls\"\norigins = [\"https+unix:tls.sock\"]\n\
             tls = { ca = \"ca.pem\" }\n\
             [[route]]\nname = \"h2\"\npath = \"/h2\"\nupstream = \"h2\"\n\
             [[route]]\nname = \"tls\"\npath = \"/tls\"\nupstream = \"tls\"\nhost = \"origin\"\n",
        )
        .start_in(dir);
        assert_eq!(get(proxy.address, "/h2", "").await.text(), "HTTP/2.0 http://a.test/h2");
        assert_eq!(get(proxy.address, "/tls", "").await.text(), "HTTP/2.0 https://localhost/tls");
    })
    .await;
}

#[tokio::test]
async fn a_socket_that_is_not_there_is_said_and_comes_back_by_its_probes() {
    within(async {
        let health = "[upstream.health]\npath = \"/up\"\ninterval = \"20ms\"\nrise = 1\n";
        let proxy = forwarding("unix:app.sock", "").start();
        let answer = get(proxy.address, "/", "").await;
        assert_eq!(answer.status, 502);
        assert_eq!(answer.field("proxy-status"), Some("tollgate; error=connection_refused"));
        let line = proxy.log_lines(1).await.pop().unwrap();
        assert!(line.contains("there is no socket at") && line.contains("app.sock"), "{line}");

        let proxy = forwarding("unix:app.sock", health).start();
        eventually("it is taken out", async || get(proxy.address, "/", "").await.status == 503)
            .await;
        let seen = unix_origin(&proxy.dir.path().join("app.sock"));
        eventually("it is back", async || get(proxy.address, "/", "").await.status == 200).await;
        let probe = seen.0.lock()[0].clone();
        assert!(probe.starts_with("GET /up HTTP/1.1\r\n"), "{probe}");
        assert_eq!(fields(&probe, "host"), ["localhost"]);
    })
    .await;
}

#[tokio::test]
async fn a_header_of_the_proxy_protocol_goes_over_a_unix_socket() {
    within(async {
        let dir = TempDir::new().unwrap();
        let seen = unix_origin(&dir.path().join("app.sock"));
        let proxy = forwarding("unix:app.sock", "proxy_protocol = \"v1\"").and(LOCAL).start_in(dir);
        assert_eq!(get(proxy.address, "/", "").await.status, 200);
        let expected = "PROXY TCP4 127.0.0.1 127.0.0.1 ";
        assert!(seen.0.lock()[0].starts_with(expected), "{:?}", seen.0.lock());
        // A client without an address cannot be named.
        assert_eq!(ask(&local(&proxy), GET).await.status, 200);
        let head = seen.0.lock()[1].clone();
        assert!(head.starts_with("PROXY UNKNOWN\r\nGET / HTTP/1.1\r\n"), "{head}");
    })
    .await;
}

#[tokio::test]
async fn an_embedded_proxy_asks_origins_on_unix_sockets() {
    within(async {
        use tower::ServiceExt;
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("app.sock");
        let _seen = unix_origin(&path);
        let service = tollgate::Proxy::builder()
            .upstream("app", [format!("unix:{}", path.display())])
            .forward("/", "app")
            .build()
            .unwrap()
            .into_service();
        let request = Request::get("/").header("host", "a.test").body(Empty::<Bytes>::new());
        let response = service.oneshot(request.unwrap()).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "ok");
    })
    .await;
}

#[test]
fn what_is_wrong_with_a_unix_socket_is_said() {
    let problem = |listener: &str| {
        let toml = format!(
            "[[listener]]\nname = \"a\"\n{listener}\n[[route]]\nname = \"all\"\nrespond = {{}}\n"
        );
        let parsed = tollgate::config::parse("x.toml".as_ref(), &toml);
        parsed.map_or_else(|error| error.problems()[0].message.clone(), |_| "none".to_owned())
    };
    let unix = "address = \"unix:/run/x.sock\"";
    assert_eq!(problem(unix), "none");
    assert_eq!(problem(&format!("{unix}\nunix_mode = \"660\"")), "none");
    let both = "address = [\"127.0.0.1:0\", \"unix:/run/x.sock\"]\n[listener.proxy_protocol]\n";
    assert_eq!(problem(&format!("{both}from = [\"unix\", \"10.0.0.0/8\"]")), "none");
    for (listener, part) in [
        ("address = \"unix:\"", "has no path"),
        ("address = \"unix://run/x.sock\"", "has no path"),
        ("address = \"unix:@x\"", "has no path"),
        (&format!("address = \"unix:/run/{}\"", "x".repeat(108)), "is no socket"),
        ("address = \"127.0.0.1:0\"\nunix_mode = \"660\"", "no Unix socket"),
        (&format!("{unix}\nunix_mode = 660"), "octal"),
        (&format!("{unix}\nunix_mode = \"0888\""), "octal"),
        (&format!("{unix}\nunix_mode = \"4755\""), "octal"),
        (&format!("{unix}\n[listener.proxy_protocol]"), "`from` is missing"),
        (&format!("{unix}\n[listener.proxy_protocol]\nfrom = []"), "names nobody"),
        (&format!("{unix}\n[listener.proxy_protocol]\nfrom = [\"10.0.0.0/8\"]"), "no address"),
        (&format!("{unix}\n[listener.proxy_protocol]\nfrom = [\"unx\"]"), "or \"unix\""),
        ("address = \"127.0.0.1:0\"\n[listener.proxy_protocol]\nfrom = \"unix\"", "no Unix socket"),
        (
            "address = \"127.0.0.1:0\"\n[listener.proxy_protocol]\nfrom = \"10.0.0.0/8\"\n\
             max_header = 100",
            "232 to 65551",
        ),
    ] {
        let said = problem(listener);
        assert!(said.contains(part), "{listener}: {said}");
    }
}
