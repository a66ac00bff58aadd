//! HTTP message signatures (RFC 9421): a request is from whoever has signed it.

mod replay;
mod settings;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{Context, SHA256};
use http::{HeaderName, HeaderValue, Uri, Version, header};
use parking_lot::Mutex;
use tokio::time::Instant;

pub use settings::{SignatureKey, SignatureSettings};

use self::replay::{Remembered, Seen};
use super::authenticate::{Asked, Authenticate, Changes, Grant, Judging, Verdict};
use crate::context::Identity;
use crate::signature::digest::{self, CONTENT_DIGEST};
use crate::signature::{Component, Message, Received, Scheme, VerifyingKey, read};

const CHALLENGE: HeaderValue = HeaderValue::from_static("Signature realm=\"tollgate\"");

/// How many signatures of one request are looked at, of those by keys that are known.
const MAX_TRIED: usize = 4;

/// How often the log is told that a key has no more room.
const REPEAT: Duration = Duration::from_secs(60);

/// Lets in who has signed the request, by a key that is known: its method, host, path,
/// query and body, unless settled otherwise, and not long ago.
///
/// What is verified is the request as the client sent it. Of several signatures one that
/// is right is enough; those by unknown keys are passed over. Which algorithm a key is for
/// is settled with the key, never by the request. A signature is good once: it is
/// remembered for as long as it would be valid.
///
/// ```
/// use tollgate::layers::{AuthLayer, SignatureKey, SignatureSettings, Signatures};
/// use tollgate::signature::VerifyingKey;
///
/// let secret = VerifyingKey::secret(b"a secret that nobody can guess")?;
/// let key = SignatureKey::new("billing-2026", "billing", secret);
/// let layer = AuthLayer::by(Signatures::new(&SignatureSettings::new(vec![key])));
/// # let _ = layer;
/// # Ok::<_, tollgate::signature::KeyRejected>(())
/// ```
#[derive(Debug)]
pub struct Signatures {
    settings: SignatureSettings,
    known: HashMap<String, Known>,
    /// Whether a body has to be covered.
    digests: bool,
    /// What was signed before it could be remembered may have been seen by who came
    /// before.
    begun: SystemTime,
}

/// A key, and what comes of a signature by it.
#[derive(Debug)]
struct Known {
    key: VerifyingKey,
    grant: Grant,
    /// Its own, so that nobody can take the room of others.
    remembered: Option<Remembered>,
    /// When the log was last told that there is no more room.
    said_full: Mutex<Option<Instant>>,
}

/// Why a request is not let in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fault {
    Absent,
    Refused(&'static str),
    /// It is right, and not good now.
    Outdated(&'static str),
    Unavailable(&'static str),
    /// It cannot be told without the body.
    Unseen,
}

impl Signatures {
    /// Lets in by these keys.
    #[must_use]
    pub fn new(settings: &SignatureSettings) -> Self {
        Self::begun(settings, SystemTime::now())
    }

    fn begun(settings: &SignatureSettings, begun: SystemTime) -> Self {
        let field = settings.identity_header.as_ref();
        // Times are compared in whole seconds: the last one is good to its end.
        let window = settings.skew.saturating_mul(2).saturating_add(settings.max_age);
        let window = window.saturating_add(Duration::from_secs(1));
        let known = |of: &SignatureKey| {
            let remembered =
                settings.replay.then(|| Remembered::new(settings.max_remembered, window));
            let (key, grant) = (of.key.clone(), granted(of, field));
            (of.id.clone(), Known { key, grant, remembered, said_full: Mutex::default() })
        };
        Self {
            known: settings.keys.iter().map(known).collect(),
            digests: settings.required.iter().any(is_digest),
            settings: settings.clone(),
            begun,
        }
    }

    fn check(&self, asked: &Asked<'_>, now: SystemTime) -> Result<&Grant, Fault> {
        let received = read(asked.headers).map_err(|_| Fault::Refused("signature_malformed"))?;
        if received.is_empty() {
            return Err(Fault::Absent);
        }
        let source = Source::of(asked);
        let message = source.message(asked, self.settings.scheme);
        let mut fault = None;
        let known = received.iter().filter_map(|one| {
            let of_tag = self.settings.tag.is_none() || one.tag == self.settings.tag;
            Some((one, self.known.get(one.key_id.as_deref()?)?)).filter(|_| of_tag)
        });
        for (one, known) in known.take(MAX_TRIED) {
            match self.verify(one, known, &message, asked, now) {
                Ok(()) => return Ok(&known.grant),
                Err(Fault::Unseen) => return Err(Fault::Unseen),
                // Beside a right one that was caught somewhere nobody guesses for nothing.
                Err(Fault::Outdated(_)) if matches!(fault, Some(Fault::Refused(_))) => {}
                Err(other) => fault = Some(other),
            }
        }
        Err(fault.unwrap_or(Fault::Refused("signature_unknown_key")))
    }

    /// Whether this signature lets the request in. When it was made is looked at once it is
    /// known to be right: whose clock is wrong has guessed nothing.
    fn verify(
        &self,
        received: &Received,
        known: &Known,
        message: &Message<'_>,
        asked: &Asked<'_>,
        now: SystemTime,
    ) -> Result<(), Fault> {
        let claimed = received.algorithm.as_deref();
        if claimed.is_some_and(|claimed| claimed != known.key.algorithm().as_str()) {
            return Err(Fault::Refused("signature_algorithm"));
        }
        let created = received.created.ok_or(Fault::Refused("signature_without_created"))?;
        if self.settings.nonce && received.nonce.is_none() {
            return Err(Fault::Refused("signature_without_nonce"));
        }
        let missing = self.settings.required.iter().filter(|one| !received.covers(one));
        // Where there is no body there is none to cover.
        let (lacks_digest, lacks_other) =
            missing.fold((false, false), |(digest, other), one| match is_digest(one) {
                true => (true, other),
                false => (digest, true),
            });
        let has_body = asked.body.is_some_and(|body| !body.is_empty());
        let ties_body = !lacks_digest && received.covered().any(digest::ties);
        if lacks_other || (self.digests && has_body && !ties_body) {
            return Err(Fault::Refused("signature_not_covering"));
        }
        let base = received.base(message).map_err(|_| Fault::Refused("signature_component"))?;
        if !known.key.verifies(base.as_bytes(), received.signature()) {
            return Err(Fault::Refused("signature_wrong"));
        }
        self.check_time(created, received.expires, now).map_err(Fault::Outdated)?;
        // What it says of the body is looked at once it is known who says it.
        if self.digests {
            let seen = asked.body.filter(|body| body.len() <= self.settings.max_body);
            let body = seen.ok_or(Fault::Unseen)?;
            // Whoever signs a digest, needed or not, has signed whether there is a body.
            if received.covered().any(is_digest) && !digest::is_of(asked.headers, body) {
                return Err(Fault::Refused("signature_digest"));
            }
        }
        known.remember(received, created, &base)
    }

    /// Whether what was made then is good now.
    fn check_time(
        &self,
        created: i64,
        expires: Option<i64>,
        now: SystemTime,
    ) -> Result<(), &'static str> {
        let seconds = |time: SystemTime| {
            let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
        };
        let length = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        let (now, skew) = (seconds(now), length(self.settings.skew));
        if created > now.saturating_add(skew) {
            return Err("signature_from_the_future");
        }
        let longest = length(self.settings.max_age).saturating_add(skew);
        // As if it had been made before 1970.
        if now.saturating_sub(created) > longest {
            return Err("signature_too_old");
        }
        if expires.is_some_and(|expires| now > expires.saturating_add(skew)) {
            return Err("signature_expired");
        }
        if self.settings.replay && created.saturating_add(skew) < seconds(self.begun) {
            return Err("signature_before_start");
        }
        Ok(())
    }
}

impl Known {
    /// A nonce is said once. Without one it is what was signed that counts: of a
    /// signature there may be others that are as right.
    fn remember(&self, received: &Received, created: i64, base: &str) -> Result<(), Fault> {
        let Some(remembered) = &self.remembered else { return Ok(()) };
        let mut context = Context::new(&SHA256);
        match &received.nonce {
            Some(nonce) => {
                let key_id = received.key_id.as_deref().unwrap_or_default();
                context.update(&[1]);
                context.update(&(key_id.len() as u64).to_le_bytes());
                context.update(key_id.as_bytes());
                context.update(nonce.as_bytes());
            }
            None => {
                context.update(&[0]);
                context.update(base.as_bytes());
            }
        }
        let digest = context.finish();
        let now = Instant::now();
        match remembered.note(digest.as_ref(), created, now) {
            Seen::Never => Ok(()),
            Seen::Before => Err(Fault::Outdated("signature_replayed")),
            Seen::Forgotten => Err(Fault::Outdated("signature_forgotten")),
            Seen::TooMany => {
                self.say_full(received, now);
                Err(Fault::Unavailable("signature_memory_full"))
            }
        }
    }

    fn say_full(&self, received: &Received, now: Instant) {
        let mut said = self.said_full.lock();
        if said.is_none_or(|at| now.saturating_duration_since(at) >= REPEAT) {
            *said = Some(now);
            drop(said);
            tracing::warn!(
                key = received.key_id.as_deref().unwrap_or_default(),
                "as many signatures by this key are remembered as there is room for \
                 (`max_remembered`): further ones are not let in"
            );
        }
    }
}

fn granted(key: &SignatureKey, field: Option<&HeaderName>) -> Grant {
    let mut identity = Identity::new(key.name.clone(), "signature").with_scopes(key.scopes.clone());
    identity.claims.insert("keyid".to_owned(), key.id.clone().into());
    let set = field.zip(HeaderValue::from_str(&key.name).ok());
    let set = set.map(|(field, value)| (field.clone(), value));
    let grant = Grant::to(identity);
    match set {
        None => grant,
        Some(set) => grant.changing(Changes { set: vec![set], ..Changes::default() }),
    }
}

fn is_digest(component: &Component) -> bool {
    component.field() == Some(&CONTENT_DIGEST)
}

/// The request as the client sent it: what was changed since is not what it has signed.
struct Source<'a> {
    method: &'a http::Method,
    target: &'a Uri,
    version: Version,
    authority: &'a str,
}

impl<'a> Source<'a> {
    fn of(asked: &Asked<'a>) -> Self {
        let line = asked.exchange.map(|exchange| exchange.request());
        let (method, target, version) = match line {
            Some(line) => (&line.method, &line.uri, line.version),
            None => (asked.method, asked.uri, asked.version),
        };
        // RFC 9110 §7.1: a target's own authority goes before `Host`.
        let host = || match line {
            Some(line) => line.host.as_ref(),
            None => asked.headers.get(header::HOST),
        };
        let authority = match target.authority() {
            Some(authority) => authority.as_str(),
            None => host().and_then(|host| host.to_str().ok()).unwrap_or_default(),
        };
        Self { method, target, version, authority }
    }

    fn message(&self, asked: &Asked<'a>, scheme: Option<Scheme>) -> Message<'a> {
        let by_connection = || match asked.downstream {
            Some(downstream) => Scheme::secured(downstream.tls.is_some()),
            None => Scheme::secured(asked.uri.scheme_str() == Some("https")),
        };
        Message {
            method: self.method,
            scheme: scheme.unwrap_or_else(by_connection),
            authority: self.authority,
            target: self.target,
            is_absolute: self.version < Version::HTTP_2 && self.target.scheme().is_some(),
            headers: asked.headers,
        }
    }
}

impl Authenticate for Signatures {
    fn scheme(&self) -> &'static str {
        "signature"
    }

    fn judge(&self, request: &Asked<'_>) -> Judging {
        let verdict = match self.check(request, SystemTime::now()) {
            Ok(grant) => Verdict::Granted(grant.clone()),
            Err(Fault::Absent) => Verdict::Absent,
            Err(Fault::Refused(reason)) => Verdict::Refused(reason),
            Err(Fault::Outdated(reason)) => Verdict::Outdated(reason),
            Err(Fault::Unavailable(reason)) => Verdict::Unavailable(reason),
            Err(Fault::Unseen) => return Judging::Body(self.settings.max_body),
        };
        verdict.into()
    }

    fn challenge(&self) -> Option<HeaderValue> {
        Some(CHALLENGE)
    }

    fn identity_fields(&self) -> Vec<HeaderName> {
        self.settings.identity_header.iter().cloned().collect()
    }
}
