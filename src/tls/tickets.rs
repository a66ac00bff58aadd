//! The tickets by which clients resume their sessions (RFC 8446 §4.6.1, RFC 5077).
//!
//! rustls has a ticketer with rotating keys, but keeps the keys to itself: they could
//! not be told apart by certificate, nor be handed to a successor. The cryptography
//! is that of aws-lc-rs here, too.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use parking_lot::Mutex;
use rustls::server::ProducesTickets;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::TlsError;

/// For how long a key issues tickets, and then for how long it still takes them.
const PERIOD: u64 = 6 * 60 * 60;
const ID_LEN: usize = 16;
const SECRET_LEN: usize = 32;

/// The issuer of session tickets, one for the process. Cheap to clone: all clones
/// issue and take the same tickets, so that a session is resumed at another listener,
/// after a reload of the certificates, and in another generation of the configuration.
///
/// A key issues tickets for six hours and takes them for six more, then it is
/// forgotten. Any ticket is good for six hours at least and twelve at most.
///
/// A ticket is bound to the certificate file that answers to the client's name, and
/// rustls binds it to the name and the cipher suite. Without the former a client that
/// was lured from one listener to another, which has no certificate for that name,
/// would not notice. It is bound to how clients are judged as well: a session that
/// began where nobody was asked for a certificate, or where others vouch for clients,
/// is not resumed where one is needed.
#[derive(Clone)]
pub struct Tickets(Arc<Issuer>);

/// The keys of [`Tickets`], for a successor process. Secret: whoever has them reads
/// what TLS 1.2 sessions said, and passes for the server towards those who resume.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TicketKeys {
    keys: Vec<PlainKey>,
}

/// One key in base64.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct PlainKey {
    id: String,
    secret: String,
    /// When it was made, in seconds of the epoch.
    made: u64,
}

struct Issuer {
    ring: ArcSwap<Ring>,
    /// Held by whoever makes the next ring.
    turning: Mutex<()>,
}

/// The keys in force.
struct Ring {
    current: Arc<Key>,
    previous: Option<Arc<Key>>,
}

struct Key {
    /// Says in a ticket which key it is of.
    id: [u8; ID_LEN],
    secret: Zeroizing<[u8; SECRET_LEN]>,
    sealing: RandomizedNonceKey,
    made: u64,
}

impl Tickets {
    /// An issuer with a new key.
    ///
    /// # Errors
    ///
    /// The system has no random bytes.
    pub fn new() -> Result<Self, TlsError> {
        Self::at(now())
    }

    /// An issuer that takes the tickets of a predecessor, and goes on with its keys.
    ///
    /// # Errors
    ///
    /// These are no such keys, or the system has no random bytes.
    pub fn succeed(keys: &TicketKeys) -> Result<Self, TlsError> {
        let no_key = || TlsError::new("the predecessor's ticket keys cannot be read".to_owned());
        let mut keys = keys.keys.iter().map(Key::read);
        let Some(current) = keys.next() else { return Self::new() };
        let current = Arc::new(current.ok_or_else(no_key)?);
        let previous = keys.next().map(|key| key.map(Arc::new).ok_or_else(no_key)).transpose()?;
        Ok(Self::of(Ring { current, previous }))
    }

    /// The keys, for a successor that is to take the tickets issued here.
    #[must_use]
    pub fn keys(&self) -> TicketKeys {
        let ring = self.0.ring.load();
        let keys = [Some(&ring.current), ring.previous.as_ref()];
        TicketKeys { keys: keys.into_iter().flatten().map(|key| key.plain()).collect() }
    }

    fn at(now: u64) -> Result<Self, TlsError> {
        let current = Key::new(now).ok_or_else(|| {
            TlsError::new("no ticket key: the system has no random bytes".to_owned())
        })?;
        Ok(Self::of(Ring { current: Arc::new(current), previous: None }))
    }

    fn of(ring: Ring) -> Self {
        let issuer = Issuer { ring: ArcSwap::from_pointee(ring), turning: Mutex::new(()) };
        Self(Arc::new(issuer))
    }

    /// Issues and takes tickets within this scope only.
    pub(super) fn within(&self, scope: Scope) -> Arc<dyn ProducesTickets> {
        Arc::new(Scoped { tickets: self.clone(), scope })
    }

    /// The keys in force at this time, which is when they change.
    fn ring(&self, now: u64) -> Option<Arc<Ring>> {
        let ring = self.0.ring.load();
        if ring.current.age(now) < PERIOD {
            return Some(Arc::clone(&ring));
        }
        let _one = self.0.turning.lock();
        let ring = self.0.ring.load_full();
        if ring.current.age(now) < PERIOD {
            return Some(ring);
        }
        let current = Arc::new(Key::new(now)?);
        let previous = (ring.current.age(now) < 2 * PERIOD).then(|| ring.current.clone());
        let next = Arc::new(Ring { current, previous });
        self.0.ring.store(next.clone());
        Some(next)
    }

    fn seal(&self, scope: &Scope, message: &[u8], now: u64) -> Option<Vec<u8>> {
        self.ring(now)?.current.seal(scope, message)
    }

    fn open(&self, scope: &Scope, ticket: &[u8], now: u64) -> Option<Vec<u8>> {
        let (id, sealed) = ticket.split_first_chunk::<ID_LEN>()?;
        let ring = self.ring(now)?;
        let keys = [Some(&ring.current), ring.previous.as_ref()];
        let key = keys.into_iter().flatten().find(|key| key.id == *id)?;
        if key.age(now) >= 2 * PERIOD {
            return None;
        }
        key.open(scope, sealed)
    }
}

impl Key {
    fn new(made: u64) -> Option<Self> {
        let random = SystemRandom::new();
        let (mut id, mut secret) = ([0; ID_LEN], Zeroizing::new([0; SECRET_LEN]));
        random.fill(&mut id).ok()?;
        random.fill(&mut *secret).ok()?;
        Self::of(id, secret, made)
    }

    fn of(id: [u8; ID_LEN], secret: Zeroizing<[u8; SECRET_LEN]>, made: u64) -> Option<Self> {
        let sealing = RandomizedNonceKey::new(&AES_256_GCM_SIV, &*secret).ok()?;
        Some(Self { id, secret, sealing, made })
    }

    fn read(plain: &PlainKey) -> Option<Self> {
        let id = BASE64_STANDARD.decode(&plain.id).ok()?.try_into().ok()?;
        let mut secret = Zeroizing::new([0; SECRET_LEN]);
        let decoded = Zeroizing::new(BASE64_STANDARD.decode(&plain.secret).ok()?);
        secret.copy_from_slice(decoded.first_chunk::<SECRET_LEN>()?);
        Self::of(id, secret, plain.made)
    }

    fn plain(&self) -> PlainKey {
        PlainKey {
            id: BASE64_STANDARD.encode(self.id),
            secret: BASE64_STANDARD.encode(*self.secret),
            made: self.made,
        }
    }

    /// In seconds; 0 if the clock was put back.
    fn age(&self, now: u64) -> u64 {
        now.saturating_sub(self.made)
    }

    /// The id, a random nonce, and the sealed message with its tag.
    fn seal(&self, scope: &Scope, message: &[u8]) -> Option<Vec<u8>> {
        let mut sealed = message.to_vec();
        let aad = Aad::from(scope.bytes());
        let nonce = self.sealing.seal_in_place_append_tag(aad, &mut sealed).ok()?;
        Some([&self.id[..], nonce.as_ref(), &sealed].concat())
    }

    fn open(&self, scope: &Scope, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let nonce = Nonce::from(nonce);
        let mut message = sealed.to_vec();
        let aad = Aad::from(scope.bytes());
        let length = self.sealing.open_in_place(nonce, aad, &mut message).ok()?.len();
        message.truncate(length);
        Some(message)
    }
}

impl Drop for PlainKey {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

fn now() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or(0)
}

/// What tickets are bound to: those of one scope are not taken in another.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Scope(Box<[u8]>);

impl Scope {
    /// Sessions that were shown the certificate of this file, as the one that answers
    /// to the client's name or (`default`) because none does, and whose clients were
    /// judged in the way that has this digest (`None`: not asked for certificates).
    pub(super) fn new(
        certificate: &std::path::Path,
        default: bool,
        clients: Option<&[u8; 32]>,
    ) -> Self {
        let path = certificate.as_os_str().as_encoded_bytes();
        // The first byte says how long the digest is, so no path is taken for one.
        let kind = u8::from(default) | (u8::from(clients.is_some()) << 1);
        let clients = clients.map_or(&[][..], |digest| digest.as_slice());
        Self([&[kind][..], clients, path].concat().into())
    }

    fn bytes(&self) -> &[u8] {
        &self.0
    }
}

struct Scoped {
    tickets: Tickets,
    scope: Scope,
}

impl ProducesTickets for Scoped {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(PERIOD).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, message: &[u8]) -> Option<Vec<u8>> {
        self.tickets.seal(&self.scope, message, now())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.tickets.open(&self.scope, ticket, now())
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").finish_non_exhaustive()
    }
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketKeys").finish_non_exhaustive()
    }
}

impl fmt::Debug for Scoped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scoped").field("scope", &self.scope).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const START: u64 = 1_800_000_000;

    fn scope(file: &str) -> Scope {
        Scope::new(Path::new(file), false, None)
    }

    #[test]
    fn a_ticket_is_taken_for_six_hours_at_least_and_twelve_at_most() {
        let tickets = Tickets::at(START).unwrap();
        let early = tickets.seal(&scope("a"), b"early", START).unwrap();
        let late = tickets.seal(&scope("a"), b"late", START + PERIOD - 1).unwrap();
        let open = |ticket: &[u8], after: u64| tickets.open(&scope("a"), ticket, START + after);
        assert_eq!(open(&early, 0).unwrap(), b"early");
        let next = tickets.seal(&scope("a"), b"next", START + PERIOD).unwrap();
        assert_ne!(early[..ID_LEN], next[..ID_LEN], "the key has changed");
        for after in [PERIOD, 2 * PERIOD - 1] {
            assert_eq!(open(&early, after).unwrap(), b"early");
            assert_eq!(open(&late, after).unwrap(), b"late");
        }
        assert_eq!(open(&late, 2 * PERIOD), None);
        assert_eq!(open(&next, 2 * PERIOD).unwrap(), b"next");
    }

    #[test]
    fn nobody_asking_for_a_day_makes_no_ticket_last_longer() {
        let tickets = Tickets::at(START).unwrap();
        let ticket = tickets.seal(&scope("a"), b"x", START).unwrap();
        assert_eq!(tickets.open(&scope("a"), &ticket, START + 4 * PERIOD), None);
        assert!(tickets.0.ring.load().previous.is_none());
    }

    #[test]
    fn a_ticket_of_another_scope_or_with_another_bit_is_not_taken() {
        let tickets = Tickets::at(START).unwrap();
        let ticket = tickets.seal(&scope("a"), b"session", START).unwrap();
        assert!(tickets.open(&scope("a"), &ticket, START).is_some());
        assert_eq!(tickets.open(&scope("b"), &ticket, START), None);
        for (default, clients) in [(true, None), (false, Some(&[0; 32])), (true, Some(&[b'a'; 32]))]
        {
            let other = Scope::new(Path::new("a"), default, clients);
            assert_eq!(tickets.open(&other, &ticket, START), None);
        }
        for at in 0..ticket.len() {
            let mut wrong = ticket.clone();
            wrong[at] ^= 1;
            assert_eq!(tickets.open(&scope("a"), &wrong, START), None, "byte {at}");
            assert_eq!(tickets.open(&scope("a"), &ticket[..at], START), None, "{at} bytes");
        }
    }

    #[test]
    fn a_successor_goes_on_with_the_keys() {
        let tickets = Tickets::at(START).unwrap();
        let old = tickets.seal(&scope("a"), b"old", START).unwrap();
        let new = tickets.seal(&scope("a"), b"new", START + PERIOD).unwrap();
        let text = serde_json::to_string(&tickets.keys()).unwrap();
        let successor = Tickets::succeed(&serde_json::from_str(&text).unwrap()).unwrap();
        let later = START + PERIOD + 1;
        assert_eq!(successor.open(&scope("a"), &old, later).unwrap(), b"old");
        assert_eq!(successor.open(&scope("a"), &new, later).unwrap(), b"new");
        let theirs = successor.seal(&scope("a"), b"theirs", later).unwrap();
        assert_eq!(tickets.open(&scope("a"), &theirs, later).unwrap(), b"theirs");
        assert_eq!(successor.open(&scope("a"), &old, START + 2 * PERIOD), None);
    }

    #[test]
    fn keys_are_neither_shown_nor_taken_from_rubbish() {
        let tickets = Tickets::new().unwrap();
        assert_eq!(format!("{tickets:?}"), "Tickets { .. }");
        assert_eq!(format!("{:?}", tickets.keys()), "TicketKeys { .. }");
        let short = r#"{"keys":[{"id":"AAAA","secret":"AAAA","made":1}]}"#;
        let short: TicketKeys = serde_json::from_str(short).unwrap();
        assert!(Tickets::succeed(&short).is_err());
        let none: TicketKeys = serde_json::from_str(r#"{"keys":[]}"#).unwrap();
        assert!(Tickets::succeed(&none).is_ok());
    }
}
