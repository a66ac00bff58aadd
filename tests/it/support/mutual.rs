//! A proxy that asks clients for certificates.

use std::net::SocketAddr;
use std::path::Path;

use rustls::{ClientConfig, HandshakeKind};
use tempfile::TempDir;

use super::certs::{Authority, connect, showing};
use super::client::{self, Answer, Raw};
use super::origin::Origin;
use super::proxy::{Running, Setup};

/// A certificate with its key, in PEM.
pub type Pair = (String, String);

/// A proxy that shows `a.crt`, and asks clients for certificates.
pub struct Mutual {
    pub servers: Authority,
    pub clients: Authority,
    pub proxy: Running,
    pub origin: Origin,
}

impl Mutual {
    /// With these lines in `[listener.tls.client_auth]`, beside `ca`, and at the end.
    pub async fn start(lines: &str, more: &str) -> Self {
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
        Self { servers, clients, proxy: setup.start_in(dir), origin }
    }

    pub fn pair(&self, name: &str, serial: u64) -> Pair {
        self.clients.client_signed(name, "Example", serial, |_| {})
    }

    pub fn client(&self, shown: Option<&Pair>) -> ClientConfig {
        let config = self.servers.client(&["http/1.1"]);
        match shown {
            Some(pair) => showing(config, pair),
            None => config,
        }
    }

    /// The answer to a request with this certificate; `None` if there is no connection.
    pub async fn ask(&self, shown: Option<&Pair>) -> Option<Answer> {
        Some(ask(self.proxy.address, self.client(shown)).await?.1)
    }

    pub async fn is_let_in(&self, shown: Option<&Pair>) -> bool {
        self.ask(shown).await.is_some_and(|answer| answer.status == 200)
    }

    pub fn replace(&self, file: &str, content: &str) {
        replace(self.proxy.dir.path(), file, content);
    }

    pub async fn metrics(&self) -> String {
        let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
        client::ask(self.proxy.admin, request).await.text()
    }

    pub async fn has_failed(&self, reason: &str) -> bool {
        for _ in 0..100 {
            if self.failures(reason).await {
                return true;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        false
    }

    /// Whether handshakes have failed for this reason by now.
    pub async fn failures(&self, reason: &str) -> bool {
        self.metrics().await.contains(&format!(
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
pub async fn ask(address: SocketAddr, config: ClientConfig) -> Option<(HandshakeKind, Answer)> {
    let stream = connect(address, config, "a.test").await.ok()?;
    let kind = stream.get_ref().1.handshake_kind().unwrap();
    let mut client = Raw::over(stream);
    client.try_send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    client.read_to_end_or("\r\n\r\n").await.then_some(())?;
    Some((kind, client.answer().await))
}
