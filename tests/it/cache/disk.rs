//! What is stored on disk as well: it outlives the process.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{cached, get, metrics, ok, origin, said, send};
use crate::support::client::{Raw, ask, fields};
use crate::support::origin::Origin;
use crate::support::proxy::{Running, Setup};
use crate::support::{eventually, within};

const FRESH: &str = "Cache-Control: max-age=3600\r\nETag: \"v1\"\r\n";

/// A cache with a disk in the folder `cache` of the proxy's.
fn on_disk(origin: &Origin, lines: &str) -> Setup {
    cached(origin, lines)
        .and("[cache]\nmemory = \"4MiB\"\n[cache.disk]\npath = \"cache\"\nsize = \"256MiB\"")
}

/// Ends, and begins again in the same folder.
async fn again(proxy: Running, setup: Setup) -> Running {
    setup.start_in(ended(proxy).await)
}

/// Ends, and leaves its disk.
pub async fn ended(mut proxy: Running) -> TempDir {
    let kept = TempDir::new().unwrap();
    proxy.begin_stop();
    proxy.ended().await;
    std::fs::rename(proxy.dir.path().join("cache"), kept.path().join("cache")).unwrap();
    kept
}

/// Waits until so many responses are on disk.
pub async fn stored(proxy: &Running, count: u64) {
    eventually("responses are on disk", async || {
        told(proxy).await["disk"]["objects"].as_u64() == Some(count)
    })
    .await;
}

async fn told(proxy: &Running) -> Value {
    let answer = ask(proxy.admin, "GET /api/cache HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    serde_json::from_str(&answer.text()).unwrap()
}

async fn purge(proxy: &Running, what: &Value) -> Value {
    let body = what.to_string();
    let request = format!(
        "POST /api/cache/purge HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = ask(proxy.admin, request).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    serde_json::from_str(&answer.text()).unwrap()
}

/// Bytes that are different for each path, and at each place.
pub fn pattern(path: &str, length: usize) -> Vec<u8> {
    let seed = path.bytes().fold(7_u64, |sum, byte| sum.wrapping_mul(31) + u64::from(byte));
    let word = |at: u64| (seed ^ at).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    (0..length.div_ceil(8) as u64).flat_map(word).take(length).collect()
}

/// Answers with the pattern of the path, as long as its last part says.
pub async fn patterns() -> Origin {
    Origin::scripted(|mut connection| async move {
        while let Some(request) = connection.request().await {
            let path = request.split(' ').nth(1).unwrap().to_owned();
            let length = path.rsplit('/').next().unwrap().parse().unwrap();
            let head = format!("HTTP/1.1 200 OK\r\n{FRESH}Content-Length: {length}\r\n\r\n");
            connection.write(head).await;
            connection.write(pattern(&path, length)).await;
        }
    })
    .await
}

#[tokio::test]
async fn it_is_warm_after_a_restart_and_says_so() {
    within(async {
        let origin =
            origin(|_, count| ok(&format!("{FRESH}Vary: Accept\r\n"), &format!("body {count}")))
                .await;
        let proxy = on_disk(&origin, "").start();
        for (fields, text) in [("Accept: a\r\n", "body 0"), ("Accept: b\r\n", "body 1")] {
            assert_eq!(get(&proxy, "/x", fields).await.text(), text);
        }
        stored(&proxy, 2).await;
        let proxy = again(proxy, on_disk(&origin, "")).await;
        for (fields, text) in [("Accept: b\r\n", "body 1"), ("Accept: a\r\n", "body 0")] {
            let answer = get(&proxy, "/x", fields).await;
            assert_eq!((answer.text().as_str(), answer.field("etag")), (text, Some("\"v1\"")));
            assert!(said(&answer).contains("; hit") && said(&answer).ends_with("detail=disk"));
            let age: u64 = answer.field("age").unwrap().parse().unwrap();
            assert!(age < 20, "{age}");
            // From now on in memory.
            let answer = get(&proxy, "/x", fields).await;
            assert!(said(&answer).contains("; hit") && !said(&answer).contains("disk"));
        }
        assert_eq!(origin.requests().len(), 2);
        let figures = told(&proxy).await;
        assert_eq!(figures["disk"]["hits"], 2, "{figures}");
        let metrics = metrics(&proxy).await;
        for line in ["tollgate_cache_disk_hits_total 2", "tollgate_cache_disk_objects 2"] {
            assert!(metrics.contains(line), "no {line} in {metrics}");
        }
    })
    .await;
}

#[tokio::test]
async fn another_route_of_that_name_finds_nothing_of_it() {
    within(async {
        let origin = origin(|_, count| ok(FRESH, &format!("body {count}"))).await;
        let proxy = on_disk(&origin, "").start();
        get(&proxy, "/", "").await;
        stored(&proxy, 1).await;
        let changed = "[route.headers.request]\nset = { X-Tenant = \"b\" }";
        let proxy = again(proxy, on_disk(&origin, changed)).await;
        assert_eq!(get(&proxy, "/", "").await.text(), "body 1");
        stored(&proxy, 2).await;
        let proxy = again(proxy, on_disk(&origin, "")).await;
        assert_eq!(get(&proxy, "/", "").await.text(), "body 0");
    })
    .await;
}

#[tokio::test]
async fn a_long_body_comes_from_disk_whole_and_in_parts() {
    within(async {
        let origin = patterns().await;
        let proxy = on_disk(&origin, "").start();
        // Longer than the memory of this cache takes.
        let (path, length) = ("/long/9000000", 9_000_000);
        let body = pattern(path, length);
        let answer = get(&proxy, path, "").await;
        assert!(said(&answer).contains("stored") && answer.body == body);
        stored(&proxy, 1).await;
        for setup in [on_disk(&origin, ""), on_disk(&origin, "")] {
            let _same_again = setup;
            let answer = get(&proxy, path, "").await;
            assert!(said(&answer).contains("detail=disk"), "{}", said(&answer));
            assert!(answer.body == body);
        }
        for (range, part) in [
            ("0-9", 0..10),
            ("5000000-7000000", 5_000_000..7_000_001),
            ("-5", length - 5..length),
            ("8999999-", length - 1..length),
        ] {
            let answer = get(&proxy, path, &format!("Range: bytes={range}\r\n")).await;
            assert_eq!(answer.status, 206, "{range}");
            assert!(answer.body == body[part], "{range}");
        }
        let answer = get(&proxy, path, "Range: bytes=9000000-\r\n").await;
        assert_eq!((answer.status, answer.field("content-range")), (416, Some("bytes */9000000")));
        assert_eq!(send(&proxy, "HEAD", path, "").await.field("content-length"), Some("9000000"));
        assert_eq!(get(&proxy, path, "If-None-Match: \"v1\"\r\n").await.status, 304);
        assert_eq!(origin.requests().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn what_is_stale_on_disk_is_renewed_without_its_body() {
    within(async {
        let origin = origin(|request, _| {
            if fields(request, "if-none-match").is_empty() {
                let body = "x".repeat(3_000_000);
                return ok("Cache-Control: max-age=0\r\nETag: \"v1\"\r\n", &body);
            }
            "HTTP/1.1 304 Not Modified\r\nCache-Control: max-age=60\r\nETag: \"v1\"\r\n\r\n"
                .to_owned()
        })
        .await;
        let proxy = on_disk(&origin, "").start();
        get(&proxy, "/", "").await;
        stored(&proxy, 1).await;
        let proxy = again(proxy, on_disk(&origin, "")).await;
        let bytes = told(&proxy).await["disk"]["stored_bytes"].as_u64().unwrap();
        let answer = get(&proxy, "/", "").await;
        assert!(said(&answer).contains("fwd=stale; fwd-status=304"), "{}", said(&answer));
        assert_eq!(answer.body.len(), 3_000_000);
        eventually("it is renewed", async || {
            said(&get(&proxy, "/", "").await).contains("; hit; ttl=")
        })
        .await;
        let now = told(&proxy).await["disk"]["stored_bytes"].as_u64().unwrap();
        assert!(now < bytes + 1_000_000, "{bytes} {now}");
        let proxy = again(proxy, on_disk(&origin, "")).await;
        assert!(said(&get(&proxy, "/", "").await).contains("; hit"));
        assert_eq!(origin.requests().len(), 2);
    })
    .await;
}

#[tokio::test]
async fn what_is_renewed_in_memory_is_renewed_on_disk() {
    within(async {
        let origin = origin(|request, _| {
            if fields(request, "if-none-match").is_empty() {
                return ok("Cache-Control: max-age=0\r\nETag: \"v1\"\r\n", "body");
            }
            "HTTP/1.1 304 Not Modified\r\nCache-Control: max-age=60\r\nETag: \"v1\"\r\n\r\n"
                .to_owned()
        })
        .await;
        let proxy = on_disk(&origin, "").start();
        get(&proxy, "/", "").await;
        stored(&proxy, 1).await;
        assert!(said(&get(&proxy, "/", "").await).contains("fwd-status=304"));
        eventually("the disk has it", async || told(&proxy).await["disk"]["written"] == 2).await;
        let proxy = again(proxy, on_disk(&origin, "")).await;
        let answer = get(&proxy, "/", "").await;
        assert!(said(&answer).contains("; hit"), "{}", said(&answer));
        assert_eq!(answer.text(), "body");
    })
    .await;
}

#[tokio::test]
async fn it_is_purged_on_disk_as_well_and_stays_so() {
    within(async {
        let origin = origin(|request, count| {
            let tag = if request.starts_with("GET /b") { "b" } else { "a" };
            ok(&format!("{FRESH}Surrogate-Key: {tag}\r\n"), &format!("body {count}"))
        })
        .await;
        for (what, gone, stays) in [
            (json!({ "url": "http://a.test/a" }), vec!["/a"], vec!["/a?x", "/b/1", "/b/2"]),
            (json!({ "prefix": "http://a.test/b/" }), vec!["/b/1", "/b/2"], vec!["/a", "/a?x"]),
            (json!({ "tag": "a" }), vec!["/a", "/a?x"], vec!["/b/1", "/b/2"]),
            (json!({ "all": true }), vec!["/a", "/a?x", "/b/1", "/b/2"], vec![]),
        ] {
            let proxy = on_disk(&origin, "").start();
            for path in ["/a", "/a?x", "/b/1", "/b/2"] {
                get(&proxy, path, "").await;
            }
            stored(&proxy, 4).await;
            // Memory has nothing of it when it is purged.
            let proxy = again(proxy, on_disk(&origin, "")).await;
            purge(&proxy, &what).await;
            let proxy = again(proxy, on_disk(&origin, "")).await;
            for path in gone {
                assert!(said(&get(&proxy, path, "").await).contains("uri-miss"), "{what} {path}");
            }
            for path in stays {
                assert!(said(&get(&proxy, path, "").await).contains("; hit"), "{what} {path}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_soft_purge_has_it_validated_and_a_change_forgets_it() {
    within(async {
        let origin = origin(|request, count| {
            if fields(request, "if-none-match").is_empty() {
                return ok(FRESH, &format!("body {count}"));
            }
            "HTTP/1.1 304 Not Modified\r\nETag: \"v1\"\r\n\r\n".to_owned()
        })
        .await;
        let proxy = on_disk(&origin, "").start();
        get(&proxy, "/", "").await;
        stored(&proxy, 1).await;
        let proxy = again(proxy, on_disk(&origin, "")).await;
        let purged = purge(&proxy, &json!({ "url": "http://a.test/", "soft": true })).await;
        assert_eq!(purged["purged"], 1);
        let answer = get(&proxy, "/", "").await;
        assert!(said(&answer).contains("fwd=stale; fwd-status=304"), "{}", said(&answer));
        assert_eq!(answer.text(), "body 0");
        let proxy = again(proxy, on_disk(&origin, "")).await;
        send(&proxy, "POST", "/", "Content-Length: 0\r\n").await;
        let answer = get(&proxy, "/", "").await;
        assert!(said(&answer).contains("uri-miss"), "{}", said(&answer));
    })
    .await;
}

#[tokio::test]
async fn what_is_on_its_way_when_it_is_purged_is_not_on_disk_either() {
    within(async {
        let (send, held) = tokio::sync::watch::channel(false);
        let origin = Origin::scripted(move |mut connection| {
            let mut held = held.clone();
            async move {
                while connection.request().await.is_some() {
                    connection
                        .write(format!("HTTP/1.1 200 OK\r\n{FRESH}Content-Length: 4\r\n\r\nbo"))
                        .await;
                    let _reached = held.wait_for(|go| *go).await.is_ok();
                    connection.write("dy").await;
                }
            }
        })
        .await;
        let proxy = on_disk(&origin, "").start();
        let mut client = Raw::connect(proxy.address).await;
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        client.read_until("\r\n\r\n").await;
        purge(&proxy, &json!({ "tag": "any" })).await;
        send.send(true).unwrap();
        assert_eq!(client.read_exact(4).await, b"body");
        let proxy = again(proxy, on_disk(&origin, "")).await;
        assert_eq!(told(&proxy).await["disk"]["objects"], 0);
    })
    .await;
}

/// Every file of the store.
fn files(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test]
async fn damaged_files_are_misses_and_never_wrong_bytes() {
    within(async {
        let origin = patterns().await;
        let proxy = on_disk(&origin, "").start();
        let paths: Vec<_> = (0..40).map(|at| format!("/{at}/{}", 1000 + at * 1999)).collect();
        for path in &paths {
            get(&proxy, path, "").await;
        }
        stored(&proxy, 40).await;
        let mut proxy = again(proxy, on_disk(&origin, "")).await;
        proxy.begin_stop();
        proxy.ended().await;
        let dir = TempDir::new().unwrap();
        std::fs::rename(proxy.dir.path().join("cache"), dir.path().join("cache")).unwrap();
        for file in files(&dir.path().join("cache")) {
            let mut bytes = std::fs::read(&file).unwrap();
            if bytes.len() > 100_000 {
                for at in (0..bytes.len()).step_by(80_001) {
                    bytes[at] ^= 0x55;
                }
                std::fs::write(&file, bytes).unwrap();
            }
        }
        let proxy = on_disk(&origin, "").start_in(dir);
        let mut hits = 0;
        for path in &paths {
            let answer = get(&proxy, path, "").await;
            let length: usize = path.rsplit('/').next().unwrap().parse().unwrap();
            assert!(answer.body == pattern(path, length), "{path}");
            hits += usize::from(said(&answer).contains("; hit"));
        }
        assert!(hits < 40, "nothing was damaged");
    })
    .await;
}

#[tokio::test]
async fn a_folder_that_is_in_use_or_cannot_be_one_is_said_at_the_start() {
    within(async {
        let origin = patterns().await;
        let proxy = on_disk(&origin, "").start();
        let wrong = |dir: &Path| {
            let path = dir.join("config.toml");
            std::fs::write(&path, on_disk(&origin, "").toml()).unwrap();
            tollgate::Proxy::from_config(&path).unwrap_err().to_string()
        };
        let error = wrong(proxy.dir.path());
        assert!(error.contains("in use by another process"), "{error}");
        assert!(error.contains("a folder of its own"), "{error}");
        let dir = TempDir::new().unwrap();
        std::fs::write(dir.path().join("cache"), "a file").unwrap();
        let error = wrong(dir.path());
        assert!(error.contains(&dir.path().join("cache").display().to_string()), "{error}");
    })
    .await;
}

#[tokio::test]
async fn many_requests_for_what_is_on_disk_only_are_all_served_from_there() {
    within(async {
        let origin = patterns().await;
        let proxy = on_disk(&origin, "").start();
        for path in ["/a/500000", "/a/3000000"] {
            get(&proxy, path, "").await;
        }
        stored(&proxy, 2).await;
        let proxy = again(proxy, on_disk(&origin, "")).await;
        for path in ["/a/500000", "/a/3000000"] {
            let length = path.rsplit('/').next().unwrap().parse().unwrap();
            let all = (0..16).map(|_| get(&proxy, path, ""));
            for answer in futures_util::future::join_all(all).await {
                assert!(said(&answer).contains("; hit"), "{}", said(&answer));
                assert!(answer.body == pattern(path, length));
            }
        }
        assert_eq!(origin.requests().len(), 2);
    })
    .await;
}
