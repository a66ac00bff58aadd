//! Sockets that go from one process to the next; here, from one proxy to another.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tollgate::accept::{Giver, Inherited, Listeners};
use tollgate::{Beginning, Bound, Ended, Proxy};

use super::{GET, OK, slow, sockets};
use crate::support::client::{Raw, ask, get};
use crate::support::origin::Origin;
use crate::support::{eventually, within};

/// A proxy at addresses that stay, which says when it goes and how it ends.
struct Life {
    listeners: Listeners,
    go: Option<oneshot::Sender<bool>>,
    end: oneshot::Sender<()>,
    ended: JoinHandle<Ended>,
}

/// Where it listens, and what it is made of.
struct Place {
    dir: TempDir,
    public: SocketAddr,
    admin: SocketAddr,
    origin: Origin,
}

impl Place {
    fn new(origin: Origin) -> Self {
        // Ports that are free now, and soon the proxy's.
        let ports = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [public, admin] = ports.each_ref().map(|port| port.local_addr().unwrap());
        Self { dir: TempDir::new().unwrap(), public, admin, origin }
    }

    fn bound(&self, workers: usize, inherited: Inherited) -> Bound {
        let Self { dir, public, admin, origin } = self;
        let toml = format!(
            "[server]\nworkers = {workers}\n[admin]\naddress = \"{admin}\"\n\
             [access_log]\noutput = \"off\"\n\
             [[listener]]\nname = \"public\"\naddress = [\"{public}\", \"unix:x.sock\"]\n\
             [[route]]\nname = \"all\"\nupstream = \"origin\"\n\
             [[upstream]]\nname = \"origin\"\norigins = [\"{origin}\"]\n"
        );
        let settings = tollgate::config::parse(&dir.path().join("config.toml"), &toml).unwrap();
        Proxy::build(settings).unwrap().bind_with(inherited).unwrap()
    }

    fn start(&self, workers: usize, inherited: Vec<OwnedFd>, giver: Giver) -> Life {
        let bound = self.bound(workers, Inherited::new(inherited, giver).unwrap());
        let listeners = bound.listeners().clone();
        let (go, gone) = oneshot::channel();
        let (end, ending) = oneshot::channel();
        let beginning = Beginning::held_back(async { gone.await.unwrap() });
        let run = bound.run_from(beginning, async { ending.await.unwrap() });
        let ended = tokio::spawn(async { run.await.unwrap() });
        Life { listeners, go: Some(go), end, ended }
    }

    fn unix(&self) -> std::path::PathBuf {
        self.dir.path().join("x.sock")
    }
}

impl Life {
    async fn go(&mut self) {
        self.go.take().unwrap().send(true).unwrap();
        eventually("it serves", async || self.listeners.is_open()).await;
    }

    async fn end(self) -> Ended {
        self.end.send(()).unwrap();
        self.ended.await.unwrap()
    }

    /// Another has its sockets.
    async fn hand_over(self) -> Ended {
        self.listeners.release();
        self.ended.await.unwrap()
    }
}

async fn over_unix(path: &Path) -> u16 {
    let mut client = Raw::over(UnixStream::connect(path).await.unwrap());
    client.send(GET).await;
    client.answer().await.status
}

async fn ready(place: &Place) -> u16 {
    ask(place.admin, "GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.status
}

/// Clients that come, ask and go without a pause, until told to stop.
fn visitors(place: &Place) -> (Arc<AtomicBool>, Arc<AtomicUsize>, Vec<JoinHandle<()>>) {
    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let tasks = (0..8).map(|index| {
        let (public, unix) = (place.public, place.unix());
        let (stop, served) = (stop.clone(), served.clone());
        tokio::spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                let status = if index < 2 {
                    over_unix(&unix).await
                } else {
                    get(public, "/", "").await.status
                };
                assert_eq!(status, 200);
                served.fetch_add(1, Ordering::SeqCst);
            }
        })
    });
    let tasks = tasks.collect();
    (stop, served, tasks)
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_refused_while_sockets_go_from_one_to_the_next() {
    within(async {
        let place = Place::new(Origin::answering(OK).await);
        // As many sockets as workers, fewer, more.
        let mut life = place.start(2, Vec::new(), Giver::Predecessor);
        life.go().await;
        let (stop, served, visitors) = visitors(&place);
        for workers in [2, 4, 3, 1] {
            let before = sockets(&life.listeners);
            let mut next =
                place.start(workers, life.listeners.handles().unwrap(), Giver::Predecessor);
            next.go().await;
            let after = sockets(&next.listeners);
            assert!(before.iter().all(|socket| after.contains(socket)), "{before:?} {after:?}");
            assert_eq!(life.hand_over().await, Ended::default());
            let count = served.load(Ordering::SeqCst);
            eventually("it goes on", async || served.load(Ordering::SeqCst) > count + 50).await;
            assert_eq!(ready(&place).await, 200);
            life = next;
        }
        stop.store(true, Ordering::SeqCst);
        for visitor in visitors {
            visitor.await.unwrap();
        }
        assert_eq!(life.end().await, Ended::default());
        assert!(!place.unix().exists());
    })
    .await;
}

#[tokio::test]
async fn a_successor_that_never_goes_leaves_everything_as_it_was() {
    within(async {
        let place = Place::new(Origin::answering(OK).await);
        let mut life = place.start(2, Vec::new(), Giver::Predecessor);
        life.go().await;
        for workers in [1, 2, 4] {
            let handles = life.listeners.handles().unwrap();
            let mut next = place.start(workers, handles, Giver::Predecessor);
            for _ in 0..20 {
                assert_eq!(get(place.public, "/", "").await.status, 200);
                assert_eq!(over_unix(&place.unix()).await, 200);
                assert_eq!(ready(&place).await, 200);
            }
            if workers == 2 {
                // By the way that a killed process goes.
                next.ended.abort();
            } else {
                next.go.take().unwrap().send(false).unwrap();
                assert_eq!(next.ended.await.unwrap(), Ended::default());
            }
            for _ in 0..20 {
                assert_eq!(get(place.public, "/", "").await.status, 200);
                assert_eq!(over_unix(&place.unix()).await, 200);
            }
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_under_way_ends_in_the_process_that_began_it() {
    within(async {
        let place = Place::new(slow(500).await);
        let mut life = place.start(1, Vec::new(), Giver::Predecessor);
        life.go().await;
        let mut client = Raw::connect(place.public).await;
        client.send(GET).await;
        let mut admin = Raw::connect(place.admin).await;
        admin.send("GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert_eq!(admin.answer().await.status, 200);
        eventually("the origin has it", async || !place.origin.requests().is_empty()).await;
        let handles = life.listeners.handles().unwrap();
        let mut next = place.start(1, handles, Giver::Predecessor);
        next.go().await;
        life.listeners.release();
        // Who is connected to the old one's admin listener still asks the old one.
        admin.send("GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert_eq!(admin.answer().await.status, 503);
        for _ in 0..10 {
            assert_eq!(ready(&place).await, 200);
        }
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.field("connection")), (200, Some("close")));
        assert_eq!(life.ended.await.unwrap(), Ended::default());
        assert!(place.unix().exists());
    })
    .await;
}

#[tokio::test]
async fn what_waits_in_a_socket_is_the_next_ones_to_accept() {
    within(async {
        let place = Place::new(Origin::answering(OK).await);
        let socket = TcpListener::bind(place.public).unwrap();
        // Nobody accepts them yet.
        let mut clients = Vec::new();
        for _ in 0..20 {
            let mut client = Raw::connect(place.public).await;
            client.send(GET).await;
            clients.push(client);
        }
        let mut life = place.start(3, vec![socket.into()], Giver::ServiceManager);
        life.go().await;
        for client in &mut clients {
            assert_eq!(client.answer().await.status, 200);
        }
    })
    .await;
}

#[tokio::test]
async fn the_file_of_a_service_managers_socket_is_left_alone() {
    within(async {
        let place = Place::new(Origin::answering(OK).await);
        let held = std::os::unix::net::UnixListener::bind(place.unix()).unwrap();
        let given: OwnedFd = held.try_clone().unwrap().into();
        let mut life = place.start(2, vec![given], Giver::ServiceManager);
        life.go().await;
        assert_eq!(over_unix(&place.unix()).await, 200);
        assert_eq!(life.end().await, Ended::default());
        assert!(place.unix().exists());
    })
    .await;
}

#[test]
fn what_is_no_listening_stream_socket_is_named() {
    let of =
        |socket: OwnedFd| Inherited::new([socket], Giver::ServiceManager).unwrap_err().to_string();
    let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    assert!(of(datagrams.into()).contains("no stream socket"));
    let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    assert!(of(one.into()).contains("neither of TCP nor"));
    let file = std::fs::File::open("/dev/null").unwrap();
    assert!(of(file.into()).contains("no socket"));
    let silent = super::Refusing::new();
    let unready = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let unready = unready.unwrap();
    unready.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    assert!(of(unready.into()).contains("does not listen"));
    drop(silent);
}

#[tokio::test]
async fn who_takes_over_asks_no_origin_that_its_probes_condemn() {
    within(async {
        let good = Origin::named("good").await;
        let bad =
            Origin::answering("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
        let bad = bad.await;
        let toml = format!(
            "[server]\nworkers = 1\n[admin]\nenabled = false\n[access_log]\noutput = \"off\"\n\
             [[listener]]\nname = \"public\"\naddress = \"127.0.0.1:0\"\n\
             [[route]]\nname = \"all\"\nupstream = \"origin\"\n\
             [[upstream]]\nname = \"origin\"\norigins = [\"{bad}\", \"{good}\"]\n\
             [upstream.health]\npath = \"/health\"\n"
        );
        let settings = tollgate::config::parse(Path::new("config.toml"), &toml).unwrap();
        let bound = Proxy::build(settings).unwrap().bind().unwrap();
        let address = bound.addresses("public")[0];
        let (end, ended) = oneshot::channel::<()>();
        let go = Beginning::held_back(std::future::ready(true));
        let serving = tokio::spawn(bound.run_from(go, async { drop(ended.await) }));
        for _ in 0..4 {
            assert_eq!(get(address, "/", "").await.text(), "good");
        }
        drop(end);
        serving.await.unwrap().unwrap();
    })
    .await;
}

#[tokio::test]
async fn who_has_handed_over_still_hears_that_it_is_to_end() {
    within(async {
        let place = Place::new(Origin::named("origin").await);
        let bound = place.bound(1, Inherited::default());
        let listeners = bound.listeners().clone();
        let (end, ended) = oneshot::channel::<()>();
        let (heard, hears) = oneshot::channel();
        let shutdown = async {
            drop(ended.await);
            heard.send(()).unwrap();
        };
        let serving = tokio::spawn(bound.run(shutdown));
        eventually("it serves", async || listeners.is_open()).await;
        let upgrade = "GET / HTTP/1.1\r\nHost: a.test\r\n";
        let mut client = Raw::connect(place.public).await;
        client.send(upgrade).await;
        eventually("it is under way", async || listeners.permits().open() == 1).await;
        listeners.release();
        eventually("it drains", async || get_fails(place.admin).await).await;
        drop(end);
        hears.await.unwrap();
        client.send("\r\n").await;
        assert_eq!(client.answer().await.status, 200);
        serving.await.unwrap().unwrap();
    })
    .await;
}

/// Whether nobody accepts there any more.
async fn get_fails(address: SocketAddr) -> bool {
    tokio::net::TcpStream::connect(address).await.is_err()
}
