//! Switching protocols (RFC 9110 §7.8): WebSocket, and whatever else a route
//! lets through. After the origin's 101 the two connections are joined byte by
//! byte until either side ends.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::{Either, select};
use http::header::{self, HeaderValue};
use http::{HeaderMap, Request, Response, Version};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until, timeout};

use super::hop_by_hop;
use crate::body::Body;
use crate::context::{Exchange, Record};
use crate::drain;
use crate::error::{Error, Kind};
use crate::switch::OnSwitch;

/// How long one side of a tunnel may go on when the other has ended.
const FAREWELL: Duration = Duration::from_secs(10);

/// How much of a tunnel is in flight each way.
const TUNNEL_BUFFER: usize = 16 * 1024;

/// A request's wish to switch protocols, granted by its route.
pub(super) struct Switch {
    token: HeaderValue,
    downstream: OnSwitch,
}

impl Switch {
    /// What the request asks for, if it may have it. What it may not have is
    /// left to be taken out with the other hop-by-hop fields.
    pub(super) fn take(request: &mut Request<Body>, allowed: &[String]) -> Option<Self> {
        let token = hop_by_hop::requested_upgrade(request.version(), request.headers())?;
        if !allowed.contains(&token) {
            return None;
        }
        let extensions = request.extensions_mut();
        Some(Self {
            token: HeaderValue::try_from(token).ok()?,
            // Absent where the server that took the request cannot switch.
            downstream: OnSwitch::take(extensions)?,
        })
    }

    /// Asks the origin for the same.
    pub(super) fn ask(&self, headers: &mut HeaderMap) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, self.token.clone());
    }

    /// The origin agreed: answers the client, and joins the two once both
    /// connections have switched, until `idle` has passed without a byte.
    pub(super) fn complete(
        self,
        mut response: Response<Body>,
        exchange: Option<&Exchange>,
        idle: Duration,
        drain: drain::Watcher,
    ) -> Result<Response<Body>, Error> {
        let agreed = response.headers().get(header::UPGRADE);
        if !agreed.is_some_and(|token| {
            token.as_bytes().trim_ascii().eq_ignore_ascii_case(self.token.as_bytes())
        }) {
            return Err(Error::new(Kind::UpgradeFailed)
                .detail("the origin switched to another protocol than the one asked for"));
        }
        let upstream = OnSwitch::take(response.extensions_mut()).ok_or_else(|| {
            Error::new(Kind::UpgradeFailed).detail("the connection to the origin cannot switch")
        })?;
        if let Some(exchange) = exchange {
            exchange.update(|record| record.upgraded = true);
        }
        let (exchange, token) = (exchange.cloned(), self.token.clone());
        tokio::spawn(async move {
            let _busy = drain.busy();
            tokio::select! {
                () = tunnel(self.downstream, upstream, exchange.as_ref(), idle) => {}
                () = drain.cut() => tracing::debug!("a tunnel was cut"),
            }
        });
        let headers = response.headers_mut();
        hop_by_hop::strip(headers, &[]);
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, token);
        *response.version_mut() = Version::HTTP_11;
        Ok(response.map(|_| Body::empty()))
    }
}

async fn tunnel(
    downstream: OnSwitch,
    upstream: OnSwitch,
    exchange: Option<&Exchange>,
    idle: Duration,
) {
    let switched = async { tokio::try_join!(downstream, upstream) };
    let (downstream, upstream) = match timeout(idle, switched).await {
        Ok(Ok(both)) => both,
        Ok(Err(error)) => {
            tracing::debug!(%error, "an upgrade was not completed");
            return;
        }
        Err(_) => return,
    };
    let moved = Moved::now();
    let (received, taken) = tokio::io::split(downstream);
    let (answered, asked) = tokio::io::split(upstream);
    let moved = &moved;
    let count = |write: fn(&mut Record, u64)| {
        move |bytes| {
            moved.note();
            if let Some(exchange) = exchange {
                exchange.update(|record| write(record, bytes));
            }
        }
    };
    let up = relay(received, asked, count(|record, bytes| record.request_bytes += bytes));
    let down = relay(answered, taken, count(|record, bytes| record.response_bytes += bytes));
    let (up, down) = (std::pin::pin!(up), std::pin::pin!(down));
    let both = tokio::select! {
        both = select(up, down) => both,
        () = moved.idle_for(idle) => {
            tracing::debug!(?idle, "a tunnel was idle for too long");
            return;
        }
    };
    let ended = match both {
        Either::Left((Ok(()), other)) | Either::Right((Ok(()), other)) => {
            timeout(FAREWELL, other).await
        }
        Either::Left((Err(error), _)) | Either::Right((Err(error), _)) => Ok(Err(error)),
    };
    match ended {
        Ok(Err(error)) => tracing::trace!(%error, "a tunnel broke off"),
        Ok(Ok(())) | Err(_) => {
            if let Some(exchange) = exchange {
                exchange.update(|record| record.complete = true);
            }
        }
    }
}

/// When a tunnel last carried a byte.
struct Moved {
    opened: Instant,
    /// In milliseconds from then.
    last: AtomicU64,
}

impl Moved {
    fn now() -> Self {
        Self { opened: Instant::now(), last: AtomicU64::new(0) }
    }

    fn note(&self) {
        let since = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(since, Ordering::Relaxed);
    }

    async fn idle_for(&self, idle: Duration) {
        loop {
            let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
            let due = self.opened + last + idle;
            if due <= Instant::now() {
                return;
            }
            sleep_until(due).await;
        }
    }
}

/// Passes on what comes, as it comes, and the end of it.
async fn relay(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    count: impl Fn(u64),
) -> io::Result<()> {
    let mut buffer = vec![0; TUNNEL_BUFFER];
    loop {
        let bytes = from.read(&mut buffer).await?;
        if bytes == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..bytes]).await?;
        to.flush().await?;
        count(bytes as u64);
    }
}
