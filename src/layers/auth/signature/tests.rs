use std::sync::Arc;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request};

use super::*;
use crate::context::{Downstream, TlsFacts};

const SECRET: &[u8] = b"a secret that nobody can guess";
const NOW: u64 = 1_700_000_000;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn settings() -> SignatureSettings {
    let secret = VerifyingKey::secret(SECRET).unwrap();
    let mut key = SignatureKey::new("billing-2026", "billing", secret);
    key.scopes = vec!["invoices".into()];
    SignatureSettings::new(vec![key])
}

fn signatures(change: impl FnOnce(&mut SignatureSettings)) -> Signatures {
    let mut settings = settings();
    change(&mut settings);
    Signatures::begun(&settings, at(NOW - 3_600))
}

const PARAMS: &str = "(\"@method\" \"@authority\" \"@path\" \"@query\");created=1700000000;\
                      keyid=\"billing-2026\"";
const COVERED: &str = "\"@method\": GET\n\"@authority\": a.test\n\"@path\": /invoices\n\
                       \"@query\": ?id=7\n";

fn hmac(base: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET);
    STANDARD.encode(hmac::sign(&key, base.as_bytes()))
}

/// A request over TLS with a signature that is right for this base.
fn signed(covered: &str, params: &str) -> Parts {
    let signature = hmac(&format!("{covered}\"@signature-params\": {params}"));
    let (mut parts, ()) = Request::get("/invoices?id=7")
        .header("host", "a.test")
        .header("signature-input", format!("sig={params}"))
        .header("signature", format!("sig=:{signature}:"))
        .body(())
        .unwrap()
        .into_parts();
    let tls = Some(TlsFacts::default());
    parts.extensions.insert(Arc::new(Downstream { tls, ..Downstream::default() }));
    parts
}

fn judge_at(by: &Signatures, parts: &Parts, body: &[u8], now: u64) -> Result<String, Fault> {
    let body = Bytes::copy_from_slice(body);
    let grant = by.check(&Asked::of(parts, Some(&body)), at(now))?;
    Ok(grant.identity.as_ref().unwrap().name.to_string())
}

fn judge(by: &Signatures, parts: &Parts) -> Result<String, Fault> {
    judge_at(by, parts, b"", NOW)
}

fn refused(reason: &'static str) -> Result<String, Fault> {
    Err(Fault::Refused(reason))
}

fn outdated(reason: &'static str) -> Result<String, Fault> {
    Err(Fault::Outdated(reason))
}

fn let_in() -> Result<String, Fault> {
    Ok("billing".to_owned())
}

#[tokio::test]
async fn a_signature_that_is_right_lets_its_owner_in() {
    let by = signatures(|_| {});
    let parts = signed(COVERED, PARAMS);
    let no_body = Bytes::new();
    let asked = Asked::of(&parts, Some(&no_body));
    let grant = by.check(&asked, at(NOW)).unwrap();
    let identity = grant.identity.as_deref().unwrap();
    assert_eq!((&*identity.name, identity.scheme), ("billing", "signature"));
    assert!(identity.has_scope("invoices"));
    assert_eq!(identity.claims["keyid"], "billing-2026");
}

#[tokio::test]
async fn whatever_is_covered_and_changed_is_noticed() {
    let changes: [fn(&mut Parts); 5] = [
        |parts| parts.method = Method::DELETE,
        |parts| parts.uri = "/invoices?id=8".parse().unwrap(),
        |parts| parts.uri = "/Invoices?id=7".parse().unwrap(),
        |parts| parts.uri = "/invoices".parse().unwrap(),
        |parts| {
            parts.headers.insert("host", HeaderValue::from_static("b.test"));
        },
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let mut parts = signed(COVERED, PARAMS);
        change(&mut parts);
        let judged = judge(&signatures(|_| {}), &parts);
        assert_eq!(judged, refused("signature_wrong"), "{index}");
    }
    // A field's lines are one value: one more is another value.
    let params = PARAMS.replace("\"@query\"", "\"@query\" \"x-a\"");
    let covered = format!("{COVERED}\"x-a\": 1\n");
    let mut parts = signed(&covered, &params);
    parts.headers.append("x-a", HeaderValue::from_static("1"));
    assert_eq!(judge(&signatures(|_| {}), &parts), let_in());
    parts.headers.append("x-a", HeaderValue::from_static("2"));
    assert_eq!(judge(&signatures(|_| {}), &parts), refused("signature_wrong"));
    parts.headers.remove("x-a");
    assert_eq!(judge(&signatures(|_| {}), &parts), refused("signature_component"));
}

#[tokio::test]
async fn what_has_to_be_covered_is() {
    for (params, covered) in [
        (
            "(\"@method\" \"@authority\" \"@path\");created=1700000000;keyid=\"billing-2026\"",
            "\"@method\": GET\n\"@authority\": a.test\n\"@path\": /invoices\n",
        ),
        ("();created=1700000000;keyid=\"billing-2026\"", ""),
    ] {
        let parts = signed(covered, params);
        assert_eq!(judge(&signatures(|_| {}), &parts), refused("signature_not_covering"));
        assert_eq!(judge(&signatures(|of| of.required.clear()), &parts), let_in());
    }
    let params = "(\"@method\" \"@target-uri\");created=1700000000;keyid=\"billing-2026\"";
    let covered = "\"@method\": GET\n\"@target-uri\": https://a.test/invoices?id=7\n";
    assert_eq!(judge(&signatures(|_| {}), &signed(covered, params)), let_in());
    let plain = covered.replace("https", "http");
    let parts = signed(&plain, params);
    assert_eq!(judge(&signatures(|_| {}), &parts), refused("signature_wrong"));
    let behind = signatures(|of| of.scheme = Some(Scheme::Http));
    assert_eq!(judge(&behind, &parts), let_in());
}

#[tokio::test]
async fn a_body_has_to_be_covered_by_its_digest() {
    let body = b"{\"hello\": \"world\"}";
    let parts = signed(COVERED, PARAMS);
    let by = signatures(|_| {});
    assert_eq!(judge_at(&by, &parts, body, NOW), refused("signature_not_covering"));
    let digest = "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:";
    let params = PARAMS.replace("\"@query\"", "\"@query\" \"content-digest\"");
    let mut parts = signed(&format!("{COVERED}\"content-digest\": {digest}\n"), &params);
    parts.headers.insert("content-digest", HeaderValue::from_static(digest));
    assert_eq!(judge_at(&by, &parts, b"{\"hello\": \"earth\"}", NOW), refused("signature_digest"));
    assert_eq!(judge_at(&by, &parts, b"", NOW), refused("signature_digest"));
    assert_eq!(judge_at(&by, &parts, body, NOW), let_in());
    let unseen = by.check(&Asked::of(&parts, None), at(NOW)).unwrap_err();
    assert_eq!(unseen, Fault::Unseen);
    let heads_only = signatures(|of| of.required.truncate(4));
    assert!(heads_only.check(&Asked::of(&parts, None), at(NOW)).is_ok());
}

/// With a `Content-Digest` of the body `{"hello": "world"}`.
fn with_digest(covered: &str, params: &str, digest: &'static str) -> Parts {
    let mut parts = signed(covered, params);
    parts.headers.insert("content-digest", HeaderValue::from_static(digest));
    parts
}

const BODY: &[u8] = b"{\"hello\": \"world\"}";
const DIGEST: &str = "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:";

#[tokio::test]
async fn one_of_the_digests_ties_the_body_as_well_if_it_is_known() {
    let requiring = |component: &str| {
        signatures(|of| of.required = vec![Component::Method, component.parse().unwrap()])
    };
    let member = |name: &str, value: &str| {
        let params = format!(
            "(\"@method\" \"content-digest\";key=\"{name}\");created=1700000000;\
             keyid=\"billing-2026\""
        );
        let covered = format!("\"@method\": GET\n\"content-digest\";key=\"{name}\": {value}\n");
        (covered, params)
    };
    let (covered, params) = member("sha-256", ":X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:");
    let parts = with_digest(&covered, &params, DIGEST);
    let by = requiring("\"content-digest\";key=\"sha-256\"");
    assert_eq!(by.check(&Asked::of(&parts, None), at(NOW)).unwrap_err(), Fault::Unseen);
    assert_eq!(judge_at(&by, &parts, b"{}", NOW), refused("signature_digest"));
    assert_eq!(judge_at(&by, &parts, b"", NOW), refused("signature_digest"));
    assert_eq!(judge_at(&by, &parts, BODY, NOW), let_in());
    let without = signed(COVERED, PARAMS);
    assert_eq!(judge_at(&by, &without, BODY, NOW), refused("signature_not_covering"));
    assert_eq!(judge_at(&by, &without, b"", NOW), let_in());
    // It is less than all of the field, but nobody takes the body away that it is of.
    let by = requiring("content-digest");
    assert_eq!(judge_at(&by, &parts, BODY, NOW), refused("signature_not_covering"));
    assert_eq!(judge_at(&by, &parts, b"", NOW), refused("signature_digest"));
    // Beside one that nobody knows another may be put, of any body.
    let (covered, params) = member("md5", ":AAAA:");
    let both = "md5=:AAAA:, sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:";
    let parts = with_digest(&covered, &params, both);
    let by = requiring("\"content-digest\";key=\"md5\"");
    assert_eq!(judge_at(&by, &parts, BODY, NOW), refused("signature_not_covering"));
}

#[tokio::test]
async fn a_body_is_asked_for_once_it_is_known_who_sends_it_and_the_signature_is_good_once() {
    let by = signatures(|_| {});
    let head = |parts: &Parts| by.check(&Asked::of(parts, None), at(NOW)).map(|_| ());
    let params = PARAMS.replace("\"@query\"", "\"@query\" \"content-digest\"");
    let parts = with_digest(&format!("{COVERED}\"content-digest\": {DIGEST}\n"), &params, DIGEST);
    let mut wrong = parts.clone();
    wrong.method = Method::DELETE;
    assert_eq!(head(&wrong), Err(Fault::Refused("signature_wrong")));
    for _ in 0..2 {
        assert_eq!(head(&parts), Err(Fault::Unseen));
        assert_eq!(judge_at(&by, &parts, b"{}", NOW), refused("signature_digest"));
    }
    assert_eq!(judge_at(&by, &parts, BODY, NOW), let_in());
    assert_eq!(judge_at(&by, &parts, BODY, NOW), outdated("signature_replayed"));
    let asks = by.judge(&Asked::of(&signed(COVERED, &by_clock()), None));
    assert!(matches!(asks, Judging::Body(65_536)), "{asks:?}");
}

/// Made at this moment.
fn by_clock() -> String {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    PARAMS.replace("1700000000", &now.to_string())
}

#[tokio::test]
async fn a_signature_has_its_time() {
    let parts = signed(COVERED, PARAMS);
    for (now, judged) in [
        (NOW - 31, outdated("signature_from_the_future")),
        (NOW - 30, let_in()),
        (NOW + 330, let_in()),
        (NOW + 331, outdated("signature_too_old")),
        (NOW + 1_000_000, outdated("signature_too_old")),
    ] {
        assert_eq!(judge_at(&signatures(|_| {}), &parts, b"", now), judged, "{now}");
    }
    let expiring = format!("{PARAMS};expires=1700000060");
    let parts = signed(COVERED, &expiring);
    assert_eq!(judge_at(&signatures(|_| {}), &parts, b"", NOW + 90), let_in());
    let late = judge_at(&signatures(|_| {}), &parts, b"", NOW + 91);
    assert_eq!(late, outdated("signature_expired"));
    // Only of one that is right: another is wrong at any time.
    let mut changed = parts;
    changed.method = Method::DELETE;
    for now in [NOW - 31, NOW + 331] {
        let judged = judge_at(&signatures(|_| {}), &changed, b"", now);
        assert_eq!(judged, refused("signature_wrong"));
    }
    let timeless = PARAMS.replace(";created=1700000000", "");
    let judged = judge(&signatures(|_| {}), &signed(COVERED, &timeless));
    assert_eq!(judged, refused("signature_without_created"));
    for created in ["-999999999999999", "999999999999999", "0"] {
        let params = PARAMS.replace("1700000000", created);
        assert!(judge(&signatures(|_| {}), &signed(COVERED, &params)).is_err(), "{created}");
    }
}

#[tokio::test]
async fn a_signature_is_good_once() {
    let by = signatures(|_| {});
    let mut parts = signed(COVERED, PARAMS);
    assert_eq!(judge(&by, &parts), let_in());
    assert_eq!(judge(&by, &parts), outdated("signature_replayed"));
    // Neither another label nor what is not covered makes it another.
    let rename = |value: &HeaderValue| {
        HeaderValue::try_from(value.to_str().unwrap().replace("sig=", "other=")).unwrap()
    };
    for name in ["signature-input", "signature"] {
        let renamed = rename(&parts.headers[name]);
        parts.headers.insert(name, renamed);
    }
    parts.headers.insert("x-new", HeaderValue::from_static("1"));
    assert_eq!(judge(&by, &parts), outdated("signature_replayed"));

    let once = signed(COVERED, &format!("{PARAMS};nonce=\"a\""));
    let again = PARAMS.replace("1700000000", "1700000001") + ";nonce=\"a\"";
    assert_eq!(judge(&by, &once), let_in());
    assert_eq!(judge(&by, &signed(COVERED, &again)), outdated("signature_replayed"));
    assert_eq!(judge(&by, &signed(COVERED, &format!("{PARAMS};nonce=\"b\""))), let_in());

    let forgetful = signatures(|of| of.replay = false);
    assert_eq!(judge(&forgetful, &once), let_in());
    assert_eq!(judge(&forgetful, &once), let_in());

    let demanding = signatures(|of| of.nonce = true);
    assert_eq!(judge(&demanding, &once), let_in());
    let judged = judge(&demanding, &signed(COVERED, PARAMS));
    assert_eq!(judged, refused("signature_without_nonce"));
}

#[tokio::test]
async fn what_may_have_been_seen_before_the_start_is_not_let_in() {
    let mut settings = settings();
    let parts = signed(COVERED, PARAMS);
    let begun = |settings: &SignatureSettings, at: SystemTime| Signatures::begun(settings, at);
    let restarted = begun(&settings, at(NOW + 31));
    assert_eq!(judge_at(&restarted, &parts, b"", NOW + 40), outdated("signature_before_start"));
    assert_eq!(judge_at(&begun(&settings, at(NOW + 30)), &parts, b"", NOW + 40), let_in());
    settings.replay = false;
    let restarted = begun(&settings, at(NOW + 31));
    assert_eq!(judge_at(&restarted, &parts, b"", NOW + 40), let_in());
}

#[tokio::test]
async fn where_there_is_no_room_to_remember_nobody_is_let_in() {
    let by = signatures(|of| of.max_remembered = 0);
    let judged = judge(&by, &signed(COVERED, PARAMS));
    assert_eq!(judged, Err(Fault::Unavailable("signature_memory_full")));
}

#[tokio::test]
async fn whoever_signs_much_takes_nobody_elses_room() {
    let by = signatures(|of| {
        of.max_remembered = 16;
        of.keys.push(SignatureKey { id: "shop-1".to_owned(), ..of.keys[0].clone() });
    });
    let nth = |n: u32| signed(COVERED, &format!("{PARAMS};nonce=\"{n}\""));
    let full = Err(Fault::Unavailable("signature_memory_full"));
    let judged: Vec<_> = (0..1_000).map(|n| judge(&by, &nth(n))).collect();
    let (good, bad): (Vec<_>, Vec<_>) = judged.into_iter().partition(Result::is_ok);
    assert_eq!(good.len(), 16);
    assert!(bad.into_iter().all(|one| one == full));
    let other = PARAMS.replace("billing-2026", "shop-1");
    assert_eq!(judge(&by, &signed(COVERED, &other)), let_in());
}

/// A clock that is as fast at `start` as it may be, and a signature that is used again at the
/// end of its time.
#[tokio::test(start_paused = true)]
async fn a_signature_is_remembered_to_the_end_of_its_last_second() {
    let by = signatures(|_| {});
    let parts = signed(COVERED, PARAMS);
    tokio::time::advance(Duration::from_millis(359_900)).await;
    assert_eq!(judge_at(&by, &parts, b"", NOW - 30), let_in());
    tokio::time::advance(Duration::from_millis(360_300)).await;
    assert_eq!(judge_at(&by, &parts, b"", NOW + 330), outdated("signature_replayed"));
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_back_makes_nothing_good_again() {
    let by = signatures(|_| {});
    let parts = signed(COVERED, PARAMS);
    assert_eq!(judge(&by, &parts), let_in());
    tokio::time::advance(Duration::from_secs(800)).await;
    assert_eq!(judge_at(&by, &parts, b"", NOW + 10), outdated("signature_forgotten"));
    let newer = signed(COVERED, &PARAMS.replace("1700000000", "1700000005"));
    assert_eq!(judge_at(&by, &newer, b"", NOW + 10), let_in());
}

#[tokio::test]
async fn the_algorithm_is_the_keys() {
    let named = signed(COVERED, &format!("{PARAMS};alg=\"hmac-sha256\""));
    assert_eq!(judge(&signatures(|_| {}), &named), let_in());
    for other in ["ed25519", "none", "hs2019", ""] {
        let parts = signed(COVERED, &format!("{PARAMS};alg=\"{other}\""));
        let judged = judge(&signatures(|_| {}), &parts);
        assert_eq!(judged, refused("signature_algorithm"), "{other}");
    }
}

/// Whoever has a public key must not be able to use it as a secret.
#[tokio::test]
async fn a_public_key_is_not_taken_for_a_secret() {
    use crate::signature::Algorithm;
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
    let pair = Ed25519KeyPair::generate().unwrap();
    let public = pair.public_key().as_ref();
    let by = signatures(|of| {
        of.keys[0].key = VerifyingKey::public(Algorithm::Ed25519, public).unwrap();
    });
    let base = format!("{COVERED}\"@signature-params\": {PARAMS}");
    let with = |signature: &[u8]| {
        let mut parts = signed(COVERED, PARAMS);
        let signature = format!("sig=:{}:", STANDARD.encode(signature));
        parts.headers.insert("signature", HeaderValue::try_from(signature).unwrap());
        parts
    };
    let forged = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, public), base.as_bytes());
    assert_eq!(judge(&by, &with(forged.as_ref())), refused("signature_wrong"));
    assert_eq!(judge(&by, &with(pair.sign(base.as_bytes()).as_ref())), let_in());
}

#[tokio::test]
async fn of_several_signatures_one_that_is_right_is_enough() {
    let right = hmac(&format!("{COVERED}\"@signature-params\": {PARAMS}"));
    let unknown = PARAMS.replace("billing-2026", "unknown");
    let wrong = PARAMS.replace("1700000000", "1700000001");
    let with = |labels: &[(&str, &str)]| {
        let mut parts = signed(COVERED, PARAMS);
        let join = |of: fn(usize, &(&str, &str)) -> String| {
            let all: Vec<String> = labels.iter().enumerate().map(|(n, one)| of(n, one)).collect();
            HeaderValue::try_from(all.join(", ")).unwrap()
        };
        let input = join(|n, (params, _)| format!("s{n}={params}"));
        let signature = join(|n, (_, signature)| format!("s{n}=:{signature}:"));
        parts.headers.insert("signature-input", input);
        parts.headers.insert("signature", signature);
        parts
    };
    let parts = with(&[(&unknown, &right), (&wrong, &right), (PARAMS, &right)]);
    assert_eq!(judge(&signatures(|_| {}), &parts), let_in());
    let parts = with(&[(&unknown, &right)]);
    assert_eq!(judge(&signatures(|_| {}), &parts), refused("signature_unknown_key"));
    let parts = with(&[(&*wrong, &*right); 5]);
    assert_eq!(judge(&signatures(|_| {}), &parts), refused("signature_wrong"));
    // One that was good once makes no guess beside it a mistake.
    let old = PARAMS.replace("1700000000", "1600000000");
    let of_old = hmac(&format!("{COVERED}\"@signature-params\": {old}"));
    for both in [[(&*old, &*of_old), (&wrong, &right)], [(&wrong, &right), (&old, &of_old)]] {
        assert_eq!(judge(&signatures(|_| {}), &with(&both)), refused("signature_wrong"));
    }
    // Nobody has five tried.
    let mut five = vec![(&*wrong, &*right); 4];
    five.push((PARAMS, &right));
    assert_eq!(judge(&signatures(|_| {}), &with(&five)), refused("signature_wrong"));
}

#[tokio::test]
async fn only_signatures_of_the_application_count() {
    let by = signatures(|of| of.tag = Some("invoices".to_owned()));
    let tagged = |tag: &str| signed(COVERED, &format!("{PARAMS};tag=\"{tag}\""));
    assert_eq!(judge(&by, &tagged("invoices")), let_in());
    assert_eq!(judge(&by, &tagged("orders")), refused("signature_unknown_key"));
    assert_eq!(judge(&by, &signed(COVERED, PARAMS)), refused("signature_unknown_key"));
}

#[tokio::test]
async fn without_a_signature_there_are_no_credentials() {
    let mut parts = signed(COVERED, PARAMS);
    parts.headers.remove("signature-input");
    assert_eq!(judge(&signatures(|_| {}), &parts), Err(Fault::Absent));
    let mut parts = signed(COVERED, PARAMS);
    parts.headers.remove("signature");
    assert_eq!(judge(&signatures(|_| {}), &parts), refused("signature_malformed"));
}

#[test]
fn the_origin_is_told_whose_key_it_was() {
    let by = signatures(|of| of.identity_header = Some(HeaderName::from_static("x-who")));
    assert_eq!(by.identity_fields(), ["x-who"]);
    let changes = by.known["billing-2026"].grant.changes.clone().unwrap();
    assert_eq!(changes.set, [("x-who".parse().unwrap(), HeaderValue::from_static("billing"))]);
}
