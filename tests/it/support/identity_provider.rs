//! An issuer of tokens: it signs, publishes its keys, and counts who asks for them.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::client::Io;

/// An issuer, until it is dropped.
pub struct IdentityProvider {
    pub address: SocketAddr,
    scheme: &'static str,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    keys: Mutex<Vec<Key>>,
    fetches: AtomicUsize,
    health: Mutex<Health>,
    /// What its set of keys says of how long it is good.
    cache_control: Mutex<Option<&'static str>>,
}

/// How an issuer answers whoever asks for its keys.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Health {
    Up,
    /// With an error.
    Failing,
    /// With something else than keys.
    Babbling,
    /// Not at all, for a long time.
    Hanging,
}

/// A key that tokens are signed with (ES256).
pub struct Key {
    id: String,
    pair: EcdsaKeyPair,
}

impl Key {
    pub fn new(id: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Self { id: id.to_owned(), pair }
    }

    /// A token that says this.
    pub fn token(&self, claims: &Value) -> String {
        self.token_with(&json!({ "alg": "ES256", "typ": "JWT", "kid": self.id }), claims)
    }

    /// A token with this head.
    pub fn token_with(&self, head: &Value, claims: &Value) -> String {
        let text = |json: &Value| BASE64_URL_SAFE_NO_PAD.encode(json.to_string());
        let signed = format!("{}.{}", text(head), text(claims));
        let signature = self.pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }

    fn jwk(&self) -> Value {
        let (x, y) = self.pair.public_key().as_ref()[1..].split_at(32);
        let text = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        json!({ "kty": "EC", "use": "sig", "alg": "ES256", "crv": "P-256", "kid": self.id,
                "x": text(x), "y": text(y) })
    }
}

/// In seconds since 1970.
pub fn now() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs()
}

impl IdentityProvider {
    /// Over plain HTTP, with one key, `k1`.
    pub async fn start() -> Self {
        Self::serve("http", None).await
    }

    /// Over TLS.
    pub async fn start_tls(config: rustls::ServerConfig) -> Self {
        Self::serve("https", Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn serve(scheme: &'static str, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            keys: Mutex::new(vec![Key::new("k1")]),
            fetches: AtomicUsize::new(0),
            health: Mutex::new(Health::Up),
            cache_control: Mutex::new(None),
        });
        let for_all = shared.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (shared, tls) = (for_all.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => shared.connection(stream).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                shared.connection(stream).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, scheme, shared, task }
    }

    /// Where its keys are, by this name.
    pub fn jwks(&self, name: &str) -> String {
        format!("{}://{name}:{}/jwks.json", self.scheme, self.address.port())
    }

    /// A token by its newest key.
    pub fn token(&self, claims: &Value) -> String {
        self.shared.keys.lock().last().unwrap().token(claims)
    }

    /// A token by the first of its keys.
    pub fn old_token(&self, claims: &Value) -> String {
        self.shared.keys.lock().first().unwrap().token(claims)
    }

    /// Signs with another key from now on; the others stay.
    pub fn add_key(&self, id: &str) {
        self.shared.keys.lock().push(Key::new(id));
    }

    /// Publishes no key but the newest.
    pub fn drop_old_keys(&self) {
        let mut keys = self.shared.keys.lock();
        let newest = keys.pop().unwrap();
        *keys = vec![newest];
    }

    pub fn set_health(&self, health: Health) {
        *self.shared.health.lock() = health;
    }

    pub fn set_cache_control(&self, value: &'static str) {
        *self.shared.cache_control.lock() = Some(value);
    }

    /// How often somebody has asked for its keys.
    pub fn fetches(&self) -> usize {
        self.shared.fetches.load(Ordering::SeqCst)
    }
}

impl Shared {
    async fn connection(self: Arc<Self>, stream: impl Io + 'static) {
        let service = hyper::service::service_fn(|request: Request<Incoming>| {
            let shared = self.clone();
            async move { Ok::<_, Infallible>(shared.answer(&request).await) }
        });
        let builder = hyper::server::conn::http1::Builder::new();
        let _ended = builder.serve_connection(TokioIo::new(stream), service).await;
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        match request.uri().path() {
            "/jwks.json" => self.publish().await,
            _ => status(404),
        }
    }

    async fn publish(&self) -> Response<Full<Bytes>> {
        self.fetches.fetch_add(1, Ordering::SeqCst);
        let health = *self.health.lock();
        match health {
            Health::Up => {}
            Health::Failing => return status(500),
            Health::Babbling => return Response::new("<html>".into()),
            Health::Hanging => {
                tokio::time::sleep(Duration::from_secs(3600)).await;
            }
        }
        let keys: Vec<Value> = self.keys.lock().iter().map(Key::jwk).collect();
        let mut response = json_response(&json!({ "keys": keys }));
        if let Some(value) = *self.cache_control.lock() {
            response.headers_mut().insert("cache-control", value.parse().unwrap());
        }
        response
    }
}

fn status(status: u16) -> Response<Full<Bytes>> {
    Response::builder().status(status).body(Full::default()).unwrap()
}

fn json_response(value: &Value) -> Response<Full<Bytes>> {
    let body = Full::from(value.to_string());
    Response::builder().header("content-type", "application/json").body(body).unwrap()
}

impl Drop for IdentityProvider {
    fn drop(&mut self) {
        self.task.abort();
    }
}
