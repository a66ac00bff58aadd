//! `tollgate healthcheck`: for containers and scripts that have no curl.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use super::{Failure, config_path};
use crate::app::SetupError;
use crate::config::AdminSettings;

const PATIENCE: Duration = Duration::from_secs(2);

pub(super) fn check(config: Option<PathBuf>, address: Option<SocketAddr>) -> Result<(), Failure> {
    let address = match address {
        Some(address) => address,
        None => configured(config)?,
    };
    let answer = ask(address)
        .map_err(|error| Failure::Unhealthy(format!("no answer from {address}: {error}")))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    if head.starts_with("HTTP/1.1 200") {
        println!("{}", body.trim());
        Ok(())
    } else {
        let body = body.trim();
        Err(Failure::Unhealthy(if body.is_empty() { head.to_owned() } else { body.to_owned() }))
    }
}

/// The admin address of a configuration, as seen from this machine.
fn configured(config: Option<PathBuf>) -> Result<SocketAddr, Failure> {
    let path = config_path(config);
    let settings = crate::config::load(&path).map_err(SetupError::from)?;
    let AdminSettings { mut address } = settings.admin.ok_or_else(|| {
        Failure::Unhealthy(format!("{} has no admin listener to ask", path.display()))
    })?;
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    Ok(address)
}

fn ask(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    // No answer of ours is longer; a stranger's is not read for ever.
    stream.take(64 * 1024).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
