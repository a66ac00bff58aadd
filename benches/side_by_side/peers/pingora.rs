//! The Pingora proxy of `benches/peers/pingora`.

use std::path::PathBuf;

use super::{Features, KEY, Told, built};

/// Its program; `PINGORA_PEER` may name another that takes the same arguments.
pub(super) fn program() -> PathBuf {
    std::env::var_os("PINGORA_PEER").map_or_else(|| built("pingora"), PathBuf::from)
}

impl Told<'_> {
    /// The command that starts it.
    pub(super) fn pingora(&self) -> Vec<String> {
        let features = match self.setup.features {
            Features::Bare | Features::Cached => "plain",
            Features::Full => "full",
        };
        let mut command = vec![program().display().to_string()];
        let mut add = |name: &str, value: String| command.extend([name.to_owned(), value]);
        add("--listen", self.plain.to_string());
        add("--listen-tls", self.tls.to_string());
        add("--cert", self.certificate("cert.pem"));
        add("--key", self.certificate("key.pem"));
        for origin in self.upstreams().concat() {
            add("--origin", origin.to_string());
        }
        add("--threads", self.setup.workers.to_string());
        add("--features", features.to_owned());
        add("--key-value", KEY.to_owned());
        add("--rate", "1000000".to_owned());
        if self.setup.features == Features::Full {
            add("--access-log", self.file("access.log"));
        }
        command
    }
}
