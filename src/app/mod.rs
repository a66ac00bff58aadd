//! Puts the parts together: settings in, a running proxy out.

use std::net::SocketAddr;
use std::path::Path;

use crate::config::{LoadError, Settings};

/// A proxy, built and checked, that neither listens nor serves yet.
#[derive(Debug)]
pub struct Proxy {
    settings: Settings,
}

/// A proxy whose listeners are bound.
#[derive(Debug)]
pub struct Bound {
    settings: Settings,
}

/// What is wrong with settings that cannot be built.
#[derive(Debug, thiserror::Error)]
#[error("{problems:?}")]
pub struct BuildError {
    /// Every problem found.
    pub problems: Vec<String>,
}

/// A listener that could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} (listener `{listener}`): {cause}")]
pub struct BindError {
    /// The listener's name.
    pub listener: String,
    /// The address.
    pub address: SocketAddr,
    /// Why.
    #[source]
    pub cause: std::io::Error,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ended {
    /// Connections that were still busy at the drain deadline and were cut.
    pub cut: usize,
}

impl Proxy {
    /// Builds a proxy: reads certificates, sets up upstreams and routes.
    ///
    /// # Errors
    ///
    /// Every problem found, at once.
    pub fn build(settings: Settings) -> Result<Self, BuildError> {
        Ok(Self { settings })
    }

    /// Builds a proxy from a configuration file.
    ///
    /// # Errors
    ///
    /// Every problem found in the file, with file, line and column.
    pub fn from_config(path: &Path) -> Result<Self, LoadError> {
        let _ = path;
        todo!()
    }

    /// Binds every listener, and the admin listener.
    ///
    /// # Errors
    ///
    /// The first address that cannot be bound.
    pub fn bind(self) -> Result<Bound, BindError> {
        Ok(Bound { settings: self.settings })
    }
}

impl Bound {
    /// Where a listener is bound; empty if there is none of that name.
    #[must_use]
    pub fn addresses(&self, listener: &str) -> Vec<SocketAddr> {
        let _ = (listener, &self.settings);
        Vec::new()
    }

    /// Where the admin listener is bound.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        None
    }

    /// Serves until `shutdown` resolves, then drains. Worker threads are its
    /// own; probes and the admin listener run on the caller's runtime.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Ended {
        shutdown.await;
        Ended { cut: 0 }
    }
}
