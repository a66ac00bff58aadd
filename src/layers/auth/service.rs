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
use pin_project_lite::pin_project;
use tower::{Layer, Service, ServiceExt as _};

use super::attempt::{Attempt, Guess};
use super::authenticate::{Asked, Authenticate};
use super::changes;
use super::failures::FailureCount;
use super::held::Held;
use super::policy::{
    Authenticator, Granted, Outcome, Policy, Progress, Rejection, Said, Step, theirs,
};
use super::preflight::{disarm, is_preflight};
use crate::budget::Budget;
use crate::context::{ByCredentials, Exchange};
use crate::error::{BoxError, Error, Kind};
use crate::layers::twins::remove_twins;
use crate::pace::Quota;
use crate::respond::{Answer, Format};

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

type Fields = Box<[HeaderName]>;

#[derive(Clone, Debug)]
struct Shared {
    policy: Policy,
    failures: Option<FailureCount>,
    /// Whether whoever asks what it may ask for is let through (CORS).
    preflights: bool,
    /// The fields in which each scheme looks for credentials.
    fields: Box<[Fields]>,
    /// Fields that nobody may bring along.
    stripped: Fields,
}

impl AuthLayer {
    /// Lets in whom this scheme lets in.
    #[must_use]
    pub fn by(scheme: impl Authenticate + 'static) -> Self {
        Self::any([Arc::new(scheme) as Arc<dyn Authenticate>])
    }

    /// Lets in whom any of these schemes lets in; they are asked in this order.
    #[must_use]
    pub fn any<A: Into<Authenticator>>(schemes: impl IntoIterator<Item = A>) -> Self {
        let any = schemes.into_iter().map(Into::into).collect();
        Self::with(Policy { any, ..Policy::default() })
    }

    /// Lets in whom all of these schemes let in. The first of them that knows a name says
    /// who it is.
    #[must_use]
    pub fn all<A: Into<Authenticator>>(schemes: impl IntoIterator<Item = A>) -> Self {
        let all = schemes.into_iter().map(Into::into).collect();
        Self::with(Policy { all, ..Policy::default() })
    }

    /// Lets nobody in whom these schemes do not all let in as well. They are asked first.
    #[must_use]
    pub fn and_all<A: Into<Authenticator>>(self, schemes: impl IntoIterator<Item = A>) -> Self {
        self.changed(|shared| {
            shared.policy.all.extend(schemes.into_iter().map(Into::into));
            (shared.fields, shared.stripped) = fields_of(&shared.policy);
        })
    }

    /// Asks for these scopes, all of them; 403 to who has not.
    #[must_use]
    pub fn scopes<T: Into<Box<str>>>(self, scopes: impl IntoIterator<Item = T>) -> Self {
        self.changed(|shared| {
            shared.policy.scopes = scopes.into_iter().map(Into::into).collect();
        })
    }

    /// Does not listen to an address that has had wrong credentials more often than this.
    /// By default it always listens.
    #[must_use]
    pub fn failures(self, quota: Quota) -> Self {
        self.counting_failures(FailureCount::new(quota))
    }

    /// The same with a count that other layers have as well.
    #[must_use]
    pub fn counting_failures(self, failures: FailureCount) -> Self {
        self.changed(|shared| shared.failures = Some(failures))
    }

    /// Lets browsers through that ask before a request of a script's what may be asked for, as
    /// they do without credentials (CORS preflights): OPTIONS with `Origin` and
    /// `Access-Control-Request-Method`, and no body. Credentials, and fields that would make
    /// another method of it, are taken out. By default they are treated like all requests.
    #[must_use]
    pub fn preflights(self) -> Self {
        self.changed(|shared| shared.preflights = true)
    }

    /// Leaves fields alone by which the origin is told who asks and which a client may have
    /// brought along: they have been taken out before, by
    /// [`StripIdentityLayer`](super::StripIdentityLayer). By default it takes them out itself.
    #[must_use]
    pub fn stripped_before(self) -> Self {
        self.changed(|shared| shared.stripped = Box::default())
    }

    /// Fields that are set on requests that are let in, and believed by the origin.
    pub fn identity_fields(&self) -> impl Iterator<Item = HeaderName> {
        self.shared.policy.schemes().flat_map(|scheme| scheme.identity_fields())
    }

    /// Query parameters that credentials may stand in.
    pub fn secret_parameters(&self) -> impl Iterator<Item = Arc<str>> {
        self.shared.policy.schemes().filter_map(|scheme| scheme.secret_parameter())
    }

    /// Fields in which credentials are looked for.
    pub fn credential_fields(&self) -> impl Iterator<Item = HeaderName> {
        self.shared.fields.iter().flatten().cloned()
    }

    fn with(policy: Policy) -> Self {
        let (fields, stripped) = fields_of(&policy);
        let shared = Shared { policy, failures: None, preflights: false, fields, stripped };
        Self { shared: Arc::new(shared) }
    }

    fn changed(self, change: impl FnOnce(&mut Shared)) -> Self {
        let mut shared = Arc::unwrap_or_clone(self.shared);
        change(&mut shared);
        Self { shared: Arc::new(shared) }
    }
}

/// The fields in which each scheme looks for credentials, and those that tell who asks.
fn fields_of(policy: &Policy) -> (Box<[Fields]>, Fields) {
    let fields = policy.schemes().map(|scheme| scheme.credential_fields().into()).collect();
    let told = policy.schemes().flat_map(|scheme| scheme.identity_fields()).collect();
    (fields, told)
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
        if self.shared.preflights
            && is_preflight(&parts, &body)
            && self.shared.policy.is_from_inside(&Asked::of(&parts, None))
        {
            self.shared.let_through(&mut parts);
            let future = self.inner.call(Request::from_parts(parts, body));
            return AuthFuture { state: State::Admitted { future, fields: Vec::new() } };
        }
        if let Some(rejection) = self.shared.shut_out(&parts) {
            return AuthFuture::rejected(self.shared.answer(&parts, rejection));
        }
        let body = Held::new(body);
        let asked = Asked::of(&parts, body.bytes());
        match self.shared.policy.go_on(self.shared.policy.begin(&asked), &asked) {
            Step::Done(outcome) => match self.shared.settle(&mut parts, outcome) {
                Err(rejection) => AuthFuture::rejected(self.shared.answer(&parts, rejection)),
                Ok(fields) => {
                    let future = self.inner.call(Request::from_parts(parts, body.into_body()));
                    AuthFuture { state: State::Admitted { future, fields } }
                }
            },
            step => self.wait(parts, body, step),
        }
    }
}

impl<S> Auth<S> {
    /// Goes on where a scheme, or the body, has to be waited for.
    fn wait<B, ResB>(
        &mut self,
        mut parts: Parts,
        mut body: Held<B>,
        mut step: Step,
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
            let mut guess = Guess::default();
            let outcome = loop {
                let progress = match step {
                    Step::Done(outcome) => break outcome,
                    Step::Body(progress, limit) => {
                        shared.suspect(&mut guess, &progress, &parts);
                        body = match body.seen_up_to(limit, &budget_of(&parts)).await {
                            Ok(seen) => seen,
                            Err(kind) => return Ok(shared.cannot_see(&parts, kind)),
                        };
                        Ok(progress)
                    }
                    Step::Wait(progress, judging) => {
                        shared.suspect(&mut guess, &progress, &parts);
                        let note = shared.note_for(&progress, &guess, &parts);
                        let verdict = Attempt { judging: Some(judging), note }.await;
                        shared.policy.heard(progress, verdict)
                    }
                };
                step = match progress {
                    Ok(progress) => shared.policy.go_on(progress, &Asked::of(&parts, body.bytes())),
                    Err(outcome) => Step::Done(outcome),
                };
            };
            // What it comes to is known: that is counted instead.
            guess.clear();
            match shared.settle(&mut parts, outcome) {
                Err(rejection) => Ok(shared.answer(&parts, rejection)),
                Ok(fields) => {
                    body.announce(&mut parts.headers);
                    let request = Request::from_parts(parts, body.into_body());
                    let mut response = inner.oneshot(request).await?;
                    add(&mut response, fields);
                    Ok(response)
                }
            }
        });
        AuthFuture { state: State::Waiting { future } }
    }
}

/// What memory for a request is charged to.
fn budget_of(parts: &Parts) -> Budget {
    let downstream = Asked::of(parts, None).downstream;
    downstream.map(|downstream| downstream.budget.clone()).unwrap_or_default()
}

impl Shared {
    /// Has a request counted as a guess that goes away, or whose body cannot be seen, once a
    /// scheme has found its credentials wrong.
    fn suspect(&self, guess: &mut Guess, progress: &Progress, parts: &Parts) {
        if let (true, Some(failures)) = (progress.went_wrong(), &self.failures)
            && let Some(client) = Asked::of(parts, None).client()
        {
            guess.note = Some((failures.clone(), client));
        }
    }

    /// Whether credentials were wrong that are not right for another scheme, one that looks
    /// for its own in the same field.
    fn was_guessed(&self, wrong: &[usize], right: &[usize], parts: &Parts) -> bool {
        let right = if wrong.is_empty() { Vec::new() } else { self.shown_in(right, parts) };
        let is_right =
            |at: &usize| self.shown_in(&[*at], parts).iter().any(|field| right.contains(field));
        !wrong.iter().all(is_right)
    }

    /// The fields in which a request has credentials for these schemes.
    fn shown_in(&self, schemes: &[usize], parts: &Parts) -> Vec<HeaderName> {
        let asked = Asked::of(parts, None);
        let all = self.policy.schemes().zip(&self.fields).enumerate();
        let of = all.filter(|(at, _)| schemes.contains(at));
        of.flat_map(|(_, (scheme, all))| scheme.shown_in(&asked).unwrap_or_else(|| all.to_vec()))
            .collect()
    }

    /// Whom to note as having failed if the request is given up while the scheme judges it
    /// that is next, and it turns out to be wrong: the work is done all the same. One request
    /// is one failure.
    fn note_for(
        &self,
        progress: &Progress,
        guess: &Guess,
        parts: &Parts,
    ) -> Option<(FailureCount, IpAddr)> {
        let next = self.policy.at(progress).filter(|(_, one)| one.scheme.is_dear());
        let next = next.filter(|_| guess.note.is_none());
        let failures = self.failures.as_ref().filter(|_| next.is_some())?;
        Some((failures.clone(), Asked::of(parts, None).client()?))
    }

    /// Why nobody listens to whoever asks, if nobody does.
    fn shut_out(&self, parts: &Parts) -> Option<Rejection> {
        let failures = self.failures.as_ref()?;
        let wait = failures.shut_out_for(Asked::of(parts, None).client()?)?;
        let detail = "Too many wrong credentials came from this address; wait a while.";
        let answer = Answer::new(StatusCode::TOO_MANY_REQUESTS, "auth_failures", detail)
            .retry_after(wait.max(Duration::from_secs(1)));
        let answer = Said::Ours(Box::new(answer));
        Some(Rejection { reason: "auth_failures", identity: None, answer })
    }

    /// Notes what a request has come to. One that is let in is changed as that asks for; gives
    /// what is added to the response.
    fn settle(
        &self,
        parts: &mut Parts,
        outcome: Outcome,
    ) -> Result<Vec<(HeaderName, HeaderValue)>, Rejection> {
        let Outcome { wrong, right, end } = outcome;
        if let Some(failures) = &self.failures
            && self.was_guessed(&wrong, &right, parts)
            && let Some(client) = Asked::of(parts, None).client()
        {
            failures.note(client);
        }
        let granted = end?;
        self.clean(parts, &granted.by);
        let Granted { identity, changes, response, by_credentials, .. } = granted;
        if by_credentials && parts.extensions.get::<Exchange>().is_none() {
            parts.extensions.insert(ByCredentials);
        }
        if let Some(exchange) = parts.extensions.get::<Exchange>() {
            exchange.update(|record| {
                let (identity, authenticator) = identity.unzip();
                record.identity = identity;
                record.authenticator = authenticator;
                record.by_credentials = by_credentials;
            });
        }
        changes::apply(&changes, parts);
        Ok(response)
    }

    /// Takes out what nobody may bring along, and the credentials of all schemes but of those
    /// that have let it in.
    fn clean(&self, parts: &mut Parts, by: &[usize]) {
        for field in &self.stripped {
            remove_twins(&mut parts.headers, field);
        }
        if by.len() < self.fields.len() {
            let kept = self.shown_in(by, parts);
            for (at, scheme) in self.policy.schemes().enumerate() {
                if !by.contains(&at) {
                    scheme.conceal(parts, &kept);
                }
            }
        }
    }

    /// Prepares a request that is let through whoever asks.
    fn let_through(&self, parts: &mut Parts) {
        self.clean(parts, &[]);
        disarm(&mut parts.headers, self.fields.iter().flatten());
    }

    /// Notes a rejection, and writes the answer.
    fn answer<ResB: From<Bytes>>(&self, parts: &Parts, rejection: Rejection) -> Response<ResB> {
        let Rejection { reason, identity, answer } = rejection;
        if let Some(exchange) = parts.extensions.get::<Exchange>() {
            exchange.update(|record| {
                record.rejection = Some(reason);
                record.identity = identity;
            });
        }
        match answer {
            Said::Ours(answer) => answer.render(Format::preferred(&parts.headers)),
            Said::Theirs(response) => theirs(*response),
        }
    }

    /// The answer to a request whose body cannot be seen whole.
    fn cannot_see<ResB: From<Bytes>>(&self, parts: &Parts, kind: Kind) -> Response<ResB> {
        let answer = Answer::for_error(&Error::new(kind));
        let (reason, answer) = (answer.code(), Said::Ours(Box::new(answer)));
        self.answer(parts, Rejection { reason, identity: None, answer })
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
