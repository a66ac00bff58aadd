//! An issuer of tokens: it signs, publishes its keys, and counts who asks for them. As an
//! identity provider it logs everybody in who is sent to it (OpenID Connect), and lies if it
//! is told to.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD, Engine as _};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::client::Io;

/// An issuer, until it is dropped.
pub struct IdentityProvider {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    keys: Mutex<Vec<Key>>,
    fetches: AtomicUsize,
    health: Mutex<Health>,
    /// Where it is, as it calls itself.
    url: String,
    lie: Mutex<Lie>,
    /// The codes that were given, and not exchanged yet.
    codes: Mutex<HashMap<String, Code>>,
    codes_given: AtomicUsize,
    exchanges: AtomicUsize,
    /// Whether it answers codes.
    answers_codes: watch::Sender<bool>,
    /// What it says of whoever logs in.
    person: Mutex<Value>,
}

/// What a code was given for.
struct Code {
    redirect: String,
    nonce: String,
    challenge: String,
    scope: String,
}

/// What an identity provider does wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Lie {
    Nothing,
    /// Sends another state back than came.
    State,
    /// Sends a code back that it does not know.
    Code,
    /// Says it is another, where it sends people back.
    Issuer,
    /// Refuses whoever logs in.
    Denial,
    /// Signs a token for another login.
    Nonce,
    /// Signs a token without a nonce.
    NoNonce,
    /// Signs a token for another client.
    Audience,
    /// Signs a token for two clients, of which the other has it.
    Party,
    /// Signs a token of another issuer.
    TokenIssuer,
    /// Signs a token that has expired.
    Expired,
    /// Signs by a key that it does not publish.
    Signature,
    /// Does not sign.
    Unsigned,
    /// Answers a code with an error of its own.
    Failing,
}

/// What the client is called, and what it shows.
pub const CLIENT: (&str, &str) = ("tollgate", "what only two know: & +%é");

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
    /// Over TLS as `localhost`, with one key, `k1`.
    pub async fn start_tls(config: rustls::ServerConfig) -> Self {
        let tls = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            keys: Mutex::new(vec![Key::new("k1")]),
            fetches: AtomicUsize::new(0),
            health: Mutex::new(Health::Up),
            url: format!("https://localhost:{}", address.port()),
            lie: Mutex::new(Lie::Nothing),
            codes: Mutex::default(),
            codes_given: AtomicUsize::new(0),
            exchanges: AtomicUsize::new(0),
            answers_codes: watch::Sender::new(true),
            person: Mutex::new(json!({ "sub": "alice", "email": "alice@a.test" })),
        });
        let for_all = shared.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (shared, tls) = (for_all.clone(), tls.clone());
                tokio::spawn(async move {
                    if let Ok(stream) = tls.accept(stream).await {
                        shared.connection(stream).await;
                    }
                });
            }
        });
        Self { address, shared, task }
    }

    /// What it calls itself.
    pub fn url(&self) -> &str {
        &self.shared.url
    }

    /// Where its keys are.
    pub fn jwks(&self) -> String {
        format!("{}/jwks.json", self.shared.url)
    }

    /// A token by its newest key.
    pub fn token(&self, claims: &Value) -> String {
        self.shared.keys.lock().last().unwrap().token(claims)
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

    pub fn set_lie(&self, lie: Lie) {
        *self.shared.lie.lock() = lie;
    }

    /// Who logs in from now on, in claims.
    pub fn set_person(&self, claims: Value) {
        *self.shared.person.lock() = claims;
    }

    /// How many have logged in.
    pub fn logins(&self) -> usize {
        self.shared.codes_given.load(Ordering::SeqCst)
    }

    /// How often somebody has come with a code.
    pub fn exchanges(&self) -> usize {
        self.shared.exchanges.load(Ordering::SeqCst)
    }

    /// Lets those wait who come with a code, or no longer.
    pub fn answer_codes(&self, whether: bool) {
        self.shared.answers_codes.send_replace(whether);
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
            async move { Ok::<_, Infallible>(shared.answer(request).await) }
        });
        let builder = hyper::server::conn::http1::Builder::new();
        let _ended = builder.serve_connection(TokioIo::new(stream), service).await;
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let query = form(request.uri().query().unwrap_or_default());
        match request.uri().path() {
            "/jwks.json" => self.publish().await,
            "/.well-known/openid-configuration" => self.describe(),
            "/authorize" => self.log_in(&query),
            "/token" => {
                let shown = request.headers().get("authorization").cloned();
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let shown = shown.as_ref().map(|value| value.to_str().unwrap());
                self.exchanges.fetch_add(1, Ordering::SeqCst);
                let mut answers = self.answers_codes.subscribe();
                answers.wait_for(|answers| *answers).await.unwrap();
                self.exchange(shown, &form(std::str::from_utf8(&body).unwrap()))
            }
            "/logout" => Response::new(Full::from(query["post_logout_redirect_uri"].clone())),
            _ => status(404),
        }
    }

    fn describe(&self) -> Response<Full<Bytes>> {
        if *self.health.lock() == Health::Failing {
            return status(500);
        }
        let url = &self.url;
        json_response(&json!({
            "issuer": url,
            "authorization_endpoint": format!("{url}/authorize"),
            "token_endpoint": format!("{url}/token"),
            "jwks_uri": format!("{url}/jwks.json"),
            "end_session_endpoint": format!("{url}/logout?from=here"),
            "authorization_response_iss_parameter_supported": true,
            "id_token_signing_alg_values_supported": ["ES256"],
        }))
    }

    /// Sends whoever comes back, logged in.
    fn log_in(&self, query: &HashMap<String, String>) -> Response<Full<Bytes>> {
        let expected =
            [("client_id", CLIENT.0), ("response_type", "code"), ("code_challenge_method", "S256")];
        let is_right = expected.into_iter().all(|(name, value)| query[name] == value)
            && query["redirect_uri"] == "https://a.test/.tollgate/callback";
        if !is_right {
            return status(400);
        }
        let lie = *self.lie.lock();
        let number = self.codes_given.fetch_add(1, Ordering::SeqCst);
        let code = format!("code-{number}");
        let granted = Code {
            redirect: query["redirect_uri"].clone(),
            nonce: query["nonce"].clone(),
            challenge: query["code_challenge"].clone(),
            scope: query["scope"].clone(),
        };
        self.codes.lock().insert(code.clone(), granted);
        let state = match lie {
            Lie::State => "A".repeat(43),
            _ => query["state"].clone(),
        };
        let issuer = if lie == Lie::Issuer { "https://evil.test" } else { &self.url };
        let code = if lie == Lie::Code { "another" } else { &code };
        let what = match lie {
            Lie::Denial => "error=access_denied&error_description=no".to_owned(),
            _ => format!("code={code}"),
        };
        let location = format!("{}?{what}&state={state}&iss={issuer}", query["redirect_uri"]);
        Response::builder().status(302).header("location", location).body(Full::default()).unwrap()
    }

    /// Tells whoever has a code, the secret and the verifier who has logged in.
    fn exchange(
        &self,
        shown: Option<&str>,
        fields: &HashMap<String, String>,
    ) -> Response<Full<Bytes>> {
        let lie = *self.lie.lock();
        if lie == Lie::Failing {
            return status(500);
        }
        let encoded = shown.and_then(|shown| shown.strip_prefix("Basic ")).unwrap_or_default();
        let both = String::from_utf8(BASE64_STANDARD.decode(encoded).unwrap()).unwrap();
        let Some((id, secret)) = both.split_once(':') else { return denial("invalid_request") };
        if (&*decoded(id), &*decoded(secret)) != CLIENT {
            return denial("invalid_client");
        }
        let code = self.codes.lock().remove(&fields["code"]);
        let Some(code) = code else { return denial("invalid_grant") };
        let digest = Sha256::digest(&fields["code_verifier"]);
        let is_right = BASE64_URL_SAFE_NO_PAD.encode(digest) == code.challenge
            && fields["redirect_uri"] == code.redirect
            && fields["grant_type"] == "authorization_code";
        if !is_right {
            return denial("invalid_grant");
        }
        let token = self.id_token(lie, &code);
        json_response(&json!({
            "id_token": token, "access_token": "a", "token_type": "Bearer", "scope": code.scope,
        }))
    }

    fn id_token(&self, lie: Lie, code: &Code) -> String {
        let mut claims = self.person.lock().clone();
        claims["iss"] = self.url.clone().into();
        claims["aud"] = CLIENT.0.into();
        claims["nonce"] = code.nonce.clone().into();
        claims["exp"] = (now() + 300).into();
        match lie {
            Lie::Nonce => claims["nonce"] = "another".into(),
            Lie::NoNonce => claims["nonce"] = Value::Null,
            Lie::Audience => claims["aud"] = "another".into(),
            Lie::Party => {
                claims["aud"] = json!([CLIENT.0, "another"]);
                claims["azp"] = "another".into();
            }
            Lie::TokenIssuer => claims["iss"] = "https://evil.test".into(),
            Lie::Expired => claims["exp"] = (now() - 300).into(),
            _ => {}
        }
        match lie {
            Lie::Signature => Key::new("k1").token(&claims),
            Lie::Unsigned => {
                let token = Key::new("k1").token_with(&json!({ "alg": "none" }), &claims);
                format!("{}.", token.rsplit_once('.').unwrap().0)
            }
            _ => self.keys.lock().last().unwrap().token(&claims),
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
        json_response(&json!({ "keys": keys }))
    }
}

/// The fields of a form, or of a query.
fn form(text: &str) -> HashMap<String, String> {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (decoded(name), decoded(value))).collect()
}

fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8().unwrap().into_owned()
}

fn status(status: u16) -> Response<Full<Bytes>> {
    Response::builder().status(status).body(Full::default()).unwrap()
}

/// Why there is no token (RFC 6749 §5.2).
fn denial(error: &str) -> Response<Full<Bytes>> {
    let mut denial = json_response(&json!({ "error": error }));
    *denial.status_mut() = http::StatusCode::BAD_REQUEST;
    denial
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
