//! Several schemes on one route, scopes, and addresses that keep failing.

use tollgate::admin::Reload;
use tollgate::layers::{PasswordHash, PasswordScheme};
use tollgate::observe::ReloadTrigger;

use super::{K1, guarded};
use crate::support::client::{Answer, fields, get};
use crate::support::origin::Origin;
use crate::support::proxy::Running;
use crate::support::within;

/// An office, partners with a key, and others with one in a field of their own.
fn schemes() -> String {
    format!(
        "[[auth]]\nname = \"office\"\n[auth.address]\nallow = [\"10.0.0.0/8\"]\n\
         [[auth]]\nname = \"partners\"\n[auth.api_key]\nidentity_header = \"X-Client\"\n\
         keys = [{{ name = \"alice\", key = \"{K1}\" }}]\n\
         [[auth]]\nname = \"others\"\n[auth.api_key]\nheader = \"X-Other\"\n\
         keys = [{{ name = \"bob\", key = \"{K1}\" }}]\n"
    )
}

async fn start(route: &str) -> (Origin, Running) {
    let origin = Origin::named("one").await;
    let setup = guarded(&origin, &schemes(), route);
    let proxy = setup.server("trusted_proxies = [\"127.0.0.1\"]").start();
    (origin, proxy)
}

async fn from(proxy: &Running, client: &str, fields: &str) -> Answer {
    get(proxy.address, "/", &format!("X-Forwarded-For: {client}\r\n{fields}")).await
}

const KEY: &str = "X-API-Key: k1\r\n";

#[tokio::test]
async fn any_of_several_lets_in() {
    within(async {
        let (_origin, proxy) =
            start("auth = { any = [\"office\", \"partners\", \"others\"] }").await;
        for (client, fields, status) in [
            ("10.1.1.1", "", 200),
            ("192.0.2.1", "", 401),
            ("192.0.2.1", KEY, 200),
            ("192.0.2.1", "X-Other: k1\r\n", 200),
            ("192.0.2.1", "X-Other: k2\r\n", 401),
            ("192.0.2.1", "X-Other: k2\r\nX-API-Key: k1\r\n", 200),
        ] {
            let answer = from(&proxy, client, fields).await;
            assert_eq!(answer.status, status, "{client} {fields:?}");
            let challenges = answer.fields("www-authenticate").len();
            assert_eq!(challenges, if status == 401 { 2 } else { 0 });
        }
        let lines = proxy.log_lines(6).await;
        for (line, word) in lines.iter().zip([
            "route=all",
            "rejected=auth_missing",
            "identity=alice",
            "identity=bob",
            "rejected=auth_invalid",
            "identity=alice",
        ]) {
            assert!(line.contains(word), "{line}");
        }
    })
    .await;
}

#[tokio::test]
async fn all_of_several_have_to() {
    within(async {
        let (origin, proxy) = start("auth = { all = [\"office\", \"partners\"] }").await;
        assert_eq!(from(&proxy, "10.1.1.1", "").await.status, 401);
        assert_eq!(from(&proxy, "192.0.2.1", KEY).await.status, 403);
        assert!(origin.bytes().is_empty());
        assert_eq!(from(&proxy, "10.1.1.1", KEY).await.status, 200);
    })
    .await;
}

#[tokio::test]
async fn all_of_some_and_any_of_others() {
    within(async {
        let route = "auth = { all = [\"office\"], any = [\"partners\", \"others\"] }";
        let (_origin, proxy) = start(route).await;
        assert_eq!(from(&proxy, "192.0.2.1", KEY).await.status, 403);
        assert_eq!(from(&proxy, "10.1.1.1", "").await.status, 401);
        assert_eq!(from(&proxy, "10.1.1.1", "X-Other: k1\r\n").await.status, 200);
    })
    .await;
}

#[tokio::test]
async fn whoever_lacks_a_scope_is_known_and_may_not() {
    within(async {
        let (origin, proxy) = start("auth = { any = [\"partners\"], scopes = [\"write\"] }").await;
        assert_eq!(from(&proxy, "192.0.2.1", KEY).await.status, 403);
        assert_eq!(from(&proxy, "192.0.2.1", "").await.status, 401);
        assert!(origin.bytes().is_empty());
        assert!(proxy.log_lines(1).await[0].contains("rejected=auth_scope"));
    })
    .await;
}

#[tokio::test]
async fn missing_and_wrong_credentials_are_answered_alike() {
    within(async {
        let (_origin, proxy) = start("auth = \"partners\"").await;
        let missing = from(&proxy, "192.0.2.1", "").await;
        let wrong = from(&proxy, "192.0.2.1", "X-API-Key: k2\r\n").await;
        assert_eq!((missing.status, wrong.status), (401, 401));
        let without_id = |answer: &Answer| {
            let lines = answer.head.lines().map(str::to_ascii_lowercase);
            let differs =
                |line: &String| line.starts_with("x-request-id") || line.starts_with("date");
            (lines.filter(|line| !differs(line)).collect::<Vec<_>>(), answer.text())
        };
        assert_eq!(without_id(&missing), without_id(&wrong));
    })
    .await;
}

#[tokio::test]
async fn an_address_that_keeps_failing_is_not_listened_to() {
    within(async {
        let failures = "failures = { rate = 3, per = \"1h\" }";
        let (origin, proxy) =
            start(&format!("auth = {{ any = [\"partners\"], {failures} }}")).await;
        for _ in 0..3 {
            assert_eq!(from(&proxy, "192.0.2.1", "X-API-Key: k2\r\n").await.status, 401);
        }
        let answer = from(&proxy, "192.0.2.1", KEY).await;
        assert_eq!(answer.status, 429);
        let wait: u64 = answer.field("retry-after").unwrap().parse().unwrap();
        assert!((1..=1200).contains(&wait), "{wait}");
        assert!(origin.bytes().is_empty());
        // Others are, and so is who brings nothing at all, again and again.
        for _ in 0..8 {
            assert_eq!(from(&proxy, "192.0.2.2", "").await.status, 401);
        }
        assert_eq!(from(&proxy, "192.0.2.2", KEY).await.status, 200);
        let lines = proxy.log_lines(4).await;
        assert!(lines[3].contains("rejected=auth_failures"), "{lines:?}");
    })
    .await;
}

#[tokio::test]
async fn a_reload_keeps_the_failures_in_mind() {
    within(async {
        let route = |more: &str| {
            format!(
                "auth = {{ any = [\"partners\"], failures = {{ rate = 1, per = \"1h\" }} }}\n{more}"
            )
        };
        let (origin, proxy) = start(&route("")).await;
        assert_eq!(from(&proxy, "192.0.2.1", "X-API-Key: k2\r\n").await.status, 401);
        assert_eq!(from(&proxy, "192.0.2.1", KEY).await.status, 429);
        let changed = guarded(&origin, &schemes(), &route("max_request_body = 7"));
        proxy.write(&changed.server("trusted_proxies = [\"127.0.0.1\"]"));
        proxy.control.reload_now(ReloadTrigger::Api, Reload::default()).await.unwrap();
        assert_eq!(from(&proxy, "192.0.2.1", KEY).await.status, 429);
    })
    .await;
}

#[tokio::test]
async fn a_guess_counts_whatever_else_the_request_has_to_show() {
    within(async {
        let failures = "failures = { rate = 2, per = \"1h\" }";
        let route = format!("auth = {{ any = [\"others\", \"partners\"], {failures} }}");
        let (_origin, proxy) = start(&route).await;
        let guessing = "X-Other: k2\r\nX-API-Key: k1\r\n";
        for _ in 0..2 {
            assert_eq!(from(&proxy, "192.0.2.1", guessing).await.status, 200);
        }
        assert_eq!(from(&proxy, "192.0.2.1", guessing).await.status, 429);
    })
    .await;
}

#[tokio::test]
async fn failures_on_one_route_count_on_the_others() {
    within(async {
        let origin = Origin::named("one").await;
        let auth = "auth = { any = [\"partners\"], failures = { rate = 2, per = \"1h\" } }\n";
        let other =
            format!("[[route]]\nname = \"b\"\npath = \"/b\"\nupstream = \"origin\"\n{auth}");
        let proxy = guarded(&origin, &schemes(), auth).and(&other).start();
        for path in ["/", "/b"] {
            assert_eq!(get(proxy.address, path, "X-API-Key: k2\r\n").await.status, 401);
        }
        for path in ["/", "/b"] {
            assert_eq!(get(proxy.address, path, KEY).await.status, 429);
        }
    })
    .await;
}

#[tokio::test]
async fn keys_of_schemes_that_were_not_needed_go_no_further() {
    within(async {
        let (origin, proxy) = start("auth = { any = [\"office\", \"partners\"] }").await;
        assert_eq!(from(&proxy, "10.1.1.1", KEY).await.status, 200);
        assert!(!origin.request().contains("k1"), "{}", origin.request());
    })
    .await;
}

#[tokio::test]
async fn the_origin_is_told_under_any_name_that_is_not_the_clients() {
    within(async {
        let origin = Origin::named("one").await;
        let auth = schemes().replace("X-Client", "X-Forwarded-User");
        let proxy = guarded(&origin, &auth, "auth = \"partners\"").start();
        let forged = format!("{KEY}X-Forwarded-User: root\r\nX_Forwarded_User: root\r\n");
        assert_eq!(get(proxy.address, "/", &forged).await.status, 200);
        assert_eq!(fields(&origin.request(), "x-forwarded-user"), ["alice"]);
        assert!(!origin.request().contains("root"), "{}", origin.request());
    })
    .await;
}

#[test]
fn a_field_that_clients_send_cannot_tell_the_origin_who_asks() {
    for field in [
        "Authorization",
        "Cookie",
        "X-Other",
        "X_Other",
        "Signature-Input",
        "X-Real-IP",
        "X-Forwarded-Proto",
        "If-None-Match",
        "Sec-WebSocket-Key",
        "Access_Control_Request_Method",
        "X-HTTP-Method-Override",
        "Traceparent",
    ] {
        let auth = schemes().replace("X-Client", field);
        let setup =
            guarded("http://127.0.0.1:1", &auth, "auth = { any = [\"partners\", \"others\"] }");
        let settings = tollgate::config::parse(std::path::Path::new("a"), &setup.toml()).unwrap();
        let error = tollgate::Proxy::build(settings).unwrap_err().to_string();
        assert!(error.contains("cannot be told who asks by"), "{field}: {error}");
    }
}

#[tokio::test]
async fn what_is_wrong_for_one_and_right_for_another_that_looks_there_is_no_guess() {
    within(async {
        let origin = Origin::named("one").await;
        let twins = schemes().replace("header = \"X-Other\"\n", "").replace(K1, "file:bob");
        let auth = format!(
            "{twins}[[auth]]\nname = \"late\"\n[auth.api_key]\n\
             keys = [{{ name = \"eve\", key = \"{K1}\" }}]\n"
        );
        let dir = tempfile::TempDir::new().unwrap();
        std::fs::write(dir.path().join("bob"), "a key of bob's").unwrap();
        let route =
            "auth = { any = [\"others\", \"late\"], failures = { rate = 1, per = \"1h\" } }";
        let proxy = guarded(&origin, &auth, route).start_in(dir);
        for _ in 0..5 {
            assert_eq!(get(proxy.address, "/", KEY).await.status, 200);
        }
        assert_eq!(get(proxy.address, "/", "X-API-Key: k2\r\n").await.status, 401);
        assert_eq!(get(proxy.address, "/", KEY).await.status, 429);
    })
    .await;
}

#[tokio::test]
async fn whoever_has_the_scopes_by_another_scheme_has_them() {
    within(async {
        let origin = Origin::named("one").await;
        let auth = schemes()
            .replace("name = \"alice\",", "name = \"alice\", scopes = [\"read\"],")
            .replace("name = \"bob\",", "name = \"bob\", scopes = [\"write\"],");
        let route = "auth = { any = [\"office\", \"partners\", \"others\"], \
                     scopes = [\"read\"] }";
        let trusting = "trusted_proxies = [\"127.0.0.1\"]";
        let proxy = guarded(&origin, &auth, route).server(trusting).start();
        let (others, both) = ("X-Other: k1\r\n", "X-Other: k1\r\nX-API-Key: k1\r\n");
        for (client, sent, status, line) in [
            ("10.1.1.1", KEY, 200, "identity=alice"),
            ("192.0.2.1", KEY, 200, "identity=alice"),
            ("10.1.1.1", both, 200, "identity=alice"),
            // Nobody is known to have no scope: a key would help.
            ("10.1.1.1", "", 401, "rejected=auth_missing"),
            ("10.1.1.1", others, 403, "identity=bob"),
            ("192.0.2.1", others, 403, "rejected=auth_scope"),
        ] {
            let answer = from(&proxy, client, sent).await;
            assert_eq!(answer.status, status, "{client} {sent:?}");
            let lines = proxy.log_lines(1).await;
            assert!(lines.last().unwrap().contains(line), "{lines:?}");
            std::fs::write(proxy.dir.path().join("access.log"), "").unwrap();
        }
        assert!(origin.requests().iter().all(|request| !request.contains("k1")));
    })
    .await;
}

#[tokio::test]
async fn right_credentials_that_may_not_are_no_guess() {
    within(async {
        let origin = Origin::named("one").await;
        let auth = format!(
            "{}[[auth]]\nname = \"late\"\n[auth.api_key]\n\
             keys = [{{ name = \"eve\", key = \"file:eve\" }}]\n",
            schemes()
        );
        let dir = tempfile::TempDir::new().unwrap();
        std::fs::write(dir.path().join("eve"), "a key of eve's").unwrap();
        let route = "auth = { any = [\"partners\", \"late\"], scopes = [\"read\"], \
                     failures = { rate = 1, per = \"1h\" } }";
        let proxy = guarded(&origin, &auth, route).start_in(dir);
        for _ in 0..3 {
            assert_eq!(get(proxy.address, "/", KEY).await.status, 403);
        }
        assert_eq!(get(proxy.address, "/", "X-API-Key: k2\r\n").await.status, 401);
        assert_eq!(get(proxy.address, "/", KEY).await.status, 429);
    })
    .await;
}

#[tokio::test]
async fn a_right_key_beside_a_password_hides_neither_the_password_nor_a_guess() {
    within(async {
        let origin = Origin::named("one").await;
        let auth = format!(
            "[[auth]]\nname = \"partners\"\n[auth.api_key]\nbearer = true\n\
             keys = [{{ name = \"alice\", key = \"{K1}\" }}]\n\
             [[auth]]\nname = \"people\"\n[auth.basic]\nfile = \"htpasswd\"\n"
        );
        let folder = || {
            let dir = tempfile::TempDir::new().unwrap();
            let word = PasswordHash::of("word", PasswordScheme::Bcrypt).unwrap();
            std::fs::write(dir.path().join("htpasswd"), format!("bob:{word}\n")).unwrap();
            dir
        };
        let both = format!("{KEY}Authorization: Basic Ym9iOndyb25n\r\n");
        let route = "auth = { any = [\"partners\", \"people\"] }";
        let proxy = guarded(&origin, &auth, route).start_in(folder());
        assert_eq!(get(proxy.address, "/", &both).await.status, 200);
        let request = origin.request().to_ascii_lowercase();
        assert!(!request.contains("authorization"), "{request}");
        let route = "auth = { any = [\"people\", \"partners\"], \
                     failures = { rate = 2, per = \"1h\" } }";
        let proxy = guarded(&origin, &auth, route).start_in(folder());
        for status in [200, 200, 429] {
            assert_eq!(get(proxy.address, "/", &both).await.status, status);
        }
    })
    .await;
}

#[tokio::test]
async fn the_log_has_the_name_of_whoever_is_known_and_kept_out() {
    within(async {
        let origin = Origin::named("one").await;
        let auth =
            schemes().replace("name = \"bob\",", "name = \"bob\", expires = 2020-01-01T00:00:00Z,");
        let route = "auth = { all = [\"partners\"], any = [\"others\"] }";
        let proxy = guarded(&origin, &auth, route).start();
        let expired = format!("{KEY}X-Other: k1\r\n");
        for sent in [KEY, &expired, "X-Other: k1\r\n"] {
            assert_eq!(get(proxy.address, "/", sent).await.status, 401, "{sent}");
        }
        let lines = proxy.log_lines(3).await;
        assert!(lines[0].contains("identity=alice rejected=auth_missing"), "{lines:?}");
        assert!(lines[1].contains("identity=bob rejected=auth_expired"), "{lines:?}");
        assert!(!lines[2].contains("identity="), "{lines:?}");
    })
    .await;
}
