//! `tollgate run` and `tollgate check`.

use std::io;
use std::path::Path;

use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use super::Failure;
use super::log::start_log;
use super::message;
use crate::admin::{Refused, Reload};
use crate::app::{Beginning, Bound, Control, Ended, Proxy, SetupError};
use crate::config::Settings;
use crate::observe::{LogOutput, ReloadTrigger};

pub(super) fn check(path: &Path) -> Result<(), Failure> {
    let mut settings = crate::config::load(path).map_err(SetupError::from)?;
    // Opening the log would make it, with the owner of whoever checks.
    settings.access_log.output = LogOutput::Off;
    // And the cache's folder may be in use, by the proxy whose configuration it is.
    settings.cache.disk = None;
    for warning in &settings.warnings {
        eprintln!("tollgate: warning: {warning}");
    }
    let proxy = Proxy::build(settings).map_err(SetupError::from)?;
    println!("{}: ok: {}", path.display(), summary(proxy.settings()));
    Ok(())
}

pub(super) fn run(path: &Path) -> Result<(), Failure> {
    // First of all: it takes what it was given by number.
    let mut beginning = Beginning::from_env().map_err(Failure::io("cannot take over"))?;
    let bound = bind(path, &mut beginning).inspect_err(|failure| {
        // The predecessor says who it is that cannot serve.
        let message = message(failure);
        beginning.failed(message.strip_prefix("tollgate: ").unwrap_or(&message));
    })?;
    let runtime = runtime()?;
    let ended = runtime.block_on(async {
        let signals = Failure::io("cannot wait for signals");
        let stop = stop_signal().and_then(|stop| {
            follow_signals(bound.control().clone())?;
            Ok(stop)
        });
        announce(&bound);
        let ran = bound.run_from(beginning, stop.map_err(signals)?).await;
        let Ended { cut, connections, tunnels } =
            ran.map_err(Failure::io("cannot start the workers"))?;
        tracing::info!(cut, connections, tunnels, "ended");
        Ok(())
    });
    // A name that is being resolved for a health check is not waited for.
    runtime.shutdown_background();
    ended
}

fn bind(path: &Path, beginning: &mut Beginning) -> Result<Bound, Failure> {
    let proxy = beginning.proxy(path, start_log)?;
    Ok(beginning.bind(proxy)?)
}

/// SIGHUP reads the configuration again, SIGUSR2 has a new binary take over.
fn follow_signals(control: Control) -> io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut upgrade = signal(SignalKind::user_defined2())?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                Some(()) = hangup.recv() => {
                    // Also if the configuration is refused: logs are rotated like this.
                    control.reopen_log().await;
                    let told = control.reload_now(ReloadTrigger::Signal, Reload::default()).await;
                    refused("SIGHUP", told.err());
                }
                Some(()) = upgrade.recv() => refused("SIGUSR2", control.upgrade_now().await.err()),
            }
        }
    });
    Ok(())
}

/// What comes of a signal is logged where it is known; but for what is not begun at
/// all, as whoever asks by other ways is told.
fn refused(signal: &str, refused: Option<Refused>) {
    if let Some(Refused::Conflict(why) | Refused::Unsupported(why)) = refused {
        tracing::warn!("{signal} has no effect: {why}");
    }
}

/// A runtime for everything but the connections, which have workers of their own.
pub(super) fn runtime() -> Result<Runtime, Failure> {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    built.map_err(Failure::io("cannot start the runtime"))
}

/// Resolves at the first SIGTERM or SIGINT. A second one ends the process on
/// the spot: whoever asks twice does not want to wait for the drain.
pub(super) fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        let mut either = async || {
            tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            }
        };
        let name = either().await;
        tracing::info!(signal = name, "stopping; a second signal ends at once");
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            std::process::exit(130);
        });
    })
}

fn announce(bound: &Bound) {
    let settings = bound.settings();
    for listener in &settings.listeners {
        for address in bound.bound_to(&listener.name) {
            let serve = &listener.serve;
            let protocols = match (serve.http1, serve.http2) {
                (true, true) => "h2, http/1.1",
                (false, true) => "h2",
                _ => "http/1.1",
            };
            let tls = listener.tls.is_some();
            tracing::info!(listener = listener.name, %address, tls, protocols, "listening");
        }
    }
    if let Some(address) = bound.admin_address() {
        tracing::info!(%address, "admin: /livez /readyz /metrics");
        if !address.ip().is_loopback() {
            tracing::warn!(%address, "the admin listener is open to other machines");
        }
    }
    match bound.budget().max() {
        Some(max) => tracing::info!(bytes = max, "memory budget"),
        None => tracing::warn!("no memory budget: load may have the system end the process"),
    }
    settings.log_warnings();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "serving {}", summary(settings));
}

fn summary(settings: &Settings) -> String {
    let count = |number: usize, what: &str| {
        let plural = if number == 1 { "" } else { "s" };
        format!("{number} {what}{plural}")
    };
    let origins = settings.upstreams.iter().map(|upstream| upstream.origins.len()).sum();
    format!(
        "{}, {} ({}), {}",
        count(settings.listeners.len(), "listener"),
        count(settings.upstreams.len(), "upstream"),
        count(origins, "origin"),
        count(settings.routes.len(), "route"),
    )
}
