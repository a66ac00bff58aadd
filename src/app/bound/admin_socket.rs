//! The admin listener's socket.

use std::io;
use std::net::{SocketAddr, TcpListener};

use super::BindError;
use crate::accept::Inherited;

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
