//! The admin listener's socket.

use std::io;
use std::net::{SocketAddr, TcpListener};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::BindError;
use crate::accept::{Aside, Inherited};
use crate::admin::{self, AdminState, Readiness};
use crate::drain;
use crate::observe::Metrics;

/// Takes the socket at `address` that was handed on, or opens one.
pub(super) fn bind(
    address: SocketAddr,
    inherited: &mut Inherited,
) -> Result<TcpListener, BindError> {
    let mut bind = || {
        if let Some(taken) = inherited.take_tcp(address)? {
            return Ok(taken);
        }
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    bind().map_err(|cause: io::Error| BindError {
        listener: "admin".to_owned(),
        address: address.into(),
        cause,
    })
}

/// Serves until `stop`. Nothing is accepted any more once the sockets are
/// released, but who is connected is answered.
pub(super) fn start(
    socket: Aside,
    metrics: Metrics,
    ready: Readiness,
    drain: drain::Watcher,
    stop: CancellationToken,
) -> JoinHandle<io::Result<()>> {
    let state = AdminState::new(metrics, ready, drain);
    tokio::spawn(admin::serve(socket, state, stop.cancelled_owned()))
}
