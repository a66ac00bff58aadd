//! The scheme: who has a session is let in, who is at a browser is sent to log in.

use std::sync::Arc;

use http::Method;
use http::header::{COOKIE, HeaderName, HeaderValue};
use http::request::Parts;

use super::answer::Answer;
use super::login::Logins;
use super::pending;
use super::session::Session;
use super::site::{Site, is_navigation, send_to, target};
use super::{OidcSettings, OidcSetupError};
use crate::layers::auth::changes::strip_cookies;
use crate::layers::auth::{cookies, jwt};
use crate::layers::{Asked, AuthMeans, Authenticate, Changes, Grant, Judging, Verdict};

/// Knows who asks by a session that began with a login at an identity provider (OpenID
/// Connect Core 1.0, authorization code with PKCE).
///
/// Who has no session and waits for a page is sent to the provider; whoever else has none
/// is told so. The path [`OidcSettings::callback`] and [`OidcSettings::logout`] have to come
/// by here as well: they are answered, and not passed on. A session stands in a cookie that
/// is sealed; nothing is kept of it here, so any instance with the same secrets knows it.
///
/// ```
/// use tollgate::layers::{AuthLayer, OidcSettings, OpenIdConnect, SharedSecret};
///
/// let secret = SharedSecret::new("a secret of at least 32 bytes, or none");
/// let mut settings = OidcSettings::new("https://id.example.com", "my-app", vec![secret]);
/// settings.client_secret = Some(SharedSecret::new("what the provider gave us"));
/// settings.public_url = Some("https://app.example.com".parse()?);
/// let layer = AuthLayer::by(OpenIdConnect::new(settings)?);
/// # let _ = layer;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct OpenIdConnect {
    logins: Arc<Logins>,
}

impl OpenIdConnect {
    /// By these settings.
    ///
    /// # Errors
    ///
    /// The issuer is no URL, a secret is too short, or the provider cannot be reached in
    /// any way.
    pub fn new(settings: OidcSettings) -> Result<Self, OidcSetupError> {
        Self::with(settings, &AuthMeans::default())
    }

    /// Logs people in by these settings, and counts how often the provider's keys are
    /// fetched.
    ///
    /// # Errors
    ///
    /// As [`OpenIdConnect::new`].
    pub fn with(settings: OidcSettings, means: &AuthMeans) -> Result<Self, OidcSetupError> {
        Ok(Self { logins: Arc::new(Logins::new(settings, &means.metrics)?) })
    }

    fn settings(&self) -> &OidcSettings {
        &self.logins.settings
    }

    /// The session of a request; whether there is a cookie that is none, if there is none.
    fn session(&self, asked: &Asked<'_>, site: &Site) -> Result<Session, bool> {
        let cookie = cookies::get(asked.headers, self.logins.names.session(site));
        let value = cookie.map_err(|_| true)?.ok_or(false)?;
        let session: Session = self.logins.sessions.open(value).ok_or(true)?;
        if session.is_over() { Err(true) } else { Ok(session) }
    }

    fn grant(&self, session: Session, asked: &Asked<'_>) -> Result<Grant, &'static str> {
        let fields = jwt::fields(&session.claims(), &self.settings().claims_to_headers)?;
        let strip_cookies = self.logins.names.of(asked.headers);
        let changes = Changes { set: fields, strip_cookies, ..Changes::default() };
        Ok(Grant::to(session.into_identity()).changing(changes))
    }

    /// Somebody comes back from the provider.
    fn callback(&self, asked: &Asked<'_>, site: Site) -> Judging {
        if *asked.method != Method::GET {
            return Verdict::Outdated("oidc_callback").into();
        }
        let Some(answer) = Answer::read(asked.uri.query().unwrap_or_default()) else {
            return Verdict::Outdated("oidc_callback").into();
        };
        let Some(tag) = pending::tag(&answer.state) else {
            return Verdict::Outdated("oidc_state").into();
        };
        let cookie = self.logins.names.login(&site, tag);
        let Ok(Some(value)) = cookies::get(asked.headers, &cookie) else {
            // Somebody has gone back, or took too long, or has begun too many others.
            return match self.session(asked, &site) {
                Ok(_) => send_to(&format!("{}/", site.base), Vec::new(), "oidc_logged_in").into(),
                Err(_) if is_navigation(asked) => {
                    self.logins.clone().begin_again(&answer.state, site, asked)
                }
                Err(_) => Verdict::Outdated("oidc_no_login").into(),
            };
        };
        self.logins.clone().finish(value, answer, &cookie, site, asked)
    }

    fn logout(&self, asked: &Asked<'_>, site: Site) -> Judging {
        let from = asked.headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
        let is_strange = matches!(from, Some(b"cross-site" | b"same-site"));
        if is_strange || !matches!(*asked.method, Method::GET | Method::POST) {
            return Verdict::Forbidden("oidc_logout").into();
        }
        self.logins.clone().log_out(site)
    }
}

/// Nothing that is wrong here counts as a guess, but for a code that the provider does not
/// know: what is sealed cannot be guessed, and other sites can have people's browsers come to
/// the callback with whatever they like, but not with the state of their login.
impl Authenticate for OpenIdConnect {
    fn scheme(&self) -> &'static str {
        "oidc"
    }

    fn credential_fields(&self) -> Vec<HeaderName> {
        vec![COOKIE]
    }

    fn claims(&self, request: &Asked<'_>) -> bool {
        let OidcSettings { callback, logout, .. } = self.settings();
        [callback, logout].into_iter().any(|own| own == request.uri.path())
    }

    fn conceal(&self, request: &mut Parts, _kept: &[HeaderName]) {
        let ours = self.logins.names.of(&request.headers);
        strip_cookies(&mut request.headers, &ours);
    }

    fn judge(&self, asked: &Asked<'_>) -> Judging {
        let Some(site) = Site::of(self.settings(), asked) else {
            return Verdict::Outdated("oidc_host").into();
        };
        match asked.uri.path() {
            path if path == self.settings().callback => return self.callback(asked, site),
            path if path == self.settings().logout => return self.logout(asked, site),
            _ => {}
        }
        match self.session(asked, &site) {
            Ok(session) => {
                self.grant(session, asked).map_or_else(Verdict::Outdated, Verdict::Granted).into()
            }
            Err(_) if is_navigation(asked) => {
                self.logins.clone().begin(target(asked.uri), site, asked)
            }
            Err(false) => Verdict::Absent.into(),
            Err(true) => Verdict::Outdated("oidc_session").into(),
        }
    }

    fn is_dear(&self) -> bool {
        // The provider is asked, whether somebody waits for its answer or not.
        true
    }

    fn identity_fields(&self) -> Vec<HeaderName> {
        self.settings().claims_to_headers.iter().map(|(_, field)| field.clone()).collect()
    }

    fn secret_parameter(&self) -> Option<Arc<str>> {
        // What a session is had for.
        Some("code".into())
    }
}
