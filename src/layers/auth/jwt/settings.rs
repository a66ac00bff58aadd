//! What tokens are checked by, and what is made of them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use http::header::HeaderName;
use serde_json::Value;

use super::JwtAlgorithm;
use crate::layers::SharedSecret;
use crate::pem::{self, PemError};

/// Authentication by JSON Web Token (RFC 7519, RFC 6750).
#[derive(Clone, Debug, PartialEq)]
pub struct JwtSettings {
    /// What signatures are checked by.
    pub keys: JwtKeys,
    /// The algorithms that are taken. None: of a public key that which fits it, of a set of
    /// keys [`JwtAlgorithm::PUBLIC`], of a secret HS256. A key is used only by those that
    /// fit it, whatever a token says.
    pub algorithms: Vec<JwtAlgorithm>,
    /// What a token has to say.
    pub rules: JwtRules,
    /// Where a request carries its token. Default [`TokenPlace::Bearer`].
    pub place: TokenPlace,
    /// Takes the token out of the request for the origin. Default false: an origin often
    /// looks at it as well.
    pub strip: bool,
    /// The longest token, in bytes; of a longer one nothing is read. Default 8 KiB.
    pub max_token: usize,
    /// The claim that tells whose token it is, for the log and for limits. A token without
    /// it is refused. Default `sub`.
    pub name_claim: String,
    /// The claim that tells the scopes. Default `scope`, or else `scp`.
    pub scopes_claim: Option<String>,
    /// Claims for the origin, each in a field of its own. The fields are taken out of every
    /// request that brings them along.
    pub claims_to_headers: Vec<(String, HeaderName)>,
}

/// Where the keys come from.
#[derive(Clone, Debug, PartialEq)]
pub enum JwtKeys {
    /// A set of public keys that the issuer publishes (RFC 7517).
    Jwks(JwksSettings),
    /// One public key.
    PublicKey(JwtPublicKey),
    /// A secret that the issuer has as well; whoever has it can make tokens.
    Secret(SharedSecret),
}

/// How a set of keys is fetched.
#[derive(Clone, Debug, PartialEq)]
pub struct JwksSettings {
    /// Where it is.
    pub url: Uri,
    /// Whose certificates are believed; `None`: those that the system believes.
    pub ca: Option<PathBuf>,
    /// How long an answer may take. Default 5 s.
    pub timeout: Duration,
    /// How long a set is used before it is fetched again, if the issuer allows so long
    /// (`Cache-Control: max-age`). Default 10 min.
    pub refresh: Duration,
    /// How long a token by an unknown key does not make it be fetched again, and the
    /// shortest time between two that the issuer can ask for. Default 30 s.
    pub unknown_kid_pause: Duration,
}

/// Where a request carries its token.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum TokenPlace {
    /// `Authorization: Bearer …` (RFC 6750 §2.1).
    #[default]
    Bearer,
    /// A field of its own, with or without `Bearer` before it.
    Header(HeaderName),
    /// A cookie of this name.
    Cookie(String),
}

/// A public key: RSA of 2048 bits or more, P-256, P-384, P-521 or Ed25519.
#[derive(Clone, PartialEq)]
pub struct JwtPublicKey(Arc<[u8]>);

/// What claims have to say.
#[derive(Clone, Debug, PartialEq)]
pub struct JwtRules {
    /// Issuers (`iss`) whose tokens are taken; none: `iss` is not looked at, for the key
    /// says enough.
    pub issuers: Vec<String>,
    /// Whom a token is to be for (`aud`): one of these is enough. None: a token that says
    /// whom it is for is refused (RFC 7519 §4.1.3), unless [`JwtRules::any_audience`].
    pub audiences: Vec<String>,
    /// Takes tokens for whomever they are. Default false.
    pub any_audience: bool,
    /// Refuses tokens that never expire (`exp`). Default true.
    pub require_exp: bool,
    /// How far clocks may differ. Default 30 s.
    pub leeway: Duration,
    /// Claims that have to be there, each with the values of which it has to have one:
    /// be it, or hold it if it is a list. A token without is of somebody who may not
    /// come in (403).
    pub required: Vec<(String, Vec<Value>)>,
}

impl Default for JwtRules {
    fn default() -> Self {
        Self {
            issuers: Vec::new(),
            audiences: Vec::new(),
            any_audience: false,
            require_exp: true,
            leeway: Duration::from_secs(30),
            required: Vec::new(),
        }
    }
}

impl JwtSettings {
    /// Every default, with these keys.
    #[must_use]
    pub fn new(keys: JwtKeys) -> Self {
        Self {
            keys,
            algorithms: Vec::new(),
            rules: JwtRules::default(),
            place: TokenPlace::default(),
            strip: false,
            max_token: 8 * 1024,
            name_claim: "sub".to_owned(),
            scopes_claim: None,
            claims_to_headers: Vec::new(),
        }
    }
}

impl JwksSettings {
    /// Every default.
    #[must_use]
    pub fn new(url: Uri) -> Self {
        Self {
            url,
            ca: None,
            timeout: Duration::from_secs(5),
            refresh: Duration::from_secs(600),
            unknown_kid_pause: Duration::from_secs(30),
        }
    }
}

impl JwtPublicKey {
    /// Reads it from a file in PEM (`-----BEGIN PUBLIC KEY-----`).
    ///
    /// # Errors
    ///
    /// The file cannot be read, or has none.
    pub fn read(path: &Path) -> Result<Self, PemError> {
        pem::read_public_key(path).map(|info| Self::of_info(info.to_vec()))
    }

    /// Takes it as it stands in certificates: a `SubjectPublicKeyInfo` in DER (RFC 5280
    /// §4.1.2.7).
    #[must_use]
    pub fn of_info(info: impl Into<Arc<[u8]>>) -> Self {
        Self(info.into())
    }

    /// The `SubjectPublicKeyInfo`.
    #[must_use]
    pub fn info(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for JwtPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JwtPublicKey(…)")
    }
}
