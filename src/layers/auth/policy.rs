//! Which schemes a route asks, and what comes of what they say.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use super::authenticate::{Asked, Authenticate, Changes, Grant, Judging, Verdict};
use crate::context::Identity;
use crate::respond::Answer;

/// What is asked for where no scheme has a challenge: a 401 has to carry one.
const CHALLENGE: HeaderValue = HeaderValue::from_static("Tollgate realm=\"tollgate\"");

/// Who is let in: whom all of some schemes, and any of others, let in.
#[derive(Clone, Debug, Default)]
pub(super) struct Policy {
    pub(super) all: Vec<Arc<dyn Authenticate>>,
    pub(super) any: Vec<Arc<dyn Authenticate>>,
    /// What they must be allowed, each of it.
    pub(super) scopes: Vec<Box<str>>,
}

/// How far a request has come.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The next scheme to ask.
    next: usize,
    /// What those before it have granted.
    granted: Granted,
    /// The weightiest of what any of the others said instead.
    against: Option<Verdict>,
    /// Whether one of [`Policy::any`] has let it in.
    any: bool,
}

/// Everything that was granted.
#[derive(Debug, Default)]
pub(super) struct Granted {
    pub(super) identity: Option<Arc<Identity>>,
    pub(super) changes: Vec<Arc<Changes>>,
    pub(super) response: Vec<(HeaderName, HeaderValue)>,
}

/// What a request comes to.
#[derive(Debug)]
pub(super) enum Outcome {
    Admitted(Granted),
    Rejected(Rejection),
}

/// Why a request is not let in, and what it is answered.
#[derive(Debug)]
pub(super) struct Rejection {
    /// For the log.
    pub(super) reason: &'static str,
    /// Whether somebody may have been guessing.
    pub(super) failed: bool,
    pub(super) answer: Said,
}

/// An answer of ours, or of a scheme's own.
#[derive(Debug)]
pub(super) enum Said {
    Ours(Box<Answer>),
    Theirs(Box<Response<Bytes>>),
}

/// One step further.
pub(super) enum Step {
    Done(Outcome),
    /// A scheme has to be waited for.
    Wait(Progress, std::pin::Pin<Box<dyn Future<Output = Verdict> + Send>>),
}

impl Policy {
    /// Every scheme, in the order in which they are asked.
    pub(super) fn schemes(&self) -> impl Iterator<Item = &Arc<dyn Authenticate>> {
        self.all.iter().chain(&self.any)
    }

    /// Asks one scheme after the other, as far as that goes without waiting.
    pub(super) fn go_on(&self, mut progress: Progress, asked: &Asked<'_>) -> Step {
        while let Some(scheme) = self.at(&progress) {
            match scheme.judge(asked) {
                Judging::Later(future) => return Step::Wait(progress, future),
                Judging::Now(verdict) => match self.heard(progress, verdict) {
                    Ok(further) => progress = further,
                    Err(rejection) => return Step::Done(Outcome::Rejected(rejection)),
                },
            }
        }
        Step::Done(self.end(progress))
    }

    /// The scheme to ask next: of those of which one is enough, none after that one.
    pub(super) fn at(&self, progress: &Progress) -> Option<&Arc<dyn Authenticate>> {
        match progress.next.checked_sub(self.all.len()) {
            None => self.all.get(progress.next),
            Some(index) => self.any.get(index).filter(|_| !progress.any),
        }
    }

    /// Notes what the scheme has said that was asked.
    pub(super) fn heard(
        &self,
        mut progress: Progress,
        verdict: Verdict,
    ) -> Result<Progress, Rejection> {
        let of_all = progress.next < self.all.len();
        progress.next += 1;
        match verdict {
            Verdict::Granted(grant) => {
                progress.any |= !of_all;
                progress.granted.add(grant);
            }
            against if of_all => return Err(self.reject(against)),
            against => {
                let weightier = |before: &Verdict| weight(&against) > weight(before);
                if progress.against.as_ref().is_none_or(weightier) {
                    progress.against = Some(against);
                }
            }
        }
        Ok(progress)
    }

    fn end(&self, progress: Progress) -> Outcome {
        let Progress { granted, against, any, .. } = progress;
        if !any && !self.any.is_empty() {
            return Outcome::Rejected(self.reject(against.unwrap_or(Verdict::Absent)));
        }
        let identity = granted.identity.as_deref();
        let has = |scope: &str| identity.is_some_and(|identity| identity.has_scope(scope));
        if !self.scopes.iter().all(|scope| has(scope)) {
            return Outcome::Rejected(self.reject(Verdict::Forbidden("auth_scope")));
        }
        Outcome::Admitted(granted)
    }

    fn reject(&self, verdict: Verdict) -> Rejection {
        let (reason, failed, answer) = match verdict {
            Verdict::Answered(response, reason) => {
                return Rejection { reason, failed: false, answer: Said::Theirs(response) };
            }
            Verdict::Refused(reason) => (reason, true, self.unauthorized()),
            Verdict::Outdated(reason) => (reason, false, self.unauthorized()),
            Verdict::Absent | Verdict::Granted(_) => ("auth_missing", false, self.unauthorized()),
            Verdict::Forbidden(reason) | Verdict::Outside(reason) => (reason, false, forbidden()),
            Verdict::Unavailable(reason) => (reason, false, unavailable()),
        };
        Rejection { reason, failed, answer: Said::Ours(Box::new(answer)) }
    }

    /// The same for whoever has no credentials and whoever has wrong ones.
    fn unauthorized(&self) -> Answer {
        let detail = "Valid credentials are needed here.";
        let mut answer = Answer::new(StatusCode::UNAUTHORIZED, "unauthorized", detail);
        let mut challenged = false;
        for challenge in self.schemes().filter_map(|scheme| scheme.challenge()) {
            challenged = true;
            answer = answer.header(header::WWW_AUTHENTICATE, challenge);
        }
        if challenged { answer } else { answer.header(header::WWW_AUTHENTICATE, CHALLENGE) }
    }
}

impl Granted {
    /// The first who is named is who it is.
    fn add(&mut self, grant: Grant) {
        let Grant { identity, changes, response } = grant;
        self.identity = self.identity.take().or(identity);
        self.changes.extend(changes);
        self.response.extend(response);
    }
}

/// Of several schemes of which none has let a request in, one has the say: who can help
/// the client further before who cannot, and who knows something before who does not.
fn weight(verdict: &Verdict) -> u8 {
    match verdict {
        Verdict::Granted(_) => 0,
        Verdict::Outside(_) => 1,
        Verdict::Absent => 2,
        Verdict::Forbidden(_) => 3,
        Verdict::Outdated(_) | Verdict::Refused(_) => 4,
        Verdict::Unavailable(_) => 5,
        Verdict::Answered(..) => 6,
    }
}

fn forbidden() -> Answer {
    Answer::new(StatusCode::FORBIDDEN, "forbidden", "This is not allowed.")
}

fn unavailable() -> Answer {
    let detail = "It cannot be told at the moment who may come in; try again later.";
    Answer::new(StatusCode::SERVICE_UNAVAILABLE, "auth_unavailable", detail)
        .retry_after(std::time::Duration::from_secs(5))
}

/// An answer in the words of its maker.
pub(super) fn theirs<B: From<Bytes>>(response: Response<Bytes>) -> Response<B> {
    let mut response = response.map(B::from);
    let headers: &mut HeaderMap = response.headers_mut();
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}
