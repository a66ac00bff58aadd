//! Basic authentication, with files of users.

use std::time::Duration;

use tempfile::TempDir;
use tollgate::layers::{PasswordHash, PasswordScheme};

use crate::support::client::{Raw, ask};
use crate::support::https::{Https, VERSIONS};
use crate::support::origin::Origin;
use crate::support::proxy::Setup;
use crate::support::{eventually, within};

fn line(name: &str, password: &str, scheme: PasswordScheme) -> String {
    format!("{name}:{}\n", PasswordHash::of(password, scheme).unwrap())
}

/// One route, for whoever has a password.
fn guarded(origin: &Origin, settings: &str) -> Setup {
    guarded_with(origin, settings, "\"unlimited\"")
}

fn guarded_with(origin: &Origin, settings: &str, failures: &str) -> Setup {
    Setup::new(format!(
        "[[upstream]]\nname = \"origin\"\norigins = [\"{origin}\"]\n\
         [[auth]]\nname = \"people\"\n[auth.basic]\n{settings}\n\
         [[route]]\nname = \"all\"\nupstream = \"origin\"\n\
         auth = {{ any = [\"people\"], failures = {failures} }}\n"
    ))
}

fn with_users(users: &str) -> TempDir {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("htpasswd"), users).unwrap();
    dir
}

/// `Authorization` for a name and a password.
fn basic(both: &str) -> String {
    use base64::Engine;
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(both))
}

#[tokio::test]
async fn users_of_a_file_come_in_by_their_passwords_and_all_others_get_one_answer() {
    within(Box::pin(async {
        let origin = Origin::named("one").await;
        let users = [
            line("alice", "päss:wort", PasswordScheme::Argon2id),
            line("bob", "bobs-word", PasswordScheme::Bcrypt),
        ];
        let settings = "file = \"htpasswd\"\nrealm = \"the \\\"office\\\"\"\n\
                        identity_header = \"X-User\"";
        let setup = guarded(&origin, settings).json_log();
        let https = Https::start_in(setup, with_users(&users.concat()));
        let mut lines = 0;
        for version in VERSIONS {
            for (both, name) in [("alice:päss:wort", "alice"), ("bob:bobs-word", "bob")] {
                let fields = [("authorization", &*basic(both)), ("x_user", "root")];
                let got = https.get(version, "/", &fields).await;
                assert_eq!(got.status, 200, "{both}");
                let seen = origin.requests().pop().unwrap().to_ascii_lowercase();
                assert!(seen.contains(&format!("\r\nx-user: {name}\r\n")), "{seen}");
                assert!(!seen.contains("authorization") && !seen.contains("root"), "{seen}");
                lines += 1;
                let log = https.proxy.log_lines(lines).await.pop().unwrap();
                assert!(log.contains(&format!("\"identity\":\"{name}\"")), "{log}");
            }
            let missing = https.get(version, "/", &[]).await;
            lines += 1;
            assert_eq!(missing.status, 401);
            let challenge = "Basic realm=\"the \\\"office\\\"\", charset=\"UTF-8\"";
            assert_eq!(missing.field("www-authenticate"), challenge);
            for (why, authorization) in [
                ("auth_invalid", basic("alice:wrong")),
                ("auth_invalid", basic("nobody:päss:wort")),
                ("auth_invalid", basic("Alice:päss:wort")),
                ("auth_invalid", basic("alice:")),
                ("auth_malformed", basic("alice")),
                ("auth_malformed", "Basic §".to_owned()),
                ("auth_missing", "Bearer bobs-word".to_owned()),
            ] {
                let got = https.get(version, "/", &[("authorization", &authorization)]).await;
                assert_eq!(got.told(), missing.told(), "{why} {authorization}");
                lines += 1;
                let log = https.proxy.log_lines(lines).await.pop().unwrap();
                assert!(log.contains(&format!("\"rejected\":\"{why}\"")), "{log}");
            }
        }
        let log = https.proxy.log_lines(lines).await.concat();
        for secret in ["wort", "word", "Basic", "wrong"] {
            assert!(!log.contains(secret), "{secret}: {log}");
        }
        assert_eq!(origin.requests().len(), 4);
    }))
    .await;
}

#[tokio::test]
async fn a_file_of_users_is_followed_and_who_is_gone_is_out_at_once() {
    within(async {
        let origin = Origin::named("one").await;
        let alice = line("alice", "a1", PasswordScheme::Bcrypt);
        let setup = guarded(&origin, "file = \"htpasswd\"\nforward_credentials = true");
        let https = Https::start_in(setup, with_users(&alice));
        let status = async |both: &str| {
            let authorization = basic(both);
            let got = https.get(VERSIONS[1], "/", &[("authorization", &authorization)]).await;
            got.status.as_u16()
        };
        assert_eq!((status("alice:a1").await, status("bob:bobs-word").await), (200, 401));
        assert!(origin.requests().pop().unwrap().contains(&basic("alice:a1")));
        let dir = https.proxy.dir.path();
        let replace = |text: &str| {
            std::fs::write(dir.join("new"), text).unwrap();
            std::fs::rename(dir.join("new"), dir.join("htpasswd")).unwrap();
        };
        replace(&line("bob", "bobs-word", PasswordScheme::Bcrypt));
        eventually("bob is let in", async || status("bob:bobs-word").await == 200).await;
        assert_eq!(status("alice:a1").await, 401);
        replace("bob:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\ncarol:hunter2\n");
        let reload = "POST /api/reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n";
        let text = ask(https.proxy.admin, reload).await.text();
        for part in ["htpasswd:1:5", "htpasswd:2:7", "tollgate hash-password --user carol"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("hunter2") && !text.contains("5en6G6"), "{text}");
        assert_eq!(status("bob:bobs-word").await, 200);
    })
    .await;
}

#[tokio::test]
async fn another_user_in_the_file_shuts_nobody_out_who_was_in() {
    within(async {
        let origin = Origin::named("one").await;
        // More than one address may have verified at once.
        let names: Vec<String> = (0..16).map(|number| format!("user-{number}")).collect();
        let users: String =
            names.iter().map(|name| line(name, "right", PasswordScheme::Argon2id)).collect();
        let https = Https::start_in(guarded(&origin, "file = \"htpasswd\""), with_users(&users));
        let status = async |name: &str| {
            let authorization = basic(&format!("{name}:right"));
            let got = https.get(VERSIONS[1], "/", &[("authorization", &authorization)]).await;
            got.status.as_u16()
        };
        for name in &names {
            assert_eq!(status(name).await, 200);
        }
        let dir = https.proxy.dir.path();
        let more = format!("{users}{}", line("bob", "right", PasswordScheme::Bcrypt));
        std::fs::write(dir.join("new"), more).unwrap();
        std::fs::rename(dir.join("new"), dir.join("htpasswd")).unwrap();
        eventually("bob is let in", async || status("bob").await == 200).await;
        let at_once = names.iter().map(|name| status(name));
        let told = futures_util::future::join_all(at_once).await;
        assert_eq!(told, [200; 16]);
    })
    .await;
}

#[tokio::test]
async fn whoever_goes_before_the_answer_has_failed_too() {
    within(async {
        let origin = Origin::named("one").await;
        let setup = guarded_with(&origin, "file = \"htpasswd\"", "{ rate = 3, per = \"1h\" }");
        let users = line("alice", "a1", PasswordScheme::Argon2id);
        let proxy = setup.start_in(with_users(&users));
        let request = |both: &str| {
            let authorization = basic(both);
            format!("GET / HTTP/1.1\r\nHost: a.test\r\nAuthorization: {authorization}\r\n\r\n")
        };
        let mut given_up = 0;
        eventually("the address is not listened to", async || {
            given_up += 1;
            let mut client = Raw::connect(proxy.address).await;
            client.send(request(&format!("alice:wrong-{given_up}"))).await;
            drop(client);
            tokio::time::sleep(Duration::from_millis(20)).await;
            ask(proxy.address, request("alice:a1")).await.status == 429
        })
        .await;
        assert!(given_up >= 3, "{given_up}");
    })
    .await;
}
