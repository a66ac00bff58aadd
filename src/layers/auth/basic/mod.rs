//! Basic authentication (RFC 7617).

mod credentials;
mod hash;
mod htpasswd;
mod settings;
mod verifier;

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use http::HeaderValue;
use http::header::{self, HeaderName};
use http::request::Parts;
use zeroize::Zeroizing;

pub use hash::{MAX_PASSWORD, PasswordError, PasswordHash, PasswordHashError, PasswordScheme};
pub use htpasswd::{HtpasswdFault, check_user, parse_htpasswd};
pub use settings::{BasicSettings, BasicUser};

use super::authenticate::{Asked, Authenticate, Changes, Grant, Judging, Verdict};
use crate::context::Identity;
use credentials::Shown;
use verifier::{Remembered, Verifier};

/// What this scheme is called in logs.
const SCHEME: &str = "basic";

/// Lets in who knows a name and its password.
///
/// A password is hashed on a thread that nobody else waits for, as many at once in the
/// whole process as there are cores. One that was right is remembered for a while, by a
/// keyed digest. A name that nobody has costs the same as a wrong password: what was given
/// is hashed with the parameters that most users' hashes have. Users whose hashes have
/// others can be told from those by time.
///
/// ```
/// use tollgate::layers::{AuthLayer, Basic, BasicSettings, BasicUser};
///
/// // `tollgate hash-password` makes such a hash.
/// let password = "$2y$05$CCCCCCCCCCCCCCCCCCCCC.7uG0VCzI2bS7j6ymqJi9CdcdxiRTWNy".parse()?;
/// let alice = BasicUser { name: "alice".into(), password, scopes: Box::default() };
/// let layer = AuthLayer::by(Basic::new(&BasicSettings::new([alice])));
/// # let _ = layer;
/// # Ok::<_, tollgate::layers::PasswordHashError>(())
/// ```
#[derive(Debug)]
pub struct Basic {
    challenge: HeaderValue,
    identity_fields: Vec<HeaderName>,
    /// Whether the origin gets to see the credentials.
    forwards: bool,
    users: HashMap<Arc<str>, User, RandomState>,
    /// Whom a name that nobody has is taken for; nobody comes in as this.
    nobody: User,
    verifier: Arc<Verifier>,
}

#[derive(Clone, Debug)]
struct User {
    password: PasswordHash,
    /// `None`: it is not let in, whatever its password is.
    grant: Option<Grant>,
}

impl Basic {
    /// Lets these users in.
    #[must_use]
    pub fn new(settings: &BasicSettings) -> Self {
        Self::after(None, settings)
    }

    /// The same, in the place of `before`: passwords that are known to be right are not
    /// hashed again because something else has changed. Each is known together with the hash
    /// that it was right for.
    pub(in crate::layers::auth) fn after(before: Option<&Self>, settings: &BasicSettings) -> Self {
        let known = before.map(|before| &before.verifier);
        let verifier = match known.filter(|known| known.remembers_for(settings.cache)) {
            Some(known) => known.clone(),
            None => Arc::new(Verifier::remembering(settings.cache)),
        };
        let mut users: HashMap<Arc<str>, User, RandomState> = HashMap::default();
        for user in &*settings.users {
            users.entry(user.name.clone()).or_insert_with(|| User {
                password: user.password.clone(),
                grant: Some(grant(user, settings)),
            });
        }
        let fields = [&settings.identity_header, &settings.scopes_header];
        Self {
            challenge: challenge(&settings.realm),
            identity_fields: fields.into_iter().flatten().cloned().collect(),
            forwards: settings.forward_credentials,
            nobody: nobody(&settings.users),
            users,
            verifier,
        }
    }
}

impl Authenticate for Basic {
    fn scheme(&self) -> &'static str {
        SCHEME
    }

    fn judge(&self, request: &Asked<'_>) -> Judging {
        let shown = match credentials::shown(request.headers) {
            Shown::Nothing => return Verdict::Absent.into(),
            Shown::Wrong(why) => return Verdict::Refused(why).into(),
            Shown::Credentials(shown) => shown,
        };
        let user = self.users.get(shown.name()).unwrap_or(&self.nobody);
        let verdict = |grant: Option<Grant>, right: bool| {
            grant.filter(|_| right).map_or(Verdict::Refused("auth_invalid"), Verdict::Granted)
        };
        let password = shown.password();
        match self.verifier.remembered(shown.name(), password, &user.password) {
            Remembered::Right => verdict(user.grant.clone(), true).into(),
            Remembered::Wrong => verdict(None, false).into(),
            Remembered::Not(mark) => {
                let (verifier, User { password: hash, grant }) =
                    (self.verifier.clone(), user.clone());
                let (password, client) = (Zeroizing::new(password.to_vec()), request.client());
                Judging::Later(Box::pin(async move {
                    match verifier.verify(mark, password, hash, client).await {
                        Some(right) => verdict(grant, right),
                        None => Verdict::Unavailable("auth_overloaded"),
                    }
                }))
            }
        }
    }

    fn is_dear(&self) -> bool {
        true
    }

    fn challenge(&self) -> Option<HeaderValue> {
        Some(self.challenge.clone())
    }

    fn conceal(&self, request: &mut Parts, kept: &[HeaderName]) {
        let is_ours = |value: &HeaderValue| {
            value.as_bytes().get(..6).is_some_and(|start| start.eq_ignore_ascii_case(b"basic "))
        };
        let headers = &mut request.headers;
        let is_kept = self.forwards || kept.contains(&header::AUTHORIZATION);
        if !is_kept && headers.get_all(header::AUTHORIZATION).iter().any(is_ours) {
            headers.remove(header::AUTHORIZATION);
        }
    }

    fn credential_fields(&self) -> Vec<HeaderName> {
        vec![header::AUTHORIZATION]
    }

    fn identity_fields(&self) -> Vec<HeaderName> {
        self.identity_fields.clone()
    }
}

/// Names and passwords are sent in UTF-8 (RFC 7617 §2.1).
fn challenge(realm: &str) -> HeaderValue {
    let quoted = realm.replace('\\', "\\\\").replace('"', "\\\"");
    HeaderValue::try_from(format!("Basic realm=\"{quoted}\", charset=\"UTF-8\""))
        .unwrap_or_else(|_| HeaderValue::from_static("Basic realm=\"\", charset=\"UTF-8\""))
}

fn grant(user: &BasicUser, settings: &BasicSettings) -> Grant {
    let mut set = Vec::new();
    let fields = [
        (&settings.identity_header, user.name.to_string()),
        (&settings.scopes_header, user.scopes.join(" ")),
    ];
    for (field, text) in fields {
        if let (Some(field), Ok(value)) = (field, HeaderValue::try_from(text)) {
            set.push((field.clone(), value));
        }
    }
    let kept = settings.forward_credentials;
    let remove = if kept { Vec::new() } else { vec![header::AUTHORIZATION] };
    let identity =
        Identity::new(user.name.clone(), SCHEME).with_scopes(user.scopes.iter().cloned());
    Grant::to(identity).changing(Changes { remove, set, ..Changes::default() })
}

/// Somebody whose password takes as long to verify as that of most.
fn nobody(users: &[BasicUser]) -> User {
    let mut counts = HashMap::new();
    for user in users {
        *counts.entry(user.password.effort()).or_insert(0_usize) += 1;
    }
    let most = counts.into_iter().max_by_key(|(_, count)| *count).map(|(effort, _)| effort);
    let alike = users.iter().find(|user| Some(user.password.effort()) == most);
    let password = alike.map_or_else(PasswordHash::nobodys, |user| user.password.decoy());
    User { password, grant: None }
}

#[cfg(test)]
mod tests;
