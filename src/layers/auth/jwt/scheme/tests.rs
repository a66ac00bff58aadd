use std::time::Duration;

use http::{HeaderMap, Method, Uri, Version, header};
use serde_json::{Value, json};

use super::super::testing::Signer;
use super::super::{JwtAlgorithm, JwtKeys, JwtPublicKey};
use super::*;
use crate::layers::SharedSecret;

const SECRET: &[u8; 64] = &[7; 64];

fn far() -> u64 {
    4_000_000_000
}

fn by_secret() -> JwtSettings {
    let mut settings = JwtSettings::new(JwtKeys::Secret(SharedSecret::new(SECRET.to_vec())));
    settings.rules.any_audience = true;
    settings
}

fn by_public_key(signer: &Signer) -> JwtSettings {
    let key = JwtPublicKey::of_info(signer.public().unwrap());
    let mut settings = JwtSettings::new(JwtKeys::PublicKey(key));
    settings.rules.any_audience = true;
    settings
}

fn judge(settings: &JwtSettings, field: &str, value: &str) -> Verdict {
    judged_by(&JsonWebTokens::new(settings).unwrap(), field, value)
}

fn judged_by(tokens: &JsonWebTokens, field: &str, value: &str) -> Verdict {
    let mut headers = HeaderMap::new();
    headers.insert(HeaderName::try_from(field).unwrap(), value.parse().unwrap());
    let asked = Asked {
        method: &Method::GET,
        uri: &Uri::from_static("/"),
        version: Version::HTTP_11,
        headers: &headers,
        exchange: None,
        downstream: None,
        body: None,
    };
    match tokens.judge(&asked) {
        Judging::Now(verdict) => verdict,
        Judging::Body(_) | Judging::Later(_) => panic!("there is nothing to wait for"),
    }
}

fn bearer(settings: &JwtSettings, token: &str) -> Result<Grant, &'static str> {
    match judge(settings, "authorization", &format!("Bearer {token}")).apart().0 {
        Verdict::Granted(grant) => Ok(grant),
        Verdict::Refused(why) | Verdict::Outdated(why) | Verdict::Forbidden(why) => Err(why),
        other => panic!("{other:?}"),
    }
}

fn why(settings: &JwtSettings, token: &str) -> Option<&'static str> {
    bearer(settings, token).err()
}

fn alice() -> Value {
    json!({ "sub": "alice", "exp": far(), "scope": "read write", "email": "a@b.test" })
}

#[test]
fn a_token_tells_who_asks_and_what_the_origin_is_told() {
    let signer = Signer::new(JwtAlgorithm::Hs256);
    let mut settings = by_secret();
    settings.claims_to_headers = vec![
        ("sub".into(), HeaderName::from_static("x-user")),
        ("email".into(), HeaderName::from_static("x-email")),
        ("phone".into(), HeaderName::from_static("x-phone")),
    ];
    let grant = bearer(&settings, &signer.token(&alice())).unwrap();
    let identity = grant.identity.unwrap();
    assert_eq!((&*identity.name, identity.scheme), ("alice", "jwt"));
    assert!(identity.has_scope("read") && identity.has_scope("write"));
    assert_eq!(identity.claims["email"], "a@b.test");
    let changes = grant.changes.unwrap();
    let told: Vec<_> = changes.set.iter().map(|(name, value)| (name.as_str(), value)).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].0 == "x-user" && told[0].1 == "alice");
    assert!(changes.remove.is_empty());
    let fields = JsonWebTokens::new(&settings).unwrap().identity_fields();
    assert_eq!(fields, ["x-user", "x-email", "x-phone"]);
}

#[test]
fn row_55_no_signature_is_none() {
    let settings = by_secret();
    let signer = Signer::new(JwtAlgorithm::Hs256);
    for none in ["none", "None", "NONE", "nOnE"] {
        let token = signer.token_with(&json!({ "alg": none }), &alice());
        assert_eq!(why(&settings, &token), Some("jwt_algorithm"), "{none}");
        let (signed, _) = token.rsplit_once('.').unwrap();
        assert_eq!(why(&settings, &format!("{signed}.")), Some("jwt_algorithm"), "{none}");
    }
    let good = signer.token(&alice());
    let (signed, _) = good.rsplit_once('.').unwrap();
    assert_eq!(why(&settings, &format!("{signed}.")), Some("jwt_signature"));
}

#[test]
fn row_55_a_public_key_is_not_taken_for_a_secret() {
    let issuer = Signer::new(JwtAlgorithm::Rs256);
    let mut settings = by_public_key(&issuer);
    assert_eq!(why(&settings, &issuer.token(&alice())), None);
    let info = issuer.public().unwrap();
    let pem = format!(
        "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
        base64::Engine::encode(&base64::prelude::BASE64_STANDARD, &info)
    );
    for secret in [info, pem.clone().into_bytes(), pem.trim().as_bytes().to_vec()] {
        let forger = Signer::by_secret(JwtAlgorithm::Hs256, secret);
        assert_eq!(why(&settings, &forger.token(&alice())), Some("jwt_algorithm"));
    }
    settings.algorithms = vec![JwtAlgorithm::Rs256, JwtAlgorithm::Hs256];
    assert!(JsonWebTokens::new(&settings).is_err());
    let mut settings = by_secret();
    settings.algorithms = vec![JwtAlgorithm::Hs256, JwtAlgorithm::Rs256];
    assert!(JsonWebTokens::new(&settings).is_err());
}

#[test]
fn row_55_only_pinned_algorithms_are_taken() {
    let rs256 = Signer::new(JwtAlgorithm::Rs256);
    let mut settings = by_public_key(&rs256);
    let as_ps256 = rs256.with_algorithm(JwtAlgorithm::Ps256);
    assert_eq!(why(&settings, &as_ps256.token(&alice())), Some("jwt_algorithm"));
    settings.algorithms = vec![JwtAlgorithm::Ps256];
    assert_eq!(why(&settings, &as_ps256.token(&alice())), None);
    let rs256 = as_ps256.with_algorithm(JwtAlgorithm::Rs256);
    assert_eq!(why(&settings, &rs256.token(&alice())), Some("jwt_algorithm"));
}

#[test]
fn row_55_identifiers_and_keys_in_a_token_are_not_followed() {
    let signer = Signer::new(JwtAlgorithm::Es256);
    let stranger = Signer::new(JwtAlgorithm::Es256);
    let settings = by_public_key(&signer);
    for id in ["../../dev/null", "' OR 1=1 --", "http://127.0.0.1:1/", "\u{0}", ""] {
        let head = json!({ "alg": "ES256", "kid": id });
        assert_eq!(why(&settings, &signer.token_with(&head, &alice())), None, "{id}");
        let forged = stranger.token_with(&head, &alice());
        assert_eq!(why(&settings, &forged), Some("jwt_signature"), "{id}");
    }
    let key = stranger.jwk("a").unwrap();
    let head = json!({ "alg": "ES256", "jwk": key, "jku": "http://127.0.0.1:1/", "x5u": "x" });
    assert_eq!(why(&settings, &stranger.token_with(&head, &alice())), Some("jwt_signature"));
    assert_eq!(why(&settings, &signer.token_with(&head, &alice())), None);
}

#[test]
fn row_55_times_issuer_and_audience_are_checked() {
    let signer = Signer::new(JwtAlgorithm::Hs256);
    let mut settings = by_secret();
    settings.rules.any_audience = false;
    settings.rules.issuers = vec!["https://id.test".into()];
    settings.rules.audiences = vec!["api".into()];
    let claims = json!({ "sub": "a", "exp": far(), "iss": "https://id.test", "aud": ["api"] });
    let with = |name: &str, value: Value| {
        let mut claims = claims.clone();
        claims[name] = value;
        why(&settings, &signer.token(&claims))
    };
    assert_eq!(with("sub", json!("a")), None);
    assert_eq!(with("exp", json!(1)), Some("jwt_expired"));
    assert_eq!(with("nbf", json!(far())), Some("jwt_not_yet_valid"));
    assert_eq!(with("iss", json!("https://evil.test")), Some("jwt_issuer"));
    assert_eq!(with("aud", json!("other")), Some("jwt_audience"));
    assert_eq!(with("sub", json!(null)), Some("jwt_no_name"));
}

#[test]
fn row_55_a_token_that_was_believed_expires_all_the_same() {
    let signer = Signer::new(JwtAlgorithm::Hs256);
    let mut settings = by_secret();
    settings.rules.leeway = Duration::ZERO;
    let tokens = JsonWebTokens::new(&settings).unwrap();
    let show = |token: &str| judged_by(&tokens, "authorization", &format!("Bearer {token}"));
    let token = signer.token(&json!({ "sub": "alice", "exp": now() + 1.5, "scope": "read" }));
    let (Verdict::Granted(first), Verdict::Granted(second)) = (show(&token), show(&token)) else {
        panic!("it has not expired yet");
    };
    let (first, second) = (first.identity.unwrap(), second.identity.unwrap());
    assert!(Arc::ptr_eq(&first, &second), "it was checked again");
    // A token that is like it, but for the signature.
    let (signed, _) = token.rsplit_once('.').unwrap();
    let forged = format!("{signed}.{}", "A".repeat(43));
    assert!(matches!(show(&forged), Verdict::Refused("jwt_signature")));
    std::thread::sleep(Duration::from_millis(1600));
    assert!(matches!(show(&token), Verdict::Outdated("jwt_expired")));
}

#[test]
fn row_55_a_long_token_is_not_looked_at() {
    let signer = Signer::new(JwtAlgorithm::Hs256);
    let mut claims = alice();
    claims["long"] = json!("x".repeat(8000));
    let settings = by_secret();
    assert_eq!(why(&settings, &signer.token(&claims)), Some("jwt_too_long"));
    assert_eq!(why(&settings, &".".repeat(8193)), Some("jwt_too_long"));
    let roomy = JwtSettings { max_token: 16 * 1024, ..settings };
    assert_eq!(why(&roomy, &signer.token(&claims)), None);
}

#[test]
fn no_part_of_a_token_can_be_changed() {
    let signer = Signer::new(JwtAlgorithm::Hs256);
    let settings = by_secret();
    let token = signer.token(&alice());
    for at in 0..token.len() {
        for other in [b'A', b'B', b'.', b'='] {
            let mut bytes = token.clone().into_bytes();
            if bytes[at] != other {
                bytes[at] = other;
                let changed = String::from_utf8(bytes).unwrap();
                assert!(why(&settings, &changed).is_some(), "{changed}");
            }
        }
    }
    for end in 0..token.len() {
        assert!(why(&settings, &token[..end]).is_some(), "{end}");
    }
}

#[test]
fn whoever_lacks_a_claim_may_not_come_in() {
    let signer = Signer::new(JwtAlgorithm::Hs256);
    let mut settings = by_secret();
    settings.rules.required = vec![("scope".into(), vec![json!("admin")])];
    assert_eq!(why(&settings, &signer.token(&alice())), Some("jwt_required_claim"));
    let verdict = judge(&settings, "authorization", &format!("Bearer {}", signer.token(&alice())));
    let (said, known) = verdict.apart();
    assert!(matches!(said, Verdict::Forbidden(_)), "{said:?}");
    assert_eq!(&*known.unwrap().name, "alice");
}

#[test]
fn no_token_is_absent_and_another_scheme_is_none() {
    for (field, value) in [("x-other", "a"), ("authorization", "Basic YTpi")] {
        let verdict = judge(&by_secret(), field, value);
        assert!(matches!(verdict, Verdict::Absent), "{verdict:?}");
    }
    let verdict = judge(&by_secret(), "authorization", "Bearer ");
    assert!(matches!(verdict, Verdict::Refused("jwt_malformed")), "{verdict:?}");
}

#[test]
fn a_token_is_taken_out_if_asked_for() {
    let token = Signer::new(JwtAlgorithm::Hs256).token(&alice());
    let mut settings = by_secret();
    let changes =
        |settings: &JwtSettings, field: &str, value: String| match judge(settings, field, &value) {
            Verdict::Granted(grant) => grant.changes.map(|changes| (*changes).clone()),
            other => panic!("{other:?}"),
        };
    assert_eq!(changes(&settings, "authorization", format!("Bearer {token}")), None);
    settings.strip = true;
    let taken = changes(&settings, "authorization", format!("Bearer {token}")).unwrap();
    assert_eq!(taken.remove, [header::AUTHORIZATION]);
    settings.place = TokenPlace::Cookie("token".into());
    let taken = changes(&settings, "cookie", format!("a=1; token={token}; b=2")).unwrap();
    assert_eq!(taken.strip_cookies, [Box::<str>::from("token")]);
    assert_eq!((taken.remove, taken.set), (vec![], vec![]));
}

/// By another's code: what it signs is believed, and what is signed here it believes.
#[test]
fn tokens_of_another_library_are_read_and_ours_by_it() {
    use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};

    let pairs = [
        (JwtAlgorithm::Hs256, Algorithm::HS256),
        (JwtAlgorithm::Hs384, Algorithm::HS384),
        (JwtAlgorithm::Hs512, Algorithm::HS512),
        (JwtAlgorithm::Rs256, Algorithm::RS256),
        (JwtAlgorithm::Ps512, Algorithm::PS512),
        (JwtAlgorithm::Es256, Algorithm::ES256),
        (JwtAlgorithm::Es384, Algorithm::ES384),
        (JwtAlgorithm::EdDsa, Algorithm::EdDSA),
    ];
    for (ours, theirs) in pairs {
        let signer = Signer::new(ours);
        let mut settings = match signer.public() {
            None => by_secret(),
            Some(_) => by_public_key(&signer),
        };
        settings.algorithms = vec![ours];
        let (encoding, decoding) = match (ours.is_symmetric(), signer.private()) {
            (true, _) => (EncodingKey::from_secret(SECRET), DecodingKey::from_secret(SECRET)),
            (false, private) => {
                let (private, public) = (private.unwrap(), signer.public_raw());
                match ours {
                    JwtAlgorithm::Es256 | JwtAlgorithm::Es384 => {
                        (EncodingKey::from_ec_der(&private), DecodingKey::from_ec_der(&public))
                    }
                    JwtAlgorithm::EdDsa => {
                        (EncodingKey::from_ed_der(&private), DecodingKey::from_ed_der(&public))
                    }
                    _ => (EncodingKey::from_rsa_der(&private), DecodingKey::from_rsa_der(&public)),
                }
            }
        };
        let token = encode(&Header::new(theirs), &alice(), &encoding).unwrap();
        assert_eq!(why(&settings, &token), None, "{ours}");
        let token = signer.token(&alice());
        let read = decode::<Value>(&token, &decoding, &Validation::new(theirs)).unwrap();
        assert_eq!(read.claims, alice(), "{ours}");
    }
}
