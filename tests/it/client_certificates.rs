//! Listeners that ask clients for certificates.

use std::net::SocketAddr;
use std::path::Path;

use rustls::{ClientConfig, HandshakeKind};
use tempfile::TempDir;
use tollgate::admin::Operator;

use crate::support::certs::{Authority, connect, showing};
use crate::support::client::{Answer, Raw, get};
use crate::support::origin::Origin;
use crate::support::proxy::{Running, Setup};
use crate::support::{eventually, within};

/// A certificate with its key, in PEM.
type Pair = (String, String);

/// A proxy that shows `a.crt`, and asks clients for certificates.
struct Mutual {
    servers: Authority,
    clients: Authority,
    proxy: Running,
}

impl Mutual {
    /// With these lines in `[listener.tls.client_auth]`, beside `ca`, and at the end.
    async fn start(lines: &str, more: &str) -> Self {
        let (servers, clients) = (Authority::new(), Authority::of_clients("Clients"));
        let dir = TempDir::new().unwrap();
        servers.sign(dir.path(), "a", &["a.test", "b.test"]);
        std::fs::write(dir.path().join("clients.pem"), clients.pem()).unwrap();
        std::fs::write(dir.path().join("clients.crl"), clients.revoking(&[])).unwrap();
        let origin = Origin::named("one").await;
        let listener = format!(
            "[listener.tls]\ncertificates = [{{ certificate = \"a.crt\", key = \"a.key\" }}]\n\
             [listener.tls.client_auth]\nca = \"clients.pem\"\n{lines}"
        );
        let setup = Setup::forwarding_to(&origin).listener(&listener).json_log().and(more);
        Self { servers, clients, proxy: setup.start_in(dir) }
    }

    fn pair(&self, name: &str, serial: u64) -> Pair {
        self.clients.client_signed(name, "Example", serial, |_| {})
    }

    fn client(&self, shown: Option<&Pair>) -> ClientConfig {
        let config = self.servers.client(&["http/1.1"]);
        match shown {
            Some(pair) => showing(config, pair),
            None => config,
        }
    }

    /// The answer to a request with this certificate; `None` if there is no connection.
    async fn ask(&self, shown: Option<&Pair>) -> Option<Answer> {
        Some(ask(self.proxy.address, self.client(shown)).await?.1)
    }

    async fn is_let_in(&self, shown: Option<&Pair>) -> bool {
        self.ask(shown).await.is_some_and(|answer| answer.status == 200)
    }

    fn replace(&self, file: &str, content: &str) {
        replace(self.proxy.dir.path(), file, content);
    }

    async fn failures(&self, reason: &str) -> bool {
        let metrics = get(self.proxy.admin, "/metrics", "").await.text();
        metrics.contains(&format!(
            "tollgate_tls_handshake_failures_total{{listener=\"public\",reason=\"{reason}\"}} "
        ))
    }
}

fn replace(dir: &Path, file: &str, content: &str) {
    std::fs::write(dir.join("new"), content).unwrap();
    std::fs::rename(dir.join("new"), dir.join(file)).unwrap();
}

/// Asks for `/` as `a.test`. With TLS 1.3 a client learns only by the first read that it
/// is refused.
async fn ask(address: SocketAddr, config: ClientConfig) -> Option<(HandshakeKind, Answer)> {
    let stream = connect(address, config, "a.test").await.ok()?;
    let kind = stream.get_ref().1.handshake_kind().unwrap();
    let mut client = Raw::over(stream);
    client.try_send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    client.read_to_end_or("\r\n\r\n").await.then_some(())?;
    Some((kind, client.answer().await))
}

#[tokio::test]
async fn who_shows_no_good_certificate_gets_an_alert() {
    within(async {
        let mutual = Mutual::start("crl = [\"clients.crl\"]", "").await;
        let good = mutual.pair("web", 1);
        assert!(mutual.is_let_in(Some(&good)).await);
        assert!(mutual.ask(None).await.is_none());
        assert!(mutual.failures("no_client_certificate").await);
        assert!(!mutual.failures("client_certificate").await);
        let stranger = Authority::of_clients("Clients").client_signed("web", "Example", 1, |_| {});
        assert!(mutual.ask(Some(&stranger)).await.is_none());
        assert!(mutual.failures("client_certificate").await);
        let expired = mutual.clients.client_signed("web", "Example", 2, |params| {
            params.not_after = rcgen::date_time_ymd(2024, 1, 1);
            params.not_before = rcgen::date_time_ymd(2023, 1, 1);
        });
        assert!(mutual.ask(Some(&expired)).await.is_none());
        // A client of TLS 1.2 learns it in the handshake.
        let old = mutual.servers.client_of(&["http/1.1"], &[&rustls::version::TLS12]);
        for config in [old.clone(), showing(old.clone(), &stranger)] {
            let refused = connect(mutual.proxy.address, config, "a.test").await.unwrap_err();
            assert!(refused.to_string().contains("alert"), "{refused}");
        }
        assert_eq!(ask(mutual.proxy.address, showing(old, &good)).await.unwrap().1.status, 200);

        let lines = mutual.proxy.log_lines(2).await;
        assert_eq!(lines.len(), 2, "a handshake that fails is no exchange");
        let line: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(line["client_subject"], "CN=web,O=Example");
        let fingerprint = line["client_fingerprint"].as_str().unwrap();
        assert_eq!(fingerprint.len(), "sha256:".len() + 64);
    })
    .await;
}

#[tokio::test]
async fn where_it_is_optional_one_that_is_shown_has_to_be_good() {
    within(async {
        let mutual = Mutual::start("mode = \"request\"", "").await;
        assert!(mutual.is_let_in(None).await);
        assert!(mutual.is_let_in(Some(&mutual.pair("web", 1))).await);
        let stranger = Authority::of_clients("Clients").client_signed("web", "Example", 1, |_| {});
        assert!(mutual.ask(Some(&stranger)).await.is_none());
    })
    .await;
}

#[tokio::test]
async fn another_bundle_and_another_revocation_list_are_followed() {
    within(async {
        let mutual = Mutual::start("crl = [\"clients.crl\"]", "").await;
        let (one, two) = (mutual.pair("one", 1), mutual.pair("two", 2));
        let mut open = Raw::over(
            connect(mutual.proxy.address, mutual.client(Some(&one)), "a.test").await.unwrap(),
        );
        assert!(mutual.is_let_in(Some(&one)).await);

        mutual.replace("clients.crl", &mutual.clients.revoking(&[1]));
        eventually("what is revoked is refused", async || !mutual.is_let_in(Some(&one)).await)
            .await;
        assert!(mutual.is_let_in(Some(&two)).await);

        mutual.replace("clients.pem", "no certificate");
        let failed = "tollgate_certificate_last_reload_ok{listener=\"public\"} 0";
        eventually("the metric tells", async || {
            get(mutual.proxy.admin, "/metrics", "").await.text().contains(failed)
        })
        .await;
        assert!(mutual.is_let_in(Some(&two)).await, "the last good bundle is kept");
        assert!(!mutual.is_let_in(Some(&one)).await);

        let next = Authority::of_clients("Next");
        let three = next.client_signed("three", "Example", 3, |_| {});
        mutual.replace(
            "clients.crl",
            &format!("{}{}", mutual.clients.revoking(&[1]), next.revoking(&[])),
        );
        mutual.replace("clients.pem", &next.pem());
        eventually("the new bundle counts", async || mutual.is_let_in(Some(&three)).await).await;
        assert!(!mutual.is_let_in(Some(&two)).await);
        // Who is there stays.
        open.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        assert_eq!(open.answer().await.status, 200);
        // Nothing but certificates has changed.
        assert_eq!(mutual.proxy.control.status().generation, 1);
    })
    .await;
}

#[tokio::test]
async fn no_session_leads_from_a_listener_that_asks_nobody_to_one_that_does() {
    within(async {
        let open = "[[listener]]\nname = \"open\"\naddress = \"127.0.0.1:0\"\n[listener.tls]\n\
                    certificates = [{ certificate = \"a.crt\", key = \"a.key\" }]";
        let mutual = Mutual::start("", open).await;
        let (strict, open) = (mutual.proxy.address, mutual.proxy.listeners.addresses("open")[0]);
        for versions in [&[&rustls::version::TLS13], &[&rustls::version::TLS12]] {
            // Clones of a client share their sessions.
            let nobody = mutual.servers.client_of(&["http/1.1"], versions);
            let kind = async |address| Some(ask(address, nobody.clone()).await?.0);
            assert_eq!(kind(open).await, Some(HandshakeKind::Full));
            assert_eq!(kind(open).await, Some(HandshakeKind::Resumed));
            assert_eq!(kind(strict).await, None);

            let somebody =
                showing(mutual.servers.client_of(&["http/1.1"], versions), &mutual.pair("web", 1));
            let kind = async |address| ask(address, somebody.clone()).await.unwrap().0;
            assert_eq!(kind(open).await, HandshakeKind::Full);
            assert_eq!(kind(strict).await, HandshakeKind::Full);
            assert_eq!(kind(strict).await, HandshakeKind::Resumed);
            assert_eq!(kind(open).await, HandshakeKind::Full);
        }
    })
    .await;
}
