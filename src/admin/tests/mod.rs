//! The API's own rules, before an operator that notes what it is asked.

mod noting;

use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;
use crate::layers::KeyDigest;
use noting::Noting;

const HERE: &str = "127.0.0.1:6190";

fn plain_state() -> AdminState {
    AdminState::new(Metrics::default(), Readiness::default(), drain::Watcher::never())
}

/// An admin listener's router, and whoever is behind it.
struct Listener {
    router: Router,
    operator: Arc<Noting>,
}

struct Answered {
    status: u16,
    fields: HeaderMap,
    text: String,
}

impl Answered {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }
}

impl Listener {
    fn new(address: &str, token: Option<&str>) -> Self {
        let operator = Arc::new(Noting::default());
        let token = Token::new(token.map(|token| KeyDigest::of(token.as_bytes())));
        let state = plain_state().operated_by(operator.clone()).guarded_by(token);
        Self { router: router(state, address.parse().unwrap()), operator }
    }

    fn here() -> Self {
        Self::new(HERE, None)
    }

    async fn ask(&self, method: &str, path: &str, fields: &[(&str, &str)], body: &str) -> Answered {
        let mut request = Request::builder().method(method).uri(path);
        if !fields.iter().any(|(name, _)| *name == "host") {
            request = request.header("host", HERE);
        }
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body.to_owned())).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8(body.to_vec()).unwrap();
        Answered { status: parts.status.as_u16(), fields: parts.headers, text }
    }

    async fn get(&self, path: &str) -> Answered {
        self.ask("GET", path, &[], "").await
    }

    async fn send(&self, method: &str, path: &str, body: &str) -> Answered {
        let json = ("content-type", "application/json");
        self.ask(method, path, &[json], body).await
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.operator.asked.lock())
    }
}

/// Every request that changes something, with a body that fits.
const CHANGES: [(&str, &str, &str); 7] = [
    ("POST", "/api/reload", ""),
    ("POST", "/api/reload/confirm", ""),
    ("POST", "/api/reload/rollback", ""),
    ("POST", "/api/upgrade", ""),
    ("PATCH", "/api/upstreams/api/origins/127.0.0.1%3A80", "{\"drained\": true}"),
    ("PUT", "/api/log-level", "{\"level\": \"debug\"}"),
    ("PUT", "/api/routes/all/rate-limit", "{\"dry_run\": true}"),
];

#[tokio::test]
async fn readiness_follows_the_life_of_the_proxy() {
    let (ready, trigger) = (Readiness::default(), drain::trigger());
    let state = AdminState::new(Metrics::default(), ready.clone(), trigger.watcher());
    let router = router(state, HERE.parse().unwrap());
    let listener = Listener { router, operator: Arc::default() };
    let readyz = async || {
        let answer = listener.get("/readyz").await;
        (answer.status, answer.text)
    };
    assert_eq!(listener.get("/livez").await.status, 200);
    assert_eq!(readyz().await, (503, "starting\n".to_owned()));
    ready.set(true);
    assert_eq!(readyz().await, (200, "ready\n".to_owned()));
    trigger.drain(Duration::from_secs(1)).await;
    assert_eq!(readyz().await, (503, "draining\n".to_owned()));
}

#[tokio::test]
async fn a_strangers_host_is_refused() {
    let listener = Listener::here();
    for host in ["127.0.0.1:6190", "[::1]:6190", "localhost"] {
        assert_eq!(
            listener.ask("GET", "/livez", &[("host", host)], "").await.status,
            200,
            "{host}"
        );
    }
    for host in ["evil.test", "192.0.2.1", "localhost.evil.test", ""] {
        for path in ["/metrics", "/api/status", "/readyz"] {
            let answer = listener.ask("GET", path, &[("host", host)], "").await;
            assert_eq!(answer.status, 421, "{host} {path}");
        }
        let answer = listener.ask("POST", "/api/reload", &[("host", host)], "").await;
        assert_eq!(answer.status, 421, "{host}");
    }
    assert!(listener.asked().is_empty());
}

#[tokio::test]
async fn what_is_not_there_is_404_and_what_is_not_taken_405() {
    let listener = Listener::here();
    assert_eq!(listener.get("/nothing").await.status, 404);
    assert_eq!(listener.get("/api/nothing").await.status, 404);
    let answer = listener.get("/api/reload").await;
    assert_eq!((answer.status, &answer.fields["allow"]), (405, &"POST".parse().unwrap()));
    assert!(listener.get("/metrics").await.text.contains("tollgate_build_info"));
    let page = listener.get("/").await.text;
    for (path, _) in api::PATHS {
        assert!(page.contains(path.rsplit(' ').next().unwrap()), "{path} is not in {page}");
    }
}

#[tokio::test]
async fn every_change_reaches_the_operator() {
    let listener = Listener::here();
    for (method, path, body) in CHANGES {
        let answer = listener.send(method, path, body).await;
        assert_eq!(answer.status, 200, "{method} {path}: {}", answer.text);
        assert_eq!(answer.fields["cache-control"], "no-store");
        assert!(answer.json()["message"].is_string(), "{path}: {}", answer.text);
    }
    assert_eq!(
        listener.asked(),
        [
            "Reload { plan_only: false, confirm: None }",
            "confirm",
            "roll back",
            "upgrade",
            "api 127.0.0.1:80 OriginChange { weight: None, reset_weight: false, drained: \
             Some(true) }",
            "log Some(\"debug\")",
            "all true",
        ]
    );
}

#[tokio::test]
async fn a_page_in_a_browser_changes_nothing() {
    let listener = Listener::here();
    let by_pages = [
        ("origin", "http://127.0.0.1:6190"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("sec-fetch-site", "same-origin"),
    ];
    let json = ("content-type", "application/json");
    for (method, path, body) in CHANGES {
        for field in by_pages {
            let answer = listener.ask(method, path, &[json, field], body).await;
            assert_eq!(answer.status, 403, "{path} {field:?}");
            assert_eq!(answer.json()["code"], "from_a_page");
        }
    }
    assert!(listener.asked().is_empty());
    let typed = ("sec-fetch-site", "none");
    assert_eq!(listener.ask("POST", "/api/upgrade", &[typed], "").await.status, 200);
    // A page may be a person's who looks at what there is.
    let link = ("sec-fetch-site", "cross-site");
    assert_eq!(listener.ask("GET", "/api/status", &[link], "").await.status, 200);
}

#[tokio::test]
async fn with_a_token_nothing_but_the_probes_answers_without_it() {
    let listener = Listener::new(HERE, Some("t0ken"));
    let wrong = [
        vec![],
        vec![("authorization", "Bearer t0ke")],
        vec![("authorization", "Bearer t0kenn")],
        vec![("authorization", "Bearer ")],
        vec![("authorization", "Bearer")],
        vec![("authorization", "Basic t0ken")],
        vec![("authorization", "t0ken")],
        vec![("authorization", "Bearer t0ken"), ("authorization", "Bearer t0ken")],
    ];
    for fields in wrong {
        for path in ["/", "/metrics", "/api/status", "/api/upstreams", "/nothing"] {
            let answer = listener.ask("GET", path, &fields, "").await;
            assert_eq!(answer.status, 401, "{path} {fields:?}");
            assert!(answer.fields["www-authenticate"].to_str().unwrap().starts_with("Bearer"));
        }
        for (method, path, body) in CHANGES {
            assert_eq!(listener.ask(method, path, &fields, body).await.status, 401, "{path}");
        }
        assert_eq!(listener.ask("GET", "/livez", &fields, "").await.status, 200);
        assert_eq!(listener.ask("GET", "/readyz", &fields, "").await.status, 503);
    }
    assert!(listener.asked().is_empty());
    for right in ["Bearer t0ken", "bearer t0ken", "BEARER  t0ken"] {
        let field = ("authorization", right);
        assert_eq!(listener.ask("GET", "/api/status", &[field], "").await.status, 200);
        assert_eq!(listener.ask("POST", "/api/upgrade", &[field], "").await.status, 200);
    }
}

#[tokio::test]
async fn a_token_can_be_changed_while_it_runs() {
    let token = Token::new(None);
    let state = plain_state().operated_by(Arc::new(Noting::default())).guarded_by(token.clone());
    let router = router(state, HERE.parse().unwrap());
    let listener = Listener { router, operator: Arc::default() };
    assert_eq!(listener.get("/api/status").await.status, 200);
    token.set(Some(KeyDigest::of(b"t0ken")));
    assert_eq!(listener.get("/api/status").await.status, 401);
    token.set(None);
    assert_eq!(listener.get("/api/status").await.status, 200);
}

#[tokio::test]
async fn open_to_others_nothing_changes_without_a_token() {
    for address in ["0.0.0.0:6190", "192.0.2.1:6190", "[::]:6190"] {
        let listener = Listener::new(address, None);
        let host = ("host", "tollgate.internal");
        for (method, path, body) in CHANGES {
            let answer = listener.ask(method, path, &[host], body).await;
            assert_eq!(answer.status, 403, "{address} {path}");
            assert!(answer.text.contains("set `token` in [admin]"), "{}", answer.text);
        }
        assert!(listener.asked().is_empty());
        assert_eq!(listener.ask("GET", "/metrics", &[host], "").await.status, 200);
        let guarded = Listener::new(address, Some("t0ken"));
        let shown = ("authorization", "Bearer t0ken");
        assert_eq!(guarded.ask("POST", "/api/upgrade", &[host, shown], "").await.status, 200);
    }
}

#[tokio::test]
async fn what_is_sent_is_json_and_says_nothing_unknown() {
    let listener = Listener::here();
    let origin = "/api/upstreams/api/origins/127.0.0.1%3A80";
    for (method, path, body, complaint) in [
        ("POST", "/api/reload", "{\"plann\": true}", "unknown field `plann`, expected `plan` or"),
        ("POST", "/api/reload", "{\"confirm\": 60}", "expected a string"),
        ("POST", "/api/reload", "{\"confirm\": \"60 apples\"}", "such as \\\"60s\\\""),
        ("POST", "/api/reload", "{\"confirm\": \"0s\"}", "from 1s to 24h"),
        ("POST", "/api/reload", "{\"confirm\": \"2days\"}", "from 1s to 24h"),
        ("POST", "/api/reload", "{\"confirm\": \"1m\", \"plan\": true}", "nothing to `confirm`"),
        ("POST", "/api/reload?plan", "{\"plan\": true}", "not in both"),
        ("POST", "/api/reload?plam", "", "unknown `plam`"),
        ("POST", "/api/reload?plan=perhaps", "", "`true` or `false`"),
        ("POST", "/api/reload", "plan", "expected value"),
        ("POST", "/api/upgrade", "{\"force\": true}", "unknown field `force`"),
        ("PATCH", origin, "", "a body is missing, such as {\\\"weight\\\": 3}"),
        ("PATCH", origin, "{}", "nothing is to be changed"),
        ("PATCH", origin, "{\"wieght\": 3}", "unknown field `wieght`, expected one of `weight`"),
        ("PATCH", origin, "{\"weight\": -1}", "invalid value"),
        ("PATCH", origin, "{\"weight\": 3, \"reset_weight\": true}", "exclude each other"),
        ("PUT", "/api/log-level", "{}", "say one of"),
        ("PUT", "/api/log-level", "{\"level\": \"info\", \"reset\": true}", "say one of"),
        ("PUT", "/api/routes/all/rate-limit", "{}", "missing field `dry_run`"),
        ("PUT", "/api/routes/all/rate-limit", "{\"rate\": 5}", "unknown field `rate`"),
    ] {
        let answer = listener.send(method, path, body).await;
        assert_eq!(answer.status, 400, "{path} {body}: {}", answer.text);
        assert!(answer.text.contains(complaint), "no {complaint:?} in {}", answer.text);
    }
    for content_type in ["text/plain", "application/x-www-form-urlencoded", "application/jsonx"] {
        for (method, path, _) in CHANGES {
            let field = ("content-type", content_type);
            let answer = listener.ask(method, path, &[field], "{\"plan\": true}").await;
            assert_eq!(answer.status, 415, "{path} {content_type}");
        }
    }
    assert_eq!(listener.ask("PUT", "/api/log-level", &[], "{\"level\": \"x\"}").await.status, 415);
    let long = format!("{{\"level\": \"{}\"}}", "x".repeat(64 * 1024));
    assert_eq!(listener.send("PUT", "/api/log-level", &long).await.status, 413);
    assert!(listener.asked().is_empty());
}

#[tokio::test]
async fn a_reload_is_asked_for_by_query_or_body() {
    let listener = Listener::here();
    let answer = listener.send("POST", "/api/reload?plan", "").await.json();
    assert_eq!((&answer["applied"], &answer["changed"]), (&json!(false), &json!(true)));
    assert_eq!(answer["text"], "+ route a\n");
    assert_eq!(answer["plan"]["routes"]["added"][0], "a");
    let answer = listener.send("POST", "/api/reload?confirm=1m%2030s", "").await.json();
    assert_eq!((&answer["applied"], &answer["generation"]), (&json!(true), &json!(2)));
    assert_eq!(answer["confirm_within_seconds"], 90);
    assert!(answer["message"].as_str().unwrap().contains("tollgate confirm"), "{answer}");
    listener.send("POST", "/api/reload", "{\"plan\": true}").await;
    listener.send("POST", "/api/reload", "{\"confirm\": \"60s\"}").await;
    listener.send("POST", "/api/reload", "{\"plan\": false, \"confirm\": null}").await;
    assert_eq!(
        listener.asked(),
        [
            "Reload { plan_only: true, confirm: None }",
            "Reload { plan_only: false, confirm: Some(90s) }",
            "Reload { plan_only: true, confirm: None }",
            "Reload { plan_only: false, confirm: Some(60s) }",
            "Reload { plan_only: false, confirm: None }",
        ]
    );
}

#[tokio::test]
async fn a_change_says_how_long_it_lasts() {
    let listener = Listener::here();
    for (method, path, body) in &CHANGES[4..] {
        let answer = listener.send(method, path, body).await.json();
        let persists = answer["persists"].as_str().unwrap();
        assert!(persists.starts_with("until the next restart; a reload keeps it unless"), "{path}");
    }
}

#[tokio::test]
async fn names_are_decoded() {
    let listener = Listener::here();
    let change = "{\"drained\": true}";
    listener.send("PATCH", "/api/upstreams/a%20b/origins/unix%3A%2Frun%2Fx.sock", change).await;
    listener.send("PATCH", "/api/upstreams/api/origins/[::1]:80", change).await;
    let asked = listener.asked();
    assert!(asked[0].starts_with("a b unix:/run/x.sock OriginChange"), "{asked:?}");
    assert!(asked[1].starts_with("api [::1]:80 OriginChange"), "{asked:?}");
}

#[tokio::test]
async fn an_origin_is_found_by_its_name_or_its_url() {
    let listener = Listener::here();
    for origin in ["[::1]:80", "%5B%3A%3A1%5D%3A80", "http%3A%2F%2F[::1]:80"] {
        let answer = listener.get(&format!("/api/upstreams/my%20api/origins/{origin}")).await;
        assert_eq!((answer.status, &answer.json()["name"]), (200, &json!("[::1]:80")), "{origin}");
    }
    let answer = listener.get("/api/upstreams/my%20api/origins/other").await;
    assert_eq!(answer.status, 404);
    assert!(answer.text.contains("it has 127.0.0.1:80, [::1]:80"), "{}", answer.text);
    let answer = listener.get("/api/upstreams/your%20api/origins/[::1]:80").await;
    assert_eq!(answer.status, 404);
    assert!(answer.text.contains("there are: my api"), "{}", answer.text);
}

#[tokio::test]
async fn a_refusal_has_its_status_and_its_report() {
    let listener = Listener::here();
    let why = || "line 1\nline 2".to_owned();
    for (refused, status, code) in [
        (Refused::NotFound(why()), 404, "not_found"),
        (Refused::Invalid(why()), 422, "invalid"),
        (Refused::Conflict(why()), 409, "conflict"),
        (Refused::Failed(why()), 500, "failed"),
        (Refused::Unsupported(why()), 501, "unsupported"),
    ] {
        *listener.operator.refuses.lock() = Some(refused);
        for (method, path, body) in CHANGES {
            let answer = listener.send(method, path, body).await;
            assert_eq!(answer.status, status, "{path}");
            assert_eq!(answer.fields["content-type"], "application/problem+json");
            let problem = answer.json();
            assert_eq!(
                (&problem["code"], &problem["detail"]),
                (&json!(code), &json!("line 1\nline 2"))
            );
        }
        let text = listener.ask("POST", "/api/reload", &[("accept", "text/plain")], "").await;
        assert_eq!(text.text, "line 1\nline 2\n");
    }
}

#[tokio::test]
async fn a_proxy_without_an_operator_says_so() {
    let router = router(plain_state(), HERE.parse().unwrap());
    let listener = Listener { router, operator: Arc::default() };
    for (method, path, body) in CHANGES {
        assert_eq!(listener.send(method, path, body).await.status, 501, "{path}");
    }
    for path in ["/api/status", "/api/upstreams", "/api/certificates", "/api/log-level"] {
        assert_eq!(listener.get(path).await.status, 501, "{path}");
    }
}

#[tokio::test]
async fn the_status_is_told_with_units() {
    let told = Listener::here().get("/api/status").await.json();
    assert_eq!(told["state"], "starting");
    assert_eq!(told["uptime_seconds"], 90);
    assert_eq!(told["loaded_at"], "1970-01-01T00:00:00Z");
    assert_eq!(told["pending_confirm"], json!({ "generation": 2, "seconds_left": 5 }));
    assert_eq!(told["last_reload"], Value::Null);
    assert_eq!(told["needs_restart"], json!(["server.workers"]));
}

#[tokio::test]
async fn who_is_being_answered_at_the_end_is_answered() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use crate::accept::{ConnectionLimits, Inherited, Listeners, Permits, Shared};
    use crate::budget::Budget;

    let permits = Permits::new(ConnectionLimits::default(), Budget::unlimited());
    let (metrics, drain) = (Metrics::default(), drain::Watcher::never());
    let shared = Shared { workers: 1, permits, metrics, drain };
    let none = Listeners::bind(&[], Vec::new(), shared, &mut Inherited::default()).unwrap();
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let address = socket.local_addr().unwrap();
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let state = plain_state().operated_by(Arc::new(Noting::default()));
    // As in a process, everything is over when this is.
    let process = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let socket = none.beside(socket).unwrap();
            serve(socket, state, async { drop(ended.await) }).await.unwrap();
        });
    });
    let _idle = tokio::net::TcpStream::connect(address).await.unwrap();
    let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
    let head = "POST /api/upgrade HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n\
                Content-Type: application/json\r\nContent-Length: 2\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    let mut interim = [0; 25];
    client.read_exact(&mut interim).await.unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    end.send(()).unwrap();
    client.write_all(b"{}").await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    tokio::task::spawn_blocking(|| process.join().unwrap()).await.unwrap();
}
