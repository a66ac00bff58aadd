use http::{HeaderValue, Response};

use super::*;
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

/// The key of a GET with these fields.
fn key(remembered: &Remembered, target: &str, fields: &[(&'static str, &'static str)]) -> [u8; 32] {
    let mut request = http::Request::get(target);
    for (field, value) in fields {
        request = request.header(*field, *value);
    }
    let (parts, ()) = request.body(()).unwrap().into_parts();
    let asked = Asked::of(&parts, None);
    remembered.key(&Described::of(&asked), &parts.headers)
}

#[test]
fn requests_are_alike_in_what_the_key_says_and_in_nothing_else() {
    let parts = vec![
        KeyPart::Header(header::AUTHORIZATION),
        KeyPart::Cookie("session".to_owned()),
        KeyPart::Path,
    ];
    let remembered = Remembered::new(&DecisionCacheSettings::by(parts), 8).unwrap();
    let of = |target, fields: &[_]| key(&remembered, target, fields);
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
    let other = Remembered::new(&remembered_settings(), 8).unwrap();
    assert_ne!(one, key(&other, "/a?x", &[alice, ("cookie", "session=s1")]), "another secret");
}

/// Origins, and services, that read `X_Tenant` as `X-Tenant` are many.
#[test]
fn who_has_a_twin_of_a_field_is_another_than_who_has_the_field() {
    let settings = DecisionCacheSettings::by(vec![KeyPart::Header(name("x-tenant"))]);
    let remembered = Remembered::new(&settings, 8).unwrap();
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
fn no_more_is_under_way_than_may_be() {
    let remembered = Arc::new(Remembered::new(&remembered_settings(), 2).unwrap());
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

fn remembered_settings() -> DecisionCacheSettings {
    DecisionCacheSettings::by(vec![
        KeyPart::Header(header::AUTHORIZATION),
        KeyPart::Cookie("session".to_owned()),
        KeyPart::Path,
    ])
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
    let (parts, ()) = request
        .header("iffy", "1")
        .header("cookie", "a=b")
        .header("cookie", "c=d")
        .header("authorization", "Bearer x")
        .header("x-forwarded-uri", "/harmless")
        .header("x-original-url", "https://a.test/harmless")
        .header("x-secret", "1")
        .body(())
        .unwrap()
        .into_parts();
    let mut settings = settings();
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
    ] {
        let lines: Vec<_> = told.headers().get_all(field).iter().collect();
        assert_eq!(lines, [value], "{field}");
    }
    assert!(!told.headers().contains_key("x-secret"));
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
