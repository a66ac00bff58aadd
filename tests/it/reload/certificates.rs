//! Certificates change under a proxy that serves.

use std::path::Path;

use rustls::{ClientConfig, HandshakeKind};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tollgate::admin::{Operator, Refused};
use tollgate::observe::{ReloadResult, ReloadTrigger};

use super::{BY_HAND, api, counts, reload};
use crate::support::certs::{Authority, connect};
use crate::support::client::Raw;
use crate::support::origin::Origin;
use crate::support::proxy::{Running, Setup};
use crate::support::{eventually, within};

/// A proxy that shows `a.crt`, with these lines in `[server]` and at the end.
struct Secure {
    authority: Authority,
    origin: Origin,
    proxy: Running,
}

impl Secure {
    async fn start(server: &str) -> Self {
        let (authority, origin) = (Authority::new(), Origin::named("one").await);
        let dir = TempDir::new().unwrap();
        authority.sign(dir.path(), "a", &["a.test"]);
        let proxy = Self::setup(&origin, server).start_in(dir);
        Self { authority, origin, proxy }
    }

    fn setup(origin: &Origin, server: &str) -> Setup {
        let certificates = "certificates = [{ certificate = \"a.crt\", key = \"a.key\" }]";
        let tls = format!("[listener.tls]\n{certificates}");
        Setup::forwarding_to(origin).server(server).listener(&tls)
    }

    fn dir(&self) -> &Path {
        self.proxy.dir.path()
    }

    /// Puts another pair in the place of the one that is there; gives what the
    /// certificate is.
    fn renew(&self) {
        self.authority.sign(self.dir(), "new", &["a.test"]);
        for kind in ["crt", "key"] {
            let from = self.dir().join(format!("new.{kind}"));
            std::fs::rename(from, self.dir().join(format!("a.{kind}"))).unwrap();
        }
    }

    fn spoil(&self) {
        let new = self.dir().join("new.crt");
        std::fs::write(&new, "no certificate").unwrap();
        std::fs::rename(new, self.dir().join("a.crt")).unwrap();
    }

    /// The certificate in the file.
    fn written(&self) -> Vec<u8> {
        use rustls::pki_types::{CertificateDer, pem::PemObject};
        CertificateDer::from_pem_file(self.dir().join("a.crt")).unwrap().to_vec()
    }

    /// The certificate that a new client is shown.
    async fn shown(&self) -> Vec<u8> {
        let stream = self.connect(self.client()).await;
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    }

    fn client(&self) -> ClientConfig {
        self.authority.client(&["http/1.1"])
    }

    async fn connect(&self, config: ClientConfig) -> TlsStream<TcpStream> {
        connect(self.proxy.address, config, "a.test").await.unwrap()
    }

    /// How the handshake of the next connection goes. A request sees to it that the
    /// tickets have come.
    async fn handshake(&self, config: &ClientConfig) -> HandshakeKind {
        let stream = self.connect(config.clone()).await;
        let kind = stream.get_ref().1.handshake_kind().unwrap();
        assert_eq!(super::ask(&mut Raw::over(stream), "/").await.status, 200);
        kind
    }

    async fn shows_what_is_written(&self) {
        let written = self.written();
        eventually("the new certificate is shown", async || self.shown().await == written).await;
    }

    fn has_failed(&self) -> bool {
        let last = self.proxy.control.status().last_reload;
        last.is_some_and(|last| last.result == ReloadResult::Failed)
    }
}

const LAST_OK: &str = "tollgate_certificate_last_reload_ok{listener=\"public\"} ";

#[tokio::test]
async fn a_renewed_pair_is_shown_without_a_reload_and_open_connections_go_on() {
    within(async {
        let secure = Secure::start("").await;
        let first = secure.written();
        assert_eq!(secure.shown().await, first);
        let mut open = Raw::over(secure.connect(secure.client()).await);
        let in_handshake = TcpStream::connect(secure.proxy.address).await.unwrap();
        secure.renew();
        assert_ne!(secure.written(), first);
        secure.shows_what_is_written().await;
        assert_eq!(super::ask(&mut open, "/").await.status, 200);
        // A connection that was there before its certificate has not been refused.
        let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(secure.client()));
        let name = rustls::pki_types::ServerName::try_from("a.test").unwrap();
        let stream = connector.connect(name, in_handshake).await.unwrap();
        assert_eq!(super::ask(&mut Raw::over(stream), "/").await.status, 200);
        let status = secure.proxy.control.status();
        assert_eq!((status.generation, status.last_reload.is_none()), (1, true));
        let ok = "tollgate_certificate_reloads_total{listener=\"public\",result=\"ok\"} 1";
        assert!(counts(secure.proxy.admin, ok).await);
        assert_eq!(secure.origin.connections(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_broken_pair_leaves_the_last_good_one_and_is_told() {
    within(async {
        let secure = Secure::start("").await;
        let (first, admin) = (secure.written(), secure.proxy.admin);
        let told =
            async || api(admin, "GET", "/api/certificates", "").await.1["certificates"][0].clone();
        let before = told().await;
        assert_eq!(before["listener"], "public");
        secure.spoil();
        let failed = format!("{LAST_OK}0");
        eventually("the metric tells", async || counts(admin, &failed).await).await;
        assert_eq!(secure.shown().await, first);
        let now = told().await;
        assert_eq!(now["sha256"], before["sha256"], "{now}");
        println!("{now:#}");
        secure.renew();
        secure.shows_what_is_written().await;
        eventually("the metric tells", async || counts(admin, &format!("{LAST_OK}1")).await).await;
        let after = told().await;
        assert_ne!(after["sha256"], before["sha256"], "{after}");
        println!("{after:#}");
    })
    .await;
}

#[tokio::test]
async fn sessions_are_resumed_after_reloads_of_any_kind() {
    within(async {
        let secure = Secure::start(BY_HAND).await;
        for versions in [&[&rustls::version::TLS13], &[&rustls::version::TLS12]] {
            let config = secure.authority.client_of(&["http/1.1"], versions);
            assert_ne!(secure.handshake(&config).await, HandshakeKind::Resumed);
            assert_eq!(secure.handshake(&config).await, HandshakeKind::Resumed);
            secure.renew();
            secure.shows_what_is_written().await;
            assert_eq!(secure.handshake(&config).await, HandshakeKind::Resumed);
            let more = "[[listener]]\nname = \"more\"\naddress = \"127.0.0.1:0\"";
            let others =
                Secure::setup(&secure.origin, BY_HAND).listener("handshake_timeout = \"9s\"");
            assert!(reload(&secure.proxy, &others.and(more)).await.is_ok());
            assert_eq!(secure.handshake(&config).await, HandshakeKind::Resumed);
            assert!(reload(&secure.proxy, &Secure::setup(&secure.origin, BY_HAND)).await.is_ok());
            assert_eq!(secure.handshake(&config).await, HandshakeKind::Resumed);
        }
    })
    .await;
}

#[tokio::test]
async fn a_configuration_with_a_broken_certificate_waits_for_it() {
    within(async {
        let secure = Secure::start("").await;
        let another = "[[route]]\nname = \"fixed\"\npath = \"/fixed\"\nrespond = { body = \"yes\" }\n\
                       [[listener]]\nname = \"second\"\naddress = \"127.0.0.1:0\"\n[listener.tls]\n\
                       certificates = [{ certificate = \"b.crt\", key = \"b.key\" }]";
        std::fs::write(secure.dir().join("b.crt"), "no certificate").unwrap();
        std::fs::write(secure.dir().join("b.key"), "no key").unwrap();
        let refused = reload(&secure.proxy, &Secure::setup(&secure.origin, "").and(another)).await;
        let refused = refused.unwrap_err();
        assert!(matches!(&refused, Refused::Invalid(why) if why.contains("b.crt")), "{refused}");
        let fixed = async |secure: &Secure| {
            let mut client = Raw::over(secure.connect(secure.client()).await);
            super::ask(&mut client, "/fixed").await.text()
        };
        assert_eq!(fixed(&secure).await, "one", "nothing of it is in force");
        assert!(secure.proxy.listeners.bound_to("second").is_none());
        // Once the file is mended it is taken in, and nobody touches the configuration.
        secure.authority.sign(secure.dir(), "b", &["b.test"]);
        eventually("it is in force", async || fixed(&secure).await == "yes").await;
        let second = secure.proxy.listeners.addresses("second")[0];
        let stream = connect(second, secure.client(), "b.test").await.unwrap();
        assert_eq!(super::ask(&mut Raw::over(stream), "/fixed").await.text(), "yes");
        let last = secure.proxy.control.status().last_reload.unwrap();
        assert_eq!((last.trigger, last.result), (ReloadTrigger::File, ReloadResult::Ok));
    })
    .await;
}

#[tokio::test]
async fn certificates_are_renewed_while_the_configuration_is_broken() {
    for server in ["", BY_HAND] {
        within(async {
            let secure = Secure::start(server).await;
            let broken = Secure::setup(&secure.origin, server).and("nonsense");
            reload(&secure.proxy, &broken).await.unwrap_err();
            assert!(secure.has_failed());
            secure.renew();
            secure.shows_what_is_written().await;
            secure.renew();
            secure.shows_what_is_written().await;
            assert_eq!(secure.proxy.control.status().generation, 1);
            assert_eq!(get_status(&secure).await, 200);
        })
        .await;
    }
}

async fn get_status(secure: &Secure) -> u16 {
    let mut client = Raw::over(secure.connect(secure.client()).await);
    super::ask(&mut client, "/").await.status
}

#[tokio::test]
async fn a_rollback_does_not_bring_back_what_has_been_renewed_since() {
    within(async {
        let secure = Secure::start(BY_HAND).await;
        let other = || Secure::setup(&secure.origin, BY_HAND).and("max_idle = 7");
        assert_eq!(reload(&secure.proxy, &other()).await, Ok(2));
        secure.renew();
        secure.shows_what_is_written().await;
        assert_eq!(secure.proxy.control.back().await.unwrap().generation, 3);
        assert_eq!(secure.shown().await, secure.written());
        // And goes on following.
        secure.renew();
        secure.shows_what_is_written().await;
        // What came with the configuration goes with it.
        let first = secure.written();
        secure.renew();
        assert!(reload(&secure.proxy, &other()).await.is_ok());
        assert_eq!(secure.shown().await, secure.written());
        assert!(secure.proxy.control.back().await.is_ok());
        assert_eq!(secure.shown().await, first);
    })
    .await;
}

#[tokio::test]
async fn a_reload_of_the_configuration_settles_what_failed_before() {
    within(async {
        let secure = Secure::start(BY_HAND).await;
        let admin = secure.proxy.admin;
        for same in [true, false] {
            let good = std::fs::read(secure.dir().join("a.crt")).unwrap();
            secure.spoil();
            eventually("the metric tells", async || counts(admin, &format!("{LAST_OK}0")).await)
                .await;
            if same {
                std::fs::write(secure.dir().join("a.crt"), good).unwrap();
            } else {
                secure.renew();
            }
            let setup = Secure::setup(&secure.origin, BY_HAND);
            reload(&secure.proxy, &setup).await.unwrap();
            assert!(counts(admin, &format!("{LAST_OK}1")).await, "the same: {same}");
            assert_eq!(secure.shown().await, secure.written());
        }
    })
    .await;
}
