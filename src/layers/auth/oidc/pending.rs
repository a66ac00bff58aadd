//! A login that is under way: somebody is at the provider, with a cookie of ours.

use std::time::Duration;

use aws_lc_rs::rand;
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::session::now;

/// How long somebody may take to log in.
pub(super) const WITHIN: Duration = Duration::from_secs(600);

/// The length of a state: 32 bytes in Base64.
const STATE_LENGTH: usize = 43;

/// What the state of a login ends with that was begun because another was lost.
const SECOND: &str = ".2";

/// Where people are sent who wanted something with a longer name.
const LONGEST_TARGET: usize = 2048;

/// What is remembered of a login, in a cookie of its own.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Pending {
    /// Comes back with whoever comes back (RFC 6749 §10.12).
    #[serde(rename = "s")]
    state: String,
    /// Comes back within the token.
    #[serde(rename = "n")]
    nonce: String,
    /// Shown when the code is exchanged (RFC 7636).
    #[serde(rename = "v")]
    pub(super) verifier: String,
    /// What was asked for: a path, and a query perhaps.
    #[serde(rename = "t")]
    pub(super) target: String,
    /// Scheme and host that it was asked of.
    #[serde(rename = "b")]
    pub(super) base: String,
    /// In seconds since 1970.
    #[serde(rename = "m")]
    pub(super) made: u64,
}

impl Pending {
    /// Of somebody who wants this of `base`; `None` if the system has no random bytes.
    pub(super) fn new(target: &str, base: &str) -> Option<Self> {
        Some(Self {
            state: random()?,
            nonce: random()?,
            verifier: random()?,
            target: if is_safe(target) { target.to_owned() } else { "/".to_owned() },
            base: base.to_owned(),
            made: now(),
        })
    }

    /// As one that was begun because another was lost.
    pub(super) fn second(mut self) -> Self {
        self.state.push_str(SECOND);
        self
    }

    pub(super) fn state(&self) -> &str {
        &self.state
    }

    pub(super) fn nonce(&self) -> &str {
        &self.nonce
    }

    /// What the provider checks the verifier by.
    pub(super) fn challenge(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(&self.verifier))
    }

    /// Whether this login is the one that somebody comes back from.
    pub(super) fn is_of(&self, state: &str) -> bool {
        same(&self.state, state)
    }

    /// Whether a token was made for this login.
    pub(super) fn has_nonce(&self, nonce: Option<&str>) -> bool {
        nonce.is_some_and(|nonce| same(&self.nonce, nonce))
    }

    pub(super) fn is_over(&self) -> bool {
        now() >= self.made + WITHIN.as_secs()
    }
}

/// What tells the cookie of one login from that of another; `None` where it is no state of
/// ours.
pub(super) fn tag(state: &str) -> Option<&str> {
    let ours = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let random = state.strip_suffix(SECOND).unwrap_or(state);
    (random.len() == STATE_LENGTH && random.bytes().all(ours)).then(|| &state[..8])
}

/// Whether the login of this state was begun because another was lost.
pub(super) fn is_second(state: &str) -> bool {
    state.ends_with(SECOND)
}

/// Whether a target stays here whoever reads it: a browser takes `//` and `/\` for the
/// beginning of a host.
fn is_safe(target: &str) -> bool {
    let mut bytes = target.bytes();
    bytes.next() == Some(b'/')
        && !matches!(bytes.next(), Some(b'/' | b'\\'))
        && target.len() <= LONGEST_TARGET
        && target.bytes().all(|byte| (b'!'..=b'~').contains(&byte) && byte != b'\\')
}

fn same(ours: &str, theirs: &str) -> bool {
    bool::from(ours.as_bytes().ct_eq(theirs.as_bytes()))
}

fn random() -> Option<String> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).ok()?;
    Some(BASE64_URL_SAFE_NO_PAD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_login_is_another() {
        let one = Pending::new("/", "https://a.test").unwrap();
        let other = Pending::new("/", "https://a.test").unwrap();
        assert!(one.is_of(&one.state) && !one.is_of(&other.state) && !one.is_of(""));
        assert!(one.has_nonce(Some(&one.nonce)));
        assert!(!one.has_nonce(Some(&other.nonce)) && !one.has_nonce(None));
        let all = [&one.state, &one.nonce, &one.verifier, &other.verifier];
        for (index, text) in all.iter().enumerate() {
            assert_eq!(text.len(), STATE_LENGTH);
            assert!(!all[index + 1..].contains(text));
        }
        assert_eq!(tag(&one.state), Some(&one.state[..8]));
        for state in
            ["", "x", &"é".repeat(22), &one.state[1..], &one.state.replace(&one.state[..1], ";")]
        {
            assert_eq!(tag(state), None, "{state}");
        }
        assert!(!is_second(&one.state));
        let second = one.second();
        assert!(is_second(&second.state) && second.is_of(&second.state));
        assert_eq!(tag(&second.state), Some(&second.state[..8]));
        assert_eq!(tag(&second.second().state), None);
    }

    #[test]
    fn the_challenge_is_that_of_the_standard() {
        // RFC 7636 appendix B
        let mut pending = Pending::new("/", "").unwrap();
        pending.verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk".to_owned();
        assert_eq!(pending.challenge(), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    }

    #[test]
    fn nobody_is_sent_elsewhere_after_a_login() {
        let target = |target: &str| Pending::new(target, "").unwrap().target;
        for safe in ["/", "/a?b=c&d=//e", "/a//b", "/%5cevil.test", "/a;b"] {
            assert_eq!(target(safe), safe);
        }
        for unsafe_ in [
            "//evil.test",
            "/\\evil.test",
            "/a\\..\\evil.test",
            "https://evil.test/",
            "evil.test",
            "",
            "/\t/evil.test",
            "/a b",
            "/\u{e9}",
            "/a\r\nSet-Cookie: a=b",
        ] {
            assert_eq!(target(unsafe_), "/", "{unsafe_}");
        }
        assert_eq!(target(&format!("/{}", "a".repeat(LONGEST_TARGET))), "/");
    }

    #[test]
    fn a_login_takes_no_longer_than_it_may() {
        let mut pending = Pending::new("/", "").unwrap();
        assert!(!pending.is_over());
        pending.made -= WITHIN.as_secs();
        assert!(pending.is_over());
    }
}
