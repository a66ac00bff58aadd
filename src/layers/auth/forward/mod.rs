//! Asks another service who may come in (forward-auth).

mod decision;
mod outage;
mod question;
mod remembered;
mod settings;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderMap, Request};
use tokio::sync::Semaphore;

pub use settings::{DecisionCacheSettings, ForwardAuthSettings, KeyPart, ToldFields};

use self::decision::Decision;
use self::outage::Outage;
use self::question::{Described, end_to_end, question};
use self::remembered::{Remembered, Shared, Turn};
use super::authenticate::{Asked, Authenticate, Judging, Verdict};
use crate::fetch::{Fetch, FetchSettings, FetchSetupError};
use crate::respond::Format;

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
    outage: Outage,
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
        let told = &settings.request_headers;
        let remembered = cache.and_then(|of| Remembered::new(of, told, most * WAITING_PER_TURN));
        Ok(Self(Arc::new(Service {
            fetch,
            turns: Semaphore::new(most),
            remembered: remembered.map(Arc::new),
            outage: Outage::new(),
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
        let decision = Decision::of(answer, &self.settings);
        if !matches!(decision, Decision::Failed(_)) {
            self.outage.answered(&self.settings.url);
        }
        (decision, headers)
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
        if let Decision::Failed(reason) = decision {
            self.outage.failed(&self.settings.url, reason, self.settings.open_on_failure);
        }
        decision.verdict(&self.settings, format)
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
        let remembered = service.remembered.as_ref();
        let key = remembered.and_then(|of| of.key(&Described::of(request), &headers));
        let Some((remembered, key)) = remembered.zip(key) else {
            let question = question(&service.settings, request);
            return Judging::Later(Box::pin(async move {
                let (decision, _) = service.ask(question).await;
                service.verdict(&decision, format)
            }));
        };
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
