//! `tollgate healthcheck`: for containers and scripts that have no curl.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::{Method, StatusCode};

use super::Failure;
use super::client::Admin;

const PATIENCE: Duration = Duration::from_secs(2);

pub(super) fn check(config: Option<PathBuf>, address: Option<SocketAddr>) -> Result<(), Failure> {
    let unhealthy = |failure: Failure| Failure::Unhealthy(failure.to_string());
    let admin = Admin::find(config, address).map_err(unhealthy)?;
    let answer = admin.ask(Method::GET, "/readyz", None, PATIENCE).map_err(unhealthy)?;
    let body = answer.body.trim();
    if answer.status == StatusCode::OK {
        println!("{body}");
        Ok(())
    } else if body.is_empty() {
        Err(Failure::Unhealthy(answer.status.to_string()))
    } else {
        Err(Failure::Unhealthy(body.to_owned()))
    }
}
