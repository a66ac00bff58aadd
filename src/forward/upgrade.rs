//! Switching protocols (RFC 9110 §7.8): WebSocket, and whatever else a route
//! lets through. After the origin's 101 the two connections are joined byte by
//! byte until either side ends.

use std::io;

use http::header::{self, HeaderValue};
use http::{HeaderMap, Request, Response, Version};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;

use super::hop_by_hop;
use crate::body::Body;
use crate::context::{Exchange, KeepOpen};
use crate::drain;
use crate::error::{Error, Kind};

/// How much of a tunnel is in flight each way.
const TUNNEL_BUFFER: usize = 16 * 1024;

/// A request's wish to switch protocols, granted by its route.
pub(super) struct Switch {
    token: HeaderValue,
    downstream: OnUpgrade,
    open: Option<KeepOpen>,
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
            downstream: extensions.remove::<OnUpgrade>()?,
            open: extensions.get::<KeepOpen>().cloned(),
        })
    }

    /// Asks the origin for the same.
    pub(super) fn ask(&self, headers: &mut HeaderMap) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, self.token.clone());
    }

    /// The origin agreed: answers the client, and joins the two once both
    /// connections have switched.
    pub(super) fn complete(
        self,
        mut response: Response<Body>,
        exchange: Option<&Exchange>,
        drain: drain::Watcher,
    ) -> Result<Response<Body>, Error> {
        let agreed = response.headers().get(header::UPGRADE);
        if !agreed.is_some_and(|token| {
            token.as_bytes().trim_ascii().eq_ignore_ascii_case(self.token.as_bytes())
        }) {
            return Err(Error::new(Kind::UpgradeFailed)
                .detail("the origin switched to another protocol than the one asked for"));
        }
        let upstream = response.extensions_mut().remove::<OnUpgrade>().ok_or_else(|| {
            Error::new(Kind::UpgradeFailed).detail("the connection to the origin cannot switch")
        })?;
        if let Some(exchange) = exchange {
            exchange.update(|record| record.upgraded = true);
        }
        let (exchange, token) = (exchange.cloned(), self.token.clone());
        tokio::spawn(async move {
            let _busy = drain.busy();
            tokio::select! {
                () = tunnel(self.downstream, upstream, exchange.as_ref()) => {}
                () = drain.cut() => tracing::debug!("a tunnel was cut"),
            }
            drop(self.open);
        });
        let headers = response.headers_mut();
        hop_by_hop::strip(headers, &[]);
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, token);
        *response.version_mut() = Version::HTTP_11;
        Ok(response.map(|_| Body::empty()))
    }
}

async fn tunnel(downstream: OnUpgrade, upstream: OnUpgrade, exchange: Option<&Exchange>) {
    let (downstream, upstream) = match tokio::try_join!(downstream, upstream) {
        Ok(both) => both,
        Err(error) => {
            tracing::debug!(%error, "an upgrade was not completed");
            return;
        }
    };
    match join(downstream, upstream).await {
        Ok((received, sent)) => {
            if let Some(exchange) = exchange {
                exchange.update(|record| {
                    record.request_bytes += received;
                    record.response_bytes += sent;
                    record.complete = true;
                });
            }
        }
        // One side going away without a farewell is how most tunnels end.
        Err(error) => tracing::trace!(%error, "a tunnel ended"),
    }
}

async fn join(downstream: Upgraded, upstream: Upgraded) -> io::Result<(u64, u64)> {
    let mut downstream = TokioIo::new(downstream);
    let mut upstream = TokioIo::new(upstream);
    tokio::io::copy_bidirectional_with_sizes(
        &mut downstream,
        &mut upstream,
        TUNNEL_BUFFER,
        TUNNEL_BUFFER,
    )
    .await
}
