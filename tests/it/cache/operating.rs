//! A cache that is purged, looked into, and kept across reloads.

use serde_json::{Value, json};
use tollgate::admin::Reload;
use tollgate::observe::ReloadTrigger;

use super::{cached, counting, get, ok, origin, said};
use crate::support::client::ask;
use crate::support::proxy::{Running, Setup};
use crate::support::within;

const FRESH: &str = "Cache-Control: max-age=60\r\n";

pub(super) async fn post(proxy: &Running, path: &str, body: &Value) -> (u16, Value) {
    let body = body.to_string();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = ask(proxy.admin, request).await;
    (answer.status, serde_json::from_str(&answer.text()).unwrap())
}

pub(super) async fn told(proxy: &Running, path: &str) -> Value {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    serde_json::from_str(&ask(proxy.admin, request).await.text()).unwrap()
}

#[tokio::test]
async fn it_is_purged_by_url_prefix_tag_and_whole() {
    within(async {
        let origin = origin(|request, count| {
            let tag = if request.starts_with("GET /b") { "b two" } else { "a two" };
            ok(&format!("{FRESH}Surrogate-Key: {tag}\r\n"), &format!("body {count}"))
        })
        .await;
        let proxy = cached(&origin, "").start();
        let hits = async |path: &str| said(&get(&proxy, path, "").await).contains("; hit");
        for (what, purged, gone, stays) in [
            (json!({ "url": "http://A.test:80/a?x" }), 1, vec!["/a?x"], vec!["/a", "/b/1", "/b/2"]),
            (json!({ "prefix": "http://a.test/b/" }), 2, vec!["/b/1", "/b/2"], vec!["/a", "/a?x"]),
            (json!({ "tag": "a" }), 2, vec!["/a", "/a?x"], vec!["/b/1", "/b/2"]),
            (json!({ "tag": "two" }), 4, vec!["/a", "/a?x", "/b/1", "/b/2"], vec![]),
            (json!({ "all": true }), 4, vec!["/a", "/a?x", "/b/1", "/b/2"], vec![]),
        ] {
            for path in ["/a", "/a?x", "/b/1", "/b/2"] {
                get(&proxy, path, "").await;
                assert!(hits(path).await, "{path}");
            }
            let (status, done) = post(&proxy, "/api/cache/purge", &what).await;
            assert_eq!((status, &done["purged"]), (200, &json!(purged)), "{what}: {done}");
            for path in gone {
                assert!(!hits(path).await, "{what}: {path}");
            }
            for path in stays {
                assert!(hits(path).await, "{what}: {path}");
            }
        }
        for wrong in [
            json!({}),
            json!({ "all": false }),
            json!({ "url": "x", "tag": "y" }),
            json!({ "url": "/x" }),
        ] {
            assert_eq!(post(&proxy, "/api/cache/purge", &wrong).await.0, 400, "{wrong}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_soft_purge_has_it_validated() {
    within(async {
        let origin = origin(|request, count| {
            if crate::support::client::fields(request, "if-none-match").is_empty() {
                return ok(
                    "Cache-Control: max-age=60\r\nETag: \"v1\"\r\n",
                    &format!("body {count}"),
                );
            }
            "HTTP/1.1 304 Not Modified\r\nETag: \"v1\"\r\n\r\n".to_owned()
        })
        .await;
        let proxy = cached(&origin, "").start();
        get(&proxy, "/", "").await;
        let what = json!({ "url": "http://a.test/", "soft": true });
        assert_eq!(post(&proxy, "/api/cache/purge", &what).await.1["purged"], 1);
        let answer = get(&proxy, "/", "").await;
        assert_eq!(answer.text(), "body 0");
        assert!(said(&answer).contains("fwd=stale; fwd-status=304"), "{}", said(&answer));
        assert!(said(&get(&proxy, "/", "").await).contains("; hit"));
    })
    .await;
}

#[tokio::test]
async fn it_says_what_is_stored_and_why_something_is_not() {
    within(async {
        let origin = origin(|request, _| {
            if request.starts_with("GET /private") {
                return ok("Cache-Control: private\r\n", "x");
            }
            ok(
                "Cache-Control: max-age=60\r\nETag: \"v1\"\r\nCache-Tag: a, b\r\nVary: Accept\r\n",
                "body",
            )
        })
        .await;
        let proxy = cached(&origin, "").start();
        get(&proxy, "/", "Accept: text/html\r\n").await;
        get(&proxy, "/private", "").await;
        let figures = told(&proxy, "/api/cache").await;
        assert_eq!(figures["memory_bytes"], 256 << 20);
        assert!(figures["stored_bytes"].as_u64().unwrap() > 4, "{figures}");
        let shown = told(&proxy, "/api/cache?url=http%3A%2F%2Fa.test%2F").await;
        let route = &shown["routes"][0];
        assert_eq!((&route["route"], &route["not_stored_because"]), (&json!("all"), &Value::Null));
        let variant = &route["variants"][0];
        assert_eq!((&variant["bytes"], &variant["fresh"]), (&json!(4), &json!(true)));
        assert_eq!((&variant["etag"], &variant["tags"]), (&json!("\"v1\""), &json!(["a", "b"])));
        assert!(variant["selected_by"].to_string().contains("text/html"), "{variant}");
        let shown = told(&proxy, "/api/cache?url=http://a.test/private").await;
        assert_eq!(shown["routes"][0]["not_stored_because"], "private");
        let shown = told(&proxy, "/api/cache?url=http://b.test/").await;
        assert_eq!(shown["routes"], json!([]));
        assert!(shown["says"].as_str().unwrap().starts_with("nothing is known"), "{shown}");
    })
    .await;
}

#[tokio::test]
async fn it_says_in_words_until_when_something_is_used() {
    within(async {
        let origin = origin(|request, _| {
            let path = request.split(' ').nth(1).unwrap();
            let said = match path {
                "/private" => "private",
                "/fresh" => "max-age=60, stale-while-revalidate=10, stale-if-error=20",
                "/stale" => "max-age=0, stale-while-revalidate=100",
                "/over" => "max-age=0, must-revalidate",
                "/each" => "no-cache",
                _ => return "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned(),
            };
            ok(&format!("Cache-Control: {said}\r\nETag: \"v1\"\r\n"), "body")
        })
        .await;
        let proxy = cached(&origin, "").start();
        for (path, expected) in [
            ("/private", ["not stored: the answer says `private`; remembered until 20", " s"]),
            ("/silent", ["not stored: the answer says nothing of how long", " s"]),
            ("/fresh", ["fresh until 20", "for 20 s served if the origin fails"]),
            ("/stale", ["stale since 20", " s"]),
            ("/over", ["stale since 20", "s; validated before it is used"]),
            ("/each", ["validated before each use", "`no-cache`"]),
        ] {
            get(&proxy, path, "").await;
            let shown = told(&proxy, &format!("/api/cache?url=http://a.test{path}")).await;
            let route = &shown["routes"][0];
            let says = route["variants"][0]["says"].as_str().or_else(|| route["says"].as_str());
            let says = says.unwrap_or_else(|| panic!("{path}: {shown}"));
            assert!(says.starts_with(expected[0]) && says.ends_with(expected[1]), "{path}: {says}");
            assert_eq!(shown["says"], Value::Null);
        }
        let what = json!({ "url": "http://a.test/fresh", "soft": true });
        post(&proxy, "/api/cache/purge", &what).await;
        let shown = told(&proxy, "/api/cache?url=http://a.test/fresh").await;
        let says = shown["routes"][0]["variants"][0]["says"].to_string();
        assert!(says.contains("purged softly; validated before it is used, and served"), "{says}");
    })
    .await;
}

#[tokio::test]
async fn it_says_what_share_of_each_routes_requests_it_answered() {
    within(async {
        let origin = counting(FRESH).await;
        let other = "[[route]]\nname = \"other\"\npath = \"/other\"\nupstream = \"origin\"\n\
                     [route.cache]";
        let proxy = cached(&origin, "").and(other).start();
        let none = told(&proxy, "/api/cache").await;
        assert_eq!((&none["hit_ratio"], &none["evicted"]), (&Value::Null, &json!(0)));
        for path in ["/", "/", "/", "/", "/other"] {
            get(&proxy, path, "").await;
        }
        super::send(&proxy, "DELETE", "/x", "").await;
        let told = told(&proxy, "/api/cache").await;
        assert_eq!(told["hit_ratio"], 0.6);
        let [all, other] = &told["routes"].as_array().unwrap()[..] else { panic!("{told}") };
        assert_eq!((&all["route"], &all["hit_ratio"]), (&json!("all"), &json!(0.75)));
        assert_eq!((&all["hit"], &all["miss"], &all["pass"]), (&json!(3), &json!(1), &json!(1)));
        assert_eq!((&other["route"], &other["hit_ratio"]), (&json!("other"), &json!(0.0)));
    })
    .await;
}

#[tokio::test]
async fn what_has_to_make_room_is_counted() {
    within(async {
        let body: &'static str = "x".repeat(100_000).leak();
        let origin = origin(move |_, _| ok(FRESH, body)).await;
        let proxy = cached(&origin, "").and("[cache]\nmemory = \"1MiB\"").start();
        for path in 0..30 {
            get(&proxy, &format!("/{path}"), "").await;
        }
        let told = told(&proxy, "/api/cache").await;
        let evicted = told["evicted"].as_u64().unwrap();
        assert!((20..=30).contains(&evicted), "{told}");
        let metrics = super::metrics(&proxy).await;
        assert!(metrics.contains(&format!("tollgate_cache_evicted_total {evicted}")), "{metrics}");
    })
    .await;
}

async fn reload(proxy: &Running, setup: &Setup) {
    proxy.write(setup);
    proxy.control.reload_now(ReloadTrigger::Api, Reload::default()).await.unwrap();
}

#[tokio::test]
async fn what_is_stored_outlives_a_reload_unless_the_route_does_something_else() {
    within(async {
        let (one, two) = (counting(FRESH).await, counting(FRESH).await);
        let by_hand = "reload_on_change = false";
        let setup = |origin, lines| cached(origin, lines).server(by_hand);
        let proxy = setup(&one, "").start();
        get(&proxy, "/", "").await;
        reload(&proxy, &setup(&one, "max_object = \"1MiB\"\nstale_if_error = \"1m\"")).await;
        assert!(said(&get(&proxy, "/", "").await).contains("; hit"));
        reload(&proxy, &setup(&one, "[route.headers.response]\nset = { X-New = \"1\" }")).await;
        let answer = get(&proxy, "/", "").await;
        assert_eq!((answer.text().as_str(), answer.field("x-new")), ("body 0", Some("1")));
        // Another host for the origin: what it said before is of no use.
        let other = setup(&one, "").and("[[upstream]]\nname = \"two\"");
        let other = format!("{}\norigins = [\"{two}\"]\n", other.toml())
            .replace("upstream = \"origin\"", "upstream = \"two\"");
        std::fs::write(proxy.dir.path().join("config.toml"), &other).unwrap();
        proxy.control.reload_now(ReloadTrigger::Api, Reload::default()).await.unwrap();
        assert!(said(&get(&proxy, "/", "").await).contains("uri-miss"));
        assert_eq!(two.requests().len(), 1);
        // After the way back it is found again, but for what was purged meanwhile.
        reload(&proxy, &setup(&one, "")).await;
        assert_eq!(get(&proxy, "/", "").await.text(), "body 0");
        std::fs::write(proxy.dir.path().join("config.toml"), &other).unwrap();
        proxy.control.reload_now(ReloadTrigger::Api, Reload::default()).await.unwrap();
        post(&proxy, "/api/cache/purge", &json!({ "url": "http://a.test/" })).await;
        reload(&proxy, &setup(&one, "")).await;
        assert!(said(&get(&proxy, "/", "").await).contains("uri-miss"));
    })
    .await;
}
