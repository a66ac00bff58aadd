//! Which sessions are resumed, and which are not.

use rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue,
    Tls13ClientSessionValue,
};
use rustls::{NamedGroup, client};

use super::*;

/// A client's store that offers what it has to whatever server.
#[derive(Debug)]
struct Reckless(ClientSessionMemoryCache);

fn anybody() -> ServerName<'static> {
    ServerName::try_from("anybody").unwrap()
}

impl ClientSessionStore for Reckless {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.0.set_kx_hint(anybody(), group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.0.kx_hint(&anybody())
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.0.set_tls12_session(anybody(), value);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.0.tls12_session(&anybody())
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.0.remove_tls12_session(&anybody());
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.0.insert_tls13_ticket(anybody(), value);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.take_tls13_ticket(&anybody())
    }
}

/// A client that trusts these certificates as they are now, and remembers sessions.
fn reckless(trusted: &[CertificateSettings], tls12: bool) -> Arc<ClientConfig> {
    let mut config = super::client(trusting(trusted), &[], tls12);
    let store = Arc::new(Reckless(ClientSessionMemoryCache::new(64)));
    config.resumption =
        Resumption::store(store).tls12_resumption(client::Tls12Resumption::SessionIdOrTickets);
    Arc::new(config)
}

fn with(tickets: &Tickets, settings: &[CertificateSettings]) -> TlsAcceptor {
    TlsAcceptor::new(&TlsSettings::new(settings.to_vec()), true, true, tickets).unwrap()
}

/// Whether the client's meeting with the server resumes; `None` if they do not meet.
async fn resumes(server: &TlsAcceptor, client: &Arc<ClientConfig>, name: &str) -> Option<bool> {
    meet(server, client, name).await.map(|met| met.resumed)
}

#[tokio::test]
async fn sessions_outlive_reloads_generations_and_the_process() {
    for tls12 in [false, true] {
        let dir = TempDir::new().unwrap();
        let settings = vec![certificate(dir.path(), "a", &["a.test"])];
        let tickets = Tickets::new().unwrap();
        let server = with(&tickets, &settings);
        let client = reckless(&settings, tls12);
        assert_eq!(resumes(&server, &client, "a.test").await, Some(false));
        assert_eq!(resumes(&server, &client, "a.test").await, Some(true));

        // The client does not trust the new one: only by resuming do they meet.
        certificate(dir.path(), "a", &["a.test"]);
        assert_eq!(server.reload().unwrap().changed.len(), 1);
        assert_eq!(resumes(&server, &client, "a.test").await, Some(true));
        // Another generation, in which the listener has one certificate more.
        let more = [settings[0].clone(), certificate(dir.path(), "b", &["b.test"])];
        let server = server.renewed(&TlsSettings::new(more.to_vec()), true, false).unwrap();
        assert_eq!(resumes(&server, &client, "a.test").await, Some(true));
        // A successor with the keys, and one without.
        let keys = serde_json::to_value(tickets.keys()).unwrap();
        let heir = Tickets::succeed(&serde_json::from_value(keys).unwrap()).unwrap();
        assert_eq!(resumes(&with(&heir, &settings), &client, "a.test").await, Some(true));
        let stranger = Tickets::new().unwrap();
        assert_eq!(resumes(&with(&stranger, &settings), &client, "a.test").await, None);
    }
}

#[tokio::test]
async fn a_session_is_not_resumed_under_another_name() {
    for tls12 in [false, true] {
        let dir = TempDir::new().unwrap();
        // Even where both names have the same certificate.
        let settings = vec![certificate(dir.path(), "a", &["a.test", "b.test"])];
        let server = with(&Tickets::new().unwrap(), &settings);
        let client = reckless(&settings, tls12);
        assert_eq!(resumes(&server, &client, "a.test").await, Some(false));
        assert_eq!(resumes(&server, &client, "b.test").await, Some(false));
        assert_eq!(resumes(&server, &client, "b.test").await, Some(true), "it offers what it has");
    }
}

#[tokio::test]
async fn a_listener_takes_no_session_for_which_it_has_another_certificate() {
    for tls12 in [false, true] {
        let dir = TempDir::new().unwrap();
        let a = certificate(dir.path(), "a", &["a.test"]);
        let b = certificate(dir.path(), "b", &["b.test"]);
        let same = certificate(dir.path(), "same", &["a.test"]);
        let trusted = [a.clone(), b.clone(), same.clone()];
        let tickets = Tickets::new().unwrap();
        let first = with(&tickets, std::slice::from_ref(&a));
        let renamed = CertificateSettings { names: vec!["z.test".to_owned()], ..a.clone() };
        for (other, expected) in [
            // The same file, as the one for the name.
            (vec![b.clone(), a.clone()], Some(true)),
            // None for the name: it is shown that of b.test, and goes.
            (vec![b.clone()], None),
            // Another one for the name.
            (vec![same.clone()], Some(false)),
            // The same file, but not for that name any more.
            (vec![renamed.clone()], Some(false)),
        ] {
            let client = reckless(&trusted, tls12);
            let other = with(&tickets, &other);
            assert_eq!(resumes(&first, &client, "a.test").await, Some(false));
            assert_eq!(resumes(&other, &client, "a.test").await, expected);
        }
    }
}

#[tokio::test]
async fn a_ticket_does_not_get_past_the_lowest_version() {
    let dir = TempDir::new().unwrap();
    let settings = vec![certificate(dir.path(), "a", &["a.test"])];
    let tickets = Tickets::new().unwrap();
    let lax = with(&tickets, &settings);
    let mut strict = TlsSettings::new(settings.clone());
    strict.min_version = TlsVersion::Tls13;
    let strict = TlsAcceptor::new(&strict, true, true, &tickets).unwrap();

    let old = reckless(&settings, true);
    assert_eq!(resumes(&lax, &old, "a.test").await, Some(false));
    assert_eq!(resumes(&lax, &old, "a.test").await, Some(true));
    assert_eq!(resumes(&strict, &old, "a.test").await, None);

    // What began with TLS 1.2 is not resumed with 1.3, even by a client that would.
    let mut both = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .unwrap()
        .with_root_certificates(trusting(&settings))
        .with_no_client_auth();
    both.resumption = old.resumption.clone();
    let met = meet(&strict, &Arc::new(both), "a.test").await.unwrap();
    assert_eq!((met.resumed, met.facts.version), (false, "TLSv1_3"));
    // What began with TLS 1.3 is taken by both.
    let new = reckless(&settings, false);
    assert_eq!(resumes(&lax, &new, "a.test").await, Some(false));
    assert_eq!(resumes(&strict, &new, "a.test").await, Some(true));
}
