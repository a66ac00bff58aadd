//! Asks another service who may come in (forward-auth).

mod decision;
mod question;
mod remembered;
mod settings;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderMap, Request};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;

pub use settings::{DecisionCacheSettings, ForwardAuthSettings, KeyPart, ToldFields};

use self::decision::Decision;
use self::question::{Described, end_to_end, question};
use self::remembered::{Remembered, Shared, Turn};
use super::authenticate::{Asked, Authenticate, Judging, Verdict};
use crate::fetch::{Fetch, FetchSettings, FetchSetupError};
use crate::respond::Format;

/// While requests are let in without a decision, this is how often it is said.
const REMINDER: Duration = Duration::from_secs(10);

/// Of decisions that are remembered so many are waited for at once, for each that may be asked
/// for at once: they are, whether or not the clients still wait.
const WAITING_PER_TURN: usize = 4;

/// Lets in whom another service lets in, as Traefik's `ForwardAuth` and nginx's
/// `auth_request` do.
///
/// The service is told of the request, and answers: 2xx lets it in, with fields for the
/// origin; 401, 403 and redirects are for the client. If it cannot be asked, nobody is let
/// in, unless settled otherwise. Decisions can be remembered by what the service decides
/// by; then it is asked once, however many requests wait for that.
///
/// ```
/// use tollgate::layers::{AuthLayer, ForwardAuth, ForwardAuthSettings};
///
/// let mut settings = ForwardAuthSettings::new("http://auth.internal/verify".parse()?);
/// settings.response_headers = vec!["x-auth-user".parse()?];
/// let layer = AuthLayer::by(ForwardAuth::new(&settings)?);
/// # let _ = layer;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct ForwardAuth(Arc<Service>);

#[derive(Debug)]
struct Service {
    settings: ForwardAuthSettings,
    fetch: Fetch,
    turns: Semaphore,
    remembered: Option<Arc<Remembered>>,
    /// When it was last said that requests are let in without a decision.
    reminded: Mutex<Option<Instant>>,
}

impl ForwardAuth {
    /// Asks as these settings say. Reads the certificates to believe.
    ///
    /// # Errors
    ///
    /// The certificates cannot be read, or the system believes nobody's.
    pub fn new(settings: &ForwardAuthSettings) -> Result<Self, FetchSetupError> {
        let fetch = Fetch::new(&FetchSettings {
            ca: settings.ca.clone(),
            plain: settings.url.scheme_str() == Some("http"),
            timeout: settings.timeout,
            connect_timeout: settings.timeout,
            max_bytes: settings.max_response,
        })?;
        // Without random numbers nothing is remembered.
        let most = settings.max_in_flight.clamp(1, Semaphore::MAX_PERMITS);
        let cache = settings.cache.as_ref().filter(|_| settings.send_body.is_none());
        let remembered = cache.and_then(|of| Remembered::new(of, most * WAITING_PER_TURN));
        Ok(Self(Arc::new(Service {
            fetch,
            turns: Semaphore::new(most),
            remembered: remembered.map(Arc::new),
            reminded: Mutex::new(None),
            settings: settings.clone(),
        })))
    }
}

impl Service {
    /// Asks, for one request; with the fields of the answer, which say whether it is for
    /// others as well.
    async fn ask(&self, question: Request<Bytes>) -> (Decision, HeaderMap) {
        let turn = tokio::time::timeout(self.settings.timeout, self.turns.acquire()).await;
        let Ok(Ok(_turn)) = turn else {
            return (Decision::Failed("forward_overloaded"), HeaderMap::new());
        };
        let answer = self.fetch.send(question).await;
        let headers = answer.as_ref().map(|answer| answer.headers().clone()).unwrap_or_default();
        (Decision::of(answer, &self.settings), headers)
    }

    /// Asks for all who wait, or waits for another who does.
    async fn ask_together(self: Arc<Self>, turn: Turn, question: Request<Bytes>) -> Arc<Decision> {
        let mut waiting = match turn {
            Turn::Asks(asking) => {
                let service = self.clone();
                // Others wait for it: it goes on although the client may go away.
                let asked = tokio::spawn(async move {
                    let (decision, headers) = service.ask(question).await;
                    asking.answer(decision, &headers)
                });
                return asked.await.unwrap_or(Arc::new(Decision::Failed("forward_failed")));
            }
            Turn::Waits(waiting) => waiting,
            Turn::TooMany => return Arc::new(Decision::Failed("forward_overloaded")),
        };
        let shared = match waiting.wait_for(Option::is_some).await {
            Ok(shared) => shared.clone(),
            Err(_) => None,
        };
        match shared {
            Some(Shared::All(decision)) => decision,
            Some(Shared::Own) | None => Arc::new(self.ask(question).await.0),
        }
    }

    fn verdict(&self, decision: &Decision, format: Format) -> Verdict {
        if let (Decision::Failed(reason), true) = (decision, self.settings.open_on_failure) {
            self.remind(reason);
        }
        decision.verdict(&self.settings, format)
    }

    fn remind(&self, reason: &'static str) {
        let now = Instant::now();
        let mut reminded = self.reminded.lock();
        if reminded.is_none_or(|last| now.duration_since(last) >= REMINDER) {
            *reminded = Some(now);
            tracing::warn!(
                url = %self.settings.url.path(),
                reason,
                "requests are let in without a decision, as `on_failure = \"open\"` asks"
            );
        }
    }
}

impl Authenticate for ForwardAuth {
    fn scheme(&self) -> &'static str {
        "forward"
    }

    fn judge(&self, request: &Asked<'_>) -> Judging {
        let service = self.0.clone();
        if let Some(limit) = service.settings.send_body
            && request.body.is_none_or(|body| body.len() > limit)
        {
            return Judging::Body(limit);
        }
        let headers = end_to_end(request.headers);
        let request = &Asked { headers: &headers, ..*request };
        let format = Format::preferred(&headers);
        let Some(remembered) = &service.remembered else {
            let question = question(&service.settings, request);
            return Judging::Later(Box::pin(async move {
                let (decision, _) = service.ask(question).await;
                service.verdict(&decision, format)
            }));
        };
        let key = remembered.key(&Described::of(request), &headers);
        if let Some(decision) = remembered.get(&key) {
            return service.verdict(&decision, format).into();
        }
        let turn = remembered.turn(key);
        let question = question(&service.settings, request);
        Judging::Later(Box::pin(async move {
            let decision = service.clone().ask_together(turn, question).await;
            service.verdict(&decision, format)
        }))
    }

    fn identity_fields(&self) -> Vec<HeaderName> {
        // What clients have a right to send is replaced once they are let in.
        let theirs = [header::AUTHORIZATION, header::COOKIE];
        let fields = self.0.settings.response_headers.iter();
        fields.filter(|name| !theirs.contains(name)).cloned().collect()
    }
}
