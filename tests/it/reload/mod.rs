//! A configuration takes the place of another while requests are answered.

mod certificates;
mod commands;
mod lame_duck;
mod limits;
mod listeners;
mod log;
mod process;
mod restart;
mod under_way;
mod upgrade;
mod upstreams;

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tollgate::admin::{Operator, Refused, Reload};
use tollgate::observe::{ReloadResult, ReloadTrigger};

use crate::support::certs::Authority;
use crate::support::client::{self, Raw};
use crate::support::origin::Origin;
use crate::support::proxy::{Running, Setup};
use crate::support::{eventually, within};

/// Nothing follows the file by itself.
pub const BY_HAND: &str = "reload_on_change = false";

fn to(origin: &Origin) -> Setup {
    Setup::forwarding_to(origin).server(BY_HAND)
}

pub async fn reload(proxy: &Running, setup: &Setup) -> Result<u64, Refused> {
    proxy.write(setup);
    let done = proxy.control.reload_now(ReloadTrigger::Api, Reload::default()).await?;
    Ok(done.generation)
}

/// Asks the admin listener; gives status and JSON.
pub async fn api(admin: SocketAddr, method: &str, path: &str, body: &str) -> (u16, Value) {
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    );
    let answer = client::ask(admin, request).await;
    (answer.status, serde_json::from_slice(&answer.body).unwrap_or_default())
}

/// Whether the metrics have this line.
async fn counts(admin: SocketAddr, line: &str) -> bool {
    let metrics = client::ask(admin, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    metrics.text().lines().any(|known| known == line)
}

async fn ask(client: &mut Raw, path: &str) -> client::Answer {
    client.send(format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n")).await;
    client.answer().await
}

#[tokio::test]
async fn the_next_request_of_an_open_connection_goes_by_the_new_configuration() {
    within(async {
        let (one, two) = (Origin::named("one").await, Origin::named("two").await);
        let proxy = to(&one).start();
        let mut client = Raw::connect(proxy.address).await;
        assert_eq!(ask(&mut client, "/").await.text(), "one");
        assert_eq!(reload(&proxy, &to(&two)).await, Ok(2));
        assert_eq!(ask(&mut client, "/").await.text(), "two");
        // And what stayed the same is not made anew.
        assert_eq!(reload(&proxy, &to(&two).and("[log]\nlevel = \"warn\"")).await, Ok(3));
        assert_eq!(ask(&mut client, "/").await.text(), "two");
        assert_eq!(two.connections(), 1);
        assert_eq!(reload(&proxy, &to(&two).and("[log]\nlevel = \"warn\"")).await, Ok(3));
    })
    .await;
}

#[tokio::test]
async fn what_is_wrong_leaves_everything_as_it_was() {
    within(async {
        let origin = Origin::named("one").await;
        let proxy = to(&origin).start();
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = taken.local_addr().unwrap();
        let mut client = Raw::connect(proxy.address).await;
        for (wrong, said) in [
            ("[[route]]\nname = 3".to_owned(), "config.toml:"),
            ("nonsense".to_owned(), "config.toml:"),
            (
                "[[listener]]\nname = \"tls\"\naddress = \"127.0.0.1:0\"\n[listener.tls]\n\
                 certificates = [{ certificate = \"config.toml\", key = \"config.toml\" }]"
                    .to_owned(),
                "listener `tls`",
            ),
            (
                format!("[[listener]]\nname = \"more\"\naddress = \"{taken}\""),
                "another process listens there",
            ),
        ] {
            let refused = reload(&proxy, &to(&origin).and(&wrong)).await.unwrap_err();
            assert!(refused.to_string().contains(said), "{refused}");
            assert!(matches!(refused, Refused::Invalid(_)), "{refused:?}");
            let status = proxy.control.status();
            assert_eq!(status.generation, 1);
            let last = status.last_reload.unwrap();
            assert_eq!((last.trigger, last.result), (ReloadTrigger::Api, ReloadResult::Failed));
            assert_eq!(last.report, Some(refused.to_string()));
            assert_eq!(ask(&mut client, "/").await.text(), "one");
        }
        let metrics = client::ask(proxy.admin, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await
            .text();
        let failed = "tollgate_config_reloads_total{trigger=\"api\",result=\"failed\"} 4\n";
        assert!(metrics.contains(failed), "{metrics}");
        assert_eq!(reload(&proxy, &to(&origin).server("max_in_flight = 9")).await, Ok(2));
        assert_eq!(origin.connections(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_plan_says_what_would_change_and_changes_nothing() {
    within(async {
        let (one, two) = (Origin::named("one").await, Origin::named("two").await);
        let proxy = to(&one).start();
        proxy.write(&to(&two));
        let how = Reload { plan_only: true, confirm: None };
        let plan = proxy.control.reload_now(ReloadTrigger::Api, how).await.unwrap();
        assert!(plan.changed);
        assert_eq!(plan.generation, 1);
        let [gone, new] = [&one, &two].map(ToString::to_string);
        assert!(plan.text.contains(&gone) && plan.text.contains(&new), "{}", plan.text);
        assert_eq!(client::get(proxy.address, "/", "").await.text(), "one");
    })
    .await;
}

#[tokio::test]
async fn what_nobody_confirms_is_rolled_back() {
    within(async {
        let (one, two) = (Origin::named("one").await, Origin::named("two").await);
        let proxy = to(&one).start();
        let mut client = Raw::connect(proxy.address).await;
        let confirm = Some(Duration::from_secs(3));
        let how = Reload { plan_only: false, confirm };
        proxy.write(&to(&two));
        let done = proxy.control.reload_now(ReloadTrigger::Api, how).await.unwrap();
        assert_eq!((done.generation, done.confirm_within), (2, confirm));
        assert_eq!(ask(&mut client, "/").await.text(), "two");
        // Until it is settled nothing else comes into force.
        let refused = reload(&proxy, &to(&one)).await.unwrap_err();
        assert!(matches!(refused, Refused::Conflict(_)), "{refused:?}");
        eventually("it is rolled back", async || {
            let status = proxy.control.status();
            let report = status.last_reload.and_then(|last| last.report);
            assert_eq!(report, None, "it cannot be rolled back");
            status.generation == 3
        })
        .await;
        assert_eq!(ask(&mut client, "/").await.text(), "one");
        assert!(proxy.control.status().pending_confirm.is_none());

        proxy.write(&to(&two));
        let how = Reload { plan_only: false, confirm: Some(Duration::from_secs(60)) };
        proxy.control.reload_now(ReloadTrigger::Api, how).await.unwrap();
        assert_eq!(proxy.control.keep().await, Ok(4));
        assert!(proxy.control.status().pending_confirm.is_none());
        assert!(matches!(proxy.control.keep().await, Err(Refused::Conflict(_))));
        assert_eq!(ask(&mut client, "/").await.text(), "two");
        assert_eq!(proxy.control.back().await.unwrap().generation, 5);
        assert_eq!(ask(&mut client, "/").await.text(), "one");
    })
    .await;
}

#[tokio::test]
async fn what_the_watch_was_quicker_to_take_in_can_be_confirmed_too() {
    within(async {
        let (one, two) = (Origin::named("one").await, Origin::named("two").await);
        let proxy = Setup::forwarding_to(&one).start();
        proxy.write(&Setup::forwarding_to(&two));
        eventually("it is in force", async || proxy.control.status().generation == 2).await;
        let how = Reload { plan_only: false, confirm: Some(Duration::from_secs(1)) };
        let done = proxy.control.reload_now(ReloadTrigger::Api, how).await.unwrap();
        assert_eq!((done.changed, done.generation), (false, 2));
        assert_eq!(done.confirm_within, how.confirm);
        eventually("it is rolled back", async || proxy.control.status().generation == 3).await;
        assert_eq!(client::get(proxy.address, "/", "").await.text(), "one");
    })
    .await;
}

#[tokio::test]
async fn what_was_rolled_back_does_not_come_back_by_itself() {
    within(async {
        let (one, two) = (Origin::named("one").await, Origin::named("two").await);
        let proxy = to(&one).start();
        let mut client = Raw::connect(proxy.address).await;
        assert_eq!(reload(&proxy, &to(&two)).await, Ok(2));
        assert_eq!(proxy.control.back().await.unwrap().generation, 3);
        // As when logs are rotated.
        let again = async |trigger| proxy.control.reload_now(trigger, Reload::default()).await;
        let refused = again(ReloadTrigger::Signal).await.unwrap_err();
        assert!(refused.to_string().contains("still holds what was rolled back"), "{refused}");
        assert!(matches!(again(ReloadTrigger::File).await, Err(Refused::Conflict(_))));
        assert_eq!(ask(&mut client, "/").await.text(), "one");
        // Put right, it is read again; and whoever asks for it by name gets it.
        proxy.write(&to(&one).server("max_in_flight = 9"));
        assert_eq!(again(ReloadTrigger::Signal).await.unwrap().generation, 4);
        assert_eq!(reload(&proxy, &to(&two)).await, Ok(5));
        assert_eq!(proxy.control.back().await.unwrap().generation, 6);
        assert_eq!(again(ReloadTrigger::Api).await.unwrap().generation, 7);
        assert_eq!(ask(&mut client, "/").await.text(), "two");
    })
    .await;
}

#[tokio::test]
async fn a_change_of_the_file_is_taken_in_by_itself() {
    within(async {
        let (one, two) = (Origin::named("one").await, Origin::named("two").await);
        let proxy = Setup::forwarding_to(&one).start();
        let mut client = Raw::connect(proxy.address).await;
        assert_eq!(ask(&mut client, "/").await.text(), "one");
        proxy.write(&Setup::forwarding_to(&two).and("nonsense"));
        let failed = |proxy: &Running| {
            let last = proxy.control.status().last_reload;
            last.is_some_and(|last| last.result == ReloadResult::Failed)
        };
        eventually("the report", async || failed(&proxy)).await;
        assert_eq!(ask(&mut client, "/").await.text(), "one");
        proxy.write(&Setup::forwarding_to(&two));
        // Whoever looks what that would change does not take it in.
        let how = Reload { plan_only: true, confirm: None };
        proxy.control.reload_now(ReloadTrigger::Api, how).await.unwrap();
        eventually("the other origin", async || ask(&mut client, "/").await.text() == "two").await;
        assert_eq!(proxy.control.status().last_reload.unwrap().trigger, ReloadTrigger::File);
    })
    .await;
}

#[tokio::test]
async fn a_secret_of_its_own_file_is_followed_too() {
    within(async {
        let origin = Origin::named("one").await;
        let dir = tempfile::TempDir::new().unwrap();
        std::fs::write(dir.path().join("key"), "first\n").unwrap();
        let guarded = "[[route]]\nname = \"guarded\"\npath = \"/guarded\"\n\
                       upstream = \"origin\"\n[route.api_key]\n\
                       keys = [{ name = \"ci\", key = \"file:key\" }]";
        let proxy = Setup::forwarding_to(&origin).and(guarded).start_in(dir);
        let status = async |key: &str| {
            let field = format!("X-API-Key: {key}\r\n");
            client::get(proxy.address, "/guarded", &field).await.status
        };
        assert_eq!((status("first").await, status("second").await), (200, 401));
        std::fs::write(proxy.dir.path().join("key"), "second\n").unwrap();
        eventually("the other key", async || status("second").await == 200).await;
        assert_eq!(status("first").await, 401);
    })
    .await;
}

#[tokio::test]
async fn a_certificate_is_renewed_while_the_configuration_is_broken() {
    within(async {
        let dir = tempfile::TempDir::new().unwrap();
        let authority = Authority::new();
        authority.sign(dir.path(), "a", &["a.test"]);
        let origin = Origin::named("one").await;
        let tls = "[listener.tls]\ncertificates = [{ certificate = \"a.crt\", key = \"a.key\" }]";
        let proxy = Setup::forwarding_to(&origin).listener(tls).start_in(dir);
        let shown = || proxy.control.certificates()[0]["sha256"].clone();
        let before = shown();
        proxy.write(&Setup::new("nonsense"));
        let failed = || proxy.control.status().last_reload.map(|last| last.result);
        eventually("it is found broken", async || failed() == Some(ReloadResult::Failed)).await;
        authority.sign(proxy.dir.path(), "a", &["a.test"]);
        eventually("the new certificate", async || shown() != before).await;
        assert_eq!(failed(), Some(ReloadResult::Failed));
    })
    .await;
}

#[tokio::test]
async fn a_rollback_does_not_bring_back_a_certificate_that_was_renewed_since() {
    within(async {
        let dir = tempfile::TempDir::new().unwrap();
        let authority = Authority::new();
        authority.sign(dir.path(), "a", &["a.test"]);
        let origin = Origin::named("one").await;
        let tls = "[listener.tls]\ncertificates = [{ certificate = \"a.crt\", key = \"a.key\" }]";
        let setup = || to(&origin).listener(tls);
        let proxy = setup().start_in(dir);
        assert_eq!(reload(&proxy, &setup().and("[log]\nlevel = \"warn\"")).await, Ok(2));
        let shown = || proxy.control.certificates()[0]["sha256"].clone();
        let before = shown();
        authority.sign(proxy.dir.path(), "a", &["a.test"]);
        eventually("the new certificate", async || shown() != before).await;
        let renewed = shown();
        assert_eq!(proxy.control.back().await.unwrap().generation, 3);
        assert_eq!(shown(), renewed);
    })
    .await;
}
