use super::*;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Request;
use std::time::Duration;

fn user(name: &str, password: &str) -> BasicUser {
    let password = PasswordHash::of(password, PasswordScheme::Argon2id).unwrap();
    BasicUser { name: name.into(), password, scopes: ["read".into()].into() }
}

async fn judged(basic: &Basic, both: &str) -> Verdict {
    let authorization = format!("Basic {}", STANDARD.encode(both));
    let request = Request::get("/").header("authorization", authorization).body(()).unwrap();
    let parts = request.into_parts().0;
    match basic.judge(&Asked::of(&parts, None)) {
        Judging::Now(verdict) => verdict,
        Judging::Body(_) => panic!("no body has to be seen"),
        Judging::Later(later) => later.await,
    }
}

fn name(verdict: &Verdict) -> Result<&str, &'static str> {
    match verdict {
        Verdict::Granted(grant) => Ok(&grant.identity.as_ref().unwrap().name),
        Verdict::Refused(why) => Err(why),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn each_user_comes_in_by_the_own_password_only() {
    let mut settings = BasicSettings::new([user("alice", "a:1"), user("bob", "b2")]);
    settings.identity_header = Some(HeaderName::from_static("x-user"));
    settings.scopes_header = Some(HeaderName::from_static("x-scopes"));
    let basic = Basic::new(&settings);
    assert_eq!(name(&judged(&basic, "bob:b2").await), Ok("bob"));
    for both in ["alice:b2", "bob:a:1", "alice:", "Alice:a:1", "alice:a", ":a:1", "carol:b2"] {
        assert_eq!(name(&judged(&basic, both).await), Err("auth_invalid"), "{both}");
    }
    let Verdict::Granted(grant) = judged(&basic, "alice:a:1").await else { panic!() };
    let changes = grant.changes.unwrap();
    assert_eq!(changes.remove, [header::AUTHORIZATION]);
    let set: Vec<_> = changes.set.iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect();
    assert_eq!(set, [("x-user", "alice"), ("x-scopes", "read")]);
    assert!(grant.identity.unwrap().has_scope("read"));
}

#[tokio::test]
async fn a_name_that_nobody_has_is_as_much_work_as_a_wrong_password() {
    let mut odd = user("odd", "o3");
    odd.password = PasswordHash::of("o3", PasswordScheme::Bcrypt).unwrap();
    let users = [odd, user("alice", "a1"), user("bob", "b2")];
    let mut settings = BasicSettings::new(users);
    settings.cache = Duration::ZERO;
    let basic = Basic::new(&settings);
    // The same parameters as most have, and one hash for each question.
    assert_eq!(basic.nobody.password.effort(), basic.users["alice"].password.effort());
    for (hashed, both) in (1..).zip(["alice:x", "nobody:x", "bob:a1", "nobody:a1"]) {
        assert_eq!(name(&judged(&basic, both).await), Err("auth_invalid"));
        assert_eq!(basic.verifier.hashed(), hashed, "{both}");
    }
}

#[tokio::test]
async fn nobody_comes_in_as_nobody_even_with_nobodys_password() {
    let mut basic = Basic::new(&BasicSettings::new([user("alice", "a1")]));
    basic.nobody.password = basic.users["alice"].password.clone();
    // Once hashed, and once remembered.
    for _ in 0..2 {
        assert_eq!(name(&judged(&basic, "carol:a1").await), Err("auth_invalid"));
    }
    let nobody = Basic::new(&BasicSettings::new([]));
    assert_eq!(name(&judged(&nobody, ":").await), Err("auth_invalid"));
}

#[tokio::test]
async fn what_was_right_is_not_hashed_again_and_what_was_wrong_neither() {
    let basic = Basic::new(&BasicSettings::new([user("alice", "a1")]));
    for both in ["alice:a1", "alice:a1", "alice:a2", "alice:a2", "carol:a1", "carol:a1"] {
        let _verdict = judged(&basic, both).await;
    }
    assert_eq!(basic.verifier.hashed(), 3);
}

#[tokio::test]
async fn who_was_let_in_is_not_hashed_again_where_something_else_changes() {
    let (alice, bob) = (user("alice", "a1"), user("bob", "b2"));
    let mut settings = BasicSettings::new([alice.clone()]);
    let basic = Basic::new(&settings);
    assert_eq!(name(&judged(&basic, "alice:a1").await), Ok("alice"));
    settings.users = [bob, alice].into();
    let basic = Basic::after(Some(&basic), &settings);
    assert_eq!(name(&judged(&basic, "alice:a1").await), Ok("alice"));
    assert_eq!(basic.verifier.hashed(), 1);
    // Another password is another hash, which nothing is known of.
    settings.users = [user("alice", "a2")].into();
    let basic = Basic::after(Some(&basic), &settings);
    assert_eq!(name(&judged(&basic, "alice:a1").await), Err("auth_invalid"));
    // Who is gone is out at once.
    settings.users = [user("bob", "b2")].into();
    let basic = Basic::after(Some(&basic), &settings);
    assert_eq!(name(&judged(&basic, "alice:a1").await), Err("auth_invalid"));
    // What is remembered for another time is remembered anew.
    settings.cache = Duration::ZERO;
    let basic = Basic::after(Some(&basic), &settings);
    assert_eq!(basic.verifier.hashed(), 0);
}

#[test]
fn a_realm_is_quoted() {
    assert_eq!(challenge("a \"b\" \\c"), "Basic realm=\"a \\\"b\\\" \\\\c\", charset=\"UTF-8\"");
}

#[test]
fn neither_passwords_nor_hashes_are_shown() {
    let settings = BasicSettings::new([user("alice", "hunter2")]);
    let shown = format!("{settings:?} {:?}", Basic::new(&settings));
    assert!(!shown.contains("argon2id$") && !shown.contains("hunter2"), "{shown}");
}
