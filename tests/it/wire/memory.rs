//! The memory budget: what does not fit is refused before it is begun, and the
//! process stays below what it was given, whatever clients do.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use tempfile::TempDir;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::support::certs::{self, Authority};
use crate::support::client::{Answer, Io, Raw, ask, get};
use crate::support::origin::Origin;
use crate::support::proxy::{Running, Setup};
use crate::support::{eventually, within};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";

/// An origin that answers when it is told to, whatever it has of the request.
async fn patient() -> (Origin, watch::Sender<bool>) {
    let (release, released) = watch::channel(false);
    let origin = Origin::scripted(move |mut connection| {
        let mut released = released.clone();
        async move {
            if connection.head().await.is_some() {
                drop(released.wait_for(|released| *released).await);
                connection.write(OK).await;
                while !connection.some().await.is_empty() {}
            }
        }
    })
    .await;
    (origin, release)
}

fn small(origin: &Origin) -> Setup {
    Setup::forwarding_to(origin).server("memory_budget = \"4MiB\"")
}

/// What the admin listener says.
async fn admin(address: std::net::SocketAddr, path: &str) -> Answer {
    ask(address, format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await
}

/// A value of the metrics.
async fn metric(proxy: &Running, name: &str) -> u64 {
    let text = admin(proxy.admin, "/metrics").await.text();
    let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
    line.unwrap_or_else(|| panic!("no {name} in\n{text}"))
        .rsplit_once(' ')
        .unwrap()
        .1
        .parse()
        .unwrap()
}

async fn gives_all_back(proxy: &Running) {
    eventually("nothing is charged", async || {
        metric(proxy, "tollgate_memory_charged_bytes").await == 0
    })
    .await;
}

/// Opens slow uploads until one is refused; checks the answer to that one.
async fn fill(origin: &Origin, open: impl AsyncFn() -> Raw) -> Vec<Raw> {
    let upload = "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 10\r\n\r\nabc";
    let mut held = Vec::new();
    loop {
        let mut client = open().await;
        client.send(upload).await;
        let reached = async || origin.connections() > held.len();
        tokio::select! {
            () = eventually("it reaches the origin", reached) => held.push(client),
            answer = client.answer() => {
                assert_eq!(answer.status, 503, "{}", answer.head);
                assert_eq!(answer.field("retry-after"), Some("5"));
                assert!(answer.text().contains("\"memory\""), "{}", answer.text());
                return held;
            }
        }
        assert!(held.len() < 100, "the budget has no end");
    }
}

async fn over_http1(
    proxy: Running,
    origin: Origin,
    release: watch::Sender<bool>,
    open: impl AsyncFn() -> Raw,
) {
    let held = fill(&origin, &open).await;
    assert!(held.len() >= 10, "{}", held.len());
    let charged = metric(&proxy, "tollgate_memory_charged_bytes").await;
    assert!(charged <= metric(&proxy, "tollgate_memory_budget_bytes").await, "{charged}");
    assert_eq!(metric(&proxy, "tollgate_memory_refusals_total{for=\"exchange\"}").await, 1);
    assert!(proxy.log_lines(1).await[0].contains("rejected=memory"));
    // One that ends makes room for another.
    release.send(true).unwrap();
    for mut client in held {
        client.try_send("defghij").await;
        assert_eq!(client.answer().await.status, 200);
    }
    let mut client = open().await;
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 200);
    drop(client);
    gives_all_back(&proxy).await;
}

#[tokio::test]
async fn what_does_not_fit_is_503_and_fits_again_when_others_are_done() {
    within(async {
        let (origin, release) = patient().await;
        let proxy = small(&origin).start();
        let address = proxy.address;
        over_http1(proxy, origin, release, async || Raw::connect(address).await).await;
    })
    .await;
}

fn with_certificate(authority: &Authority) -> (TempDir, &'static str) {
    let dir = TempDir::new().unwrap();
    authority.sign(dir.path(), "a", &["a.test"]);
    let tls = "[listener.tls]\ncertificates = [{ certificate = \"a.crt\", key = \"a.key\" }]";
    (dir, tls)
}

#[tokio::test]
async fn the_same_holds_over_tls() {
    within(async {
        let (origin, release) = patient().await;
        let authority = Authority::new();
        let (dir, tls) = with_certificate(&authority);
        let proxy = small(&origin).listener(tls).start_in(dir);
        let address = proxy.address;
        let open = async || {
            let config = authority.client(&["http/1.1"]);
            Raw::over(certs::connect(address, config, "a.test").await.unwrap())
        };
        over_http1(proxy, origin, release, open).await;
    })
    .await;
}

type H2 = h2::client::SendRequest<Bytes>;

async fn h2_over(io: impl Io + 'static) -> H2 {
    let (sender, connection) = h2::client::handshake(io).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn post() -> Request<()> {
    Request::post("https://a.test/").body(()).unwrap()
}

async fn over_http2(proxy: Running, origin: Origin, release: watch::Sender<bool>, mut client: H2) {
    let mut held = Vec::new();
    loop {
        client = client.ready().await.unwrap();
        let (mut response, mut body) = client.send_request(post(), false).unwrap();
        body.send_data(Bytes::from_static(b"abc"), false).unwrap();
        let reached = async || origin.connections() > held.len();
        tokio::select! {
            () = eventually("it reaches the origin", reached) => held.push((response, body)),
            refused = &mut response => {
                let refused = refused.unwrap();
                assert_eq!(refused.status(), 503);
                assert_eq!(refused.headers()["retry-after"], "5");
                break;
            }
        }
        assert!(held.len() < 100, "the budget has no end");
    }
    assert!(held.len() >= 5, "{}", held.len());
    release.send(true).unwrap();
    for (response, mut body) in held {
        let _answered_already = body.send_data(Bytes::from_static(b"d"), true);
        let mut response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.body_mut().data().await.unwrap().unwrap(), "ok");
    }
    eventually("there is room again", async || {
        let mut ready = client.clone().ready().await.unwrap();
        let get = Request::get("https://a.test/").body(()).unwrap();
        let (response, _) = ready.send_request(get, true).unwrap();
        response.await.unwrap().status() == 200
    })
    .await;
    drop(client);
    gives_all_back(&proxy).await;
}

#[tokio::test]
async fn the_same_holds_for_the_streams_of_http2() {
    within(async {
        let (origin, release) = patient().await;
        let proxy = small(&origin).start();
        let client = h2_over(TcpStream::connect(proxy.address).await.unwrap()).await;
        over_http2(proxy, origin, release, client).await;
    })
    .await;
}

#[tokio::test]
async fn the_same_holds_for_the_streams_of_http2_over_tls() {
    within(async {
        let (origin, release) = patient().await;
        let authority = Authority::new();
        let (dir, tls) = with_certificate(&authority);
        let proxy = small(&origin).listener(tls).start_in(dir);
        let stream = certs::connect(proxy.address, authority.client(&["h2"]), "a.test").await;
        let client = h2_over(stream.unwrap()).await;
        over_http2(proxy, origin, release, client).await;
    })
    .await;
}

#[tokio::test]
async fn what_lies_in_a_stream_stays_charged_when_its_exchange_seems_over() {
    within(async {
        let origin = Origin::answering(
            "HTTP/1.1 200 OK\r\nContent-Length: 20\r\nConnection: close\r\n\r\n01234567890123456789",
        )
        .await;
        let proxy = small(&origin).start();
        let tcp = TcpStream::connect(proxy.address).await.unwrap();
        // A window of one byte: the origin's bytes are all with the connection.
        let (mut client, connection) = h2::client::Builder::new()
            .initial_window_size(1)
            .handshake::<_, Bytes>(tcp)
            .await
            .unwrap();
        tokio::spawn(connection);
        let get = || Request::get("http://a.test/").body(()).unwrap();
        let (response, _) = client.send_request(get(), true).unwrap();
        let mut response = response.await.unwrap();
        assert_eq!(response.body_mut().data().await.unwrap().unwrap(), "0");
        tokio::time::sleep(Duration::from_millis(100)).await;
        let with_stream = metric(&proxy, "tollgate_memory_charged_bytes").await;
        assert!(with_stream >= 24 * 1024 + 64 * 1024 + 32 * 1024, "{with_stream}");
        drop(response);
        eventually("only the connection is charged", async || {
            metric(&proxy, "tollgate_memory_charged_bytes").await == (24 + 64) * 1024
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn connections_beyond_the_budget_are_closed_and_the_admin_listener_answers() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = small(&origin).start();
        let mut held = Vec::new();
        while metric(&proxy, "tollgate_memory_refusals_total{for=\"connection\"}").await == 0 {
            held.push(TcpStream::connect(proxy.address).await.unwrap());
            assert!(held.len() < 500, "the budget has no end");
        }
        // 4 MiB by 24 KiB.
        assert!((150..=180).contains(&held.len()), "{}", held.len());
        assert_eq!(admin(proxy.admin, "/livez").await.status, 200);
        assert!(admin(proxy.admin, "/metrics").await.text().contains("reason=\"memory\"} "));
        drop(held);
        eventually("there is room again", async || {
            let mut client = Raw::connect(proxy.address).await;
            client.try_send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
            client.read_to_end_or("200 OK").await
        })
        .await;
    })
    .await;
}

/// The real command, in a process of its own, ended with the test.
struct Child(std::process::Child);

impl Drop for Child {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

impl Child {
    /// A line of its `/proc/PID/status`, in bytes.
    fn status(&self, name: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_start_matches(':').split_whitespace().next().unwrap().parse::<u64>().unwrap()
            * 1024
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A socket for which the system holds little, so that the proxy would have to.
fn narrow() -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(32 * 1024).unwrap();
    socket.set_send_buffer_size(32 * 1024).unwrap();
    socket
}

/// An origin that leaves uploads unread at `/up`, answers without end at `/down`,
/// and everything else with 200.
fn hostile_origin() -> Origin {
    let socket = narrow();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    Origin::scripted_on(socket.listen(1024).unwrap(), |mut connection| async move {
        while let Some(head) = connection.head().await {
            if head.starts_with("POST /up") {
                std::future::pending::<()>().await;
            } else if head.starts_with("GET /down") {
                connection.write("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n").await;
                let large = vec![b'x'; 1 << 20];
                for _ in 0..100 {
                    connection.write(&large).await;
                }
                return;
            } else {
                connection.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            }
        }
    })
}

/// Sends as much of an upload as is taken, and holds the rest.
async fn upload(address: std::net::SocketAddr) {
    let Ok(stream) = narrow().connect(address).await else { return };
    let mut client = Raw::over(stream);
    let head = "POST /up HTTP/1.1\r\nHost: a.test\r\nContent-Length: 100000000\r\n\r\n";
    client.try_send(head).await;
    let large = vec![b'x'; 1 << 20];
    for _ in 0..20 {
        client.try_send(&large).await;
    }
    std::future::pending::<()>().await;
}

/// Asks for a response without end, and reads nothing of it.
async fn never_read(address: std::net::SocketAddr) {
    let Ok(stream) = narrow().connect(address).await else { return };
    let mut client = Raw::over(stream);
    client.try_send("GET /down HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    std::future::pending::<()>().await;
}

/// Fills a connection of HTTP/2 with streams that upload, and others whose
/// responses are never taken.
async fn many_streams(address: std::net::SocketAddr) {
    let Ok(stream) = narrow().connect(address).await else { return };
    let Ok((mut client, connection)) = h2::client::handshake(stream).await else { return };
    let driver = tokio::spawn(connection);
    let large = Bytes::from(vec![b'x'; 1 << 20]);
    let mut held = Vec::new();
    for turn in 0..100 {
        let Ok(ready) = client.ready().await else { break };
        client = ready;
        let upload = turn % 2 == 0;
        let request = if upload {
            Request::post("http://a.test/up")
        } else {
            Request::get("http://a.test/down")
        };
        let sent = client.send_request(request.body(()).unwrap(), !upload);
        let Ok((response, mut body)) = sent else { break };
        if upload {
            let _refused = body.send_data(large.clone(), false);
        }
        held.push((response, body));
    }
    let _ended = driver.await;
}

/// The binary with a budget of 64 MiB, on these ports.
fn start(dir: &TempDir, origin: &Origin, public: u16, admin_port: u16) -> Child {
    let toml = format!(
        "[server]\nworkers = 2\nmemory_budget = \"64MiB\"\n\
         [admin]\naddress = \"127.0.0.1:{admin_port}\"\n[access_log]\noutput = \"off\"\n\
         [[listener]]\nname = \"public\"\naddress = \"127.0.0.1:{public}\"\n\
         [[route]]\nname = \"all\"\nupstream = \"origin\"\n\
         [[upstream]]\nname = \"origin\"\norigins = [\"{origin}\"]\n"
    );
    std::fs::write(dir.path().join("config.toml"), toml).unwrap();
    Child(
        Command::new(env!("CARGO_BIN_EXE_tollgate"))
            .arg("run")
            .current_dir(dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    )
}

/// The answer to one request on a connection of its own; nothing if that is refused.
async fn ask_once(address: std::net::SocketAddr) -> String {
    let mut client = Raw::connect(address).await;
    client.try_send("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").await;
    String::from_utf8_lossy(&client.read_to_end().await).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_under_attack_stays_below_its_budget() {
    const BUDGET: u64 = 64 << 20;
    const KEPT: u64 = BUDGET / 16;
    within(async {
        let origin = hostile_origin();
        let (public, admin_port) = (free_port(), free_port());
        let dir = TempDir::new().unwrap();
        let mut child = start(&dir, &origin, public, admin_port);
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], public));
        eventually("it serves", async || TcpStream::connect(address).await.is_ok()).await;
        assert_eq!(get(address, "/", "").await.status, 200);
        let base = child.status("VmRSS");

        let mut attack = tokio::task::JoinSet::new();
        for _ in 0..250 {
            attack.spawn(upload(address));
            attack.spawn(never_read(address));
        }
        for _ in 0..25 {
            attack.spawn(many_streams(address));
        }
        let (mut served, mut refused) = (0, 0);
        for _ in 0..15 {
            tokio::time::sleep(Duration::from_millis(200)).await;
            // A good client is served or refused, and never left waiting.
            let asked = timeout(Duration::from_secs(10), ask_once(address));
            let answer = asked.await.expect("a good client was left waiting");
            match answer.get(9..12) {
                Some("200") => served += 1,
                Some("503") | None => refused += 1,
                other => panic!("{other:?}"),
            }
        }
        let metrics = admin(([127, 0, 0, 1], admin_port).into(), "/metrics").await.text();
        let memory: Vec<_> = metrics.lines().filter(|line| line.contains("_memory_")).collect();
        let most = child.status("VmHWM");
        println!("base {base}, most {most}, served {served}, refused {refused}\n{memory:#?}");
        // What the allocator keeps for later is not counted.
        assert!(most <= base + BUDGET + KEPT, "base {base}, most {most}: {memory:#?}");
        // It was an attack, whether or not it left room for the good client each time.
        let refusals = "tollgate_memory_refusals_total{for=\"exchange\"} ";
        let refusals = memory.iter().find_map(|line| line.strip_prefix(refusals)).unwrap();
        assert!(refusals.parse::<u64>().unwrap() > 0, "{memory:#?}");

        attack.shutdown().await;
        eventually("a good client is served", async || {
            ask_once(address).await.starts_with("HTTP/1.1 200")
        })
        .await;
        assert!(child.0.try_wait().unwrap().is_none());
        let _origin = Arc::new(origin);
    })
    .await;
}
