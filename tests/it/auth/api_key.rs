//! API keys: several per client, in the configuration, in a file and in Redis.

use std::path::Path;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::support::client::ask;
use crate::support::https::{Https, VERSIONS};
use crate::support::origin::Origin;
use crate::support::proxy::Setup;
use crate::support::redis::{How, Redis};
use crate::support::{eventually, within};

fn digest(secret: &str) -> String {
    Sha256::digest(secret).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One route, for whoever has a key; `settings` go to `[auth.api_key]`.
fn guarded(origin: &Origin, settings: &str) -> Setup {
    Setup::new(format!(
        "[[upstream]]\nname = \"origin\"\norigins = [\"{origin}\"]\n\
         [[auth]]\nname = \"keys\"\n[auth.api_key]\n{settings}\n\
         [[route]]\nname = \"all\"\nupstream = \"origin\"\n\
         auth = {{ any = [\"keys\"], failures = \"unlimited\" }}\n"
    ))
}

/// Puts another text in the file's place, as an editor does.
fn replace(dir: &Path, file: &str, text: &str) {
    std::fs::write(dir.join("new"), text).unwrap();
    std::fs::rename(dir.join("new"), dir.join(file)).unwrap();
}

fn rotating() -> String {
    let (old, new, over) = (digest("old-secret"), digest("new-secret"), digest("over-secret"));
    format!(
        "bearer = true\nquery = \"token\"\nidentity_header = \"X-Client\"\n\
         scopes_header = \"X-Scopes\"\nkeys = [\n\
         {{ name = \"ci\", id = \"old\", key = \"sha256:{old}\", expires = 2999-01-01T00:00:00Z }},\n\
         {{ name = \"ci\", id = \"new\", key = \"sha256:{new}\", scopes = [\"read\", \"write\"] }},\n\
         {{ name = \"ci\", key = \"sha256:{over}\", expires = \"2020-01-01T00:00:00+01:00\" }},\n]"
    )
}

#[tokio::test]
async fn two_keys_of_one_client_work_side_by_side_and_stay_here() {
    within(async {
        let origin = Origin::named("one").await;
        let https = Https::start(guarded(&origin, &rotating()));
        for version in VERSIONS {
            for (path, field) in [
                ("/?a=1&b", ("x-api-key", "old-secret")),
                ("/?a=1&b", ("x-api-key", "new-secret")),
                ("/?a=1&b", ("authorization", "Bearer new-secret")),
                ("/?a=1&token=new-secret&b", ("x-client", "root")),
                ("/?a=1&to%6ben=new%2Dsecret&b", ("x_client", "root")),
            ] {
                let got = https.get(version, path, &[field]).await;
                assert_eq!(got.status, 200, "{version:?} {path} {field:?}: {}", got.body);
                let seen = origin.requests().pop().unwrap().to_ascii_lowercase();
                assert!(seen.starts_with("get /?a=1&b http/1.1\r\n"), "{seen}");
                assert!(seen.contains("\r\nx-client: ci\r\n"), "{seen}");
                let scopes = seen.contains("\r\nx-scopes: read write\r\n");
                assert_eq!(scopes, field.1 != "old-secret", "{seen}");
                for word in ["secret", "x-api-key", "authorization", "root"] {
                    assert!(!seen.contains(word), "{word}: {seen}");
                }
            }
        }
    })
    .await;
}

#[tokio::test]
async fn every_refusal_is_the_same_and_only_the_log_knows_why() {
    within(Box::pin(async {
        let origin = Origin::named("one").await;
        let https = Https::start(guarded(&origin, &rotating()).json_log());
        let refused = [
            ("auth_missing", "/", vec![]),
            ("auth_invalid", "/", vec![("x-api-key", "wrong-secret")]),
            ("auth_invalid", "/", vec![("authorization", "Bearer wrong-secret")]),
            ("auth_invalid", "/?token=wrong-secret", vec![]),
            (
                "auth_invalid",
                "/?tok%65n=wrong-secret",
                vec![("referer", "https://a.test/?token=wrong-secret")],
            ),
            ("auth_expired", "/", vec![("x-api-key", "over-secret")]),
            ("auth_ambiguous", "/?token=new-secret", vec![("x-api-key", "old-secret")]),
            ("auth_ambiguous", "/", vec![("x-api-key", "new-secret"), ("x-api-key", "new-secret")]),
        ];
        let mut lines = 0;
        for version in VERSIONS {
            let first = https.get(version, "/", &[]).await.told();
            assert!(first.starts_with("401") && first.contains("Bearer realm"), "{first}");
            lines += 1;
            for (why, path, fields) in &refused {
                let got = https.get(version, path, fields).await;
                assert_eq!(got.told(), first, "{version:?} {why} {path}");
                lines += 1;
                let log = https.proxy.log_lines(lines).await.pop().unwrap();
                assert!(log.contains(&format!("\"rejected\":\"{why}\"")), "{log}");
                assert!(!log.contains("secret"), "{log}");
            }
        }
        assert_eq!(origin.requests(), Vec::<String>::new());
    }))
    .await;
}

fn file_with(secrets: &[&str]) -> String {
    let key =
        |secret: &&str| format!("[[key]]\nname = \"ci\"\nkey = \"sha256:{}\"\n", digest(secret));
    secrets.iter().map(key).collect()
}

#[tokio::test]
async fn a_file_of_keys_is_followed_and_a_broken_one_is_not() {
    within(async {
        let origin = Origin::named("one").await;
        let dir = TempDir::new().unwrap();
        std::fs::write(dir.path().join("keys.toml"), file_with(&["first"])).unwrap();
        let https = Https::start_in(guarded(&origin, "file = \"keys.toml\""), dir);
        let dir = https.proxy.dir.path();
        let status = async |secret: &str| {
            https.get(VERSIONS[0], "/", &[("x-api-key", secret)]).await.status.as_u16()
        };
        assert_eq!((status("first").await, status("second").await), (200, 401));
        replace(dir, "keys.toml", &file_with(&["first", "second"]));
        eventually("the second is let in", async || status("second").await == 200).await;
        assert_eq!(status("first").await, 200);
        replace(dir, "keys.toml", &file_with(&["second"]));
        eventually("the first is not", async || status("first").await == 401).await;
        let broken = format!("{}[[key]]\nname = \"x\"\nkye = \"third\"\n", file_with(&["first"]));
        replace(dir, "keys.toml", &broken);
        let reload = "POST /api/reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n";
        let report = ask(https.proxy.admin, reload).await;
        let text = report.text();
        for part in ["keys.toml:6:1", "`key[1].kye`: there is no such key"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("third"), "{text}");
        assert_eq!((status("first").await, status("second").await), (401, 200));
    })
    .await;
}

fn in_redis(redis: &Redis, more: &str) -> String {
    // The tables of the scheme come first, and then one of its own.
    format!("redis = \"t:keys\"\n{more}\n[redis]\nurl = \"{}\"\ntimeout = \"500ms\"", redis.url())
}

fn record(redis: &Redis, secret: &str, record: &str) {
    let key = format!("t:keys:{}", digest(secret));
    assert_eq!(redis.ask(["SET", &key, record]), "+OK\r\n");
}

#[tokio::test]
async fn keys_come_and_go_in_redis_by_one_command_each() {
    within(async {
        let redis = Redis::start();
        let origin = Origin::named("one").await;
        let more = "cache = \"100ms\"\nidentity_header = \"X-Client\"";
        let https = Https::start(guarded(&origin, &in_redis(&redis, more)));
        let status = async |secret: &str| {
            https.get(VERSIONS[1], "/", &[("x-api-key", secret)]).await.status.as_u16()
        };
        record(&redis, "first", r#"{"name":"ci","scopes":["read"]}"#);
        record(&redis, "over", r#"{"name":"ci","expires":"2020-01-01T00:00:00Z"}"#);
        record(&redis, "odd", r#"{"name":"ci","admin":true}"#);
        eventually("the first is let in", async || status("first").await == 200).await;
        assert!(origin.requests().pop().unwrap().to_ascii_lowercase().contains("x-client: ci"));
        for secret in ["over", "odd", "none"] {
            assert_eq!(status(secret).await, 401, "{secret}");
        }
        redis.ask(["DEL", &format!("t:keys:{}", digest("first"))]);
        eventually("it is revoked", async || status("first").await == 401).await;
        // One that was not there a moment ago is.
        record(&redis, "none", r#"{"name":"other"}"#);
        eventually("it is let in", async || status("none").await == 200).await;
    })
    .await;
}

#[tokio::test]
async fn without_redis_known_keys_go_on_and_of_others_nothing_is_told() {
    within(async {
        let mut redis = Redis::start_as(How { durable: true, ..How::default() });
        let origin = Origin::named("one").await;
        let more = "cache = \"50ms\"\nstale = \"5m\"";
        let https = Https::start(guarded(&origin, &in_redis(&redis, more)));
        let status = async |secret: &str| {
            https.get(VERSIONS[0], "/", &[("x-api-key", secret)]).await.status.as_u16()
        };
        record(&redis, "known", r#"{"name":"ci"}"#);
        record(&redis, "other", r#"{"name":"ci"}"#);
        eventually("it is let in", async || status("known").await == 200).await;
        redis.stop();
        tokio::time::sleep(Duration::from_millis(100)).await;
        for _ in 0..5 {
            assert_eq!((status("known").await, status("other").await), (200, 503));
        }
        redis.restart();
        eventually("the other is let in", async || status("other").await == 200).await;
        // One that answers nobody is as good as away, and holds nobody up for long.
        redis.pause();
        tokio::time::sleep(Duration::from_millis(100)).await;
        let (known, unknown) = (status("known").await, status("unknown").await);
        redis.resume();
        assert_eq!((known, unknown), (200, 503));
        eventually("it is told again", async || status("unknown").await == 401).await;
        let lines = https.proxy.log_lines(1).await;
        assert!(lines.iter().any(|line| line.contains("auth_unavailable")), "{lines:?}");
    })
    .await;
}

#[tokio::test]
async fn another_file_of_keys_makes_nothing_forgotten_that_redis_has_said() {
    within(Box::pin(async {
        let mut redis = Redis::start();
        let origin = Origin::named("one").await;
        let dir = TempDir::new().unwrap();
        std::fs::write(dir.path().join("keys.toml"), file_with(&["first"])).unwrap();
        let settings = in_redis(&redis, "cache = \"50ms\"\nfile = \"keys.toml\"");
        let own = "[[route]]\nname = \"own\"\npath = \"/own\"\nupstream = \"origin\"\n\
             [route.api_key]\nredis = \"t:keys\"\ncache = \"50ms\"\nfile = \"keys.toml\"\n";
        let https = Https::start_in(guarded(&origin, &settings).and(own), dir);
        let status = async |path: &str, secret: &str| {
            https.get(VERSIONS[0], path, &[("x-api-key", secret)]).await.status.as_u16()
        };
        record(&redis, "known", r#"{"name":"ci"}"#);
        for path in ["/", "/own"] {
            eventually("it is let in", async || status(path, "known").await == 200).await;
        }
        redis.stop();
        replace(https.proxy.dir.path(), "keys.toml", &file_with(&["second"]));
        for path in ["/", "/own"] {
            eventually("another file is read", async || status(path, "second").await == 200).await;
            assert_eq!(status(path, "known").await, 200, "{path}");
        }
    }))
    .await;
}

#[tokio::test]
async fn a_key_in_redis_goes_no_further_where_it_was_not_needed() {
    within(async {
        let redis = Redis::start();
        let origin = Origin::named("one").await;
        let here = "[[auth]]\nname = \"here\"\n[auth.address]\nallow = [\"127.0.0.0/8\"]\n\
                    [[route]]\nname = \"here\"\npath = \"/here\"\nupstream = \"origin\"\n\
                    auth = { any = [\"here\", \"keys\"] }\n";
        let setup = guarded(&origin, &in_redis(&redis, "bearer = true")).and(here);
        let https = Https::start(setup);
        record(&redis, "secret", r#"{"name":"ci"}"#);
        for version in VERSIONS {
            let field = ("authorization", "Bearer secret");
            assert_eq!(https.get(version, "/here", &[field]).await.status, 200);
            let seen = origin.requests().pop().unwrap();
            assert!(!seen.contains("secret"), "{seen}");
            let field = ("authorization", "Basic YTpi");
            assert_eq!(https.get(version, "/here", &[field]).await.status, 200);
            assert!(origin.requests().pop().unwrap().contains("Basic YTpi"));
        }
    })
    .await;
}

/// How many GETs Redis has had.
fn gets(redis: &Redis) -> u64 {
    let told = redis.ask(["INFO", "commandstats"]);
    let calls = told.split("cmdstat_get:calls=").nth(1).and_then(|rest| rest.split(',').next());
    calls.map_or(0, |calls| calls.parse().unwrap())
}

#[tokio::test]
async fn a_key_shown_often_is_looked_up_seldom() {
    within(async {
        let redis = Redis::start();
        let origin = Origin::named("one").await;
        let more = "cache = \"1m\"";
        let https = Https::start(guarded(&origin, &in_redis(&redis, more)));
        let status = async |secret: &str| {
            https.get(VERSIONS[0], "/", &[("x-api-key", secret)]).await.status.as_u16()
        };
        eventually("Redis is there", async || status("first").await == 401).await;
        record(&redis, "known", r#"{"name":"ci"}"#);
        let before = gets(&redis);
        for _ in 0..20 {
            assert_eq!((status("known").await, status("unknown").await), (200, 401));
        }
        let asked = gets(&redis) - before;
        // Of the unknown one it was perhaps asked again after two seconds.
        assert!((2..10).contains(&asked), "{asked}");
    })
    .await;
}
