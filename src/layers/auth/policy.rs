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

/// A scheme, and what it is called: two of one kind are two.
#[derive(Clone, Debug)]
pub struct Authenticator {
    /// Its name, by which limits tell the identities of several apart.
    pub name: Arc<str>,
    /// The scheme.
    pub scheme: Arc<dyn Authenticate>,
}

/// Who is let in: whom all of some schemes, and any of others, let in.
#[derive(Clone, Debug, Default)]
pub(super) struct Policy {
    pub(super) all: Vec<Authenticator>,
    pub(super) any: Vec<Authenticator>,
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
    /// The weightiest of what any of the others said instead, and its weight.
    against: Option<(Weight, Verdict)>,
    /// Whether one of [`Policy::any`] has let it in.
    any: bool,
    /// The one of [`Policy::any`] whose affair the request is, whoever else would let it in.
    claimed: Option<usize>,
    /// Which had wrong credentials, as their places in [`Policy::schemes`].
    wrong: Vec<usize>,
    /// Which had right ones, or cannot tell, though these may not do.
    right: Vec<usize>,
}

/// Everything that was granted.
#[derive(Debug, Default)]
pub(super) struct Granted {
    /// The first who is named, and by whom.
    pub(super) identity: Option<(Arc<Identity>, Arc<str>)>,
    /// All others who are named.
    named: Vec<Arc<Identity>>,
    pub(super) changes: Vec<Arc<Changes>>,
    pub(super) response: Vec<(HeaderName, HeaderValue)>,
    /// Which have granted it, as their places in [`Policy::schemes`].
    pub(super) by: Vec<usize>,
    /// Whether credentials had a part in it.
    pub(super) by_credentials: bool,
}

/// What a request comes to.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Which schemes had wrong credentials.
    pub(super) wrong: Vec<usize>,
    /// Which had right ones.
    pub(super) right: Vec<usize>,
    pub(super) end: Result<Granted, Rejection>,
}

/// Why a request is not let in, and what it is answered.
#[derive(Debug)]
pub(super) struct Rejection {
    /// For the log.
    pub(super) reason: &'static str,
    /// Who was kept out, where that is known.
    pub(super) identity: Option<Arc<Identity>>,
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
    /// The scheme that is next has to see so many bytes of the body at the most.
    Body(Progress, usize),
    /// The scheme that is next has to be waited for.
    Wait(Progress, std::pin::Pin<Box<dyn Future<Output = Verdict> + Send>>),
}

impl Policy {
    /// Every scheme, in the order in which they are asked.
    pub(super) fn schemes(&self) -> impl Iterator<Item = &Arc<dyn Authenticate>> {
        self.all.iter().chain(&self.any).map(|one| &one.scheme)
    }

    /// Before anybody is asked.
    pub(super) fn begin(&self, asked: &Asked<'_>) -> Progress {
        let claimed = self.any.iter().position(|one| one.scheme.claims(asked));
        Progress { claimed, ..Progress::default() }
    }

    /// Asks one scheme after the other, as far as that goes without waiting.
    pub(super) fn go_on(&self, mut progress: Progress, asked: &Asked<'_>) -> Step {
        while let Some((_, one)) = self.at(&progress) {
            match one.scheme.judge(asked) {
                Judging::Later(future) => return Step::Wait(progress, future),
                // Of one that sees it and asks for it all the same nothing is known.
                Judging::Body(limit) if asked.body.is_none_or(|body| body.len() > limit) => {
                    return Step::Body(progress, limit);
                }
                Judging::Body(_) => {
                    match self.heard(progress, Verdict::Unavailable("auth_unavailable")) {
                        Ok(further) => progress = further,
                        Err(outcome) => return Step::Done(outcome),
                    }
                }
                Judging::Now(verdict) => match self.heard(progress, verdict) {
                    Ok(further) => progress = further,
                    Err(outcome) => return Step::Done(outcome),
                },
            }
        }
        Step::Done(self.end(progress))
    }

    /// Whether a request without credentials comes from where all have to come from.
    pub(super) fn is_from_inside(&self, asked: &Asked<'_>) -> bool {
        let mut places = self.all.iter().filter(|one| !one.scheme.is_by_credentials());
        places.all(|one| matches!(one.scheme.judge(asked), Judging::Now(Verdict::Granted(_))))
    }

    /// The scheme to ask next, and its place in [`Policy::schemes`]: of those of which one is
    /// enough, none after that one, and none but the one whose affair it is. One that lets in
    /// somebody without the scopes is not enough.
    pub(super) fn at(&self, progress: &Progress) -> Option<(usize, &Authenticator)> {
        let Some(index) = progress.next.checked_sub(self.all.len()) else {
            return Some((progress.next, self.all.get(progress.next)?));
        };
        let index = match progress.claimed {
            Some(claimed) if index == 0 => claimed,
            Some(_) => return None,
            None => index,
        };
        let one = self.any.get(index).filter(|_| !progress.any)?;
        Some((self.all.len() + index, one))
    }

    /// Notes what the scheme has said that was asked; an outcome if that is the end of it.
    #[expect(clippy::result_large_err, reason = "made once for a request at the most")]
    pub(super) fn heard(
        &self,
        mut progress: Progress,
        verdict: Verdict,
    ) -> Result<Progress, Outcome> {
        let of_all = progress.next < self.all.len();
        let next = self.at(&progress);
        if let (true, Some((at, _))) = (verdict.is_failure(), next) {
            progress.wrong.push(at);
        }
        if let (true, Some((at, _))) = (may_be_right(&verdict), next) {
            progress.right.push(at);
        }
        match (verdict, next) {
            (Verdict::Granted(grant), Some((at, one))) => {
                if of_all || self.suffices(&progress.granted, &grant) {
                    progress.any |= !of_all;
                    progress.granted.add(grant, at, one);
                } else {
                    progress.weigh(lacking_scopes(grant));
                }
            }
            (against, _) if of_all => {
                let Progress { wrong, right, granted, .. } = progress;
                let end = Err(self.reject(against, granted.first()));
                return Err(Outcome { wrong, right, end });
            }
            (against, _) => progress.weigh((weight(&against), against)),
        }
        progress.next += 1;
        Ok(progress)
    }

    /// Whether those who are known have every scope.
    fn suffices(&self, granted: &Granted, grant: &Grant) -> bool {
        let mut missing = self.scopes.iter().filter(|scope| !granted.has_scope(scope));
        missing.all(|scope| grant.identity.as_ref().is_some_and(|of| of.has_scope(scope)))
    }

    fn end(&self, progress: Progress) -> Outcome {
        let Progress { granted, against, any, wrong, right, .. } = progress;
        let nobody_asked = self.all.is_empty() && self.any.is_empty();
        let end = if nobody_asked || (!any && !self.any.is_empty()) {
            let against = against.map_or(Verdict::Absent, |(_, verdict)| verdict);
            Err(self.reject(against, granted.first()))
        } else if self.scopes.iter().all(|scope| granted.has_scope(scope)) {
            Ok(granted)
        } else {
            Err(self.reject(Verdict::Forbidden("auth_scope"), granted.first()))
        };
        Outcome { wrong, right, end }
    }

    /// Keeps out somebody who is known, if `known`.
    fn reject(&self, verdict: Verdict, known: Option<&Arc<Identity>>) -> Rejection {
        let (verdict, identity) = verdict.apart();
        let identity = identity.or_else(|| known.cloned());
        let (reason, answer) = match verdict {
            Verdict::Answered(mut response, reason)
            | Verdict::RefusedWith(mut response, reason) => {
                if response.status() == StatusCode::UNAUTHORIZED {
                    self.challenge(response.headers_mut());
                }
                return Rejection { reason, identity, answer: Said::Theirs(response) };
            }
            Verdict::Refused(reason) | Verdict::Outdated(reason) => (reason, self.unauthorized()),
            Verdict::Absent | Verdict::Granted(_) | Verdict::About(..) => {
                ("auth_missing", self.unauthorized())
            }
            Verdict::Forbidden(reason) | Verdict::Outside(reason) => (reason, forbidden()),
            Verdict::Unavailable(reason) => (reason, unavailable()),
        };
        Rejection { reason, identity, answer: Said::Ours(Box::new(answer)) }
    }

    /// Adds what the schemes ask for to what one of them asks for in an answer of its own.
    fn challenge(&self, headers: &mut HeaderMap) {
        for challenge in self.schemes().filter_map(|scheme| scheme.challenge()) {
            if !headers.get_all(header::WWW_AUTHENTICATE).iter().any(|one| *one == challenge) {
                headers.append(header::WWW_AUTHENTICATE, challenge);
            }
        }
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

impl Progress {
    /// Whether any had wrong credentials.
    pub(super) fn went_wrong(&self) -> bool {
        !self.wrong.is_empty()
    }

    /// Of what is said alike weightily the first counts.
    fn weigh(&mut self, (weight, verdict): (Weight, Verdict)) {
        if self.against.as_ref().is_none_or(|(before, _)| weight > *before) {
            self.against = Some((weight, verdict));
        }
    }
}

impl Granted {
    /// The first who is named.
    fn first(&self) -> Option<&Arc<Identity>> {
        self.identity.as_ref().map(|(identity, _)| identity)
    }

    /// Whether anybody who is named has it.
    fn has_scope(&self, scope: &str) -> bool {
        self.first().into_iter().chain(&self.named).any(|identity| identity.has_scope(scope))
    }

    /// The first who is named is who it is.
    fn add(&mut self, grant: Grant, at: usize, one: &Authenticator) {
        let Grant { identity, changes, response } = grant;
        match (identity, &self.identity) {
            (Some(identity), None) => self.identity = Some((identity, one.name.clone())),
            (Some(identity), Some(_)) => self.named.push(identity),
            (None, _) => {}
        }
        self.changes.extend(changes);
        self.response.extend(response);
        self.by.push(at);
        self.by_credentials |= one.scheme.is_by_credentials();
    }
}

impl From<Arc<dyn Authenticate>> for Authenticator {
    fn from(scheme: Arc<dyn Authenticate>) -> Self {
        Self { name: scheme.scheme().into(), scheme }
    }
}

/// Of several schemes of which none has let a request in, one has the say: who can help
/// the client further before who cannot, and who knows something before who does not.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Weight {
    Outside,
    Forbidden,
    Absent,
    Wrong,
    /// A scheme's own 401, to which the challenges of the others are added.
    Unauthorized,
    /// Who asks is known. Other credentials might help, but these are not wrong.
    LacksScopes,
    Unavailable,
    Redirected,
}

fn weight(verdict: &Verdict) -> Weight {
    match verdict {
        Verdict::Granted(_) | Verdict::Outside(_) => Weight::Outside,
        Verdict::Forbidden(_) => Weight::Forbidden,
        Verdict::Absent => Weight::Absent,
        Verdict::Outdated(_) | Verdict::Refused(_) => Weight::Wrong,
        Verdict::Unavailable(_) => Weight::Unavailable,
        Verdict::Answered(response, _) | Verdict::RefusedWith(response, _) => {
            match response.status() {
                StatusCode::UNAUTHORIZED => Weight::Unauthorized,
                status if status.is_client_error() => Weight::Forbidden,
                status if status.is_server_error() => Weight::Unavailable,
                _ => Weight::Redirected,
            }
        }
        Verdict::About(_, verdict) => weight(verdict),
    }
}

/// Whether credentials are nobody's guess: right ones, if not now or not for this, or such as
/// cannot be looked at.
fn may_be_right(verdict: &Verdict) -> bool {
    match verdict {
        Verdict::Granted(_)
        | Verdict::Outdated(_)
        | Verdict::Forbidden(_)
        | Verdict::Unavailable(_) => true,
        Verdict::About(_, verdict) => may_be_right(verdict),
        Verdict::Absent
        | Verdict::Outside(_)
        | Verdict::Refused(_)
        | Verdict::Answered(..)
        | Verdict::RefusedWith(..) => false,
    }
}

/// What comes of being let in without the scopes. Nobody's are missed of a network, say.
fn lacking_scopes(grant: Grant) -> (Weight, Verdict) {
    match grant.identity {
        Some(known) => (Weight::LacksScopes, Verdict::Forbidden("auth_scope").about(known)),
        None => (Weight::Outside, Verdict::Outside("auth_scope")),
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
