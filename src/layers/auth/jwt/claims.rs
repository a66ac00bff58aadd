//! What a token says (RFC 7519 §4), and whether that will do.

use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::JwtRules;
use super::verify::Fault;

/// How many scopes are looked at.
const MOST_SCOPES: usize = 256;

/// The claims of a token whose signature was checked.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::layers::auth) struct Claims(Map<String, Value>);

/// An object in which each name stands once.
struct Once(Map<String, Value>);

impl<'de> Deserialize<'de> for Once {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Once;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Once, A::Error> {
                let mut map = Map::new();
                while let Some((name, value)) = members.next_entry::<String, Value>()? {
                    if map.insert(name, value).is_some() {
                        return Err(A::Error::custom("a claim stands twice"));
                    }
                }
                Ok(Once(map))
            }
        }

        deserializer.deserialize_map(Reader)
    }
}

impl Claims {
    /// Reads claims from JSON.
    ///
    /// # Errors
    ///
    /// One word for the log.
    pub(super) fn read(json: &[u8]) -> Result<Self, &'static str> {
        match serde_json::from_slice(json) {
            Ok(Once(claims)) => Ok(Self(claims)),
            Err(_) => Err("jwt_malformed"),
        }
    }

    pub(in crate::layers::auth) fn of(map: Map<String, Value>) -> Self {
        Self(map)
    }

    pub(in crate::layers::auth) fn into_map(self) -> Map<String, Value> {
        self.0
    }

    /// The claim of this name; where there is none, what the dots in the name lead to:
    /// `realm_access.roles` is the `roles` within `realm_access`.
    pub(in crate::layers::auth) fn get(&self, name: &str) -> Option<&Value> {
        if let Some(value) = self.0.get(name) {
            return Some(value);
        }
        let (first, rest) = name.split_once('.')?;
        let first = self.0.get(first)?;
        rest.split('.').try_fold(first, |value, part| value.as_object()?.get(part))
    }

    /// A claim that is text.
    pub(in crate::layers::auth) fn text(&self, name: &str) -> Option<&str> {
        self.get(name)?.as_str()
    }

    /// What the token allows: the words of a claim, which is text or a list of such.
    /// Without a name it is `scope` (RFC 9068 §2.2.3), or else `scp`, as some have it.
    pub(in crate::layers::auth) fn scopes(&self, claim: Option<&str>) -> Box<[Box<str>]> {
        let found = match claim {
            Some(claim) => self.get(claim),
            None => self.get("scope").or_else(|| self.get("scp")),
        };
        match found {
            Some(Value::String(text)) => {
                let words = text.split(' ').filter(|word| !word.is_empty());
                words.take(MOST_SCOPES).map(Into::into).collect()
            }
            Some(Value::Array(list)) => {
                let texts = list.iter().filter_map(Value::as_str);
                texts.filter(|text| !text.is_empty()).take(MOST_SCOPES).map(Into::into).collect()
            }
            _ => Box::default(),
        }
    }

    /// Whom it is for.
    pub(in crate::layers::auth) fn audiences(&self) -> Result<Vec<&str>, &'static str> {
        match self.0.get("aud") {
            None => Ok(Vec::new()),
            Some(Value::String(one)) => Ok(vec![one]),
            Some(Value::Array(list)) => {
                let all: Option<Vec<&str>> = list.iter().map(Value::as_str).collect();
                all.ok_or("jwt_claims")
            }
            Some(_) => Err("jwt_claims"),
        }
    }

    fn seconds(&self, name: &str) -> Result<Option<f64>, &'static str> {
        match self.0.get(name) {
            None => Ok(None),
            Some(value) => value.as_f64().map(Some).ok_or("jwt_claims"),
        }
    }
}

impl JwtRules {
    /// Whether these claims are of a token that is good now, in seconds since 1970.
    pub(super) fn check(&self, claims: &Claims, now: f64) -> Result<(), Fault> {
        // What is wrong at any time first: only a token that was good can be outdated.
        self.check_origin(claims).map_err(Fault::Refused)?;
        let times = self.times(claims).map_err(Fault::Refused)?;
        if now >= times.end {
            return Err(Fault::Outdated("jwt_expired"));
        }
        if now < times.start { Err(Fault::Outdated("jwt_not_yet_valid")) } else { Ok(()) }
    }

    /// When a token with these claims is good, in seconds since 1970.
    pub(super) fn times(&self, claims: &Claims) -> Result<Range<f64>, &'static str> {
        let leeway = self.leeway.as_secs_f64();
        let end = match claims.seconds("exp")? {
            Some(expiry) => expiry + leeway,
            None if self.require_exp => return Err("jwt_no_expiry"),
            None => f64::INFINITY,
        };
        let start = claims.seconds("nbf")?.map_or(f64::NEG_INFINITY, |begin| begin - leeway);
        Ok(start..end)
    }

    fn check_origin(&self, claims: &Claims) -> Result<(), &'static str> {
        if !self.issuers.is_empty() {
            let from = claims.0.get("iss").and_then(Value::as_str).ok_or("jwt_issuer")?;
            if !self.issuers.iter().any(|issuer| issuer == from) {
                return Err("jwt_issuer");
            }
        }
        let named = claims.audiences()?;
        let is_for_us = match (self.any_audience, &*self.audiences) {
            (true, _) => true,
            (false, []) => !claims.0.contains_key("aud"),
            (false, ours) => ours.iter().any(|our| named.contains(&&**our)),
        };
        if is_for_us { Ok(()) } else { Err("jwt_audience") }
    }

    /// Whether the claims have all that is required of them.
    pub(in crate::layers::auth) fn has_required(&self, claims: &Claims) -> bool {
        self.required.iter().all(|(name, values)| match claims.get(name) {
            None => false,
            Some(Value::Array(list)) => list.iter().any(|value| values.contains(value)),
            Some(value) => values.contains(value),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: f64 = 1_800_000_000.0;

    fn claims(json: &Value) -> Claims {
        Claims::read(json.to_string().as_bytes()).unwrap()
    }

    fn check(rules: &JwtRules, json: &Value) -> Result<(), &'static str> {
        rules.check(&claims(json), NOW).map_err(|fault| match fault {
            Fault::Refused(why) | Fault::Outdated(why) => why,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn what_is_no_object_or_says_something_twice_is_refused() {
        for json in [
            "",
            "[]",
            "\"text\"",
            "7",
            "null",
            "{\"sub\":\"a\",\"sub\":\"b\"}",
            "{\"exp\":1,\"\\u0065xp\":9}",
            "{\"exp\":1e999}",
            "{\"exp\":01}",
            "{\"exp\":NaN}",
            "{\"sub\":\"\\ud800\"}",
            "{} {}",
        ] {
            assert_eq!(Claims::read(json.as_bytes()), Err("jwt_malformed"), "{json}");
        }
        assert!(Claims::read(b"{\"sub\":\"\xff\"}").is_err());
        assert!(Claims::read(format!("{{\"a\":{}", "[".repeat(100_000)).as_bytes()).is_err());
    }

    #[test]
    fn a_token_is_good_between_its_times_give_or_take_the_leeway() {
        let rules = JwtRules::default();
        for (json, expected) in [
            (json!({ "exp": NOW + 1.0 }), Ok(())),
            (json!({ "exp": NOW - 29.0 }), Ok(())),
            (json!({ "exp": NOW - 30.0 }), Err("jwt_expired")),
            (json!({ "exp": -1 }), Err("jwt_expired")),
            (json!({ "exp": 0 }), Err("jwt_expired")),
            (json!({ "exp": 1e300 }), Ok(())),
            (json!({ "exp": u64::MAX }), Ok(())),
            (json!({ "exp": -1e300 }), Err("jwt_expired")),
            (json!({ "exp": "1900000000" }), Err("jwt_claims")),
            (json!({ "exp": null }), Err("jwt_claims")),
            (json!({ "exp": [NOW + 9.0] }), Err("jwt_claims")),
            (json!({}), Err("jwt_no_expiry")),
            (json!({ "exp": NOW + 9.0, "nbf": NOW + 29.0 }), Ok(())),
            (json!({ "exp": NOW + 99.0, "nbf": NOW + 31.0 }), Err("jwt_not_yet_valid")),
            (json!({ "exp": NOW + 99.0, "nbf": 1e300 }), Err("jwt_not_yet_valid")),
            (json!({ "exp": NOW + 99.0, "nbf": "0" }), Err("jwt_claims")),
        ] {
            assert_eq!(check(&rules, &json), expected, "{json}");
        }
        let lenient = JwtRules { require_exp: false, ..JwtRules::default() };
        assert_eq!(check(&lenient, &json!({})), Ok(()));
        assert_eq!(check(&lenient, &json!({ "exp": 1 })), Err("jwt_expired"));
    }

    #[test]
    fn a_token_is_of_an_issuer_and_for_an_audience_that_were_named() {
        let rules = JwtRules {
            issuers: vec!["https://a.test".into(), "https://b.test".into()],
            audiences: vec!["api".into(), "web".into()],
            ..JwtRules::default()
        };
        let with = |iss: Value, aud: Value| json!({ "exp": NOW + 9.0, "iss": iss, "aud": aud });
        for (iss, aud, expected) in [
            (json!("https://a.test"), json!("api"), Ok(())),
            (json!("https://b.test"), json!(["other", "web"]), Ok(())),
            (json!("https://c.test"), json!("api"), Err("jwt_issuer")),
            (json!("https://a.test/"), json!("api"), Err("jwt_issuer")),
            (json!(["https://a.test"]), json!("api"), Err("jwt_issuer")),
            (json!(null), json!("api"), Err("jwt_issuer")),
            (json!("https://a.test"), json!("API"), Err("jwt_audience")),
            (json!("https://a.test"), json!("api web"), Err("jwt_audience")),
            (json!("https://a.test"), json!([]), Err("jwt_audience")),
            (json!("https://a.test"), json!(["api", 7]), Err("jwt_claims")),
            (json!("https://a.test"), json!({ "api": true }), Err("jwt_claims")),
            (json!("https://a.test"), json!(null), Err("jwt_claims")),
        ] {
            assert_eq!(check(&rules, &with(iss.clone(), aud.clone())), expected, "{iss} {aud}");
        }
        assert_eq!(check(&rules, &json!({ "exp": NOW + 9.0, "aud": "api" })), Err("jwt_issuer"));
        let nobody = JwtRules::default();
        let for_other = json!({ "exp": NOW + 9.0, "aud": "other" });
        assert_eq!(check(&nobody, &for_other), Err("jwt_audience"));
        let anybody = JwtRules { any_audience: true, ..JwtRules::default() };
        assert_eq!(check(&anybody, &for_other), Ok(()));
    }

    #[test]
    fn required_claims_are_there_with_one_of_their_values() {
        let rules = |name: &str, values: &[Value]| JwtRules {
            required: vec![(name.to_owned(), values.to_vec())],
            ..JwtRules::default()
        };
        let token = claims(&json!({
            "role": "admin", "groups": ["a", "b"], "verified": true, "level": 3,
            "realm": { "roles": ["x"] }, "https://a.test/roles": ["y"], "a.b": "c",
        }));
        for (name, values, expected) in [
            ("role", &[json!("admin")][..], true),
            ("role", &[json!("user"), json!("admin")], true),
            ("role", &[json!("adm")], false),
            ("role", &[json!("Admin")], false),
            ("groups", &[json!("b")], true),
            ("groups", &[json!("c")], false),
            ("verified", &[json!(true)], true),
            ("verified", &[json!("true")], false),
            ("level", &[json!(3)], true),
            ("realm.roles", &[json!("x")], true),
            ("realm.roles.x", &[json!("x")], false),
            ("https://a.test/roles", &[json!("y")], true),
            ("a.b", &[json!("c")], true),
            ("missing", &[json!(null)], false),
        ] {
            assert_eq!(rules(name, values).has_required(&token), expected, "{name} {values:?}");
        }
    }

    #[test]
    fn scopes_are_words_or_a_list() {
        let scopes = |json: &Value, claim| claims(json).scopes(claim).join(",");
        assert_eq!(scopes(&json!({ "scope": "read  write " }), None), "read,write");
        assert_eq!(scopes(&json!({ "scp": ["read", 7, "", "write"] }), None), "read,write");
        assert_eq!(scopes(&json!({ "scope": "a", "scp": "b" }), None), "a");
        assert_eq!(scopes(&json!({ "realm": { "roles": ["x"] } }), Some("realm.roles")), "x");
        assert_eq!(scopes(&json!({ "scope": { "a": true } }), None), "");
        assert_eq!(claims(&json!({ "scope": "a ".repeat(999) })).scopes(None).len(), MOST_SCOPES);
    }
}
