//! One binary in the place of another.

use std::path::Path;
use std::sync::atomic::Ordering;

use super::configs::Broken;
use super::files::Put;
use super::process::{built, install};
use super::world::World;

/// How the proxy is told to have a successor.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Order {
    /// SIGUSR2.
    Signal,
    /// `POST /api/upgrade`.
    Api,
    /// `tollgate upgrade`.
    Command,
}

impl Order {
    pub fn number(number: usize) -> Self {
        [Self::Signal, Self::Api, Self::Signal, Self::Command][number % 4]
    }
}

impl World {
    /// Replaces the program, and waits until the new one serves.
    pub async fn upgrade(&mut self, order: Order) {
        // Whoever was told to go may learn of it a little later.
        self.shared.upgrading.store(true, Ordering::SeqCst);
        install(&built(), self.path());
        let old = self.process.pid();
        let said = self.order(order).await;
        let mut new = old;
        let what = format!("another process serves ({order:?}: {said})");
        self.until(&what, async |world| {
            let status = world.admin.status().await.unwrap_or_default();
            let pid = status["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
            new = pid.unwrap_or(old);
            new != old
        })
        .await;
        self.process.succeeded_by(new);
        let number = self.shared.in_force.known();
        assert!(self.serves(number).await, "process {new} does not serve configuration {number}");
    }

    /// Has something be put where the program is that cannot serve, and waits until
    /// that is told.
    pub async fn upgrade_to_nothing(&mut self) {
        install(Path::new("/bin/false"), self.path());
        let said = self.order(Order::Api).await;
        assert!(said.contains("(500, "), "an upgrade to /bin/false: {said}");
        self.has_stayed().await;
        install(&built(), self.path());
    }

    /// Breaks the configuration, and waits until a successor's failure is told.
    pub async fn upgrade_with_a_broken_configuration(&mut self) {
        let number = self.shared.in_force.known();
        let (toml, said) = self.recipe.broken(Broken::UnknownKey, number);
        Put::Rename.write(self.path(), &[("config.toml", &toml)]);
        let told = self.order(Order::Api).await;
        assert!(told.contains("(500, ") && told.contains(&said), "no {said:?} in {told}");
        self.has_stayed().await;
        // By a signal, the log alone tells.
        let before = self.failed_upgrades();
        self.process.signal("USR2");
        self.until("a failed upgrade is logged", async |world| world.failed_upgrades() > before)
            .await;
        self.has_stayed().await;
        Put::Rename.write(self.path(), &[("config.toml", &self.recipe.toml(number))]);
    }

    fn failed_upgrades(&self) -> usize {
        self.logged(&["ERROR", "upgrade"])
    }

    /// How many lines of the proxy's log have all of these words.
    fn logged(&self, words: &[&str]) -> usize {
        let log = std::fs::read(self.path().join("proxy.log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        log.lines().filter(|line| words.iter().all(|word| line.contains(word))).count()
    }

    /// As many processes have ended as were replaced, and none had to cut anything.
    pub fn ended_well(&self, upgrades: usize) {
        let ended = self.logged(&[" ended ", " cut=0"]);
        assert_eq!(ended, upgrades, "not all have ended well\n{}", self.tally().last_words());
    }

    /// The process that serves is the one that did.
    async fn has_stayed(&self) {
        let status = self.admin.status().await.unwrap_or_default();
        assert_eq!(status["pid"].as_u64(), Some(u64::from(self.process.pid())), "{status:#?}");
        assert!(self.serves(self.shared.in_force.known()).await);
    }

    async fn order(&self, order: Order) -> String {
        match order {
            Order::Signal => {
                self.process.signal("USR2");
                String::new()
            }
            Order::Api => format!("{:?}", self.admin.ask("POST", "/api/upgrade").await),
            Order::Command => self.process.command(&["upgrade", "-c", "config.toml"]).await,
        }
    }
}
