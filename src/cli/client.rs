//! Asks a running proxy's admin listener.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use zeroize::Zeroizing;

use super::serve::runtime;
use super::{Failure, config_path};
use crate::config::admin_access;

/// How long a connection may take; the listener is on this machine as a rule.
const CONNECT: Duration = Duration::from_secs(2);

/// No answer of ours is longer; a stranger's is not read for ever.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// Where the token is looked for first.
const TOKEN: &str = "TOLLGATE_ADMIN_TOKEN";

/// A running proxy's admin listener.
#[derive(Debug)]
pub(super) struct Admin {
    address: SocketAddr,
    token: Option<Zeroizing<String>>,
}

/// What it answered.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) status: StatusCode,
    pub(super) body: String,
}

impl Admin {
    /// The admin listener at `address`, or the one that the configuration file names.
    /// The file may be wrong in every other respect.
    pub(super) fn find(
        config: Option<PathBuf>,
        address: Option<SocketAddr>,
    ) -> Result<Self, Failure> {
        let named = config.is_some();
        let path = config_path(config);
        let access = admin_access(&path);
        if address.is_none() || named {
            for warning in &access.warnings {
                eprintln!("tollgate: warning: {warning}");
            }
        }
        let given = std::env::var(TOKEN).ok().filter(|token| !token.is_empty());
        let token = given.map(Zeroizing::new).or(access.token);
        let address = address.or(access.address).ok_or_else(|| disabled(&path))?;
        Ok(Self { address, token })
    }

    /// Where it is.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Asks, and waits for the whole answer for `patience` at most.
    pub(super) fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        patience: Duration,
    ) -> Result<Answered, Failure> {
        let request = self.request(method, path, body).map_err(|error| {
            let what = "the admin token cannot be sent: it has characters that no token has";
            Failure::io(what)(io::Error::other(error))
        })?;
        runtime()?.block_on(async {
            let stream = within(CONNECT, TcpStream::connect(self.address)).await;
            let stream = stream.map_err(|error| self.unreachable(&error))?;
            let answered = within(patience, exchange(stream, request)).await;
            answered.map_err(|error| self.silent(&error))
        })
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Request<Full<Bytes>>, http::Error> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.address.to_string())
            .header(ACCEPT, "application/json");
        if let Some(token) = &self.token {
            let mut value = HeaderValue::try_from(format!("Bearer {}", **token))?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        request.body(Full::from(body.map(Value::to_string).unwrap_or_default()))
    }

    fn unreachable(&self, error: &io::Error) -> Failure {
        let address = self.address;
        Failure::Unreachable(format!(
            "cannot reach the admin listener at {address}: {error}\n\
             Is the proxy running? Its admin address is `address` in [admin] of its \
             configuration; name the file with `-c`, or the address with `--address`."
        ))
    }

    fn silent(&self, error: &io::Error) -> Failure {
        let address = self.address;
        Failure::Unreachable(format!(
            "no answer from the admin listener at {address}: {error}\n\
             What was asked may be under way all the same: `tollgate status` tells."
        ))
    }
}

fn disabled(path: &Path) -> Failure {
    Failure::Unreachable(format!(
        "{} has no admin listener to ask: `enabled = false` in [admin]\n\
         If the proxy runs with one, name its address with `--address`.",
        path.display()
    ))
}

async fn within<T>(patience: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = |_| {
        let shown = humantime::format_duration(patience);
        io::Error::new(io::ErrorKind::TimedOut, format!("nothing came within {shown}"))
    };
    tokio::time::timeout(patience, work).await.unwrap_or_else(|elapsed| Err(late(elapsed)))
}

async fn exchange(stream: TcpStream, request: Request<Full<Bytes>>) -> io::Result<Answered> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    // It ends with the runtime.
    tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
    let body = body.map_err(io::Error::other)?.to_bytes();
    Ok(Answered { status, body: printable(&String::from_utf8_lossy(&body)) })
}

/// Without what would have a terminal do anything but show it.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_cannot_move_the_cursor() {
        assert_eq!(printable("a\u{1b}[2J\nb\u{9b}1m\tc\r"), "a[2J\nb1m\tc");
    }
}
