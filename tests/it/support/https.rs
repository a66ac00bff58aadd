//! A client over TLS, by either version of HTTP.

use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tempfile::TempDir;

use super::certs::{Authority, connect};
use super::proxy::{Running, Setup};

/// A proxy that is reached as `a.test` over TLS, and its clients.
pub struct Https {
    pub proxy: Running,
    authority: Authority,
}

/// What a client got.
#[derive(Debug)]
pub struct Got {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: String,
}

pub const VERSIONS: [Version; 2] = [Version::HTTP_11, Version::HTTP_2];

impl Https {
    pub fn start(setup: Setup) -> Self {
        Self::start_in(setup, TempDir::new().unwrap())
    }

    /// Starts with files that are in `dir` already.
    pub fn start_in(setup: Setup, dir: TempDir) -> Self {
        let authority = Authority::new();
        authority.sign(dir.path(), "a", &["a.test"]);
        Self { proxy: Self::over_tls(setup).start_in(dir), authority }
    }

    /// The same with the listener's TLS.
    pub fn over_tls(setup: Setup) -> Setup {
        let pair = "{ certificate = \"a.crt\", key = \"a.key\" }";
        setup.listener(&format!("[listener.tls]\ncertificates = [{pair}]"))
    }

    /// GETs a path on a connection of its own.
    pub async fn get(&self, version: Version, path: &str, fields: &[(&str, &str)]) -> Got {
        let mut request = Request::get(format!("https://a.test{path}"));
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        self.send(version, request.body(Empty::new()).unwrap()).await
    }

    async fn send(&self, version: Version, mut request: Request<Empty<Bytes>>) -> Got {
        let alpn = if version == Version::HTTP_2 { "h2" } else { "http/1.1" };
        let stream = connect(self.proxy.address, self.authority.client(&[alpn]), "a.test");
        let stream = TokioIo::new(stream.await.unwrap());
        if version == Version::HTTP_2 {
            let shaken = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream);
            let (mut client, connection) = shaken.await.unwrap();
            tokio::spawn(connection);
            return Got::from(client.send_request(request).await.unwrap()).await;
        }
        let host = request.uri().authority().unwrap().to_string();
        let path = request.uri().path_and_query().unwrap().to_string();
        *request.uri_mut() = path.parse().unwrap();
        request.headers_mut().insert("host", host.parse().unwrap());
        let (mut client, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        Got::from(client.send_request(request).await.unwrap()).await
    }
}

impl Got {
    async fn from(response: Response<Incoming>) -> Self {
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let body = String::from_utf8_lossy(&body).into_owned();
        Self { status: parts.status, headers: parts.headers, body }
    }

    pub fn field(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// All that could tell one refusal from another: what is left once each exchange's
    /// own name is taken out.
    pub fn told(&self) -> String {
        let mut headers = self.headers.clone();
        let id = headers.remove("x-request-id");
        headers.remove("date");
        let id = id.map(|id| id.to_str().unwrap().to_owned()).unwrap_or_default();
        format!("{} {headers:?} {}", self.status, self.body.replace(&id, "ID"))
    }
}
