//! What is done to the proxy while it serves, and how one knows that it is done.

use std::time::Duration;

use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::time::Instant;

use super::configs::Broken;
use super::files::Put;
use super::wire::{Door, PATIENCE, Wire};
use super::world::World;

/// How the proxy learns of another configuration.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Call {
    /// SIGHUP.
    Signal,
    /// It looks for itself.
    Watch,
    /// `POST /api/reload`.
    Api,
}

impl Call {
    /// Every other one a signal.
    pub fn number(number: usize) -> Self {
        [Self::Signal, Self::Watch, Self::Signal, Self::Api, Self::Signal, Self::Watch][number % 6]
    }
}

impl World {
    /// Waits until `check` is so; says `what` was waited for otherwise.
    pub async fn until(&mut self, what: &str, mut check: impl AsyncFnMut(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !check(self).await {
            if Instant::now() >= deadline {
                let (status, words) = (self.admin.status().await, self.tally().last_words());
                let report = self.tally().report();
                panic!("it never came about that {what}; {status:#?}\n{words}\n{report}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn generation(&self) -> u64 {
        let status = self.admin.status().await.unwrap_or_default();
        status["generation"].as_u64().unwrap_or_default()
    }

    async fn failed_reloads(&self) -> f64 {
        self.admin.metric("tollgate_config_reloads_total", "result=\"failed\"").await
    }

    /// Puts another configuration into force, and waits until it is.
    pub async fn reload(&mut self, number: usize, put: Put, call: Call) {
        let generation = self.generation().await;
        self.shared.in_force.offer(number);
        put.write(self.path(), &[("config.toml", &self.recipe.toml(number))]);
        let report = self.call(call).await;
        let what = format!("configuration {number} is in force ({put:?}, {call:?}: {report:?})");
        self.until(&what, async |world| world.generation().await > generation).await;
        // What is said to be in force is, for every request from now on.
        self.shared.in_force.settle(number);
        assert!(self.serves(number).await, "not so: {what}");
        let extra = self.extra();
        if self.recipe.has_extra(number) {
            let what = format!("the extra listener of configuration {number} is there");
            self.until(&what, async |_| shown_by(&extra, number).await).await;
        } else {
            let what = format!("configuration {number} has no extra listener");
            self.until(&what, async |_| extra.open().await.is_err()).await;
        }
    }

    /// Offers a configuration that cannot be, and waits until that is told.
    pub async fn reload_broken(&mut self, broken: Broken, put: Put, call: Call) {
        let (number, failed) = (self.shared.in_force.known(), self.failed_reloads().await);
        let (toml, said) = self.recipe.broken(broken, number);
        put.write(self.path(), &[("config.toml", &toml)]);
        let report = self.call(call).await;
        let what = format!("{said:?} is reported ({put:?}, {call:?}: {report:?})");
        self.until(&what, async |world| {
            let status = world.admin.status().await.unwrap_or_default();
            let last = &status["last_reload"];
            let report = last["report"].as_str().unwrap_or_default();
            last["result"] == "failed"
                && report.contains(&said)
                && world.failed_reloads().await > failed
        })
        .await;
        assert!(self.serves(number).await, "{broken:?} has changed what is in force");
        if call == Call::Api {
            assert!(report.contains(&said), "no {said:?} in {report:?}");
        }
    }

    /// Whether both listeners answer by this configuration.
    pub async fn serves(&self, number: usize) -> bool {
        shown_by(&self.plain(), number).await && shown_by(&self.tls(&["http/1.1"]), number).await
    }

    /// Has the proxy look at its configuration; says what it said.
    async fn call(&mut self, call: Call) -> String {
        match call {
            Call::Watch => String::new(),
            Call::Signal => {
                self.process.signal("HUP");
                String::new()
            }
            Call::Api => {
                let mut said = String::new();
                self.until("a reload can be asked for", async |world| {
                    let answer = world.admin.ask("POST", "/api/reload").await;
                    said = format!("{answer:?}");
                    // It may just be looking for itself.
                    !matches!(answer, Ok((409, _)))
                })
                .await;
                said
            }
        }
    }

    /// Changes the certificate, and waits until it is shown.
    pub async fn certify(&mut self, put: Put, call: Call) {
        let returning = self.tls(&["http/1.1"]);
        let _full = visit(&returning).await.unwrap();
        let (certificate, key) = self.authority.signed(&["a.test"]);
        put.write(self.path(), &[("a.crt", &certificate), ("a.key", &key)]);
        self.call(call).await;
        let what = format!("a certificate is shown ({put:?}, {call:?})");
        self.until(&what, async |world| world.shows(&certificate).await).await;
        // What was begun with the old one goes on.
        let (_, resumed) = visit(&returning).await.unwrap();
        assert!(resumed, "a session is not resumed after {put:?}, {call:?}");
    }

    /// Breaks the certificate, and waits until that is told; then mends it.
    pub async fn certify_broken(&mut self, number: usize, put: Put) {
        let read = |name: &str| std::fs::read_to_string(self.path().join(name)).unwrap();
        let (certificate, key) = (read("a.crt"), read("a.key"));
        let (other, _) = self.authority.signed(&["a.test"]);
        let half = certificate[..certificate.len() / 2].to_owned();
        let broken = [other.as_str(), "no certificate\n", &half][number % 3];
        let failed = self.certificate_failures().await;
        put.write(self.path(), &[("a.crt", broken), ("a.key", &key)]);
        self.until("a broken certificate is told of", async |world| {
            world.certificate_failures().await > failed
        })
        .await;
        assert!(self.shows(&certificate).await, "a broken certificate is not ignored");
        put.write(self.path(), &[("a.crt", &certificate), ("a.key", &key)]);
    }

    async fn certificate_failures(&self) -> f64 {
        self.admin.metric("tollgate_certificate_reloads_total", "result=\"failed\"").await
    }

    /// Whether a new handshake is shown this certificate.
    async fn shows(&self, certificate: &str) -> bool {
        let mut config = self.authority.client(&["http/1.1"]);
        config.resumption = Resumption::disabled();
        let door = Door::tls(self.recipe.ports.tls, config);
        let shown = door.open().await.unwrap();
        let Wire::Tls(stream) = &shown else { return false };
        let expected = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
        stream.get_ref().1.peer_certificates().is_some_and(|shown| shown[0] == expected)
    }
}

/// Asks for `/which`: the number of the configuration, and whether a session was
/// resumed.
async fn visit(door: &Door) -> Result<(Option<usize>, bool), String> {
    let mut wire = door.open().await?;
    let request = b"GET /which HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
    wire.write(request).await.map_err(|(_, error)| error.to_string())?;
    let (mut answer, mut chunk) = (Vec::new(), [0; 4096]);
    while let Ok(count @ 1..) = wire.read(&mut chunk).await {
        answer.extend_from_slice(&chunk[..count]);
    }
    let answer = String::from_utf8_lossy(&answer);
    let number = answer.rsplit("configuration ").next().and_then(|text| text.trim().parse().ok());
    Ok((number, wire.is_resumed()))
}

/// Whether it answers by this configuration.
async fn shown_by(door: &Door, number: usize) -> bool {
    matches!(visit(door).await, Ok((Some(found), _)) if found == number)
}
