//! For how long a client that has shown its certificate need not show it again.
//!
//! rustls keeps the client's chain in the ticket and takes it for verified when the
//! session is resumed, whatever the time is by then; and each resumption brings another
//! ticket. So one handshake would let a client in for ever. What is added to the ticket
//! here ends that. A ticket that is not taken costs no more than a full handshake.

use std::sync::Arc;

use parking_lot::Mutex;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::ProducesTickets;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::authorities::Authorities;
use super::certificate::valid_until;

/// The longest that sessions follow one another without a look at the certificate, in
/// seconds: as long as a ticket may be taken.
const LONGEST: i64 = 12 * 60 * 60;

/// What is known of the session of one connection while hands are shaken.
#[derive(Clone, Debug)]
pub(in crate::tls) struct Session {
    authorities: Arc<Authorities>,
    /// `None` if no certificate was shown.
    judged: Arc<Mutex<Option<Judged>>>,
}

/// What has come of a look at a client's certificate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Judged {
    /// Until when the session may be resumed, in seconds of the epoch.
    until: i64,
    /// Which authority vouches for the client. A session is resumed only where there are the
    /// same, in the same order.
    authority: u32,
}

/// Judges the client of one connection, and notes until when that holds.
#[derive(Debug)]
pub(super) struct Noting {
    pub(super) inner: Arc<dyn ClientCertVerifier>,
    pub(super) session: Session,
}

/// The tickets of one connection, which say until when they may be taken.
#[derive(Debug)]
pub(super) struct Bounded {
    pub(super) inner: Arc<dyn ProducesTickets>,
    pub(super) session: Session,
}

impl Session {
    pub(super) fn with(authorities: Arc<Authorities>) -> Self {
        Self { authorities, judged: Arc::default() }
    }

    /// The name of the authority that vouches for the client (RFC 4514).
    pub(in crate::tls) fn authority(&self) -> Option<&str> {
        let judged = *self.judged.lock();
        self.authorities.name(judged?.authority)
    }
}

impl Judged {
    /// Of a client that has shown nothing: there is nothing that could expire.
    const NOTHING: Self = Self { until: i64::MAX, authority: u32::MAX };

    fn to_bytes(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&self.until.to_be_bytes());
        bytes[8..].copy_from_slice(&self.authority.to_be_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (until, rest) = bytes.split_first_chunk()?;
        let (authority, rest) = rest.split_first_chunk()?;
        let (until, authority) = (i64::from_be_bytes(*until), u32::from_be_bytes(*authority));
        Some((Self { until, authority }, rest))
    }
}

impl ClientCertVerifier for Noting {
    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        unix: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, unix)?;
        let now = i64::try_from(unix.as_secs()).unwrap_or(i64::MAX);
        let Session { authorities, judged } = &self.session;
        let authority = authorities.vouching(end_entity, intermediates, unix);
        // That it was verified a moment ago says that there is one.
        let authority =
            authority.ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let chain = std::iter::once(end_entity).chain(intermediates);
        // One that cannot be read is looked at each time.
        let until = valid_until(chain).unwrap_or(0).min(now.saturating_add(LONGEST));
        *judged.lock() = Some(Judged { until, authority });
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.inner.requires_raw_public_keys()
    }
}

impl Bounded {
    fn open(&self, ticket: &[u8], now: i64) -> Option<Vec<u8>> {
        let message = self.inner.decrypt(ticket)?;
        let (judged, message) = Judged::from_bytes(&message)?;
        if now >= judged.until {
            return None;
        }
        *self.session.judged.lock() = Some(judged);
        Some(message.to_vec())
    }
}

impl ProducesTickets for Bounded {
    fn enabled(&self) -> bool {
        self.inner.enabled()
    }

    fn lifetime(&self) -> u32 {
        self.inner.lifetime()
    }

    fn encrypt(&self, message: &[u8]) -> Option<Vec<u8>> {
        let judged = self.session.judged.lock().unwrap_or(Judged::NOTHING);
        self.inner.encrypt(&[&judged.to_bytes(), message].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.open(ticket, jiff::Timestamp::now().as_second())
    }
}

#[cfg(test)]
mod tests {
    use rustls::crypto::aws_lc_rs;

    use super::*;
    use crate::tls::UnknownRevocation;

    #[derive(Debug)]
    struct Plain;

    impl ProducesTickets for Plain {
        fn enabled(&self) -> bool {
            true
        }

        fn lifetime(&self) -> u32 {
            1
        }

        fn encrypt(&self, message: &[u8]) -> Option<Vec<u8>> {
            Some(message.to_vec())
        }

        fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
            Some(ticket.to_vec())
        }
    }

    fn session(roots: rustls::RootCertStore) -> Session {
        let names = (0..roots.len()).map(|at| format!("CN={at}").into()).collect();
        let (provider, accept) = (aws_lc_rs::default_provider(), UnknownRevocation::Accept);
        let (roots, none) = (Arc::new(roots), Vec::new());
        Session::with(Arc::new(Authorities::new(roots, names, none, accept, &provider)))
    }

    fn bounded(until: Option<i64>) -> Bounded {
        let session = session(rustls::RootCertStore::empty());
        *session.judged.lock() = until.map(|until| Judged { until, authority: 7 });
        Bounded { inner: Arc::new(Plain), session }
    }

    #[test]
    fn a_ticket_is_good_until_the_certificate_expires_and_hands_that_on() {
        let ticket = bounded(Some(1_000)).encrypt(b"session").unwrap();
        let next = bounded(None);
        assert_eq!(next.open(&ticket, 1_000), None);
        assert_eq!(*next.session.judged.lock(), None, "what is not taken is not handed on");
        assert_eq!(next.open(&ticket, 999).unwrap(), b"session");
        assert_eq!(next.session.judged.lock().unwrap().authority, 7);
        let ticket = next.encrypt(b"again").unwrap();
        assert_eq!(bounded(None).open(&ticket, 1_000), None);
        assert_eq!(bounded(None).open(&ticket, 999).unwrap(), b"again");
        assert_eq!(bounded(None).open(b"too short", 0), None);
        let nobody = bounded(None).encrypt(b"x").unwrap();
        assert!(bounded(None).open(&nobody, i64::MAX - 1).is_some());
    }

    /// A certificate that is valid for so many seconds from 2026 on.
    fn valid_for(seconds: u64) -> CertificateDer<'static> {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = params.not_before + std::time::Duration::from_secs(seconds);
        let key = rcgen::KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().clone()
    }

    #[test]
    fn no_session_outlives_a_certificate_of_its_chain_or_half_a_day() {
        const START: u64 = 1_767_225_600;
        for (leaf, intermediate, good_for) in
            [(60, Some(3_600), 60), (3_600, Some(60), 60), (86_400 * 365, None, LONGEST)]
        {
            let leaf = valid_for(leaf);
            let mut roots = rustls::RootCertStore::empty();
            roots.add(leaf.clone()).unwrap();
            let provider = Arc::new(aws_lc_rs::default_provider());
            let inner = rustls::server::WebPkiClientVerifier::builder_with_provider(
                Arc::new(roots.clone()),
                provider,
            );
            let session = session(roots);
            let noting = Noting { inner: inner.build().unwrap(), session: session.clone() };
            let intermediates: Vec<_> = intermediate.map(valid_for).into_iter().collect();
            let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(START));
            noting.verify_client_cert(&leaf, &intermediates, now).unwrap();
            let start = i64::try_from(START).unwrap();
            let judged = Judged { until: start + good_for, authority: 0 };
            assert_eq!(*session.judged.lock(), Some(judged));
            assert_eq!(session.authority(), Some("CN=0"));
            let ticket = Bounded { inner: Arc::new(Plain), session }.encrypt(b"x").unwrap();
            assert!(bounded(None).open(&ticket, start + good_for - 1).is_some());
            assert_eq!(bounded(None).open(&ticket, start + good_for), None);
        }
    }
}
