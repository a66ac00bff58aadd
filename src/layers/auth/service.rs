//! The layer: asks the schemes, and lets in or answers.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderName;
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use pin_project_lite::pin_project;
use tower::{Layer, Service, ServiceExt as _};

use super::authenticate::{Asked, Authenticate};
use super::changes;
use super::failures::Failures;
use super::policy::{Granted, Outcome, Policy, Progress, Rejection, Said, Step, theirs};
use crate::context::Exchange;
use crate::error::{BoxError, Error, Kind};
use crate::pace::Quota;
use crate::respond::{Answer, Format};

/// A body that a scheme has to see is there within this time: it is short.
const BODY_WITHIN: Duration = Duration::from_secs(30);

/// Puts [`Auth`] before a service.
///
/// ```
/// use tollgate::layers::{ApiKey, ApiKeySettings, ApiKeys, AuthLayer, KeyDigest};
///
/// let key = ApiKey::new("alice", KeyDigest::of(b"correct horse"));
/// let keys = ApiKeys::new(&ApiKeySettings::new([key]));
/// let layer = AuthLayer::by(keys);
/// # let _ = layer;
/// ```
#[derive(Clone, Debug)]
pub struct AuthLayer {
    shared: Arc<Shared>,
}

/// Lets in whom the schemes of a route let in, and answers all others.
///
/// Who is let in stands in the exchange from then on. The same answer, 401 with every
/// scheme's challenge, meets missing credentials and wrong ones; the reason is for the log.
/// Who is known and may not is answered 403; if it cannot be told, 503.
#[derive(Clone, Debug)]
pub struct Auth<S> {
    inner: S,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    policy: Policy,
    failures: Option<Arc<Failures>>,
    /// The most that any scheme has to see of a body.
    body_limit: Option<usize>,
}

impl AuthLayer {
    /// Lets in whom this scheme lets in.
    #[must_use]
    pub fn by(scheme: impl Authenticate + 'static) -> Self {
        Self::any([Arc::new(scheme) as Arc<dyn Authenticate>])
    }

    /// Lets in whom any of these schemes lets in; they are asked in this order.
    #[must_use]
    pub fn any(schemes: impl IntoIterator<Item = Arc<dyn Authenticate>>) -> Self {
        let any = schemes.into_iter().collect();
        Self::with(Policy { any, ..Policy::default() }, None)
    }

    /// Lets in whom all of these schemes let in. The first of them that knows a name says
    /// who it is.
    #[must_use]
    pub fn all(schemes: impl IntoIterator<Item = Arc<dyn Authenticate>>) -> Self {
        let all = schemes.into_iter().collect();
        Self::with(Policy { all, ..Policy::default() }, None)
    }

    /// Lets nobody in whom these schemes do not all let in as well. They are asked first.
    #[must_use]
    pub fn and_all(self, schemes: impl IntoIterator<Item = Arc<dyn Authenticate>>) -> Self {
        let mut policy = self.shared.policy.clone();
        policy.all.extend(schemes);
        Self::with(policy, self.shared.failures.clone())
    }

    /// Asks for these scopes, all of them; 403 to who has not.
    #[must_use]
    pub fn scopes<T: Into<Box<str>>>(self, scopes: impl IntoIterator<Item = T>) -> Self {
        let mut policy = self.shared.policy.clone();
        policy.scopes = scopes.into_iter().map(Into::into).collect();
        Self::with(policy, self.shared.failures.clone())
    }

    /// Does not listen to an address that has had wrong credentials more often than this.
    /// By default it always listens.
    #[must_use]
    pub fn failures(self, quota: Quota) -> Self {
        Self::with(self.shared.policy.clone(), Some(Arc::new(Failures::new(quota))))
    }

    /// Goes on counting the failures that `before` has counted, if it is held to the same
    /// quota.
    #[must_use]
    pub fn remembering(self, before: &Self) -> Self {
        let quota = |of: &Self| of.shared.failures.as_ref().map(|failures| failures.quota());
        if quota(&self) != quota(before) {
            return self;
        }
        Self::with(self.shared.policy.clone(), before.shared.failures.clone())
    }

    /// Fields that are set on requests that are let in, and believed by the origin.
    pub fn identity_fields(&self) -> impl Iterator<Item = HeaderName> {
        self.shared.policy.schemes().flat_map(|scheme| scheme.identity_fields())
    }

    /// Query parameters that credentials may stand in.
    pub fn secret_parameters(&self) -> impl Iterator<Item = Arc<str>> {
        self.shared.policy.schemes().filter_map(|scheme| scheme.secret_parameter())
    }

    fn with(policy: Policy, failures: Option<Arc<Failures>>) -> Self {
        let body_limit = policy.schemes().filter_map(|scheme| scheme.body_limit()).max();
        Self { shared: Arc::new(Shared { policy, failures, body_limit }) }
    }
}

impl<S> Layer<S> for AuthLayer {
    type Service = Auth<S>;

    fn layer(&self, inner: S) -> Auth<S> {
        Auth { inner, shared: self.shared.clone() }
    }
}

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

pin_project! {
    /// The response of [`Auth`] on its way.
    pub struct AuthFuture<F, E, ResB> {
        #[pin]
        state: State<F, E, ResB>,
    }
}

pin_project! {
    #[project = Projected]
    enum State<F, E, ResB> {
        Rejected { response: Option<Response<ResB>> },
        Admitted { #[pin] future: F, fields: Vec<(HeaderName, HeaderValue)> },
        // A scheme, or the body, is waited for.
        Waiting { future: Boxed<Result<Response<ResB>, E>> },
    }
}

impl<S, B, ResB> Service<Request<B>> for Auth<S>
where
    S: Service<Request<B>, Response = Response<ResB>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    B: http_body::Body<Data = Bytes> + From<Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    ResB: From<Bytes> + Send + 'static,
{
    type Response = Response<ResB>;
    type Error = S::Error;
    type Future = AuthFuture<S::Future, S::Error, ResB>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (mut parts, body) = request.into_parts();
        if let Some(rejection) = self.shared.shut_out(&parts) {
            return AuthFuture::rejected(self.shared.answer(&parts, rejection));
        }
        if self.shared.body_limit.is_some() {
            return self.wait(parts, body, None);
        }
        match self.shared.policy.go_on(Progress::default(), &Asked::of(&parts, None)) {
            Step::Wait(progress, future) => self.wait(parts, body, Some((progress, future))),
            Step::Done(Outcome::Rejected(rejection)) => {
                AuthFuture::rejected(self.shared.answer(&parts, rejection))
            }
            Step::Done(Outcome::Admitted(granted)) => {
                let fields = self.shared.admit(&mut parts, granted);
                let future = self.inner.call(Request::from_parts(parts, body));
                AuthFuture { state: State::Admitted { future, fields } }
            }
        }
    }
}

impl<S> Auth<S> {
    /// Goes on where something has to be waited for: for what a scheme has begun, or, if
    /// that is none, first for the body.
    fn wait<B, ResB>(
        &mut self,
        mut parts: Parts,
        body: B,
        begun: Option<(Progress, Boxed<super::Verdict>)>,
    ) -> AuthFuture<S::Future, S::Error, ResB>
    where
        S: Service<Request<B>, Response = Response<ResB>> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: Send,
        B: http_body::Body<Data = Bytes> + From<Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
        ResB: From<Bytes> + Send + 'static,
    {
        // The service that was asked whether it is ready is the one that is called.
        let spare = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, spare);
        let shared = self.shared.clone();
        let future = Box::pin(async move {
            let (body, seen) = match shared.body_limit {
                None => (body, None),
                Some(limit) => match collected(body, limit).await {
                    Ok(bytes) => (B::from(bytes.clone()), Some(bytes)),
                    Err(kind) => return Ok(shared.cannot_see(&parts, kind)),
                },
            };
            let mut step = match begun {
                Some((progress, future)) => Step::Wait(progress, future),
                None => shared.policy.go_on(Progress::default(), &Asked::of(&parts, seen.as_ref())),
            };
            let outcome = loop {
                match step {
                    Step::Done(outcome) => break outcome,
                    Step::Wait(progress, future) => {
                        let given_up = shared.given_up(&progress, &parts);
                        let verdict = future.await;
                        given_up.was_not();
                        step = match shared.policy.heard(progress, verdict) {
                            Ok(progress) => {
                                shared.policy.go_on(progress, &Asked::of(&parts, seen.as_ref()))
                            }
                            Err(rejection) => Step::Done(Outcome::Rejected(rejection)),
                        };
                    }
                }
            };
            match outcome {
                Outcome::Rejected(rejection) => Ok(shared.answer(&parts, rejection)),
                Outcome::Admitted(granted) => {
                    let fields = shared.admit(&mut parts, granted);
                    let request = Request::from_parts(parts, body);
                    let mut response = inner.oneshot(request).await?;
                    add(&mut response, fields);
                    Ok(response)
                }
            }
        });
        AuthFuture { state: State::Waiting { future } }
    }
}

/// Counts a failure if it is dropped: whoever goes before it is known whether a password is
/// right has had it hashed all the same.
struct GivenUp(Option<(Arc<Failures>, IpAddr)>);

impl GivenUp {
    fn was_not(mut self) {
        self.0 = None;
    }
}

impl Drop for GivenUp {
    fn drop(&mut self) {
        if let Some((failures, client)) = self.0.take() {
            failures.note(client);
        }
    }
}

impl Shared {
    /// What counts a request that is given up while the scheme judges it that is next.
    fn given_up(&self, progress: &Progress, parts: &Parts) -> GivenUp {
        let is_dear = self.policy.at(progress).is_some_and(|scheme| scheme.is_dear());
        let failures = self.failures.as_ref().filter(|_| is_dear);
        let client = || Asked::of(parts, None).client();
        GivenUp(failures.and_then(|failures| Some((failures.clone(), client()?))))
    }

    /// Why nobody listens to whoever asks, if nobody does.
    fn shut_out(&self, parts: &Parts) -> Option<Rejection> {
        let failures = self.failures.as_ref()?;
        let wait = failures.shut_out_for(Asked::of(parts, None).client()?)?;
        let detail = "Too many wrong credentials came from this address; wait a while.";
        let answer = Answer::new(StatusCode::TOO_MANY_REQUESTS, "auth_failures", detail)
            .retry_after(wait.max(Duration::from_secs(1)));
        Some(Rejection {
            reason: "auth_failures",
            failed: false,
            answer: Said::Ours(Box::new(answer)),
        })
    }

    /// Notes a rejection, and writes the answer.
    fn answer<ResB: From<Bytes>>(&self, parts: &Parts, rejection: Rejection) -> Response<ResB> {
        let Rejection { reason, failed, answer } = rejection;
        let asked = Asked::of(parts, None);
        if let (true, Some(failures), Some(client)) = (failed, &self.failures, asked.client()) {
            failures.note(client);
        }
        if let Some(exchange) = asked.exchange {
            exchange.update(|record| record.rejection = Some(reason));
        }
        match answer {
            Said::Ours(answer) => answer.render(Format::preferred(&parts.headers)),
            Said::Theirs(response) => theirs(*response),
        }
    }

    /// Notes who is let in, and changes the request as that asks for; gives what is added
    /// to the response.
    fn admit(&self, parts: &mut Parts, granted: Granted) -> Vec<(HeaderName, HeaderValue)> {
        let Granted { identity, changes, response } = granted;
        if let Some(exchange) = parts.extensions.get::<Exchange>() {
            exchange.update(|record| record.identity = identity);
        }
        for change in changes {
            changes::apply(&change, parts);
        }
        response
    }

    /// The answer to a request whose body cannot be seen whole.
    fn cannot_see<ResB: From<Bytes>>(&self, parts: &Parts, kind: Kind) -> Response<ResB> {
        let answer = Answer::for_error(&Error::new(kind));
        let (reason, answer) = (answer.code(), Said::Ours(Box::new(answer)));
        self.answer(parts, Rejection { reason, failed: false, answer })
    }
}

/// The whole body, if it is no longer than that, and is there in time.
async fn collected<B>(body: B, limit: usize) -> Result<Bytes, Kind>
where
    B: http_body::Body<Data = Bytes> + Send,
    B::Error: Into<BoxError>,
{
    if body.size_hint().lower() > limit as u64 {
        return Err(Kind::RequestBodyTooLarge);
    }
    let collected = Limited::new(body, limit).collect();
    match tokio::time::timeout(BODY_WITHIN, collected).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Kind::RequestBodyTooLarge),
        Ok(Err(_)) => Err(Kind::RequestBodyAborted),
        Err(_) => Err(Kind::RequestBodyTimeout),
    }
}

fn add<B>(response: &mut Response<B>, fields: Vec<(HeaderName, HeaderValue)>) {
    for (name, value) in fields {
        response.headers_mut().append(name, value);
    }
}

impl<F, E, ResB> AuthFuture<F, E, ResB> {
    fn rejected(response: Response<ResB>) -> Self {
        Self { state: State::Rejected { response: Some(response) } }
    }
}

impl<F, E, ResB> Future for AuthFuture<F, E, ResB>
where
    F: Future<Output = Result<Response<ResB>, E>>,
{
    type Output = Result<Response<ResB>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            Projected::Rejected { response } => match response.take() {
                Some(response) => Poll::Ready(Ok(response)),
                // Polled again after it was ready, which nobody may rely on.
                None => Poll::Pending,
            },
            Projected::Admitted { future, fields } => {
                let mut answered = ready!(future.poll(cx));
                if let Ok(response) = &mut answered {
                    add(response, std::mem::take(fields));
                }
                Poll::Ready(answered)
            }
            Projected::Waiting { future } => future.as_mut().poll(cx),
        }
    }
}

impl<F, E, ResB> std::fmt::Debug for AuthFuture<F, E, ResB> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AuthFuture")
    }
}
