//! Another service says who may come in (`[auth.forward]`).

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tempfile::TempDir;
use tollgate::layers::{PasswordHash, PasswordScheme};

use super::guarded;
use crate::support::certs::{Authority, connect};
use crate::support::client::{Answer, Raw, ask, fields, get};
use crate::support::origin::{Connection, Origin};
use crate::support::proxy::{Running, Setup};
use crate::support::websocket::HANDSHAKE;
use crate::support::{Refusing, within};

pub(super) const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A service that answers by what it is told.
pub(super) async fn service(answer: fn(&str) -> String) -> Origin {
    Origin::scripted(move |mut connection| async move {
        while let Some(request) = connection.request().await {
            connection.write(answer(&request)).await;
        }
    })
    .await
}

/// Lets in who has a token, by the name behind it.
pub(super) fn by_token(request: &str) -> String {
    match fields(request, "authorization").first().and_then(|all| all.strip_prefix("Bearer ")) {
        Some("wrong") => "HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nno!".to_owned(),
        Some(name) => format!(
            "HTTP/1.1 200 OK\r\nX-Auth-User: {name}\r\nX-Auth-Groups: read,write\r\n\
             Set-Cookie: seen=1\r\nX-Other: 1\r\nContent-Length: 4\r\n\r\nfine"
        ),
        None => "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer realm=\"theirs\"\r\n\
                 Content-Type: text/x-theirs\r\nContent-Length: 9\r\n\r\nwho goes?"
            .to_owned(),
    }
}

const LINES: &str = "response_headers = [\"X-Auth-User\", \"X-Auth-Groups\"]\n\
                     name_header = \"X-Auth-User\"\nscopes_header = \"X-Auth-Groups\"\n";

fn scheme(service: impl std::fmt::Display, lines: &str) -> String {
    format!(
        "[[auth]]\nname = \"service\"\n[auth.forward]\nurl = \"{service}/verify?by=proxy\"\n\
         {LINES}{lines}\n"
    )
}

pub(super) fn asking(origin: &Origin, service: &Origin, lines: &str) -> Setup {
    guarded(origin, &scheme(service, lines), "auth = \"service\"")
}

pub(super) async fn started(answer: fn(&str) -> String, lines: &str) -> (Origin, Origin, Running) {
    let (origin, service) = (Origin::answering(OK).await, service(answer).await);
    let proxy = asking(&origin, &service, lines).start();
    (origin, service, proxy)
}

#[tokio::test]
async fn whom_the_service_lets_in_is_let_in_under_the_name_that_it_says() {
    within(async {
        let (origin, service, proxy) = started(by_token, "").await;
        let sent = "Authorization: Bearer alice\r\nX-Auth-User: root\r\nX_Auth_User: root\r\n\
                    x.auth.groups: root\r\nX-Forwarded-Uri: /harmless\r\nX-Secret: hunter2\r\n\
                    Cookie: a=b\r\nConnection: x-auth-user\r\n";
        let answer = get(proxy.address, "/a%20b?c=d", sent).await;
        assert_eq!((answer.status, answer.text()), (200, "ok".to_owned()));
        assert!(answer.field("set-cookie").is_none(), "{}", answer.head);

        let request = origin.request();
        assert_eq!(fields(&request, "x-auth-user"), ["alice"]);
        assert_eq!(fields(&request, "x-auth-groups"), ["read,write"]);
        assert!(!request.contains("root"), "{request}");
        assert!(fields(&request, "x-other").is_empty(), "{request}");

        let asked = service.request();
        assert!(asked.starts_with("GET /verify?by=proxy HTTP/1.1\r\n"), "{asked}");
        for (name, value) in [
            ("authorization", "Bearer alice"),
            ("cookie", "a=b"),
            ("x-forwarded-method", "GET"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "a.test"),
            ("x-forwarded-uri", "/a%20b?c=d"),
            ("x-forwarded-for", "127.0.0.1"),
            ("x-original-url", "http://a.test/a%20b?c=d"),
            ("x-original-method", "GET"),
        ] {
            assert_eq!(fields(&asked, name), [value], "{asked}");
        }
        assert!(!asked.contains("hunter2") && !asked.contains("root"), "{asked}");
        assert!(proxy.log_lines(1).await[0].contains("identity=alice"));
    })
    .await;
}

#[tokio::test]
async fn a_refusal_is_the_services_own() {
    within(async {
        let (origin, _service, proxy) = started(by_token, "").await;
        let stranger = get(proxy.address, "/", "").await;
        assert_eq!((stranger.status, stranger.text()), (401, "who goes?".to_owned()));
        assert_eq!(stranger.fields("www-authenticate"), ["Bearer realm=\"theirs\""]);
        assert_eq!(stranger.field("content-type"), Some("text/x-theirs"));
        let wrong = get(proxy.address, "/", "Authorization: Bearer wrong\r\n").await;
        assert_eq!((wrong.status, wrong.text()), (403, "no!".to_owned()));
        assert!(origin.bytes().is_empty());
        let lines = proxy.log_lines(2).await;
        assert!(lines[0].contains("rejected=forward_refused"), "{lines:?}");
        assert!(lines[1].contains("rejected=forward_forbidden"), "{lines:?}");
    })
    .await;
}

#[tokio::test]
async fn or_in_our_words() {
    within(async {
        let (_origin, _service, proxy) = started(by_token, "pass_response = false").await;
        let stranger = get(proxy.address, "/", "").await;
        assert_eq!(stranger.status, 401);
        assert_eq!(stranger.fields("www-authenticate"), ["Bearer realm=\"theirs\""]);
        assert_eq!(stranger.field("content-type"), Some("application/problem+json"));
        let wrong = get(proxy.address, "/", "Authorization: Bearer wrong\r\n").await;
        assert_eq!(wrong.status, 403);
        assert!(!wrong.text().contains("no!"), "{}", wrong.text());
    })
    .await;
}

#[tokio::test]
async fn scopes_are_what_the_service_says() {
    within(async {
        let (origin, service) = (Origin::answering(OK).await, service(by_token).await);
        for (scope, status) in [("write", 200), ("admin", 403)] {
            let route = format!("[route.auth]\nany = [\"service\"]\nscopes = [\"{scope}\"]");
            let proxy = guarded(&origin, &scheme(&service, ""), &route).start();
            let alice = get(proxy.address, "/", "Authorization: Bearer alice\r\n").await;
            assert_eq!(alice.status, status, "{scope}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_redirect_is_for_the_client_and_nobody_follows_it() {
    within(async {
        let (origin, service, proxy) = started(
            |_| {
                "HTTP/1.1 302 Found\r\nLocation: https://login.test/?to=%2F\r\n\
                 Set-Cookie: state=1; HttpOnly\r\nConnection: close, x-hop\r\nX-Hop: 1\r\n\
                 Content-Length: 0\r\n\r\n"
                    .to_owned()
            },
            "",
        )
        .await;
        let answer = get(proxy.address, "/", "").await;
        assert_eq!(answer.status, 302);
        assert_eq!(answer.field("location"), Some("https://login.test/?to=%2F"));
        assert_eq!(answer.field("set-cookie"), Some("state=1; HttpOnly"));
        assert!(answer.field("x-hop").is_none(), "{}", answer.head);
        assert_eq!(service.requests().len(), 1);
        assert!(origin.bytes().is_empty());
    })
    .await;
}

#[tokio::test]
async fn cookies_of_the_service_are_passed_on_if_asked_for() {
    within(async {
        let (_origin, _service, proxy) = started(by_token, "set_cookies = true").await;
        let answer = get(proxy.address, "/", "Authorization: Bearer alice\r\n").await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.fields("set-cookie"), ["seen=1"]);
    })
    .await;
}

/// Answers in a way that is no decision.
async fn misbehaving(mut connection: Connection, bytes: &'static str) {
    while connection.request().await.is_some() {
        connection.write(bytes).await;
        if !bytes.contains("Content-Length: 0") {
            return;
        }
    }
}

async fn no_decision(answer: &Answer, proxy: &Running, reason: &str) {
    assert_eq!(answer.status, 503, "{reason}");
    let wait: u32 = answer.field("retry-after").unwrap().parse().unwrap();
    assert!(wait > 0);
    let lines = proxy.log_lines(1).await;
    assert!(lines[0].contains(&format!("rejected={reason}")), "{lines:?}");
}

#[tokio::test]
async fn while_it_cannot_be_asked_nobody_is_let_in() {
    within(async {
        let origin = Origin::answering(OK).await;
        for (bytes, reason) in [
            ("", "forward_invalid"),
            ("HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n", "forward_invalid"),
            ("HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n", "forward_invalid"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nshort", "forward_invalid"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n", "forward_invalid"),
            ("SSH-2.0-OpenSSH\r\n", "forward_invalid"),
        ] {
            let service = Origin::scripted(move |of| misbehaving(of, bytes)).await;
            let proxy = asking(&origin, &service, "").start();
            let answer = get(proxy.address, "/", "Authorization: Bearer alice\r\n").await;
            no_decision(&answer, &proxy, reason).await;
        }
        let refusing = Refusing::new();
        let auth = scheme(format!("http://{refusing}"), "");
        let proxy = guarded(&origin, &auth, "auth = \"service\"").start();
        no_decision(&get(proxy.address, "/", "").await, &proxy, "forward_unreachable").await;
        let silent = Origin::scripted(|mut connection| async move {
            let _request = connection.request().await;
            std::future::pending::<()>().await;
        })
        .await;
        let proxy = asking(&origin, &silent, "timeout = \"200ms\"").start();
        no_decision(&get(proxy.address, "/", "").await, &proxy, "forward_timeout").await;
        assert!(origin.bytes().is_empty());
    })
    .await;
}

#[tokio::test]
async fn unless_that_is_asked_for_and_then_under_no_name() {
    within(async {
        let (origin, refusing) = (Origin::answering(OK).await, Refusing::new());
        let auth = scheme(format!("http://{refusing}"), "on_failure = \"open\"");
        let proxy = guarded(&origin, &auth, "auth = \"service\"").start();
        let forged = "X-Auth-User: root\r\nX_Auth_User: root\r\n";
        assert_eq!(get(proxy.address, "/", forged).await.status, 200);
        let request = origin.request();
        assert!(!request.contains("root"), "{request}");
        assert!(!proxy.log_lines(1).await[0].contains("identity="));
    })
    .await;
}

#[tokio::test]
async fn bodies_are_not_the_services_affair_unless_it_is_said() {
    within(async {
        let post = "POST /up HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer alice\r\n\
                    Content-Type: text/x-mine\r\nContent-Length: 5\r\n\r\nhello";
        let (origin, service, proxy) = started(by_token, "").await;
        assert_eq!(ask(proxy.address, post).await.status, 200);
        assert!(service.request().ends_with("\r\n\r\n"), "{}", service.request());
        assert!(fields(&service.request(), "content-type").is_empty());
        assert!(origin.request().ends_with("hello"));

        let (origin, service, proxy) = started(by_token, "send_body = 8").await;
        assert_eq!(ask(proxy.address, post).await.status, 200);
        let asked = service.request();
        assert!(asked.starts_with("POST /verify") && asked.ends_with("\r\n\r\nhello"), "{asked}");
        assert_eq!(fields(&asked, "content-type"), ["text/x-mine"]);
        assert_eq!(fields(&asked, "x-forwarded-method"), ["POST"]);
        assert!(origin.request().ends_with("hello"));
        let long = post.replace("Length: 5", "Length: 9").replace("hello", "too long!");
        assert_eq!(ask(proxy.address, long).await.status, 413);
        assert_eq!((service.requests().len(), origin.requests().len()), (1, 1));
    })
    .await;
}

#[tokio::test]
async fn requests_to_switch_protocols_are_asked_about_as_well() {
    within(async {
        let (origin, service, proxy) = started(by_token, "").await;
        let stranger = get(proxy.address, "/ws", HANDSHAKE).await;
        assert_eq!(stranger.status, 401);
        assert!(origin.bytes().is_empty());
        let asked = service.request();
        assert!(!asked.to_ascii_lowercase().contains("upgrade"), "{asked}");
        let known = format!("Authorization: Bearer alice\r\n{HANDSHAKE}");
        get(proxy.address, "/ws", &known).await;
        let request = origin.request();
        assert_eq!(fields(&request, "upgrade"), ["websocket"], "{request}");
        assert_eq!(fields(&request, "x-auth-user"), ["alice"]);
    })
    .await;
}

#[tokio::test]
async fn the_service_is_asked_over_tls_and_for_clients_of_http_2() {
    within(async {
        let (authority, dir) = (Authority::new(), TempDir::new().unwrap());
        authority.write(dir.path());
        authority.sign(dir.path(), "a", &["a.test"]);
        authority.sign(dir.path(), "auth", &["localhost"]);
        let config = std::sync::Arc::new(crate::support::certs::server(dir.path(), "auth", &[]));
        let acceptor = tokio_rustls::TlsAcceptor::from(config);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (heard, mut heads) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut client = Raw::over(acceptor.accept(stream).await.unwrap());
                let head = client.read_until("\r\n\r\n").await;
                client.send(by_token(&head)).await;
                heard.send(head).unwrap();
            }
        });
        let origin = Origin::answering(OK).await;
        let auth = scheme(format!("https://localhost:{}", address.port()), "ca = \"ca.pem\"");
        let proxy = guarded(&origin, &auth, "auth = \"service\"")
            .listener(
                "[listener.tls]\ncertificates = [{ certificate = \"a.crt\", key = \"a.key\" }]",
            )
            .start_in(dir);
        let stream = connect(proxy.address, authority.client(&["h2"]), "a.test").await.unwrap();
        let io = TokioIo::new(stream);
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get("https://a.test/h2?x")
            .header("authorization", "Bearer alice")
            .header("x-auth-user", "root")
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .body(Empty::<Bytes>::new())
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "ok");
        let asked = heads.recv().await.unwrap();
        assert_eq!(fields(&asked, "x-original-url"), ["https://a.test/h2?x"]);
        assert_eq!(fields(&asked, "cookie"), ["a=1; b=2"]);
        assert_eq!(fields(&origin.request(), "x-auth-user"), ["alice"]);
    })
    .await;
}

#[tokio::test]
async fn behind_a_trusted_proxy_the_service_is_told_what_that_saw() {
    within(async {
        let (origin, service) = (Origin::answering(OK).await, service(by_token).await);
        let proxy =
            asking(&origin, &service, "").server("trusted_proxies = [\"127.0.0.1\"]").start();
        let told = "X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\n\
                    X-Forwarded-Host: outside.test\r\n";
        assert_eq!(get(proxy.address, "/a", told).await.status, 401);
        let asked = service.request();
        assert_eq!(fields(&asked, "x-forwarded-for"), ["192.0.2.7"]);
        assert_eq!(fields(&asked, "x-forwarded-proto"), ["https"]);
        // The route was chosen by `Host`, and so is what is decided.
        assert_eq!(fields(&asked, "x-forwarded-host"), ["a.test"]);
        assert_eq!(fields(&asked, "x-original-url"), ["https://a.test/a"]);
    })
    .await;
}

type Answering = fn(&str) -> String;

/// The order in which several schemes of which none lets a request in have the say.
#[tokio::test]
async fn of_several_the_one_has_the_say_that_can_help_further() {
    within(async {
        let forbidding = |_: &str| "HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n".to_owned();
        let redirecting = |_: &str| {
            "HTTP/1.1 302 Found\r\nLocation: https://login.test/\r\nContent-Length: 0\r\n\r\n"
                .to_owned()
        };
        let failing = |_: &str| "HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n".to_owned();
        let answers: [(Answering, &str); 4] = [
            (forbidding, "forbidding"),
            (by_token, "unauthorized"),
            (failing, "failing"),
            (redirecting, "redirecting"),
        ];
        let (origin, mut services) = (Origin::answering(OK).await, Vec::new());
        let mut auth =
            "[[auth]]\nname = \"people\"\n[auth.basic]\nfile = \"htpasswd\"\n".to_owned();
        for (answer, name) in answers {
            let service = service(answer).await;
            let named =
                scheme(&service, "").replace("name = \"service\"", &format!("name = \"{name}\""));
            auth.push_str(&named);
            services.push(service);
        }
        let users = PasswordHash::of("word", PasswordScheme::Bcrypt).unwrap();
        let users = format!("alice:{users}\n");
        for (any, status, reason) in [
            ("\"forbidding\", \"people\"", 401, "auth_missing"),
            ("\"people\", \"forbidding\"", 401, "auth_missing"),
            ("\"people\", \"unauthorized\"", 401, "forward_refused"),
            ("\"unauthorized\", \"forbidding\"", 401, "forward_refused"),
            ("\"unauthorized\", \"failing\"", 503, "forward_invalid"),
            ("\"failing\", \"redirecting\", \"people\"", 302, "forward_redirected"),
        ] {
            let dir = TempDir::new().unwrap();
            std::fs::write(dir.path().join("htpasswd"), &users).unwrap();
            let proxy =
                guarded(&origin, &auth, &format!("auth = {{ any = [{any}] }}")).start_in(dir);
            let answer = get(proxy.address, "/", "").await;
            assert_eq!(answer.status, status, "{any}");
            let asked = answer.fields("www-authenticate");
            let basic = asked.iter().any(|challenge| challenge.starts_with("Basic "));
            assert_eq!(basic, status == 401 && any.contains("people"), "{any}: {asked:?}");
            let theirs = asked.contains(&"Bearer realm=\"theirs\"");
            assert_eq!(theirs, reason == "forward_refused", "{any}: {asked:?}");
            let lines = proxy.log_lines(1).await;
            assert!(lines[0].contains(&format!("rejected={reason}")), "{lines:?}");
        }
        assert!(origin.bytes().is_empty());
    })
    .await;
}

#[tokio::test]
async fn nobody_learns_by_what_software_it_was_refused() {
    within(async {
        let naming = |_: &str| {
            "HTTP/1.1 403 No\r\nServer: gunicorn/20.0\r\nContent-Length: 0\r\n\r\n".to_owned()
        };
        let (_origin, _service, proxy) = started(naming, "").await;
        let refused = get(proxy.address, "/", "").await;
        assert_eq!(refused.status, 403);
        assert!(!refused.head.contains("gunicorn"), "{}", refused.head);
    })
    .await;
}

/// A field that the service reads as the client's address is never the client's own.
#[tokio::test]
async fn the_service_is_told_the_clients_address_by_nobody_else() {
    within(async {
        let (_origin, service, proxy) = started(by_token, "request_headers = \"*\"").await;
        let forged = "X-Real-IP: 6.6.6.6\r\nX_Real_IP: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n";
        assert_eq!(get(proxy.address, "/", forged).await.status, 401);
        let asked = service.request();
        assert_eq!(fields(&asked, "x-real-ip"), ["127.0.0.1"]);
        assert!(!asked.contains("6.6.6.6"), "{asked}");
    })
    .await;
}

/// Of a body that the service has seen the origin gets the bytes; what came behind them it is
/// not told to wait for.
#[tokio::test]
async fn trailer_fields_that_are_lost_are_not_announced() {
    within(async {
        let post = "POST /up HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer alice\r\n\
                    Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
                    5\r\nhello\r\n0\r\nX-Sum: 7\r\n\r\n";
        let (origin, _service, proxy) = started(by_token, "send_body = 8").await;
        assert_eq!(ask(proxy.address, post).await.status, 200);
        let request = origin.request().to_ascii_lowercase();
        assert!(request.contains("hello") && !request.contains("x-sum"), "{request}");
        let (origin, _service, proxy) = started(by_token, "").await;
        assert_eq!(ask(proxy.address, post).await.status, 200);
        let request = origin.request().to_ascii_lowercase();
        assert!(request.contains("trailer: x-sum") && request.contains("x-sum: 7"), "{request}");
    })
    .await;
}
