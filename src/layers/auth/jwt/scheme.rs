//! The scheme: a token in a request, and who it makes of that.

use std::sync::Arc;

use http::HeaderValue;
use http::header::HeaderName;
use http::request::Parts;

use super::believed::{Believed, mark};
use super::claims::Claims;
use super::verify::{Fault, Verifier, Verifying, now};
use super::{JwtSettings, JwtSetupError, TokenPlace, grant};
use crate::context::Identity;
use crate::layers::{Asked, AuthMeans, Authenticate, Changes, Grant, Judging, Verdict};

/// What a 401 asks for. It is the same whatever was wrong (RFC 6750 §3).
const CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer realm=\"tollgate\"");

/// Knows who asks by a JSON Web Token that the request carries.
///
/// The keys of an issuer are fetched by one task for all, on the runtime of the first
/// request, and kept fresh. Requests wait for keys only while there are none, and for a key
/// that nobody knew; the latter no more often than [`JwksSettings::unknown_kid_pause`] says.
///
/// A token that was believed is known again by its digest, and its signature is not checked
/// a second time: not before other keys are in force, nor once it has expired.
///
/// ```
/// use tollgate::layers::{AuthLayer, JsonWebTokens, JwtKeys, JwtSettings, SharedSecret};
///
/// let secret = SharedSecret::new("a secret of at least 32 bytes, or none");
/// let mut settings = JwtSettings::new(JwtKeys::Secret(secret));
/// settings.rules.issuers = vec!["https://id.example.com".into()];
/// settings.rules.audiences = vec!["orders".into()];
/// let layer = AuthLayer::by(JsonWebTokens::new(&settings)?).scopes(["orders:read"]);
/// # let _ = layer;
/// # Ok::<_, tollgate::layers::JwtSetupError>(())
/// ```
///
/// [`JwksSettings::unknown_kid_pause`]: super::JwksSettings::unknown_kid_pause
#[derive(Debug)]
pub struct JsonWebTokens {
    verifier: Verifier,
    place: TokenPlace,
    strip: bool,
    granting: Arc<Granting>,
    believed: Believed,
}

/// What is made of claims.
#[derive(Debug)]
struct Granting {
    name_claim: String,
    scopes_claim: Option<String>,
    claims_to_headers: Vec<(String, HeaderName)>,
}

impl JsonWebTokens {
    /// Knows tokens by these settings.
    ///
    /// # Errors
    ///
    /// The keys cannot be used with the algorithms, or cannot be fetched in any way.
    pub fn new(settings: &JwtSettings) -> Result<Self, JwtSetupError> {
        Self::with(settings, &AuthMeans::default())
    }

    /// Knows tokens by these settings, and counts how often keys are fetched.
    ///
    /// # Errors
    ///
    /// As [`JsonWebTokens::new`].
    pub fn with(settings: &JwtSettings, means: &AuthMeans) -> Result<Self, JwtSetupError> {
        let JwtSettings {
            keys,
            algorithms,
            rules,
            place,
            strip,
            max_token,
            name_claim,
            scopes_claim,
            claims_to_headers,
        } = settings;
        Ok(Self {
            verifier: Verifier::new(keys, algorithms, rules.clone(), *max_token, &means.metrics)?,
            place: place.clone(),
            strip: *strip,
            granting: Arc::new(Granting {
                name_claim: name_claim.clone(),
                scopes_claim: scopes_claim.clone(),
                claims_to_headers: claims_to_headers.clone(),
            }),
            believed: Believed::new(),
        })
    }
}

impl Authenticate for JsonWebTokens {
    fn scheme(&self) -> &'static str {
        "jwt"
    }

    fn judge(&self, request: &Asked<'_>) -> Judging {
        let token = match self.place.find(request.headers) {
            Ok(Some(token)) => token,
            Ok(None) => return Verdict::Absent.into(),
            Err(why) => return Verdict::Refused(why).into(),
        };
        let stripped = if self.strip { self.place.stripped() } else { Changes::default() };
        let keys = self.verifier.keys();
        let mark = self.verifier.looks_at(token).then(|| mark(token));
        if let (Some(mark), Some(keys)) = (&mark, &keys)
            && let Some(grant) = self.believed.get(mark, keys, now())
        {
            return Verdict::Granted(grant).into();
        }
        match self.verifier.verify(token, keys.clone()) {
            Verifying::Now(verified) => {
                let times = verified.as_ref().map_or(None, |claims| self.verifier.times(claims));
                let verdict = self.granting.verdict(&self.verifier, verified, stripped);
                if let Verdict::Granted(grant) = &verdict
                    && let (Some(mark), Some(keys), Some(times)) = (mark, keys, times)
                {
                    self.believed.put(mark, token.len(), keys, times, grant.clone());
                }
                verdict.into()
            }
            Verifying::Later(verified) => {
                let (granting, verifier) = (self.granting.clone(), self.verifier.clone());
                Judging::Later(Box::pin(async move {
                    granting.verdict(&verifier, verified.await, stripped)
                }))
            }
        }
    }

    fn challenge(&self) -> Option<HeaderValue> {
        Some(CHALLENGE)
    }

    fn conceal(&self, request: &mut Parts, kept: &[HeaderName]) {
        if self.strip && !kept.contains(&self.place.field()) {
            self.place.conceal(&mut request.headers);
        }
    }

    fn credential_fields(&self) -> Vec<HeaderName> {
        vec![self.place.field()]
    }

    fn identity_fields(&self) -> Vec<HeaderName> {
        self.granting.claims_to_headers.iter().map(|(_, field)| field.clone()).collect()
    }
}

impl Granting {
    fn verdict(
        &self,
        verifier: &Verifier,
        verified: Result<Claims, Fault>,
        stripped: Changes,
    ) -> Verdict {
        match verified {
            Ok(claims) if !verifier.rules().has_required(&claims) => {
                let verdict = Verdict::Forbidden("jwt_required_claim");
                match self.grant(claims, stripped) {
                    Ok(Grant { identity: Some(known), .. }) => verdict.about(known),
                    _ => verdict,
                }
            }
            Ok(claims) => {
                self.grant(claims, stripped).map_or_else(Verdict::Refused, Verdict::Granted)
            }
            Err(Fault::Refused(why)) => Verdict::Refused(why),
            Err(Fault::Outdated(why)) => Verdict::Outdated(why),
            Err(Fault::UnknownKey) => Verdict::Refused("jwt_unknown_key"),
            Err(Fault::Unavailable(why)) => Verdict::Unavailable(why),
        }
    }

    fn grant(&self, claims: Claims, stripped: Changes) -> Result<Grant, &'static str> {
        let changes = Changes { set: grant::fields(&claims, &self.claims_to_headers)?, ..stripped };
        let identity = Identity {
            name: grant::name(&claims, &self.name_claim)?,
            scheme: "jwt",
            scopes: claims.scopes(self.scopes_claim.as_deref()),
            claims: claims.into_map(),
            quota: None,
        };
        let granted = Grant::to(identity);
        Ok(if changes == Changes::default() { granted } else { granted.changing(changes) })
    }
}

#[cfg(test)]
mod tests;
