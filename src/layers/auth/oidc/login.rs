//! From a stranger to a session, and back.

use std::cmp::Reverse;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};

use super::answer::Answer;
use super::exchanges::{End, Exchanges};
use super::pending::{Pending, WITHIN, is_second};
use super::provider::{self, Discovery, ExchangeError, Provider};
use super::seal::{LEAST_SECRET, Sealer};
use super::session::{self, Session};
use super::site::{Names, Site, over, send_to, told_over};
use super::{OidcSettings, OidcSetupError};
use crate::fetch::Fetch;
use crate::layers::auth::jwt::{Checks, Claims, Fault};
use crate::layers::auth::kept::Kept;
use crate::layers::{Asked, Judging, JwtAlgorithm, JwtRules, Verdict};
use crate::observe::Metrics;
use crate::respond::Format;

/// The longest token that tells who somebody is: some tell all their groups.
const LONGEST_TOKEN: usize = 64 * 1024;

/// So many logins may be under way in one browser: all their cookies come with each request.
const MOST_PENDING: usize = 8;

/// No more than so many bytes of such cookies are left where another login begins.
const PENDING_BYTES: usize = 4096;

/// The page that tells that a session is over.
const LOGGED_OUT: &str = "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
                          <title>Logged out</title></head>\
                          <body><h1>You are logged out.</h1></body></html>\n";

/// Begins and ends sessions.
#[derive(Debug)]
pub(super) struct Logins {
    pub(super) settings: OidcSettings,
    pub(super) names: Names,
    pub(super) sessions: Sealer,
    pendings: Sealer,
    provider: Kept<Discovery>,
    fetch: Fetch,
    checks: Checks,
    exchanges: Exchanges,
}

impl Logins {
    pub(super) fn new(settings: OidcSettings, metrics: &Metrics) -> Result<Self, OidcSetupError> {
        if settings.cookie_secrets.iter().any(|secret| secret.reveal().len() < LEAST_SECRET) {
            return Err(OidcSetupError::CookieSecret);
        }
        let mut algorithms = settings.algorithms.clone();
        if algorithms.is_empty() {
            algorithms.extend(JwtAlgorithm::PUBLIC);
        }
        if let Some(secret) = algorithms.iter().find(|one| one.is_symmetric()) {
            return Err(OidcSetupError::Algorithm(*secret));
        }
        let fetch = provider::fetch(&settings)?;
        let provider = Discovery::new(&settings, &algorithms, fetch.clone(), metrics)
            .map_err(|_| OidcSetupError::Issuer(settings.issuer.clone()))?;
        let kind = session::kind(&settings);
        let whose = [&*kind];
        let sealer = |purpose| {
            Sealer::new(&settings.cookie_secrets, &whose, purpose)
                .ok_or(OidcSetupError::CookieSecret)
        };
        let (sessions, pendings) = (sealer("session")?, sealer("login")?);
        let rules = JwtRules {
            issuers: vec![settings.issuer.clone()],
            audiences: vec![settings.client_id.clone()],
            leeway: settings.leeway,
            required: settings.required.clone(),
            ..JwtRules::default()
        };
        let checks = Checks { algorithms, rules, max_token: LONGEST_TOKEN };
        let names = Names::new(&settings);
        Ok(Self {
            settings,
            names,
            sessions,
            pendings,
            provider,
            fetch,
            checks,
            exchanges: Exchanges::new(),
        })
    }

    /// Sends somebody to log in who wants this.
    pub(super) fn begin(self: Arc<Self>, target: &str, site: Site, asked: &Asked<'_>) -> Judging {
        self.send(Pending::new(target, &site.base), site, asked)
    }

    /// Sends somebody to log in once more who comes back with this state, of a login that is
    /// not known any more: they have been at the provider for too long, say. Not a third time,
    /// for it may be that their browser keeps no cookies, or that the provider sends them back
    /// with another state than they came with.
    pub(super) fn begin_again(
        self: Arc<Self>,
        state: &str,
        site: Site,
        asked: &Asked<'_>,
    ) -> Judging {
        let begun = self.names.logins(&site, asked.headers);
        let has_second = begun
            .filter_map(|(_, sealed)| self.pendings.open::<Pending>(sealed))
            .any(|pending| is_second(pending.state()));
        if has_second || is_second(state) {
            return Verdict::Outdated("oidc_no_login").into();
        }
        self.send(Pending::new("/", &site.base).map(Pending::second), site, asked)
    }

    fn send(self: Arc<Self>, pending: Option<Pending>, site: Site, asked: &Asked<'_>) -> Judging {
        let Some(pending) = pending else {
            return Verdict::Unavailable("oidc_random").into();
        };
        let forgotten = self.room(&site, asked);
        if let Some(provider) = self.provider.get() {
            return self.to_provider(&provider, &pending, &site, forgotten).into();
        }
        let Some(renewed) = self.provider.renewed() else {
            return Verdict::Unavailable("oidc_no_provider").into();
        };
        Judging::Later(Box::pin(async move {
            match renewed.await {
                Some(provider) => self.to_provider(&provider, &pending, &site, forgotten),
                None => Verdict::Unavailable("oidc_no_provider"),
            }
        }))
    }

    /// Forgets the oldest logins that a browser has begun, so that there is room for one more.
    fn room(&self, site: &Site, asked: &Asked<'_>) -> Vec<HeaderValue> {
        let begun = self.names.logins(site, asked.headers).map(|(name, sealed)| {
            let pending = self.pendings.open::<Pending>(sealed);
            let made = pending.filter(|pending| !pending.is_over()).map(|pending| pending.made);
            (made, name, name.len() + sealed.len())
        });
        let mut begun: Vec<_> = begun.collect();
        // Browsers send the oldest first (RFC 6265 §5.4).
        begun.reverse();
        begun.sort_by_key(|(made, ..)| Reverse(*made));
        let mut bytes = 0;
        let kept = begun.iter().take(MOST_PENDING - 1).take_while(|(made, _, length)| {
            bytes += length;
            made.is_some() && bytes <= PENDING_BYTES
        });
        let kept = kept.count();
        begun.into_iter().skip(kept).filter_map(|(_, name, _)| site.forget(name)).collect()
    }

    fn to_provider(
        &self,
        provider: &Provider,
        pending: &Pending,
        site: &Site,
        mut cookies: Vec<HeaderValue>,
    ) -> Verdict {
        let scopes = self.settings.scopes.join(" ");
        let (redirect, challenge) = (self.redirect(&site.base), pending.challenge());
        let url = provider::with_query(
            &provider.authorization,
            &[
                ("response_type", "code"),
                ("client_id", &self.settings.client_id),
                ("redirect_uri", &redirect),
                ("scope", &scopes),
                ("state", pending.state()),
                ("nonce", pending.nonce()),
                ("code_challenge", &challenge),
                ("code_challenge_method", "S256"),
            ],
        );
        let name = super::pending::tag(pending.state()).map(|tag| self.names.login(site, tag));
        let cookie =
            name.and_then(|name| site.cookie(&name, &self.pendings.seal(pending)?, WITHIN));
        let Some(cookie) = cookie else { return Verdict::Unavailable("oidc_cookie") };
        cookies.push(cookie);
        send_to(&url, cookies, "oidc_login")
    }

    /// Where the provider sends people back.
    fn redirect(&self, base: &str) -> String {
        format!("{base}{}", self.settings.callback)
    }

    /// Ends a login that somebody comes back from; `sealed` stood in the cookie `name`. The
    /// cookie is forgotten whatever comes of it, unless the same may be tried again.
    pub(super) fn finish(
        self: Arc<Self>,
        sealed: &str,
        answer: Answer,
        name: &str,
        site: Site,
        asked: &Asked<'_>,
    ) -> Judging {
        let (client, format) = (asked.client(), Format::preferred(asked.headers));
        let forget = site.forget(name);
        let Some(pending) = self.pendings.open::<Pending>(sealed) else {
            return over(StatusCode::UNAUTHORIZED, "oidc_state", forget, format).into();
        };
        if !pending.is_of(&answer.state) || pending.base != site.base {
            return Verdict::Outdated("oidc_state").into();
        }
        if pending.is_over() {
            return over(StatusCode::UNAUTHORIZED, "oidc_no_login", forget, format).into();
        }
        let other = |issuer: &String| *issuer != self.settings.issuer;
        if answer.issuer.as_ref().is_some_and(other) {
            return over(StatusCode::UNAUTHORIZED, "oidc_issuer", forget, format).into();
        }
        let code = match (answer.code, answer.error) {
            (Some(code), None) => code,
            (_, Some(error)) if error == "access_denied" => {
                return over(StatusCode::FORBIDDEN, "oidc_denied", forget, format).into();
            }
            (_, Some(_)) => {
                return over(StatusCode::SERVICE_UNAVAILABLE, "oidc_provider", forget, format)
                    .into();
            }
            (None, None) => return Verdict::Outdated("oidc_callback").into(),
        };
        let tells_issuer = answer.issuer.is_some();
        let (location, state) = (format!("{}{}", site.base, pending.target), answer.state);
        Judging::Later(Box::pin(async move {
            let logins = self.clone();
            let begin = move || async move { logins.session(&code, &pending, tells_issuer).await };
            let status = match self.exchanges.once(&state, client, begin).await {
                End::Session(session) => {
                    return self.admit(&session, &site, &location, forget, format);
                }
                End::Unavailable(why) => return Verdict::Unavailable(why),
                End::Guessed(why) => {
                    let told = told_over(StatusCode::UNAUTHORIZED, forget, format);
                    return Verdict::RefusedWith(told, why);
                }
                End::Refused(why) => (StatusCode::UNAUTHORIZED, why),
                End::Forbidden(why) => (StatusCode::FORBIDDEN, why),
                End::Failed(why) => (StatusCode::SERVICE_UNAVAILABLE, why),
            };
            over(status.0, status.1, forget, format)
        }))
    }

    /// Begins a session, and sends on to what was wanted.
    fn admit(
        &self,
        session: &Session,
        site: &Site,
        location: &str,
        forget: Option<HeaderValue>,
        format: Format,
    ) -> Verdict {
        let sealed = self.sessions.seal(session);
        let age = self.settings.session;
        let cookie = sealed.and_then(|value| site.cookie(self.names.session(site), &value, age));
        let Some(cookie) = cookie else {
            tracing::warn!(
                issuer = self.settings.issuer,
                "the claims that are kept of somebody do not fit a cookie: keep fewer"
            );
            return over(StatusCode::FORBIDDEN, "oidc_session_too_long", forget, format);
        };
        let cookies = [Some(cookie), forget].into_iter().flatten();
        send_to(location, cookies.collect(), "oidc_logged_in")
    }

    /// Exchanges a code for a session.
    async fn session(&self, code: &str, pending: &Pending, tells_issuer: bool) -> End {
        match self.exchanged(code, pending, tells_issuer).await {
            Ok(session) => End::Session(session),
            Err(end) => end,
        }
    }

    async fn exchanged(
        &self,
        code: &str,
        pending: &Pending,
        tells_issuer: bool,
    ) -> Result<Session, End> {
        let unavailable = || End::Unavailable("oidc_no_provider");
        let provider = match self.provider.get() {
            Some(provider) => provider,
            None => {
                self.provider.renewed().ok_or_else(unavailable)?.await.ok_or_else(unavailable)?
            }
        };
        if provider.tells_issuer && !tells_issuer {
            return Err(End::Refused("oidc_issuer"));
        }
        let redirect = self.redirect(&pending.base);
        let exchanged =
            provider.exchange(&self.fetch, &self.settings, code, &redirect, &pending.verifier);
        let tokens = exchanged.await.map_err(|error| {
            tracing::info!(issuer = self.settings.issuer, %error, "a login failed");
            match error {
                // With a state and a cookie that no other site knows: nobody's browser was
                // made to bring this code.
                ExchangeError::Unknown => End::Guessed("oidc_code"),
                ExchangeError::Refused(_) => End::Refused("oidc_code"),
                ExchangeError::Failed(_) => End::Failed("oidc_provider"),
            }
        })?;
        let claims = self.claims(&tokens.id_token, &provider).await?;
        if !pending.has_nonce(claims.text("nonce")) {
            return Err(End::Refused("oidc_nonce"));
        }
        self.is_for_us(&claims)?;
        if !self.checks.rules.has_required(&claims) {
            return Err(End::Forbidden("oidc_required_claim"));
        }
        // A provider that grants all that was asked for need not say so (RFC 6749 §5.1).
        let asked_for = self.settings.scopes.join(" ");
        let granted = tokens.scope.as_deref().unwrap_or(&asked_for);
        Session::new(&self.settings, &claims, granted).map_err(End::Refused)
    }

    async fn claims(&self, token: &str, provider: &Provider) -> Result<Claims, End> {
        let checked = match self.checks.check(token, &provider.keys) {
            Err(Fault::UnknownKey) => match self.provider.renewed() {
                Some(renewed) => match renewed.await {
                    Some(provider) => self.checks.check(token, &provider.keys),
                    None => Err(Fault::UnknownKey),
                },
                None => Err(Fault::UnknownKey),
            },
            checked => checked,
        };
        checked.map_err(|fault| match fault {
            Fault::Refused(why) | Fault::Outdated(why) => End::Refused(why),
            Fault::UnknownKey => End::Refused("jwt_unknown_key"),
            Fault::Unavailable(why) => End::Failed(why),
        })
    }

    /// Whether a token was made for us and not for another, who has it for us as well
    /// (OpenID Connect Core 1.0 §3.1.3.7).
    fn is_for_us(&self, claims: &Claims) -> Result<(), End> {
        let party = claims.text("azp");
        let several = claims.audiences().is_ok_and(|audiences| audiences.len() > 1);
        let is_ours = match party {
            Some(party) => party == self.settings.client_id,
            None => !several && claims.get("azp").is_none(),
        };
        if is_ours { Ok(()) } else { Err(End::Refused("oidc_party")) }
    }

    /// Ends a session.
    pub(super) fn log_out(self: Arc<Self>, site: Site) -> Judging {
        if !self.settings.provider_logout {
            return self.logged_out(&site, None).into();
        }
        if let Some(provider) = self.provider.get() {
            return self.logged_out(&site, Some(&provider)).into();
        }
        let Some(renewed) = self.provider.renewed() else {
            return self.logged_out(&site, None).into();
        };
        Judging::Later(Box::pin(async move {
            let provider = renewed.await;
            self.logged_out(&site, provider.as_deref())
        }))
    }

    /// Here, and at this provider if it has a way to.
    fn logged_out(&self, site: &Site, provider: Option<&Provider>) -> Verdict {
        let cookies: Vec<HeaderValue> = site.forget(self.names.session(site)).into_iter().collect();
        if let Some(url) = provider.and_then(|provider| provider.end_session.as_ref()) {
            let back = format!("{}/", site.base);
            let fields =
                [("client_id", &*self.settings.client_id), ("post_logout_redirect_uri", &*back)];
            return send_to(&provider::with_query(url, &fields), cookies, "oidc_logged_out");
        }
        let mut response = Response::new(Bytes::from_static(LOGGED_OUT.as_bytes()));
        let headers = response.headers_mut();
        let html = HeaderValue::from_static("text/html; charset=utf-8");
        headers.insert(header::CONTENT_TYPE, html);
        for cookie in cookies {
            headers.append(header::SET_COOKIE, cookie);
        }
        Verdict::Answered(Box::new(response), "oidc_logged_out")
    }
}
