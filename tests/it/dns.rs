//! Origins by name, against a name server of the test's own.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tollgate::upstream::DnsSettings;
use tower::ServiceExt;

use crate::support::certs;
use crate::support::client::{Raw, ask, get};
use crate::support::dns::{Mood, NameServer, listeners};
use crate::support::origin::{Origin, serve_h2};
use crate::support::proxy::{Running, Setup};
use crate::support::{eventually, within};

/// `[dns]` with times that a test can wait for.
fn dns(server: &NameServer, more: &str) -> String {
    format!(
        "[dns]\nservers = [\"{}\"]\nmin_ttl = \"50ms\"\nnegative_ttl = \"50ms\"\n\
         timeout = \"200ms\"\nattempts = 1\n{more}",
        server.address
    )
}

const LOOPBACK: &str = "allow = [\"127.0.0.0/8\", \"::1\"]\n";

/// Everything goes to this one origin, whose name `server` knows.
fn to(url: &str, upstream: &str, server: &NameServer) -> Running {
    Setup::forwarding_with(url, upstream).and(&dns(server, LOOPBACK)).start()
}

/// Answers with `name`, one request a connection.
fn fickle(listener: TcpListener, name: &str) -> Origin {
    let response = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{name}",
        name.len()
    );
    Origin::scripted_on(listener, move |mut connection| {
        let response = response.clone();
        async move {
            if connection.request().await.is_some() {
                connection.write(response).await;
            }
        }
    })
}

async fn metrics(proxy: &Running) -> String {
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    ask(proxy.admin, request).await.text()
}

async fn counted(proxy: &Running, name: &str, result: &str) -> u64 {
    let label = format!(
        "tollgate_dns_resolutions_total{{upstream=\"origin\",name=\"{name}\",result=\"{result}\"}} "
    );
    let text = metrics(proxy).await;
    text.lines().find_map(|line| line.strip_prefix(&label)?.parse().ok()).unwrap_or(0)
}

async fn spread(proxy: &Running, requests: usize) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for _ in 0..requests {
        let answer = get(proxy.address, "/", "").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        *counts.entry(answer.text()).or_default() += 1;
    }
    counts
}

fn counts(expected: &[(&str, usize)]) -> HashMap<String, usize> {
    expected.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

#[tokio::test]
async fn a_name_is_asked_for_again_when_its_ttl_has_passed_and_for_no_request() {
    within(async {
        let server = NameServer::start().await;
        let origin = Origin::named("a").await;
        server.addresses("app.test", 60, &["127.0.0.1"]);
        let url = format!("http://app.test:{}", origin.address.port());
        let proxy = to(&url, "", &server);
        assert_eq!(spread(&proxy, 10).await, counts(&[("a", 10)]));
        assert_eq!(counted(&proxy, "app.test", "ok").await, 1);

        server.addresses("brief.test", 0, &["127.0.0.1"]);
        let brief = to(&format!("http://brief.test:{}", origin.address.port()), "", &server);
        eventually("it is asked again", async || server.questions("brief.test").len() >= 8).await;
        assert_eq!(spread(&brief, 1).await, counts(&[("a", 1)]));
        assert!(counted(&brief, "brief.test", "ok").await >= 3);
    })
    .await;
}

#[tokio::test]
async fn early_requests_wait_for_the_first_answer() {
    within(async {
        let server = NameServer::start().await;
        let origin = Origin::named("a").await;
        let port = origin.address.port();
        server.addresses("app.test", 0, &["127.0.0.1"]);
        server.service(SERVICE, 0, &[(1, 1, port, "app.test")]);
        for name in ["app.test", SERVICE] {
            server.mood(name, Mood::Slow(Duration::from_millis(150)));
        }
        let (url, service) = (format!("http://app.test:{port}"), format!("srv+http://{SERVICE}"));
        for (url, each) in [(&url, false), (&url, true), (&service, false)] {
            let once = format!("each_address = {each}\nmax_attempts = 1");
            let proxy = to(url, &once, &server);
            assert_eq!(get(proxy.address, "/", "").await.text(), "a");
        }
    })
    .await;
}

/// Counts connections that ended; holds its answer to `/slow` until it is told.
struct Watched {
    ended: Arc<AtomicUsize>,
    go: Arc<Notify>,
    origin: Origin,
}

impl Watched {
    fn on(listener: TcpListener, name: &'static str) -> Self {
        let (ended, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let (count, wait) = (ended.clone(), go.clone());
        let origin = Origin::scripted_on(listener, move |mut connection| {
            let (count, wait) = (count.clone(), wait.clone());
            async move {
                while let Some(request) = connection.request().await {
                    if request.starts_with("GET /slow ") {
                        wait.notified().await;
                    }
                    let length = name.len();
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
                    connection.write(head + name).await;
                }
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { ended, go, origin }
    }

    fn ended(&self) -> usize {
        self.ended.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn a_name_that_moves_drains_the_old_address() {
    within(async {
        for each in ["", "each_address = true"] {
            let server = NameServer::start().await;
            let (port, mut bound) = listeners(&["127.0.0.2", "127.0.0.3"]).await;
            let new = Watched::on(bound.pop().unwrap(), "new");
            let old = Watched::on(bound.pop().unwrap(), "old");
            server.addresses("app.test", 0, &["127.0.0.2"]);
            let proxy = to(&format!("http://app.test:{port}"), each, &server);
            let mut busy = Raw::connect(proxy.address).await;
            busy.send("GET /slow HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
            eventually("it is asked", async || old.origin.requests().len() == 1).await;
            assert_eq!(get(proxy.address, "/", "").await.text(), "old");
            assert_eq!((old.origin.connections(), old.ended()), (2, 0));

            server.addresses("app.test", 0, &["127.0.0.3"]);
            eventually("what was idle is closed", async || old.ended() == 1).await;
            assert_eq!(get(proxy.address, "/", "").await.text(), "new");
            old.go.notify_one();
            assert_eq!(busy.answer().await.text(), "old", "what was under way is finished");
            eventually("and then closed", async || old.ended() == 2).await;
            // On the same connection from the client.
            busy.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
            assert_eq!(busy.answer().await.text(), "new");
            assert_eq!(old.origin.connections(), 2);
            assert_eq!((new.origin.connections(), new.ended()), (1, 0));
        }
    })
    .await;
}

#[tokio::test]
async fn an_http2_connection_to_the_old_address_takes_no_new_streams() {
    within(async {
        let server = NameServer::start().await;
        let (port, bound) = listeners(&["127.0.0.2", "127.0.0.3"]).await;
        let ended = Arc::new(AtomicUsize::new(0));
        let mut origins = Vec::new();
        for (listener, name) in bound.into_iter().zip(["old", "new"]) {
            let ended = ended.clone();
            origins.push(Origin::scripted_on(listener, move |connection| {
                let ended = ended.clone();
                async move {
                    let answer = |_: &http::Request<_>| {
                        http::Response::new(Full::new(Bytes::from_static(name.as_bytes())))
                    };
                    serve_h2(connection.stream, Arc::new(answer)).await;
                    ended.fetch_add(1, Ordering::SeqCst);
                }
            }));
        }
        server.addresses("app.test", 0, &["127.0.0.2"]);
        let proxy = to(&format!("h2c://app.test:{port}"), "", &server);
        assert_eq!(spread(&proxy, 3).await, counts(&[("old", 3)]));
        assert_eq!(origins[0].connections(), 1);
        server.addresses("app.test", 0, &["127.0.0.3"]);
        eventually("the old one is closed", async || ended.load(Ordering::SeqCst) == 1).await;
        assert_eq!(spread(&proxy, 3).await, counts(&[("new", 3)]));
        assert_eq!((origins[0].connections(), origins[1].connections()), (1, 1));
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_fails_changes_nothing() {
    within(async {
        let server = NameServer::start().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://app.test:{}", listener.local_addr().unwrap().port());
        let _origin = fickle(listener, "a");
        server.addresses("app.test", 0, &["127.0.0.1"]);
        let proxy = to(&url, "", &server);
        assert_eq!(spread(&proxy, 1).await, counts(&[("a", 1)]));
        type Fail = fn(&NameServer);
        let failures: [(&str, Fail); 6] = [
            ("servfail", |server| server.mood("app.test", Mood::Failing)),
            ("nxdomain", |server| server.forget("app.test")),
            ("empty", |server| server.addresses("app.test", 0, &[])),
            ("timeout", |server| server.mood("app.test", Mood::Silent)),
            ("timeout", |server| server.mood("app.test", Mood::Garbage)),
            ("refused_address", |server| {
                server.addresses("app.test", 0, &["169.254.169.254", "fe80::1"]);
            }),
        ];
        for (result, fail) in failures {
            let before = counted(&proxy, "app.test", result).await;
            fail(&server);
            eventually(result, async || counted(&proxy, "app.test", result).await >= before + 2)
                .await;
            assert_eq!(spread(&proxy, 2).await, counts(&[("a", 2)]), "{result}");
        }
        let ok = counted(&proxy, "app.test", "ok").await;
        server.addresses("app.test", 0, &["127.0.0.1"]);
        eventually("it resolves", async || counted(&proxy, "app.test", "ok").await > ok).await;
        assert_eq!(spread(&proxy, 2).await, counts(&[("a", 2)]));
    })
    .await;
}

#[tokio::test]
async fn a_family_that_is_not_answered_for_keeps_its_addresses_and_holds_nobody_up() {
    within(async {
        let server = NameServer::start().await;
        let (port, mut bound) = listeners(&["127.0.0.1", "::1"]).await;
        let _v6 = fickle(bound.pop().unwrap(), "v6");
        let _v4 = fickle(bound.pop().unwrap(), "v4");
        server.addresses("app.test", 0, &["127.0.0.1", "::1"]);
        server.mood("app.test", Mood::SilentOnV6);
        let proxy = to(&format!("http://app.test:{port}"), "", &server);
        assert_eq!(spread(&proxy, 2).await, counts(&[("v4", 2)]));
        server.mood("app.test", Mood::Good);
        eventually("IPv6 is preferred", async || spread(&proxy, 1).await == counts(&[("v6", 1)]))
            .await;
        server.mood("app.test", Mood::SilentOnV6);
        let asked = server.questions("app.test").len();
        eventually("it is asked again", async || server.questions("app.test").len() > asked + 6)
            .await;
        assert_eq!(spread(&proxy, 2).await, counts(&[("v6", 2)]));
    })
    .await;
}

#[tokio::test]
async fn a_name_that_does_not_resolve_at_first_is_502_until_it_does() {
    within(async {
        for each in ["", "each_address = true"] {
            let server = NameServer::start().await;
            let origin = Origin::named("a").await;
            let url = format!("http://app.test:{}", origin.address.port());
            let proxy = to(&url, each, &server);
            let refused = get(proxy.address, "/", "").await;
            assert_eq!(refused.status, 502);
            assert_eq!(refused.field("proxy-status"), Some("tollgate; error=dns_error"));
            let line = proxy.log_lines(1).await.remove(0);
            assert!(line.contains("there is no such name"), "{line}");
            server.addresses("app.test", 0, &["127.0.0.1"]);
            eventually("it resolves", async || get(proxy.address, "/", "").await.status == 200)
                .await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_name_server_that_is_silent_from_the_start_is_504_in_time() {
    within(async {
        let server = NameServer::start().await;
        server.mood("app.test", Mood::Silent);
        server.mood("_http._tcp.app.test", Mood::Silent);
        for url in ["http://app.test", "srv+http://_http._tcp.app.test"] {
            let settings = dns(&server, "").replace("200ms", "10s");
            let timeouts = "[upstream.timeouts]\nconnect = \"100ms\"\n";
            let proxy = Setup::forwarding_with(url, timeouts).and(&settings).start();
            let answer = get(proxy.address, "/", "").await;
            assert_eq!(answer.status, 504);
            assert_eq!(answer.field("proxy-status"), Some("tollgate; error=dns_timeout"));
        }
    })
    .await;
}

#[tokio::test]
async fn connections_take_turns_over_the_addresses_of_a_name() {
    within(async {
        let server = NameServer::start().await;
        let (port, mut bound) = listeners(&["127.0.0.2", "127.0.0.3"]).await;
        let b = fickle(bound.pop().unwrap(), "b");
        let _a = fickle(bound.pop().unwrap(), "a");
        server.addresses("app.test", 0, &["127.0.0.2", "127.0.0.3"]);
        let proxy = to(&format!("http://app.test:{port}"), "", &server);
        assert_eq!(spread(&proxy, 10).await, counts(&[("a", 5), ("b", 5)]));
        drop(b);
        // One that refuses is passed over within one attempt.
        assert_eq!(spread(&proxy, 4).await, counts(&[("a", 4)]));
        let addresses = "tollgate_dns_addresses{upstream=\"origin\",name=\"app.test\"} 2";
        assert!(metrics(&proxy).await.lines().any(|line| line == addresses));
    })
    .await;
}

#[tokio::test]
async fn a_black_hole_over_ipv6_does_not_hide_ipv4() {
    within(async {
        let server = NameServer::start().await;
        let (v6, listener) = loop {
            let v6 = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None);
            let v6 = v6.unwrap();
            v6.bind(&"[::1]:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
            let port = v6.local_addr().unwrap().as_socket().unwrap().port();
            if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)).await {
                break (v6, listener);
            }
        };
        // Once its queue is full, nothing more is answered.
        v6.listen(0).unwrap();
        let hole = v6.local_addr().unwrap().as_socket().unwrap();
        let mut fill = Vec::new();
        for _ in 0..8 {
            let connect = tokio::net::TcpStream::connect(hole);
            if let Ok(connected) = tokio::time::timeout(Duration::from_millis(100), connect).await {
                fill.push(connected);
            }
        }
        let origin = fickle(listener, "v4");
        server.addresses("app.test", 0, &["127.0.0.1", "::1"]);
        let url = format!("http://app.test:{}", hole.port());
        let proxy = to(&url, "max_attempts = 1", &server);
        assert_eq!(spread(&proxy, 3).await, counts(&[("v4", 3)]));
        assert_eq!(origin.connections(), 3);

        server.addresses("only.test", 0, &["127.0.0.1", "::1"]);
        let only = dns(&server, LOOPBACK) + "family = \"ipv4\"\n";
        let url = format!("http://only.test:{}", hole.port());
        let proxy = Setup::forwarding_to(url).and(&only).start();
        assert_eq!(spread(&proxy, 1).await, counts(&[("v4", 1)]));
        let kinds: Vec<_> = server.questions("only.test").iter().map(|q| q.kind).collect();
        assert!(kinds.iter().all(|kind| kind.to_string() == "A"), "{kinds:?}");
    })
    .await;
}

#[tokio::test]
async fn each_address_can_be_an_origin_of_its_own() {
    within(async {
        let server = NameServer::start().await;
        let (port, mut bound) = listeners(&["127.0.0.2", "127.0.0.3", "127.0.0.4"]).await;
        let c = Watched::on(bound.pop().unwrap(), "c");
        let b = Watched::on(bound.pop().unwrap(), "b");
        let a = Watched::on(bound.pop().unwrap(), "a");
        server.addresses("app.test", 0, &["127.0.0.2", "127.0.0.3"]);
        let probes = "each_address = true\nwarm = 1\n[upstream.health]\ntype = \"tcp\"\n\
                      interval = \"20ms\"\nfall = 1\n";
        let proxy = to(&format!("http://app.test:{port}"), probes, &server);
        eventually("both are known", async || spread(&proxy, 2).await.len() == 2).await;
        assert_eq!(spread(&proxy, 10).await, counts(&[("a", 5), ("b", 5)]));
        let line = |ip: &str, healthy: &str| {
            format!(
                "tollgate_origin_healthy{{upstream=\"origin\",origin=\"app.test:{port}/{ip}\"}} \
                 {healthy}"
            )
        };
        let told = async |text: String| metrics(&proxy).await.contains(&text);
        assert!(told(line("127.0.0.2", "1")).await);

        server.addresses("app.test", 0, &["127.0.0.2", "127.0.0.3", "127.0.0.4"]);
        eventually("there is one more", async || spread(&proxy, 3).await.len() == 3).await;
        drop(b);
        eventually("the probes notice", async || told(line("127.0.0.3", "0")).await).await;
        assert_eq!(spread(&proxy, 10).await, counts(&[("a", 5), ("c", 5)]));
        server.addresses("app.test", 0, &["127.0.0.4"]);
        eventually("one is left", async || !told(line("127.0.0.2", "")).await).await;
        assert!(!told(line("127.0.0.3", "")).await);
        assert_eq!(spread(&proxy, 4).await, counts(&[("c", 4)]));
        let probed = a.origin.connections();
        eventually("probes go on", async || c.origin.connections() > probed + 5).await;
        let settled = a.origin.connections();
        let more = c.origin.connections();
        eventually("probes go on", async || c.origin.connections() > more + 5).await;
        assert_eq!(a.origin.connections(), settled, "what has left is not probed");
    })
    .await;
}

/// Listeners of their own port each, and the ports.
async fn offered(count: usize) -> (Vec<u16>, Vec<TcpListener>) {
    let mut bound = Vec::new();
    for _ in 0..count {
        bound.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
    }
    (bound.iter().map(|listener| listener.local_addr().unwrap().port()).collect(), bound)
}

const SERVICE: &str = "_http._tcp.app.test";

#[tokio::test]
async fn a_service_is_asked_by_priority_and_weight() {
    within(async {
        let server = NameServer::start().await;
        let (ports, bound) = offered(4).await;
        let mut origins: Vec<_> =
            bound.into_iter().zip(["a", "b", "c", "d"]).map(|(l, name)| fickle(l, name)).collect();
        server.addresses("one.test", 0, &["127.0.0.1"]);
        server.addresses("two.test", 0, &["127.0.0.1"]);
        server.service(
            SERVICE,
            0,
            &[
                (2, 9, ports[2], "two.test"),
                (1, 3, ports[0], "one.test"),
                (1, 1, ports[1], "one.test"),
            ],
        );
        let proxy = Setup::new(format!(
            "[[route]]\nname = \"all\"\nupstream = \"origin\"\nhost = \"origin\"\n\
             [[upstream]]\nname = \"origin\"\norigins = [\"srv+http://{SERVICE}\"]\n"
        ))
        .and("[upstream.passive]\nset_aside = \"30s\"\n")
        .and(&dns(&server, LOOPBACK))
        .start();
        assert_eq!(get(proxy.address, "/", "").await.status, 200, "it waits for the first answer");
        assert_eq!(spread(&proxy, 40).await, counts(&[("a", 30), ("b", 10)]));
        let request = origins[0].requests().remove(0);
        assert!(request.contains("\r\nhost: app.test\r\n"), "{request}");

        // Those of the lowest priority are gone: the request goes to the next.
        drop(origins.drain(..2));
        assert_eq!(spread(&proxy, 4).await, counts(&[("c", 4)]));

        server.service(SERVICE, 0, &[(5, 0, ports[3], "two.test")]);
        eventually("it has moved", async || spread(&proxy, 1).await == counts(&[("d", 1)])).await;
        let old = format!("origin=\"two.test:{}\"", ports[2]);
        eventually("nothing is told of the old", async || !metrics(&proxy).await.contains(&old))
            .await;
        assert!(metrics(&proxy).await.contains(&format!("origin=\"two.test:{}\"", ports[3])));
        assert_eq!(spread(&proxy, 4).await, counts(&[("d", 4)]));
    })
    .await;
}

#[tokio::test]
async fn a_service_that_fails_keeps_its_targets_and_one_that_moves_drains_them() {
    within(async {
        let server = NameServer::start().await;
        let (ports, mut bound) = offered(2).await;
        let b = Watched::on(bound.pop().unwrap(), "b");
        let a = Watched::on(bound.pop().unwrap(), "a");
        let url = format!("srv+http://{SERVICE}");
        let proxy = to(&url, "", &server);
        let refused = get(proxy.address, "/", "").await;
        assert_eq!(refused.status, 502);
        assert_eq!(refused.field("proxy-status"), Some("tollgate; error=dns_error"));

        server.addresses("one.test", 0, &["127.0.0.1"]);
        server.service(SERVICE, 0, &[(1, 1, ports[0], "one.test")]);
        eventually("it resolves", async || get(proxy.address, "/", "").await.status == 200).await;
        assert_eq!(spread(&proxy, 3).await, counts(&[("a", 3)]));
        type Fail = fn(&NameServer);
        let failures: [(&str, Fail); 4] = [
            ("servfail", |server| server.mood(SERVICE, Mood::Failing)),
            ("nxdomain", |server| server.forget(SERVICE)),
            ("timeout", |server| server.mood(SERVICE, Mood::Silent)),
            // RFC 2782: the service is decidedly not available.
            ("empty", |server| server.service(SERVICE, 0, &[(0, 0, 0, ".")])),
        ];
        for (result, fail) in failures {
            let before = counted(&proxy, SERVICE, result).await;
            fail(&server);
            eventually(result, async || counted(&proxy, SERVICE, result).await >= before + 2).await;
            assert_eq!(spread(&proxy, 2).await, counts(&[("a", 2)]), "{result}");
        }
        assert_eq!((a.origin.connections(), a.ended()), (1, 0));

        server.service(SERVICE, 0, &[(1, 1, ports[1], "one.test")]);
        eventually("the old target is drained", async || a.ended() == 1).await;
        assert_eq!(spread(&proxy, 3).await, counts(&[("b", 3)]));
        assert_eq!((a.origin.connections(), b.origin.connections()), (1, 1));
    })
    .await;
}

/// Serves over TLS as whoever the certificate `FILE` is for.
fn secure(dir: &std::path::Path, file: &str, listener: TcpListener) -> Origin {
    let config = certs::server(dir, file, &["http/1.1"]);
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    Origin::scripted_on(listener, move |connection| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(stream) = acceptor.accept(connection.stream).await else { return };
            let mut client = Raw::over(stream);
            if client.read_to_end_or("\r\n\r\n").await {
                client.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            }
        }
    })
}

#[tokio::test]
async fn a_target_has_to_prove_that_it_is_the_domain() {
    within(async {
        let server = NameServer::start().await;
        let authority = certs::Authority::new();
        let dir = tempfile::TempDir::new().unwrap();
        authority.write(dir.path());
        authority.sign(dir.path(), "domain", &["app.test"]);
        authority.sign(dir.path(), "target", &["one.test"]);
        let (ports, mut bound) = offered(2).await;
        let _target = secure(dir.path(), "target", bound.pop().unwrap());
        let _domain = secure(dir.path(), "domain", bound.pop().unwrap());
        server.addresses("one.test", 60, &["127.0.0.1"]);
        server.addresses("app.test", 60, &["127.0.0.1"]);
        server.service(SERVICE, 60, &[(1, 1, ports[0], "one.test")]);
        server.service("_bad._tcp.app.test", 60, &[(1, 1, ports[1], "one.test")]);
        let each = format!("https://app.test:{}", ports[0]);
        for (url, more, status) in [
            (format!("srv+https://{SERVICE}"), "", 200),
            ("srv+https://_bad._tcp.app.test".to_owned(), "", 502),
            (each, "each_address = true\n", 200),
        ] {
            let ca = dir.path().join("ca.pem");
            let tls = format!("{more}[upstream.tls]\nca = \"{}\"\n", ca.display());
            let proxy = to(&url, &tls, &server);
            let answer = get(proxy.address, "/", "").await;
            assert_eq!(answer.status, status, "{url}");
            if status == 502 {
                let reason = Some("tollgate; error=tls_certificate_error");
                assert_eq!(answer.field("proxy-status"), reason);
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_target_moves_with_its_name() {
    within(async {
        let server = NameServer::start().await;
        let (port, mut bound) = listeners(&["127.0.0.2", "127.0.0.3"]).await;
        let new = Watched::on(bound.pop().unwrap(), "new");
        let old = Watched::on(bound.pop().unwrap(), "old");
        server.addresses("one.test", 0, &["127.0.0.2"]);
        server.service(SERVICE, 60, &[(1, 1, port, "one.test")]);
        let proxy = to(&format!("srv+http://{SERVICE}"), "", &server);
        assert_eq!(spread(&proxy, 2).await, counts(&[("old", 2)]));
        server.addresses("one.test", 0, &["127.0.0.3"]);
        eventually("the old address is drained", async || old.ended() == 1).await;
        assert_eq!(spread(&proxy, 2).await, counts(&[("new", 2)]));
        assert_eq!(new.origin.connections(), 1);
        // Once for the service, and for its target again and again.
        assert!(counted(&proxy, SERVICE, "ok").await >= 3);
        let targets = format!("tollgate_dns_addresses{{upstream=\"origin\",name=\"{SERVICE}\"}} 1");
        assert!(metrics(&proxy).await.lines().any(|line| line == targets));
    })
    .await;
}

#[tokio::test]
async fn a_name_may_not_point_at_this_machine_its_link_or_its_cloud() {
    within(async {
        let server = NameServer::start().await;
        let origin = Origin::named("a").await;
        let port = origin.address.port();
        for address in [
            "127.0.0.1",
            "0.0.0.0",
            "::1",
            "::ffff:127.0.0.1",
            "169.254.169.254",
            "fe80::1",
            "224.0.0.1",
        ] {
            server.addresses("evil.test", 0, &[address]);
            server.service("_http._tcp.evil.test", 0, &[(1, 1, port, "evil.test")]);
            for url in [&format!("http://evil.test:{port}"), "srv+http://_http._tcp.evil.test"] {
                let proxy = Setup::forwarding_to(url).and(&dns(&server, "")).start();
                let refused = get(proxy.address, "/", "").await;
                assert_eq!(refused.status, 502, "{address}");
                assert_eq!(refused.field("proxy-status"), Some("tollgate; error=dns_error"));
                let line = proxy.log_lines(1).await.remove(0);
                assert!(line.contains("dns.allow"), "{line}");
            }
        }
        assert_eq!(origin.connections(), 0);

        // Beside others it is left out, and for probes as well.
        server.addresses("mixed.test", 0, &["127.0.0.1", "127.0.0.2", "169.254.169.254"]);
        let allow = dns(&server, "allow = [\"127.0.0.1\"]\n");
        let probes = "each_address = true\n[upstream.health]\ntype = \"tcp\"\n";
        let url = format!("http://mixed.test:{port}");
        let proxy = Setup::forwarding_with(url, probes).and(&allow).start();
        assert_eq!(spread(&proxy, 4).await, counts(&[("a", 4)]));
        let text = metrics(&proxy).await;
        let told: Vec<_> =
            text.lines().filter(|l| l.starts_with("tollgate_origin_healthy")).collect();
        assert_eq!(told.len(), 1, "{told:?}");
    })
    .await;
}

#[tokio::test]
async fn localhost_is_this_machine_whatever_name_servers_say() {
    within(async {
        let server = NameServer::start().await;
        let origin = Origin::named("a").await;
        server.addresses("localhost", 0, &["192.0.2.1"]);
        let url = format!("http://localhost:{}", origin.address.port());
        let proxy = Setup::forwarding_to(url).and(&dns(&server, "")).start();
        assert_eq!(spread(&proxy, 2).await, counts(&[("a", 2)]));
        assert!(server.questions("localhost").is_empty());
    })
    .await;
}

#[tokio::test]
async fn an_answer_too_long_for_a_datagram_comes_over_tcp_and_has_an_end() {
    within(async {
        let server = NameServer::start().await;
        let origin = Origin::named("a").await;
        let many: Vec<_> =
            (0..1_000).map(|n| format!("127.0.{}.{}", n / 250, n % 250 + 1)).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        server.addresses("many.test", 60, &many);
        let url = format!("http://many.test:{}", origin.address.port());
        let proxy = to(&url, "", &server);
        assert_eq!(get(proxy.address, "/", "").await.text(), "a");
        assert!(server.questions("many.test").iter().any(|question| question.tcp));
        let addresses = "tollgate_dns_addresses{upstream=\"origin\",name=\"many.test\"} 256";
        assert!(metrics(&proxy).await.lines().any(|line| line == addresses));
    })
    .await;
}

#[tokio::test]
async fn aliases_are_followed_to_an_end() {
    within(async {
        let server = NameServer::start().await;
        let origin = Origin::named("a").await;
        let port = origin.address.port();
        server.alias("app.test", 60, "middle.test");
        server.alias("middle.test", 0, "end.test");
        server.addresses("end.test", 60, &["127.0.0.1"]);
        let proxy = to(&format!("http://app.test:{port}"), "", &server);
        assert_eq!(get(proxy.address, "/", "").await.text(), "a");
        // The shortest TTL of the chain is that of the answer.
        eventually("it is asked again", async || server.questions("app.test").len() >= 6).await;

        server.alias("loop.test", 0, "pool.test");
        server.alias("pool.test", 0, "loop.test");
        let proxy = to(&format!("http://loop.test:{port}"), "", &server);
        let refused = get(proxy.address, "/", "").await;
        assert_eq!(refused.field("proxy-status"), Some("tollgate; error=dns_error"));
    })
    .await;
}

#[tokio::test]
async fn one_name_server_that_is_silent_does_not_hide_the_other() {
    within(async {
        let (silent, server) = (NameServer::start().await, NameServer::start().await);
        let origin = Origin::named("a").await;
        silent.mood("app.test", Mood::Silent);
        server.addresses("app.test", 60, &["127.0.0.1"]);
        let both = format!("servers = [\"{}\", \"{}\"]", silent.address, server.address);
        let one = format!("servers = [\"{}\"]", server.address);
        let settings = dns(&server, LOOPBACK).replace(&one, &both);
        let url = format!("http://app.test.:{}", origin.address.port());
        let proxy = Setup::forwarding_to(url).and(&settings).start();
        assert_eq!(get(proxy.address, "/", "").await.text(), "a");
        assert!(!server.questions("app.test").is_empty());
    })
    .await;
}

#[tokio::test]
async fn an_embedded_proxy_resolves_too() {
    within(async {
        let server = NameServer::start().await;
        let origin = Origin::named("a").await;
        server.addresses("app.test", 60, &["127.0.0.1"]);
        let settings = DnsSettings {
            servers: vec![server.address],
            allow: vec!["127.0.0.0/8".parse().unwrap()],
            ..DnsSettings::default()
        };
        let service = tollgate::Proxy::builder()
            .dns(settings)
            .upstream("api", [format!("http://app.test:{}", origin.address.port())])
            .forward("/", "api")
            .build()
            .unwrap()
            .into_service();
        let request = http::Request::get("/").header("host", "a.test");
        let request = request.body(Full::<Bytes>::default()).unwrap();
        let response = service.oneshot(request).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "a");
    })
    .await;
}

#[test]
fn what_is_wrong_with_names_is_said() {
    let report = |text: &str| {
        let problems = tollgate::config::parse(std::path::Path::new("x.toml"), text).unwrap_err();
        problems.to_string()
    };
    let text = report(
        "[dns]\nservers = [\"dns.example\", \"10.0.0.2\"]\nattempts = 11\nmin_ttl = \"10m\"\n\
         family = \"ipv5\"\nallow = [\"10.0.0.1/8\"]\nnameserver = 1\n\
         [[upstream]]\nname = \"x\"\norigins = [\"srv+http://app.example\", \
         \"srv+http://_http._tcp.app.example:80\", \
         { url = \"srv+http://_http._tcp.app.example\", weight = 2 }]\n",
    );
    for expected in [
        "`dns.servers[0]`: `dns.example` is not the address of a name server",
        "`dns.attempts`: expected a number from 1 to 10",
        "`min_ttl` is more than `max_ttl` is by default",
        "expected one of \"ipv6_first\", \"ipv4_first\", \"ipv6\", \"ipv4\"",
        "`dns.allow[0]`: `10.0.0.1/8` has bits set past its prefix",
        "`dns.nameserver`: there is no such key",
        "a service is written `_http._tcp.example.com`",
        "the records of a service say its ports",
        "the records of a service give its targets their weights",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
}
