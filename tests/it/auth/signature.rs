//! Requests are from whoever has signed them (`[auth.signature]`, RFC 9421), through TLS.
//!
//! The client here signs bases that are written out: nothing of what is tested makes them.

use std::time::SystemTime;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tempfile::TempDir;
use tollgate::admin::Reload;
use tollgate::observe::ReloadTrigger;

use super::guarded;
use crate::support::certs::{Authority, connect};
use crate::support::client::{Answer, Raw, fields};
use crate::support::origin::Origin;
use crate::support::proxy::{Running, Setup};
use crate::support::within;

const SECRET: &str = "a secret of billing and the proxy";

struct World {
    origin: Origin,
    proxy: Running,
    authority: Authority,
    /// Of `robot`, whose public key the proxy has.
    robot: rcgen::KeyPair,
}

/// The proxy, with these lines in `[auth.signature]` and in its route.
fn setup(origin: &Origin, lines: &str, route: &str) -> Setup {
    let auth = format!(
        "[[auth]]\nname = \"signers\"\n[auth.signature]\nidentity_header = \"X-Who\"\n\
         keys = [\n\
         {{ id = \"b1\", name = \"billing\", algorithm = \"hmac-sha256\", \
            secret = \"file:secret\", scopes = [\"invoices\"] }},\n\
         {{ id = \"r1\", name = \"robot\", algorithm = \"ed25519\", \
            public_key = \"robot.pem\" }},\n]\n{lines}\n"
    );
    guarded(origin, &auth, &format!("auth = \"signers\"\n{route}"))
        .listener("[listener.tls]\ncertificates = [{ certificate = \"a.crt\", key = \"a.key\" }]")
}

impl World {
    async fn new(lines: &str) -> Self {
        let (authority, dir) = (Authority::new(), TempDir::new().unwrap());
        authority.sign(dir.path(), "a", &["a.test"]);
        let robot = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        std::fs::write(dir.path().join("secret"), SECRET).unwrap();
        std::fs::write(dir.path().join("robot.pem"), robot.public_key_pem()).unwrap();
        let origin = Origin::named("ok").await;
        let proxy = setup(&origin, lines, "").start_in(dir);
        Self { origin, proxy, authority, robot }
    }

    async fn send(&self, request: &str) -> Answer {
        let config = self.authority.client(&["http/1.1"]);
        let stream = connect(self.proxy.address, config, "a.test").await.unwrap();
        let mut client = Raw::over(stream);
        client.try_send(request).await;
        client.answer().await
    }

    async fn rejected(&self, count: usize) -> String {
        self.proxy.log_lines(count).await.remove(count - 1)
    }
}

fn now() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs()
}

fn hmac(base: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    STANDARD.encode(hmac::sign(&key, base.as_bytes()))
}

/// The two fields for a signature over `covered`, lines of a base.
fn signed(covered: &str, names: &str, params: &str, sign: impl Fn(&str) -> String) -> String {
    let input = format!("({names});{params}");
    let signature = sign(&format!("{covered}\"@signature-params\": {input}"));
    format!("Signature-Input: sig={input}\r\nSignature: sig=:{signature}:\r\n")
}

const NAMES: &str = "\"@method\" \"@authority\" \"@path\" \"@query\"";
const GET: &str = "\"@method\": GET\n\"@authority\": a.test\n\"@path\": /invoices\n\
                   \"@query\": ?id=7\n";

fn by_billing(nonce: &str) -> String {
    let params = format!("created={};keyid=\"b1\";nonce=\"{nonce}\"", now());
    signed(GET, NAMES, &params, hmac)
}

fn get(fields: &str) -> String {
    format!("GET /invoices?id=7 HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n")
}

#[tokio::test]
async fn whoever_signs_is_let_in_under_their_name() {
    within(async {
        let world = World::new("").await;
        let fields_sent = by_billing("1") + "X-Who: root\r\nX_Who: root\r\n";
        assert_eq!(world.send(&get(&fields_sent)).await.status, 200);
        let request = world.origin.request();
        assert_eq!(fields(&request, "x-who"), ["billing"]);
        assert!(!request.contains("root"), "{request}");

        let params = format!("created={};keyid=\"r1\"", now());
        let by_robot = signed(GET, NAMES, &params, |base| {
            use rcgen::SigningKey as _;
            STANDARD.encode(world.robot.sign(base.as_bytes()).unwrap())
        });
        assert_eq!(world.send(&get(&by_robot)).await.status, 200);
        assert_eq!(fields(&world.origin.requests()[1], "x-who"), ["robot"]);
        let lines = world.proxy.log_lines(2).await;
        assert!(lines[0].contains("identity=billing") && lines[1].contains("identity=robot"));
    })
    .await;
}

#[tokio::test]
async fn whatever_was_changed_on_the_way_is_noticed() {
    within(async {
        let world = World::new("").await;
        let sound = get(&by_billing("1"));
        for (index, changed) in [
            sound.replace("GET /", "DELETE /"),
            sound.replace("id=7", "id=8"),
            sound.replace("?id=7", ""),
            sound.replace("/invoices", "/orders"),
            sound.replace("Host: a.test", "Host: b.test"),
            sound.replace("keyid=\"b1\"", "keyid=\"r1\""),
            sound.replace("keyid=\"b1\"", "keyid=\"b2\""),
            sound.replace("created=1", "created=2"),
            sound.replace("nonce=\"1\"", "nonce=\"2\""),
            sound.replace("nonce=\"1\"", "nonce=\"1\";alg=\"none\""),
            sound.replace("\"@query\");", ");"),
            sound.replace("sig=:", "sig=:AAAA"),
            sound.replace("Signature: ", "X-Signature: "),
        ]
        .into_iter()
        .enumerate()
        {
            assert_ne!(changed, sound, "{index}");
            let answer = world.send(&changed).await;
            assert_eq!(answer.status, 401, "{index}");
            assert!(answer.field("www-authenticate").unwrap().starts_with("Signature "));
        }
        assert!(world.origin.bytes().is_empty());
        assert_eq!(world.send(&sound).await.status, 200);
    })
    .await;
}

#[tokio::test]
async fn a_signature_is_good_once_and_for_a_while() {
    within(async {
        let world = World::new("").await;
        let once = get(&by_billing("1"));
        assert_eq!(world.send(&once).await.status, 200);
        assert_eq!(world.send(&once).await.status, 401);
        assert!(world.rejected(2).await.contains("rejected=signature_replayed"));
        let old = format!("created={};keyid=\"b1\"", now() - 400);
        assert_eq!(world.send(&get(&signed(GET, NAMES, &old, hmac))).await.status, 401);
        assert!(world.rejected(3).await.contains("rejected=signature_too_old"));
        let timeless = signed(GET, NAMES, "keyid=\"b1\"", hmac);
        assert_eq!(world.send(&get(&timeless)).await.status, 401);
        assert!(world.rejected(4).await.contains("rejected=signature_without_created"));
        assert_eq!(world.origin.requests().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_clock_that_is_wrong_shuts_nobody_out_and_a_guess_does() {
    within(async {
        let world = World::new("").await;
        let counting = "auth = { any = [\"signers\"], failures = { rate = 1, per = \"1h\" } }";
        let toml = setup(&world.origin, "", "").toml().replace("auth = \"signers\"", counting);
        assert!(toml.contains(counting));
        std::fs::write(world.proxy.dir.path().join("config.toml"), toml).unwrap();
        let reload = world.proxy.control.reload_now(ReloadTrigger::Api, Reload::default());
        reload.await.unwrap();
        let made_at = |created: u64, more: &str| {
            let params = format!("created={created};keyid=\"b1\"{more}");
            get(&signed(GET, NAMES, &params, hmac))
        };
        let expired = format!(";expires={}", now() - 60);
        let once = get(&by_billing("1"));
        assert_eq!(world.send(&once).await.status, 200);
        for outdated in [
            once,
            made_at(now() - 400, ""),
            made_at(now() + 400, ""),
            made_at(now(), &expired),
            made_at(now() - 200, ""),
        ] {
            assert_eq!(world.send(&outdated).await.status, 401, "{outdated}");
        }
        let reasons: Vec<String> = world.proxy.log_lines(6).await.split_off(1);
        for (line, reason) in reasons.iter().zip([
            "replayed",
            "too_old",
            "from_the_future",
            "expired",
            "before_start",
        ]) {
            assert!(line.contains(&format!("rejected=signature_{reason}")), "{line}");
        }
        assert_eq!(world.send(&get(&by_billing("2"))).await.status, 200);
        // What is no signature at all is a guess whenever it is from.
        let guess = made_at(now() - 400, "").replace("/invoices", "/orders");
        assert_eq!(world.send(&guess).await.status, 401);
        assert_eq!(world.send(&get(&by_billing("3"))).await.status, 429);
    })
    .await;
}

#[tokio::test]
async fn what_was_seen_is_known_after_a_reload_and_what_may_have_been_is_refused() {
    within(async {
        let world = World::new("").await;
        let (once, again) = (get(&by_billing("1")), get(&by_billing("2")));
        assert_eq!(world.send(&once).await.status, 200);
        let reload = async |setup: Setup| {
            world.proxy.write(&setup);
            let reload = world.proxy.control.reload_now(ReloadTrigger::Api, Reload::default());
            reload.await.unwrap();
        };
        reload(setup(&world.origin, "", "max_request_body = 7")).await;
        assert_eq!(world.send(&once).await.status, 401);
        assert!(world.rejected(2).await.contains("rejected=signature_replayed"));
        assert_eq!(world.send(&again).await.status, 200);
        // With another table nothing is remembered: what is as old as that is refused.
        reload(setup(&world.origin, "skew = \"1s\"\nnonce = true", "")).await;
        let params = format!("created={};keyid=\"b1\";nonce=\"3\"", now() - 20);
        let older = signed(GET, NAMES, &params, hmac);
        assert_eq!(world.send(&get(&older)).await.status, 401);
        assert!(world.rejected(4).await.contains("rejected=signature_before_start"));
        assert_eq!(world.send(&get(&by_billing("4"))).await.status, 200);
    })
    .await;
}

#[tokio::test]
async fn the_body_is_what_was_signed() {
    within(async {
        let world = World::new("max_body = 32").await;
        let digest = "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:";
        let covered = format!(
            "\"@method\": POST\n\"@authority\": a.test\n\"@path\": /invoices\n\"@query\": ?\n\
             \"content-digest\": {digest}\n"
        );
        let post = |nonce: &str, body: &str| {
            let params = format!("created={};keyid=\"b1\";nonce=\"{nonce}\"", now());
            let names = format!("{NAMES} \"content-digest\"");
            let fields = signed(&covered, &names, &params, hmac);
            format!(
                "POST /invoices HTTP/1.1\r\nHost: a.test\r\n{fields}Content-Digest: {digest}\r\n\
                 Content-Length: {}\r\n\r\n{body}",
                body.len()
            )
        };
        assert_eq!(world.send(&post("1", "{\"hello\": \"world\"}")).await.status, 200);
        assert!(world.origin.request().ends_with("{\"hello\": \"world\"}"));
        assert_eq!(world.send(&post("2", "{\"hello\": \"earth\"}")).await.status, 401);
        assert!(world.rejected(2).await.contains("rejected=signature_digest"));
        assert_eq!(world.send(&post("3", &"x".repeat(33))).await.status, 413);
        let params = format!("created={};keyid=\"b1\"", now());
        let head_only = "\"@method\": POST\n\"@authority\": a.test\n\"@path\": /invoices\n\
                         \"@query\": ?\n";
        let unsigned = signed(head_only, NAMES, &params, hmac);
        let request = format!(
            "POST /invoices HTTP/1.1\r\nHost: a.test\r\n{unsigned}Content-Length: 2\r\n\r\nhi"
        );
        assert_eq!(world.send(&request).await.status, 401);
        assert!(world.rejected(4).await.contains("rejected=signature_not_covering"));
        assert_eq!(world.origin.requests().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn over_http_2_the_same_is_signed() {
    within(async {
        let world = World::new("").await;
        let config = world.authority.client(&["h2"]);
        let stream = connect(world.proxy.address, config, "a.test").await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .unwrap();
        tokio::spawn(connection);
        let covered = "\"@method\": GET\n\"@target-uri\": https://a.test/invoices?id=7\n\
                       \"cookie\": a=1; b=2\n";
        let params = format!("created={};keyid=\"b1\"", now());
        let names = "\"@method\" \"@target-uri\" \"cookie\"";
        let both = signed(covered, names, &params, hmac);
        let (input, signature) =
            (fields(&both, "signature-input")[0], fields(&both, "signature")[0]);
        for (path, status) in [("/invoices?id=8", 401), ("/invoices?id=7", 200)] {
            let request = Request::get(format!("https://a.test{path}"))
                .header("cookie", "a=1")
                .header("cookie", "b=2")
                .header("signature-input", input)
                .header("signature", signature)
                .body(Full::new(Bytes::new()))
                .unwrap();
            assert_eq!(sender.send_request(request).await.unwrap().status(), status, "{path}");
        }
    })
    .await;
}
