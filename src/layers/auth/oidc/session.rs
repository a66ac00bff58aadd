//! What is remembered of somebody who has logged in: all of it in their cookie.

use std::time::{Duration, SystemTime};

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::OidcSettings;
use crate::context::Identity;
use crate::layers::auth::jwt::{self, Claims};

/// A session. Its names are short, for it travels with every request.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct Session {
    /// Until when, in seconds since 1970.
    #[serde(rename = "e")]
    until: u64,
    #[serde(rename = "n")]
    name: Box<str>,
    #[serde(rename = "s")]
    scopes: Box<[Box<str>]>,
    /// Those claims that somebody wants to see, by the names that they are asked for by.
    #[serde(rename = "c")]
    claims: Map<String, Value>,
}

impl Session {
    /// Of somebody of whom an identity provider says this, having granted these scopes.
    pub(super) fn new(
        settings: &OidcSettings,
        claims: &Claims,
        granted: &str,
    ) -> Result<Self, &'static str> {
        let scopes = match &settings.scopes_claim {
            Some(claim) => claims.scopes(Some(claim)),
            None => granted.split(' ').filter(|word| !word.is_empty()).map(Into::into).collect(),
        };
        let headers = settings.claims_to_headers.iter().map(|(claim, _)| claim);
        let kept = headers.chain(&settings.claims).filter_map(|claim| {
            let value = claims.get(claim)?;
            Some((claim.clone(), value.clone()))
        });
        // What cannot be told the origin is told whoever logs in, and not in each request.
        jwt::fields(claims, &settings.claims_to_headers)?;
        Ok(Self {
            until: now() + settings.session.as_secs(),
            name: (*jwt::name(claims, &settings.name_claim)?).into(),
            scopes,
            claims: kept.collect(),
        })
    }

    pub(super) fn is_over(&self) -> bool {
        now() >= self.until
    }

    pub(super) fn claims(&self) -> Claims {
        Claims::of(self.claims.clone())
    }

    pub(super) fn into_identity(self) -> Identity {
        let Self { until: _, name, scopes, claims } = self;
        Identity { name: name.into(), scheme: "oidc", scopes, claims, quota: None }
    }
}

/// What tells sessions of these settings from those of others: whoever was let in by other
/// rules, or is known by other claims, has no session here.
pub(super) fn kind(settings: &OidcSettings) -> String {
    // What else there is does not decide who gets a session, nor what stands in it.
    let OidcSettings {
        issuer,
        client_id,
        client_secret: _,
        scopes,
        callback: _,
        logout: _,
        provider_logout: _,
        public_url: _,
        cookie_secrets: _,
        session,
        algorithms,
        leeway: _,
        required,
        name_claim,
        scopes_claim,
        claims_to_headers,
        claims,
        ca: _,
        timeout: _,
    } = settings;
    let algorithms: Vec<String> = algorithms.iter().map(ToString::to_string).collect();
    let fields: Vec<(&str, &str)> =
        claims_to_headers.iter().map(|(claim, field)| (&**claim, field.as_str())).collect();
    let all = json!([
        issuer,
        client_id,
        scopes,
        session.as_secs(),
        algorithms,
        required,
        name_claim,
        scopes_claim,
        fields,
        claims,
    ]);
    BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(all.to_string()))
}

/// In seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap_or(Duration::ZERO).as_secs()
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    #[test]
    fn what_decides_who_gets_in_and_as_whom_makes_sessions_others() {
        let settings = OidcSettings::new("https://id.test", "tollgate", Vec::new());
        let mut kinds = vec![kind(&settings)];
        let changes: [fn(&mut OidcSettings); 10] = [
            |one| one.issuer.push('/'),
            |one| one.client_id.push('x'),
            |one| one.scopes.push("x".to_owned()),
            |one| one.session /= 2,
            |one| one.algorithms.push(crate::layers::JwtAlgorithm::PUBLIC[0]),
            |one| one.required.push(("groups".to_owned(), vec!["staff".into()])),
            |one| one.name_claim = "email".to_owned(),
            |one| one.scopes_claim = Some("roles".to_owned()),
            |one| {
                let field = HeaderName::from_static("x-email");
                one.claims_to_headers.push(("email".to_owned(), field));
            },
            |one| one.claims.push("org".to_owned()),
        ];
        for change in changes {
            let mut other = settings.clone();
            change(&mut other);
            kinds.push(kind(&other));
        }
        for (at, one) in kinds.iter().enumerate() {
            assert!(!kinds[at + 1..].contains(one), "{at}");
        }
        // What the browser and the provider see may change.
        let mut same = settings;
        same.callback = "/back".to_owned();
        same.timeout *= 2;
        assert_eq!(kind(&same), kinds[0]);
    }

    #[test]
    fn what_somebody_wants_to_see_is_kept_and_nothing_else() {
        let mut settings = OidcSettings::new("https://id.test", "tollgate", Vec::new());
        settings.name_claim = "email".to_owned();
        settings.claims_to_headers =
            vec![("realm.roles".to_owned(), http::HeaderName::from_static("x-roles"))];
        settings.claims = vec!["org".to_owned(), "missing".to_owned()];
        let claims = json!({
            "sub": "1", "email": "a@b.test", "org": 7, "realm": { "roles": ["x"] },
            "picture": "long", "exp": 1,
        });
        let claims = Claims::of(claims.as_object().unwrap().clone());
        let session = Session::new(&settings, &claims, "openid  email").unwrap();
        assert!(!session.is_over());
        assert_eq!(Value::from(session.claims.clone()), json!({ "realm.roles": ["x"], "org": 7 }));
        let fields = jwt::fields(&session.claims(), &settings.claims_to_headers).unwrap();
        assert_eq!(fields[0].1, "x");
        let identity = session.into_identity();
        assert_eq!((&*identity.name, identity.scheme), ("a@b.test", "oidc"));
        assert!(identity.has_scope("openid") && identity.has_scope("email"));
        settings.scopes_claim = Some("realm.roles".to_owned());
        let mut session = Session::new(&settings, &claims, "openid").unwrap();
        assert_eq!(session.scopes.join(","), "x");
        session.until = now();
        assert!(session.is_over());
    }

    #[test]
    fn whoever_cannot_be_told_the_origin_does_not_get_in() {
        let mut settings = OidcSettings::new("https://id.test", "tollgate", Vec::new());
        let claims = |json: Value| Claims::of(json.as_object().unwrap().clone());
        let nameless = claims(json!({ "email": "a" }));
        assert_eq!(Session::new(&settings, &nameless, "").err(), Some("jwt_no_name"));
        settings.claims_to_headers =
            vec![("email".to_owned(), http::HeaderName::from_static("x-email"))];
        let split = claims(json!({ "sub": "a", "email": "a\r\nX-Admin: 1" }));
        assert_eq!(Session::new(&settings, &split, "").err(), Some("jwt_claims"));
    }
}
