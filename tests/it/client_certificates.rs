//! Listeners that ask clients for certificates.

use rustls::HandshakeKind;
use tollgate::admin::Operator;

use crate::support::certs::{Authority, connect, showing};
use crate::support::client::Raw;
use crate::support::mutual::{Mutual, ask};
use crate::support::{eventually, within};

#[tokio::test]
async fn who_shows_no_good_certificate_gets_an_alert() {
    within(async {
        let mutual = Mutual::start("crl = [\"clients.crl\"]", "").await;
        let good = mutual.pair("web", 1);
        assert!(mutual.is_let_in(Some(&good)).await);
        assert!(mutual.ask(None).await.is_none());
        assert!(mutual.has_failed("no_client_certificate").await);
        assert!(!mutual.failures("client_certificate").await);
        let stranger = Authority::of_clients("Clients").client_signed("web", "Example", 1, |_| {});
        assert!(mutual.ask(Some(&stranger)).await.is_none());
        assert!(mutual.has_failed("client_certificate").await);
        let expired = mutual.clients.client_signed("web", "Example", 2, |params| {
            params.not_after = rcgen::date_time_ymd(2024, 1, 1);
            params.not_before = rcgen::date_time_ymd(2023, 1, 1);
        });
        assert!(mutual.ask(Some(&expired)).await.is_none());
        // A client of TLS 1.2 learns it in the handshake.
        let old = mutual.servers.client_of(&["http/1.1"], &[&rustls::version::TLS12]);
        for config in [old.clone(), showing(old.clone(), &stranger)] {
            let refused = connect(mutual.proxy.address, config, "a.test").await.unwrap_err();
            assert!(refused.to_string().contains("alert"), "{refused}");
        }
        assert_eq!(ask(mutual.proxy.address, showing(old, &good)).await.unwrap().1.status, 200);

        let lines = mutual.proxy.log_lines(2).await;
        assert_eq!(lines.len(), 2, "a handshake that fails is no exchange");
        let line: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(line["client_subject"], "CN=web,O=Example");
        let fingerprint = line["client_fingerprint"].as_str().unwrap();
        assert_eq!(fingerprint.len(), "sha256:".len() + 64);
    })
    .await;
}

#[tokio::test]
async fn who_is_turned_away_learns_why_although_it_has_spoken_already() {
    within(async {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mutual = Mutual::start("", "").await;
        for _ in 0..20 {
            let config = mutual.client(None);
            let mut stream = connect(mutual.proxy.address, config, "a.test").await.unwrap();
            let request =
                format!("GET / HTTP/1.1\r\nHost: a.test\r\nX: {}\r\n\r\n", "x".repeat(9_000));
            // The end may be there before all is sent.
            let _sent = stream.write_all(request.as_bytes()).await;
            let _sent = stream.flush().await;
            let error = stream.read(&mut [0; 100]).await.unwrap_err();
            assert!(error.to_string().contains("CertificateRequired"), "{error}");
        }
    })
    .await;
}

#[tokio::test]
async fn where_it_is_optional_one_that_is_shown_has_to_be_good() {
    within(async {
        let mutual = Mutual::start("mode = \"request\"", "").await;
        assert!(mutual.is_let_in(None).await);
        assert!(mutual.is_let_in(Some(&mutual.pair("web", 1))).await);
        let stranger = Authority::of_clients("Clients").client_signed("web", "Example", 1, |_| {});
        assert!(mutual.ask(Some(&stranger)).await.is_none());
    })
    .await;
}

#[tokio::test]
async fn another_bundle_and_another_revocation_list_are_followed() {
    within(async {
        let mutual = Mutual::start("crl = [\"clients.crl\"]", "").await;
        let (one, two) = (mutual.pair("one", 1), mutual.pair("two", 2));
        let mut open = Raw::over(
            connect(mutual.proxy.address, mutual.client(Some(&one)), "a.test").await.unwrap(),
        );
        assert!(mutual.is_let_in(Some(&one)).await);

        mutual.replace("clients.crl", &mutual.clients.revoking(&[1]));
        eventually("what is revoked is refused", async || !mutual.is_let_in(Some(&one)).await)
            .await;
        assert!(mutual.is_let_in(Some(&two)).await);

        mutual.replace("clients.pem", "no certificate");
        let failed = "tollgate_certificate_last_reload_ok{listener=\"public\"} 0";
        eventually("the metric tells", async || mutual.metrics().await.contains(failed)).await;
        assert!(mutual.is_let_in(Some(&two)).await, "the last good bundle is kept");
        assert!(!mutual.is_let_in(Some(&one)).await);

        let next = Authority::of_clients("Next");
        let three = next.client_signed("three", "Example", 3, |_| {});
        mutual.replace(
            "clients.crl",
            &format!("{}{}", mutual.clients.revoking(&[1]), next.revoking(&[])),
        );
        mutual.replace("clients.pem", &next.pem());
        eventually("the new bundle counts", async || mutual.is_let_in(Some(&three)).await).await;
        assert!(!mutual.is_let_in(Some(&two)).await);
        // Who is there stays.
        open.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        assert_eq!(open.answer().await.status, 200);
        // Nothing but certificates has changed.
        assert_eq!(mutual.proxy.control.status().generation, 1);
    })
    .await;
}

#[tokio::test]
async fn no_session_leads_from_a_listener_that_asks_nobody_to_one_that_does() {
    within(async {
        let open = "[[listener]]\nname = \"open\"\naddress = \"127.0.0.1:0\"\n[listener.tls]\n\
                    certificates = [{ certificate = \"a.crt\", key = \"a.key\" }]";
        let mutual = Mutual::start("", open).await;
        let (strict, open) = (mutual.proxy.address, mutual.proxy.listeners.addresses("open")[0]);
        for versions in [&[&rustls::version::TLS13], &[&rustls::version::TLS12]] {
            // Clones of a client share their sessions.
            let nobody = mutual.servers.client_of(&["http/1.1"], versions);
            let kind = async |address| Some(ask(address, nobody.clone()).await?.0);
            assert_eq!(kind(open).await, Some(HandshakeKind::Full));
            assert_eq!(kind(open).await, Some(HandshakeKind::Resumed));
            assert_eq!(kind(strict).await, None);

            let somebody =
                showing(mutual.servers.client_of(&["http/1.1"], versions), &mutual.pair("web", 1));
            let kind = async |address| ask(address, somebody.clone()).await.unwrap().0;
            assert_eq!(kind(open).await, HandshakeKind::Full);
            assert_eq!(kind(strict).await, HandshakeKind::Full);
            assert_eq!(kind(strict).await, HandshakeKind::Resumed);
            assert_eq!(kind(open).await, HandshakeKind::Full);
        }
    })
    .await;
}
