//! What Tollgate knows of one request: where it came from ([`Downstream`]) and
//! what became of it ([`Exchange`]).
//!
//! Both travel in the request's extensions. A phase writes what it learnt with
//! [`Facts::update`]; later phases read it; the access log and the metrics
//! are written from it once, when the exchange is over.

mod client_certificate;
mod derived;
mod held;
mod identity;
mod query;

use std::any::Any;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use http::{Extensions, HeaderValue, Method, Response, StatusCode, Uri, Version};
use parking_lot::Mutex;
use tokio::time::Instant;

pub use client_certificate::{ClientCertificate, SubjectName};
pub use derived::Derived;
pub use held::{AtEnd, Guard, Permit};
pub use identity::Identity;
pub use query::parameter_name;

use crate::budget::Budget;
use crate::error::Kind;
use held::Held;

/// The connection a request came in on. Known before its first byte is parsed.
#[derive(Clone, Debug, Default)]
pub struct Downstream {
    /// The address at the other end, or the one that a proxy there has announced
    /// by the PROXY protocol; `None` where the transport has none.
    pub peer: Option<SocketAddr>,
    /// The address the client connected to.
    pub local: Option<SocketAddr>,
    /// Whether it came over a Unix socket.
    pub over_unix: bool,
    /// The address of the proxy that has announced the others.
    pub proxy: Option<SocketAddr>,
    /// The listener's name, for logs and metrics. Empty in an embedded proxy.
    pub listener: Arc<str>,
    /// The address that the listener was asked to bind, as it is configured: it says
    /// whose the connection is once the listener has another name, or another address.
    /// Empty in an embedded proxy.
    pub address: Arc<str>,
    /// What the TLS handshake agreed on; `None` on a plain connection.
    pub tls: Option<TlsFacts>,
    /// What a request's head is held to on this connection.
    pub limits: HeadLimits,
    /// What counts the connection as open for as long as anything knows it,
    /// such as a tunnel that it has become.
    pub open: Option<KeepOpen>,
    /// Takes interim responses to a client that may have them.
    pub interim: Option<Interim>,
    /// What an exchange on it may have to hold in memory.
    pub buffers: Buffers,
    /// Where the memory for that comes from.
    pub budget: Budget,
    /// What is worked out from the above once for all requests.
    pub derived: Derived,
}

/// Interim responses (RFC 9110 §15.2) on their way to the client of a connection
/// that carries one exchange at a time. Whoever waits for a response puts them
/// in; the connection takes them out whenever it has polled that wait.
#[derive(Clone, Debug, Default)]
pub struct Interim(Arc<Mutex<Vec<Response<()>>>>);

impl Interim {
    /// Has the client get this response before the final one.
    pub fn put(&self, response: Response<()>) {
        self.0.lock().push(response);
    }

    /// Takes those that came since the last time.
    #[must_use]
    pub fn take(&self) -> Vec<Response<()>> {
        std::mem::take(&mut *self.0.lock())
    }
}

/// How much of an exchange its connection may have to hold, in bytes, beyond what
/// every exchange needs.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Buffers {
    /// Of a request's body that nobody takes.
    pub request: usize,
    /// Of a response that the client does not take.
    pub response: usize,
}

impl Downstream {
    /// The peer's address without its port; an IPv4 address is one also where it
    /// came mapped.
    #[must_use]
    pub fn peer_address(&self) -> Option<IpAddr> {
        self.peer.map(|peer| peer.ip().to_canonical())
    }

    /// The same as the value of a field.
    #[must_use]
    pub fn peer_text(&self) -> Option<&HeaderValue> {
        let text = || HeaderValue::try_from(self.peer_address()?.to_string()).ok();
        self.derived.peer.get_or_init(text).as_ref()
    }
}

/// What a request's head is held to, beyond what its parser enforces.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct HeadLimits {
    /// The longest request target, in bytes. Default 8 KiB.
    pub max_target: usize,
    /// The most fields. Default 100.
    pub max_fields: usize,
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self { max_target: 8 * 1024, max_fields: 100 }
    }
}

/// What a TLS handshake agreed on.
#[derive(Clone, Debug, Default)]
pub struct TlsFacts {
    /// The server name the client asked for (RFC 6066 §3), in lower case.
    pub server_name: Option<Arc<str>>,
    /// The protocol version, such as `TLSv1.3`.
    pub version: &'static str,
    /// The cipher suite's registered name.
    pub cipher: &'static str,
    /// Which hosts the connection may be asked for; `None` where the listener
    /// has one certificate for all.
    pub hosts: Option<Arc<dyn Hosts>>,
    /// The certificate that the client has shown, and its listener's authorities vouch
    /// for; `None` where it was asked for none, or showed none.
    pub client: Option<Arc<ClientCertificate>>,
}

/// Tells which hosts a listener serves alike.
pub trait Hosts: fmt::Debug + Send + Sync {
    /// Whether a client that asks for `host` (without a port) is shown the same
    /// certificate as one that asks for `server_name`.
    fn are_alike(&self, server_name: &str, host: &str) -> bool;
}

/// The record of one request and its response. Cheap to clone: all clones are
/// the same record, and the exchange is over when the last of them is dropped.
/// Whoever outlives the response, such as a tunnel, keeps one.
#[derive(Clone, Debug)]
pub struct Exchange(Arc<Facts>);

/// What is known of an exchange.
#[derive(Debug)]
pub struct Facts {
    downstream: Arc<Downstream>,
    started: Instant,
    request: RequestLine,
    record: Mutex<Record>,
    held: Mutex<Held>,
}

/// The route of an exchange.
#[derive(Clone, Debug)]
pub struct Route {
    /// Its name.
    pub name: Arc<str>,
    /// Where its exchanges are counted, for whoever put it there.
    pub series: Arc<dyn Any + Send + Sync>,
}

impl Route {
    /// A route that is known by its name only.
    pub fn named(name: impl Into<Arc<str>>) -> Arc<Self> {
        Arc::new(Self { name: name.into(), series: Arc::new(()) })
    }
}

/// The request as the client sent it, before any rewriting.
#[derive(Clone, Debug)]
pub struct RequestLine {
    /// The method.
    pub method: Method,
    /// The request target; in origin form for HTTP/1.1, absolute for HTTP/2.
    pub uri: Uri,
    /// The protocol version.
    pub version: Version,
    /// `Host`, or `:authority`.
    pub host: Option<HeaderValue>,
    /// `User-Agent`.
    pub user_agent: Option<HeaderValue>,
    /// `Referer`.
    pub referer: Option<HeaderValue>,
    /// `Accept`, its first line.
    pub accept: Option<HeaderValue>,
    /// `Content-Type`.
    pub content_type: Option<HeaderValue>,
    /// How many field lines it has.
    pub fields: usize,
}

/// In a request's extensions where there is no [`Exchange`]: credentials had a part in letting
/// it in, and what it is answered is for one client.
#[derive(Clone, Copy, Debug)]
pub struct ByCredentials;

impl ByCredentials {
    /// Whether credentials had a part in letting a request in that has these extensions.
    #[must_use]
    pub fn let_in(extensions: &Extensions) -> bool {
        match extensions.get::<Exchange>() {
            Some(exchange) => exchange.read(|record| record.by_credentials),
            None => extensions.get::<Self>().is_some(),
        }
    }
}

/// What the phases learnt. Each field is written by one phase.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// The client's address: the peer's, or what a trusted proxy says of it.
    pub client: Option<IpAddr>,
    /// The request's id, ours or a trusted one that came with it.
    pub request_id: Option<HeaderValue>,
    /// The route that matched.
    pub route: Option<Arc<Route>>,
    /// Who the request is from, once that is known.
    pub identity: Option<Arc<Identity>>,
    /// The authenticator that has told, by its name: those of two are two, even if they are
    /// called the same.
    pub authenticator: Option<Arc<str>>,
    /// Whether credentials had a part in letting the request in, named or not: what it is
    /// answered is for one client.
    pub by_credentials: bool,
    /// Query parameters that credentials may stand in: the access log hides their values,
    /// beside those of parameters that always may. `None`: there are none.
    pub secret_parameters: Option<Arc<[Arc<str>]>>,
    /// What the cache did, in the words of its metric; `None` where none was asked.
    pub cache: Option<&'static str>,
    /// Why the cache had the request forwarded (RFC 9211 §2.2).
    pub cache_forwarded: Option<&'static str>,
    /// The upstream the request was forwarded to.
    pub upstream: Option<Arc<str>>,
    /// The origin that was asked last.
    pub origin: Option<Arc<str>>,
    /// How many origins were asked, or attempts made.
    pub attempts: u32,
    /// Why Tollgate answered by itself, as one word.
    pub rejection: Option<&'static str>,
    /// The rate limit that has refused the request, by its name.
    pub limit: Option<Arc<str>>,
    /// What went wrong, for the log only.
    pub error: Option<String>,
    /// The error's kind, for the metrics.
    pub error_kind: Option<Kind>,
    /// The status that the client got; `None` if it went away before one was known.
    pub status: Option<StatusCode>,
    /// Request body bytes received.
    pub request_bytes: u64,
    /// Response body bytes handed to the connection.
    pub response_bytes: u64,
    /// From the start until the route's layers handed the request on.
    pub policy: Option<Duration>,
    /// Time spent connecting to origins, all attempts together; zero where a
    /// pooled connection was used.
    pub connect: Option<Duration>,
    /// From the start until the origin's response head was whole.
    pub response_head: Option<Duration>,
    /// Whether the response body reached its end.
    pub complete: bool,
    /// Whether the connection, or the HTTP/2 stream, became a tunnel.
    pub upgraded: bool,
}

/// How much of an address makes one client: the lengths of the prefixes, in bits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Prefixes {
    /// Of an IPv4 address. Default 32: each address is a client.
    pub ipv4: u8,
    /// Of an IPv6 address. Default 64: a client has that many addresses to choose from.
    pub ipv6: u8,
}

impl Default for Prefixes {
    fn default() -> Self {
        Self { ipv4: 32, ipv6: 64 }
    }
}

impl Prefixes {
    /// The network of this address that counts as one client; an IPv4 client is the same
    /// one when it comes mapped.
    #[must_use]
    pub fn network(self, address: IpAddr) -> IpAddr {
        match address.to_canonical() {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32_u32.saturating_sub(self.ipv4.into()));
                IpAddr::V4((u32::from(v4) & mask.unwrap_or(0)).into())
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128_u32.saturating_sub(self.ipv6.into()));
                IpAddr::V6((u128::from(v6) & mask.unwrap_or(0)).into())
            }
        }
    }
}

/// The network that counts as one client unless told otherwise: see [`Prefixes`].
#[must_use]
pub fn client_network(address: IpAddr) -> IpAddr {
    Prefixes::default().network(address)
}

/// Keeps a connection counted as open; it no longer is when the last clone is
/// gone.
#[derive(Clone)]
pub struct KeepOpen(#[allow(dead_code, reason = "held for its drop")] Arc<dyn Any + Send + Sync>);

impl KeepOpen {
    /// Shares `guard`, which closes what it guards when it is dropped.
    pub fn new(guard: Arc<dyn Any + Send + Sync>) -> Self {
        Self(guard)
    }
}

impl fmt::Debug for KeepOpen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeepOpen")
    }
}

impl Exchange {
    /// Opens the record of a request. `at_end` is told when it is over.
    #[must_use]
    pub fn open(
        downstream: Arc<Downstream>,
        request: RequestLine,
        at_end: Option<Arc<dyn AtEnd>>,
    ) -> Self {
        let client = downstream.peer_address();
        Self(Arc::new(Facts {
            downstream,
            started: Instant::now(),
            request,
            record: Mutex::new(Record { client, ..Record::default() }),
            held: Mutex::new(Held { at_end, ..Held::default() }),
        }))
    }
}

impl Deref for Exchange {
    type Target = Facts;

    fn deref(&self) -> &Facts {
        &self.0
    }
}

impl Facts {
    /// The connection the request came in on.
    #[must_use]
    pub fn downstream(&self) -> &Arc<Downstream> {
        &self.downstream
    }

    /// The request as the client sent it.
    #[must_use]
    pub fn request(&self) -> &RequestLine {
        &self.request
    }

    /// When the request's head was whole.
    #[must_use]
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Time since [`Facts::started`].
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Writes what a phase learnt.
    pub fn update<T>(&self, write: impl FnOnce(&mut Record) -> T) -> T {
        write(&mut self.record.lock())
    }

    /// Reads what earlier phases learnt.
    pub fn read<T>(&self, read: impl FnOnce(&Record) -> T) -> T {
        read(&self.record.lock())
    }

    /// The client's address.
    #[must_use]
    pub fn client(&self) -> Option<IpAddr> {
        self.read(|record| record.client)
    }

    /// Keeps `permit` until the exchange is over. There is one at the most: a
    /// second is given back.
    ///
    /// # Errors
    ///
    /// The exchange has a permit already.
    pub fn hold(&self, permit: Permit) -> Result<(), Permit> {
        held::set(&mut self.held.lock().permit, permit)
    }

    /// Keeps whatever else is dropped when the exchange is over. There is one at the most: a
    /// second is given back.
    ///
    /// # Errors
    ///
    /// The exchange keeps something already.
    pub fn keep(&self, guard: Guard) -> Result<(), Guard> {
        held::set(&mut self.held.lock().kept, guard)
    }

    /// The exchange is over, also where somebody keeps its record for longer: what it has
    /// begun others may still wait for. It is by itself when the last clone is dropped.
    pub fn end(&self) {
        let Held { at_end, permit, kept } = std::mem::take(&mut *self.held.lock());
        if let Some(at_end) = at_end {
            at_end.ended(self);
        }
        drop((permit, kept));
    }
}

impl Drop for Facts {
    fn drop(&mut self) {
        self.end();
    }
}
