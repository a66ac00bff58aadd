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
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::certificate::valid_until;

/// The longest that sessions follow one another without a look at the certificate, in
/// seconds: as long as a ticket may be taken.
const LONGEST: i64 = 12 * 60 * 60;

/// What is known of the session of one connection while hands are shaken: until when it
/// may be resumed, in seconds of the epoch. `None` if no certificate was shown.
#[derive(Clone, Debug, Default)]
pub(super) struct Session(Arc<Mutex<Option<i64>>>);

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
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let chain = std::iter::once(end_entity).chain(intermediates);
        // One that cannot be read is looked at each time.
        let until = valid_until(chain).unwrap_or(0).min(now.saturating_add(LONGEST));
        *self.session.0.lock() = Some(until);
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
        let (until, message) = message.split_first_chunk::<8>()?;
        let until = i64::from_be_bytes(*until);
        if now >= until {
            return None;
        }
        *self.session.0.lock() = Some(until);
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
        // There is nothing to expire in a session without a certificate.
        let until = self.session.0.lock().unwrap_or(i64::MAX);
        self.inner.encrypt(&[&until.to_be_bytes(), message].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.open(ticket, jiff::Timestamp::now().as_second())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    fn bounded(until: Option<i64>) -> Bounded {
        Bounded { inner: Arc::new(Plain), session: Session(Arc::new(Mutex::new(until))) }
    }

    #[test]
    fn a_ticket_is_good_until_the_certificate_expires_and_hands_that_on() {
        let ticket = bounded(Some(1_000)).encrypt(b"session").unwrap();
        let next = bounded(None);
        assert_eq!(next.open(&ticket, 1_000), None);
        assert_eq!(*next.session.0.lock(), None, "what is not taken is not handed on");
        assert_eq!(next.open(&ticket, 999).unwrap(), b"session");
        let ticket = next.encrypt(b"again").unwrap();
        assert_eq!(bounded(None).open(&ticket, 1_000), None);
        assert_eq!(bounded(None).open(&ticket, 999).unwrap(), b"again");
        assert_eq!(bounded(None).open(b"short", 0), None);
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
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let inner = rustls::server::WebPkiClientVerifier::builder_with_provider(
                Arc::new(roots),
                provider,
            );
            let session = Session::default();
            let noting = Noting { inner: inner.build().unwrap(), session: session.clone() };
            let intermediates: Vec<_> = intermediate.map(valid_for).into_iter().collect();
            let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(START));
            noting.verify_client_cert(&leaf, &intermediates, now).unwrap();
            let start = i64::try_from(START).unwrap();
            assert_eq!(*session.0.lock(), Some(start + good_for));
            let ticket = Bounded { inner: Arc::new(Plain), session }.encrypt(b"x").unwrap();
            assert!(bounded(None).open(&ticket, start + good_for - 1).is_some());
            assert_eq!(bounded(None).open(&ticket, start + good_for), None);
        }
    }
}
