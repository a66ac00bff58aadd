//! What a login goes by.

use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use http::header::HeaderName;
use serde_json::Value;

use crate::layers::{JwtAlgorithm, SharedSecret};

/// Login by OpenID Connect, for people with a browser.
#[derive(Clone, Debug, PartialEq)]
pub struct OidcSettings {
    /// The identity provider, by the URL that it calls itself (`iss`), to the letter. What
    /// else there is to know of it stands at `/.well-known/openid-configuration` below.
    pub issuer: String,
    /// What the provider calls us.
    pub client_id: String,
    /// What we show the provider; `None` for a public client, which has PKCE only.
    pub client_secret: Option<SharedSecret>,
    /// What is asked for. Default `openid`, `profile` and `email`.
    pub scopes: Vec<String>,
    /// The path to which the provider sends people back. Default `/.tollgate/callback`.
    pub callback: String,
    /// The path that ends a session. Default `/.tollgate/logout`.
    pub logout: String,
    /// Whether that ends the session at the provider as well, if it has a way to. Default
    /// false.
    pub provider_logout: bool,
    /// Scheme and host as people see them, such as `https://app.example.com`. Without, they
    /// are those that the request came to.
    pub public_url: Option<Uri>,
    /// What cookies are sealed by. The first seals, all of them open; so one is replaced by
    /// putting another before it. At least one, of 32 bytes or more each.
    pub cookie_secrets: Vec<SharedSecret>,
    /// How long a session lasts, whatever is done in it. Default 8 h.
    pub session: Duration,
    /// The algorithms of which one has signed who somebody is. None: any of
    /// [`JwtAlgorithm::PUBLIC`].
    pub algorithms: Vec<JwtAlgorithm>,
    /// How far clocks may differ. Default 30 s.
    pub leeway: Duration,
    /// Claims that have to be there, as in [`JwtRules::required`](crate::layers::JwtRules).
    pub required: Vec<(String, Vec<Value>)>,
    /// The claim that tells who somebody is. Default `sub`.
    pub name_claim: String,
    /// The claim that tells the scopes; `None`: those that the provider has granted.
    pub scopes_claim: Option<String>,
    /// Claims for the origin, each in a field of its own.
    pub claims_to_headers: Vec<(String, HeaderName)>,
    /// Other claims that are kept, for limits. What is kept travels in the cookie.
    pub claims: Vec<String>,
    /// Whose certificates are believed of the provider; `None`: those that the system
    /// believes.
    pub ca: Option<PathBuf>,
    /// How long an answer of the provider may take. Default 5 s.
    pub timeout: Duration,
}

impl OidcSettings {
    /// Every default.
    #[must_use]
    pub fn new(
        issuer: impl Into<String>,
        client_id: impl Into<String>,
        cookie_secrets: Vec<SharedSecret>,
    ) -> Self {
        Self {
            issuer: issuer.into(),
            client_id: client_id.into(),
            client_secret: None,
            scopes: ["openid", "profile", "email"].map(str::to_owned).into(),
            callback: "/.tollgate/callback".to_owned(),
            logout: "/.tollgate/logout".to_owned(),
            provider_logout: false,
            public_url: None,
            cookie_secrets,
            session: Duration::from_secs(8 * 3600),
            algorithms: Vec::new(),
            leeway: Duration::from_secs(30),
            required: Vec::new(),
            name_claim: "sub".to_owned(),
            scopes_claim: None,
            claims_to_headers: Vec::new(),
            claims: Vec::new(),
            ca: None,
            timeout: Duration::from_secs(5),
        }
    }
}
