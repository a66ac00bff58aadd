//! The world of the proof: a proxy, its origins, and everybody who uses it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::admin::Admin;
use super::configs::{InForce, NAMES, Recipe};
use super::load::{Client, Shared};
use super::origins::Origin;
use super::process::{Holds, Process, built, install};
use super::tally::Tally;
use super::wire::{Door, PATIENCE};
use super::{http1, http2, lasting};
use crate::support::certs::Authority;

/// Where the proxy listens.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    pub plain: u16,
    pub tls: u16,
    pub admin: u16,
    /// Of a listener that comes and goes.
    pub extra: u16,
}

impl Ports {
    pub fn free() -> Self {
        let [plain, tls, admin, extra] = std::array::from_fn(|_| free_port());
        Self { plain, tls, admin, extra }
    }
}

pub struct World {
    // Ended before its folder goes.
    pub process: Process,
    pub shared: Arc<Shared>,
    pub authority: Authority,
    pub recipe: Recipe,
    pub admin: Admin,
    clients: Vec<JoinHandle<()>>,
    long: Vec<JoinHandle<()>>,
    over: watch::Sender<bool>,
    _origins: Vec<Origin>,
    pub dir: TempDir,
}

impl World {
    /// A proxy that serves configuration 0.
    pub async fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let over = watch::Sender::new(false);
        let mut origins = Vec::new();
        for name in NAMES {
            origins.push(Origin::named(name, over.subscribe()).await);
        }
        let addresses = std::array::from_fn(|origin| origins[origin].address);
        let ports = Ports::free();
        let (certificate, key) = ("a.crt", "a.key");
        let recipe = Recipe { ports, origins: addresses, certificate, key };
        let authority = Authority::new();
        authority.sign(dir.path(), "a", &["a.test"]);
        std::fs::write(dir.path().join("config.toml"), recipe.toml(0)).unwrap();
        install(&built(), dir.path());
        let shared = Arc::new(Shared {
            tally: Tally::new(dir.path().join("proxy.log")),
            in_force: InForce::default(),
            stop: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            upgrading: AtomicBool::new(false),
        });
        let mut world = Self {
            process: Process::start(dir.path()),
            shared,
            authority,
            recipe,
            admin: Admin(([127, 0, 0, 1], ports.admin).into()),
            clients: Vec::new(),
            long: Vec::new(),
            over,
            _origins: origins,
            dir,
        };
        world.ready().await;
        world
    }

    /// Waits until the proxy takes traffic.
    pub async fn ready(&mut self) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !self.admin.is_ready().await {
            let words = self.shared.tally.last_words();
            assert!(!self.process.has_ended(), "the proxy ended:\n{words}");
            assert!(tokio::time::Instant::now() < deadline, "it never got ready:\n{words}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn tally(&self) -> &Tally {
        &self.shared.tally
    }

    pub fn tls(&self, alpn: &[&str]) -> Door {
        Door::tls(self.recipe.ports.tls, self.authority.client(alpn))
    }

    pub fn plain(&self) -> Door {
        Door::plain(self.recipe.ports.plain)
    }

    pub fn extra(&self) -> Door {
        Door::plain(self.recipe.ports.extra)
    }

    /// Starts all clients: about 400 requests and messages a second.
    pub fn load(&mut self) {
        let (plain, tls, tls2) = (self.plain(), self.tls(&["http/1.1"]), self.tls(&["h2"]));
        let millis = Duration::from_millis;
        for number in 0..4 {
            let client = Client::new(&self.shared, "h1", number);
            self.spawn(http1::keeps_alive(client, plain.clone(), millis(60)));
            let client = Client::new(&self.shared, "h1 tls", number);
            self.spawn(http1::keeps_alive(client, tls.clone(), millis(60)));
        }
        for number in 0..2 {
            let client = Client::new(&self.shared, "h1 new", number);
            self.spawn(http1::opens_each_time(client, plain.clone(), millis(30)));
            let client = Client::new(&self.shared, "h1 tls new", number);
            self.spawn(http1::opens_each_time(client, tls.clone(), millis(70)));
            let client = Client::new(&self.shared, "ws", number);
            self.spawn(lasting::talks(client, plain.clone(), false, millis(100)));
            let client = Client::new(&self.shared, "ws tls", number);
            self.spawn(lasting::talks(client, tls.clone(), false, millis(100)));
            let client = Client::new(&self.shared, "ws h2", number);
            self.spawn(lasting::talks(client, tls2.clone(), true, millis(100)));
        }
        let (one, two) = (http2::Shared::new(plain), http2::Shared::new(tls2));
        for number in 0..4 {
            let client = Client::new(&self.shared, "h2", number);
            self.spawn(http2::streams(client, one.clone(), millis(60)));
            let client = Client::new(&self.shared, "h2 tls", number);
            self.spawn(http2::streams(client, two.clone(), millis(60)));
        }
    }

    /// Starts clients that are hardly ever idle, each on a connection that it keeps.
    pub fn load_busily(&mut self) {
        for number in 0..24 {
            let client = Client::new(&self.shared, "h1", number);
            self.spawn(http1::keeps_alive(client, self.plain(), Duration::from_millis(10)));
        }
    }

    /// Starts a download and an upload that last until [`World::end_long`].
    pub fn load_long(&mut self) {
        for (kind, up) in [("download long", false), ("upload long", true)] {
            let client = Client::new(&self.shared, kind, 0);
            let over = self.over.subscribe();
            let transfers = lasting::transfers(client, self.tls(&[]), up, None, over);
            self.long.push(tokio::spawn(transfers));
        }
    }

    /// Has what lasts come to its end, and waits for it.
    pub async fn end_long(&mut self) {
        self.over.send_replace(true);
        for transfer in std::mem::take(&mut self.long) {
            transfer.await.unwrap();
        }
        self.over.send_replace(false);
    }

    /// Starts downloads and uploads of some seconds each.
    pub fn load_short(&mut self) {
        for (kind, up) in [("download", false), ("upload", true)] {
            let client = Client::new(&self.shared, kind, 0);
            let over = self.over.subscribe();
            self.spawn(lasting::transfers(client, self.plain(), up, Some(250), over));
        }
    }

    fn spawn(&mut self, client: impl Future<Output = ()> + Send + 'static) {
        self.clients.push(tokio::spawn(client));
    }

    /// Ends all clients, and waits for them.
    pub async fn end_load(&mut self) {
        self.end_long().await;
        self.shared.stop.store(true, Ordering::Relaxed);
        for client in std::mem::take(&mut self.clients) {
            client.await.unwrap();
        }
    }

    /// What the proxy holds while nobody asks it anything and all connections of the
    /// load stay open: the least that is seen in a while, or the first that `enough`
    /// is content with. What is left of the load's requests goes meanwhile.
    pub async fn at_rest(&self, enough: impl Fn(&Holds) -> bool) -> Holds {
        self.shared.paused.store(true, Ordering::Relaxed);
        // Longer than idle connections to origins are kept.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let mut least = self.holds().await;
        for _ in 0..1000 {
            if enough(&least) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            least = least.or_less(self.holds().await);
        }
        self.shared.paused.store(false, Ordering::Relaxed);
        least
    }

    async fn holds(&self) -> Holds {
        // It is a whole number there.
        let tasks = self.admin.metric("tollgate_tasks", "").await as usize;
        assert!(tasks > 0, "it says how many tasks it has");
        self.process.holds(tasks)
    }

    /// What the proxy holds at rest, watched for a second.
    pub async fn level(&self) -> Holds {
        let looks = AtomicUsize::new(0);
        self.at_rest(|_| looks.fetch_add(1, Ordering::Relaxed) >= 50).await
    }

    /// Each kind of client was answered, so that it could have failed.
    pub fn everybody_was_there(&self) {
        let kinds = [
            "h1",
            "h1 new",
            "h1 tls",
            "h1 tls new",
            "h2",
            "h2 tls",
            "ws",
            "ws h2",
            "ws tls",
            "download",
            "download long",
            "upload",
            "upload long",
        ];
        for kind in kinds {
            assert!(self.tally().answered_by(kind) > 0, "{kind}: nothing was answered");
        }
    }

    /// Prints what was counted, and fails if anything did.
    pub fn verdict(&self) {
        println!("{}", self.tally().table());
        assert!(self.tally().failures() == 0, "{}", self.tally().report());
    }
}

/// A port that nobody has, below those that the system gives to anybody who asks
/// for one: it is to be bound again, by other processes.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let own = u16::try_from(std::process::id() % 9_000).unwrap_or_default();
    loop {
        let port = 21_000 + (own + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
