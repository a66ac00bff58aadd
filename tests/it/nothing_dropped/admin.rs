//! What the proxy says of itself.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::wire::PATIENCE;

/// The admin listener.
#[derive(Clone, Copy)]
pub struct Admin(pub SocketAddr);

impl Admin {
    /// Status and body.
    ///
    /// # Errors
    ///
    /// Nobody answers.
    pub async fn ask(self, method: &str, path: &str) -> Result<(u16, String), String> {
        let asked = async {
            let mut stream = TcpStream::connect(self.0).await?;
            let head = format!(
                "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\
                 Connection: close\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).await?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await?;
            Ok::<_, std::io::Error>(String::from_utf8_lossy(&answer).into_owned())
        };
        let answer = match timeout(PATIENCE, asked).await {
            Ok(answer) => answer.map_err(|error| error.to_string())?,
            Err(_) => return Err("no answer for a long time".to_owned()),
        };
        let status = answer.get(9..12).and_then(|status| status.parse().ok());
        let (Some(status), Some((_, body))) = (status, answer.split_once("\r\n\r\n")) else {
            return Err(format!("no answer but {answer:?}"));
        };
        Ok((status, body.to_owned()))
    }

    pub async fn is_ready(self) -> bool {
        self.ask("GET", "/readyz").await.is_ok_and(|(status, _)| status == 200)
    }

    /// `/api/status`; `None` if nobody answers or there is no such thing.
    pub async fn status(self) -> Option<Value> {
        let (status, body) = self.ask("GET", "/api/status").await.ok()?;
        if status == 200 { serde_json::from_str(&body).ok() } else { None }
    }

    /// The sum of a metric over all labels that contain `label`.
    pub async fn metric(self, name: &str, label: &str) -> f64 {
        let body = self.ask("GET", "/metrics").await.map(|(_, body)| body).unwrap_or_default();
        body.lines()
            .filter_map(|line| line.strip_prefix(name))
            .filter(|rest| rest.starts_with(['{', ' ']) && rest.contains(label))
            .filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }
}
