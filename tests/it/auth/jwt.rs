//! JSON Web Tokens, through TLS, by keys of a real server.

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{K1, guarded};
use crate::support::certs::{self, Authority};
use crate::support::client::{Answer, Raw};
use crate::support::identity_provider::{Health, IdentityProvider, Key, now};
use crate::support::origin::Origin;
use crate::support::proxy::{Running, Setup};
use crate::support::{eventually, within};

/// An issuer, a proxy that takes its tokens, and an origin behind that.
struct World {
    authority: Authority,
    issuer: IdentityProvider,
    origin: Origin,
    proxy: Running,
}

impl World {
    /// With these lines in `[auth.jwt]`, and the issuer's keys over TLS.
    async fn with(jwt: &str) -> Self {
        let (authority, dir) = (Authority::new(), TempDir::new().unwrap());
        authority.write(dir.path());
        authority.sign(dir.path(), "id", &["localhost"]);
        let issuer = IdentityProvider::start_tls(certs::server(dir.path(), "id", &[])).await;
        Self::of(authority, dir, issuer, jwt).await
    }

    async fn of(authority: Authority, dir: TempDir, issuer: IdentityProvider, jwt: &str) -> Self {
        Self::counting(authority, dir, issuer, jwt, "\"unlimited\"").await
    }

    /// So many failures are allowed to an address.
    async fn counting(
        authority: Authority,
        dir: TempDir,
        issuer: IdentityProvider,
        jwt: &str,
        failures: &str,
    ) -> Self {
        let origin = Origin::named("one").await;
        authority.sign(dir.path(), "a", &["a.test"]);
        let proxy = setup_with(&origin, &issuer, jwt, failures).start_in(dir);
        Self { authority, issuer, origin, proxy }
    }

    /// GETs `/` over TLS.
    async fn get(&self, fields: &str) -> Answer {
        let config = self.authority.client(&["http/1.1"]);
        let stream = certs::connect(self.proxy.address, config, "a.test").await.unwrap();
        let mut client = Raw::over(stream);
        client.send(format!("GET / HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n")).await;
        client.answer().await
    }

    /// GETs `/` with a token.
    async fn bear(&self, token: &str) -> Answer {
        self.get(&format!("Authorization: Bearer {token}\r\n")).await
    }

    /// Why the last of so many requests was rejected.
    async fn reason(&self, requests: usize) -> String {
        let line = self.proxy.log_lines(requests).await.pop().unwrap();
        let word = line.split(' ').find_map(|word| word.strip_prefix("rejected="));
        word.unwrap_or("not at all").trim().to_owned()
    }
}

fn setup(origin: &Origin, issuer: &IdentityProvider, jwt: &str) -> Setup {
    setup_with(origin, issuer, jwt, "\"unlimited\"")
}

fn setup_with(origin: &Origin, issuer: &IdentityProvider, jwt: &str, failures: &str) -> Setup {
    let auth = format!(
        "[[auth]]\nname = \"tokens\"\n[auth.jwt]\njwks = \"{}\"\nca = \"ca.pem\"\n\
         issuer = \"https://id.test\"\naudience = \"api\"\n{jwt}",
        issuer.jwks()
    );
    let policy = format!("auth = {{ any = [\"tokens\"], failures = {failures} }}");
    guarded(origin, &auth, &policy)
        .listener("[listener.tls]\ncertificates = [{ certificate = \"a.crt\", key = \"a.key\" }]")
}

fn alice() -> Value {
    json!({ "iss": "https://id.test", "aud": "api", "sub": "alice", "exp": now() + 600,
            "scope": "read", "email": "alice@a.test" })
}

fn alice_with(name: &str, value: impl Into<Value>) -> Value {
    let mut claims = alice();
    claims[name] = value.into();
    claims
}

#[tokio::test]
async fn a_token_lets_in_and_tells_the_origin_who_it_is() {
    within(async {
        let world =
            World::with("claims_to_headers = { sub = \"X-User\", email = \"X-Email\" }").await;
        let token = world.issuer.token(&alice());
        let brought = "X-User: root\r\nX_User: root\r\nX-Email: root\r\nConnection: x-user\r\n";
        let answer = world.get(&format!("Authorization: Bearer {token}\r\n{brought}")).await;
        assert_eq!((answer.status, &*answer.text()), (200, "one"));
        let request = world.origin.request().to_ascii_lowercase();
        assert!(request.contains("\r\nx-user: alice\r\n"), "{request}");
        assert!(request.contains("\r\nx-email: alice@a.test\r\n"), "{request}");
        assert!(request.contains("\r\nauthorization: bearer ey"), "{request}");
        assert!(!request.contains("root"), "{request}");
        let line = world.proxy.log_lines(1).await.remove(0);
        assert!(line.contains("identity=alice") && !line.contains(&token[..20]), "{line}");
    })
    .await;
}

#[tokio::test]
async fn nobody_can_bring_an_identity_along_to_any_route() {
    within(async {
        let world = World::with("claims_to_headers = { sub = \"X-User\" }").await;
        let open = setup(&world.origin, &world.issuer, "claims_to_headers = { sub = \"X-User\" }")
            .and("[[route]]\nname = \"open\"\npath = \"/open\"\nupstream = \"origin\"");
        let dir = TempDir::new().unwrap();
        world.authority.write(dir.path());
        world.authority.sign(dir.path(), "a", &["a.test"]);
        let proxy = open.start_in(dir);
        let config = world.authority.client(&["http/1.1"]);
        let stream = certs::connect(proxy.address, config, "a.test").await.unwrap();
        let mut client = Raw::over(stream);
        client.send("GET /open HTTP/1.1\r\nHost: a.test\r\nX-User: a\r\nX_User: b\r\n\r\n").await;
        assert_eq!(client.answer().await.status, 200);
        let request = world.origin.request().to_ascii_lowercase();
        assert!(!request.contains("user"), "{request}");
    })
    .await;
}

#[tokio::test]
async fn row_55_whatever_is_wrong_with_a_token_is_answered_alike_and_logged_by_its_reason() {
    within(async {
        let world = World::with("").await;
        let (issuer, stranger) = (&world.issuer, Key::new("k1"));
        let good = issuer.token(&alice());
        let (signed, signature) = good.rsplit_once('.').unwrap();
        let none = stranger.token_with(&json!({ "alg": "none" }), &alice());
        let brought = json!({ "alg": "ES256", "kid": "k1", "jku": world.issuer.jwks(),
                              "crit": ["exp"] });
        let wrong = [
            (none.clone(), "jwt_algorithm"),
            (format!("{}.", none.rsplit_once('.').unwrap().0), "jwt_algorithm"),
            (stranger.token_with(&json!({ "alg": "HS256" }), &alice()), "jwt_algorithm"),
            (stranger.token(&alice()), "jwt_signature"),
            (stranger.token_with(&brought, &alice()), "jwt_critical"),
            (format!("{signed}."), "jwt_signature"),
            (format!("{signed}.{}", &signature[4..]), "jwt_signature"),
            ("a.b.c".to_owned(), "jwt_malformed"),
            ("opaque".to_owned(), "jwt_malformed"),
            ("e30.e30.e30".to_owned(), "jwt_malformed"),
            (issuer.token(&alice_with("exp", now() - 60)), "jwt_expired"),
            (issuer.token(&alice_with("nbf", now() + 600)), "jwt_not_yet_valid"),
            (issuer.token(&alice_with("iss", "https://evil.test")), "jwt_issuer"),
            (issuer.token(&alice_with("aud", "other")), "jwt_audience"),
            (issuer.token(&alice_with("exp", "never")), "jwt_claims"),
            (issuer.token(&alice_with("sub", Value::Null)), "jwt_no_name"),
            (issuer.token(&json!([1, 2])), "jwt_malformed"),
            (issuer.token(&alice_with("long", "x".repeat(9000))), "jwt_too_long"),
        ];
        let mut first: Option<(Vec<String>, String)> = None;
        for (index, (token, reason)) in wrong.iter().enumerate() {
            let answer = world.bear(token).await;
            assert_eq!(answer.status, 401, "{reason}");
            assert_eq!(world.reason(index + 1).await, *reason, "{token}");
            let lines = answer.head.lines().map(str::to_ascii_lowercase);
            let same: Vec<_> = lines
                .filter(|line| !line.starts_with("x-request-id") && !line.starts_with("date"))
                .collect();
            assert!(same.contains(&"www-authenticate: bearer realm=\"tollgate\"".to_owned()));
            let said = (same, answer.text());
            assert_eq!(*first.get_or_insert_with(|| said.clone()), said, "{reason}");
        }
        assert_eq!(world.get("").await.status, 401);
        assert!(world.origin.bytes().is_empty());
        assert_eq!(world.bear(&good).await.status, 200);
        assert_eq!(world.issuer.fetches(), 1);
    })
    .await;
}

#[tokio::test]
async fn keys_are_fetched_once_for_all_who_wait() {
    within(async {
        let world = World::with("").await;
        let token = world.issuer.token(&alice());
        let asking = (0..20).map(|_| world.bear(&token));
        for answer in futures_util::future::join_all(asking).await {
            assert_eq!(answer.status, 200);
        }
        assert_eq!(world.issuer.fetches(), 1);
    })
    .await;
}

#[tokio::test]
async fn row_55_unknown_keys_do_not_have_the_set_fetched_again_and_again() {
    within(async {
        let world = World::with("unknown_kid_pause = \"1h\"\nrefresh = \"2h\"").await;
        assert_eq!(world.bear(&world.issuer.token(&alice())).await.status, 200);
        for number in 0..100 {
            let forged = Key::new(&format!("forged-{number}")).token(&alice());
            assert_eq!(world.bear(&forged).await.status, 401);
        }
        assert_eq!(world.reason(101).await, "jwt_unknown_key");
        assert_eq!(world.issuer.fetches(), 1);
        assert_eq!(world.bear(&world.issuer.token(&alice())).await.status, 200);
    })
    .await;
}

#[tokio::test]
async fn a_key_that_may_be_new_is_no_guess_and_a_forged_signature_is() {
    within(async {
        let (authority, dir) = (Authority::new(), TempDir::new().unwrap());
        authority.write(dir.path());
        authority.sign(dir.path(), "id", &["localhost"]);
        let issuer = IdentityProvider::start_tls(certs::server(dir.path(), "id", &[])).await;
        let jwt = "unknown_kid_pause = \"1h\"\nrefresh = \"2h\"";
        let world =
            World::counting(authority, dir, issuer, jwt, "{ rate = 3, per = \"1h\" }").await;
        let old = world.issuer.token(&alice());
        assert_eq!(world.bear(&old).await.status, 200);
        world.issuer.add_key("k2");
        for _ in 0..10 {
            assert_eq!(world.bear(&world.issuer.token(&alice())).await.status, 401);
        }
        assert_eq!(world.reason(11).await, "jwt_unknown_key");
        assert_eq!(world.bear(&old).await.status, 200);
        let forged = Key::new("k1").token(&alice());
        for status in [401, 401, 401, 429] {
            assert_eq!(world.bear(&forged).await.status, status);
        }
        assert_eq!(world.bear(&old).await.status, 429);
    })
    .await;
}

#[tokio::test]
async fn a_key_that_is_new_is_fetched_and_one_that_is_gone_is_forgotten() {
    within(async {
        let world = World::with("unknown_kid_pause = \"1ms\"").await;
        let old = world.issuer.token(&alice());
        assert_eq!(world.bear(&old).await.status, 200);
        world.issuer.add_key("k2");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        assert_eq!(world.bear(&world.issuer.token(&alice())).await.status, 200);
        assert_eq!(world.bear(&old).await.status, 200);
        assert_eq!(world.issuer.fetches(), 2);
        world.issuer.drop_old_keys();
        world.issuer.add_key("k3");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        assert_eq!(world.bear(&world.issuer.token(&alice())).await.status, 200);
        assert_eq!(world.bear(&old).await.status, 401);
    })
    .await;
}

#[tokio::test]
async fn the_set_is_fetched_again_by_itself_and_the_last_good_one_stays_in_an_outage() {
    within(async {
        let world = World::with("refresh = \"50ms\"\nunknown_kid_pause = \"50ms\"").await;
        let old = world.issuer.token(&alice());
        assert_eq!(world.bear(&old).await.status, 200);
        eventually("it is fetched again", async || world.issuer.fetches() > 3).await;
        for health in [Health::Failing, Health::Babbling] {
            world.issuer.set_health(health);
            let before = world.issuer.fetches();
            eventually("it is tried", async || world.issuer.fetches() > before + 2).await;
            assert_eq!(world.bear(&old).await.status, 200, "{health:?}");
        }
        // A key that is gone is forgotten, once there is an answer again.
        world.issuer.add_key("k2");
        world.issuer.drop_old_keys();
        assert_eq!(world.bear(&old).await.status, 200);
        world.issuer.set_health(Health::Up);
        eventually("it is forgotten", async || world.bear(&old).await.status == 401).await;
        assert_eq!(world.bear(&world.issuer.token(&alice())).await.status, 200);
        let mut admin = Raw::connect(world.proxy.admin).await;
        admin.send("GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
        let told = admin.answer().await.text();
        let from = world.issuer.jwks();
        for result in ["ok", "failed"] {
            let line =
                format!("tollgate_auth_fetches_total{{from=\"{from}\",result=\"{result}\"}} ");
            assert!(told.contains(&line), "{told}");
        }
    })
    .await;
}

#[tokio::test]
async fn row_55_without_any_keys_it_cannot_be_told_and_nobody_is_let_in() {
    within(async {
        let world = World::with("timeout = \"300ms\"\nunknown_kid_pause = \"100ms\"").await;
        let token = world.issuer.token(&alice());
        for (index, health) in [Health::Failing, Health::Hanging].into_iter().enumerate() {
            world.issuer.set_health(health);
            let answer = world.bear(&token).await;
            assert_eq!(answer.status, 503, "{health:?}");
            assert!(answer.field("retry-after").is_some());
            assert_eq!(world.reason(index + 1).await, "jwt_no_keys");
        }
        // What is no token is told to be none all the same.
        assert_eq!(world.bear("opaque").await.status, 401);
        assert!(world.origin.bytes().is_empty());
        world.issuer.set_health(Health::Up);
        eventually("it recovers", async || world.bear(&token).await.status == 200).await;
    })
    .await;
}

#[tokio::test]
async fn keys_are_taken_from_nobody_but_the_issuer() {
    within(async {
        // The server answers, under a certificate of another authority.
        let (authority, other) = (Authority::new(), Authority::new());
        let dir = TempDir::new().unwrap();
        authority.write(dir.path());
        other.sign(dir.path(), "id", &["localhost"]);
        let issuer = IdentityProvider::start_tls(certs::server(dir.path(), "id", &[])).await;
        let world = World::of(authority, dir, issuer, "").await;
        assert_eq!(world.bear(&world.issuer.token(&alice())).await.status, 503);
        assert_eq!(world.issuer.fetches(), 0);
        assert!(world.origin.bytes().is_empty());
    })
    .await;
}

#[tokio::test]
async fn claims_and_scopes_decide_who_may() {
    within(async {
        let world = World::with("required_claims = { scope = [\"read\", \"write\"] }").await;
        assert_eq!(world.bear(&world.issuer.token(&alice())).await.status, 200);
        let other = world.issuer.token(&alice_with("scope", "none"));
        assert_eq!(world.bear(&other).await.status, 403);
        assert_eq!(world.reason(2).await, "jwt_required_claim");
    })
    .await;
}

#[tokio::test]
async fn a_token_in_a_cookie_is_taken_out_and_the_other_cookies_stay() {
    within(async {
        let world = World::with("cookie = \"token\"\nstrip = true").await;
        let token = world.issuer.token(&alice());
        let answer = world.get(&format!("Cookie: a=1; token={token}; b=2\r\n")).await;
        assert_eq!(answer.status, 200);
        let request = world.origin.request().to_ascii_lowercase();
        assert!(request.contains("\r\ncookie: a=1; b=2\r\n"), "{request}");
        assert_eq!(world.bear(&token).await.status, 401);
    })
    .await;
}

#[tokio::test]
async fn an_expired_token_is_no_failure_and_a_forged_one_is() {
    within(async {
        let world = World::with("").await;
        // Nor is it one where another scheme, which finds no key of its own in it, is asked first.
        let limited = format!(
            "auth = {{ any = [\"partners\", \"tokens\"], failures = {{ rate = 2, per = \"1h\" }} }}\n\
             [[auth]]\nname = \"partners\"\n[auth.api_key]\nbearer = true\n\
             keys = [{{ name = \"alice\", key = \"{K1}\" }}]"
        );
        let setup = setup(&world.origin, &world.issuer, "");
        let toml = setup
            .toml()
            .replace("auth = { any = [\"tokens\"], failures = \"unlimited\" }", &limited);
        let path = world.proxy.dir.path().join("config.toml");
        std::fs::write(&path, toml).unwrap();
        world
            .proxy
            .control
            .reload_now(tollgate::observe::ReloadTrigger::Api, tollgate::admin::Reload::default())
            .await
            .unwrap();
        let expired = world.issuer.token(&alice_with("exp", now() - 60));
        for _ in 0..6 {
            assert_eq!(world.bear(&expired).await.status, 401);
        }
        let forged = Key::new("k1").token(&alice());
        for _ in 0..2 {
            assert_eq!(world.bear(&forged).await.status, 401);
        }
        assert_eq!(world.bear(&expired).await.status, 429);
        // The keys outlive the reload: nobody has asked for them again.
        assert_eq!(world.issuer.fetches(), 1);
    })
    .await;
}

#[test]
fn what_is_fetched_without_tls_needs_nobodys_certificates() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("secret"), "0123456789abcdef0123456789abcdef").unwrap();
    let check = |auth: &str| {
        let setup = guarded("http://127.0.0.1:1", &format!("[[auth]]\nname = \"a\"\n{auth}"), "");
        let toml =
            setup.toml().replace("upstream = \"origin\"", "upstream = \"origin\"\nauth = \"a\"");
        std::fs::write(dir.path().join("config.toml"), toml).unwrap();
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_tollgate"))
            .args(["check", "--config", "config.toml"])
            .current_dir(dir.path())
            .env("SSL_CERT_FILE", dir.path().join("none"))
            .env("SSL_CERT_DIR", dir.path().join("none"))
            .output()
            .unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    for (scheme, is_fine) in [("http", true), ("https", false)] {
        for auth in [
            format!("[auth.jwt]\njwks = \"{scheme}://127.0.0.1:1/keys\"\naudience = \"a\""),
            format!(
                "[auth.oidc]\nissuer = \"{scheme}://127.0.0.1:1\"\nclient_id = \"a\"\n\
                 cookie_secret = \"file:secret\""
            ),
        ] {
            let (succeeded, said) = check(&auth);
            assert_eq!(succeeded, is_fine, "{auth}\n{said}");
            assert!(is_fine || said.contains("no trusted certificates"), "{said}");
        }
    }
}
