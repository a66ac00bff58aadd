//! Logins by OpenID Connect, through TLS, at an identity provider that may lie.

use serde_json::json;
use tempfile::TempDir;

use super::guarded;
use crate::support::browser::Browser;
use crate::support::certs::{self, Authority};
use crate::support::client::Answer;
use crate::support::identity_provider::{CLIENT, Health, IdentityProvider, Lie};
use crate::support::origin::Origin;
use crate::support::proxy::{Running, Setup};
use crate::support::{eventually, within};

const SITE: &str = "https://a.test";

/// An identity provider, a proxy that people log in to there, and an origin behind it.
struct World {
    authority: Authority,
    provider: IdentityProvider,
    origin: Origin,
    proxy: Running,
}

impl World {
    /// With these lines in `[auth.oidc]`.
    async fn with(oidc: &str) -> Self {
        let (authority, dir) = (Authority::new(), TempDir::new().unwrap());
        authority.write(dir.path());
        authority.sign(dir.path(), "id", &["localhost"]);
        authority.sign(dir.path(), "a", &["a.test"]);
        for name in ["old", "newer"] {
            let secret = format!("{name} and long enough to seal cookies");
            std::fs::write(dir.path().join(name), secret).unwrap();
        }
        std::fs::write(dir.path().join("client"), CLIENT.1).unwrap();
        let provider = IdentityProvider::start_tls(certs::server(dir.path(), "id", &[])).await;
        let origin = Origin::named("one").await;
        let proxy = setup(&origin, &provider, "file:old", oidc).start_in(dir);
        Self { authority, provider, origin, proxy }
    }

    fn browser(&self) -> Browser<'_> {
        let provider = self.provider.url().strip_prefix("https://").unwrap().to_owned();
        let hosts = [("a.test".to_owned(), self.proxy.address), (provider, self.provider.address)];
        Browser::new(&self.authority, &hosts)
    }

    /// A browser in which somebody has logged in.
    async fn logged_in(&self) -> Browser<'_> {
        let mut browser = self.browser();
        let answer = browser.follow(&format!("{SITE}/")).await;
        assert_eq!((answer.status, &*answer.text()), (200, "one"));
        browser
    }

    /// Has other settings.
    async fn reload(&self, cookie_secret: &str, oidc: &str) {
        self.proxy.write(&setup(&self.origin, &self.provider, cookie_secret, oidc));
        let reload = tollgate::admin::Reload::default();
        self.proxy.control.reload_now(tollgate::observe::ReloadTrigger::Api, reload).await.unwrap();
    }

    /// Counts failures from now on, and shuts out after the first.
    async fn count_failures(&self) {
        let setup = setup(&self.origin, &self.provider, "file:old", "");
        let limited = "failures = { rate = 1, per = \"1h\" }";
        let toml = setup.toml().replace("failures = \"unlimited\"", limited);
        assert!(toml.contains(limited));
        std::fs::write(self.proxy.dir.path().join("config.toml"), toml).unwrap();
        let reload = tollgate::admin::Reload::default();
        self.proxy.control.reload_now(tollgate::observe::ReloadTrigger::Api, reload).await.unwrap();
    }

    /// Why the last of so many requests was rejected.
    async fn reason(&self, requests: usize) -> String {
        let line = self.proxy.log_lines(requests).await.pop().unwrap();
        let word = line.split(' ').find_map(|word| word.strip_prefix("rejected="));
        word.unwrap_or("not at all").trim().to_owned()
    }
}

fn setup(origin: &Origin, provider: &IdentityProvider, cookie_secret: &str, oidc: &str) -> Setup {
    let auth = format!(
        "[[auth]]\nname = \"people\"\n[auth.oidc]\nissuer = \"{}\"\nca = \"ca.pem\"\n\
         client_id = \"{}\"\nclient_secret = \"file:client\"\n\
         cookie_secret = {}\n{oidc}",
        provider.url(),
        CLIENT.0,
        if cookie_secret.starts_with('[') {
            cookie_secret.to_owned()
        } else {
            format!("\"{cookie_secret}\"")
        },
    );
    guarded(origin, &auth, "auth = { any = [\"people\"], failures = \"unlimited\" }")
        .listener("[listener.tls]\ncertificates = [{ certificate = \"a.crt\", key = \"a.key\" }]")
}

/// Where the provider sends somebody back to us who wants `/`.
async fn callback(browser: &mut Browser<'_>) -> String {
    let sent = browser.go(&format!("{SITE}/")).await;
    let back = browser.go(sent.field("location").unwrap()).await;
    back.field("location").unwrap().to_owned()
}

/// Whether an answer sends to log in.
fn sends_to_log_in(answer: &Answer) -> bool {
    answer.status == 302 && answer.field("location").unwrap().contains("/authorize?")
}

#[tokio::test]
async fn somebody_logs_in_and_is_known_from_then_on() {
    within(async {
        let world = World::with("claims_to_headers = { email = \"X-Email\" }").await;
        let mut browser = world.browser();
        let answer = browser.follow(&format!("{SITE}/a/b?c=d&e=%2F")).await;
        assert_eq!((answer.status, &*answer.text()), (200, "one"));
        assert_eq!(browser.visited.len(), 4, "{:?}", browser.visited);
        assert_eq!(browser.visited[3], format!("{SITE}/a/b?c=d&e=%2F"));
        let request = world.origin.request();
        assert!(request.starts_with("GET /a/b?c=d&e=%2F HTTP/1.1\r\n"), "{request}");
        let lower = request.to_ascii_lowercase();
        assert!(lower.contains("\r\nx-email: alice@a.test\r\n"), "{request}");
        // The session is none of the origin's affair.
        assert!(!lower.contains("cookie"), "{request}");
        for _ in 0..3 {
            assert_eq!(browser.go(&format!("{SITE}/")).await.status, 200);
        }
        assert_eq!(world.provider.logins(), 1);
        let lines = world.proxy.log_lines(6).await;
        assert!(lines[2].contains("identity=alice"), "{lines:?}");
        // The code is not logged, and the login is forgotten.
        assert!(lines.iter().all(|line| !line.contains("code-0")), "{lines:?}");
        assert_eq!(browser.jar("a.test").len(), 1);
    })
    .await;
}

#[tokio::test]
async fn other_cookies_stay_and_nobody_brings_an_identity_along() {
    within(async {
        let world = World::with("claims_to_headers = { email = \"X-Email\" }").await;
        let mut browser = world.logged_in().await;
        browser.jar("a.test").insert("theme".to_owned(), "dark".to_owned());
        let fields = "X-Email: root@a.test\r\nX_Email: root@a.test\r\n";
        assert_eq!(browser.send("POST", &format!("{SITE}/"), fields).await.status, 200);
        let request = world.origin.requests().pop().unwrap().to_ascii_lowercase();
        assert!(request.contains("\r\ncookie: theme=dark\r\n"), "{request}");
        assert!(!request.contains("root"), "{request}");
    })
    .await;
}

#[tokio::test]
async fn only_who_waits_for_a_page_is_sent_to_log_in() {
    within(async {
        let world = World::with("").await;
        let mut browser = world.browser();
        let html = "Accept: text/html\r\n";
        for (method, fields, sent) in [
            ("GET", html, true),
            ("HEAD", html, true),
            ("GET", "Accept: text/html\r\nSec-Fetch-Mode: navigate\r\n", true),
            ("GET", "", false),
            ("GET", "Accept: application/json\r\n", false),
            ("GET", "Accept: */*\r\n", false),
            ("GET", "Accept: text/html\r\nSec-Fetch-Mode: cors\r\n", false),
            ("GET", "Accept: text/html\r\nX-Requested-With: XMLHttpRequest\r\n", false),
            (
                "GET",
                "Accept: text/html\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
                false,
            ),
            ("POST", "Accept: text/html\r\nContent-Length: 0\r\n", false),
            ("DELETE", html, false),
        ] {
            let answer = browser.send(method, &format!("{SITE}/"), fields).await;
            assert_eq!(sends_to_log_in(&answer), sent, "{method} {fields:?}: {}", answer.head);
            assert_eq!(answer.status, if sent { 302 } else { 401 }, "{method} {fields:?}");
        }
        assert!(world.origin.bytes().is_empty());
    })
    .await;
}

#[tokio::test]
async fn row_57_a_provider_that_lies_is_not_believed() {
    within(async {
        let world = World::with("").await;
        let mut requests = 0;
        for (lie, reason, status) in [
            (Lie::State, "oidc_no_login", 401),
            (Lie::Code, "oidc_code", 401),
            (Lie::Issuer, "oidc_issuer", 401),
            (Lie::Denial, "oidc_denied", 403),
            (Lie::Nonce, "oidc_nonce", 401),
            (Lie::NoNonce, "oidc_nonce", 401),
            (Lie::Audience, "jwt_audience", 401),
            (Lie::Party, "oidc_party", 401),
            (Lie::TokenIssuer, "jwt_issuer", 401),
            (Lie::Expired, "jwt_expired", 401),
            (Lie::Signature, "jwt_signature", 401),
            (Lie::Unsigned, "jwt_algorithm", 401),
            (Lie::Failing, "oidc_provider", 503),
        ] {
            world.provider.set_lie(lie);
            let mut browser = world.browser();
            let answer = browser.follow(&format!("{SITE}/")).await;
            assert_eq!(answer.status, status, "{lie:?}");
            // A login that is lost is begun once more.
            requests += if lie == Lie::State { 3 } else { 2 };
            assert_eq!(world.reason(requests).await, reason, "{lie:?}");
            // Nobody has a session by that.
            assert!(browser.jar("a.test").keys().all(|name| name.contains('.')), "{lie:?}");
        }
        assert!(world.origin.bytes().is_empty());
        world.provider.set_lie(Lie::Nothing);
        world.logged_in().await;
    })
    .await;
}

#[tokio::test]
async fn row_57_a_callback_is_good_for_the_browser_that_began_and_once() {
    within(async {
        let world = World::with("").await;
        let mut victim = world.browser();
        let sent = victim.go(&format!("{SITE}/")).await;
        let back = victim.go(sent.field("location").unwrap()).await;
        let callback = back.field("location").unwrap().to_owned();
        // In another browser, which has begun no login, or another one.
        let mut other = world.browser();
        assert!(sends_to_log_in(&other.go(&callback).await));
        assert_eq!(other.go(&callback).await.status, 401);
        other.jar("a.test").clear();
        assert!(sends_to_log_in(&other.go(&format!("{SITE}/")).await));
        assert!(sends_to_log_in(&other.go(&callback).await));
        assert_eq!(other.go(&callback).await.status, 401);
        assert!(other.jar("a.test").keys().all(|name| name.contains('.')));
        // With the state of that login, or none, or two.
        let (address, _) = callback.split_once("&state=").unwrap();
        for wrong in [
            address.to_owned(),
            format!("{address}&state="),
            format!("{address}&state={}", "A".repeat(43)),
            format!("{callback}&state={}", "A".repeat(43)),
            format!("{callback}&code=more"),
            callback.replace("code=", "kode="),
        ] {
            let answer = victim.send("GET", &wrong, "").await;
            assert_eq!(answer.status, 401, "{wrong}");
        }
        let before = victim.jar("a.test").clone();
        let answer = victim.go(&callback).await;
        assert_eq!((answer.status, answer.field("location")), (302, Some("https://a.test/")));
        // Again, with the cookies from before: the provider does not know the code any more.
        *victim.jar("a.test") = before;
        assert_eq!(victim.go(&callback).await.status, 401);
        assert_eq!(world.provider.logins(), 1);
        assert!(world.origin.bytes().is_empty());
    })
    .await;
}

#[tokio::test]
async fn several_logins_may_be_under_way_in_one_browser_and_not_too_many() {
    within(async {
        let world = World::with("").await;
        let mut browser = world.browser();
        let mut begun = Vec::new();
        for number in 0..8 {
            begun.push(browser.go(&format!("{SITE}/{number}")).await);
        }
        for (number, sent) in begun.iter().enumerate().rev() {
            let back = browser.go(sent.field("location").unwrap()).await;
            let answer = browser.go(back.field("location").unwrap()).await;
            assert_eq!(answer.field("location"), Some(&*format!("{SITE}/{number}")));
        }
        browser.jar("a.test").clear();
        // The oldest is forgotten.
        let mut begun = vec![browser.go(&format!("{SITE}/0")).await];
        let oldest = browser.jar("a.test").first_key_value().unwrap().0.clone();
        tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
        for number in 1..20 {
            assert_eq!(browser.jar("a.test").contains_key(&oldest), number <= 8, "{number}");
            begun.push(browser.go(&format!("{SITE}/{number}")).await);
            assert_eq!(browser.jar("a.test").len(), (number + 1).min(8));
        }
        // Each of the others ends where it was begun for; who comes back from one that was
        // forgotten, and has logged in meanwhile, is in.
        let left = browser.jar("a.test").clone();
        for (number, sent) in begun.iter().enumerate().rev() {
            let location = sent.field("location").unwrap();
            let (_, state) = location.split_once("&state=").unwrap();
            let is_left = left.keys().any(|name| name.ends_with(&state[..8]));
            let back = browser.go(location).await;
            let answer = browser.go(back.field("location").unwrap()).await;
            let target = if is_left { format!("/{number}") } else { "/".to_owned() };
            if browser.jar("a.test").keys().any(|name| !name.contains('.')) {
                assert_eq!(answer.field("location"), Some(&*format!("{SITE}{target}")));
            } else {
                assert!(sends_to_log_in(&answer));
            }
        }
        assert_eq!(browser.go(&format!("{SITE}/")).await.status, 200);
        // Long names of what is wanted take more room.
        browser.jar("a.test").clear();
        for number in 0..9 {
            let wanted = format!("{SITE}/{}{number}", "x".repeat(1500));
            assert!(sends_to_log_in(&browser.go(&wanted).await));
            let length: usize = browser.jar("a.test").values().map(String::len).sum();
            assert!((2_000..8_192).contains(&length), "{length}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_login_that_is_lost_is_begun_once_more_and_not_for_ever() {
    within(async {
        let world = World::with("").await;
        let mut browser = world.browser();
        let back = callback(&mut browser).await;
        browser.jar("a.test").clear();
        let answer = browser.follow(&back).await;
        assert_eq!((answer.status, &*answer.text()), (200, "one"));
        // In a browser that keeps no cookies.
        browser.jar("a.test").clear();
        let mut url = callback(&mut browser).await;
        for status in [302, 302, 401] {
            browser.jar("a.test").clear();
            let answer = browser.go(&url).await;
            assert_eq!(answer.status, status, "{url}");
            url = answer.field("location").unwrap_or_default().to_owned();
        }
    })
    .await;
}

#[tokio::test]
async fn row_57_a_session_cannot_be_made_or_changed() {
    within(async {
        let world = World::with("").await;
        let mut browser = world.logged_in().await;
        let (name, good) = browser.jar("a.test").first_key_value().unwrap();
        let (name, good) = (name.clone(), good.clone());
        assert!(!good.contains("alice") && !good.contains("YWxpY2"), "{good}");
        let mut wrong: Vec<String> = (0..good.len())
            .step_by(7)
            .map(|at| {
                let other = if &good[at..=at] == "A" { "B" } else { "A" };
                format!("{}{other}{}", &good[..at], &good[at + 1..])
            })
            .collect();
        wrong.extend(["".to_owned(), "x".to_owned(), good[..good.len() - 4].to_owned()]);
        for value in wrong {
            browser.jar("a.test").insert(name.clone(), value.clone());
            assert_eq!(browser.send("POST", &format!("{SITE}/"), "").await.status, 401, "{value}");
        }
        // Nor is what is sealed for a login a session, or the other way round.
        browser.jar("a.test").clear();
        browser.go(&format!("{SITE}/")).await;
        let login = browser.jar("a.test").first_key_value().unwrap().1.clone();
        browser.jar("a.test").insert(name.clone(), login);
        assert_eq!(browser.send("POST", &format!("{SITE}/"), "").await.status, 401);
        // Twice is none.
        browser.jar("a.test").clear();
        let twice = format!("Cookie: {name}={good}; {name}={good}\r\n");
        assert_eq!(browser.send("POST", &format!("{SITE}/"), &twice).await.status, 401);
        browser.jar("a.test").insert(name, good);
        assert_eq!(browser.send("POST", &format!("{SITE}/"), "").await.status, 200);
    })
    .await;
}

#[tokio::test]
async fn row_57_the_secret_of_cookies_is_replaced_without_a_login() {
    within(async {
        let world = World::with("").await;
        let mut browser = world.logged_in().await;
        let post = format!("{SITE}/");
        world.reload("[\"file:newer\", \"file:old\"]", "").await;
        assert_eq!(browser.send("POST", &post, "").await.status, 200);
        let mut newer = world.logged_in().await;
        world.reload("file:newer", "").await;
        assert_eq!(newer.send("POST", &post, "").await.status, 200);
        assert_eq!(browser.send("POST", &post, "").await.status, 401);
    })
    .await;
}

#[tokio::test]
async fn a_session_ends_when_its_time_is_over_or_somebody_logs_out() {
    within(async {
        let world = World::with("session = \"1s\"").await;
        let mut browser = world.logged_in().await;
        tokio::time::sleep(std::time::Duration::from_millis(2100)).await;
        assert!(sends_to_log_in(&browser.go(&format!("{SITE}/")).await));
        world.reload("file:old", "").await;
        let mut browser = world.logged_in().await;
        // Nobody is logged out by another site.
        let strange = "Sec-Fetch-Site: cross-site\r\n";
        let logout = format!("{SITE}/.tollgate/logout");
        assert_eq!(browser.send("GET", &logout, strange).await.status, 403);
        assert_eq!(browser.go(&format!("{SITE}/")).await.status, 200);
        let answer = browser.go(&logout).await;
        assert!(answer.status == 200 && answer.text().contains("logged out"), "{answer:?}");
        assert!(browser.jar("a.test").is_empty());
        assert!(sends_to_log_in(&browser.go(&format!("{SITE}/")).await));
        let mut browser = world.logged_in().await;
        // Nothing is known of the provider then.
        world.reload("file:old", "provider_logout = true").await;
        let answer = browser.go(&logout).await;
        let expected = "/logout?from=here&client_id=tollgate\
                        &post_logout_redirect_uri=https%3A%2F%2Fa.test%2F";
        assert!(answer.field("location").unwrap().ends_with(expected), "{}", answer.head);
        assert!(browser.jar("a.test").is_empty());
    })
    .await;
}

#[tokio::test]
async fn row_57_nobody_is_sent_elsewhere_after_a_login() {
    within(async {
        let world = World::with("").await;
        for target in ["//evil.test/", "//evil.test", "/?to=https://evil.test", "/a//evil.test"] {
            let mut browser = world.browser();
            let answer = browser.go(&format!("{SITE}{target}")).await;
            // What has two readings may be refused before.
            let Some(location) = answer.field("location").map(str::to_owned) else {
                assert_eq!(answer.status, 400, "{target}");
                continue;
            };
            let back = browser.go(&location).await;
            let answer = browser.go(back.field("location").unwrap()).await;
            let location = answer.field("location").unwrap();
            assert!(location.starts_with("https://a.test/"), "{target}: {location}");
            let rest = location.strip_prefix("https://a.test").unwrap();
            assert!(!rest.starts_with("//"), "{target}: {location}");
        }
    })
    .await;
}

#[tokio::test]
async fn row_27_strangers_do_not_choose_where_people_are_sent_back() {
    within(async {
        let world = World::with("").await;
        let mut browser = world.browser();
        let fields = "Accept: text/html\r\nX-Forwarded-Host: evil.test\r\n\
                      X-Forwarded-Proto: http\r\nForwarded: host=evil.test;proto=http\r\n";
        let answer = browser.send("GET", &format!("{SITE}/"), fields).await;
        let location = answer.field("location").unwrap();
        let expected = "redirect_uri=https%3A%2F%2Fa.test%2F.tollgate%2Fcallback&";
        assert!(location.contains(expected) && !location.contains("evil"), "{location}");
    })
    .await;
}

#[tokio::test]
async fn without_its_provider_nobody_logs_in_and_who_is_in_stays() {
    within(async {
        let world = World::with("").await;
        world.provider.set_health(Health::Failing);
        let mut browser = world.browser();
        let answer = browser.go(&format!("{SITE}/")).await;
        assert_eq!(answer.status, 503);
        assert_eq!(world.reason(1).await, "oidc_no_provider");
        assert_eq!(browser.send("POST", &format!("{SITE}/"), "").await.status, 401);
        world.provider.set_health(Health::Up);
        eventually("the provider is found", async || {
            sends_to_log_in(&world.browser().go(&format!("{SITE}/")).await)
        })
        .await;
        let mut browser = world.logged_in().await;
        world.provider.set_health(Health::Failing);
        assert_eq!(browser.go(&format!("{SITE}/")).await.status, 200);
    })
    .await;
}

#[tokio::test]
async fn keys_of_the_provider_may_change_between_two_logins() {
    within(async {
        let world = World::with("").await;
        world.logged_in().await;
        world.provider.add_key("k2");
        let answer = world.browser().follow(&format!("{SITE}/")).await;
        // They were fetched a moment ago: whoever comes too early tries again.
        assert_eq!(answer.status, 401);
        assert_eq!(world.reason(5).await, "jwt_unknown_key");
    })
    .await;
}

#[tokio::test]
async fn scopes_and_claims_decide_who_may() {
    within(async {
        let world = World::with("required_claims = { groups = \"staff\" }").await;
        let answer = world.browser().follow(&format!("{SITE}/")).await;
        assert_eq!(answer.status, 403);
        world.provider.set_person(json!({ "sub": "bob", "groups": ["staff", "admin"] }));
        world.logged_in().await;
        world.provider.set_person(json!({ "sub": "bob", "groups": "x".repeat(9000) }));
        world.reload("file:old", "claims = [\"groups\"]").await;
        let answer = world.browser().follow(&format!("{SITE}/")).await;
        assert_eq!(answer.status, 403);
        assert_eq!(world.reason(7).await, "oidc_session_too_long");
    })
    .await;
}

#[tokio::test]
async fn row_57_whoever_has_no_session_by_other_rules_has_none_here() {
    within(async {
        let world = World::with("").await;
        let post = format!("{SITE}/");
        let mut browser = world.logged_in().await;
        let (name, value) = browser.jar("a.test").first_key_value().unwrap();
        let (name, value) = (name.clone(), value.clone());
        for rules in [
            "required_claims = { groups = \"staff\" }",
            "name_claim = \"email\"",
            "scopes_claim = \"groups\"",
            "scopes = [\"openid\"]",
            "claims_to_headers = { email = \"X-Email\" }",
        ] {
            world.reload("file:old", rules).await;
            assert_eq!(browser.send("POST", &post, "").await.status, 401, "{rules}");
            // Nor under the name that a session has here.
            let mut other = world.browser();
            other.go(&post).await;
            let login = other.jar("a.test").first_key_value().unwrap().0.clone();
            let here = login.split_once('.').unwrap().0.to_owned();
            assert_ne!(here, name, "{rules}");
            let cookie = format!("Cookie: {here}={value}\r\n");
            let answer = world.browser().send("POST", &post, &cookie).await;
            assert_eq!(answer.status, 401, "{rules}");
        }
        world.reload("file:old", "timeout = \"4s\"").await;
        assert_eq!(browser.send("POST", &post, "").await.status, 200);
    })
    .await;
}

#[tokio::test]
async fn row_57_nobody_is_shut_out_by_what_other_sites_have_their_browser_do() {
    within(async {
        let world = World::with("").await;
        world.count_failures().await;
        let callback_path = format!("{SITE}/.tollgate/callback");
        let mut browser = world.browser();
        let back = callback(&mut browser).await;
        let (login, _) = browser.jar("a.test").first_key_value().unwrap();
        let (login, session) = (login.clone(), login.split_once('.').unwrap().0.to_owned());
        let state = format!("state={}", "A".repeat(43));
        for (method, url, cookie) in [
            ("GET", callback_path.clone(), String::new()),
            ("POST", callback_path.clone(), String::new()),
            ("GET", format!("{callback_path}?code=a&state=b"), String::new()),
            ("GET", format!("{callback_path}?code=a&{state}"), String::new()),
            ("GET", format!("{callback_path}?code=a&{state}&{state}"), String::new()),
            ("GET", back.clone(), format!("Cookie: {login}=x\r\n")),
            ("GET", format!("{SITE}/"), format!("Cookie: {session}=x\r\n")),
            ("POST", format!("{SITE}/"), format!("Cookie: {session}=x\r\n")),
            ("POST", format!("{SITE}/"), format!("Cookie: {session}=x; {session}=x\r\n")),
            ("POST", format!("{SITE}/"), String::new()),
        ] {
            let answer = world.browser().send(method, &url, &cookie).await;
            assert_eq!(answer.status, 401, "{method} {url} {cookie}");
        }
        for lie in [Lie::Issuer, Lie::Nonce, Lie::Signature] {
            world.provider.set_lie(lie);
            assert_eq!(world.browser().follow(&format!("{SITE}/")).await.status, 401, "{lie:?}");
        }
        world.provider.set_lie(Lie::Nothing);
        // Nor by a provider that does not know the proxy.
        std::fs::write(world.proxy.dir.path().join("client"), "a secret from before").unwrap();
        world.count_failures().await;
        for _ in 0..3 {
            assert_eq!(world.browser().follow(&format!("{SITE}/")).await.status, 401);
        }
        std::fs::write(world.proxy.dir.path().join("client"), CLIENT.1).unwrap();
        world.count_failures().await;
        world.logged_in().await;
    })
    .await;
}

#[tokio::test]
async fn row_57_whoever_makes_up_codes_is_not_listened_to() {
    within(async {
        let world = World::with("timeout = \"30s\"").await;
        world.count_failures().await;
        for waits in [true, false] {
            let mut guessing = world.browser();
            guessing.address = [127, 0, 0, 2 + u8::from(waits)].into();
            let back = callback(&mut guessing).await;
            let guess = back.replace("code=code-", "code=guess-");
            assert_ne!(guess, back);
            if waits {
                assert_eq!(guessing.go(&guess).await.status, 401);
                assert!(guessing.jar("a.test").is_empty());
            } else {
                let before = world.provider.exchanges();
                world.provider.answer_codes(false);
                tokio::select! {
                    answer = guessing.go(&guess) => panic!("{}", answer.head),
                    () = eventually("it comes", async || world.provider.exchanges() > before) => {}
                }
                world.provider.answer_codes(true);
            }
            let mut next = world.browser();
            next.address = guessing.address;
            let site = format!("{SITE}/");
            eventually("nobody listens", async || next.send("POST", &site, "").await.status == 429)
                .await;
        }
        world.logged_in().await;
    })
    .await;
}

#[tokio::test]
async fn row_57_a_login_asks_the_provider_once_and_is_forgotten_when_it_fails() {
    within(async {
        let world = World::with("").await;
        for lie in [Lie::Code, Lie::Nonce, Lie::Failing] {
            world.provider.set_lie(lie);
            let mut browser = world.browser();
            let back = callback(&mut browser).await;
            let before = browser.jar("a.test").clone();
            let exchanges = world.provider.exchanges();
            let answer = browser.go(&back).await;
            assert!(matches!(answer.status, 401 | 503), "{lie:?}: {}", answer.head);
            assert_eq!(answer.field("www-authenticate").is_some(), answer.status == 401);
            assert!(browser.jar("a.test").is_empty(), "{lie:?}");
            // With the cookie from before nothing more is asked.
            world.provider.set_lie(Lie::Nothing);
            for _ in 0..3 {
                *browser.jar("a.test") = before.clone();
                assert_eq!(browser.go(&back).await.status, 401, "{lie:?}");
            }
            assert_eq!(world.provider.exchanges(), exchanges + 1, "{lie:?}");
            assert_eq!(browser.follow(&format!("{SITE}/")).await.status, 200, "{lie:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn who_does_not_wait_for_the_end_of_a_login_is_let_in_on_coming_again() {
    within(async {
        let world = World::with("timeout = \"30s\"").await;
        let (mut first, mut second) = (world.browser(), world.browser());
        let back = callback(&mut first).await;
        second.jar("a.test").clone_from(first.jar("a.test"));
        world.provider.answer_codes(false);
        tokio::select! {
            answer = first.go(&back) => panic!("{}", answer.head),
            () = eventually("the code comes", async || world.provider.exchanges() == 1) => {}
        }
        drop(first);
        let release = async {
            // The second waits meanwhile, or comes when all is done.
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            world.provider.answer_codes(true);
        };
        let (answer, ()) = tokio::join!(second.go(&back), release);
        assert_eq!((answer.status, answer.field("location")), (302, Some("https://a.test/")));
        assert_eq!(world.provider.exchanges(), 1);
        assert_eq!(second.go(&format!("{SITE}/")).await.status, 200);
    })
    .await;
}

#[tokio::test]
async fn row_57_one_address_leaves_room_for_the_logins_of_others() {
    within(async {
        let world = World::with("timeout = \"30s\"").await;
        let mut browsers = Vec::new();
        for _ in 0..9 {
            let mut browser = world.browser();
            let back = callback(&mut browser).await;
            browsers.push((browser, back));
        }
        let (mut late, back) = browsers.pop().unwrap();
        let mut other = world.browser();
        other.address = [127, 0, 0, 2].into();
        let others = callback(&mut other).await;
        world.provider.answer_codes(false);
        let all = browsers.iter_mut().map(|(browser, back)| browser.go(back));
        let then = async {
            eventually("all codes come", async || world.provider.exchanges() == 8).await;
            let answer = late.go(&back).await;
            assert_eq!(answer.status, 503, "{}", answer.head);
            let answered = async {
                eventually("the other's comes", async || world.provider.exchanges() == 9).await;
                world.provider.answer_codes(true);
            };
            let (answer, ()) = tokio::join!(other.go(&others), answered);
            assert_eq!(answer.status, 302, "{}", answer.head);
        };
        let (answers, ()) = tokio::join!(futures_util::future::join_all(all), then);
        assert!(answers.iter().all(|answer| answer.status == 302));
        // Whoever was turned away comes again.
        assert_eq!(late.go(&back).await.status, 302);
        assert_eq!(world.provider.exchanges(), 10);
    })
    .await;
}
