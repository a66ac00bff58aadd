//! Which of a listener's authorities vouches for a client.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm, UnixTime};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, RevocationOptionsBuilder,
    UnknownStatusPolicy,
};

use crate::tls::UnknownRevocation;

/// The authorities of a listener, to tell by which of them a chain was verified.
///
/// A certificate names its issuer itself, and an authority may have others sign for it
/// under whatever name it likes: that name says nothing of who vouches for the client.
/// rustls says only that somebody does.
#[derive(Debug)]
pub(super) struct Authorities {
    roots: Arc<RootCertStore>,
    /// Their subjects as text, in the order of the roots.
    names: Box<[Box<str>]>,
    revoked: Vec<CertRevocationList<'static>>,
    unknown: UnknownRevocation,
    algorithms: &'static [&'static dyn SignatureVerificationAlgorithm],
}

impl Authorities {
    /// Those of `roots`, whose subjects are `names`, in their order. What is `revoked` is
    /// sought in the same order as when clients are judged.
    pub(super) fn new(
        roots: Arc<RootCertStore>,
        names: Vec<Box<str>>,
        revoked: Vec<CertRevocationList<'static>>,
        unknown: UnknownRevocation,
        provider: &CryptoProvider,
    ) -> Self {
        let algorithms = provider.signature_verification_algorithms.all;
        let mut authorities = Self { roots, names: names.into(), revoked, unknown, algorithms };
        if authorities.are_alike() {
            // They may be long, and nothing hangs on them.
            authorities.revoked = Vec::new();
        }
        authorities
    }

    /// The subject of one of them (RFC 4514).
    pub(super) fn name(&self, at: u32) -> Option<&str> {
        self.names.get(usize::try_from(at).ok()?).map(|name| &**name)
    }

    /// By which of them a chain is verified that is known to be good; `None` if by none.
    pub(super) fn vouching(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Option<u32> {
        // All the work is for telling names apart.
        if self.are_alike() {
            return Some(0);
        }
        let lists: Vec<_> = self.revoked.iter().collect();
        let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|options| {
            let options = match self.unknown {
                UnknownRevocation::Refuse => {
                    options.with_expiration_policy(ExpirationPolicy::Enforce)
                }
                UnknownRevocation::Accept => options.with_status_policy(UnknownStatusPolicy::Allow),
            };
            options.build()
        });
        let leaf = EndEntityCert::try_from(leaf).ok()?;
        let path = leaf.verify_for_usage(
            self.algorithms,
            &self.roots.roots,
            intermediates,
            now,
            KeyUsage::client_auth(),
            revocation,
            None,
        );
        let anchor = path.ok()?.anchor();
        let at = self.roots.roots.iter().position(|root| std::ptr::eq(root, anchor))?;
        u32::try_from(at).ok()
    }

    fn are_alike(&self) -> bool {
        self.names.windows(2).all(|pair| pair[0] == pair[1])
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
        DistinguishedName, DnType, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
        SerialNumber,
    };

    use super::*;

    type Issuer = CertifiedIssuer<'static, KeyPair>;

    fn params(name: &str, serial: u64) -> CertificateParams {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(SerialNumber::from(serial));
        params
    }

    fn authority(name: &str, serial: u64) -> CertificateParams {
        let mut params = params(name, serial);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
    }

    fn root(name: &str) -> Issuer {
        CertifiedIssuer::self_signed(authority(name, 1), KeyPair::generate().unwrap()).unwrap()
    }

    fn of(issuers: &[&Issuer], lists: &[&[u8]]) -> Authorities {
        let mut roots = RootCertStore::empty();
        for issuer in issuers {
            roots.add(issuer.der().clone()).unwrap();
        }
        let names = (0..issuers.len()).map(|at| format!("number {at}").into()).collect();
        let list = |der: &&[u8]| webpki::OwnedCertRevocationList::from_der(der).unwrap().into();
        let revoked = lists.iter().map(list).collect();
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        Authorities::new(Arc::new(roots), names, revoked, UnknownRevocation::Accept, &provider)
    }

    fn leaf(issuer: &Issuer) -> CertificateDer<'static> {
        let key = KeyPair::generate().unwrap();
        params("client", 7).signed_by(&key, issuer).unwrap().der().clone()
    }

    #[test]
    fn the_name_of_an_issuer_is_not_what_it_says_but_who_has_signed() {
        let (one, two) = (root("One"), root("Two"));
        let authorities = of(&[&one, &two], &[]);
        let now = UnixTime::now();
        let vouching = |leaf: &CertificateDer<'_>, chain: &[CertificateDer<'_>]| {
            authorities.vouching(leaf, chain, now)
        };
        assert_eq!(vouching(&leaf(&one), &[]), Some(0));
        assert_eq!(vouching(&leaf(&two), &[]), Some(1));
        assert_eq!(authorities.name(1), Some("number 1"));
        assert_eq!(authorities.name(2), None);
        let key = KeyPair::generate().unwrap();
        let posing = CertifiedIssuer::signed_by(authority("Two", 2), key, &one).unwrap();
        assert_eq!(vouching(&leaf(&posing), &[posing.der().clone()]), Some(0));
        assert_eq!(vouching(&leaf(&posing), &[]), None);
        assert_eq!(vouching(&leaf(&root("Two")), &[]), None);
        assert_eq!(vouching(&CertificateDer::from(vec![0x30, 0]), &[]), None);
    }

    #[test]
    fn an_authority_that_has_taken_back_its_word_does_not_vouch() {
        let (one, two) = (root("One"), root("Two"));
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(2_u64),
            revocation_time: rcgen::date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2024, 1, 1),
            next_update: rcgen::date_time_ymd(2124, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&one).unwrap();
        let pem = KeyPair::generate().unwrap().serialize_pem();
        let between = |serial, issuer| {
            let key = KeyPair::from_pem(&pem).unwrap();
            CertifiedIssuer::signed_by(authority("Between", serial), key, issuer).unwrap()
        };
        // One key with two certificates, of which one is revoked.
        let (by_one, by_two) = (between(2, &one), between(3, &two));
        let (leaf, chain) = (leaf(&by_one), [by_one.der().clone(), by_two.der().clone()]);
        let now = UnixTime::now();
        assert_eq!(of(&[&one, &two], &[]).vouching(&leaf, &chain, now), Some(0));
        let authorities = of(&[&one, &two], &[list.der()]);
        assert_eq!(authorities.vouching(&leaf, &chain, now), Some(1));
    }
}
