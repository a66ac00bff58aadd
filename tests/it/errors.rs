//! Bad requests get the right status and never reach an origin; failing
//! origins are told apart.

use crate::support::client::{Raw, ask, get};
use crate::support::origin::Origin;
use crate::support::proxy::Setup;
use crate::support::{Refusing, within};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test]
async fn nothing_malformed_reaches_an_origin() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = Setup::forwarding_to(&origin).listener("max_target = 1000").start();
        let long = "x".repeat(1001);
        let head = |target: &str, fields: &str| format!("GET {target} HTTP/1.1\r\n{fields}\r\n");
        let host = "Host: a.test\r\n";
        let cases = [
            ("nonsense\r\n\r\n".to_owned(), 400),
            (head("/", ""), 400),
            (head("/", "Host: a.test\r\nHost: a.test\r\n"), 400),
            (head("/", "Host: a.test\r\nHost: b.test\r\n"), 400),
            (head("/", "Host: user@a.test\r\n"), 400),
            (head("/", "Host: a.test/path\r\n"), 400),
            (head("/", "Host: a.test:port\r\n"), 400),
            (head(&format!("/{long}"), host), 414),
            (head("/a/../b", host), 400),
            (head("/%2e%2e/b", host), 400),
            (head("/a\\b", host), 400),
            (head("/", &format!("{host}X Y: 1\r\n")), 400),
            (head("/", &format!("{host}X-Y : 1\r\n")), 400),
            (head("/", &format!("{host}: 1\r\n")), 400),
            (head("/", &format!("{host}X-Y: a\0b\r\n")), 400),
            (head("/", &format!("{host}X-Y: 1\r\n folded\r\n")), 400),
            (head("/", &format!("{host}Content-Length: +3\r\n")), 400),
            (head("/", &format!("{host}Content-Length: 3, 3\r\n")), 400),
            (head("/", &format!("{host}Content-Length: 3\r\nContent-Length: 4\r\n")), 400),
            (head("/", &format!("{host}Transfer-Encoding: gzip\r\n")), 400),
            (head("/", &format!("{host}Transfer-Encoding: gzip, chunked\r\n")), 501),
            (head("/", &format!("{host}Transfer-Encoding: xchunked\r\n")), 400),
            ("GET / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(), 400),
            ("GET / HTTP/3.0\r\nHost: a.test\r\n\r\n".to_owned(), 505),
            ("TRACE / HTTP/1.1\r\nHost: a.test\r\n\r\n".to_owned(), 405),
            ("CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n".to_owned(), 405),
        ];
        for (request, status) in cases {
            let answer = ask(proxy.address, &request).await;
            assert_eq!(answer.status, status, "{request:?}");
        }
        assert_eq!(String::from_utf8_lossy(&origin.bytes()), "");
        assert_eq!(get(proxy.address, "/", "").await.status, 200);
    })
    .await;
}

#[tokio::test]
async fn a_head_that_is_too_large_is_431() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = Setup::forwarding_to(&origin)
            .listener("max_request_head = \"16KiB\"\nmax_fields = 20")
            .start();
        let large = format!("X-Large: {}\r\n", "x".repeat(17 * 1024));
        assert_eq!(get(proxy.address, "/", &large).await.status, 431);
        let many: String = (0..21).map(|n| format!("X-{n}: 1\r\n")).collect();
        assert_eq!(get(proxy.address, "/", &many).await.status, 431);
        let fits = format!("X-Large: {}\r\n", "x".repeat(15 * 1024));
        assert_eq!(get(proxy.address, "/", &fits).await.status, 200);
        assert_eq!(origin.requests().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_body_that_is_too_large_is_413_announced_or_chunked() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = Setup::new(format!(
            "[[upstream]]\nname = \"origin\"\norigins = [\"{origin}\"]\n\
             [[route]]\nname = \"all\"\nupstream = \"origin\"\nmax_request_body = 4\n"
        ))
        .start();
        let announced = "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\n12345";
        let answer = ask(proxy.address, announced).await;
        assert_eq!((answer.status, answer.field("connection")), (413, Some("close")));
        let chunked = "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n\
                       3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n";
        assert_eq!(ask(proxy.address, chunked).await.status, 413);
        let fits = "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\n\r\n1234";
        assert_eq!(ask(proxy.address, fits).await.status, 200);
        assert_eq!(origin.requests().len(), 1, "only the last is whole: {:?}", origin.requests());
    })
    .await;
}

#[tokio::test]
async fn an_origin_that_refuses_is_502_and_one_that_is_cut_off_too() {
    within(async {
        let gone = Refusing::new();
        let proxy = Setup::forwarding_to(format!("http://{gone}")).start();
        let answer = get(proxy.address, "/", "Accept: text/html\r\n").await;
        assert_eq!(answer.status, 502);
        assert_eq!(answer.field("proxy-status"), Some("tollgate; error=connection_refused"));
        assert!(answer.text().starts_with("<!doctype html>"));
        assert!(!answer.text().contains(&gone.to_string()), "the client learns no address");
        let line = &proxy.log_lines(1).await[0];
        assert!(line.contains(&gone.to_string()) && line.contains("rejected=connect_refused"));
    })
    .await;
}

#[tokio::test]
async fn an_origin_that_answers_nonsense_is_502() {
    within(async {
        for nonsense in [
            "SSH-2.0-OpenSSH\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n\
             2\r\nok\r\n0\r\n\r\n",
            "HTTP/1.1 999999 OK\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        ] {
            let origin = Origin::scripted(move |mut connection| async move {
                if connection.request().await.is_some() {
                    connection.write(nonsense).await;
                    let _wait = connection.request().await;
                }
            })
            .await;
            let proxy = Setup::forwarding_to(&origin).start();
            let answer = get(proxy.address, "/", "").await;
            assert_eq!(answer.status, 502, "{nonsense:?}");
            assert_eq!(origin.requests().len(), 1, "{nonsense:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_body_that_breaks_off_is_seen_to_break_off() {
    within(async {
        for head in ["Content-Length: 100", "Transfer-Encoding: chunked"] {
            let origin = Origin::scripted(move |mut connection| async move {
                if connection.request().await.is_some() {
                    connection
                        .write(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n4\r\npart\r\n"))
                        .await;
                }
            })
            .await;
            let proxy = Setup::forwarding_to(&origin).start();
            let mut client = Raw::connect(proxy.address).await;
            client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
            client.read_until("part\r\n").await;
            let rest = client.read_to_end().await;
            assert!(rest.is_empty(), "{head}: {rest:?}");
            let line = &proxy.log_lines(1).await[0];
            assert!(line.contains("aborted=true"), "{line}");
        }
    })
    .await;
}

#[tokio::test]
async fn hosts_that_no_route_names_are_404() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = Setup::new(format!(
            "[[upstream]]\nname = \"origin\"\norigins = [\"{origin}\"]\n\
             [[route]]\nname = \"all\"\nupstream = \"origin\"\nhosts = [\"b.test\"]\n"
        ))
        .start();
        let answer = get(proxy.address, "/", "").await;
        assert_eq!(answer.status, 404);
        assert!(answer.text().contains("\"code\":\"no_route\""));
        assert!(origin.bytes().is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_second_request_behind_a_malformed_one_is_not_carried_out() {
    within(async {
        let origin = Origin::answering(OK).await;
        let proxy = Setup::forwarding_to(&origin).start();
        let mut client = Raw::connect(proxy.address).await;
        client
            .send(
                "GET /first HTTP/1.1\r\nHost: a.test\r\n\r\n\
                 GET /bad HTTP/1.1\r\nHost: a.test\r\nHost: a.test\r\n\r\n\
                 GET /third HTTP/1.1\r\nHost: a.test\r\n\r\n",
            )
            .await;
        assert_eq!(client.answer().await.status, 200);
        assert_eq!(client.answer().await.status, 400);
        assert!(client.read_to_end().await.is_empty());
        assert!(origin.request().starts_with("GET /first"));
    })
    .await;
}

#[tokio::test]
async fn the_limits_of_a_head_are_the_listeners_own_over_http2_too() {
    within(async {
        let origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        let limits = "max_fields = 5\nmax_target = 64\n\
                      [[listener]]\nname = \"roomy\"\naddress = \"127.0.0.1:0\"\n";
        let proxy = Setup::forwarding_to(&origin).listener(limits).start();
        let tcp = tokio::net::TcpStream::connect(proxy.address).await.unwrap();
        let (mut sender, connection) = h2::client::handshake(tcp).await.unwrap();
        tokio::spawn(connection);
        let mut ask = async |path: &str, fields: usize| {
            let mut request = http::Request::get(format!("http://a.test{path}"));
            for field in 0..fields {
                request = request.header(format!("x-{field}"), "y");
            }
            let (response, _) = sender.send_request(request.body(()).unwrap(), true).unwrap();
            response.await.unwrap().status().as_u16()
        };
        assert_eq!(ask("/", 5).await, 200);
        assert_eq!(ask("/", 6).await, 431);
        assert_eq!(ask(&format!("/{}", "x".repeat(64)), 0).await, 414);
    })
    .await;
}
