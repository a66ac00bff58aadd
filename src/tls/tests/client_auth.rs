//! Clients that show certificates.

use std::path::PathBuf;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use rustls::client::ResolvesClientCert;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::*;
use crate::context::SubjectName;

/// Who vouches for clients.
struct Issuer(CertifiedIssuer<'static, KeyPair>);

/// A client's certificate with its key.
struct Shown {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Issuer {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn client(&self, serial: u64) -> Shown {
        self.signed(serial, |_| {})
    }

    fn signed(&self, serial: u64, change: impl FnOnce(&mut CertificateParams)) -> Shown {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Example, Inc.");
        params.distinguished_name.push(DnType::CommonName, format!("client-{serial}"));
        params.serial_number = Some(SerialNumber::from(serial));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        Shown { chain: vec![certificate.der().clone()], key }
    }

    /// A list that says what is revoked, from so many days from now until so many.
    fn list(&self, revoked: &[u64], from: i64, until: i64) -> String {
        let one = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: in_days!(from),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: in_days!(from),
            next_update: in_days!(until),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(one).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.0).unwrap().pem().unwrap()
    }
}

/// A folder with the certificate of a listener, and the files by which it judges clients.
struct Place {
    dir: TempDir,
    certificates: Vec<CertificateSettings>,
}

impl Place {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let certificates = vec![certificate(dir.path(), "a", &["a.test"])];
        Self { dir, certificates }
    }

    fn write(&self, file: &str, content: impl AsRef<str>) -> PathBuf {
        let path = self.dir.path().join(file);
        std::fs::write(&path, content.as_ref()).unwrap();
        path
    }

    /// Settings by which these issuers vouch for clients.
    fn trusting(&self, issuers: &[&Issuer], mode: ClientAuthMode) -> TlsSettings {
        let bundle: String = issuers.iter().map(|issuer| issuer.0.pem()).collect();
        let name = format!("ca-{}.pem", issuers.len());
        let clients =
            ClientAuthSettings { mode, ..ClientAuthSettings::new(self.write(&name, bundle)) };
        TlsSettings { client_auth: Some(clients), ..TlsSettings::new(self.certificates.clone()) }
    }

    fn client(&self, shown: Option<&Shown>, tls12: bool) -> Arc<ClientConfig> {
        let mut config = super::client(trusting(&self.certificates), &[], tls12);
        if let Some(Shown { chain, key }) = shown {
            let key = aws_lc_rs::sign::any_supported_type(key).unwrap();
            let certified = rustls::sign::CertifiedKey::new(chain.clone(), key);
            config.client_auth_cert_resolver = Arc::new(Always(Arc::new(certified)));
        }
        Arc::new(config)
    }
}

/// Shows its certificate whoever the server trusts.
#[derive(Debug)]
struct Always(Arc<rustls::sign::CertifiedKey>);

impl ResolvesClientCert for Always {
    fn resolve(
        &self,
        _: &[&[u8]],
        _: &[rustls::SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// What the listener makes of a client: the common name of its certificate, if it shows
/// one, or why there is no connection.
async fn judged(
    server: &TlsAcceptor,
    client: &Arc<ClientConfig>,
) -> Result<Option<String>, &'static str> {
    let (accepted, _) = handshake(server, (**client).clone(), "a.test").await;
    match accepted {
        Ok((facts, _)) => {
            Ok(facts.client.map(|one| one.common_name.as_deref().unwrap().to_owned()))
        }
        Err(error) => Err(error.reason()),
    }
}

#[tokio::test]
async fn what_a_client_shows_is_known_of_its_connection() {
    let (place, issuer) = (Place::new(), Issuer::new("Clients"));
    let server = acceptor(&place.trusting(&[&issuer], ClientAuthMode::Require)).unwrap();
    let shown = issuer.signed(0xABC, |params| {
        params.subject_alt_names = vec![
            SanType::DnsName("Web.Clients.test".try_into().unwrap()),
            SanType::URI("spiffe://test/ns/a/sa/Web".try_into().unwrap()),
            SanType::Rfc822Name("Ops@clients.test".try_into().unwrap()),
            SanType::IpAddress("2001:db8::1".parse().unwrap()),
            SanType::URI("not plain".try_into().unwrap()),
        ];
    });
    for tls12 in [false, true] {
        let client = place.client(Some(&shown), tls12);
        let facts = meet(&server, &client, "a.test").await.unwrap().facts;
        let known = facts.client.unwrap();
        assert_eq!(&*known.subject, "CN=client-2748,O=Example\\, Inc.");
        assert_eq!(known.common_name.as_deref(), Some("client-2748"));
        assert_eq!((&*known.issuer, &*known.serial), ("CN=Clients", "abc"));
        let names: Vec<_> = known.names.iter().map(SubjectName::to_string).collect();
        let expected = [
            "dns:web.clients.test",
            "uri:spiffe://test/ns/a/sa/Web",
            "email:Ops@clients.test",
            "ip:2001:db8::1",
        ];
        assert_eq!(names, expected);
        assert_eq!(known.sha256.len(), 64);
        assert_eq!(*known.chain[0], *shown.chain[0]);
        assert!(known.not_after > now());
    }
}

#[tokio::test]
async fn who_has_no_good_certificate_is_let_in_only_without_one_and_only_where_it_is_optional() {
    let (place, issuer, stranger) = (Place::new(), Issuer::new("Clients"), Issuer::new("Clients"));
    let good = issuer.client(1);
    let expired = issuer.signed(2, |params| {
        (params.not_before, params.not_after) = (in_days!(-9), in_days!(-1));
    });
    let early = issuer.signed(3, |params| params.not_before = in_days!(1));
    let servers = issuer.signed(4, |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    // The name of the right issuer does not make it the right one.
    let forged = stranger.client(5);
    // Nor does the listener's own certificate.
    let own = Shown {
        chain: crate::pem::read_certificates(&place.certificates[0].certificate).unwrap(),
        key: crate::pem::read_key(&place.certificates[0].key).unwrap(),
    };
    for tls12 in [false, true] {
        for mode in [ClientAuthMode::Require, ClientAuthMode::Request] {
            let server = acceptor(&place.trusting(&[&issuer], mode)).unwrap();
            let judged = async |shown| judged(&server, &place.client(shown, tls12)).await;
            assert_eq!(judged(Some(&good)).await, Ok(Some("client-1".to_owned())));
            let without = judged(None).await;
            match mode {
                ClientAuthMode::Require => assert_eq!(without, Err("no_client_certificate")),
                ClientAuthMode::Request => assert_eq!(without, Ok(None)),
            }
            for bad in [&expired, &early, &servers, &forged, &own] {
                assert_eq!(judged(Some(bad)).await, Err("client_certificate"), "{tls12} {mode:?}");
            }
        }
        // Nobody is asked, nothing is known.
        let server = acceptor(&TlsSettings::new(place.certificates.clone())).unwrap();
        assert_eq!(judged(&server, &place.client(Some(&good), tls12)).await, Ok(None));
    }
}

#[tokio::test]
async fn what_is_revoked_is_refused_and_so_is_what_no_list_tells_of() {
    let (place, issuer, other) = (Place::new(), Issuer::new("One"), Issuer::new("Other"));
    let mut settings = place.trusting(&[&issuer, &other], ClientAuthMode::Request);
    let revoking = |settings: &mut TlsSettings, files, unknown| {
        let auth = settings.client_auth.as_mut().unwrap();
        (auth.revoked, auth.unknown_revocation) = (files, unknown);
        acceptor(settings).unwrap()
    };
    let [one, two] = [1, 2].map(|serial| place.client(Some(&issuer.client(serial)), false));
    let elsewhere = place.client(Some(&other.client(1)), false);
    let list = place.write("one.crl", issuer.list(&[1], -1, 1));
    let ok = |name: &str| Ok(Some(name.to_owned()));

    let server = revoking(&mut settings, vec![list.clone()], UnknownRevocation::Refuse);
    assert_eq!(judged(&server, &one).await, Err("client_certificate"));
    assert_eq!(judged(&server, &two).await, ok("client-2"));
    assert_eq!(judged(&server, &elsewhere).await, Err("client_certificate"));
    assert_eq!(judged(&server, &place.client(None, false)).await, Ok(None));
    let server = revoking(&mut settings, vec![list], UnknownRevocation::Accept);
    assert_eq!(judged(&server, &one).await, Err("client_certificate"));
    assert_eq!(judged(&server, &elsewhere).await, ok("client-1"));

    // One whose successor is due tells nothing, or what was revoked by then.
    let old = place.write("old.crl", issuer.list(&[1], -2, -1));
    let server = revoking(&mut settings, vec![old.clone()], UnknownRevocation::Refuse);
    assert_eq!(judged(&server, &two).await, Err("client_certificate"));
    let server = revoking(&mut settings, vec![old.clone()], UnknownRevocation::Accept);
    assert_eq!(judged(&server, &one).await, Err("client_certificate"));
    assert_eq!(judged(&server, &two).await, ok("client-2"));
    // Of two lists the newer one counts, wherever it stands.
    let new = place.write("new.crl", issuer.list(&[2], -1, 1));
    for lists in [vec![old.clone(), new.clone()], vec![new.clone(), old]] {
        let server = revoking(&mut settings, lists, UnknownRevocation::Refuse);
        assert_eq!(judged(&server, &one).await, ok("client-1"));
        assert_eq!(judged(&server, &two).await, Err("client_certificate"));
    }
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let (place, issuer) = (Place::new(), Issuer::new("One"));
    let mut settings = place.trusting(&[&issuer], ClientAuthMode::Require);
    let cases = [
        ("", "holds no certificate"),
        ("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n", "certificate 1 in"),
    ];
    let ca = settings.client_auth.as_ref().unwrap().ca.clone();
    for (content, says) in cases {
        std::fs::write(&ca, content).unwrap();
        let error = acceptor(&settings).unwrap_err().to_string();
        assert!(error.contains(says) && error.contains("ca-1.pem"), "{error}");
    }
    std::fs::remove_file(&ca).unwrap();
    let auth = settings.client_auth.as_mut().unwrap();
    auth.revoked = vec![
        place.write("none.crl", "nothing"),
        place.write("bad.crl", "-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n"),
    ];
    let error = acceptor(&settings).unwrap_err();
    assert_eq!(error.problems().len(), 3, "{error}");
    for says in ["ca-1.pem", "none.crl holds no revocation list", "revocation list 1 in"] {
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[tokio::test]
async fn another_bundle_counts_from_the_next_connection_and_a_broken_one_does_not() {
    let (place, old, new) = (Place::new(), Issuer::new("Old"), Issuer::new("New"));
    let settings = place.trusting(&[&old], ClientAuthMode::Require);
    let server = acceptor(&settings).unwrap();
    let clients = [&old, &new].map(|issuer| place.client(Some(&issuer.client(1)), false));
    let ca = settings.client_auth.as_ref().unwrap().ca.clone();
    assert_eq!(server.files().len(), 3);
    assert!(server.files().contains(&ca));
    assert!(server.reload().unwrap().is_unchanged());
    let before = server.client_auth();

    std::fs::write(&ca, &new.0.pem()[..100]).unwrap();
    assert!(server.reload().unwrap_err().to_string().contains("ca-1.pem"));
    assert!(server.has_failed());
    assert!(server.renewed(&settings, true, true).is_err());
    assert_eq!(server.client_auth(), before);
    assert_eq!(judged(&server, &clients[0]).await, Ok(Some("client-1".to_owned())));

    std::fs::write(&ca, new.0.pem()).unwrap();
    assert_eq!(judged(&server, &clients[1]).await, Err("client_certificate"), "not yet read");
    let renewed = server.renewed(&settings, true, true).unwrap();
    let reloaded = server.reload().unwrap();
    assert!(reloaded.clients && reloaded.changed.is_empty());
    assert!(!server.has_failed());
    for server in [&server, &renewed] {
        assert_eq!(judged(server, &clients[0]).await, Err("client_certificate"));
        assert_eq!(judged(server, &clients[1]).await, Ok(Some("client-1".to_owned())));
    }
    let in_use = server.in_use();
    assert_eq!((&in_use[1].0, &in_use[1].1), (&ca, &server.client_auth()[0].sha256));
}

#[tokio::test]
async fn a_list_out_of_date_does_not_take_the_place_of_a_good_one() {
    let (place, issuer) = (Place::new(), Issuer::new("One"));
    let mut settings = place.trusting(&[&issuer], ClientAuthMode::Require);
    let list = place.write("a.crl", issuer.list(&[], -1, 1));
    settings.client_auth.as_mut().unwrap().revoked = vec![list.clone()];
    let server = acceptor(&settings).unwrap();
    std::fs::write(&list, issuer.list(&[1], -9, -1)).unwrap();
    let error = server.reload().unwrap_err().to_string();
    assert!(error.contains("a.crl was due at "), "{error}");
    let one = place.client(Some(&issuer.client(1)), false);
    assert_eq!(judged(&server, &one).await, Ok(Some("client-1".to_owned())));
    // At the start, and after one that is no better, it is taken.
    assert!(acceptor(&settings).unwrap().reload().unwrap().is_unchanged());
    std::fs::write(&list, issuer.list(&[1], -1, 1)).unwrap();
    assert!(server.reload().unwrap().clients);
    assert_eq!(judged(&server, &one).await, Err("client_certificate"));
}

#[test]
fn what_clients_are_judged_by_is_watched_over() {
    use super::super::watch::{Outlook, Watch};
    let (place, issuer) = (Place::new(), Issuer::new("One"));
    let mut settings = place.trusting(&[&issuer], ClientAuthMode::Require);
    let list = place.write("a.crl", issuer.list(&[], -2, 7));
    settings.client_auth.as_mut().unwrap().revoked = vec![list.clone()];
    let in_use = vec![(Arc::from("public"), acceptor(&settings).unwrap())];
    let (metrics, mut watch) = (crate::observe::Metrics::default(), Watch::default());
    let due = in_use[0].1.client_auth()[1].not_after_seconds;
    let mut look = |at| watch.look(&in_use, &metrics, at);
    assert_eq!(look(due - 3 * DAY), []);
    assert_eq!(look(due - 3 * DAY + 60), [Outlook::Ends(3 * DAY - 60)]);
    assert_eq!(look(due - 3 * DAY + 120), []);
    assert_eq!(look(due + DAY), [Outlook::Expired]);
    let line = format!("{{listener=\"public\",certificate=\"{}\"}} {due}\n", list.display());
    assert!(metrics.render().contains(&line), "{line}");
}

#[tokio::test]
async fn a_session_is_resumed_with_the_client_that_began_it() {
    let (place, issuer) = (Place::new(), Issuer::new("One"));
    for (tls12, mode) in [
        (false, ClientAuthMode::Require),
        (false, ClientAuthMode::Request),
        (true, ClientAuthMode::Require),
        (true, ClientAuthMode::Request),
    ] {
        let server = acceptor(&place.trusting(&[&issuer], mode)).unwrap();
        let client = place.client(Some(&issuer.client(7)), tls12);
        let mut known = Vec::new();
        for resumed in [false, true, true] {
            let met = meet(&server, &client, "a.test").await.unwrap();
            assert_eq!(met.resumed, resumed, "{tls12} {mode:?}");
            known.push(met.facts.client.unwrap());
        }
        assert_eq!(known[0].common_name.as_deref(), Some("client-7"));
        assert!(known.windows(2).all(|pair| pair[0] == pair[1]));
        // A reload that changes nothing ends no session; another generation neither.
        assert!(server.reload().unwrap().is_unchanged());
        let next = server.renewed(server.settings(), true, false).unwrap();
        assert!(meet(&next, &client, "a.test").await.unwrap().resumed);
        // Nor does one that had nothing to show in it show it later.
        if mode == ClientAuthMode::Request {
            let nobody = place.client(None, tls12);
            for resumed in [false, true] {
                let met = meet(&server, &nobody, "a.test").await.unwrap();
                assert_eq!((met.resumed, met.facts.client), (resumed, None));
            }
        }
    }
}

/// How a client that has a session with the first listener gets on with the second:
/// resumed or not, and as whom; `None` if not at all.
async fn moves(
    place: &Place,
    shown: Option<&Shown>,
    from: &TlsAcceptor,
    to: &TlsAcceptor,
    tls12: bool,
) -> Option<(bool, Option<String>)> {
    let client = place.client(shown, tls12);
    assert!(!meet(from, &client, "a.test").await.unwrap().resumed);
    let met = meet(to, &client, "a.test").await?;
    let name = met.facts.client.as_ref().and_then(|one| one.common_name.as_deref());
    Some((met.resumed, name.map(str::to_owned)))
}

#[tokio::test]
async fn no_session_leads_to_where_clients_are_judged_otherwise() {
    let (place, issuer, other) = (Place::new(), Issuer::new("One"), Issuer::new("Other"));
    let shown = issuer.client(1);
    let named = || Some((false, Some("client-1".to_owned())));
    for tls12 in [false, true] {
        let tickets = Tickets::new().unwrap();
        let with =
            |settings: &TlsSettings| TlsAcceptor::new(settings, true, true, &tickets).unwrap();
        let open = with(&TlsSettings::new(place.certificates.clone()));
        let require = with(&place.trusting(&[&issuer], ClientAuthMode::Require));
        let request = with(&place.trusting(&[&issuer], ClientAuthMode::Request));
        let both = with(&place.trusting(&[&issuer, &other], ClientAuthMode::Require));
        let list = place.write("a.crl", issuer.list(&[], -1, 1));
        let mut revoking = place.trusting(&[&issuer], ClientAuthMode::Require);
        revoking.client_auth.as_mut().unwrap().revoked = vec![list];
        let revoking = with(&revoking);

        // Whoever showed nothing gets no further by what it has (CVE-2025-23419).
        for from in [&open, &request] {
            for to in [&require, &both, &revoking] {
                assert_eq!(moves(&place, None, from, to, tls12).await, None);
                assert_eq!(moves(&place, Some(&shown), from, to, tls12).await, named());
            }
        }
        assert_eq!(moves(&place, None, &open, &request, tls12).await, Some((false, None)));
        // Whoever showed something is looked at again.
        let all = [&require, &request, &both, &revoking];
        for (at, from) in all.iter().enumerate() {
            for (other, to) in all.iter().enumerate() {
                let (resumed, name) = moves(&place, Some(&shown), from, to, tls12).await.unwrap();
                assert_eq!((resumed, name.as_deref()), (at == other, Some("client-1")));
            }
            let back = moves(&place, Some(&shown), from, &open, tls12).await;
            assert_eq!(back, Some((false, None)));
        }
    }
}

#[tokio::test]
async fn no_session_outlives_another_bundle_or_a_revocation() {
    let (place, issuer, other) = (Place::new(), Issuer::new("One"), Issuer::new("Other"));
    for tls12 in [false, true] {
        let mut settings = place.trusting(&[&issuer], ClientAuthMode::Require);
        let list = place.write("a.crl", issuer.list(&[], -2, 1));
        let auth = settings.client_auth.as_mut().unwrap();
        auth.revoked = vec![list.clone()];
        let ca = auth.ca.clone();
        let server = acceptor(&settings).unwrap();
        let clients = [1, 2].map(|serial| place.client(Some(&issuer.client(serial)), tls12));
        let resumed = async |client| meet(&server, client, "a.test").await.map(|met| met.resumed);
        for client in &clients {
            assert_eq!(resumed(client).await, Some(false));
            assert_eq!(resumed(client).await, Some(true));
        }
        std::fs::write(&list, issuer.list(&[1], -1, 1)).unwrap();
        assert!(server.reload().unwrap().clients);
        assert_eq!(resumed(&clients[0]).await, None, "it is revoked");
        assert_eq!(resumed(&clients[1]).await, Some(false));
        assert_eq!(resumed(&clients[1]).await, Some(true));
        std::fs::write(&ca, other.0.pem()).unwrap();
        assert!(server.reload().unwrap().clients);
        assert_eq!(resumed(&clients[1]).await, None, "nobody vouches for it any more");
    }
}
