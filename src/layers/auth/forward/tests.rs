use std::time::Duration;

use http::{HeaderValue, Response};

use super::*;
use crate::context::{Downstream, TlsFacts};
use crate::layers::auth::Grant;

fn settings() -> ForwardAuthSettings {
    let mut settings = ForwardAuthSettings::new("http://auth.test/verify".parse().unwrap());
    settings.response_headers = vec![name("x-auth-user"), name("x-groups")];
    settings.name_header = Some(name("x-auth-user"));
    settings.scopes_header = Some(name("x-groups"));
    settings
}

fn name(text: &'static str) -> HeaderName {
    HeaderName::from_static(text)
}

fn answer(status: u16, fields: &[(&'static str, &'static str)]) -> Response<Bytes> {
    let mut answer = Response::new(Bytes::from_static(b"words"));
    *answer.status_mut() = http::StatusCode::from_u16(status).unwrap();
    for (field, value) in fields {
        answer.headers_mut().append(name(field), HeaderValue::from_static(value));
    }
    answer
}

fn verdict(answer: Response<Bytes>, settings: &ForwardAuthSettings) -> Verdict {
    Decision::of(Ok(answer), settings).verdict(settings, Format::Problem)
}

fn granted(verdict: Verdict) -> Grant {
    match verdict {
        Verdict::Granted(grant) => grant,
        other => panic!("{other:?}"),
    }
}

#[test]
fn two_hundreds_let_in_and_say_who_it_is() {
    for status in [200, 202, 204] {
        let fields = [("x-auth-user", "alice"), ("x-groups", "read, write"), ("x-groups", "admin")];
        let grant = granted(verdict(answer(status, &fields), &settings()));
        let identity = grant.identity.unwrap();
        assert_eq!((&*identity.name, identity.scheme), ("alice", "forward"));
        assert!(["read", "write", "admin"].into_iter().all(|scope| identity.has_scope(scope)));
        assert_eq!(identity.claims["x-auth-user"], "alice");
        let changes = grant.changes.unwrap();
        assert!(changes.remove.is_empty());
        let groups = HeaderValue::from_static("read, write, admin");
        assert!(changes.set.contains(&(name("x-groups"), groups)), "{changes:?}");
        assert!(grant.response.is_empty());
    }
}

#[test]
fn fields_that_it_does_not_set_are_nobodys() {
    let grant = granted(verdict(answer(200, &[]), &settings()));
    assert!(grant.identity.is_none());
    assert_eq!(grant.changes.unwrap().remove, settings().response_headers);
}

#[test]
fn refusals_and_redirects_are_for_the_client() {
    let of = |status, fields: &[_]| match verdict(answer(status, fields), &settings()) {
        Verdict::Answered(answer, reason) => (*answer, reason),
        other => panic!("{other:?}"),
    };
    let fields = [
        ("www-authenticate", "Bearer realm=\"x\""),
        ("set-cookie", "state=1"),
        ("connection", "x-hop"),
        ("x-hop", "1"),
        ("content-length", "5"),
        ("transfer-encoding", "chunked"),
        ("server", "gunicorn/20.0"),
    ];
    let (refusal, reason) = of(401, &fields);
    assert_eq!((refusal.status().as_u16(), reason), (401, "forward_refused"));
    assert_eq!(refusal.body(), "words");
    let kept: Vec<_> = refusal.headers().keys().map(HeaderName::as_str).collect();
    assert_eq!(kept, ["www-authenticate", "set-cookie"]);
    assert_eq!(of(403, &[]).1, "forward_forbidden");
    assert_eq!(of(429, &[]).1, "forward_forbidden");
    let (redirect, reason) = of(302, &[("location", "/login")]);
    assert_eq!(
        (redirect.headers()["location"].as_bytes(), reason),
        (&b"/login"[..], "forward_redirected")
    );
}

#[test]
fn refusals_in_our_words_keep_the_challenge_only() {
    let mut settings = settings();
    settings.pass_response = false;
    let fields = [("www-authenticate", "Bearer"), ("x-internal", "secret")];
    let Verdict::Answered(refusal, _) = verdict(answer(401, &fields), &settings) else { panic!() };
    assert_eq!(refusal.headers()["www-authenticate"], "Bearer");
    assert!(!refusal.headers().contains_key("x-internal"));
    assert_ne!(refusal.body(), "words");
    assert!(matches!(verdict(answer(403, &fields), &settings), Verdict::Forbidden(_)));
    let redirect = verdict(answer(303, &[("location", "/login")]), &settings);
    assert!(matches!(redirect, Verdict::Answered(..)));
}

#[test]
fn what_is_no_decision_keeps_everybody_out_unless_settled_otherwise() {
    for (status, fields) in [(500, &[][..]), (503, &[]), (302, &[]), (304, &[])] {
        let none = verdict(answer(status, fields), &settings());
        assert!(matches!(none, Verdict::Unavailable("forward_invalid")), "{status}: {none:?}");
        let mut open = settings();
        open.open_on_failure = true;
        let grant = granted(verdict(answer(status, fields), &open));
        assert!(grant.identity.is_none());
        assert_eq!(grant.changes.unwrap().remove, open.response_headers);
    }
}

#[test]
fn a_decision_holds_as_long_as_it_may() {
    let second = Duration::from_secs(1);
    let mut settings = settings();
    settings.set_cookies = true;
    let holds = |status, fields: &[_]| {
        let answer = answer(status, fields);
        let headers = answer.headers().clone();
        Decision::of(Ok(answer), &settings).holds_for(&headers, 10 * second)
    };
    assert_eq!(holds(200, &[]), Some(10 * second));
    assert_eq!(holds(200, &[("cache-control", "private, max-age=3")]), Some(3 * second));
    assert_eq!(holds(200, &[("cache-control", "max-age=300")]), Some(10 * second));
    for none in ["no-store", "No-Cache", "max-age=0", "max-age=x", "private, no-store=\"x\""] {
        assert_eq!(holds(200, &[("cache-control", none)]), None, "{none}");
    }
    assert_eq!(holds(200, &[("set-cookie", "a=b")]), None);
    assert_eq!(holds(401, &[("set-cookie", "a=b")]), None);
    assert_eq!(holds(401, &[]), Some(10 * second));
    assert_eq!(holds(500, &[]), None);
}

/// What is remembered by these of what the service decides that is told the usual fields.
fn remembered(parts: &[KeyPart], most_asked: usize) -> Remembered {
    let settings = DecisionCacheSettings::by(parts.to_vec());
    Remembered::new(&settings, &self::settings().request_headers, most_asked).unwrap()
}

/// The key of a GET with these fields.
fn key(
    remembered: &Remembered,
    target: &str,
    fields: &[(&'static str, &'static str)],
) -> Option<[u8; 32]> {
    let mut request = http::Request::get(target);
    for (field, value) in fields {
        request = request.header(*field, *value);
    }
    let (parts, ()) = request.body(()).unwrap().into_parts();
    let asked = Asked::of(&parts, None);
    remembered.key(&Described::of(&asked), &parts.headers)
}

fn usual() -> [KeyPart; 3] {
    let session = KeyPart::Cookie("session".to_owned());
    [KeyPart::Header(header::AUTHORIZATION), session, KeyPart::Path]
}

#[test]
fn requests_are_alike_in_what_the_key_says_and_in_nothing_else() {
    let known = remembered(&usual(), 8);
    let of = |target, fields: &[_]| key(&known, target, fields).unwrap();
    let alice = ("authorization", "Bearer alice");
    let one = of("/a?x", &[alice, ("cookie", "other=1; session=s1")]);
    assert_eq!(one, of("/a?y", &[alice, ("cookie", "session=s1"), ("accept", "*/*")]));
    for (target, fields) in [
        ("/b?x", &[alice, ("cookie", "session=s1")][..]),
        ("/a?x", &[("authorization", "Bearer bob"), ("cookie", "session=s1")]),
        ("/a?x", &[alice, ("cookie", "session=s2")]),
        ("/a?x", &[alice, ("cookie", "session=s1; session=s2")]),
        ("/a?x", &[alice, ("cookie", "xsession=s1")]),
        ("/a?x", &[alice, alice, ("cookie", "session=s1")]),
        ("/a?x", &[alice]),
        ("https://a.test/a?x", &[alice, ("cookie", "session=s1")]),
    ] {
        assert_ne!(one, of(target, fields), "{target} {fields:?}");
    }
    let other = remembered(&usual(), 8);
    let another_secret = key(&other, "/a?x", &[alice, ("cookie", "session=s1")]);
    assert_ne!(Some(one), another_secret);
}

/// Origins, and services, that read `X_Tenant` as `X-Tenant` are many.
#[test]
fn who_has_a_twin_of_a_field_is_another_than_who_has_the_field() {
    let remembered = remembered(&[KeyPart::Header(name("x-tenant"))], 8);
    let keys = [
        &[("x-tenant", "a")][..],
        &[("x-tenant", "a"), ("x_tenant", "b")],
        &[("x_tenant", "a")],
        &[("x.tenant", "a")],
        &[],
    ];
    let keys = keys.map(|fields| key(&remembered, "/", fields));
    let distinct: std::collections::HashSet<_> = keys.iter().collect();
    assert_eq!(distinct.len(), keys.len());
}

#[test]
fn credentials_that_the_service_is_told_of_count_in_any_case() {
    let session = ("cookie", "session=s1; theme=dark");
    let basic = ("authorization", "Basic YTpi");
    let by_session = remembered(&[KeyPart::Cookie("session".to_owned())], 8);
    let of = |fields: &[_]| key(&by_session, "/", fields).unwrap();
    assert_ne!(of(&[session]), of(&[session, basic]));
    // Of cookies those count that are named.
    assert_eq!(of(&[session]), of(&[("cookie", "session=s1")]));
    let by_token = remembered(&[KeyPart::Header(header::AUTHORIZATION)], 8);
    let of = |fields: &[_]| key(&by_token, "/", fields).unwrap();
    assert_ne!(of(&[basic]), of(&[basic, session]));
    // What it is not told of it cannot decide by.
    let settings = DecisionCacheSettings::by(vec![KeyPart::Header(header::AUTHORIZATION)]);
    let told = ToldFields::These(vec![header::AUTHORIZATION]);
    let untold = Remembered::new(&settings, &told, 8).unwrap();
    assert_eq!(key(&untold, "/", &[basic]), key(&untold, "/", &[basic, session]));
}

#[test]
fn of_a_request_that_is_nobodys_nothing_is_remembered() {
    let mut parts = usual().to_vec();
    parts.push(KeyPart::Header(header::ACCEPT));
    let known = remembered(&parts, 8);
    for nobodys in [
        &[][..],
        &[("accept", "*/*")],
        &[("cookie", "theme=dark")],
        &[("cookie", "session=")],
        &[("authorization", "")],
    ] {
        assert_eq!(key(&known, "/a", nobodys), None, "{nobodys:?}");
    }
    assert!(key(&known, "/a", &[("cookie", "session=s1")]).is_some());
    assert!(DecisionCacheSettings::by(parts).tells_clients_apart());
    let accept = vec![KeyPart::Header(header::ACCEPT), KeyPart::Header(header::USER_AGENT)];
    assert!(!DecisionCacheSettings::by(accept).tells_clients_apart());
}

#[test]
fn no_more_is_under_way_than_may_be() {
    let remembered = Arc::new(remembered(&usual(), 2));
    let turn = |key: u8| remembered.turn([key; 32]);
    let (first, second) = (turn(1), turn(2));
    assert!(matches!((&first, &second), (Turn::Asks(_), Turn::Asks(_))));
    assert!(matches!(turn(3), Turn::TooMany));
    assert!(matches!(turn(1), Turn::Waits(_)));
    drop(second);
    assert!(matches!(turn(3), Turn::Asks(_)));
}

#[test]
fn what_the_connection_names_is_not_there() {
    let of = |connection: &'static str| {
        let mut headers = http::HeaderMap::new();
        headers.insert(header::CONNECTION, HeaderValue::from_static(connection));
        headers.insert("x-tenant", HeaderValue::from_static("victim"));
        headers.insert("authorization", HeaderValue::from_static("Bearer x"));
        headers
    };
    for connection in ["", "close", "Keep-Alive, Upgrade", ", ,"] {
        let headers = of(connection);
        assert!(matches!(end_to_end(&headers), std::borrow::Cow::Borrowed(_)), "{connection}");
    }
    for connection in ["x-tenant", "close,X-Tenant , authorization"] {
        let headers = of(connection);
        let left = end_to_end(&headers);
        assert!(!left.contains_key("x-tenant"), "{connection}");
        assert_eq!(left["authorization"], "Bearer x", "{connection}");
    }
}

/// What a service is not told by clients, all fields or not.
const WITHHELD: [&str; 16] = [
    "if-match",
    "if-none-match",
    "if-modified-since",
    "if-unmodified-since",
    "if-range",
    "range",
    "accept-encoding",
    "expect",
    "upgrade",
    "te",
    "x_original_method",
    "x.original.uri",
    "x_forwarded_uri",
    "x_request_id",
    "x-request-id",
    "content_length",
];

#[test]
fn the_service_is_told_what_the_route_was_chosen_by() {
    let request = http::Request::post("https://a.test/a%20b?c=d");
    let request = WITHHELD.into_iter().fold(request, |request, name| request.header(name, "GET"));
    let (mut parts, ()) = request
        .header("iffy", "1")
        .header("cookie", "a=b")
        .header("cookie", "c=d")
        .header("authorization", "Bearer x")
        .header("x-forwarded-uri", "/harmless")
        .header("x-original-url", "https://a.test/harmless")
        .header("x-secret", "1")
        .header("x-real-ip", "6.6.6.6")
        .header("x_real_ip", "6.6.6.6")
        .header("forwarded", "for=6.6.6.6")
        .body(())
        .unwrap()
        .into_parts();
    parts.extensions.insert(Arc::new(Downstream {
        peer: Some("192.0.2.1:4711".parse().unwrap()),
        tls: Some(TlsFacts::default()),
        ..Downstream::default()
    }));
    let mut settings = settings();
    // Nobody who sets this up by hand has to know what may not be taken from clients.
    let claims = ["x-real-ip", "forwarded", "x-original-url", "x_real_ip"].map(name);
    if let ToldFields::These(told) = &mut settings.request_headers {
        told.extend(claims);
    }
    let question_of = |settings: &ForwardAuthSettings| {
        question(settings, &Asked::of(&parts, Some(&Bytes::from_static(b"body"))))
    };
    let told = question_of(&settings);
    assert_eq!((told.method().as_str(), told.body().len()), ("GET", 0));
    assert_eq!(told.uri(), "http://auth.test/verify");
    for (field, value) in [
        ("cookie", "a=b; c=d"),
        ("authorization", "Bearer x"),
        ("x-forwarded-method", "POST"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "a.test"),
        ("x-forwarded-uri", "/a%20b?c=d"),
        ("x-original-method", "POST"),
        ("x-original-uri", "/a%20b?c=d"),
        ("x-original-url", "https://a.test/a%20b?c=d"),
        ("x-real-ip", "192.0.2.1"),
    ] {
        let lines: Vec<_> = told.headers().get_all(field).iter().collect();
        assert_eq!(lines, [value], "{field}");
    }
    for untold in ["x-secret", "x_real_ip", "forwarded"] {
        assert!(!told.headers().contains_key(untold), "{untold}");
    }
    settings.request_headers = ToldFields::All;
    settings.send_body = Some(64);
    let told = question_of(&settings);
    assert_eq!(told.headers()["x-secret"], "1");
    assert_eq!(told.headers()["iffy"], "1");
    for withheld in WITHHELD {
        assert!(!told.headers().contains_key(withheld), "{withheld}");
    }
    assert_eq!(told.headers()["x-forwarded-uri"], "/a%20b?c=d");
    assert_eq!(told.body(), "body");
}

#[test]
fn what_clients_may_send_is_not_taken_from_every_request() {
    let mut settings = settings();
    settings.response_headers.push(header::AUTHORIZATION);
    let forward = ForwardAuth::new(&settings).unwrap();
    assert_eq!(forward.identity_fields(), [name("x-auth-user"), name("x-groups")]);
}

/// What was logged on this thread.
#[cfg(feature = "cli")]
#[derive(Clone, Default)]
struct Logged(Arc<parking_lot::Mutex<Vec<u8>>>);

#[cfg(feature = "cli")]
impl std::io::Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(feature = "cli")]
#[tokio::test]
async fn an_outage_is_in_the_log_and_so_is_its_end() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let (logged, listener) = (Logged::default(), tokio::net::TcpListener::bind("127.0.0.1:0"));
    let listener = listener.await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for status in [500, 503, 204] {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _head = stream.read(&mut [0; 4096]).await.unwrap();
            let answer = format!("HTTP/1.1 {status} X\r\nConnection: close\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    // With only one log in the process, tracing would not ask it about what another thread is
    // the first to log.
    let _another = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::new());
    let to = logged.clone();
    let log = tracing_subscriber::fmt().with_ansi(false).with_writer(move || to.clone()).finish();
    let _while_it_runs = tracing::subscriber::set_default(log);
    let url = format!("http://{address}/verify?token=s3cret");
    let service = ForwardAuth::new(&ForwardAuthSettings::new(url.parse().unwrap())).unwrap();
    for lets_in in [false, false, true] {
        let (parts, ()) = Request::get("/").body(()).unwrap().into_parts();
        let Judging::Later(judging) = service.judge(&Asked::of(&parts, None)) else { panic!() };
        assert_eq!(matches!(judging.await, Verdict::Granted(_)), lets_in);
    }
    let text = String::from_utf8(logged.0.lock().clone()).unwrap();
    let of = |level: &str| text.lines().filter(|line| line.contains(level)).collect::<Vec<_>>();
    let (begins, ends) = (of(" WARN "), of(" INFO "));
    assert_eq!((begins.len(), ends.len()), (1, 1), "{text}");
    for line in [begins[0], ends[0]] {
        assert!(line.contains(&format!("http://{address}/verify")), "{text}");
        assert!(!line.contains("s3cret"), "{text}");
    }
    assert!(ends[0].contains("outage="), "{text}");
}
