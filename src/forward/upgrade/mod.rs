//! Switching protocols: WebSocket, and whatever else a route lets through.
//!
//! A client asks by `Upgrade` (RFC 9110 §7.8) over HTTP/1.1 and by an extended
//! CONNECT (RFC 8441) over HTTP/2; the origin is asked by `Upgrade` either way.
//! After its 101 the two streams are joined byte by byte until either side ends.
//!
//! What is not the request that RFC 6455 §4.1 describes is no handshake: over
//! HTTP/1.1 it is forwarded as the plain request that it is without its `Upgrade`.

mod frames;
mod handshake;
mod relay;
mod tunnel;

use std::time::Duration;

use http::header::{self, HeaderValue};
use http::{HeaderMap, Request, Response, StatusCode, Version};
use hyper::ext::Protocol;

use self::handshake::Key;
use super::hop_by_hop;
use crate::body::Body;
use crate::context::Exchange;
use crate::drain;
use crate::error::{Error, Kind};
use crate::respond::Answer;
use crate::switch::OnSwitch;

/// The one protocol whose handshake and frames are known here.
const WEBSOCKET: &str = "websocket";

/// A request's wish to switch protocols, granted by its route.
pub(super) struct Switch {
    token: HeaderValue,
    downstream: OnSwitch,
    asked: Asked,
    websocket: bool,
}

/// How the client asked, and so how it is answered.
enum Asked {
    /// By `Upgrade`: what the two sides prove to each other is passed on.
    Upgrade,
    /// By an extended CONNECT, in which nothing is proved: for a WebSocket the
    /// origin has to prove to us that it understood.
    Connect(Option<Key>),
}

impl Switch {
    /// What the request asks for, if it may have it. What may not be had by
    /// `Upgrade` is left to be taken out with the other hop-by-hop fields.
    ///
    /// # Errors
    ///
    /// An extended CONNECT that may not be had is nothing without its protocol:
    /// this is the answer to it.
    pub(super) fn take(
        request: &mut Request<Body>,
        allowed: &[String],
    ) -> Result<Option<Self>, Answer> {
        if request.version() > Version::HTTP_11 && request.extensions().get::<Protocol>().is_some()
        {
            return Self::connect(request, allowed).map(Some);
        }
        Ok(Self::upgrade(request, allowed))
    }

    fn upgrade(request: &mut Request<Body>, allowed: &[String]) -> Option<Self> {
        let token = hop_by_hop::requested_upgrade(request.version(), request.headers())?;
        if !allowed.contains(&token) {
            return None;
        }
        let websocket = token == WEBSOCKET;
        if websocket && !handshake::is_one(request) {
            tracing::debug!("what asks for a WebSocket is not its handshake");
            return None;
        }
        Some(Self {
            token: HeaderValue::try_from(token).ok()?,
            // Absent where the server that took the request cannot switch.
            downstream: OnSwitch::take(request.extensions_mut())?,
            asked: Asked::Upgrade,
            websocket,
        })
    }

    fn connect(request: &mut Request<Body>, allowed: &[String]) -> Result<Self, Answer> {
        let unserved = || {
            let detail = "This protocol is not served here.";
            refuse(StatusCode::NOT_IMPLEMENTED, "protocol_unserved", detail)
        };
        let protocol = request.extensions().get::<Protocol>();
        let token = protocol.map_or_else(String::new, |p| p.as_str().to_ascii_lowercase());
        if !allowed.contains(&token) {
            return Err(unserved());
        }
        let websocket = token == WEBSOCKET;
        if websocket && !handshake::may_be_13(request.headers()) {
            let detail = "Only version 13 of the WebSocket protocol is served.";
            let thirteen = HeaderValue::from_static(handshake::VERSION);
            return Err(refuse(StatusCode::BAD_REQUEST, "websocket_version", detail)
                .header(header::SEC_WEBSOCKET_VERSION, thirteen));
        }
        let key = websocket
            .then(Key::random)
            .transpose()
            .map_err(|error| Answer::for_error(&Error::new(Kind::Internal).because(error)))?;
        Ok(Self {
            token: HeaderValue::try_from(token).map_err(|_| unserved())?,
            downstream: OnSwitch::take(request.extensions_mut()).ok_or_else(unserved)?,
            asked: Asked::Connect(key),
            websocket,
        })
    }

    /// Asks the origin for the same.
    pub(super) fn ask(&self, headers: &mut HeaderMap) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, self.token.clone());
        if let Asked::Connect(Some(key)) = &self.asked {
            headers.insert(header::SEC_WEBSOCKET_KEY, key.value());
            let thirteen = HeaderValue::from_static(handshake::VERSION);
            headers.insert(header::SEC_WEBSOCKET_VERSION, thirteen);
        }
    }

    /// Whether this answer of the origin, which did not switch, would tell the
    /// client that it did: a 2xx to a CONNECT opens the tunnel.
    pub(super) fn is_misled_by(&self, status: StatusCode) -> bool {
        matches!(self.asked, Asked::Connect(_)) && status.is_success()
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
        self.check(response.headers())?;
        let upstream = OnSwitch::take(response.extensions_mut())
            .ok_or_else(|| failed("the connection to the origin cannot switch"))?;
        if let Some(exchange) = exchange {
            exchange.update(|record| record.upgraded = true);
        }
        let exchange = exchange.cloned();
        let Self { token, downstream, asked, websocket } = self;
        // Before the connection that it came on may have ended.
        let busy = drain.busy(drain::Work::Tunnel);
        let drain = (drain, busy);
        tokio::spawn(tunnel::run(downstream, upstream, exchange, idle, websocket, drain));
        let headers = response.headers_mut();
        hop_by_hop::strip(headers, &[]);
        headers.remove(header::CONTENT_LENGTH);
        match asked {
            Asked::Upgrade => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
                headers.insert(header::UPGRADE, token);
            }
            Asked::Connect(_) => {
                headers.remove(header::SEC_WEBSOCKET_ACCEPT);
                *response.status_mut() = StatusCode::OK;
            }
        }
        *response.version_mut() = Version::HTTP_11;
        Ok(response.map(|_| Body::empty()))
    }

    /// Whether a 101 switches to what was asked for.
    fn check(&self, headers: &HeaderMap) -> Result<(), Error> {
        let agreed = hop_by_hop::requested_upgrade(Version::HTTP_11, headers);
        if agreed.is_none_or(|token| token.as_bytes() != self.token.as_bytes()) {
            return Err(failed("the origin switched to another protocol than the one asked for"));
        }
        if let Asked::Connect(Some(key)) = &self.asked
            && !key.is_accepted_by(headers)
        {
            return Err(failed("`Sec-WebSocket-Accept` does not belong to the key"));
        }
        Ok(())
    }
}

fn failed(detail: &'static str) -> Error {
    Error::new(Kind::UpgradeFailed).detail(detail)
}

fn refuse(status: StatusCode, code: &'static str, detail: &'static str) -> Answer {
    Answer::new(status, code, detail).proxy_error("http_request_error")
}
