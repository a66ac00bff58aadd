//! Requests of Tollgate's own: for the keys of an identity provider, and for the
//! decisions of others.
//!
//! HTTP/1.1 over TCP or TLS, by connections that are kept and shared by all threads. What
//! goes through the proxy does not come by here: that is [`forward`](crate::forward)'s.
//! Redirects are not followed, and every answer is bounded, in length and in time.

mod error;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Request, Response};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Body as _;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};

pub use error::{FetchError, FetchSetupError, place};

use crate::respond::PRODUCT;
use crate::roots;

/// The longest head of an answer: hyper's buffer grows no further.
const HEAD_LIMIT: usize = 64 * 1024;

/// How long a connection is kept that nobody uses. Shorter than what servers commonly
/// allow, so that it is rarely lost in the moment when it is used again.
const IDLE: Duration = Duration::from_secs(30);

/// How many connections to one server are kept that nobody uses.
const IDLE_CONNECTIONS: usize = 32;

/// What a [`Fetch`] is held to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FetchSettings {
    /// Whose certificates are believed over TLS; `None`: those that the system believes.
    pub ca: Option<PathBuf>,
    /// Whether nothing is asked for over TLS: then no certificates are read, and none is
    /// believed. Default false.
    pub plain: bool,
    /// How long an exchange may take, from the name's resolution to the end of the
    /// answer. Default 5 s.
    pub timeout: Duration,
    /// How long a TCP connection may take. Default 2 s.
    pub connect_timeout: Duration,
    /// The longest body of an answer, in bytes. Default 1 MiB.
    pub max_bytes: u64,
}

impl Default for FetchSettings {
    fn default() -> Self {
        Self {
            ca: None,
            plain: false,
            timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(2),
            max_bytes: 1024 * 1024,
        }
    }
}

/// Sends requests to others than origins. Cheap to clone; clones share connections.
///
/// It needs a tokio runtime to be used on, not to be made on.
#[derive(Clone, Debug)]
pub struct Fetch {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    timeout: Duration,
    max_bytes: u64,
}

impl Fetch {
    /// A client of these settings. Reads the certificates to believe: not for a thread
    /// that serves requests.
    ///
    /// # Errors
    ///
    /// The certificates cannot be read, or the system believes nobody's.
    pub fn new(settings: &FetchSettings) -> Result<Self, FetchSetupError> {
        let roots = match settings.plain {
            true => RootCertStore::empty(),
            false => roots::trusted(settings.ca.as_deref())?,
        };
        let tls = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(settings.connect_timeout));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .http1_max_buf_size(HEAD_LIMIT)
            .build(connector);
        Ok(Self { client, timeout: settings.timeout, max_bytes: settings.max_bytes })
    }

    /// Asks for what is at `url`, as JSON if there is a choice.
    ///
    /// # Errors
    ///
    /// See [`FetchError`]; besides, any status but 200.
    pub async fn get_json(&self, url: &http::Uri) -> Result<Response<Bytes>, FetchError> {
        let mut request = Request::new(Bytes::new());
        request.uri_mut().clone_from(url);
        request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        let response = self.send(request).await?;
        match response.status() {
            http::StatusCode::OK => Ok(response),
            status => Err(FetchError::status(url, status)),
        }
    }

    /// Sends a request and gathers its answer, whatever its status. `Host` and the
    /// framing are added; the URL is to be absolute, `http://` or `https://`.
    ///
    /// A request on a kept connection that turns out to be closed goes over another one,
    /// if nothing of it was read.
    ///
    /// # Errors
    ///
    /// There is no connection, or no whole answer in time, or it is too long.
    pub async fn send(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, FetchError> {
        let url = request.uri().clone();
        if url.authority().is_none_or(|authority| authority.as_str().contains('@')) {
            return Err(FetchError::not_a_url(&url));
        }
        let fields = request.headers_mut();
        fields.entry(header::USER_AGENT).or_insert(HeaderValue::from_static(PRODUCT));
        let exchange = self.exchange(request.map(Full::new));
        match tokio::time::timeout(self.timeout, exchange).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(failure)) => Err(failure.at(&url)),
            Err(_) => Err(FetchError::timed_out(&url, self.timeout)),
        }
    }

    async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Bytes>, error::Failure> {
        let response = self.client.request(request).await.map_err(error::Failure::of_client)?;
        let (head, body) = response.into_parts();
        // What is said to be too long is not read at all.
        if body.size_hint().lower() > self.max_bytes {
            return Err(error::Failure::TooLong(self.max_bytes));
        }
        let limit = usize::try_from(self.max_bytes).unwrap_or(usize::MAX);
        match Limited::new(body, limit).collect().await {
            Ok(whole) => Ok(Response::from_parts(head, whole.to_bytes())),
            Err(error) if error.is::<LengthLimitError>() => {
                Err(error::Failure::TooLong(self.max_bytes))
            }
            Err(error) => Err(error::Failure::Broken(error)),
        }
    }
}

#[cfg(test)]
mod tests;
