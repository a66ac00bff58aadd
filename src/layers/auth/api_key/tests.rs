use super::*;
use crate::pace::Quota;
use http::Request;
use std::num::NonZeroU32;
use std::time::{Duration, SystemTime};

fn key(name: &str, secret: &str) -> ApiKey {
    ApiKey::new(name, KeyDigest::of(secret.as_bytes()))
}

fn judged(keys: &ApiKeys, uri: &str, fields: &[(&str, &str)]) -> Verdict {
    let mut request = Request::get(uri);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let parts = request.body(()).unwrap().into_parts().0;
    match keys.judge(&Asked::of(&parts, None)) {
        Judging::Now(verdict) => verdict,
        Judging::Body(_) | Judging::Later(_) => panic!("nothing has to be asked"),
    }
}

fn name(verdict: &Verdict) -> Result<&str, &'static str> {
    match verdict {
        Verdict::Granted(grant) => Ok(&grant.identity.as_ref().unwrap().name),
        Verdict::Refused(why) | Verdict::Outdated(why) => Err(why),
        Verdict::Absent => Err("absent"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_key_has_a_name_and_one_name_may_have_several() {
    let keys = [key("alice", "a1"), key("bob", "b2"), key("alice", "a3")];
    let keys = ApiKeys::new(&ApiKeySettings::new(keys));
    for (secret, whose) in [
        ("a1", Ok("alice")),
        ("b2", Ok("bob")),
        ("a3", Ok("alice")),
        ("a2", Err("auth_invalid")),
        ("A1", Err("auth_invalid")),
        ("", Err("auth_invalid")),
    ] {
        assert_eq!(name(&judged(&keys, "/", &[("x-api-key", secret)])), whose, "{secret}");
    }
    assert_eq!(name(&judged(&keys, "/", &[])), Err("absent"));
    let twice = [("x-api-key", "a1"), ("x-api-key", "a1")];
    assert_eq!(name(&judged(&keys, "/", &twice)), Err("auth_ambiguous"));
    // Where a key may not be, it is none.
    assert_eq!(name(&judged(&keys, "/?api_key=a1", &[])), Err("absent"));
    assert_eq!(name(&judged(&keys, "/", &[("authorization", "Bearer a1")])), Err("absent"));
}

#[test]
fn a_key_counts_from_its_beginning_to_its_end() {
    let now = SystemTime::now();
    let (before, after) = (now - Duration::from_secs(60), now + Duration::from_secs(60));
    let of =
        |secret: &str, not_before, expires| ApiKey { not_before, expires, ..key("ci", secret) };
    let keys = ApiKeys::new(&ApiKeySettings::new([
        of("now", Some(before), Some(after)),
        of("early", Some(after), None),
        of("late", None, Some(before)),
    ]));
    let asked = |secret: &str| judged(&keys, "/", &[("x-api-key", secret)]);
    assert_eq!(name(&asked("now")), Ok("ci"));
    assert_eq!(name(&asked("early")), Err("auth_not_yet"));
    assert_eq!(name(&asked("late")), Err("auth_expired"));
}

#[test]
fn what_a_key_brings_goes_on_and_the_key_does_not() {
    let mut ci = key("ci", "a1");
    ci.id = Some("3fa9".into());
    ci.scopes = ["read".into(), "write".into()].into();
    ci.quota = Some(Quota::new(NonZeroU32::MIN, Duration::from_secs(1)));
    let mut settings = ApiKeySettings::new([ci]);
    (settings.bearer, settings.query) = (true, Some("k".into()));
    settings.identity_header = Some(HeaderName::from_static("x-client"));
    settings.scopes_header = Some(HeaderName::from_static("x-scopes"));
    let keys = ApiKeys::new(&settings);
    assert_eq!(keys.secret_parameter().as_deref(), Some("k"));
    assert_eq!(keys.identity_fields().len(), 2);
    for (uri, fields, removed) in [
        ("/", &[("x-api-key", "a1")][..], &["x-api-key"][..]),
        ("/", &[("authorization", "Bearer a1")], &["x-api-key", "authorization"]),
        ("/?k=a1", &[("authorization", "Basic abc")], &["x-api-key"]),
    ] {
        let Verdict::Granted(grant) = judged(&keys, uri, fields) else { panic!("{uri}") };
        let (identity, changes) = (grant.identity.unwrap(), grant.changes.unwrap());
        assert!(identity.has_scope("write") && identity.quota.is_some());
        assert_eq!(identity.claims["key_id"], "3fa9");
        assert_eq!(changes.remove, removed, "{uri}");
        assert_eq!(changes.strip_query.as_deref(), Some("k"));
        let set: Vec<_> =
            changes.set.iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect();
        assert_eq!(set, [("x-client", "ci"), ("x-scopes", "read write")]);
    }
}

#[test]
fn each_of_many_keys_is_found_and_no_other_is() {
    let many = (0..1_000).map(|n| key(&format!("client-{n}"), &format!("secret-{n}")));
    let keys = ApiKeys::new(&ApiKeySettings::new(many));
    for n in 0..1_000 {
        let asked = |secret: String| judged(&keys, "/", &[("x-api-key", &secret)]);
        assert_eq!(name(&asked(format!("secret-{n}"))), Ok(&*format!("client-{n}")));
        assert_eq!(name(&asked(format!("Secret-{n}"))), Err("auth_invalid"));
    }
}

#[test]
fn nobodys_digest_lets_nobody_in() {
    let mut keys = ApiKeys::new(&ApiKeySettings::new([]));
    keys.nobody = KeyDigest::of(b"x");
    assert_eq!(name(&judged(&keys, "/", &[("x-api-key", "x")])), Err("auth_invalid"));
}

#[test]
fn a_challenge_says_where_a_key_may_be() {
    let mut settings = ApiKeySettings::new([]);
    assert_eq!(challenge(&settings), "ApiKey realm=\"tollgate\", header=\"x-api-key\"");
    settings.bearer = true;
    assert_eq!(challenge(&settings), "Bearer realm=\"tollgate\"");
}

#[test]
fn where_keys_stand_elsewhere_as_well_any_token_may_be_one() {
    let (mut settings, mut seen) = (ApiKeySettings::new([key("ci", "a1")]), Vec::new());
    settings.bearer = true;
    for redis in [None, Some(RedisKeySettings::new("keys"))] {
        settings.redis = redis;
        let keys = ApiKeys::new(&settings);
        for (line, kept) in [
            ("Bearer a1", &[][..]),
            ("bearer other", &[]),
            ("Basic other", &[]),
            ("Bearer other", &[AUTHORIZATION]),
        ] {
            let request = Request::get("/").header(AUTHORIZATION, line).body(()).unwrap();
            let mut parts = request.into_parts().0;
            keys.conceal(&mut parts, kept);
            seen.push(parts.headers.contains_key(AUTHORIZATION));
        }
    }
    assert_eq!(seen, [false, true, true, true, false, false, true, true]);
}
