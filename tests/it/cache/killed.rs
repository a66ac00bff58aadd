//! The disk of a cache whose process is killed, replaced, or kept from writing.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::disk::{pattern, patterns};
use crate::nothing_dropped::admin::Admin;
use crate::nothing_dropped::process::{Process, built, install};
use crate::nothing_dropped::world::free_port;
use crate::support::client::fields;
use crate::support::origin::Origin;

/// A process of its own, with a cache on disk.
struct World {
    dir: TempDir,
    port: u16,
    admin: Admin,
}

impl World {
    fn new(origin: &Origin, memory: &str, size: &str) -> Self {
        let (port, admin) = (free_port(), free_port());
        let dir = TempDir::new().unwrap();
        let toml = format!(
            "[server]\nworkers = 2\n[admin]\naddress = \"127.0.0.1:{admin}\"\n\
             [access_log]\noutput = \"off\"\n\
             [cache]\nmemory = \"{memory}\"\n\
             [cache.disk]\npath = \"cache\"\nsize = \"{size}\"\n\
             [[listener]]\nname = \"public\"\naddress = \"127.0.0.1:{port}\"\n\
             [[upstream]]\nname = \"origin\"\norigins = [\"{origin}\"]\n\
             [[route]]\nname = \"all\"\nupstream = \"origin\"\n[route.cache]\n"
        );
        std::fs::write(dir.path().join("config.toml"), toml).unwrap();
        install(&built(), dir.path());
        let admin = Admin(([127, 0, 0, 1], admin).into());
        Self { dir, port, admin }
    }

    async fn until(&self, what: &str, mut check: impl AsyncFnMut() -> bool) {
        for _ in 0..3000 {
            if check().await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let log = std::fs::read_to_string(self.dir.path().join("proxy.log"));
        let disk = self.disk().await;
        panic!("it never came about that {what}\n{disk}\n{}", log.unwrap_or_default());
    }

    async fn ready(&self) {
        self.until("it is ready", async || self.admin.is_ready().await).await;
    }

    /// What the disk says of itself.
    async fn disk(&self) -> Value {
        let told = self.admin.ask("GET", "/api/cache").await;
        let told = told.ok().and_then(|(_, body)| serde_json::from_str::<Value>(&body).ok());
        told.map_or(Value::Null, |told| told["disk"].clone())
    }

    async fn objects(&self) -> u64 {
        self.disk().await["objects"].as_u64().unwrap_or_default()
    }

    /// The status of the cache, if all of the answer came, and was right.
    async fn get(&self, path: &str) -> Option<String> {
        let asked = async {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.ok()?;
            let head = format!("GET {path} HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).await.ok()?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.ok()?;
            Some(answer)
        };
        let answer = tokio::time::timeout(Duration::from_secs(20), asked).await.ok()??;
        let end = answer.windows(4).position(|part| part == b"\r\n\r\n")? + 4;
        let (head, body) = (String::from_utf8_lossy(&answer[..end]), &answer[end..]);
        let length: usize = fields(&head, "content-length").first()?.parse().ok()?;
        // Whatever there is has to be right, also where it was cut off.
        let right = pattern(path, length);
        assert!(body.len() <= length && *body == right[..body.len()], "{path}: {head}");
        (body.len() == length).then(|| fields(&head, "cache-status").join(", "))
    }
}

fn paths(round: usize) -> Vec<String> {
    let length = |at: usize| if at.is_multiple_of(40) { 2_500_000 } else { 500 + at * 331 };
    (0..160).map(|at| format!("/{round}/{at}/{}", length(at))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_a_killed_process_has_stored_is_right_and_most_of_it_is_there() {
    let origin = patterns().await;
    let world = Arc::new(World::new(&origin, "8MiB", "256MiB"));
    let mut process = Process::start(world.dir.path());
    let (mut known, mut purged): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
    for round in 0..3 {
        world.ready().await;
        let (mut hits, before) = (0, known.len());
        for path in &known {
            let status = world.get(path).await.unwrap_or_else(|| panic!("no answer to {path}"));
            hits += usize::from(status.contains("; hit"));
        }
        assert!(hits * 10 >= before * 9, "round {round}: {hits} hits of {before}");
        for path in purged.drain(..) {
            let status = world.get(&path).await.unwrap();
            assert!(status.contains("miss"), "{path} was purged: {status}");
        }
        let (done, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let next = Arc::new(AtomicUsize::new(0));
        let load = (0..4).map(|_| {
            let (world, next, done) = (world.clone(), next.clone(), done.clone());
            let stop = stop.clone();
            tokio::spawn(async move {
                let paths = paths(round);
                while !stop.load(Ordering::SeqCst) {
                    let Some(path) = paths.get(next.fetch_add(1, Ordering::SeqCst)) else { break };
                    if world.get(path).await.is_some() {
                        done.lock().push(path.clone());
                    }
                }
            })
        });
        let load: Vec<_> = load.collect();
        let first = format!("/{round}/1/831");
        world
            .until("some have been stored", async || {
                done.lock().len() > 60 && done.lock().contains(&first)
            })
            .await;
        // Whatever was purged before the kill stays so.
        done.lock().retain(|path| *path != first);
        let url = format!("http://a.test{first}");
        let told = process.command(&["cache", "purge", "-c", "config.toml", &url]).await;
        assert!(told.contains("exit status: 0"), "{told}");
        let written = done.lock().clone();
        process.signal("KILL");
        stop.store(true, Ordering::SeqCst);
        for client in load {
            client.await.unwrap();
        }
        world.until("it has ended", async || process.has_ended()).await;
        known.extend(written);
        purged.push(first);
        process.start_another();
    }
    world.ready().await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_has_what_its_predecessor_stored() {
    let origin = patterns().await;
    let world = World::new(&origin, "8MiB", "256MiB");
    let mut process = Process::start(world.dir.path());
    world.ready().await;
    for path in ["/a/100", "/a/3000000"] {
        assert!(world.get(path).await.unwrap().contains("stored"));
    }
    world.until("both are on disk", async || world.objects().await == 2).await;
    // One that cannot be is no successor, and takes nothing away.
    install(Path::new("/bin/false"), world.dir.path());
    assert_eq!(world.admin.ask("POST", "/api/upgrade").await.unwrap().0, 500);
    assert!(world.get("/b/200").await.unwrap().contains("stored"));
    world.until("it goes on storing", async || world.objects().await == 3).await;
    install(&built(), world.dir.path());
    let (status, said) = world.admin.ask("POST", "/api/upgrade").await.unwrap();
    assert_eq!(status, 200, "{said}");
    let pid = serde_json::from_str::<Value>(&said).unwrap()["pid"].as_u64().unwrap();
    process.succeeded_by(u32::try_from(pid).unwrap());
    world
        .until("the successor has the disk", async || {
            let status = world.admin.status().await.unwrap_or_default();
            status["pid"].as_u64() == Some(pid) && world.objects().await == 3
        })
        .await;
    for path in ["/a/100", "/a/3000000", "/b/200"] {
        let status = world.get(path).await.unwrap();
        assert!(status.contains("; hit") && status.contains("detail=disk"), "{path}: {status}");
    }
    assert!(world.get("/c/300").await.unwrap().contains("stored"));
    world.until("it goes on storing", async || world.objects().await == 4).await;
    assert!(process.only_one_left().await);
    process.stop().await;
}

const PIECE: usize = 64 * 1024;

/// Sends so many pieces, each with its number in front.
async fn pieces(count: u64) -> Origin {
    Origin::scripted(move |mut connection| async move {
        while connection.request().await.is_some() {
            let length = count * PIECE as u64;
            connection
                .write(format!(
                    "HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\nContent-Length: {length}\r\n\r\n"
                ))
                .await;
            let mut piece = pattern("/piece", PIECE);
            for number in 0..count {
                piece[..8].copy_from_slice(&number.to_le_bytes());
                connection.write(&piece).await;
                // As from a network, and not from this machine.
                if number % 8 == 7 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        }
    })
    .await
}

/// Reads the pieces, and compares.
async fn reads(world: &World, count: u64) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", world.port)).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let mut right = pattern("/piece", PIECE);
    let mut piece = vec![0; PIECE];
    for number in 0..count {
        right[..8].copy_from_slice(&number.to_le_bytes());
        stream.read_exact(&mut piece).await.unwrap();
        assert!(piece == right, "piece {number}");
    }
    fields(&String::from_utf8_lossy(&head), "cache-status").join(", ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_longer_than_memory_goes_to_disk_and_back_in_little_memory() {
    let count = 2048;
    let origin = pieces(count).await;
    let world = World::new(&origin, "8MiB", "1GiB");
    let mut process = Process::start(world.dir.path());
    world.ready().await;
    let before = process.holds(0).resident;
    // Nobody waits for the disk: on a busy machine it may not keep up at once.
    world
        .until("it is on disk", async || {
            reads(&world, count).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
            world.objects().await == 1
        })
        .await;
    let asked = origin.requests().len();
    for _ in 0..2 {
        let status = reads(&world, count).await;
        assert!(status.contains("; hit") && status.contains("detail=disk"), "{status}");
    }
    assert_eq!(origin.requests().len(), asked);
    // The disk's queue is a part of it.
    let peak = process.peak();
    assert!(peak < before + 100 * 1024, "{before} KiB, and then {peak} KiB for 128 MiB");
    process.stop().await;
}

struct Shell(Child);

impl Drop for Shell {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traffic_goes_on_where_nothing_can_be_written() {
    let origin = patterns().await;
    let world = World::new(&origin, "8MiB", "256MiB");
    // No file may be longer than so many blocks: as on a disk that is full.
    let run = "trap '' XFSZ; ulimit -f 2048; exec ./tollgate run -c config.toml";
    let log = std::fs::File::create(world.dir.path().join("proxy.log")).unwrap();
    let shell = Command::new("sh")
        .args(["-c", run])
        .current_dir(world.dir.path())
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn();
    let mut shell = Shell(shell.unwrap());
    world.ready().await;
    for path in paths(0) {
        let status = world.get(&path).await.unwrap_or_else(|| panic!("no answer to {path}"));
        assert!(status.contains("fwd=uri-miss"), "{path}: {status}");
    }
    world.until("that is told", async || world.disk().await["failed"].as_u64() > Some(0)).await;
    // What is in memory is served from there, and all else by the origin.
    std::fs::remove_dir_all(world.dir.path().join("cache")).unwrap();
    for path in paths(0).iter().chain(&paths(1)) {
        assert!(world.get(path).await.is_some(), "{path}");
    }
    assert!(shell.0.try_wait().unwrap().is_none(), "it has ended");
}
